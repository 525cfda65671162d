"""Which entries go into the next step: pure policy, no clock, no thread, no waiting.

The engine asks `StepQueue` whenever the device is free; everything that has queued up since then is there to
choose from. Must not know what a step does or how long it takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from speech_qc.engine.entry import Entry
from speech_qc.engine.protocols import DropReason, Lane
from speech_qc.errors import Overloaded

MAX_PASSES = 4
"""Steps of other lanes after which a waiting lane claims a turn: uploads keep a fifth of the steps under full load."""


@dataclass(slots=True)
class Batch:
    """Outcome of one `pop`: what to run, and what was given up on the way there."""

    lane: Lane | None = None
    entries: list[Entry] = field(default_factory=list)
    dropped: list[tuple[Entry, DropReason]] = field(default_factory=list)


@dataclass(slots=True)
class _Waiting:
    """One lane's entries, each with the number it was pushed under."""

    lane: Lane
    entries: deque[tuple[int, Entry]] = field(default_factory=deque)
    passes: int = 0
    """Steps of other lanes since this one was served or empty."""
    fence: int = 0
    """Entries pushed under a smaller number have already waited for a step of a lower lane."""

    @property
    def overtaken(self) -> bool:
        """Whether the oldest entry has had its one wait for a lower lane."""
        return bool(self.entries) and self.entries[0][0] < self.fence


class StepQueue:
    """Bounded queue in lanes, with strict priority tempered by two rules that bound every wait.

    - A batch is from one lane, oldest first, at most `max_batch`, at most one entry per session.
    - The first lane with entries is served, unless a lower lane has been passed over `max_passes` times: that one
      goes next, *provided* that no waiting entry of a higher lane has already waited for a step of a lower lane.

    So an entry of the first lane waits for at most one step of all others together, be it the one that ran when the
    entry came or one that overtook it; and since the entries that block a lower lane are finite (`max_queue`) and
    served oldest first, a lower lane cannot starve: with two lanes it waits at most
    `max(max_passes, max_queue / max_batch + 1)` steps.

    Not thread-safe: one thread (the event loop) owns it.

    Args:
        lanes: All lanes, in any order.
        max_batch: Most entries in one step.
        max_queue: Most entries waiting, all lanes together.
        max_passes: Steps of other lanes after which a waiting lane claims a turn.

    Raises:
        ValueError: No lanes, names or priorities that repeat, or a bound below one.
    """

    def __init__(self, lanes: Sequence[Lane], *, max_batch: int, max_queue: int, max_passes: int = MAX_PASSES) -> None:
        if (
            not lanes
            or len({lane.name for lane in lanes}) < len(lanes)
            or len({x.priority for x in lanes}) < len(lanes)
        ):
            raise ValueError(f"expected one or more lanes with different names and priorities, given {list(lanes)}")
        if min(max_batch, max_queue, max_passes) < 1:
            raise ValueError(f"{max_batch=}, {max_queue=}, {max_passes=}: each must be at least 1")
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._max_passes = max_passes
        self._lanes = [_Waiting(lane) for lane in sorted(lanes, key=lambda lane: lane.priority)]
        self._by_name = {waiting.lane.name: waiting for waiting in self._lanes}
        self._sessions: set[int] = set()
        self._pushed = 0
        self._fences_due = 0  # lanes above the one last served: whoever came to them during that step has waited for it

    def __len__(self) -> int:
        return len(self._sessions)

    def push(self, entry: Entry) -> None:
        """Take an entry, or refuse it at once.

        Raises:
            Overloaded: `max_queue` entries are waiting.
            RuntimeError: The session already has an entry waiting; its chunks would lose their order.
            ValueError: No lane has this name.
        """
        waiting = self._by_name.get(entry.lane)
        if waiting is None:
            raise ValueError(f"lane {entry.lane!r} is unknown; known are {', '.join(self._by_name)}")
        if entry.session in self._sessions:
            raise RuntimeError(f"session {entry.session} already has an entry waiting; await it before the next submit")
        if len(self) >= self.max_queue:
            raise Overloaded(
                f"no place in the queue: {len(self)} chunks are waiting, at most {self.max_queue} may; try again later",
                waiting=len(self),
                limit=self.max_queue,
            )
        waiting.entries.append((self._pushed, entry))
        self._pushed += 1
        self._sessions.add(entry.session)

    def pop(self, now: float) -> Batch:
        """Choose the next step; entries not worth running are taken out and reported on the way.

        Args:
            now: Seconds on the clock of the entries' deadlines.

        Returns:
            A batch of one lane, or one without entries when nothing waits.
        """
        batch = Batch()
        for waiting in self._lanes[: self._fences_due]:
            waiting.fence = self._pushed
        self._fences_due = 0
        for waiting in self._lanes:  # so that no lane is chosen for entries that are all gone
            self._take(waiting, now, 0, batch)
        index = self._choose()
        if index is None:
            return batch
        batch.lane = self._lanes[index].lane
        self._take(self._lanes[index], now, self.max_batch, batch)
        for waiting in self._lanes:
            waiting.passes = waiting.passes + 1 if waiting.entries else 0
        self._lanes[index].passes = 0
        self._fences_due = index
        return batch

    def clear(self) -> list[Entry]:
        """Take out everything, first lane first, oldest first; the caller owes each entry an answer."""
        entries = [entry for waiting in self._lanes for _, entry in waiting.entries]
        for waiting in self._lanes:
            waiting.entries.clear()
        self._sessions.clear()
        return entries

    def _take(self, waiting: _Waiting, now: float, count: int, batch: Batch) -> None:
        """Move up to `count` entries worth running into the batch, and the others met before the next one out."""
        while waiting.entries:
            entry = waiting.entries[0][1]
            reason = entry.drop_reason(now)
            if reason is not None:
                batch.dropped.append((entry, reason))
            elif len(batch.entries) < count:
                batch.entries.append(entry)
            else:
                return
            waiting.entries.popleft()
            self._sessions.remove(entry.session)

    def _choose(self) -> int | None:
        """Index of the lane to serve, or None when all are empty."""
        busy = [index for index, waiting in enumerate(self._lanes) if waiting.entries]
        if not busy:
            return None
        overdue = [
            index
            for index in busy
            if self._lanes[index].passes >= self._max_passes
            and not any(higher.overtaken for higher in self._lanes[:index])
        ]
        return max(overdue, key=lambda index: self._lanes[index].passes) if overdue else busy[0]
