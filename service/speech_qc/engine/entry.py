"""What travels through the engine: a chunk in a lane, its result, and the answer when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from speech_qc.engine.protocols import DropReason, FloatArray
from speech_qc.errors import SpeechQCError


class StepResult(NamedTuple):
    """What one entry gets back."""

    scores: FloatArray
    """float32 [T / hops_per_frame, C]; a view of the step's scores: copy what is kept."""
    reading: Any
    """What the engine's `read_out` made of the chunk."""
    queue_s: float
    """Seconds from submit until the step began."""
    step_s: float
    """Seconds the step ran, features included."""
    features_s: float
    """Seconds of the step that went into features."""
    batch: int
    """Entries that shared the step."""


@dataclass(slots=True, eq=False)
class Entry:
    """One queued chunk of one session."""

    session: int
    slot: int
    lane: str
    samples: FloatArray
    """float32 [hops * hop_samples + overlap_samples]."""
    submitted_s: float
    deadline_s: float
    """On the clock of `submitted_s`; reached in the queue, the entry is given up."""
    future: asyncio.Future[StepResult]
    running: bool = False

    def drop_reason(self, now: float) -> DropReason | None:
        """Say why running this entry would be wasted, or None when it would not."""
        if self.future.done():
            return "cancelled"
        return "deadline" if now >= self.deadline_s else None


def fail_entries(entries: Iterable[Entry], error: SpeechQCError, cause: BaseException | None = None) -> None:
    """Answer every entry that has no answer yet with the same error.

    Each gets an instance of its own: one that is shared would collect the traceback of every receiver.

    Args:
        entries: Answered or not; those that are stay as they are.
        error: Kind, message and detail of the error.
        cause: What it was raised from.
    """
    for entry in entries:
        if not entry.future.done():
            own = type(error)(error.message, **error.detail)
            own.__cause__ = cause
            entry.future.set_exception(own)
