"""Convert a public corpus on disk to a corpus folder: pieces in one format, and their rows in the manifest.

Stems are written as mono 16-bit FLAC at their own rate, at most 16 kHz. Nothing is upsampled. Speech that is clipped or
has an audible noise floor is left out and counted, because the model would learn that background as silence.
"""

from __future__ import annotations

import csv
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from tqdm import tqdm

from training.corpora.manifest import COLUMNS, MANIFEST_NAME
from training.corpora.recipes import FoundRecording

EXTRA_COLUMNS = ("floor_dbfs", "range_db", "notes")
MAX_RATE_HZ = 16_000
FRAME_S = 0.02
DIGITAL_SILENCE_DB = -110.0  # quieter frames are digital silence and do not show the room's noise floor
CLIPPED_RUN_SAMPLES = 4  # a run of at least 4 samples at the rail counts as overload
RAIL = 0.9995
MIN_SECONDS = 0.25

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much material to take, and which speech is clean enough."""

    minutes: float | None = None
    """Maximum minutes of each kind, spread evenly over speakers or classes; None takes everything."""
    piece_seconds: float = 30.0
    """Longer recordings are cut into pieces of this length."""
    recording_seconds: float = 120.0
    """Maximum length taken from one recording."""
    floor_dbfs: float = -48.0
    """Speech whose quiet frames (5th percentile) are louder than this is left out."""
    range_db: float = 34.0
    """Speech whose loud frames (95th percentile) are less than this above the quiet ones is left out."""


@dataclass(slots=True)
class Account:
    """Counts of what was written and what was left out; printed at the end."""

    files: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    left_out: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Return the account as text lines."""
        taken = (
            ", ".join(f"{kind} {seconds / 60:.1f} min" for kind, seconds in sorted(self.seconds.items())) or "nothing"
        )
        left = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common()) or "nothing"
        return [f"wrote {self.files} stems: {taken}", f"left out: {left}"]


def make(findings: Sequence[FoundRecording], out: Path, limits: Limits, *, seed: int = 0) -> Account:
    """Write the pieces of a corpus below `out` and its rows into `out/manifest.csv`.

    Existing rows of the same source are replaced and those of other sources kept, so several recipes can fill one
    folder. With `limits.minutes`, `seed` determines which files are taken.
    """
    account = Account()
    rows: list[dict[str, str]] = []
    used: set[str] = set()
    for finding in tqdm(_in_turn(findings, seed), total=len(findings), unit="file"):
        if limits.minutes is not None and account.seconds[finding.kind] >= limits.minutes * 60:
            account.left_out["beyond the requested minutes"] += 1
            continue
        for number, (samples, rate) in enumerate(_pieces(finding, limits, account)):
            row = _row(finding, samples, rate, number, used)
            target = out / row["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, samples, rate, subtype="PCM_16")
            rows.append(row)
            account.files += 1
            account.seconds[finding.kind] += len(samples) / rate
    _write_manifest(out, rows)
    account.seconds = {kind: seconds for kind, seconds in account.seconds.items() if seconds}
    return account


def floor_and_range_db(samples: Float32, rate: int) -> tuple[float, float]:
    """Return the level of the quiet 20 ms frames (5th percentile, dBFS), and the range up to the loud ones (95th)."""
    frame = int(rate * FRAME_S)
    count = len(samples) // frame
    energy = np.square(samples[: count * frame], dtype=np.float64).reshape(count, frame).mean(axis=1)
    levels = 10.0 * np.log10(np.maximum(energy, 1e-12))
    sounding = levels[levels > DIGITAL_SILENCE_DB]
    if sounding.size == 0:
        return -120.0, 0.0
    low, high = np.percentile(sounding, [5, 95])
    return float(low), float(high - low)


def _in_turn(findings: Iterable[FoundRecording], seed: int) -> Iterator[FoundRecording]:
    """Yield files round-robin over speakers or classes, in an order that depends only on the seed."""
    groups: dict[tuple[str, str], list[FoundRecording]] = defaultdict(list)
    for finding in findings:
        groups[(finding.kind, finding.speaker or finding.sound_class)].append(finding)
    drawn = random.Random(seed)
    for members in groups.values():
        drawn.shuffle(members)
    queues = list(groups.values())
    drawn.shuffle(queues)
    while queues:
        for members in queues:
            yield members.pop()
        queues = [members for members in queues if members]


def _pieces(finding: FoundRecording, limits: Limits, account: Account) -> Iterator[tuple[Float32, int]]:
    """Read one file and yield the pieces fit for training; count the others."""
    try:
        samples, rate = _read(finding, limits)
    except (soundfile.LibsndfileError, OSError):
        account.left_out["unreadable"] += 1
        return
    step = len(samples) if finding.kind == "rir" else int(limits.piece_seconds * rate)
    for start in range(0, max(len(samples), 1), max(step, 1)):
        piece = samples[start : start + step]
        wrong = _wrong(finding, piece, rate, limits)
        if wrong and not (start and wrong == "too short"):  # the short remainder of a long recording is not counted
            account.left_out[wrong] += 1
        elif not wrong:
            yield piece, rate


def _read(finding: FoundRecording, limits: Limits) -> tuple[Float32, int]:
    with soundfile.SoundFile(finding.path) as file:
        rate = file.samplerate
        count = -1 if finding.kind == "rir" else int(limits.recording_seconds * rate)
        samples = file.read(count, dtype="float32", always_2d=True)
    # Averaging the channels of an impulse response would describe a room that does not exist.
    mono = samples[:, 0] if finding.kind == "rir" else samples.mean(axis=1)
    for path in finding.further:  # the pieces of a recording have the format of the first one
        mono = np.concatenate([mono, soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)])
    if rate > MAX_RATE_HZ:
        mono, rate = soxr.resample(mono, rate, MAX_RATE_HZ), MAX_RATE_HZ
    return np.clip(np.asarray(mono, dtype=np.float32), -1.0, 1.0), rate


