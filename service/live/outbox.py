"""What waits to be sent to one client: bounded in bytes, sent by one task, watched for a client that does not read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

Send = Callable[[str], Awaitable[None]]


class Outbox:
    """Messages on their way; used from one event loop.

    Args:
        max_bytes: When so much waits, `put` waits too; one message always fits.
        clock: Monotonic seconds.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._waiting: deque[str] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self.sending_since: float | None = None
        """When the message that is being sent was handed to the socket; None while none is."""

    async def put(self, text: str) -> None:
        """Queue a message; waits while the client is behind."""
        while self._bytes >= self._max_bytes:
            self._room.clear()
            await self._room.wait()
        self.force(text)

    def force(self, text: str) -> None:
        """Queue a message that must go out whatever waits, such as the reason of an end."""
        self._waiting.append(text)
        self._bytes += len(text)
        self._filled.set()

    def clear(self) -> None:
        """Forget what waits; the message that is being sent is not affected."""
        self._waiting.clear()
        self._bytes = 0
        self._room.set()

    def close(self) -> None:
        """Nothing more will come: `run` ends when all is sent."""
        self._closed = True
        self._filled.set()

    async def run(self, send: Send) -> None:
        """Send until closed and empty; raises what `send` raises."""
        while True:
            while self._waiting:
                text = self._waiting.popleft()
                self._bytes -= len(text)
                self._room.set()
                self.sending_since = self._clock()
                await send(text)
                self.sending_since = None
            if self._closed:
                return
            self._filled.clear()
            await self._filled.wait()
