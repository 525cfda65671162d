"""How long a connection may take for what has to happen on it, and whether its client takes what is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from speech_qc.settings import Settings

LOOKS = 4
"""Looks at a connection within its shortest time-out."""
LONGEST_LOOK_S = 10.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of a connection and of their number; see the settings of the same names."""

    max_connections: int
    max_header_bytes: int
    header_timeout_s: float
    read_timeout_s: float
    read_min_bytes_per_s: int

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """As the settings say."""
        return cls(
            settings.connections_limit,
            settings.max_header_bytes,
            settings.header_timeout_s,
            settings.read_timeout_s,
            settings.read_min_bytes_per_s,
        )

    @property
    def look_s(self) -> float:
        """From one look at a connection to the next."""
        return min(self.header_timeout_s, self.read_timeout_s, LONGEST_LOOK_S * LOOKS) / LOOKS


class SlowReaderCheck:
    """Whether the client of one connection takes too little, by looks at what waits to be sent.

    Args:
        limit_s: A period within which nothing was taken, or less than it should be, is one too many.
        min_bytes_per_s: What should be taken on average. 0: anything.
    """

    def __init__(self, limit_s: float, min_bytes_per_s: int = 0) -> None:
        self._limit_s, self._min_bytes_per_s = limit_s, min_bytes_per_s
        self._waiting_bytes = self._taken_bytes = 0
        self._since_s = 0.0

    def took(self, size: int) -> None:
        """Say that the client took that many between two looks, while more was written."""
        self._taken_bytes += size

    def is_stuck(self, waiting_bytes: int, now_s: float) -> bool:
        """Look; costs nothing per message.

        Args:
            waiting_bytes: In the buffer of the connection's transport.
            now_s: Monotonic.
        """
        before, self._waiting_bytes = self._waiting_bytes, waiting_bytes
        self._taken_bytes += max(0, before - waiting_bytes)  # one that grows is no sign of life
        if not waiting_bytes or not before:
            self._since_s, self._taken_bytes = now_s, 0
            return False
        passed_s = now_s - self._since_s
        if passed_s <= self._limit_s:
            return False
        taken_bytes, self._taken_bytes, self._since_s = self._taken_bytes, 0, now_s
        return taken_bytes < max(1, self._min_bytes_per_s * passed_s)


class ConnectionTimeouts(asyncio.Protocol):
    """What both protocols of uvicorn's lack: a look at the connection now and then. Stands before them in the bases."""

    limits: ConnectionLimits
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _unread: SlowReaderCheck
    _look: asyncio.TimerHandle | None = None

    def resume_writing(self) -> None:
        """Of a full buffer most was taken; looks do not see that when it is full again by then."""
        low, high = self.transport.get_write_buffer_limits()
        self._unread.took(high - low)
        super().resume_writing()

    def _look_again(self, look: Callable[[], None]) -> None:
        self._look = self.loop.call_later(self.limits.look_s, look)

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
