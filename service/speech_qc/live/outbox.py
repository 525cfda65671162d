"""What waits to be sent to one client: bounded in bytes, sent by one task, watched for a client that does not read."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

Send = Callable[[bytes], Awaitable[None]]
SendNow = Callable[[bytes], bool]


def _cannot(text: bytes) -> bool:  # noqa: ARG001  # a SendNow
    return False


class Outbox:
    """Text messages on their way, in UTF-8; used from one event loop.

    Args:
        max_bytes: When so much waits, the box is full; one message always fits.
        clock: Monotonic seconds.
        send_now: Sends a message at once where that needs no waiting; False where it did not. Waking a task for every
            message costs more than sending it.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float], send_now: SendNow = _cannot) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._send_now = send_now
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self.on_room: Callable[[], None] | None = None
        """Called when the box was full and is not any more."""
        self.sending_since: float | None = None
        """When the message that is being sent was handed to the socket; None while none is."""

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing should be added."""
        return self._bytes >= self._max_bytes

    async def put(self, text: bytes) -> None:
        """Send a message; waits while the client is behind."""
        while self.full:
            self._room.clear()
            await self._room.wait()
        self.force(text)

    def force(self, text: bytes) -> None:
        """Send a message that must go out whatever waits, or after a look at `full`."""
        if not self._waiting and self.sending_since is None and self._send_now(text):
            return
        self._waiting.append(text)
        self._bytes += len(text)
        self._filled.set()

    def clear(self) -> None:
        """Forget what waits; the message that is being sent is not affected."""
        self._waiting.clear()
        self._bytes = 0
        self._make_room()

    def close(self) -> None:
        """Nothing more will come: `run` ends when all is sent."""
        self._closed = True
        self._filled.set()

    async def run(self, send: Send) -> None:
        """Send what waits until closed and empty; raises what `send` raises."""
        while True:
            while self._waiting:
                text = self._waiting.popleft()
                was_full = self.full
                self._bytes -= len(text)
                if was_full and not self.full:
                    self._make_room()
                self.sending_since = self._clock()
                await send(text)
                self.sending_since = None
            if self._closed:
                return
            self._filled.clear()
            await self._filled.wait()

    def _make_room(self) -> None:
        self._room.set()
        if self.on_room is not None:
            self.on_room()
