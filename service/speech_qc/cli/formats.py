"""Encodes a result in the machine-readable formats: JSON and the label exports."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np

from speech_qc.cli.answers import Document
from speech_qc.cli.files import InputFile
from speech_qc.cli.options import Format
from speech_qc.scoring import EXPORTS, ChannelReport, Event, Report, frames_csv
from speech_qc.wire.encode import to_json

ONE_FILE_ONLY = frozenset({Format.audacity, Format.textgrid, Format.webvtt})
"""Formats that allow one recording per file, so that the results of several cannot be concatenated."""

_EVENT_FIELDS = ("event_id", "label", "family", "onset_s", "offset_s", "score_max", "score_mean", "severity")
_EXTENSIONS = {Format.table: "txt", Format.json: "json", Format.jsonl: "jsonl"}


def extension(form: Format) -> str:
    """Return the extension of result files, without the dot."""
    return _EXTENSIONS.get(form) or EXPORTS[form].extension


def json_bytes(source: InputFile, document: Document) -> bytes:
    """Encode a result as JSON, with the name of its file as the first field."""
    return to_json({"file": source.name} | document)


def export_bytes(form: Format, source: InputFile, document: Document, *, scores: bool = False) -> Iterator[bytes]:
    """Render one of the label exports.

    Args:
        form: Any format except table, json and jsonl.
        source: The recording, for its name.
        document: The result.
        scores: Write a line per frame instead of one per event; CSV only.
    """
    report = report_of(source, document)
    chunks = frames_csv(report) if scores else EXPORTS[form].render(report)
    return (chunk.encode() for chunk in chunks)


def with_file_column(source: InputFile, chunks: Iterator[bytes], *, header: bool) -> Iterator[bytes]:
    """Add the file's name as the first column of every CSV line, so that several results can be concatenated.

    Args:
        source: The recording, for its name.
        chunks: Whole lines; the first is the header.
        header: Whether to keep the header.
    """
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="").writerow([source.name])
    name = sink.getvalue().encode()
    first = True
    for chunk in chunks:
        lines = chunk.splitlines(keepends=True)  # no field of these tables contains a line break
        if first:
            if header:
                yield b"file," + lines[0]
            lines, first = lines[1:], False
        yield b"".join(name + b"," + line for line in lines)


def report_of(source: InputFile, document: Document) -> Report:
    """Convert a result document to the input of the label exports."""
    hop_s = document["frame_hop_s"]
    channels = []
    for channel in document["channels"]:
        events = [
            Event(
                onset_frame=round(event["onset_s"] / hop_s),
                offset_frame=None if event["offset_s"] is None else round(event["offset_s"] / hop_s),
                **{name: event[name] for name in _EVENT_FIELDS},
            )
            for event in channel["events"]
        ]
        frames = None
        if "frames" in channel:
            frames = {
                label: [None if np.isnan(value) else float(value) for value in values]
                for label, values in channel["frames"].items()
            }
        channels.append(ChannelReport(channel["channel"], events, frames))
    return Report(source.name, document["audio"]["duration_s"], channels, hop_s)
