"""Runs the engine's steps, in a thread of its own or in the event loop, and measures how busy it is with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import numpy as np

from speech_qc.engine.entry import Entry, Member
from speech_qc.engine.protocols import FloatArray, Lane, StepScores
from speech_qc.engine.step import Stepper

LOAD_S = 0.5
"""Time over which the load is averaged, seconds."""


@dataclass(slots=True)
class Step:
    """One step, from its start until its results are delivered."""

    lane: Lane
    entries: list[Entry]
    started_s: float
    scores: asyncio.Future[StepScores]
    ended_s: float = 0.0

    @property
    def step_s(self) -> float:
        """Seconds that it took."""
        return self.ended_s - self.started_s


class Device:
    """Runs one step at a time; used from one event loop.

    Args:
        steps: Runs the steps; from now on used by this device only.
        in_loop: Run them in the event loop.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, steps: Stepper, *, in_loop: bool, clock: Callable[[], float]) -> None:
        self._steps, self._clock = steps, clock
        self._thread = None if in_loop else ThreadPoolExecutor(max_workers=1, thread_name_prefix="speechqc-device")
        self.load = 0.0
        """Share of the recent time in which a step was running."""
        self._load_until_s = clock()

    @property
    def in_loop(self) -> bool:
        """Whether steps run in the event loop."""
        return self._thread is None

    async def warm_up(self, lanes: Sequence[Lane]) -> None:
        """Warm up all lanes; in a thread even if steps run in the event loop, which another engine may be using."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._steps.warm_up, lanes)

    def begin(self, lane: Lane, entries: list[Entry]) -> Step:
        """Start a step in the thread, or run it here if there is none."""
        started_s = self._clock()
        loop = asyncio.get_running_loop()
        slots = [entry.slot for entry in entries]
        try:
            samples = _chunks(entries)
            if self._thread is not None:
                scores = loop.run_in_executor(self._thread, self._steps.run, lane, slots, samples)
                return Step(lane, entries, started_s, scores)
            scores = loop.create_future()
            scores.set_result(self._steps.run(lane, slots, samples))
        except Exception as error:
            scores = loop.create_future()
            scores.set_exception(error)
        return Step(lane, entries, started_s, scores)

    async def wait(self, step: Step, limit_s: float) -> bool:
        """Wait until a step has ended; return False if it takes longer than the limit."""
        try:
            if step.scores.done():
                step.ended_s = self._clock()
                await asyncio.sleep(0)  # let the event loop receive the next chunks
            else:
                await asyncio.wait({step.scores}, timeout=limit_s)
        finally:
            finished = not step.scores.cancel()  # False for a step that is done; otherwise its result is discarded
        if finished:
            step.ended_s = step.ended_s or self._clock()
            self._note_load(step)
        return finished

    def shutdown(self) -> None:
        """Let the thread end. If the device hangs, waiting for it would never end."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _note_load(self, step: Step) -> None:
        """Average the share of the time in which steps run."""
        elapsed_s, self._load_until_s = step.ended_s - self._load_until_s, step.ended_s
        if elapsed_s > 0.0:
            self.load += (min(1.0, step.step_s / elapsed_s) - self.load) * min(1.0, elapsed_s / LOAD_S)


def _chunks(entries: Sequence[Entry]) -> FloatArray | list[FloatArray]:
    """Return the samples of a step: [B, n] if sessions cut them, which must happen in the event loop."""
    samples = [cast(Member, entry.reply).cut() if entry.samples is None else entry.samples for entry in entries]
    if any(entry.samples is None for entry in entries):
        return np.concatenate(samples).reshape(len(samples), -1)
    return samples
