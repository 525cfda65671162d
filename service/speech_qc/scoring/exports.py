"""Export events to formats of other tools: CSV, Audacity labels, Praat TextGrid, RTTM, WebVTT.

Each format is a pure function from a `Report` to chunks of text, so that a response can be sent while it is generated.
Labels are from a closed set, but the name of a recording is arbitrary text: every format quotes, escapes or replaces
characters that would break it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from types import MappingProxyType

from speech_qc.scoring.events import Event

_LINES_PER_CHUNK = 256
"""Lines per chunk; sending single lines would cost more than generating them."""
_US_PER_S = 1_000_000


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """The results of one channel.

    Args:
        channel: Index from 0.
        events: Closed or open events; an open one is assumed to last to the end.
        frames: Scores by label, one value per frame, None where a label has no value; None if not requested.
    """

    channel: int
    events: Sequence[Event]
    frames: Mapping[str, Sequence[float | None]] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The parts of a finished inspection that exports need.

    Args:
        name: Name of the recording, free text.
        duration_s: Its length, seconds.
        channels: One entry per channel.
        frame_hop_s: Seconds between frames.
    """

    name: str
    duration_s: float
    channels: Sequence[ChannelReport]
    frame_hop_s: float = 0.02


def to_csv(report: Report) -> Iterator[str]:
    """Write one row per event, RFC 4180 with a header line; times with six decimals, scores with four.

    Columns: channel, event_id, label, family, onset_s, offset_s, score_max, score_mean, severity.
    """
    header = ("channel", "event_id", "label", "family", "onset_s", "offset_s", "score_max", "score_mean", "severity")
    rows = (
        (
            channel.channel,
            event.event_id,
            _one_line(event.label),
            event.family,
            f"{event.onset_s:.6f}",
            f"{_offset_s(event, report):.6f}",
            f"{event.score_max:.4f}",
            f"{event.score_mean:.4f}",
            event.severity,
        )
        for channel, event in _by_time(report)
    )
    return _csv_chunks(header, rows)


def frames_csv(report: Report) -> Iterator[str]:
    """Write one row per frame and channel: channel, start_s, then every label; empty where there is no value.

    Channels without frames are omitted.
    """
    with_frames = [(channel, channel.frames) for channel in report.channels if channel.frames]
    labels = list(dict.fromkeys(label for _, frames in with_frames for label in frames))

    def rows() -> Iterator[tuple[object, ...]]:
        for channel, frames in with_frames:
            columns = [frames.get(label) for label in labels]
            for i in range(max(len(values) for values in frames.values())):
                values = (column[i] if column is not None and i < len(column) else None for column in columns)
                texts = ("" if value is None else f"{value:.4f}" for value in values)
                yield (channel.channel, f"{i * report.frame_hop_s:.6f}", *texts)

    return _csv_chunks(("channel", "start_s", *labels), rows())


def to_audacity(report: Report) -> Iterator[str]:
    """Write an Audacity label track: start, end and text, separated by tabs, one event per line.

    The text is `label (severity, score)`, prefixed with `ch1: ` if there is more than one channel.

    Source: Audacity manual, "Importing and Exporting Labels".
    """
    return _chunks(
        f"{event.onset_s:.6f}\t{_offset_s(event, report):.6f}\t{_one_line(_caption(report, channel, event))}\n"
        for channel, event in _by_time(report)
    )


def to_textgrid(report: Report) -> Iterator[str]:
    """Write a Praat TextGrid in long form: one interval tier per label, and per channel if there are several.

    Intervals cover [0, duration] without gap or overlap; empty text means that nothing was found. Only labels with
    events get a tier; without events, one empty tier named `events` keeps the file readable.

    Source: Praat manual, "TextGrid file formats".
    """
    end_us = _microseconds(report.duration_s)
    tiers: dict[str, list[Event]] = {}
    for channel, event in _by_time(report):
        tiers.setdefault(_channel_mark(report, channel) + event.label, []).append(event)

    def lines() -> Iterator[str]:
        span = f"xmin = 0 \nxmax = {_praat_time(end_us)} \n"
        yield f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n{span}tiers? <exists> \n'
        yield f"size = {len(tiers) or 1} \nitem []: \n"
        for number, (name, events) in enumerate(tiers.items() or [("events", [])], start=1):
            intervals = _intervals(events, report, end_us)
            yield f'    item [{number}]:\n        class = "IntervalTier" \n        name = {_praat_text(name)} \n'
            yield f"        xmin = 0 \n        xmax = {_praat_time(end_us)} \n"
            yield f"        intervals: size = {len(intervals)} \n"
            for position, (start_us, stop_us, text) in enumerate(intervals, start=1):
                yield (
                    f"        intervals [{position}]:\n            xmin = {_praat_time(start_us)} \n"
                    f"            xmax = {_praat_time(stop_us)} \n            text = {_praat_text(text)} \n"
                )

    return _chunks(lines())


