"""The arithmetic of a capacity measurement: percentiles, whether a trial passed, which number to try next. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

QUANTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
"""Quantiles reported for every trial; 1.0 is the maximum."""

SAFE_SHARE = 0.8
"""Share of the result to set as the limit: real clients are less regular than these."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that is at least as large as `share` of all (nearest rank); NaN if there are none.

    Args:
        ordered: Values in ascending order.
        share: 0 … 1.
    """
    if not len(ordered):
        return math.nan
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of one trial.

    Attributes:
        streams: Number of streams.
        lag_ms: Lag at each of `QUANTILES`: from sending the message with a block's last sample to its scores.
        answer_p99_ms: As the lag, but from sending the message with the last sample that those scores depend on; it
            excludes the model's look-ahead and leaves the time of the server and the network.
        late_p99_ms: How late the clients sent; if this is large, the clients were the bottleneck, not the server.
        scores: Number of timed messages.
        lost_frames: Frames that did not arrive, or arrived out of order.
        failed: Streams that were refused, dropped or did not end gracefully.
        reason: Reason of the first failure.
        server_cpu: Cores used by the server; None if unknown.
        client_cpu: Cores used by the clients.
        memory_kib: Server memory per stream; None if unknown.
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
        """The 99th percentile of the lag, which is compared to the limit."""
        return self.lag_ms[QUANTILES.index(0.99)]

    @property
    def was_refused(self) -> bool:
        """Whether the server refused a stream because of a configured limit, not because the machine is too slow."""
        return self.failed > 0 and '"code":"overloaded"' in (self.reason or "")

    def holds(self, p99_ms: float) -> bool:
        """Whether the lag stayed within the limit and nothing was lost; False for a trial without scores (NaN)."""
        return self.p99_ms <= p99_ms and not self.lost_frames and not self.failed


@dataclass(slots=True)
class Search:
    """Finds the largest number that passes: doubles it until a trial fails, then bisects.

    Args:
        first: First number to try.
        most: Largest number to try.
        precision: The search ends when the remaining interval is at most this share of the number that passed.
    """

    first: int
    most: int
    precision: float = 0.05
    holds: int = field(default=0, init=False)
    """Largest number that has passed."""
    fails: int | None = field(default=None, init=False)
    """Smallest number that has failed."""

    def next(self) -> int | None:
        """Return the number to try next; None if the search has ended."""
        if self.holds >= self.most:
            return None
        if self.fails is None:
            return min(self.most, self.first if not self.holds else 2 * self.holds)
        if self.fails - self.holds <= max(1.0, self.precision * self.holds):
            return None
        return (self.holds + self.fails) // 2

    def record(self, number: int, held: bool) -> None:
        """Record the result of a trial."""
        if held:
            self.holds = max(self.holds, number)
        elif self.fails is None or number < self.fails:
            self.fails = number


def advised_limit(found: int, workers: int = 1) -> int:
    """Return the value to set for SPEECHQC_MAX_STREAMS; at least 1.

    Args:
        found: Number of streams that passed.
        workers: Processes that shared the streams; each has its own places.
    """
    return max(1, math.floor(SAFE_SHARE * found / workers))
