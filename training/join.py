"""Join corpora and hold out whole sources: `python -m training.join OUT FOLDER [FOLDER …]`.

Writes two corpus folders. In OUT, `valid` serves early stopping, calibration and the choice of thresholds. In
OUT-figures, `valid` serves only reported figures. Sources without training rows alternate between the two. Held-out
rows of sources with training rows are divided by speaker or recording, and their speech goes only to OUT; rooms
alternate in order of length, so that both halves have reverberant ones. `--figures` reserves more for OUT-figures,
training rows included. The marks of `training/vad_teacher.py` are joined, too.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.corpora.manifest import (
    COLUMNS,
    MANIFEST_NAME,
    OPTIONAL_COLUMNS,
    ManifestError,
    allows_commercial_use,
    read_manifest,
)
from training.corpora.pauses import SPEECH_NAME, read_marks

Row = dict[str, str]
ESC50_CLIP = re.compile(r"\d-(?P<recording>\d+)-[A-Z]-\d+")


def read_rows(folders: Sequence[Path]) -> list[Row]:
    """Return the rows of all folders, with paths prefixed by the number of the folder.

    A speaker or recording that is held out in one folder and used for training in another is held out. Of a recording
    without a speaker that several folders have, the last folder's rows are taken.

    Raises:
        ManifestError: A manifest cannot be used.
    """
    rows: list[Row] = []
    for number, folder in enumerate(folders):
        read_manifest(folder)
        with (folder / MANIFEST_NAME).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                kept = {name: row.get(name) or "" for name in (*COLUMNS, *OPTIONAL_COLUMNS)}
                rows.append(kept | {"path": f"part{number}/{row['path']}"})
    newest = {_group(row): _part(row) for row in rows if not row["speaker"]}  # later folders overwrite earlier ones
    rows = [row for row in rows if row["speaker"] or newest[_group(row)] == _part(row)]
    held = {_group(row) for row in rows if row["split"] != "train"}
    return [row for row in rows if row["split"] != "train" or _group(row) not in held]


def _part(row: Row) -> str:
    return row["path"].split("/", 1)[0]


def reserved(rows: Sequence[Row], figures: Sequence[str]) -> set[str]:
    """Return the speakers and recordings that `figures` reserves for figures.

    Args:
        rows: Rows of all folders.
        figures: Each a source, `SOURCE:LANGUAGE`, `SOURCE:half` (half of its speakers, by hash), or `SOURCE:valid`
            (its held-out rows).

    Raises:
        ManifestError: One of them matches no row.
    """
    groups: set[str] = set()
    for name in figures:
        source, _, part = name.partition(":")
        found = {_group(row) for row in rows if row["source"] == source and _matches(row, part)}
        if not found:
            raise ManifestError(f"expected rows of {name}, got none: write SOURCE, SOURCE:LANGUAGE, :half or :valid")
        groups |= found
    return groups


def _matches(row: Row, part: str) -> bool:
    if part == "half":
        return hashlib.sha256(_group(row).encode()).digest()[0] % 2 == 1
    if part == "valid":
        return row["split"] != "train"
    return not part or row["language"] == part


def _group(row: Row) -> str:
    return f"{row['source']}/{row['speaker'] or row['original']}"


def divide(rows: Sequence[Row]) -> dict[str, str]:
    """Assign every source without training rows to `choose` or `figures`, alternating in order of length."""
    known = {row["source"] for row in rows if row["split"] == "train"}
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        if row["source"] not in known and row["kind"] not in ("real_noisy", "bed"):
            seconds[row["kind"]][row["source"]] += float(row["seconds"])
    half: dict[str, str] = {}
    for kind in sorted(seconds):
        for place, source in enumerate(sorted(seconds[kind], key=lambda name: -seconds[kind][name])):
            half.setdefault(source, "choose" if place % 2 == 0 else "figures")
    return half


def divide_rooms(rows: Sequence[Row]) -> dict[str, str]:
    """Assign the held-out rooms, by their `_group`, to `choose` and `figures`, alternating in order of length."""
    rooms = sorted((float(row["seconds"]), _group(row)) for row in rows if row["kind"] == "rir")
    return {group: "figures" if place % 2 else "choose" for place, (_, group) in enumerate(rooms)}


def half_of(row: Row, half: dict[str, str]) -> str:
    """Return `choose` or `figures` for a row outside the training split; `half` has sources, and rooms by group."""
    for name in (row["source"], _group(row)):
        if name in half:
            return half[name]
    if row["speaker"]:
        return "choose"
    return "figures" if zlib.crc32(_recording(row).encode()) % 2 else "choose"


def _recording(row: Row) -> str:
    """Return what no two halves may share: `_group`, but all clips of a recording of ESC-50 (FOLD-ID-TAKE-CLASS)."""
    clip = ESC50_CLIP.fullmatch(row["original"]) if row["source"] == "ESC-50" else None
    return f"ESC-50/{clip['recording']}" if clip else _group(row)


def join(out: Path, folders: Sequence[Path], figures: Sequence[str] = (), *, commercial: bool = False) -> list[Path]:
    """Write the two corpus folders and return their paths.

    Args:
        out: OUT; OUT-figures is written beside it.
        folders: Corpora to join.
        figures: What `reserved` reserves for OUT-figures.
        commercial: Leave out rows whose licence forbids commercial use.

    Raises:
        ManifestError: A manifest cannot be used, or `figures` names something unknown.
    """
    rows = [row for row in read_rows(folders) if not commercial or allows_commercial_use(row["licence"])]
    only_figures = reserved(rows, figures)
    rows = [row | {"split": "valid"} if _group(row) in only_figures else row for row in rows]
    divided = [row for row in rows if _group(row) not in only_figures]
    half = divide(divided)
    half |= divide_rooms([row for row in divided if row["split"] != "train" and row["source"] not in half])
    marks = {
        f"part{number}/{path}": mark
        for number, part in enumerate(folders)
        if (part / SPEECH_NAME).is_file()
        for path, mark in read_marks(part).items()
    }
    made = []
    for name, folder in (("choose", out), ("figures", out.with_name(out.name + "-figures"))):
        folder.mkdir(parents=True, exist_ok=True)
        for number, part in enumerate(folders):
            link = folder / f"part{number}"
            link.unlink(missing_ok=True)
            link.symlink_to(part.resolve(), target_is_directory=True)
        with (folder / MANIFEST_NAME).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=(*COLUMNS, *OPTIONAL_COLUMNS))
            writer.writeheader()
            for row in rows:
                split = row["split"]
                if split != "train":
                    owner = "figures" if _group(row) in only_figures else half_of(row, half)
                    split = "valid" if owner == name else "test"
                writer.writerow(row | {"split": split})
        if marks:
            kept = {row["path"] for row in rows if row["kind"] == "speech"}
            known = {path: mark for path, mark in marks.items() if path in kept}
            np.savez_compressed(folder / SPEECH_NAME, allow_pickle=False, **known)
        made.append(folder)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.join", description=__doc__)
    parser.add_argument("out", type=Path, help="corpus folder to write; OUT-figures is written next to it")
    parser.add_argument("folders", type=Path, nargs="+", help="corpora to join")
    parser.add_argument(
        "--figures",
        nargs="+",
        default=[],
        metavar="SOURCE[:PART]",
        help="only for figures: a source, a language of it, :half of its speakers, or its :valid rows",
    )
    parser.add_argument("--commercial", action="store_true", help="leave out what forbids commercial use")
    options = parser.parse_args(argv)
    try:
        made = join(options.out, options.folders, options.figures, commercial=options.commercial)
    except ManifestError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print("\n".join(f"{folder}: {len(read_manifest(folder))} rows" for folder in made))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
