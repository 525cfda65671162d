"""Join corpora and hold out whole sources: `python -m training.join OUT FOLDER [FOLDER …]`.

Writes two corpus folders. In OUT, `valid` serves early stopping, calibration and the choice of thresholds. In
OUT-figures, `valid` serves only reported figures. Sources without training rows alternate between the two. Held-out
rows of sources with training rows are divided by speaker or recording, and their speech goes only to OUT.
"""

from __future__ import annotations

import argparse
import csv
import sys
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from training.corpora.manifest import COLUMNS, MANIFEST_NAME, OPTIONAL_COLUMNS, ManifestError, read_manifest

Row = dict[str, str]


def read_rows(folders: Sequence[Path]) -> list[Row]:
    """Return the rows of all folders, with paths prefixed by the number of the folder.

    A speaker or recording that is held out in one folder and used for training in another is held out.

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
    held = {_group(row) for row in rows if row["split"] != "train"}
    return [row for row in rows if row["split"] != "train" or _group(row) not in held]


def _group(row: Row) -> str:
    return f"{row['source']}/{row['speaker'] or row['original']}"


def divide(rows: Sequence[Row]) -> dict[str, str]:
    """Assign every source without training rows to `choose` or `figures`, alternating in order of length."""
    known = {row["source"] for row in rows if row["split"] == "train"}
    seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        if row["source"] not in known and row["kind"] != "real_noisy":
            seconds[row["kind"]][row["source"]] += float(row["seconds"])
    half: dict[str, str] = {}
    for kind in sorted(seconds):
        for place, source in enumerate(sorted(seconds[kind], key=lambda name: -seconds[kind][name])):
            half.setdefault(source, "choose" if place % 2 == 0 else "figures")
    return half


def half_of(row: Row, half: dict[str, str]) -> str:
    """Return `choose` or `figures` for a row outside the training split."""
    if row["source"] in half:
        return half[row["source"]]
    if row["kind"] == "speech":
        return "choose"
    return "figures" if zlib.crc32(_group(row).encode()) % 2 else "choose"


def join(out: Path, folders: Sequence[Path]) -> list[Path]:
    """Write the two corpus folders and return their paths."""
    rows = read_rows(folders)
    half = divide(rows)
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
                    split = "valid" if half_of(row, half) == name else "test"
                writer.writerow(row | {"split": split})
        made.append(folder)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.join", description=__doc__)
    parser.add_argument("out", type=Path, help="corpus folder to write; OUT-figures is written next to it")
    parser.add_argument("folders", type=Path, nargs="+", help="corpora to join")
    options = parser.parse_args(argv)
    try:
        made = join(options.out, options.folders)
    except ManifestError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print("\n".join(f"{folder}: {len(read_manifest(folder))} rows" for folder in made))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
