"""One reload of the model in all workers: one of them tries the file, the others follow, and all that is told.

What a worker says of it, over the channel and up to the client:

    outcome    replaced, unchanged; failed: its old model serves on; kept: it was not asked, as the first one failed;
               starting: it is just being started, and loads the file as it is now
    message    why, where it is not plain
    name, version, sha256     of the model that it serves with; none of one that does not serve
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

from speech_qc.workers.channel import Message

logger = logging.getLogger("speech_qc.workers")

RELOAD_S = 120.0
"""Longest wait for one worker to load the file and warm the model up: seconds on a CPU, a minute on a slow GPU."""
ALL_S = 2 * RELOAD_S + 10.0
"""Longest wait for all: the first one, then the others at the same time."""

FAILED = "failed"
GOOD = frozenset({"replaced", "unchanged", "starting"})
"""Outcomes after which a worker serves, or is going to serve, with the file as it is."""

Ask = Callable[[int], Awaitable[Message]]


class Reloads:
    """The parent's part; used from one event loop.

    Args:
        ask: Has one worker reload, and says how that went.
        up: Workers that serve now.
        all_workers: The numbers of all there are.
    """

    def __init__(self, ask: Ask, up: Callable[[], Iterable[int]], all_workers: Iterable[int]) -> None:
        self._ask, self._up, self._all = ask, up, tuple(all_workers)
        self._under_way = False
        self.done = 0
        """Reloads that at least one worker has followed; one that was started before the last may have the old file."""

    async def run(self, first: int | None = None) -> dict[int, Message]:
        """Have all workers reload.

        Args:
            first: The worker that tries the file; by default the first one that serves.

        Returns:
            How it went, by worker.
        """
        up = list(self._up())
        first = first if first in up else min(up, default=None)
        if self._under_way or first is None:
            why = "another reload is under way; wait for its end" if self._under_way else "no worker serves yet"
            return {number: {"outcome": FAILED, "message": why} for number in self._all}
        self._under_way = True
        try:
            return self._told(await self._in_order(first))
        finally:
            self._under_way = False

    async def _in_order(self, first: int) -> dict[int, Message]:
        found = {first: await self._ask(first)}
        if found[first]["outcome"] == FAILED:
            kept = {"outcome": "kept", "message": f"worker {first}, which tried first, failed"}
            return found | {number: kept for number in self._all if number != first}
        self.done += 1
        others = [number for number in self._up() if number != first]
        found |= dict(zip(others, await asyncio.gather(*map(self._ask, others)), strict=True))
        return found | {number: {"outcome": "starting", "message": ""} for number in self._all if number not in found}

    @staticmethod
    def _told(found: dict[int, Message]) -> dict[int, Message]:
        found = dict(sorted(found.items()))
        level = logging.INFO if is_good(found) else logging.ERROR
        logger.log(level, "reload of the model: %s", in_words(found))
        return found


def is_good(found: Mapping[int, Message]) -> bool:
    """Whether every worker serves, or is going to serve, with the file as it is."""
    return all(said["outcome"] in GOOD for said in found.values())


def in_words(found: Mapping[int, Message]) -> str:
    """How it went, worker by worker."""
    return "; ".join(
        f"worker {number} {said['outcome']}" + (f" ({said['message']})" if said.get("message") else "")
        for number, said in found.items()
    )
