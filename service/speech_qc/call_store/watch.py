"""Live views of the stored events: one reader for all watchers of a process, which each keep their own place.

A watcher holds no queue of its own. The last events are in memory once, for all of them, and a watcher that falls
behind, or resumes, reads what it needs from the database, a page at a time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from dataclasses import dataclass

from speech_qc.errors import Overloaded, ResultsUnavailable

logger = logging.getLogger(__name__)

POLL_S = 0.5
"""How often the database is asked for events that other processes have stored."""
KEEP_ALIVE_S = 15.0
"""A watcher gets at least a comment this often, so that proxies keep the connection and a dead one is noticed."""
RECENT = 2000
"""Events that are held in memory."""
PAGE = 200
"""Events that are read at once."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An event with its sequence number."""

    seq: int
    call_id: str
    trunk: str | None
    kind: str
    body: str

    def encode(self) -> bytes:
        """Return it as a Server-Sent Event; its JSON has no line breaks."""
        return f"id: {self.seq}\nevent: {self.kind}\ndata: {self.body}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a watcher wants: those of one call, of one trunk, or all."""

    call: str | None = None
    trunk: str | None = None

    def takes(self, event: Stored) -> bool:
        """Whether the watcher wants this event."""
        return self.call in (None, event.call_id) and self.trunk in (None, event.trunk)


Read = Callable[[int, int, Filter], Awaitable[Sequence[Stored]]]
"""Returns the next events after a sequence number, at most so many, that pass a filter; raises ResultsUnavailable."""


class Watchers:
    """All watchers of one process.

    Args:
        read: Reads events from the database.
        bounds: Returns the smallest and the largest sequence number there.
        most: Maximum watchers at the same time.
    """

    def __init__(self, read: Read, bounds: Callable[[], Awaitable[tuple[int, int]]], most: int) -> None:
        self._read, self._bounds, self._most = read, bounds, most
        self._recent: deque[Stored] = deque()
        self._recent_after = self._newest = 0
        self._follower: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stored, self._news = asyncio.Event(), asyncio.Event()
        self.count = 0
        self._closed = False

    def wake(self) -> None:
        """Say, from any thread, that this process has stored events."""
        loop = self._loop
        if loop is not None and self.count:
            with suppress(RuntimeError):  # the loop has just been closed
                loop.call_soon_threadsafe(self._stored.set)

    @asynccontextmanager
    async def open(self, wanted: Filter, after: int | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """Watch: yields an iterator over Server-Sent Events, which ends when the server stops.

        Args:
            wanted: Which events.
            after: Sequence number of the last event that the watcher has seen; None for new events only.

        Raises:
            Overloaded: There are too many watchers.
            ResultsUnavailable: The database does not answer, or the server stops.
        """
        if self.count >= self._most:
            raise Overloaded(
                f"expected at most {self._most} open watches, got one more: close one, or raise SPEECHQC_MAX_WATCHERS",
                max_watchers=self._most,
            )
        if self._closed:
            raise ResultsUnavailable("the server stops: watch another one")
        self.count += 1
        try:
            low, high = await self._bounds()
            self._follow(high)
            yield self._events(wanted, high if after is None else after, low, high)
        finally:
            self.count -= 1
            if not self.count and self._follower is not None:
                self._follower.cancel()
                self._follower = None

    async def _events(self, wanted: Filter, cursor: int, low: int, high: int) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n: events follow as they are stored\n\n"
        if cursor < low - 1 or cursor > high:
            yield b'event: missed\ndata: {"type":"missed","data":{"after":%d,"oldest":%d}}\n\n' % (cursor, low)
            cursor = max(low - 1, 0)
        while True:
            news, closed = self._news, self._closed
            found, cursor = await self._next(wanted, cursor)
            for event in found:
                yield event.encode()
            if closed:
                return
            if not found:
                try:
                    await asyncio.wait_for(news.wait(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"

    async def _next(self, wanted: Filter, cursor: int) -> tuple[Sequence[Stored], int]:
        """Return the next events that a watcher wants after a place, and its new place."""
        newest = self._newest
        if cursor >= self._recent_after:  # all of them are in memory
            later = [event for event in self._recent if event.seq > cursor]
            return [event for event in later if wanted.takes(event)], max(cursor, newest)
        try:
            found = await self._read(cursor, PAGE, wanted)
        except ResultsUnavailable:
            return (), cursor  # continued when the database answers again
        if len(found) < PAGE:
            return found, max(newest, *(event.seq for event in found), cursor)
        return found, found[-1].seq

    def _follow(self, newest: int) -> None:
        """Start to read new events, unless another watcher has."""
        if self._follower is None:
            self._recent.clear()
            self._recent_after = self._newest = newest
            self._loop = asyncio.get_running_loop()
            self._stored, self._news = asyncio.Event(), asyncio.Event()
            self._follower = asyncio.create_task(self._run(), context=Context())  # it serves all watchers

    async def _run(self) -> None:
        while True:
            self._stored.clear()
            try:
                found = await self._read(self._newest, PAGE, Filter())
            except ResultsUnavailable:
                found = ()
            except Exception:  # the watchers would otherwise wait for a task that has ended
                logger.exception("events could not be read")
                found = ()
            if found:
                self._add(found)
            if len(found) < PAGE:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stored.wait(), POLL_S)

    def _add(self, found: Sequence[Stored]) -> None:
        self._recent.extend(found)
        self._newest = found[-1].seq
        while len(self._recent) > RECENT:
            self._recent_after = self._recent.popleft().seq
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def forget(self, call_id: str) -> None:
        """Drop the events of a call from memory: it was deleted."""
        self._recent = deque(event for event in self._recent if event.call_id != call_id)

    def close(self) -> None:
        """End all watches, so that their connections do not delay the shutdown."""
        self._closed = True
        self._tell()
