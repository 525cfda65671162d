"""The time budget of a shutdown: one deadline for everything that has to finish before the process ends."""

from __future__ import annotations

import time
from collections.abc import Callable

RESERVED_S = 2.0
"""Reserved to notify clients whose work did not finish and to end the process; also the minimum of the whole budget."""


class DrainDeadline:
    """Tracks the remaining time; it starts to run with `begin` or with the first query.

    Args:
        drain_s: Seconds from the request to stop to the end of the process.
        clock: Monotonic clock, seconds.
    """

    def __init__(self, drain_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._work_s, self._all_s = drain_s - min(RESERVED_S, drain_s / 4), max(drain_s, RESERVED_S)
        self._clock = clock
        self._began_s: float | None = None

    def begin(self) -> None:
        """Start the time, unless it is already running."""
        if self._began_s is None:
            self._began_s = self._clock()

    @property
    def work_remaining_s(self) -> float:
        """Seconds until unfinished work is aborted."""
        return max(0.0, self._work_s - self._passed_s())

    @property
    def remaining_s(self) -> float:
        """Seconds until the process must have ended."""
        return max(0.0, self._all_s - self._passed_s())

    def _passed_s(self) -> float:
        self.begin()
        return self._clock() - (self._began_s or 0.0)
