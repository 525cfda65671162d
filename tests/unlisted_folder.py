"""Folders that this process may not list, also if it is root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65_534


def _open_place() -> str:
    """Return a folder for temporary files that every user may enter, as those above it; skip if there is none."""
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        path = Path(place)
        if path.is_dir() and all(one.stat().st_mode & 0o001 for one in (path, *path.parents)):
            return place
    pytest.skip("no folder for temporary files can be entered by all users")


@contextmanager
def unlisted(folder: Path) -> Iterator[Path]:
    """Copy a folder with what is around it, and forbid to list it until the end of the block.

    Yields:
        The copy; its parent has the copies of the other entries. It is not below the folder of the test, since others
        than its owner may not enter that one.
    """
    with tempfile.TemporaryDirectory(dir=_open_place()) as place:
        parent = shutil.copytree(folder.parent, Path(place, folder.parent.name), symlinks=True)
        os.chmod(place, 0o755)
        copy = parent / folder.name
        copy.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(NOBODY)
        try:
            yield copy
        finally:
            os.seteuid(user)
            copy.chmod(0o755)
