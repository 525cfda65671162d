"""Time-outs of a connection, and the detection of clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from speech_qc.settings import Settings

CHECKS_PER_TIMEOUT = 4
"""Checks of a connection within its shortest time-out."""
MAX_CHECK_INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of a connection and on their number; see the settings of the same names."""

    max_connections: int
    max_header_bytes: int
    header_timeout_s: float
    read_timeout_s: float
    read_min_bytes_per_s: int

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """Return the limits that the settings declare."""
        return cls(
            settings.connections_limit,
            settings.max_header_bytes,
            settings.header_timeout_s,
            settings.read_timeout_s,
            settings.read_min_bytes_per_s,
        )

    @property
    def check_interval_s(self) -> float:
        """Interval between two checks of a connection."""
        return (
            min(self.header_timeout_s, self.read_timeout_s, MAX_CHECK_INTERVAL_S * CHECKS_PER_TIMEOUT)
            / CHECKS_PER_TIMEOUT
        )


class SlowReaderCheck:
    """Detects a client that reads too slowly, from periodic checks of the write buffer.

    Args:
        limit_s: A client is stuck if it reads too little for this long.
        min_bytes_per_s: Minimum average rate; with 0, any progress is enough.
    """

    def __init__(self, limit_s: float, min_bytes_per_s: int = 0) -> None:
        self._limit_s, self._min_bytes_per_s = limit_s, min_bytes_per_s
        self._waiting_bytes = self._taken_bytes = 0
        self._since_s = 0.0

    def add_taken(self, size: int) -> None:
        """Count bytes that the client read between two checks while more was written."""
        self._taken_bytes += size

    def is_stuck(self, waiting_bytes: int, now_s: float) -> bool:
        """Whether the client has read too little for too long; costs nothing per message.

        Args:
            waiting_bytes: Bytes in the transport's write buffer.
            now_s: Monotonic time.
        """
        before, self._waiting_bytes = self._waiting_bytes, waiting_bytes
        self._taken_bytes += max(0, before - waiting_bytes)  # a growing buffer does not show that the client reads
        if not waiting_bytes or not before:
            self._since_s, self._taken_bytes = now_s, 0
            return False
        passed_s = now_s - self._since_s
        if passed_s <= self._limit_s:
            return False
        taken_bytes, self._taken_bytes, self._since_s = self._taken_bytes, 0, now_s
        return taken_bytes < max(1, self._min_bytes_per_s * passed_s)


class ConnectionTimeouts(asyncio.Protocol):
    """Mixin for uvicorn's two protocols: checks the connection periodically. List it before them in the bases."""

    limits: ConnectionLimits
    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    _unread: SlowReaderCheck
    _check_timer: asyncio.TimerHandle | None = None

    def resume_writing(self) -> None:
        """Count what the client read of a full buffer: a check misses it if the buffer has filled up again."""
        low, high = self.transport.get_write_buffer_limits()
        self._unread.add_taken(high - low)
        super().resume_writing()

    def _schedule_check(self, check: Callable[[], None]) -> None:
        self._check_timer = self.loop.call_later(self.limits.check_interval_s, check)

    def _cancel_check(self) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
            self._check_timer = None
