"""What a call needs of its connection: a WebSocket, or a TCP connection of AudioSocket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class CallTransport(Protocol):
    """What this module needs of a connection."""

    async def receive(self) -> bytes | str | None:
        """Return the next message; None if the peer has disconnected."""

    def tap(self, sink: Callable[[bytes], bool] | None) -> None:
        """Offer binary messages to `sink` as they arrive."""

    def tap_text(self, sink: Callable[[bytes], bool] | None) -> None:
        """Offer text messages to `sink` as they arrive."""

    async def send(self, text: bytes) -> None:
        """Send a text message. Raises ClientGone."""

    def send_now(self, text: bytes) -> bool:
        """Send a text message if it need not wait."""

    async def close(self, code: int, reason: str) -> None:
        """Close the connection."""

    def abort(self) -> None:
        """Drop the connection."""
