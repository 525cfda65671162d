"""Speech, noises and rooms of a training corpus, by the columns of its `manifest.csv` (see docs/training.md)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

from answers.signal import Float64, active_level, as_int16, below_full_scale, resampled

POOL_RATE_HZ = 16_000
MIN_RANGE_DB = 40.0  # loud frames above quiet ones: studios and quiet rooms
MAX_FLOOR_DBFS = -45.0
MIN_JOINED_S = 2.0  # shorter recordings hold one word; they are used alone, not joined
JOINT_S = 0.005
MIN_EDGE_S = 0.015  # zeros at an edge that are long enough to look like a loss
LEVELS_DBFS = (-28.0, -18.0)  # of active speech, about what telephones and studios record


@dataclass(frozen=True, slots=True)
class Clip:
    """One row of the manifest."""

    path: Path
    source: str
    speaker: str
    seconds: float

    @property
    def talker(self) -> str:
        """Name of the talker, unique among sources."""
        return f"{self.source}/{self.speaker}"


@dataclass(frozen=True, slots=True)
class Speech:
    """Clean speech and its talkers.

    Args:
        samples: float64, (n,).
        rate_hz: Their rate.
        talkers: Who talks.
    """

    samples: Float64
    rate_hz: int
    talkers: frozenset[str]

    def at(self, rate_hz: int) -> Speech:
        """Return it at another rate."""
        return Speech(resampled(self.samples, self.rate_hz, rate_hz), rate_hz, self.talkers)


class Pool:
    """Clean speech and noises of one split, read when they are needed.

    Args:
        folder: Holds `manifest.csv`.
        split: `valid` or `test`, which no model was trained on, or `train`.
        sources: Sources of speech; empty for all.
    """

    def __init__(self, folder: Path, split: str, sources: tuple[str, ...] = ()) -> None:
        manifest = folder / "manifest.csv"
        if not manifest.is_file():
            raise SystemExit(f"expected a speech and noise pool with manifest.csv, got {folder}: see docs/training.md")
        with manifest.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        speech = [row for row in rows if row["kind"] == "speech" and int(row["sample_rate"]) >= POOL_RATE_HZ]
        speech = [row for row in speech if not sources or row["source"] in sources]
        self._all = [_clip(folder, row) for row in speech]
        self.clips = [_clip(folder, row) for row in speech if _is_clean(row)]
        self.noises = {
            row["class"]: [folder / r["path"] for r in rows if r["class"] == row["class"] and r["kind"] == "noise"]
            for row in rows
            if row["kind"] == "noise"
        }
        self._in_zeros: list[Speech] | None = None
        self._by_talker: dict[str, list[Clip]] = {}
        for clip in self.clips:
            if clip.seconds >= MIN_JOINED_S:
                self._by_talker.setdefault(clip.talker, []).append(clip)
        if not self._by_talker:
            raise SystemExit(f"expected clean speech of split {split!r} at 16 kHz or more, got none in {manifest}")

    def speech(self, rng: np.random.Generator, seconds: float) -> Speech:
        """Return clean speech of one talker, or of several of one source if one has said too little.

        The clips follow each other in random order, at one random level; a window of them is cut out at random.

        Args:
            rng: Random numbers.
            seconds: Length.

        Returns:
            Speech at 16 kHz, of exactly that length.
        """
        level = float(rng.uniform(*LEVELS_DBFS))
        names = sorted(self._by_talker)
        first = names[rng.integers(len(names))]
        source = first.partition("/")[0]
        others = [name for name in names if name != first and name.partition("/")[0] == source]
        order = [first, *(others[i] for i in rng.permutation(len(others)))]
        wanted = round(seconds * POOL_RATE_HZ)
        joined = np.zeros(0)
        talkers = set()
        while len(joined) < wanted:
            for name in order:
                talkers.add(name)
                for i in rng.permutation(len(self._by_talker[name])):
                    joined = _join(joined, _levelled(_read(self._by_talker[name][i].path), level))
                if len(joined) >= wanted:
                    break
        start = int(rng.integers(len(joined) - wanted + 1))
        samples = below_full_scale(joined[start : start + wanted], 0.9)
        return Speech(samples, POOL_RATE_HZ, frozenset(talkers))

    def recording(self, rng: np.random.Generator, seconds: float = 10.0) -> Speech:
        """Return one recording as it is, cut to a length if it is longer."""
        clip = self.clips[rng.integers(len(self.clips))]
        return Speech(_read(clip.path)[: round(seconds * POOL_RATE_HZ)], POOL_RATE_HZ, frozenset({clip.talker}))

    def ending_in_zeros(self) -> list[Speech]:
        """Return the recordings that end or begin in zeros as they came from their source, clean or not."""
        if self._in_zeros is None:
            self._in_zeros = []
            for clip in self._all:
                samples = _read(clip.path)
                sounding = np.flatnonzero(as_int16(samples))
                edge = max(sounding[0], len(samples) - 1 - sounding[-1]) if len(sounding) else 0
                if edge >= MIN_EDGE_S * POOL_RATE_HZ:
                    self._in_zeros.append(Speech(samples, POOL_RATE_HZ, frozenset({clip.talker})))
        return self._in_zeros

    def noise(self, rng: np.random.Generator, classes: tuple[str, ...], count: int) -> Float64 | None:
        """Return samples of a recorded noise at 16 kHz, looped with 50 ms fades; None if the pool has no such class."""
        paths = [path for name in classes for path in self.noises.get(name, [])]
        if not paths:
            return None
        noise = _read(paths[rng.integers(len(paths))])
        looped = noise
        while len(looped) < count:
            looped = _join(looped, noise, 0.05)
        start = int(rng.integers(len(looped) - count + 1))
        return looped[start : start + count]


def _is_clean(row: dict[str, str]) -> bool:
    """Return whether the range and floor of a clip are those of clean speech; a manifest without them is trusted."""
    spread, floor = row.get("range_db"), row.get("floor_dbfs")
    return not (spread and floor) or (float(spread) >= MIN_RANGE_DB and float(floor) <= MAX_FLOOR_DBFS)


def _clip(folder: Path, row: dict[str, str]) -> Clip:
    return Clip(folder / row["path"], row["source"], row["speaker"], float(row["seconds"]))


@lru_cache(maxsize=2_000)
def _read(path: Path) -> Float64:
    samples, rate = soundfile.read(path, dtype="float64")
    return resampled(np.asarray(samples, np.float64), rate, POOL_RATE_HZ)


def _levelled(samples: Float64, level_dbfs: float) -> Float64:
    return samples * 10 ** ((level_dbfs - active_level(samples, POOL_RATE_HZ)) / 20)


def _join(left: Float64, right: Float64, fade_s: float = JOINT_S) -> Float64:
    """Join with a cross-fade."""
    size = round(fade_s * POOL_RATE_HZ)
    if len(left) < size:
        return right
    ramp = np.linspace(0, 1, size)
    both = left[-size:] * (1 - ramp) + right[:size] * ramp
    return np.concatenate([left[:-size], both, right[size:]])
