"""The connection of a live stream, whatever server it comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class ClientGone(Exception):
    """The client has disconnected."""


class Socket(Protocol):
    """What a stream needs of an open connection."""

    async def receive(self) -> bytes | str | None:
        """Return the next message; None if the client has disconnected."""

    def tap(self, sink: Callable[[bytes], bool] | None) -> None:
        """Offer binary messages to `sink` first, as they arrive, in order; `receive` returns those that it rejects."""

    async def send(self, text: bytes) -> None:
        """Send a text message; wait while the client is behind. Raises ClientGone."""

    def send_now(self, text: bytes) -> bool:
        """Send a text message if it need not wait; return whether it was sent."""

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; wait while the client is behind."""

    def abort(self) -> None:
        """Drop the connection without a close frame."""
