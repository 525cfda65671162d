"""Selects the entries of the next step, and when it should begin: pure policy, no clock, no thread.

The engine calls `StepQueue` whenever the device is free; the queue then selects from all queued entries. Must not
depend on what a step does or how long it takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from speech_qc.engine.entry import Entry
from speech_qc.engine.protocols import DropReason, Lane
from speech_qc.errors import Overloaded

MAX_PASSES = 4
"""Steps of other lanes after which a waiting lane is served: uploads keep a fifth of the steps under full load."""

NO_LOAD, FULL_LOAD = 0.05, 0.2
"""Shares of the time in which the device is busy: up to the first no step waits, from the second on for the longest
time. `python benchmarks/bench_streams.py --collect-ms 0 5 10 20 --streams 50 100 200` shows lag against CPU."""

SHORTEST_WAIT_S = 0.001
"""Event loops have timers of milliseconds, so a shorter wait would take longer than it should."""


@dataclass(slots=True)
class Batch:
    """Result of one `pop`: the entries to run, and the entries that were dropped."""

    lane: Lane | None = None
    entries: list[Entry] = field(default_factory=list)
    dropped: list[tuple[Entry, DropReason]] = field(default_factory=list)


@dataclass(slots=True)
class _Waiting:
    """One lane's queued entries, each with its push number."""

    lane: Lane
    entries: deque[tuple[int, Entry]] = field(default_factory=deque)
    passes: int = 0
    """Steps of other lanes since this one was last served or empty."""
    fence: int = 0
    """Entries with a smaller push number have already waited for a step of a lower lane."""

    @property
    def overtaken(self) -> bool:
        """Whether the oldest entry has already waited for a step of a lower lane."""
        return bool(self.entries) and self.entries[0][0] < self.fence


class StepQueue:
    """Bounded queue with strict priority between lanes, modified by two rules that bound every wait.

    - A batch is from one lane, oldest first, at most `max_batch`, at most one entry per session.
    - The highest lane with entries is served, unless a lower lane has been passed over `max_passes` times. That lane is
      served next, *provided* that no queued entry of a higher lane has already waited for a step of a lower lane.

    So an entry of the highest lane waits for at most one step of all other lanes together: either the one that was
    running when the entry arrived, or one that overtook it. A lower lane cannot starve, because the entries that block
    it are limited (`max_queue`) and served oldest first: with two lanes it waits at most
    `max(max_passes, max_queue / max_batch + 1)` steps.

    Not thread-safe: one thread (the event loop) owns it.

    Args:
        lanes: All lanes, in any order.
        max_batch: Maximum entries in one step.
        max_queue: Maximum queued entries, all lanes together.
        max_passes: Steps of other lanes after which a waiting lane is served.

    Raises:
        ValueError: No lanes, duplicate names or priorities, or a limit below one.
    """

    def __init__(self, lanes: Sequence[Lane], *, max_batch: int, max_queue: int, max_passes: int = MAX_PASSES) -> None:
        if (
            not lanes
            or len({lane.name for lane in lanes}) < len(lanes)
            or len({x.priority for x in lanes}) < len(lanes)
        ):
            raise ValueError(f"expected one or more lanes with different names and priorities, got {list(lanes)}")
        if min(max_batch, max_queue, max_passes) < 1:
            raise ValueError(f"{max_batch=}, {max_queue=}, {max_passes=}: each must be at least 1")
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._max_passes = max_passes
        self._lanes = [_Waiting(lane) for lane in sorted(lanes, key=lambda lane: lane.priority)]
        self._by_name = {waiting.lane.name: waiting for waiting in self._lanes}
        self._sessions: set[int] = set()
        self._pushed = 0
        self._fences_due = 0  # lanes above the one last served; entries pushed there during its step waited for it

    def __len__(self) -> int:
        return len(self._sessions)

    def push(self, entry: Entry) -> None:
        """Queue an entry, or refuse it immediately.

        Raises:
            Overloaded: `max_queue` entries are queued.
            RuntimeError: The session already has an entry in the queue; its chunks would lose their order.
            ValueError: No lane has this name.
        """
        waiting = self._by_name.get(entry.lane)
        if waiting is None:
            raise ValueError(f"expected one of the lanes {', '.join(self._by_name)}, got {entry.lane!r}")
        if entry.session in self._sessions:
            raise RuntimeError(f"session {entry.session} already has an entry queued; await it before the next submit")
        if len(self) >= self.max_queue:
            raise Overloaded(
                f"the queue is full: {len(self)} chunks are waiting, at most {self.max_queue} can; try again later",
                waiting=len(self),
                limit=self.max_queue,
            )
        waiting.entries.append((self._pushed, entry))
        self._pushed += 1
        self._sessions.add(entry.session)

    def wait_s(self, now: float, load: float, announced_s: float | None = None) -> float:
        """Return for how long the next step should wait for more entries; 0 if it should run, or nothing is queued.

        A step costs the same for its first entry as for the next ten. The wait grows with the load from `NO_LOAD` to
        `FULL_LOAD`, so a lone stream never waits. A step does not wait either if it is full, or if a lane that does not
        collect has entries: their steps are so long that the others collect meanwhile.

        Args:
            now: Current time on the clock of the entries' `submitted_s`.
            load: Share of the time in which the device is busy, 0 to 1.
            announced_s: When the first entry that is not pushed yet was announced; it counts as one of the first lane.
        """
        share = min(1.0, max(0.0, load - NO_LOAD) / (FULL_LOAD - NO_LOAD))
        busy = [waiting for waiting in self._lanes if waiting.entries]
        left = [x.entries[0][1].submitted_s + share * x.lane.collect_s - now for x in busy]
        if announced_s is not None:
            left.append(announced_s + share * self._lanes[0].lane.collect_s - now)
        full = any(len(waiting.entries) >= self.max_batch or not waiting.lane.collect_s for waiting in busy)
        return 0.0 if full or min(left, default=0.0) < SHORTEST_WAIT_S else min(left)

    def pop(self, now: float) -> Batch:
        """Choose the entries of the next step; drop and report cancelled and expired ones.

        Args:
            now: Current time on the clock of the entries' deadlines, seconds.

        Returns:
            A batch of one lane, or one without entries if nothing is queued.
        """
        batch = Batch()
        for waiting in self._lanes[: self._fences_due]:
            waiting.fence = self._pushed
        self._fences_due = 0
        for waiting in self._lanes:  # so that no lane is chosen whose entries are all dropped
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
        """Remove and return all entries, highest lane first, oldest first; the caller must complete their futures."""
        entries = [entry for waiting in self._lanes for _, entry in waiting.entries]
        for waiting in self._lanes:
            waiting.entries.clear()
        self._sessions.clear()
        return entries

    def _take(self, waiting: _Waiting, now: float, count: int, batch: Batch) -> None:
        """Move up to `count` valid entries into the batch; drop cancelled and expired ones up to the next valid one."""
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
        """Return the index of the lane to serve, or None if all are empty."""
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
