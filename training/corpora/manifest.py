"""The manifest: one CSV row per stem; reading, validation and statistics.

Required columns: path, kind, class, source, speaker, language, sample_rate, seconds, licence, split, original.
The column `microphone` may be missing, and other columns are ignored. `speaker` may be empty for stems without speech.
`original` is the recording that a stem was cut from.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MANIFEST_NAME = "manifest.csv"
KINDS = ("speech", "noise", "music", "rir", "bed", "real_noisy")
SPLITS = ("train", "valid", "test")
NON_COMMERCIAL_MARKS = ("NON-COMMERCIAL", "NONCOMMERCIAL", "BY-NC", "NC 3.0", "NC 4.0")
BOTH_USES = "COMMERCIAL AND NON-COMMERCIAL"  # allows both
COLUMNS = (
    "path",
    "kind",
    "class",
    "source",
    "speaker",
    "language",
    "sample_rate",
    "seconds",
    "licence",
    "split",
    "original",
)
OPTIONAL_COLUMNS = ("microphone",)
MICROPHONES = ("studio", "crowd", "phone")
"""Kinds of microphones: chosen for recording, whatever a volunteer has, telephone."""


def allows_commercial_use(licence: str) -> bool:
    """Whether a licence's text contains no non-commercial mark."""
    terms = licence.upper().replace(BOTH_USES, "")
    return not any(mark in terms for mark in NON_COMMERCIAL_MARKS)


class ManifestError(Exception):
    """The manifest cannot be used; the message lists every error with its line number."""


@dataclass(frozen=True, slots=True)
class Stem:
    """One row: a recording of a single kind of sound."""

    path: str
    kind: str
    sound_class: str
    source: str
    speaker: str
    language: str
    sample_rate_hz: int
    seconds: float
    licence: str
    split: str
    original: str
    microphone: str = ""

    @property
    def commercial(self) -> bool:
        """Whether the licence text contains no non-commercial mark."""
        return allows_commercial_use(self.licence)

    @property
    def group(self) -> str:
        """The unit that must not be in two splits: the speaker if there is one, else the original recording."""
        return f"{self.source}/{self.speaker or self.original}"


def read_manifest(folder: Path) -> list[Stem]:
    """Read `manifest.csv` in a corpus folder.

    Raises:
        ManifestError: The file or a column is missing, or rows have invalid values; all errors are listed.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ManifestError(f"expected a manifest at {path}: create one with the columns {', '.join(COLUMNS)}")
    stems: list[Stem] = []
    wrong: list[str] = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ManifestError(f"{path}: columns missing: {', '.join(missing)}")
        for line, row in enumerate(reader, start=2):
            try:
                stems.append(_stem(row))
            except ValueError as error:
                wrong.append(f"line {line}: {error}")
    if wrong:
        raise ManifestError(f"{path}:\n  " + "\n  ".join(wrong))
    return stems


def _stem(row: dict[str, str]) -> Stem:
    if row["kind"] not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {row['kind']!r}")
    if row["split"] not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {row['split']!r}")
    if not row["path"] or Path(row["path"]).is_absolute() or ".." in Path(row["path"]).parts:
        raise ValueError(f"path must be relative and inside the folder, got {row['path']!r}")
    if row["kind"] in ("speech", "bed") and not row["speaker"]:
        raise ValueError(f"{row['kind']} needs a speaker")
    if not row["licence"]:
        raise ValueError("licence is empty; write what the source states")
    microphone = row.get("microphone") or ""
    if microphone and microphone not in MICROPHONES:
        raise ValueError(f"microphone must be one of {', '.join(MICROPHONES)}, or empty, got {microphone!r}")
    rate, seconds = int(row["sample_rate"]), float(row["seconds"])
    if not 4_000 <= rate <= 192_000:
        raise ValueError(f"sample_rate must be 4000 … 192000, got {rate}")
    if not seconds > 0:
        raise ValueError(f"seconds must be positive, got {seconds}")
    return Stem(
        path=row["path"],
        kind=row["kind"],
        sound_class=row["class"],
        source=row["source"],
        speaker=row["speaker"],
        language=row["language"],
        sample_rate_hz=rate,
        seconds=seconds,
        licence=row["licence"],
        split=row["split"],
        original=row["original"] or row["path"],
        microphone=microphone,
    )


def validate(stems: Sequence[Stem], folder: Path | None = None) -> list[str]:
    """List what makes a manifest unfit for training: duplicates, leaks between splits, missing files."""
    wrong: list[str] = []
    seen: dict[str, int] = defaultdict(int)
    splits: dict[str, set[str]] = defaultdict(set)
    for stem in stems:
        seen[stem.path] += 1
        splits[stem.group].add(stem.split)
    wrong += [f"{path}: listed {count} times" for path, count in seen.items() if count > 1]
    wrong += [
        f"{group}: in several splits ({', '.join(sorted(found))}); a speaker or recording must be in one split"
        for group, found in splits.items()
        if len(found) > 1
    ]
    if folder is not None:
        wrong += [f"{stem.path}: no such file" for stem in stems if not (folder / stem.path).is_file()]
    return wrong


def manifest_sha256(folder: Path) -> str:
    """Return the hash of the manifest file, which is stored in checkpoints."""
    return hashlib.sha256((folder / MANIFEST_NAME).read_bytes()).hexdigest()


def hours_by(stems: Iterable[Stem], *fields: str) -> dict[tuple[str, ...], float]:
    """Return total hours grouped by the named attributes, sorted by key."""
    totals: dict[tuple[str, ...], float] = defaultdict(float)
    for stem in stems:
        totals[tuple(str(getattr(stem, field)) for field in fields)] += stem.seconds / 3600
    return dict(sorted(totals.items()))
