"""Small archives, and runs over them in this process and in one that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import soundfile

from signals import voice
from speech_qc.archive.asked import Asked
from speech_qc.archive.dest import Destination
from speech_qc.archive.items import Item
from speech_qc.archive.local import LocalEngine
from speech_qc.archive.run import Progress, run
from speech_qc.archive.sources.recordings import find_sources
from speech_qc.capacity.host import descendants_of

TESTS = Path(__file__).resolve().parent
SERVICE = TESTS.parents[1] / "service"


def write_clips(folder: Path, count: int, seconds: float = 1.0) -> list[str]:
    """Write clips that differ, and return their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    base = voice(seconds)
    paths = []
    for number in range(count):
        path = folder / f"clip-{number:04d}.wav"
        soundfile.write(path, np.roll(base, 37 * number) * (0.3 + 0.7 * number / count), 16_000, subtype="PCM_16")
        paths.append(str(path))
    return paths


def run_here(
    source: str | Any, out: Path | str, *, asked: Asked | None = None, workers: int = 1, **options: Any
) -> Progress:
    """Run over an archive with worker processes."""
    sources = find_sources([source]) if isinstance(source, str) else [source]
    with Destination(str(out)) as destination, LocalEngine(asked or Asked(), workers) as engine:
        return run(sources, destination, engine, **options)


def rows_in(out: Path | str, store: pafs.FileSystem | None = None) -> list[dict[str, Any]]:
    """Read all rows, as any reader of Parquet data sets does."""
    rows: list[dict[str, Any]] = pq.read_table(str(out), filesystem=store).to_pylist()
    return sorted(rows, key=lambda row: (row["uri"], row["offset_s"] or 0.0, row["channel"] or 0))


class Listing:
    """A source of given items."""

    def __init__(self, items: list[Item], opener: str | None = None) -> None:
        self._items, self.opener = items, opener

    def items(self) -> Iterator[Item]:
        return iter(self._items)


def open_or_crash(uri: str) -> BinaryIO:
    """An opener: opens a file, but ends the process at a name with `crash`, as a broken decoder does."""
    if "crash" in uri:
        os.kill(os.getpid(), signal.SIGSEGV)
    return open(uri, "rb")


OPENER = "archive_material:open_or_crash"


class KilledRun:
    """A run in a process of its own; `--write-every 0` makes a file of each batch."""

    def __init__(self, source: str, out: str, *options: str, env: dict[str, str] | None = None) -> None:
        environment = os.environ | {"PYTHONPATH": f"{SERVICE}{os.pathsep}{TESTS}"} | (env or {})
        command = [sys.executable, "-m", "speech_qc", "archive", source, "--out", out, "--write-every", "0", *options]
        self.process = subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def kill(self) -> None:
        """End the driver as the kernel does when memory runs out."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def kill_worker(self, name: str = "speech_qc.archive.worker") -> int:
        """Kill one of the worker processes below the driver; return its id."""
        worker = workers_below(self.process.pid, name)[0]
        os.kill(worker, signal.SIGKILL)
        return worker

    def wait(self, seconds: float = 120.0) -> str:
        """Wait for the end, and return what was printed to standard error."""
        _, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors
        return errors


def workers_below(pid: int, name: str = "speech_qc.archive.worker") -> list[int]:
    """List the processes below a process whose command line has a name."""
    found = []
    for child in descendants_of(pid):
        with suppress(OSError):  # it has just ended
            if name.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.02)


def items_table(*items: dict[str, Any]) -> pa.Table:
    from speech_qc.archive.schema import ITEMS

    return pa.Table.from_pylist(list(items), schema=ITEMS)
