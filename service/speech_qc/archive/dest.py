"""The results of an archive: a Parquet data set, in a folder or an object store, that only ever holds whole files.

One process writes. All rows of an item are in one file, and a file appears complete or not at all, so an interrupted
run leaves items that are done and items that are not, and nothing in between.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from speech_qc.archive.digests import DigestSet, as_pairs, digest, superseded
from speech_qc.archive.items import ArchiveError
from speech_qc.archive.names import is_remote
from speech_qc.archive.rows import Identity
from speech_qc.archive.schema import ITEM_KEY, ROWS, VERSION
from speech_qc.archive.storage import resolve, write_whole

FILE_ROWS = 5_000
FILE_BYTES = 16 << 20
"""A file is written when one of these is reached, or after `write_every_s`; a killed run loses no more than that."""
LOCK = ".lock"
PART = "part-"
"""Begins the names of data files."""
NO_DIGESTS = np.zeros((0, 2), np.uint64)
KEPT_COLUMNS = [*ITEM_KEY, *VERSION, "error", "inspected_at"]


@dataclass(slots=True)
class Known:
    """What the results hold already.

    Attributes:
        items: Items with at least one row.
        done: Items with a row of the same etag, model and profile; such an item needs no inspection.
        rows: Number of rows.
        has_old: Whether an item has rows of more than one inspection.
    """

    items: DigestSet
    done: DigestSet
    rows: int
    has_old: bool


def item_key(uri: str, offset_s: float | None, length_s: float | None, channel: int | None) -> bytes:
    """Digest what identifies an item."""
    return digest(uri, offset_s, length_s, channel)


def version_key(key: bytes, etag: str | None, identity: Identity) -> bytes:
    """Digest an item together with what makes an inspection of it current."""
    return digest(key.hex(), etag, identity.model_sha256, identity.profile)


class Destination:
    """The results of one archive; close it, or use it in a `with` statement.

    Args:
        uri: Folder, or `s3://bucket/folder`; created if it does not exist.
        write_every_s: Time after which rows are written.
        writable: Whether rows will be added; only one process at a time can do this in a folder.

    Raises:
        ArchiveError: It cannot be used, or another process writes to it.
    """

    def __init__(self, uri: str, *, write_every_s: float = 30.0, writable: bool = True) -> None:
        self.uri = uri
        self.store, self.root = resolve(uri)
        self._lock: int | None = None
        self._write_every_s = write_every_s
        self._waiting: list[pa.Table] = []
        self._waiting_bytes, self._waiting_since_s = 0, 0.0
        self._run = f"{time.time_ns():x}-{secrets.token_hex(4)}"
        self._number = 0
        self.rows_written = 0
        if writable:
            self._prepare()
        elif self.store.get_file_info(self.root).type != pafs.FileType.Directory:
            raise ArchiveError(f"{uri}: expected the results of `speech-qc archive`, there is no such folder")

    def __enter__(self) -> Destination:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder; rows that were not flushed are lost. Idempotent."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _prepare(self) -> None:
        try:
            if is_remote(self.uri):
                return
            os.makedirs(self.root, exist_ok=True)
            self._lock = os.open(os.path.join(self.root, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for draft in Path(self.root).glob(".*.draft"):  # of a run that was killed; nobody else writes now
                draft.unlink()
        except BlockingIOError as error:
            self.close()
            message = f"{self.uri}: another run writes there: wait for its end, or choose another folder"
            raise ArchiveError(message) from error
        except OSError as error:
            raise ArchiveError(f"{self.uri}: expected a folder that can be written to: {error}") from error

    def files(self) -> list[str]:
        """List the data files, in the order of their names."""
        selector = pafs.FileSelector(self.root, allow_not_found=True, recursive=True)
        found = [info.path for info in self.store.get_file_info(selector) if info.type == pafs.FileType.File]
        inside = [(path[len(self.root) :].lstrip("/"), path) for path in found]
        return sorted(path for name, path in inside if name.endswith(".parquet") and not _is_hidden(name))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Read the data files one by one.

        Args:
            columns: Names of columns; None for all.

        Yields:
            The path of a file and its rows.

        Raises:
            ArchiveError: A file cannot be read, or has other columns.
        """
        for path in self.files():
            try:
                with self.store.open_input_file(path) as file:
                    yield path, pq.ParquetFile(file).read(columns=None if columns is None else list(columns))
            except (OSError, pa.ArrowException) as error:
                raise ArchiveError(f"{path}: expected results of `speech-qc archive`: {error}") from error

    def known(self, identity: Identity, *, retry_errors: bool = False) -> Known:
        """Read which items are done.

        Args:
            identity: Model and profile of this run.
            retry_errors: Count items with an error as not done.
        """
        keys, times, done, rows = [NO_DIGESTS], [np.zeros(0, np.int64)], [NO_DIGESTS], 0
        for path, table in self.tables(KEPT_COLUMNS):
            if missing := set(KEPT_COLUMNS) - set(table.column_names):
                raise ArchiveError(f"{path}: expected the columns of results, {', '.join(sorted(missing))} are missing")
            columns = [table[name].to_pylist() for name in (*ITEM_KEY, *VERSION)]
            items = [item_key(*values) for values in zip(*columns[:4], strict=True)]
            failed = np.asarray(table["error"].is_valid()).tolist()
            current = [
                version_key(key, etag, identity)
                for key, is_failed, etag, model, profile in zip(items, failed, *columns[4:], strict=True)
                if (model, profile) == (identity.model_sha256, identity.profile) and not (retry_errors and is_failed)
            ]
            keys.append(as_pairs(items))
            done.append(as_pairs(current))
            times.append(np.asarray(table["inspected_at"].cast(pa.int64())))
            rows += len(table)
        every = np.concatenate(keys)
        has_old = bool(superseded(every, np.concatenate(times)).any())
        return Known(DigestSet(every), DigestSet(np.concatenate(done)), rows, has_old)

    def add(self, rows: pa.Table) -> None:
        """Take the rows of whole items; they are written with others when there are enough, or the oldest waited.

        Raises:
            ArchiveError: They cannot be written.
        """
        if not self._waiting:
            self._waiting_since_s = time.monotonic()
        self._waiting.append(rows)
        self._waiting_bytes += rows.nbytes
        is_old = time.monotonic() - self._waiting_since_s > self._write_every_s
        if is_old or self._waiting_bytes > FILE_BYTES or sum(map(len, self._waiting)) >= FILE_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait.

        Raises:
            ArchiveError: They cannot be written.
        """
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting)
        self._number += 1
        self._write(f"{self.root}/{PART}{self._run}-{self._number:06d}.parquet", table)
        self.rows_written += len(table)
        self._waiting, self._waiting_bytes = [], 0

    def drop_old(self) -> int:
        """Remove the rows of items that were inspected again later.

        Files are replaced one by one, each at once, so this can be interrupted and repeated.

        Returns:
            Number of rows that were removed.
        """
        removed = 0
        for path, old in self.old_rows().items():
            if not old.any():
                continue
            with self.store.open_input_file(path) as file:
                table = pq.ParquetFile(file).read()
            if old.all():
                self.store.delete_file(path)
            else:
                self._write(path, table.filter(pa.array(~old)))
            removed += int(old.sum())
        return removed

    def old_rows(self) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
        """Find the rows of items that were inspected again later.

        Returns:
            For each data file, True for its old rows, bool (rows,).
        """
        keys, times, paths, counts = [], [], [], []
        for path, table in self.tables([*ITEM_KEY, "inspected_at"]):
            values = zip(*(table[name].to_pylist() for name in ITEM_KEY), strict=True)
            keys.append(as_pairs(item_key(*value) for value in values))
            times.append(np.asarray(table["inspected_at"].cast(pa.int64())))
            paths.append(path)
            counts.append(len(table))
        if not paths:
            return {}
        old = superseded(np.concatenate(keys), np.concatenate(times))
        return dict(zip(paths, np.split(old, np.cumsum(counts)[:-1]), strict=True))

    def _write(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table.cast(ROWS), sink, compression="zstd")
        try:
            write_whole(self.store, path, sink.getvalue())
        except OSError as error:
            raise ArchiveError(f"{path}: the results cannot be written: {error}") from error


def _is_hidden(name: str) -> bool:
    """Whether a path in the folder is not part of the data set, as every reader of Parquet data sets has it."""
    return any(part.startswith((".", "_")) for part in name.split("/"))
