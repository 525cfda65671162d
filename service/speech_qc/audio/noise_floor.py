"""Noise floor of one channel: the level of its quietest frames, a percentile over time in constant memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 10.0
"""Share of the frames, in percent, that are at most as loud as the floor; digital silence does not count."""

SILENCE_DBFS = -119.0
"""Frames at or below this level are digital silence; 16-bit rounding noise has -98 dBFS."""

BIN_DB = 0.25
BINS = round((40.0 - SILENCE_DBFS) / BIN_DB)

MIN_FRAMES = 25
"""Fewer frames (half a second) have no pauses to measure."""

PORTION_FRAMES = 128
"""Frames that are counted together, so that the small blocks of live streams cost little."""


class NoiseFloorMeter:
    """Collects the frame levels of one channel."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int32)
        self._waiting = np.empty(PORTION_FRAMES, np.float32)
        self._filled = 0

    def push(self, levels_dbfs: NDArray[np.float32]) -> None:
        """Add the levels of the next frames, float32 [n], dBFS."""
        count = len(levels_dbfs)
        if self._filled + count > PORTION_FRAMES:
            self._counts += _histogram(self._waiting[: self._filled])
            self._filled = 0
            if count > PORTION_FRAMES:
                self._counts += _histogram(levels_dbfs)
                return
        self._waiting[self._filled : self._filled + count] = levels_dbfs
        self._filled += count

    def result(self, dc_offset: float | None) -> float | None:
        """Return the noise floor of everything so far, dBFS; None if there are too few frames.

        Args:
            dc_offset: Mean of the samples, whose power is not noise.
        """
        counts = self._counts + _histogram(self._waiting[: self._filled])
        running = np.cumsum(counts)
        total = int(running[-1])
        if total < MIN_FRAMES:
            return None
        wanted = PERCENTILE / 100.0 * total
        place = int(np.searchsorted(running, wanted))
        share = (wanted - int(running[place] - counts[place])) / int(counts[place])
        power = 10.0 ** ((SILENCE_DBFS + BIN_DB * (place + share)) / 10.0)
        noise = power - (dc_offset or 0.0) ** 2
        return float(10.0 * np.log10(noise)) if noise > 0.01 * power else None


def _histogram(levels_dbfs: NDArray[np.float32]) -> NDArray[np.int32]:
    places = (levels_dbfs[levels_dbfs > SILENCE_DBFS] - SILENCE_DBFS) * np.float32(1.0 / BIN_DB)
    return np.bincount(np.minimum(places, BINS - 1).astype(np.intp), minlength=BINS).astype(np.int32)
