"""What a speech recording's pauses show: whether its background is audible, and room tone to cut out.

The pauses are those of the teacher (`training/vad_teacher.py`), whose probabilities stand in FOLDER/speech.npz.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

SPEECH_NAME = "speech.npz"
RATE_HZ = 16_000
FRAME = 320
FRAMES_PER_S = RATE_HZ / FRAME
PAUSE, TALK = 0.1, 0.9  # a frame with a lower probability is a pause, one with a higher probability is speech
PAUSE_MARGIN = 5  # frames (100 ms) at both ends of a pause that are not measured: decay and breath
MIN_PAUSE_FRAMES = 15  # 0.3 s of measured pauses; less does not show the background
MIN_TALK_FRAMES = 10
BED_PAUSE = 0.05
BED_MARGIN = 8  # frames: at least 150 ms at both ends
BED_SECONDS = 0.45
BED_PEAK_DB = 14.0  # a piece whose peak is further above its level contains a click
BED_QUIETEST_DBFS = -88.0  # a quieter frame was gated: digital silence instead of the room
SEAM_S = 0.02  # crossfade between two pieces
MAX_BED_SECONDS = 30.0
BED_LEVEL_DBFS = -30.0  # room tone is stored at this level, far above the steps of 16 bits


class SpeechMarksError(Exception):
    """The teacher's file is missing or does not fit the recordings; the message says what to run."""


@dataclass(frozen=True, slots=True)
class Background:
    """Levels of one recording, dBFS; `range_db` is the difference."""

    speech_dbfs: float
    pause_dbfs: float

    @property
    def range_db(self) -> float:
        """How far the pauses lie below the speech, dB."""
        return self.speech_dbfs - self.pause_dbfs


def read_marks(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the teacher's probabilities: uint8 (n,) by path, 255 times the probability of each 20 ms frame.

    Raises:
        SpeechMarksError: The folder has no such file.
    """
    path = folder / SPEECH_NAME
    if not path.is_file():
        raise SpeechMarksError(f"expected the teacher's file at {path}: run training/vad_teacher.py {folder}")
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def background(samples: Float32, marks: NDArray[np.uint8]) -> Background | None:
    """Measure speech and pauses of a recording; None if it has too little of either.

    Args:
        samples: float32 (n,) at 16 kHz.
        marks: uint8 (ceil(n / 320),) from the teacher.
    """
    energy = _energies(samples)
    heard = marks[: energy.size].astype(np.float64) / 255.0
    energy = energy[: heard.size]
    quiet = erode(heard < PAUSE, PAUSE_MARGIN)
    loud = heard > TALK
    if quiet.sum() < MIN_PAUSE_FRAMES or loud.sum() < MIN_TALK_FRAMES:
        return None
    return Background(_db(energy[loud].mean()), _db(energy[quiet].mean()))


def room_tones(samples: Float32, rate_hz: int, marks: NDArray[np.uint8]) -> list[Float32]:
    """Cut the pauses that hold nothing but the room, each at `BED_LEVEL_DBFS`.

    Args:
        samples: float32 (n,) at `rate_hz`.
        rate_hz: Rate of the samples; the marks count frames of 20 ms.
        marks: uint8 from the teacher.

    Returns:
        Pieces of at least `BED_SECONDS` without digital silence and clicks.
    """
    frame = int(rate_hz / FRAMES_PER_S)
    count = min(len(samples) // frame, len(marks))
    frames = samples[: count * frame].reshape(count, frame).astype(np.float64)
    level = 10.0 * np.log10(np.square(frames).mean(axis=1) + 1e-12)
    peak = 20.0 * np.log10(np.abs(frames).max(axis=1) + 1e-9)
    pieces = []
    for start, stop in _runs(erode(marks[:count] < BED_PAUSE * 255.0, BED_MARGIN)):
        room = level[start:stop] >= BED_QUIETEST_DBFS
        usual = np.median(level[start:stop][room]) if room.any() else 0.0
        room &= peak[start:stop] <= usual + BED_PEAK_DB
        for first, last in _runs(room):
            piece = samples[(start + first) * frame : (start + last) * frame]
            if len(piece) >= BED_SECONDS * rate_hz and (rms := _room_level(piece)) is not None:
                pieces.append(piece * np.float32(10.0 ** ((BED_LEVEL_DBFS - rms) / 20.0)))
    return pieces


def join_tones(pieces: list[Float32], rate_hz: int) -> Float32:
    """Join pieces with crossfades of constant power, up to `MAX_BED_SECONDS`."""
    seam = int(SEAM_S * rate_hz)
    rise = np.sin(np.linspace(0.0, np.pi / 2.0, seam)).astype(np.float32)
    joined = pieces[0]
    for piece in pieces[1:]:
        if len(joined) >= MAX_BED_SECONDS * rate_hz:
            break
        both = joined[-seam:] * rise[::-1] + piece[:seam] * rise
        joined = np.concatenate([joined[:-seam], both, piece[seam:]])
    return joined[: int(MAX_BED_SECONDS * rate_hz)]


def erode(mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Remove `count` frames at both ends of each run of True, but not where the run ends with the recording."""
    padded = np.pad(mask, count, mode="edge")
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, 2 * count + 1).all(axis=1))


def at_16_khz(samples: Float32, rate_hz: int) -> Float32:
    """Return the samples at 16 kHz, the rate that the teacher heard."""
    return samples if rate_hz == RATE_HZ else np.asarray(soxr.resample(samples, rate_hz, RATE_HZ), dtype=np.float32)


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the first frame of each run of True, and the frame after its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def _room_level(piece: Float32) -> float | None:
    """Return the level of a piece, dBFS; None if it contains a click."""
    level = _db(np.square(piece, dtype=np.float64).mean())
    peak_db = 20.0 * float(np.log10(np.abs(piece).max() + 1e-9))
    return level if peak_db - level <= BED_PEAK_DB else None


def _energies(samples: Float32) -> NDArray[np.float64]:
    count = len(samples) // FRAME
    return np.asarray(np.square(samples[: count * FRAME], dtype=np.float64).reshape(count, FRAME).mean(axis=1))


def _db(energy: float) -> float:
    return float(10.0 * np.log10(max(float(energy), 1e-12)))
