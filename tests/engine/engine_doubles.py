"""Small real implementations for the engine's tests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import numpy as np

from speech_qc.contract import FeatureSpec
from speech_qc.engine import EchoRunner, Engine, Lane, Stepper

LIVE = Lane("live", hops=10, priority=0)
FLUSH = Lane("flush", hops=2, priority=1)
UPLOAD = Lane("upload", hops=40, priority=2)
LANES = [UPLOAD, LIVE, FLUSH]  # not sorted by priority

SPEC = FeatureSpec()
BOUNDS = ("capacity", "max_batch", "pad_to_bucket", "read_out")  # of the stepper
PATIENCE_S = 10.0  # a hanging test fails after this time


class ManualClock:
    """A clock that advances only when the test advances it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class RecordingObserver:
    """Records all calls."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int]] = []
        self.queue_s: list[list[float]] = []
        self.step_s: list[float] = []
        self.drops: list[str] = []
        self.refusals: list[str] = []
        self.deaths: list[str] = []

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        self.steps.append((lane, batch))
        self.queue_s.append(list(queue_s))
        self.step_s.append(step_s)

    def on_drop(self, reason: str) -> None:
        self.drops.append(reason)

    def on_refusal(self, reason: str) -> None:
        self.refusals.append(reason)

    def on_death(self, message: str) -> None:
        self.deaths.append(message)


class FailingRunner(EchoRunner):
    """An echo runner that raises in the steps with these numbers (from 0, without the warm-up)."""

    def __init__(self, failing: Sequence[int]) -> None:
        super().__init__()
        self.failing = set(failing)
        self.calls = 0

    def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        number, self.calls = self.calls, self.calls + 1
        if number in self.failing:
            state += 1000.0  # a step that fails midway must not leave traces
            raise OSError("device lost")
        return super().run(features, state)


class GatedRunner(EchoRunner):
    """An echo runner whose steps wait in the device thread until the gate is open."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.shapes: list[tuple[int, int]] = []

    def run(self, features: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.shapes.append(features.shape[:2])
        self.entered.set()
        if not self.gate.wait(PATIENCE_S):
            raise TimeoutError("the test never opened the gate")
        return super().run(features, state)

    async def in_flight(self) -> None:
        """Wait until a step has reached the runner."""
        assert await asyncio.to_thread(self.entered.wait, PATIENCE_S)


def plain_front_end(samples: np.ndarray) -> np.ndarray:
    """Convert samples [B, n] to features [B, T, F]: column c of hop k is the hop's first sample plus c / 10."""
    hops = (samples.shape[1] - SPEC.overlap_samples) // SPEC.hop_samples
    first = samples[:, : hops * SPEC.hop_samples : SPEC.hop_samples]  # [B, T]
    return (first[:, :, np.newaxis] + np.arange(SPEC.columns) / 10).astype(np.float32)


def chunk(value: float, lane: Lane = LIVE) -> np.ndarray:
    """Return one chunk of the lane in which every sample has this value."""
    return np.full(lane.hops * SPEC.hop_samples + SPEC.overlap_samples, value, np.float32)


def random_chunks(seed: int, count: int, lane: Lane = LIVE) -> list[np.ndarray]:
    """Cut `count` chunks out of noise, with the overlap of stream chunks."""
    step = lane.hops * SPEC.hop_samples
    noise = np.random.default_rng(seed).normal(-8.0, 3.0, count * step + SPEC.overlap_samples).astype(np.float32)
    return [noise[k * step : (k + 1) * step + SPEC.overlap_samples] for k in range(count)]


@contextlib.asynccontextmanager
async def running(runner: EchoRunner | None = None, **options: Any) -> AsyncIterator[Engine]:
    """Start an engine with small limits and stop it at the end."""
    settings: dict[str, Any] = {"lanes": LANES, "capacity": 8, "max_batch": 4, "max_queue": 8} | options
    bounds = {name: settings.pop(name) for name in BOUNDS if name in settings}
    steps = Stepper(runner or EchoRunner(), settings.pop("front_end", plain_front_end), **bounds)
    engine = Engine(steps, **settings)
    await engine.start()
    try:
        yield engine
    finally:
        if isinstance(runner, GatedRunner):
            runner.gate.set()
        await engine.stop()


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run an asynchronous test with a time-out."""
    asyncio.run(asyncio.wait_for(test, 2 * PATIENCE_S))


async def outcome(future: asyncio.Future[Any]) -> BaseException | None:
    """Wait for a future; return its exception, or None."""
    await asyncio.wait({future}, timeout=PATIENCE_S)
    assert future.done(), "the future was left pending"
    return future.exception()
