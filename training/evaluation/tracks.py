"""Label tracks: labelled time spans in the formats that annotation tools and this service write.

Audacity labels (`.txt`), RTTM, WebVTT and CSV. Each reader takes text and returns spans. Files exported by the service
are read back with the same labels and times.
"""

from __future__ import annotations

import csv
import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from speech_qc.contract import LABEL_CATALOG

PROBABILITIES = tuple(name for name, (_, kind) in LABEL_CATALOG.items() if kind == "probability")

_CAPTION = re.compile(r"^(?:ch(?P<channel>\d+):\s*)?(?P<label>[a-z_]+)(?P<open>\?)?(?:\s*\(.*\))?$")
_CUE = re.compile(r"^(?P<start>[\d:.]+)\s+-->\s+(?P<stop>[\d:.]+)")


class TrackError(Exception):
    """A label track cannot be read; the message names the file, the line and what was expected."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time span of a recording with a label.

    Args:
        label: Name of the label.
        onset_s: Start.
        offset_s: End.
        channel: Channel number from 0; None if the track does not specify one, which means every channel.
        sure: False if the annotator was unsure (`noise?`); such frames count neither way.
    """

    label: str
    onset_s: float
    offset_s: float
    channel: int | None = None
    sure: bool = True


def read_track(path: Path) -> list[Span]:
    """Read a label track by its extension.

    Raises:
        TrackError: The format or a label is unknown, or a line is malformed.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise TrackError(f"{path}: expected a label track ({', '.join(READERS)})")
    try:
        return reader(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise TrackError(f"{path}: {error}") from error
    except TrackError as error:
        raise TrackError(f"{path}, {error}") from error.__cause__


def read_audacity(text: str) -> list[Span]:
    """Read start, end and text separated by tabs; lines that start with a backslash (frequencies) are skipped.

    Source: Audacity manual, "Importing and Exporting Labels".
    """
    spans = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        fields = line.split("\t")
        if len(fields) < 3:
            raise TrackError(f"line {number}: expected start, end and label separated by tabs, got {line!r}")
        spans.append(_captioned(fields[2], fields[0], fields[1], number))
    return spans


def read_rttm(text: str) -> list[Span]:
    """Read SPEAKER lines: the name field is the label, channels count from 1; other line types are skipped.

    Source: NIST, "RT-09 Evaluation Plan", appendix A.
    """
    spans = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        if len(fields) < 8:
            raise TrackError(f"line {number}: expected a SPEAKER line of at least 8 fields, got {line!r}")
        onset_s, channel = _seconds(fields[3], number), _whole(fields[2], number) - 1
        label, sure = _label(fields[7], number)
        spans.append(Span(label, onset_s, onset_s + _seconds(fields[4], number), channel, sure))
    return spans


def read_webvtt(text: str) -> list[Span]:
    """Read one span per cue; notes, styles and cue settings are skipped.

    Source: W3C, "WebVTT: The Web Video Text Tracks Format".
    """
    lines = text.splitlines()
    if not lines or not lines[0].startswith("WEBVTT"):
        raise TrackError("line 1: expected WEBVTT")
    spans = []
    for number, line in enumerate(lines, start=1):
        cue = _CUE.match(line)
        if cue is None:
            continue
        caption = lines[number] if number < len(lines) else ""
        spans.append(_captioned(html.unescape(caption), cue["start"], cue["stop"], number))
    return spans


def read_csv(text: str) -> list[Span]:
    """Read columns `label`, `onset`, `offset` (or the service's `onset_s`, `offset_s`) and optionally `channel`."""
    rows = csv.DictReader(text.splitlines())
    names = rows.fieldnames or []
    onset = next((name for name in ("onset_s", "onset") if name in names), None)
    offset = next((name for name in ("offset_s", "offset") if name in names), None)
    if onset is None or offset is None or "label" not in names:
        raise TrackError(f"line 1: expected the columns label, onset, offset, got {', '.join(names) or 'nothing'}")
    spans = []
    for number, row in enumerate(rows, start=2):
        label, sure = _label(row["label"] or "", number)
        channel = _whole(row["channel"], number) if row.get("channel") else None
        start_s, stop_s = _seconds(row[onset] or "", number), _seconds(row[offset] or "", number)
        spans.append(_checked(Span(label, start_s, stop_s, channel, sure), number))
    return spans


READERS: Mapping[str, Callable[[str], list[Span]]] = MappingProxyType(
    {".txt": read_audacity, ".rttm": read_rttm, ".vtt": read_webvtt, ".csv": read_csv}
)
"""Readers by file extension."""


def _captioned(caption: str, start: str, stop: str, number: int) -> Span:
    """Return the span of a caption such as `noise`, `noise?`, `ch1: noise (severe, 0.93)`."""
    match = _CAPTION.match(caption.strip())
    if match is None:
        raise TrackError(f"line {number}: expected a label, got {caption!r}")
    label, sure = _label(match["label"] + (match["open"] or ""), number)
    channel = None if match["channel"] is None else int(match["channel"])
    return _checked(Span(label, _seconds(start, number), _seconds(stop, number), channel, sure), number)


def _checked(span: Span, number: int) -> Span:
    if not 0.0 <= span.onset_s <= span.offset_s:
        raise TrackError(f"line {number}: expected 0 <= onset <= offset, got {span.onset_s} and {span.offset_s}")
    return span


def _label(text: str, number: int) -> tuple[str, bool]:
    name = text.strip().removesuffix("?")
    if name not in PROBABILITIES:
        raise TrackError(f"line {number}: expected one of {', '.join(PROBABILITIES)}, got {text!r}")
    return name, not text.strip().endswith("?")


def _seconds(text: str, number: int) -> float:
    """Parse seconds, or hours, minutes and seconds with colons."""
    try:
        total = 0.0
        for part in text.strip().replace(",", ".").split(":"):
            total = 60.0 * total + float(part)
    except ValueError as error:
        raise TrackError(f"line {number}: expected a time, got {text!r}") from error
    return total


def _whole(text: str, number: int) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise TrackError(f"line {number}: expected a channel number, got {text!r}") from error
