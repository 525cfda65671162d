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


class Receiver(Protocol):
    """Takes the failure of a chunk; the engine calls it in the event loop, and not after `cancel`. Must not raise."""

    def done(self) -> bool:
        """Whether it needs no outcome, because it has one or was cancelled."""

    def set_exception(self, error: BaseException, /) -> None:
        """Take the failure."""

    def cancel(self) -> bool:
        """Note that no outcome will follow."""


class Reply(Receiver, Protocol):
    """Takes the outcome of one chunk; an `asyncio.Future`."""

    def set_result(self, result: StepResult, /) -> None:
        """Take the result."""


class GroupResult(NamedTuple):
    """The results of the entries of a step that belong to one group."""

    places: list[int]
    """Their rows of the step."""
    readings: Any
    """What the engine's `read_out` returned for the whole step."""
    queue_s: list[float]
    """Of each entry: seconds from submit until the step began."""
    step_s: float
    """Seconds the step ran, features included."""
    features_s: float
    """Seconds of the step spent on features."""


class Group(Protocol):
    """Takes the results of all its members in a step, in one call; must not raise."""

    def deliver(self, members: list[Any], result: GroupResult, /) -> None:
        """Take the results; members may submit their next chunks."""


class Member(Receiver, Protocol):
    """A session whose chunks are cut when their steps begin, and whose results its group takes.

    It serves for all chunks of its session. A failure may make it submit the same chunk again.
    """

    @property
    def group(self) -> Group:
        """Takes its results."""

    def cut(self) -> FloatArray:
        """Return the chunk, valid until more audio arrives."""


@dataclass(slots=True, eq=False)
class Entry:
    """One queued chunk of one session."""

    session: int
    slot: int
    lane: str
    samples: FloatArray | None
    """float32 [hops * hop_samples + overlap_samples]; None if `reply` is a `Member`, which cuts it."""
    submitted_s: float
    deadline_s: float
    """On the clock of `submitted_s`; an entry that is still queued then is dropped."""
    reply: Reply | Member
    running: bool = False
    answered: bool = False

    @property
    def done(self) -> bool:
        """Whether it has an outcome or was cancelled."""
        return self.answered or self.reply.done()

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
        if not entry.done:
            own = type(error)(error.message, **error.detail)
            own.__cause__ = cause
            entry.answered = True
            entry.reply.set_exception(own)
