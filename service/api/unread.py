"""How long a connection may take for what has to happen on it, and whether its client takes what is sent."""

from __future__ import annotations

from dataclasses import dataclass

from service.settings import Settings

LOOKS = 4
"""Looks at a connection within its shortest time-out."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of a connection and of their number; see the settings of the same names."""

    max_connections: int
    max_header_bytes: int
    header_timeout_s: float
    read_timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """As the settings say."""
        return cls(
            settings.connections_limit, settings.max_header_bytes, settings.header_timeout_s, settings.read_timeout_s
        )

    @property
    def look_s(self) -> float:
        """From one look at a connection to the next."""
        return min(self.header_timeout_s, self.read_timeout_s) / LOOKS


class Unread:
    """Whether the client of one connection has taken nothing for too long, by looks at what waits to be sent.

    Args:
        limit_s: From the last change of what waits.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._bytes, self._since_s = 0, 0.0

    def is_stuck(self, waiting_bytes: int, now_s: float) -> bool:
        """Look; costs nothing per message.

        Args:
            waiting_bytes: In the buffer of the connection's transport.
            now_s: Monotonic.
        """
        if not waiting_bytes or waiting_bytes != self._bytes:
            self._bytes, self._since_s = waiting_bytes, now_s
        return now_s - self._since_s > self._limit_s
