"""The time that a server has from the word to stop to its end: one bound for everything that has to be finished."""

from __future__ import annotations

import time
from collections.abc import Callable

LAST_S = 2.0
"""Kept for the last words to whoever could not be served in time, and for the end of the process; at least this."""


class DrainDeadline:
    """How much of the time is left; it begins to run with the first question or with `begin`.

    Args:
        drain_s: From the word to stop to the end of the process.
        clock: Monotonic seconds.
    """

    def __init__(self, drain_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._work_s, self._all_s = drain_s - min(LAST_S, drain_s / 4), max(drain_s, LAST_S)
        self._clock = clock
        self._began_s: float | None = None

    def begin(self) -> None:
        """The time runs from now on, if it did not before."""
        if self._began_s is None:
            self._began_s = self._clock()

    @property
    def work_left_s(self) -> float:
        """Until whatever is not finished is broken off."""
        return max(0.0, self._work_s - self._passed_s())

    @property
    def left_s(self) -> float:
        """Until the process has to be gone."""
        return max(0.0, self._all_s - self._passed_s())

    def _passed_s(self) -> float:
        self.begin()
        return self._clock() - (self._began_s or 0.0)