def _wrong(finding: FoundRecording, samples: Float32, rate: int, limits: Limits) -> str:
    if len(samples) < (0.01 if finding.kind == "rir" else MIN_SECONDS) * rate:
        return "too short"
    if not np.isfinite(samples).all():
        return "not finite"
    if np.abs(samples).max() < 1e-4:
        return "silent"
    if finding.kind != "speech":
        return ""
    if _overloaded(samples):
        return "clipped speech"
    floor, span = floor_and_range_db(samples, rate)
    return "speech with an audible floor" if floor > limits.floor_dbfs or span < limits.range_db else ""


def _overloaded(samples: Float32) -> bool:
    at_rail = np.concatenate([[0], (np.abs(samples) >= RAIL).astype(np.int64), [0]])
    edges = np.flatnonzero(np.diff(at_rail))
    return bool((edges[1::2] - edges[::2] >= CLIPPED_RUN_SAMPLES).any())


def _row(finding: FoundRecording, samples: Float32, rate: int, number: int, used: set[str]) -> dict[str, str]:
    """Return the manifest row of a piece, with a unique path."""
    parts = (finding.kind, finding.source, finding.speaker or finding.sound_class, f"{finding.path.stem}_{number}")
    base = path = "/".join(plain(part) for part in parts)
    again = 1
    while path in used:
        again += 1
        path = f"{base}-{again}"
    used.add(path)
    floor, span = floor_and_range_db(samples, rate)
    values = {
        "path": f"{path}.flac",
        "kind": finding.kind,
        "class": finding.sound_class,
        "source": finding.source,
        "speaker": finding.speaker,
        "language": finding.language,
        "sample_rate": str(rate),
        "seconds": f"{len(samples) / rate:.3f}",
        "licence": finding.licence,
        "split": finding.split,
        "original": finding.original,
        "floor_dbfs": f"{floor:.1f}",
        "range_db": f"{span:.1f}",
    }
    return values | {"notes": ""}


def plain(part: str) -> str:
    """Return a name that is safe in a path."""
    return re.sub(r"[^\w.+-]+", "_", part).strip("_") or "_"


def _write_manifest(out: Path, rows: Sequence[dict[str, str]]) -> None:
    """Replace the rows of these sources; write a temporary file and rename it, so an abort keeps the old manifest."""
    path = out / MANIFEST_NAME
    sources = {row["source"] for row in rows}
    kept: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.DictReader(file) if row["source"] not in sources]
    out.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *EXTRA_COLUMNS), extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows([*kept, *sorted(rows, key=lambda row: row["path"])])
    os.replace(partial, path)
