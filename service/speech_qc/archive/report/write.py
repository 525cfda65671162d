"""Writes a report: a page, and Parquet files with the same figures for further work."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from speech_qc.archive.items import ArchiveError
from speech_qc.archive.report.figures import STATUSES, Figures, Group
from speech_qc.archive.report.page import page
from speech_qc.archive.storage import write_whole

PAGE = "report.html"

GROUPS = pa.schema(
    [("by", pa.string()), ("name", pa.string()), ("rows", pa.int64()), ("hours", pa.float64())]
    + [(status, pa.int64()) for status in STATUSES]
    + [("quality", pa.float64()), ("snr_db", pa.float64())]
)
LIMITS = pa.schema(
    [
        ("measure", pa.string()),
        ("keeps", pa.string()),  # min: at least the limit; max: at most
        ("limit", pa.float64()),
        ("rows", pa.int64()),
        ("share", pa.float64()),
        ("hours", pa.float64()),
    ]
)


def write_report(figures: Figures, rows: pa.Table, archive: str, folder: Path) -> Path:
    """Write `report.html`, `rows.parquet`, `groups.parquet` and `limits.parquet`.

    Args:
        figures: What to say.
        rows: As from `read_rows`.
        archive: Name of the archive.
        folder: Where to; created if it does not exist.

    Returns:
        Path of the page.

    Raises:
        ArchiveError: The folder cannot be written to.
    """
    store = pafs.LocalFileSystem()
    groups = [*(one for found in figures.groups.values() for one in found), *figures.periods]
    limits = [
        {
            "measure": one.measure.name,
            "keeps": one.measure.keeps,
            "limit": float(one.limit),
            "rows": one.rows,
            "share": one.share,
            "hours": one.hours,
        }
        for one in figures.kept
    ]
    tables = {
        "rows.parquet": rows,
        "groups.parquet": pa.Table.from_pylist([_fields(one) for one in groups], schema=GROUPS),
        "limits.parquet": pa.Table.from_pylist(limits, schema=LIMITS),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="zstd")
            write_whole(store, str(folder / name), sink.getvalue())
        write_whole(store, str(folder / PAGE), page(figures, archive, folder).encode("utf-8", "replace"))
    except OSError as error:
        raise ArchiveError(f"{folder}: expected a folder that can be written to: {error}") from error
    return folder / PAGE


def _fields(group: Group) -> dict[str, object]:
    fields = {"by": group.by, "name": group.name, "rows": group.rows, "hours": group.hours}
    counts = {status: group.statuses.get(status, 0) for status in STATUSES}
    return fields | counts | {"quality": group.quality, "snr_db": group.snr_db}
