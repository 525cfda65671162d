"""Load files as clean stems: one sample rate, no DC, no edge silence, one level; unusable files are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from training.corpora.manifest import Stem
from training.corpora.pauses import SPEECH_NAME, read_marks

SAMPLE_RATE_HZ = 16_000
FRAME = 320  # 20 ms, the frame of the output
NORMAL_LEVEL_DBFS = -26.0  # active level of every stem after preprocessing; ITU-T P.56 practice for speech corpora
EDGE_RANGE_DB = 45.0  # edge frames this far below the stem's loud frames are silence
EDGE_KEEP = 1_600  # keep 100 ms at each edge, so that onsets and decays are complete
MIN_SECONDS = 0.25
MAX_CLIPPED_RATIO = 0.005
FLOOR_PERCENTILE = 5.0


@dataclass(frozen=True, slots=True)
class Recording:
    """A stem in memory, at 16 kHz and the normal level."""

    stem: Stem
    samples: NDArray[np.float32]
    floor_db: float
    """Level of the quietest frames (5th percentile) relative to full scale, after normalisation."""
    talking: NDArray[np.float32] | None = None
    """The VAD teacher's probability of speech per 20 ms frame; None without a teacher."""


@dataclass(slots=True)
class Report:
    """Counts of what preprocessing did; printed, and stored in checkpoints."""

    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    trimmed_s: float = 0.0
    dc_removed: int = 0
    taught: int = 0
    """Stems with speech probabilities of the VAD teacher."""

    def lines(self) -> list[str]:
        """Return the report as text lines."""
        rejected = ", ".join(f"{count} {reason}" for reason, count in self.rejected.most_common()) or "none"
        return [
            f"kept {self.kept} stems; rejected: {rejected}",
            f"removed DC from {self.dc_removed}, trimmed {self.trimmed_s:.1f} s of edge silence",
            f"speech probabilities of a VAD teacher for {self.taught}",
        ]


def load(folder: Path, stems: Iterable[Stem], *, progress: bool = True) -> tuple[list[Recording], Report]:
    """Read and preprocess stems; unusable ones are left out and counted in the report."""
    report = Report()
    recordings: list[Recording] = []
    talking = read_marks(folder) if (folder / SPEECH_NAME).is_file() else {}
    for stem in tqdm(list(stems), desc="reading stems", unit="file", disable=not progress):
        outcome = load_one(folder, stem, report, talking.get(stem.path))
        if isinstance(outcome, str):
            report.rejected[outcome] += 1
        else:
            report.kept += 1
            report.taught += outcome.talking is not None
            recordings.append(outcome)
    return recordings, report


def load_one(folder: Path, stem: Stem, report: Report, talking: NDArray[np.uint8] | None = None) -> Recording | str:
    """Preprocess one stem; return the reason if it is rejected.

    Args:
        folder: Corpus folder.
        stem: Row of the manifest.
        report: Counts what was done.
        talking: The VAD teacher's probability of speech per 20 ms of the file at 16 kHz, 255 for 1.
    """
    try:
        samples, rate = soundfile.read(folder / stem.path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError):
        return "unreadable"
    mono = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        return "not finite"
    if stem.kind != "rir" and np.mean(np.abs(mono) >= 0.9999) > MAX_CLIPPED_RATIO:
        return "clipped"
    if rate != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate, SAMPLE_RATE_HZ)
    if stem.kind == "rir":
        return _impulse_response(stem, mono)
    offset = float(mono.mean())
    if abs(offset) > 1e-4:
        mono = mono - np.float32(offset)
        report.dc_removed += 1
    if len(mono) < MIN_SECONDS * SAMPLE_RATE_HZ:
        return "too short"
    start, stop = sounding_span(mono)
    trimmed = mono[start:stop]
    report.trimmed_s += (len(mono) - len(trimmed)) / SAMPLE_RATE_HZ
    level = active_level_db(trimmed)
    if level < -90.0:
        return "silent"
    scaled = (trimmed * np.float32(10.0 ** ((NORMAL_LEVEL_DBFS - level) / 20.0))).astype(np.float32)
    if talking is not None:  # a span starts at a whole frame
        talking = talking[start // FRAME : -(-stop // FRAME)]
        return Recording(stem, scaled, _floor_db(scaled), talking.astype(np.float32) / np.float32(255.0))
    return Recording(stem, scaled, floor_db=_floor_db(scaled))


def _impulse_response(stem: Stem, samples: NDArray[np.float32]) -> Recording | str:
    """Start an impulse response at its direct sound and normalise it to unit energy."""
    peak = int(np.argmax(np.abs(samples)))
    if samples[peak] == 0.0:
        return "silent"
    response = samples[max(0, peak - 16) :]  # 1 ms before the peak keeps the onset of the direct sound
    response = response / np.sqrt(np.sum(np.square(response)))
    return Recording(stem, response.astype(np.float32), floor_db=-120.0)


def frame_levels_db(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the level of each complete 20 ms frame, dBFS; silence is -120."""
    count = len(samples) // FRAME
    energy = np.square(samples[: count * FRAME], dtype=np.float64).reshape(count, FRAME).mean(axis=1)
    return np.asarray(10.0 * np.log10(np.maximum(energy, 1e-12)))


def active_level_db(samples: NDArray[np.float32]) -> float:
    """Return the mean level of the frames within 30 dB of the loud ones (95th percentile), dBFS."""
    levels = frame_levels_db(samples)
    active = levels[levels > np.percentile(levels, 95) - 30.0]
    if active.size == 0:
        return -120.0
    return float(10.0 * np.log10(np.mean(10.0 ** (active / 10.0))))


def sounding_span(samples: NDArray[np.float32]) -> tuple[int, int]:
    """Return the samples from start to stop without edge frames far below the loud ones, but with 100 ms of them."""
    levels = frame_levels_db(samples)
    loud = np.flatnonzero(levels > np.percentile(levels, 95) - EDGE_RANGE_DB)
    if loud.size == 0:
        return 0, len(samples)
    start = max(0, int(loud[0]) * FRAME - EDGE_KEEP)
    return start, min(len(samples), (int(loud[-1]) + 1) * FRAME + EDGE_KEEP)


def _floor_db(samples: NDArray[np.float32]) -> float:
    levels = frame_levels_db(samples)
    sounding = levels[levels > -110.0]
    return float(np.percentile(sounding, FLOOR_PERCENTILE)) if sounding.size else -120.0
