"""Reloads the model in all workers: one of them tries the file, the others follow, and the outcomes are reported.

A worker's outcome, as sent over the channel and to the client:

    outcome    replaced; unchanged; failed: the old model stays in use; kept: not asked, because the first worker
               failed; starting: the worker is starting and loads the current file
    message    the reason, if there is one
    name, version, sha256     of the model in use; absent if the worker does not serve
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from speech_qc.workers.channel import Message

logger = logging.getLogger("speech_qc.workers")

RELOAD_S = 120.0
"""Longest wait for one worker to load the file and warm up the model: seconds on a CPU, a minute on a slow GPU."""
ALL_S = 2 * RELOAD_S + 10.0
"""Longest wait for all workers: the first one, then the others concurrently."""

FAILED = "failed"
GOOD = frozenset({"replaced", "unchanged", "starting"})
"""Outcomes after which a worker uses the current file, or will use it once it has started."""

Ask = Callable[[int], Awaitable[Message]]


class Reloads:
    """The parent's side of reloads; used from one event loop.

    Args:
        ask: Reloads one worker and returns the outcome.
        up: Returns the numbers of the workers that are up.
        all_workers: The numbers of all workers.
    """

    def __init__(self, ask: Ask, up: Callable[[], Iterable[int]], all_workers: Iterable[int]) -> None:
        self._ask, self._up, self._all = ask, up, tuple(all_workers)
        self._in_progress = False
        self.done = 0
        """Number of successful reloads; a worker that was started before the last one may have read the old file."""

    async def run(self, first: int | None = None) -> dict[int, Message]:
        """Reload all workers.

        Args:
            first: The worker that tries the file; by default the first one that is up.

        Returns:
            The outcome of each worker.
        """
        up = list(self._up())
        first = first if first in up else min(up, default=None)
        if self._in_progress or first is None:
            why = "another reload is in progress: wait until it ends" if self._in_progress else "no worker is ready yet"
            return self._logged({number: {"outcome": FAILED, "message": why} for number in self._all})
        self._in_progress = True
        try:
            return self._logged(await self._reload_workers(first))
        finally:
            self._in_progress = False

    async def _reload_workers(self, first: int) -> dict[int, Message]:
        found = {first: await self._ask(first)}
        if found[first]["outcome"] == FAILED:
            kept = {"outcome": "kept", "message": f"worker {first}, which tried the file first, failed"}
            return found | {number: kept for number in self._all if number != first}
        self.done += 1
        others = [number for number in self._up() if number != first]
        found |= dict(zip(others, await asyncio.gather(*map(self._ask, others)), strict=True))
        return found | {number: {"outcome": "starting", "message": ""} for number in self._all if number not in found}

    @staticmethod
    def _logged(found: dict[int, Message]) -> dict[int, Message]:
        found = dict(sorted(found.items()))
        level = logging.INFO if all_succeeded(found) else logging.ERROR
        logger.log(level, "reload of the model: %s", describe(found))
        return found


def all_succeeded(found: Mapping[int, Message]) -> bool:
    """Whether every worker uses the current file, or will use it once it has started."""
    return all(result["outcome"] in GOOD for result in found.values())


def describe(found: Mapping[int, Message]) -> str:
    """Return the outcome of each worker as text."""
    return "; ".join(
        f"worker {number} {result['outcome']}" + (f" ({result['message']})" if result.get("message") else "")
        for number, result in found.items()
    )
