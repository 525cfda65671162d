"""The arithmetic of a capacity measurement: percentiles, whether a trial held, which number to try next. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
"""Shown of every trial; 1.0 is the longest."""

SAFE_SHARE = 0.8
"""Of what was found, to be set as the limit: clients elsewhere are less regular than these."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Smallest value that is at least as large as `share` of all (nearest rank); NaN of nothing.

    Args:
        ordered: Ascending.
        share: 0 … 1.
    """
    if not len(ordered):
        return math.nan
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


@dataclass(frozen=True, slots=True)
class Trial:
    """What came out of running so many streams.

    Attributes:
        streams: How many there were.
        lag_ms: By `QUANTILES`: from the sending of the message with a block's last sample until its scores came.
        answer_p99_ms: As the lag, but from the message with the last sample that those scores depend on: without
            the model's look-ahead, what the server and the line take.
        late_p99_ms: How late the clients sent; when that is large, they were the limit and not the server.
        scores: Messages that were timed.
        lost_frames: Frames that were due and did not come, or came out of order.
        failed: Streams that were refused, cut off or did not end in order.
        reason: Of the first that failed.
        server_cpu: Cores that the server used; None when it cannot be seen from here.
        client_cpu: Cores that the clients used.
        memory_kib: Server memory per stream; None when it cannot be told.
        batch: Mean number of chunks in a live step; None without metrics.
    """

    streams: int
    lag_ms: tuple[float, ...]
    answer_p99_ms: float
    late_p99_ms: float
    scores: int
    lost_frames: int
    failed: int
    reason: str | None
    server_cpu: float | None
    client_cpu: float
    memory_kib: float | None
    batch: float | None

    @property
    def p99_ms(self) -> float:
        """The figure that is held against the limit."""
        return self.lag_ms[QUANTILES.index(0.99)]

    @property
    def was_refused(self) -> bool:
        """Whether the server had no place for a stream: a limit that was set, which says nothing of the machine."""
        return self.failed > 0 and '"code":"overloaded"' in (self.reason or "")

    def holds(self, p99_ms: float) -> bool:
        """Whether the lag stayed within the limit with nothing lost; a trial without scores (NaN) does not."""
        return self.p99_ms <= p99_ms and not self.lost_frames and not self.failed


@dataclass(slots=True)
class Search:
    """Finds the largest number that holds: doubles until one does not, then halves the distance.

    Args:
        first: Tried first.
        most: Never tried beyond.
        precision: Ends when the distance is less than this share of what holds.
    """

    first: int
    most: int
    precision: float = 0.05
    holds: int = field(default=0, init=False)
    """Largest number that has held."""
    fails: int | None = field(default=None, init=False)
    """Smallest number that has not."""

    def next(self) -> int | None:
        """The number to try next; None when the search is over."""
        if self.holds >= self.most:
            return None
        if self.fails is None:
            return min(self.most, self.first if not self.holds else 2 * self.holds)
        if self.fails - self.holds <= max(1.0, self.precision * self.holds):
            return None
        return (self.holds + self.fails) // 2

    def record(self, number: int, held: bool) -> None:
        """Take note of a trial."""
        if held:
            self.holds = max(self.holds, number)
        elif self.fails is None or number < self.fails:
            self.fails = number


def advised_limit(found: int, workers: int = 1) -> int:
    """What to set SPEECHQC_MAX_STREAMS to; at least one.

    Args:
        found: Streams that held.
        workers: Processes that shared them; each has places of its own.
    """
    return max(1, math.floor(SAFE_SHARE * found / workers))
