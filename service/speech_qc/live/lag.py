"""How long a live stream's audio takes from its arrival until it is scored."""

from __future__ import annotations

import time
from collections import deque


class Arrivals:
    """When the audio of one stream arrived.

    Args:
        window: Samples that a chunk needs beyond its own.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._times: deque[tuple[int, float]] = deque()  # (samples received by then, time), one per frame at most
        self._chunk_s = 0.0

    def __len__(self) -> int:
        return len(self._times)

    def note(self, received: int, now_s: float) -> None:
        """Note that so many samples have been received by now."""
        if self._times and received - self._times[-1][0] < self._window:
            self._times.pop()  # for messages of a few samples, one entry per window is enough; keep the later time
        self._times.append((received, now_s))

    def cut(self, taken: int) -> None:
        """Note that a chunk was cut whose own samples end here; at the end, it may need none that arrived."""
        needed = taken + self._window
        while self._times and self._times[0][0] < needed:
            self._times.popleft()
        self._chunk_s = self._times[0][1] if self._times else time.monotonic()

    def lag_s(self) -> float:
        """Return the time since the last sample that the chunk needed arrived."""
        return time.monotonic() - self._chunk_s
