"""The rows of a report: one per channel, with the measures that people choose recordings by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from speech_qc.archive.dest import Destination

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure by which recordings are kept or left out.

    Args:
        name: Column of the report's rows.
        title: Name for people, with the unit.
        keeps: Whether a limit keeps what is at least or at most as large.
        limits: Limits to try.
        edges: First and last edge of the histogram; values beyond count in its outer bars.
        source: Struct of `schema.ROWS` that has it; None for a column.
    """

    name: str
    title: str
    keeps: Literal["min", "max"]
    limits: tuple[float, ...]
    edges: tuple[float, float]
    source: Literal["summary", "levels"] | None


MEASURES = (
    Measure("quality", "Quality", "min", (40, 50, 60, 70, 80, 90), (0, 100), "summary"),
    Measure("snr_db", "Signal to noise, dB", "min", (5, 10, 15, 20, 25, 30), (-15, 45), "summary"),
    Measure("bandwidth_hz", "Bandwidth, Hz", "min", (3000, 3400, 5000, 7000, 10_000), (0, 24_000), "levels"),
    Measure("loudness_lufs", "Loudness, LUFS", "min", (-40, -35, -30, -26, -23), (-60, 0), "levels"),
    Measure("duration_s", "Length, s", "min", (0.5, 1, 2, 5, 10, 30), (0, 60), None),
    Measure("speech_ratio", "Share of speech", "min", (0.1, 0.25, 0.5, 0.75), (0, 1), "summary"),
    Measure("noise_ratio", "Share with noise", "max", (0.5, 0.25, 0.1, 0.05), (0, 1), "summary"),
    Measure("interference_ratio", "Share with interference", "max", (0.5, 0.25, 0.1, 0.05), (0, 1), "summary"),
    Measure("lost_ratio", "Share of speech lost", "max", (0.05, 0.02, 0.01, 0.001), (0, 0.1), "summary"),
    Measure("clipped_ratio", "Share of samples clipped", "max", (0.01, 0.001, 0.0001), (0, 0.05), "levels"),
)

PLAIN = (
    "uri", "offset_s", "length_s", "channel", "sample_rate_hz", "encoding", "manifest", "content_sha256", "profile",
)  # fmt: skip
ERROR = "error"
"""Status of a row with an error, beside those of verdicts."""


def read_rows(destination: Destination) -> pa.Table:
    """Read the newest rows of every item.

    Returns:
        Per row: the columns of `PLAIN`, `status` (`error` for a row with one), `reasons` (codes), `error_code`,
        `error_message`, and the measures.

    Raises:
        ArchiveError: The results cannot be read.
    """
    old = destination.old_rows()
    pieces = []
    columns = [*PLAIN, "status", "reasons", "error", "summary", "levels", "duration_s"]
    for path, table in destination.tables(columns):
        kept = table.filter(pa.array(~old[path])) if path in old else table
        pieces.append(_slim(kept))
    return pa.concat_tables(pieces) if pieces else _slim(pa.schema(_schema_of(columns)).empty_table())


def _schema_of(columns: list[str]) -> list[pa.Field]:
    from speech_qc.archive.schema import ROWS

    return [ROWS.field(name) for name in columns]


def _slim(table: pa.Table) -> pa.Table:
    table = table.combine_chunks()
    found = {name: table[name] for name in PLAIN}
    failed = table["error"].is_valid()
    found["status"] = pc.if_else(failed, ERROR, table["status"])
    codes = [[reason["code"] for reason in reasons or ()] for reasons in table["reasons"].to_pylist()]
    found["reasons"] = pa.array(codes, pa.list_(pa.string()))
    found["error_code"] = pc.struct_field(table["error"], "code")
    found["error_message"] = pc.struct_field(table["error"], "message")
    for measure in MEASURES:
        column = table[measure.source or measure.name]
        found[measure.name] = pc.struct_field(column, measure.name) if measure.source else column
    return pa.table(found)


def values_of(rows: pa.Table, name: str) -> Floats:
    """Return a column as float64 (n,), NaN where there is no value."""
    return np.asarray(pc.fill_null(rows[name].cast(pa.float64()), float("nan")), np.float64)
