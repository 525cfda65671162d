"""Exports results of an archive: NeMo manifests, Label Studio tasks, and label tracks such as Audacity's."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from speech_qc.archive.dest import Destination
from speech_qc.archive.items import ArchiveError
from speech_qc.archive.names import is_remote, local_path
from speech_qc.archive.schema import ITEM_KEY
from speech_qc.columns import error_columns, flat_columns
from speech_qc.scoring.events import Event
from speech_qc.scoring.exports import EXPORTS, ChannelReport, Report

Row = dict[str, Any]
COLUMNS = (
    *ITEM_KEY,
    *("manifest", "channel", "channels", "duration_s", "model", "profile", "status", "reasons", "summary", "levels"),
    *("events", "error", "inspected_at"),
)
INSIDE = re.compile(r"\.(tar|parquet|pq|arrow)(\?[^#]*)?#|\.ark:\d+$")
"""In the names of recordings that are not files of their own."""
PATH_BYTES = 200
"""Longest part of a path; file systems allow 255 bytes, and an extension is added."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The latest inspection of one item of an archive.

    Args:
        uri: Where the recording is.
        offset_s: Start of the part, seconds; None for the start of the recording.
        length_s: Length of the part, seconds; None for all that follows.
        manifest: The source's own columns.
        rows: Rows of `schema.ROWS`, one per channel; one with `error` if it could not be inspected.
    """

    uri: str
    offset_s: float | None
    length_s: float | None
    manifest: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def error(self) -> str | None:
        """Why it could not be inspected; None if it was."""
        error = self.rows[0]["error"]
        return None if error is None else str(error["message"])

    @property
    def duration_s(self) -> float | None:
        """Seconds that were inspected; None with an error."""
        value = self.rows[0]["duration_s"]
        return None if value is None else float(value)

    def columns(self) -> Row:
        """Return the columns `qc_status` to `qc_error`; see `speech_qc.columns`."""
        if self.error is not None:
            return error_columns(self.error)
        channels = [row | {"verdict": {"status": row["status"], "reasons": row["reasons"]}} for row in self.rows]
        return flat_columns(channels, model=self.rows[0]["model"], profile=self.rows[0]["profile"])


def recordings(destination: Destination) -> Iterator[Recording]:
    """Read the latest inspection of each item; one data file is in memory at a time.

    Raises:
        ArchiveError: The results cannot be read.
    """
    old = destination.old_rows()
    for path, table in destination.tables(COLUMNS):
        latest = table.filter(pa.array(~old[path])) if path in old else table
        rows = (row for batch in latest.to_batches(max_chunksize=1000) for row in batch.to_pylist())
        for key, group in groupby(rows, lambda row: (*(row[name] for name in ITEM_KEY), row["inspected_at"])):
            manifest = (found := tuple(group))[0]["manifest"]
            yield Recording(key[0], key[1], key[2], {} if manifest is None else json.loads(manifest), found)


def selected(found: Iterator[Recording], statuses: Collection[str]) -> Iterator[Recording]:
    """Choose recordings by the verdict on their worst channel; `error` chooses those that could not be inspected.

    Args:
        found: Recordings.
        statuses: Verdicts; empty for all.
    """
    return (one for one in found if not statuses or (one.columns()["qc_status"] or "error") in statuses)


def to_nemo(found: Iterator[Recording]) -> Iterator[bytes]:
    """Write a NeMo manifest: the source's own columns, those of `speech_qc.columns`, and where the recording is.

    `audio_filepath` is absolute, so that the manifest may be in any folder. A recording without a known duration has 0.

    Raises:
        ArchiveError: A recording is inside a table or a shard, where NeMo cannot read it.
    """
    for one in found:
        _check_is_file(one, "nemo")
        entry: Row = {**one.manifest, "audio_filepath": local_path(one.uri)}
        if one.offset_s is not None:
            entry["offset"] = one.offset_s
        if one.length_s is not None:
            entry["duration"] = one.length_s
        elif entry.get("duration") is None:
            entry["duration"] = one.duration_s or 0.0
        # A byte that is not UTF-8 becomes an escape such as \udce9, with which Python's tools open the file.
        yield json.dumps(entry | one.columns(), ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def to_label_studio(found: Iterator[Recording], root: str | None = None, url: str | None = None) -> Iterator[bytes]:
    """Write Label Studio tasks, whose predictions have a region for each event.

    Source: Label Studio documentation, "Import pre-annotated data into Label Studio" and "Labels".

    Args:
        found: Recordings.
        root: Folder; `url` stands for it in the addresses of recordings. None to use paths and URIs as they are.
        url: Address of that folder, as in `https://host/calls/` or `/data/local-files/?d=`.

    Raises:
        ArchiveError: A recording is not below `root`, or inside a table or a shard.
    """
    yield b"[\n"
    for number, one in enumerate(found):
        _check_is_file(one, "label-studio")
        task = {
            "data": {"audio": _address(one.uri, root, url), **_text_columns(one)},
            "predictions": [_prediction(one)],
        }
        yield (b",\n" if number else b"") + json.dumps(task, ensure_ascii=False).encode()
    yield b"\n]\n"


def _text_columns(one: Recording) -> Row:
    columns = one.columns()
    return {
        **{
            key: value for key, value in one.manifest.items() if isinstance(value, str | int | float) and key != "audio"
        },
        **{key: columns[key] for key in ("qc_status", "qc_quality", "qc_snr_db", "qc_error")},
    }


def _prediction(one: Recording) -> Row:
    columns = one.columns()
    start_s = one.offset_s or 0.0
    regions = [
        {
            "id": f"e{number}",
            "from_name": "label",
            "to_name": "audio",
            "type": "labels",
            "score": event["score_mean"],
            "value": {
                "start": round(start_s + event["onset_s"], 6),
                "end": round(start_s + _end_s(event, one), 6),
                "channel": event["channel"],
                "labels": [event["label"]],
            },
        }
        for number, event in enumerate(columns["qc_events"])
    ]
    quality = columns["qc_quality"]
    return {
        "model_version": columns["qc_model"] or "speech-qc",
        "score": None if quality is None else round(quality / 100, 4),
        "result": regions,
    }


def _end_s(event: Row, one: Recording) -> float:
    return float(event["offset_s"] if event["offset_s"] is not None else one.duration_s or 0.0)


def _address(uri: str, root: str | None, url: str | None) -> str:
    if root is None or url is None:
        return uri
    folder = root.rstrip("/") if is_remote(root) else os.path.abspath(root)
    path = local_path(uri)
    if not path.startswith(f"{folder}/"):
        raise ArchiveError(f"expected recordings below {folder}, got {uri}: choose a folder that contains all of them")
    return url + quote(os.fsencode(path[len(folder) + 1 :]))


def _check_is_file(one: Recording, form: str) -> None:
    if INSIDE.search(one.uri):
        raise ArchiveError(
            f"--format {form}: expected recordings that are files, got {one.uri}: export label tracks, or use the "
            "results as they are"
        )


def report_of(one: Recording) -> Report:
    """Return a recording as the exports of single recordings take it; times count from the start of the part."""
    channels = [
        ChannelReport(row["channel"], [_event(event) for event in row["events"] or ()])
        for row in one.rows
        if row["error"] is None
    ]
    return Report(one.uri, one.duration_s or 0.0, channels)


def _event(event: Row, hop_s: float = 0.02) -> Event:
    offset_s = event["offset_s"]
    return Event(
        event_id=event["event_id"],
        label=event["label"],
        family=event["family"],
        onset_s=event["onset_s"],
        offset_s=offset_s,
        score_max=event["score_max"],
        score_mean=event["score_mean"],
        severity=event["severity"],
        onset_frame=round(event["onset_s"] / hop_s),
        offset_frame=None if offset_s is None else round(offset_s / hop_s),
    )


def write_tracks(found: Iterator[Recording], form: str, out: Path) -> tuple[int, int]:
    """Write a file per recording; folders are those of the recordings.

    `/calls/a.wav` becomes `OUT/calls/a.wav.txt`; a part has its start and length in the name.

    Args:
        found: Recordings.
        form: One of `scoring.EXPORTS`.
        out: Folder.

    Returns:
        Number of files written, and of recordings without one, because they could not be inspected.

    Raises:
        OSError: A file cannot be written.
    """
    export = EXPORTS[form]
    written = failed = 0
    for one in found:
        if one.error is not None:
            failed += 1
            continue
        target = out / track_path(one, export.extension)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes("".join(export.render(report_of(one))).encode())
        written += 1
    return written, failed


def track_path(one: Recording, extension: str) -> Path:
    """Return the path of a recording's file below the folder of the export; different for every item."""
    address = one.uri.partition("?")[0] if is_remote(one.uri) else one.uri
    parts = [part for part in re.split(r"[/\\]", address.replace("://", "/")) if part not in ("", ".", "..")]
    asked = one.rows[0]["asked_channel"]
    mark = "" if one.offset_s is None else f"@{one.offset_s:.6f}"
    mark += "" if one.length_s is None else f"+{one.length_s:.6f}"
    mark += "" if asked is None else f"@ch{asked}"
    return Path(*(_short(part) for part in parts[:-1]), f"{_short(parts[-1])}{mark}.{extension}")


def _short(part: str) -> str:
    """Replace what a file name cannot have; cut a long one, with a digest that keeps it unique."""
    clean = re.sub(r'[\x00-\x1f<>:"|?*]', "_", part)
    if clean == part and len(clean.encode()) <= PATH_BYTES:
        return clean
    digest = hashlib.sha256(part.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{clean.encode()[:PATH_BYTES].decode('utf-8', 'ignore')}-{digest}"
