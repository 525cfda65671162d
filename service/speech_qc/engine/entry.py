"""Data types that pass through the engine: a queued chunk, its result, and its failure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from speech_qc.engine.protocols import DropReason, FloatArray
from speech_qc.errors import SpeechQCError


class StepResult(NamedTuple):
    """The result of one entry."""

    scores: FloatArray
    """float32 [T / hops_per_frame, C]; a view of the step's scores, so copy it to keep it."""
    reading: Any
    """The result of the engine's `read_out` for the chunk."""
    queue_s: float
    """Seconds from submit until the step began."""
    step_s: float
    """Seconds the step ran, features included."""
    features_s: float
    """Seconds of the step spent on features."""
    batch: int
    """Entries that shared the step."""


class Reply(Protocol):
    """Takes the outcome of a chunk: an `asyncio.Future`, or an object that acts on it at once.

    The engine calls it in the event loop, once, and not after `cancel`. It must not raise, and it may submit the next
    chunk of its session.
    """

    def done(self) -> bool:
        """Whether it has an outcome or was cancelled."""

    def set_result(self, result: StepResult, /) -> None:
        """Take the result."""

    def set_exception(self, error: BaseException, /) -> None:
        """Take the failure."""

    def cancel(self) -> bool:
        """Note that no outcome will follow."""


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
    """On the clock of `submitted_s`; an entry that is still queued then is dropped."""
    reply: Reply
    running: bool = False

    def drop_reason(self, now: float) -> DropReason | None:
        """Return why the entry should be dropped, or None if it should run."""
        if self.reply.done():
            return "cancelled"
        return "deadline" if now >= self.deadline_s else None


def fail_entries(entries: Iterable[Entry], error: SpeechQCError, cause: BaseException | None = None) -> None:
    """Fail every pending entry with the same error.

    Each entry gets its own instance: a shared one would accumulate the tracebacks of all receivers.

    Args:
        entries: Entries, pending or done; those that are done stay unchanged.
        error: Type, message and detail of the error.
        cause: The exception that caused it.
    """
    for entry in entries:
        if not entry.reply.done():
            own = type(error)(error.message, **error.detail)
            own.__cause__ = cause
            entry.reply.set_exception(own)
