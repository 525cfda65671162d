"""Pending messages to one client: bounded in bytes, sent by one task, timed to detect a client that does not read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Send = Callable[[bytes], Awaitable[None]]
SendNow = Callable[[bytes], bool]


class Outbox:
    """Pending text messages, in UTF-8; used from one event loop.

    Args:
        max_bytes: The outbox is full when this many bytes are pending; one message always fits.
        clock: Monotonic time, seconds.
        send_now: Sends a message immediately if it need not wait, and returns whether it did. Waking a task for every
            message costs more than sending it.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float], send_now: SendNow) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._send_now = send_now
        self._waiting: list[bytes] = []  # not a deque, which takes 0.7 KiB when it is empty
        self._bytes = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self.on_room: Callable[[], None] | None = None
        """Called when the outbox is no longer full."""
        self.sending_since: float | None = None
        """When the message that is being sent was passed to the socket; None if no send is in progress."""

    @property
    def full(self) -> bool:
        """Whether the pending bytes have reached the limit, so that nothing should be added."""
        return self._bytes >= self._max_bytes

    async def put(self, text: bytes) -> None:
        """Send a message; wait while the outbox is full."""
        while self.full:
            self._room.clear()
            await self._room.wait()
        self.force(text)

    def force(self, text: bytes) -> None:
        """Send a message without waiting: it must be sent whatever is pending, or the caller has checked `full`."""
        if not self._waiting and self.sending_since is None and self._send_now(text):
            return
        self._waiting.append(text)
        self._bytes += len(text)
        self._filled.set()

    def clear(self) -> None:
        """Discard pending messages; the message that is being sent is not affected."""
        self._waiting.clear()
        self._bytes = 0
        self._make_room()

    def close(self) -> None:
        """Mark the end of the messages: `run` returns when everything is sent."""
        self._closed = True
        self._filled.set()

    async def run(self, send: Send) -> None:
        """Send pending messages until closed and empty; raises what `send` raises."""
        while True:
            while self._waiting:
                text = self._waiting.pop(0)
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
