"""What the analysis of a call keeps of a leg: half a second as flags, levels and a narrow band of its sound.

A record is 2.3 KB, whatever the rate of the leg, and the same whether the call is analysed in the process that took the
leg or in another one, so the answer does not depend on where that was.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.02
RECORD_FRAMES = 25
"""Frames of a record; only the last one of a leg has fewer."""
BAND_RATE_HZ = 4_000
"""Rate of the sound that is kept: the fundamental and first formants, which every telephone codec transmits."""
FRAME_SAMPLES = round(FRAME_S * BAND_RATE_HZ)
LEVEL_FLOOR_DBFS = -127.5
TALK_DBFS = -65.0
"""Speech below this level is not a party of the call."""
_LEVEL_STEP_DB = 0.5

Bytes = NDArray[np.uint8]


class Flag:
    """What a frame of a leg holds, as bits; no flag: neither speech nor a known sound.

    Plain integers: operations of `enum.IntFlag` take ten times as long, and there are hundreds a second for each call.
    """

    TALK: Final = 1
    MUSIC: Final = 2
    TONE: Final = 4
    LOST: Final = 8
    """Not received."""
    SILENT: Final = 16
    """Not sent, because the sender had nothing to say (discontinuous transmission)."""
    HELD: Final = 32
    """Not sent, because the call was on hold or paused."""
    ABSENT: Final = 64
    """Before the leg began, after it ended, or too late for the analysis."""


@dataclass(frozen=True, slots=True, eq=False)
class LegRecord:
    """A part of one leg, n frames of 20 ms.

    Attributes:
        first_frame: Its first frame, counted from the leg's first sample.
        flags: uint8 (n,), combinations of `Flag`.
        levels: uint8 (n,), level of each frame in half decibels above `LEVEL_FLOOR_DBFS`.
        peaks: float32 (n,), what 127 in `band` stands for.
        band: int8 (n · 80,), the sound below 1.8 kHz at 4 kHz.
        sums: float32 (C,), sums of the scores over the frames that have them.
        counts: uint8 (C,), the number of these frames.
    """

    first_frame: int
    flags: Bytes
    levels: Bytes
    peaks: NDArray[np.float32]
    band: NDArray[np.int8]
    sums: NDArray[np.float32]
    counts: Bytes

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.flags)

    def samples(self) -> NDArray[np.float32]:
        """Return the sound, float32 (n · 80,) at 4 kHz."""
        scale = np.repeat(self.peaks * np.float32(1 / 127), FRAME_SAMPLES)
        return self.band.astype(np.float32) * scale

    def levels_dbfs(self) -> NDArray[np.float32]:
        """Return the level of each frame, float32 (n,)."""
        return in_dbfs(self.levels)

    def encode(self) -> dict[str, Any]:
        """Return it as values that JSON can hold; `decode` reverses it."""
        return {
            name: value if isinstance(value, int) else b64encode(value.tobytes()).decode()
            for name, value in ((name, getattr(self, name)) for name in self.__slots__)
        }

    @classmethod
    def decode(cls, found: Mapping[str, Any]) -> LegRecord:
        """Return the record that `encode` was called for."""
        arrays = {name: np.frombuffer(b64decode(found[name]), kind) for name, kind in _TYPES.items()}
        return cls(first_frame=found["first_frame"], **arrays)


@dataclass(frozen=True, slots=True)
class GapRecord:
    """Frames of a leg in which it holds nothing, however many: one item stands for a day on hold.

    Attributes:
        first_frame: Its first frame, counted from the leg's first sample.
        frames: Their number.
        flag: What each of them holds, of `Flag`: why nothing was received; 0 if that is unknown.
    """

    first_frame: int
    frames: int
    flag: int

    def encode(self) -> dict[str, Any]:
        """Return it as values that JSON can hold; `decode` reverses it."""
        return {"first_frame": self.first_frame, "frames": self.frames, "flag": self.flag}

    @classmethod
    def decode(cls, found: Mapping[str, Any]) -> GapRecord:
        """Return the gap that `encode` was called for."""
        return cls(found["first_frame"], found["frames"], found["flag"])


AnyRecord = LegRecord | GapRecord

_TYPES: dict[str, type[np.generic]] = {
    "flags": np.uint8,
    "levels": np.uint8,
    "peaks": np.float32,
    "band": np.int8,
    "sums": np.float32,
    "counts": np.uint8,
}


def in_dbfs(levels: Bytes) -> NDArray[np.float32]:
    """Return `LegRecord.levels` as dBFS."""
    return levels * np.float32(_LEVEL_STEP_DB) + np.float32(LEVEL_FLOOR_DBFS)


def quantized_levels(mean_squares: NDArray[np.float32]) -> Bytes:
    """Return mean squares as `LegRecord.levels`."""
    levels_dbfs = 10.0 * np.log10(mean_squares + np.float32(1e-13))
    steps = np.round((levels_dbfs - LEVEL_FLOOR_DBFS) / _LEVEL_STEP_DB)
    quantized: Bytes = np.clip(steps, 0, 255).astype(np.uint8)
    return quantized
