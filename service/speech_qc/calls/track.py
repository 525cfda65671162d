"""One leg on the clock of its call: its records as frames of the call, whenever it began and whatever is missing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.records import FRAME_SAMPLES, LEVEL_FLOOR_DBFS, Flag, LegRecord


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """The frames of one leg in one step of the analysis.

    Args:
        flags: uint8 (n,), combinations of `Flag`.
        levels_dbfs: float32 (n,).
        band: float32 (n · 80,), the sound at 4 kHz; zero where nothing was received.
    """

    flags: NDArray[np.uint8]
    levels_dbfs: NDArray[np.float32]
    band: NDArray[np.float32]


class LegTrack:
    """The records of one leg that wait for the other leg."""

    def __init__(self) -> None:
        self._records: deque[tuple[int, LegRecord]] = deque()
        self._offset = 0
        self.open = False
        """Whether records will still come."""
        self.end = 0
        """Frame of the call after the last record."""
        self.late_frames = 0
        """Frames that came after the analysis had gone on without them."""

    def begin(self, offset: int) -> None:
        """Begin a leg whose first frame is this frame of the call."""
        self._offset, self.open, self.end = offset, True, max(offset, self.end)

    def push(self, record: LegRecord, done: int) -> None:
        """Add a record; frames before `done`, which the analysis has passed, are only counted."""
        first = record.first_frame + self._offset
        self.late_frames += max(0, min(done, first + record.frames) - max(first, 0))
        self.end = max(self.end, first + record.frames)
        if first + record.frames > done:
            self._records.append((first, record))

    def take(self, first: int, frames: int) -> Span:
        """Return the frames [first, first + frames) and drop everything before their end."""
        flags = np.full(frames, Flag.ABSENT, np.uint8)
        levels = np.full(frames, LEVEL_FLOOR_DBFS, np.float32)
        band = np.zeros(frames * FRAME_SAMPLES, np.float32)
        stop = first + frames
        for start, record in self._records:
            low, high = max(start, first), min(start + record.frames, stop)
            if low >= high:
                continue
            flags[low - first : high - first] = record.flags[low - start : high - start]
            levels[low - first : high - first] = record.levels_dbfs()[low - start : high - start]
            samples = record.samples()[(low - start) * FRAME_SAMPLES : (high - start) * FRAME_SAMPLES]
            band[(low - first) * FRAME_SAMPLES : (high - first) * FRAME_SAMPLES] = samples
        while self._records and self._records[0][0] + self._records[0][1].frames <= stop:
            self._records.popleft()
        return Span(flags, levels, band)
