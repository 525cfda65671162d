"""One leg on the clock of its call: its records as frames of the call, whenever it began and whatever is missing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.records import FRAME_SAMPLES, LEVEL_FLOOR_DBFS, AnyRecord, Flag, GapRecord

_NO_END = 2**40


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
        self._records: deque[tuple[int, AnyRecord]] = deque()
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

    def push(self, record: AnyRecord, done: int) -> None:
        """Add a record; frames before `done`, which the analysis has passed, are only counted."""
        first = record.first_frame + self._offset
        self.late_frames += max(0, min(done, first + record.frames) - max(first, 0))
        if first + record.frames > done:
            self._cut(first)
            self._records.append((first, record))
        self.end = max(self.end, first + record.frames)

    def sound_end(self, first: int) -> int:
        """Return how far its records reach if no time passes in the gaps that wait; frames before `first` are done.

        A gap arrives at once, however long it is, so it does not say for how long other legs have sent nothing.
        """
        gaps = (start + one.frames - max(start, first) for start, one in self._records if isinstance(one, GapRecord))
        return self.end - sum(gaps)

    def still(self, first: int, frames: int) -> tuple[int, int]:
        """Return what the next frames hold, if there is no sound in them.

        Args:
            first: The first one, all before which are taken.
            frames: Frames of a step of the analysis.

        Returns:
            Their flag, and the frame before which it stays the same; that is `first` if there is sound.
        """
        is_begun = bool(self._records) and self._records[0][0] <= first
        following = min((start for start, _ in islice(self._records, int(is_begun), None)), default=_NO_END)
        if is_begun:
            start, head = self._records[0]
            return (head.flag, min(following, start + head.frames)) if isinstance(head, GapRecord) else (0, first)
        if self.open and self.end < first + frames:
            return Flag.SILENT, following
        return Flag.ABSENT, min(following, self.end) if self.open else following

    def take(self, first: int, frames: int) -> Span:
        """Return the frames [first, first + frames) and drop everything before their end.

        What is absent may not have been sent because there is nothing to hear, while the leg is open and its records do
        not reach further; if packets were lost, the next one will tell.
        """
        flags = np.full(frames, Flag.ABSENT, np.uint8)
        levels = np.full(frames, LEVEL_FLOOR_DBFS, np.float32)
        band = np.zeros(frames * FRAME_SAMPLES, np.float32)
        stop = first + frames
        for start, record in self._records:
            low, high = max(start, first), min(start + record.frames, stop)
            if low >= high:
                continue
            if isinstance(record, GapRecord):
                flags[low - first : high - first] = record.flag
                continue
            flags[low - first : high - first] = record.flags[low - start : high - start]
            levels[low - first : high - first] = record.levels_dbfs()[low - start : high - start]
            samples = record.samples()[(low - start) * FRAME_SAMPLES : (high - start) * FRAME_SAMPLES]
            band[(low - first) * FRAME_SAMPLES : (high - first) * FRAME_SAMPLES] = samples
        self.drop(stop)
        if self.open and self.end < stop:
            flags[flags == Flag.ABSENT] = Flag.SILENT
        return Span(flags, levels, band)

    def drop(self, stop: int) -> None:
        """Drop everything before a frame."""
        while self._records and self._records[0][0] + self._records[0][1].frames <= stop:
            self._records.popleft()

    def _cut(self, first: int) -> None:
        """End the gap that waits last before a frame: the leg has come back earlier than it said."""
        if not self._records:
            return
        start, gap = self._records[-1]
        if isinstance(gap, GapRecord) and first < start + gap.frames:
            self._records.pop()
            self.end = first
            if start < first:
                self._records.append((start, replace(gap, frames=first - start)))
