"""The time of day: it goes into records that other processes, and this one after a restart, compare with their own."""

from __future__ import annotations

import time


def now_s() -> float:
    """Return seconds since 1970."""
    return time.time()
