"""All live streams of one server: a limit on their number, and a graceful shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol

from speech_qc.errors import Draining, Overloaded


class _Endable(Protocol):
    def drain(self, timeout_s: float) -> None:
        """Score the rest, send the summary, close, all within this time."""


class StreamRegistry:
    """Counts places, one per channel, and ends every stream when the server shuts down.

    Args:
        max_channels: Number of places.
        on_refused: Called with the reason, `draining` or `streams`, for each stream that is refused.
    """

    def __init__(self, max_channels: int, on_refused: Callable[[Literal["draining", "streams"]], None]) -> None:
        self._max_channels, self._on_refused = max_channels, on_refused
        self._streams: dict[_Endable, int] = {}
        self._taken = 0
        self._draining = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def channels(self) -> int:
        """Places taken."""
        return self._taken

    def check(self, channels: int) -> None:
        """Refuse a stream if there are not enough free places for its channels.

        Raises:
            Draining: The server is shutting down.
            Overloaded: Too few places are free.
        """
        if self._draining:
            self._on_refused("draining")
            raise Draining(
                "the server is shutting down and accepts no new streams: connect to another server, or retry later",
                retry_after_s=Draining.retry_after_s,
            )
        if self._taken + channels > self._max_channels:
            self._on_refused("streams")
            raise Overloaded(
                f"expected room for {channels} more live channels, {self._taken} of {self._max_channels} places are "
                f"taken: try again in {Overloaded.retry_after_s} s, or use another server",
                limit=self._max_channels,
                retry_after_s=Overloaded.retry_after_s,
            )

    def add(self, stream: _Endable, channels: int) -> None:
        """Take places; call `check` first."""
        self._streams[stream] = channels
        self._taken += channels

    def remove(self, stream: _Endable) -> None:
        """Release the places; may be called twice."""
        self._taken -= self._streams.pop(stream, 0)
        self._changed.set()

    async def drain(self, timeout_s: float) -> None:
        """Accept no new streams, end every stream with its summary and 1012, and wait; may be called twice.

        Args:
            timeout_s: Maximum wait.
        """
        self._draining = True
        for stream in list(self._streams):
            stream.drain(timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                while self._streams:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return