def to_rttm(report: Report) -> Iterator[str]:
    """Write RTTM, one SPEAKER line of ten fields per event: the label is the speaker name, score_mean the confidence.

    SPEAKER is used for all labels, because it is the type that every RTTM reader accepts. Channels count from 1. White
    space in the recording's name becomes `_`, because white space separates fields.

    Source: NIST, "RT-09 Evaluation Plan", appendix A.
    """
    name = _field(report.name)
    return _chunks(
        f"SPEAKER {name} {channel.channel + 1} {event.onset_s:.6f} {_offset_s(event, report) - event.onset_s:.6f} "
        f"<NA> <NA> {_field(event.label)} {event.score_mean:.4f} <NA>\n"
        for channel, event in _by_time(report)
    )


def to_webvtt(report: Report) -> Iterator[str]:
    """Write WebVTT, one cue per event in order of onset, for display as subtitles in a player.

    Source: W3C, "WebVTT: The Web Video Text Tracks Format".
    """

    def lines() -> Iterator[str]:
        yield "WEBVTT\n"
        for channel, event in _by_time(report):
            start_ms = round(event.onset_s * 1000)
            stop_ms = max(round(_offset_s(event, report) * 1000), start_ms + 1)  # a cue needs a duration
            text = _one_line(_caption(report, channel, event))
            # Escaping ">" also breaks up the arrow "-->", which is not allowed in a cue.
            text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            yield f"\n{_vtt_time(start_ms)} --> {_vtt_time(stop_ms)}\n{text}\n"

    return _chunks(lines())


@dataclass(frozen=True, slots=True)
class Export:
    """A text format: its media type, the extension of its files (no dot), and the function that writes it."""

    media_type: str
    extension: str
    render: Callable[[Report], Iterator[str]]


EXPORTS: Mapping[str, Export] = MappingProxyType(
    {
        "csv": Export("text/csv; charset=utf-8", "csv", to_csv),
        "audacity": Export("text/plain; charset=utf-8", "txt", to_audacity),
        "textgrid": Export("text/plain; charset=utf-8", "TextGrid", to_textgrid),
        "rttm": Export("text/plain; charset=utf-8", "rttm", to_rttm),
        "webvtt": Export("text/vtt; charset=utf-8", "vtt", to_webvtt),
    }
)
"""Formats by their name in requests; JSON is not among them, because it is the API's native format."""


def _by_time(report: Report) -> list[tuple[ChannelReport, Event]]:
    """List all events by onset, then channel, then label; readers such as WebVTT players rely on the order."""
    pairs = [(channel, event) for channel in report.channels for event in channel.events]
    pairs.sort(key=lambda pair: (pair[1].onset_s, pair[0].channel, pair[1].label))
    return pairs


def _offset_s(event: Event, report: Report) -> float:
    return max(event.onset_s, report.duration_s) if event.offset_s is None else event.offset_s


def _channel_mark(report: Report, channel: ChannelReport) -> str:
    return f"ch{channel.channel}: " if len(report.channels) > 1 else ""


def _caption(report: Report, channel: ChannelReport, event: Event) -> str:
    return f"{_channel_mark(report, channel)}{event.label} ({event.severity}, {event.score_mean:.2f})"


def _intervals(events: Sequence[Event], report: Report, end_us: int) -> list[tuple[int, int, str]]:
    """Split [0, end] into intervals with and without an event; whole microseconds, so that neighbours meet exactly."""
    intervals: list[tuple[int, int, str]] = []
    position = 0
    for event in events:
        # The last frame may extend beyond the last sample, and events from other sources may overlap: both are cut.
        start = max(_microseconds(event.onset_s), position)
        stop = min(_microseconds(_offset_s(event, report)), end_us)
        if stop <= start:
            continue
        if start > position:
            intervals.append((position, start, ""))
        intervals.append((start, stop, f"{event.severity} {event.score_mean:.2f}"))
        position = stop
    if position < end_us or not intervals:
        intervals.append((position, end_us, ""))
    return intervals


def _microseconds(seconds: float) -> int:
    return round(seconds * _US_PER_S)


def _praat_time(microseconds: int) -> str:
    return f"{microseconds // _US_PER_S}.{microseconds % _US_PER_S:06d}"


def _praat_text(text: str) -> str:
    return '"' + _one_line(text).replace('"', '""') + '"'


def _vtt_time(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"


def _one_line(text: str) -> str:
    """Replace characters that would end a line or a field, or that UTF-8 cannot encode, with spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def _field(text: str) -> str:
    """Convert a text to one RTTM field: no white space, never empty."""
    return "_".join(_one_line(text).split()) or "<NA>"


def _csv_chunks(header: Iterable[object], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    source = chain([header], rows)
    while batch := list(islice(source, _LINES_PER_CHUNK)):
        sink = io.StringIO(newline="")
        csv.writer(sink).writerows(batch)
        yield sink.getvalue()


def _chunks(lines: Iterable[str]) -> Iterator[str]:
    """Join lines into larger chunks; without lines there is no chunk."""
    source = iter(lines)
    while chunk := "".join(islice(source, _LINES_PER_CHUNK)):
        yield chunk
