"""Wait for asynchronous conditions; the test fails if they do not become true in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 8.0
"""Less than the server's default time-outs (10 s and more), so that none of them can make a condition true."""

Condition = Callable[[], object]
Details = Callable[[], object]


async def until(
    happened: Condition,
    what: str,
    *,
    patience_s: float = PATIENCE_S,
    every_s: float = 0.005,
    details: Details | None = None,
) -> None:
    """Wait until a condition is true, while the event loop keeps running.

    Args:
        happened: Returns whether the condition is true.
        what: Description of the condition, for the failure.
        patience_s: Time after which the test fails.
        every_s: Time between two checks.
        details: Additional information for the failure, such as a server's log.
    """
    deadline_s = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline_s, _never(what, patience_s, details)
        await asyncio.sleep(every_s)


def block_until(
    happened: Condition,
    what: str,
    *,
    patience_s: float = PATIENCE_S,
    every_s: float = 0.02,
    details: Details | None = None,
) -> None:
    """Wait like `until`, but without an event loop."""
    deadline_s = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline_s, _never(what, patience_s, details)
        time.sleep(every_s)


def _never(what: str, patience_s: float, details: Details | None) -> str:
    message = f"waited {patience_s:g} s in vain: {what}"
    return message if details is None else f"{message}\n{details()}"
