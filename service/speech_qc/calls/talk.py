"""When a leg talks: frames of speech as spurts, and how long the parties take to answer each other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BRIDGE = 15
"""Frames without speech that do not end a spurt: pauses between the words of a phrase."""
CONFIRM = 5
"""Frames of speech that make a spurt; fewer are a click or a mistake."""
NEVER = -(2**40)

_RESPONSE_BINS = 1_500
"""Frames of the longest response that is counted, 30 s; a later answer belongs to something else."""


@dataclass(slots=True)
class Talker:
    """The speech of one leg, frame by frame."""

    start: int = NEVER
    """First frame of the spurt in progress, or of the last one."""
    last: int = NEVER
    """Last frame with speech."""
    before: int = NEVER
    """Last frame of the spurt before this one."""
    frames: int = 0
    """Frames with speech in this spurt."""
    confirmed: bool = False
    """Whether this spurt is long enough to count."""
    total: int = 0
    """Frames of all spurts that count, their short pauses included."""

    def add(self, frame: int) -> bool:
        """Take a frame with speech; return whether it is the one that confirms its spurt."""
        if frame - self.last > BRIDGE + 1:
            if self.confirmed:
                self.before = self.last
            self.start, self.frames, self.confirmed = frame, 0, False
        elif self.confirmed:
            self.total += frame - self.last
        self.last = frame
        self.frames += 1
        if self.confirmed or self.frames < CONFIRM:
            return False
        self.confirmed = True
        self.total += frame - self.start + 1
        return True

    @property
    def spoke(self) -> int:
        """Last frame of a spurt that counts."""
        return self.last if self.confirmed else self.before

    def active(self, frame: int) -> bool:
        """Whether it talks at this frame, short pauses included."""
        return self.confirmed and frame - self.last <= BRIDGE


@dataclass(slots=True)
class Responses:
    """How long one party took to answer the other one; exact to a frame, in constant memory."""

    counts: NDArray[np.int32] = field(default_factory=lambda: np.zeros(_RESPONSE_BINS, np.int32))

    def add(self, frames: int) -> None:
        """Count a response, if it is short enough to be one."""
        if 0 <= frames < _RESPONSE_BINS:
            self.counts[frames] += 1

    @property
    def total(self) -> int:
        """Number of responses."""
        return int(self.counts.sum())


def quantile_frames(counts: NDArray[np.int32], share: float) -> int | None:
    """Return the smallest response that at least this share of the responses does not exceed; None if there are none.

    Args:
        counts: int32 (1500,), see `Responses.counts`.
        share: Above 0, at most 1.
    """
    total = int(counts.sum())
    return int(np.searchsorted(np.cumsum(counts), max(1.0, np.ceil(share * total)))) if total else None
