"""Whether a leg carries anybody: one-way audio, told apart from a listener, mute, hold and announcements.

A leg that is muted, or whose party listens, is as silent as one whose audio is lost. What tells them apart is that a
leg which has been heard works. So a leg has to be heard once when it begins, and again after each hold, because that is
when a path is set up anew; any sound proves it. Until then it is suspect while the other party speaks. A leg from which
nothing is received any more is suspect at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.records import Flag
from speech_qc.calls.talk import NEVER

SPEECH_FRAMES = 250
"""Frames that the other party has to speak: 5 s."""
ANSWER_FRAMES = 45
"""Frames after that in which an answer still proves the leg."""
PAUSE_FRAMES = 50
"""Pauses up to this length belong to the other party's speech."""
QUEUE_FRAMES = 1_500
"""Speech this soon after music on the same leg is an announcement of a queue, not a person who waits for an answer."""
_PROOF_FRAMES = 6
_HOLD_FRAMES = 30
_SOUND_DBFS, _SOUND_DB, _SOUND_TURNS = -55.0, 10.0, 4


class Presence:
    """Watches one leg, frame by frame."""

    def __init__(self) -> None:
        self.begin: int | None = None
        """Frame since which the other party speaks to a silent leg; None while there is no one-way audio."""
        self._proved = False
        self._speech = 0  # frames in a row with speech on this leg
        self._held = 0  # frames in a row with music or tones on this leg
        self._spoken = 0  # frames of the other party's speech
        self._since = 0
        self._due: int | None = None
        self._music = NEVER  # last frame of music on the other leg
        self._levels = np.full(50, -127.0, np.float32)

    def prove(self) -> None:
        """Note that the leg works: keys were pressed."""
        self._proved = True

    def hear(self, levels_dbfs: NDArray[np.float32]) -> None:
        """Take the levels of the next frames: a sound that comes and goes is no comfort noise, so it proves the leg."""
        self._levels = np.concatenate((self._levels, levels_dbfs))[-50:]
        if self._proved:
            return
        levels = np.maximum(self._levels, _SOUND_DBFS - _SOUND_DB)
        low, high = np.percentile(levels, (10, 90))
        if high - low >= _SOUND_DB and high >= _SOUND_DBFS:
            above = levels > (low + high) / 2
            if np.count_nonzero(above[1:] != above[:-1]) >= _SOUND_TURNS:
                self._proved = True

    def add(self, frame: int, flags: int, other_flags: int, other_last: int) -> bool:
        """Take a frame.

        Args:
            frame: Its number.
            flags: What this leg holds.
            other_flags: What the other leg holds.
            other_last: Last frame in which the other party spoke.

        Returns:
            Whether there is one-way audio.
        """
        self._watch(flags)
        if other_flags & Flag.MUSIC:
            self._music = frame
        gone = bool(flags & Flag.LOST)
        if (self._proved and not gone) or flags & (Flag.HELD | Flag.ABSENT) or self._held >= _HOLD_FRAMES:
            self._spoken, self._due, self.begin = 0, None, None
            return False
        if frame - other_last <= PAUSE_FRAMES and frame - self._music > QUEUE_FRAMES:
            if not self._spoken:
                self._since = frame
            self._spoken += 1
        if self._spoken >= SPEECH_FRAMES and self._due is None:
            self._due = frame + ANSWER_FRAMES
        if self._due is not None and frame >= self._due and self.begin is None:
            self.begin = self._since
        return self.begin is not None

    def _watch(self, flags: int) -> None:
        self._speech = self._speech + 1 if flags & Flag.TALK and not flags & Flag.MUSIC else 0
        self._held = self._held + 1 if flags & (Flag.MUSIC | Flag.TONE) else 0
        if self._held >= _HOLD_FRAMES or flags & Flag.HELD:
            self._proved = False
        elif self._speech >= _PROOF_FRAMES:
            self._proved = True
