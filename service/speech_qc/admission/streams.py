"""All live streams of one server: how many there may be, and the way to end them in order."""

from __future__ import annotations

import asyncio
from typing import Protocol

from speech_qc.errors import Draining, Overloaded


class _Endable(Protocol):
    def drain(self) -> None:
        """Score what came, say the summary, close."""


class StreamRegistry:
    """Counts places, one per channel, and tells every stream when the server goes away.

    Args:
        max_channels: Places.
    """

    def __init__(self, max_channels: int) -> None:
        self._max_channels = max_channels
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
        """Refuse a stream of so many channels when there is no room for it.

        Raises:
            Draining: The server is going away.
            Overloaded: Too few places are free.
        """
        if self._draining:
            raise Draining(
                "the server is going away and takes no new streams; connect to another one, or again later",
                retry_after_s=Draining.retry_after_s,
            )
        if self._taken + channels > self._max_channels:
            raise Overloaded(
                f"expected room for {channels} more live channels, {self._taken} of {self._max_channels} places are "
                f"taken: try again in {Overloaded.retry_after_s} s, or another server",
                limit=self._max_channels,
                retry_after_s=Overloaded.retry_after_s,
            )

    def add(self, stream: _Endable, channels: int) -> None:
        """Take places, after `check`."""
        self._streams[stream] = channels
        self._taken += channels

    def remove(self, stream: _Endable) -> None:
        """Give the places back; may be called twice."""
        self._taken -= self._streams.pop(stream, 0)
        self._changed.set()

    async def drain(self, timeout_s: float) -> None:
        """Take nothing new, end every stream with its summary and 1012, wait for that; may be called twice.

        Args:
            timeout_s: Longest wait.
        """
        self._draining = True
        for stream in list(self._streams):
            stream.drain()
        try:
            async with asyncio.timeout(timeout_s):
                while self._streams:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return
