"""Waiting for something that happens elsewhere, and the test's failure when it does not happen in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

PATIENCE_S = 8.0
"""Less than the server's default time-outs (10 s and more), so that none of them can bring about what is awaited."""

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
    """Wait until something has happened, while the event loop runs on.

    Args:
        happened: True once it has.
        what: What is awaited, for the failure.
        patience_s: After so long the test fails.
        every_s: Time between two looks.
        details: What the failure shows besides, such as the log of a server.
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
    """Wait as `until` does, where no event loop runs."""
    deadline_s = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline_s, _never(what, patience_s, details)
        time.sleep(every_s)


def _never(what: str, patience_s: float, details: Details | None) -> str:
    message = f"waited {patience_s:g} s in vain: {what}"
    return message if details is None else f"{message}\n{details()}"
