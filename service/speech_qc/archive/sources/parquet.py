"""Tables with an audio column: Parquet files, and the Arrow files of Hugging Face data sets (`save_to_disk`).

The column holds structs of `bytes` and `path`, as `datasets` writes them, or bytes, or paths as text. The recording in
row 17 of column `audio` is named `file.parquet#audio:17`.
"""

from __future__ import annotations

import io
import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.names import local_path
from speech_qc.archive.sources.files import folder_of, native_file, open_binary, resolved, stamp

ROWS_AT_ONCE = 1000
"""Rows whose columns are read at once for the list of items; their audio is not read."""
NAME = re.compile(r"(.+\.(?:parquet|pq|arrow)(?:\?[^#]*)?)#(.+):(\d+)", re.DOTALL)


class TableSource:
    """Source: the rows of tables.

    A row with bytes is named after its file; a row with only a path is the file at that path, which is relative to the
    current folder or to the table's. The other columns are kept, except those that hold bytes, such as images.

    Args:
        paths: Parquet files (`.parquet`, `.pq`) or Arrow streams (`.arrow`, only on local disks).
        column: Name of the audio column.

    Raises:
        ArchiveError: A file cannot be read, or has no such column.
    """

    opener: str | None = "speech_qc.archive.sources.parquet:open_row"

    def __init__(self, paths: list[str], column: str = "audio") -> None:
        self._paths, self._column = paths, column
        for path in paths:
            try:
                schema = _opened(path, stamp(path)).schema
            except (OSError, pa.ArrowException) as error:
                raise ArchiveError(f"expected a table of recordings, cannot read {path}: {error}") from error
            if column not in schema.names:
                raise ArchiveError(f"{path}: expected a column {column!r} with audio, got {', '.join(schema.names)}")
            if not _is_audio(schema.field(column).type):
                raise ArchiveError(
                    f"{path}: expected bytes, paths or structs of both in column {column!r}, "
                    f"got {schema.field(column).type}"
                )

    def items(self) -> Iterator[Item]:
        """List the rows of the files in their order."""
        for path in self._paths:
            etag = stamp(path)
            table = _opened(path, etag)
            embedded = table.has_bytes(self._column)
            for row, columns in enumerate(table.rows(self._column)):
                name = columns.get(self._column)
                if embedded or name is None:  # with neither bytes nor a path, its row has an error
                    yield Item(f"{path}#{self._column}:{row}", manifest=columns, etag=etag)
                else:
                    yield Item(resolved(name, folder_of(path)), manifest=columns)


def open_row(uri: str) -> BinaryIO:
    """Open the recording of a row, or a file; runs in worker processes.

    Memory: the audio of one row group per process.

    Raises:
        OSError: The row or the file cannot be read, or the row has no audio.
    """
    match = NAME.fullmatch(uri)
    if match is None:
        return open_binary(uri)
    path, column, row = match[1], match[2], int(match[3])
    try:
        value = _opened(path, stamp(path)).value(column, row)
    except pa.ArrowException as error:
        raise OSError(f"cannot read row {row} of {path}: {error}") from error
    if isinstance(value, dict):
        held, value = value.get("bytes"), value.get("path")
        if held is not None:
            return io.BytesIO(held)
    if isinstance(value, bytes):
        return io.BytesIO(value)
    if isinstance(value, str):
        return open_binary(resolved(value, folder_of(path)))
    raise OSError(f"expected audio in row {row} of {path}, got neither bytes nor a path")


class _ParquetTable:
    def __init__(self, path: str) -> None:
        self._file = pq.ParquetFile(native_file(path), pre_buffer=False)
        self.schema = self._file.schema_arrow
        counts = [self._file.metadata.row_group(group).num_rows for group in range(self._file.num_row_groups)]
        self._ends = list(accumulate(counts))
        self._group: tuple[int, str, Any] = (-1, "", None)

    def has_bytes(self, column: str) -> bool:
        """Whether a row may have bytes; the statistics of the file know it without reading them."""
        if not _holds_bytes(self.schema.field(column).type):
            return False
        names = (column, f"{column}.bytes")
        metadata = self._file.metadata
        for group in range(metadata.num_row_groups):
            part = metadata.row_group(group)
            for chunk in (part.column(number) for number in range(part.num_columns)):
                if chunk.path_in_schema not in names:
                    continue
                known = chunk.statistics is not None and chunk.statistics.has_null_count
                if not known or chunk.statistics.null_count < part.num_rows:
                    return True
        return False

    def rows(self, column: str) -> Iterator[dict[str, Any]]:
        kind = self.schema.field(column).type
        names = [field.name for field in self.schema if field.name != column and not _holds_bytes(field.type)]
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            names.append(f"{column}.path")
        elif _is_text(kind):
            names.append(column)
        for batch in self._file.iter_batches(ROWS_AT_ONCE, columns=names):
            yield from _plain(batch, column)

    def value(self, column: str, row: int) -> Any:
        group = bisect_right(self._ends, row)
        if group == len(self._ends):
            raise OSError(f"expected row {row}, the table has {self._ends[-1] if self._ends else 0}")
        if self._group[:2] != (group, column):
            self._group = (group, column, self._file.read_row_group(group, columns=[column]).column(0))
        start = self._ends[group - 1] if group else 0
        return self._group[2][row - start].as_py()


class _ArrowTable:
    def __init__(self, path: str) -> None:
        # Mapped, so the audio of other rows is never read.
        self._table = pa.ipc.open_stream(pa.memory_map(os.fsencode(local_path(path)))).read_all()
        self.schema = self._table.schema

    def has_bytes(self, column: str) -> bool:
        kind = self.schema.field(column).type
        if not _holds_bytes(kind):
            return False
        chunks = self._table.column(column).chunks
        held = (chunk.field("bytes") if pa.types.is_struct(kind) else chunk for chunk in chunks)
        return any(chunk.null_count < len(chunk) for chunk in held)

    def rows(self, column: str) -> Iterator[dict[str, Any]]:
        kind = self.schema.field(column).type
        table = self._table.select(
            [field.name for field in self.schema if field.name != column and not _holds_bytes(field.type)]
        )
        audio = self._table.column(column)
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            paths = pa.chunked_array([chunk.field("path") for chunk in audio.chunks], pa.string())
            table = table.append_column(column, paths)
        elif _is_text(kind):
            table = table.append_column(column, audio)
        for batch in table.to_batches(ROWS_AT_ONCE):
            yield from _plain(batch, column)

    def value(self, column: str, row: int) -> Any:
        if row >= self._table.num_rows:
            raise OSError(f"expected row {row}, the table has {self._table.num_rows}")
        return self._table.column(column)[row].as_py()


@lru_cache(maxsize=1)
def _opened(path: str, _etag: str) -> _ParquetTable | _ArrowTable:
    """Open a table; the last one stays open, since neighbouring rows are opened one after the other."""
    return _ArrowTable(path) if path.endswith(".arrow") else _ParquetTable(path)


def _plain(batch: Any, column: str) -> Iterator[dict[str, Any]]:
    """Return rows as JSON values, with the path of the audio as text; dates and decimals become text."""
    rows = batch.to_pylist() if batch.num_columns else [{}] * batch.num_rows
    for row in rows:
        if isinstance(row.get(column), dict):
            row[column] = row[column].get("path")
        plain: dict[str, Any] = json.loads(json.dumps(row, default=str))
        yield plain


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_bytes(kind: Any) -> bool:
    return _is_bytes(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _is_audio(kind: Any) -> bool:
    return _holds_bytes(kind) or _is_text(kind) or (pa.types.is_struct(kind) and kind.get_field_index("path") >= 0)
