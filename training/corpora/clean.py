"""Sort the speech of a corpus folder by what its pauses hold: `python -m training.corpora clean FOLDER`.

First, room tone is cut from all speech, also from what is then left out: the kind `bed`, one file per speaker. Then
speech with an audible background becomes `real_noisy`, which is never mixed. Running it again gives the same manifest.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from tqdm import tqdm

from training.corpora.make import EXTRA_COLUMNS, Limits, floor_and_range_db, plain
from training.corpora.manifest import COLUMNS, MANIFEST_NAME, read_manifest
from training.corpora.pauses import Background, at_16_khz, background, join_tones, read_marks, room_tones

Float32 = NDArray[np.float32]
Row = dict[str, str]
Tones = dict[tuple[str, str, int], list[Float32]]

REJECTED = "speech_with_background"
"""Class of the `real_noisy` rows that were speech."""


@dataclass(slots=True)
class Sorted:
    """Counts of what was kept and left out, by source and reason."""

    kept: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    beds: int = 0
    bed_seconds: float = 0.0

    def lines(self) -> list[str]:
        """Return the counts as text lines."""
        lines = []
        for source in sorted({*self.kept, *self.left_out}):
            kept = ", ".join(f"{count} {reason}" for reason, count in sorted(self.kept[source].items())) or "nothing"
            left = ", ".join(f"{count} {why}" for why, count in sorted(self.left_out[source].items())) or "nothing"
            lines.append(f"{source}: kept {kept} ({self.seconds[source] / 60:.1f} min); left out {left}")
        return [*lines, f"room tone: {self.beds} files, {self.bed_seconds / 60:.1f} min"]


def clean(folder: Path, range_db: float, limits: Limits, *, sort: bool = True) -> Sorted:
    """Cut room tone and, if `sort`, set speech with an audible background apart; rewrite the manifest.

    Args:
        folder: Corpus folder with the teacher's `speech.npz`.
        range_db: Speech is clean if its pauses lie at least this far below it.
        limits: Floor and range for speech without enough pauses.
        sort: False only cuts room tone.

    Raises:
        ManifestError: The manifest cannot be used.
        SpeechMarksError: The teacher's file is missing.
    """
    read_manifest(folder)
    marks = read_marks(folder)
    with (folder / MANIFEST_NAME).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] != "bed"]
    account = Sorted()
    tones: Tones = defaultdict(list)
    owners: dict[tuple[str, str, int], Row] = {}
    for row in tqdm([row for row in rows if _spoken(row)], unit="file", desc="pauses"):
        samples, rate = soundfile.read(folder / row["path"], dtype="float32")
        if row["path"] not in marks:
            if sort:
                _sort(row, "unknown to the teacher: run training/vad_teacher.py", False, account)
            continue
        mark = marks[row["path"]]
        owner = (row["source"], row["speaker"], rate)
        tones[owner] += room_tones(samples, rate, mark)
        owners.setdefault(owner, row)
        if sort:
            _sort(row, *_verdict(samples, rate, background(at_16_khz(samples, rate), mark), range_db, limits), account)
    rows += _write_beds(folder, tones, owners, account)
    _write_manifest(folder, rows)
    return account


def _spoken(row: Row) -> bool:
    return row["kind"] == "speech" or row["class"] == REJECTED


def _verdict(
    samples: Float32, rate: int, measured: Background | None, range_db: float, limits: Limits
) -> tuple[str, bool]:
    """Return the reason and whether the speech is clean."""
    if measured is not None:
        good = measured.range_db >= range_db
        return ("by quiet pauses" if good else "by audible pauses"), good
    floor, span = floor_and_range_db(samples, rate)
    good = floor <= limits.floor_dbfs and span >= limits.range_db
    return ("without pauses, by floor and range"), good


def _sort(row: Row, reason: str, good: bool, account: Sorted) -> None:
    (account.kept if good else account.left_out)[row["source"]][reason] += 1
    account.seconds[row["source"]] += float(row["seconds"]) if good else 0.0
    row["kind"], row["class"] = ("speech", "clean") if good else ("real_noisy", REJECTED)


def _write_beds(folder: Path, tones: Tones, owners: dict[tuple[str, str, int], Row], account: Sorted) -> Iterable[Row]:
    beds = []
    for (source, speaker, rate), pieces in sorted(tones.items(), key=lambda item: item[0]):
        if not pieces:
            continue
        bed = np.clip(join_tones(pieces, rate), -1.0, 1.0)
        path = f"bed/{plain(source)}/{plain(speaker)}_{rate}.flac"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, bed, rate, subtype="PCM_16")
        row = owners[source, speaker, rate] | dict.fromkeys(EXTRA_COLUMNS, "")
        seconds = f"{len(bed) / rate:.3f}"
        beds.append(row | {"path": path, "kind": "bed", "class": "room_tone", "seconds": seconds, "original": speaker})
        account.beds += 1
        account.bed_seconds += len(bed) / rate
    return beds


def _write_manifest(folder: Path, rows: list[Row]) -> None:
    path = folder / MANIFEST_NAME
    partial = path.with_suffix(".part")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*COLUMNS, *EXTRA_COLUMNS), extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)
