"""A reusable buffer of a stream's most recent samples, addressed by absolute position."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPARE_SHARE = 8
"""An allocation exceeds what is needed by one part in `SPARE_SHARE`, so that not every append moves samples."""


class SampleBuffer:
    """Samples [start, end) of one stream; owned by one session, not thread-safe."""

    def __init__(self) -> None:
        self._data: NDArray[np.float32] = np.empty(0, np.float32)
        self._origin = 0  # absolute position of _data[0]
        self.start = 0
        """Absolute position of the first sample that is kept."""
        self.end = 0
        """Absolute position after the last sample."""

    def append(self, samples: NDArray[np.float32]) -> None:
        """Add samples at the end.

        Args:
            samples: float32 [n]; copied.
        """
        end = self.end + len(samples)
        if end - self._origin > len(self._data):
            self._make_room(end - self.start)
        self._data[self.end - self._origin : end - self._origin] = samples
        self.end = end

    def view(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return samples [start, stop), cut off at `end`; valid until the next `append`."""
        return self._data[start - self._origin : min(stop, self.end) - self._origin]

    def release(self, before: int) -> None:
        """Discard the samples before an absolute position."""
        self.start = min(max(before, self.start), self.end)

    def _make_room(self, needed: int) -> None:
        """Move the kept samples to the front; reallocate if the memory is too small, or much too large."""
        kept = self._data[self.start - self._origin : self.end - self._origin]
        data = self._data
        if not needed <= len(data) <= needed + needed // 2:
            data = np.empty(needed + needed // SPARE_SHARE, np.float32)
        data[: len(kept)] = kept  # NumPy copies overlapping ranges correctly
        self._data, self._origin = data, self.start
