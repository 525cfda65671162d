"""Make a corpus folder of another one's files: `python -m training.corpora link --from FOLDER --out PART`.

What is then written into the new folder (speech labels, room tone, a sorted manifest) leaves the other one unchanged.
"""

from __future__ import annotations

import csv
from pathlib import Path

from training.corpora.manifest import MANIFEST_NAME, ManifestError, read_manifest


def link(folder: Path, out: Path) -> int:
    """Write the manifest without its room tone, which `clean` cuts anew, and link to the folders of all other files.

    Args:
        folder: A corpus folder.
        out: Folder to write; its links and its manifest are replaced.

    Returns:
        The number of rows.

    Raises:
        ManifestError: The manifest cannot be used, or `out` has files of its own where a link belongs.
    """
    read_manifest(folder)
    with (folder / MANIFEST_NAME).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or ()
        rows = [row for row in reader if row["kind"] != "bed"]
    out.mkdir(parents=True, exist_ok=True)
    for name in sorted({Path(row["path"]).parts[0] for row in rows}):
        place = out / name
        if place.is_symlink():
            place.unlink()
        elif place.exists():
            raise ManifestError(f"expected no files of its own in {place}: choose another folder, or remove it")
        place.symlink_to((folder / name).resolve())
    with (out / MANIFEST_NAME).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)
