"""The files in a folder, for every command that takes folders."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path


def files_in(folder: Path, unreadable: Callable[[OSError], object]) -> Iterator[Path]:
    """Walk a folder and its subfolders in order of names, and then the folders to which links lead.

    Each folder is read once, so links may form a circle, and a link to a folder of the same tree renames nothing.
    Hidden entries are skipped, such as the `._` files that macOS creates on other disks.

    Args:
        folder: Where to begin.
        unreadable: Called for a folder that cannot be listed, with the error, which names it.
    """
    seen: set[tuple[int, int]] = set()
    linked = deque([folder])
    while linked:
        waiting = [linked.popleft()]
        while waiting:
            current = waiting.pop()
            try:
                entries = _entries(current, seen)
            except OSError as error:
                error.filename = str(current)  # a disk that fails does not name it
                unreadable(error)
                continue
            folders = [entry for entry in entries if _is_folder(entry)]
            linked.extend(Path(entry.path) for entry in folders if entry.is_symlink())
            waiting.extend(Path(entry.path) for entry in reversed(folders) if not entry.is_symlink())
            yield from (Path(entry.path) for entry in entries if not _is_folder(entry))


def _entries(folder: Path, seen: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
    """List a folder, by name; nothing if it was seen before."""
    facts = os.stat(folder)
    if (facts.st_dev, facts.st_ino) in seen:
        return []
    seen.add((facts.st_dev, facts.st_ino))
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
