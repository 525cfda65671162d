"""Interfaces of the engine: model runner, front end and observer.

Separate from `speech_qc.engine.runner`, so that the dispatcher and its tests do not need ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from speech_qc.contract import ModelContract

FloatArray = npt.NDArray[np.float32]

FrontEnd = Callable[[FloatArray], FloatArray]
"""Converts samples float32 [B, n] to features float32 [B, T, F]; rows are independent; called in the device thread."""

ReadOut = Callable[[FloatArray, FloatArray], Iterable[Any]]
"""Computes one additional result per row from samples float32 [B, n] and scores float32 [B, T / hops_per_frame, C],
both finite; called in the thread that runs the step."""


def no_readings(samples: FloatArray, scores: FloatArray) -> Iterable[None]:  # noqa: ARG001  # a ReadOut
    """Return None for every row."""
    return [None] * len(scores)


@dataclass(frozen=True, slots=True)
class Lane:
    """A class of entries of one size; only entries of the same lane can share a step.

    Args:
        name: Name for callers and metrics.
        hops: T of every entry in this lane.
        priority: Lower is served first; unique among lanes.
        most: Maximum entries at the same time; None if only the engine limits them.
        collect_s: Longest time that a step of this lane waits for more entries, if the device is always busy.
    """

    name: str
    hops: int
    priority: int
    most: int | None = None
    collect_s: float = 0.0


class StepScores(NamedTuple):
    """Results of one step."""

    scores: FloatArray
    """float32 [B, T / hops_per_frame, C]."""
    usable: npt.NDArray[np.bool_]
    """[B]; False if a row is not finite and so unusable; its state is unchanged."""
    input_finite: npt.NDArray[np.bool_]
    """[B]; False if the samples of a row were not finite."""
    readings: Iterable[Any]
    """One per row, from `read_out`."""
    features_s: float
    """Seconds of the step spent on features."""


DropReason = Literal["cancelled", "deadline"]
"""Why an accepted entry was never run."""

RefusalReason = Literal["sessions", "queue", "draining", "dead"]
"""Why a session or entry was refused: no free slot, queue full, server draining, engine dead."""


class Model(Protocol):
    """A loaded model, as seen by code that only describes it."""

    @property
    def contract(self) -> ModelContract:
        """What the model declares about itself."""

    @property
    def provider(self) -> str:
        """Name of the execution provider that actually runs the steps."""

    @property
    def provider_fallback(self) -> bool:
        """Whether a better provider was requested but is not available."""

    @property
    def sha256(self) -> str:
        """Hex digest of the model file; identifies the model in every response."""

    @property
    def fixed_shapes(self) -> bool:
        """Whether a new (B, T) is expensive, so that batches should be padded to a warmed bucket.

        If False, warm-up only checks the model and allocates memory, see `Stepper.warm_up`.
        """


class Runner(Model, Protocol):
    """A loaded model that keeps no state itself; calls may overlap only if `fixed_shapes` is False."""

    def run(self, features: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Run one step.

        Args:
            features: float32 [B, T, F].
            state: float32 [B, S]; zeros for a new stream. Not modified.

        Returns:
            scores float32 [B, T / hops_per_frame, C] and new_state float32 [B, S]; the caller owns both.

        Raises:
            InferenceError: The step failed; nothing was changed.
        """

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Run every (B, T) once, so that none of them is new when audio arrives."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot of the engine; for readiness, metrics and logs."""

    alive: bool
    ready: bool
    """Warmed up, alive and accepting new sessions."""
    draining: bool
    provider: str
    sessions: int
    queued: int
    steps: int
    """Steps run since the start, failed ones included."""
    mean_batch: float
    """Entries per step; 0 before the first."""
    failures: int
    """Failed steps since the start."""
    death: str | None
    """Why no further step will run; None while the engine is alive."""


class EngineObserver(Protocol):
    """Interface for metrics; called from the event loop, must not block."""

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        """Report a successful step: the number of entries, the seconds each was queued, and the seconds it ran."""

    def on_drop(self, reason: DropReason) -> None:
        """Report an accepted entry that was dropped without being run."""

    def on_refusal(self, reason: RefusalReason) -> None:
        """Report a session or entry that was refused."""

    def on_death(self, message: str) -> None:
        """Report that no further step will run; called once."""


class SilentObserver:
    """An observer that ignores all events."""

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        """Ignore the step."""

    def on_drop(self, reason: DropReason) -> None:
        """Ignore the drop."""

    def on_refusal(self, reason: RefusalReason) -> None:
        """Ignore the refusal."""

    def on_death(self, message: str) -> None:
        """Ignore the death; the engine has logged it."""
