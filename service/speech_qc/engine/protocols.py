"""The seams of the engine: what runs a model, what makes features, who watches.

Kept apart from `speech_qc.engine.runner` so that the dispatcher and its tests never need ONNX Runtime.
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
"""Samples float32 [B, n] to features float32 [B, T, F]; rows independent of each other; called in the device thread."""

ReadOut = Callable[[FloatArray, FloatArray], Iterable[Any]]
"""Samples float32 [B, n] and scores float32 [B, T / hops_per_frame, C], both finite, to one thing per row that its
receiver wants to know; called where the step runs."""


def no_readings(samples: FloatArray, scores: FloatArray) -> Iterable[None]:  # noqa: ARG001  # a ReadOut
    """Read nothing."""
    return [None] * len(scores)


@dataclass(frozen=True, slots=True)
class Lane:
    """Entries of one size, which alone may share a step.

    Args:
        name: What callers name it by and metrics report.
        hops: T of every entry in this lane.
        priority: Lower is served first; no two lanes share one.
        most: Most entries that can be there at the same time; None where only the engine bounds them.
    """

    name: str
    hops: int
    priority: int
    most: int | None = None


class StepScores(NamedTuple):
    """What came out of one step."""

    scores: FloatArray
    """float32 [B, T / hops_per_frame, C]."""
    good: npt.NDArray[np.bool_]
    """[B]; False where a row is not finite: unusable, its state was left as it was."""
    heard: npt.NDArray[np.bool_]
    """[B]; False where the samples were not finite already."""
    readings: Iterable[Any]
    """One per row, from `read_out`."""
    features_s: float
    """Seconds of the step that went into features."""


DropReason = Literal["cancelled", "deadline"]
"""Why an accepted entry was never run."""

RefusalReason = Literal["sessions", "queue", "draining", "dead"]
"""What there was none of: session slots, queue places, a server that stays, a working engine."""


class Model(Protocol):
    """A loaded model, as those see it who only describe it."""

    @property
    def contract(self) -> ModelContract:
        """What the model declares about itself."""

    @property
    def provider(self) -> str:
        """Name of the execution provider that really runs the steps."""

    @property
    def provider_fallback(self) -> bool:
        """Whether a better provider was asked for and could not be had."""

    @property
    def sha256(self) -> str:
        """Hex digest of the model file; names the model in every answer."""

    @property
    def fixed_shapes(self) -> bool:
        """Whether a new (B, T) is expensive, so that batches should be padded to a warmed bucket.

        Where it is not, warming up is about the model and the memory alone, see `Stepper.warm_up`.
        """


class Runner(Model, Protocol):
    """One loaded model without any state of its own; called from one thread only."""

    def run(self, features: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Run one step.

        Args:
            features: float32 [B, T, F].
            state: float32 [B, S]; zeros for a new stream. Not modified.

        Returns:
            scores float32 [B, T / hops_per_frame, C] and new_state float32 [B, S]; the caller owns both.

        Raises:
            InferenceError: The step did not succeed; nothing was changed.
        """

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Run every (B, T) once, so that none of them is new when audio comes."""


class EngineObserver(Protocol):
    """Where metrics hook in; called from the event loop, must return at once."""

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        """Report a step that succeeded: entries in it, seconds each of them queued, seconds it ran."""

    def on_drop(self, reason: DropReason) -> None:
        """Report an accepted entry that was given up without being run."""

    def on_refusal(self, reason: RefusalReason) -> None:
        """Report a session or entry that was refused at the door."""

    def on_death(self, message: str) -> None:
        """Report that no further step will run; called once."""


class SilentObserver:
    """The observer that nobody listens to."""

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        """Ignore the step."""

    def on_drop(self, reason: DropReason) -> None:
        """Ignore the drop."""

    def on_refusal(self, reason: RefusalReason) -> None:
        """Ignore the refusal."""

    def on_death(self, message: str) -> None:
        """Ignore the death; the engine has logged it."""
