"""A folder for what the workers of one server share while it runs, in memory where the system has such a place."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

PREFIX = "speech-qc-"
IN_MEMORY = Path("/dev/shm")


@contextmanager
def private_folder(base: Path | None = None) -> Iterator[Path]:
    """Make a folder that only this user can read, and remove it at the end, and those of servers that were killed.

    Args:
        base: Where to make it; by default in memory, or in the system's temporary folder.
    """
    if base is None:
        base = IN_MEMORY if os.access(IN_MEMORY, os.W_OK | os.X_OK) else Path(gettempdir())
    _remove_left_over(base)
    with (
        TemporaryDirectory(prefix=PREFIX, dir=base, ignore_cleanup_errors=True) as name,
        (Path(name) / "unlocked").open("w") as lock,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, Path(name) / "lock")  # only now, so that nobody finds it without its lock
        yield Path(name)


def _remove_left_over(base: Path) -> None:
    """Remove folders whose server has been killed: the system has released their locks."""
    for lock in base.glob(f"{PREFIX}*/lock"):
        with suppress(OSError), lock.open() as file:  # another user's, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
