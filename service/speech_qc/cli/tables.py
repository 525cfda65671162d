"""Results for the terminal: the table of a run, and the details of one recording."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from speech_qc.cli.files import InputFile, printable
from speech_qc.cli.interaction_table import interaction_tables
from speech_qc.cli.sparklines import sparkline_grid
from speech_qc.contract import LABEL_CATALOG

if TYPE_CHECKING:  # commands that print tables need not import the model code
    from speech_qc.cli.answers import Document

PIPE_WIDTH = 140
"""Width if the output is not a terminal and COLUMNS is not set; rich would use 80."""
FILE_WIDTH = 120
"""Width of result files."""
SCORES_MAX_S = 30.0
"""Maximum length of a recording whose frames are all printed: 1500 lines."""
REASONS_SHOWN = 2
WIDE = 110
"""Minimum width of a terminal for the column of reasons."""

STATUS_STYLES = {"pass": "bold green", "warn": "bold yellow", "fail": "bold red", "unknown": "bold magenta"}
SEVERITY_STYLES = {"minor": "", "moderate": "yellow", "severe": "red"}
HEADLINES = tuple(name for name, (family, _) in LABEL_CATALOG.items() if family in ("speech", "headline"))


def output_console(file: TextIO) -> Console:
    """Return a console for a file: colours on a terminal, otherwise plain text of a fixed width."""
    console = Console(file=file, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(file=file, highlight=False, width=PIPE_WIDTH)
    return console


def rendered(renderable: RenderableType) -> bytes:
    """Render for a result file, without colours."""
    sink = io.StringIO()
    Console(file=sink, highlight=False, width=FILE_WIDTH, force_terminal=False, color_system=None).print(renderable)
    return without_padding(sink.getvalue()).encode()


def without_padding(text: str) -> str:
    """Remove the trailing spaces with which rich pads its lines."""
    return "\n".join(line.rstrip(" ") for line in text.split("\n"))


class RunTable:
    """The table of a run, with a row per channel; it stores only figures, so its size does not depend on the audio."""

    def __init__(self) -> None:
        self._rows: list[tuple[Text | str, ...]] = []
        self._judges: dict[str, None] = {}  # in the order of their first recording

    def add(self, source: InputFile, document: Document) -> None:
        """Add the rows of one recording."""
        several = len(document["channels"]) > 1
        self._judges[judge(document)] = None
        for channel in document["channels"]:
            summary, verdict = channel["summary"], channel["verdict"]
            events = len(channel["events"]) + channel.get("events_dropped", 0)
            self._rows.append(
                (
                    Text(source.name, overflow="fold"),
                    str(channel["channel"]) if several else "",
                    clock(document["audio"]["duration_s"]),
                    _status(verdict["status"]),
                    _number(summary["quality"], ".0f"),
                    _number(summary["snr_db"], ".1f"),
                    _percent(summary["speech_ratio"]),
                    _percent(summary["noise_ratio"]),
                    _percent(summary["interference_ratio"]),
                    str(events),
                    _reasons(verdict["reasons"]),
                )
            )

    def __len__(self) -> int:
        return len(self._rows)

    def shown(self, width: int) -> Group:
        """Return the table with the first reasons of each verdict: in a column if there is room, otherwise below.

        A line under it names the model and the profile.
        """
        judges = Text(printable("; ".join(self._judges)), style="dim")
        if width >= WIDE:
            return Group(self._table(reasons=True), judges)
        below = [
            Text(f"{row[0]}{f' channel {row[1]}' if row[1] else ''}: {' '.join(str(row[-1]).splitlines())}")
            for row in self._rows
            if str(row[-1])
        ]
        return Group(self._table(), judges, *([Text()] if below else []), *below)

    def figures(self) -> Table:
        """Return the table without reasons."""
        return self._table()

    def _table(self, *, reasons: bool = False) -> Table:
        table = open_table()
        table.add_column("file", min_width=8)
        several = any(row[1] for row in self._rows)
        if several:
            table.add_column("ch", justify="right")
        for heading in ("length", "verdict", "quality", "SNR dB", "speech %", "noise %", "interf. %", "events"):
            table.add_column(heading, justify="left" if heading == "verdict" else "right", no_wrap=True)
        if reasons:
            table.add_column("reasons", min_width=24)
        for row in self._rows:
            cells = row if several else (row[0], *row[2:])
            table.add_row(*cells[: len(table.columns)])
        return table


def judge(document: Document) -> str:
    """Name the model and the profile of a result; older servers do not send the profile."""
    model, profile = document["model"], document.get("profile")
    return f"judged by {model['name']} {model['version']}" + (f", profile {profile}" if profile else "")


def open_table() -> Table:
    """Return a table in this program's style: a line under the headings, no other lines."""
    return Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def detail(source: InputFile, document: Document, width: int, *, ascii_only: bool = False) -> Group:
    """Render the details of one recording: its format, verdict, events and scores over time.

    Args:
        source: The recording, for its name.
        document: The result.
        width: Columns available for the sparklines.
        ascii_only: Draw with ASCII characters only.
    """
    table = RunTable()
    table.add(source, document)
    audio = document["audio"]
    rate_khz = f"{audio['sample_rate_hz'] / 1000:g} kHz"
    channels = "1 channel" if audio["channels"] == 1 else f"{audio['channels']} channels"
    about = f"{audio['encoding']}, {rate_khz}, {channels}; {judge(document)}"
    parts: list[RenderableType] = [table.figures(), Text(printable(about), style="dim")]
    if document.get("stereo") is not None:
        parts.append(Text(_stereo_line(document["stereo"]), style="dim"))
    if document.get("interaction") is not None:
        parts += [Text(), *interaction_tables(document["interaction"])]
    for channel in document["channels"]:
        parts.append(Text())
        if len(document["channels"]) > 1:
            role = f" ({printable(channel['role'])})" if channel.get("role") else ""
            parts.append(Text(f"Channel {channel['channel']}{role}", style="bold"))
        parts += [Text(line, style="dim") for line in _levels_lines(channel["levels"])]
        parts += [Text(f"• {reason['message']}") for reason in channel["verdict"]["reasons"]]
        parts += [_event_table(channel) if channel["events"] else Text("No events.", style="dim")]
        if channel.get("events_dropped"):
            parts.append(Text(f"{channel['events_dropped']} further events are not listed.", style="dim"))
        if channel.get("frames"):
            labels = _sparkline_labels(channel)
            parts += [Text(), *sparkline_grid(channel["frames"], labels, document["frame_hop_s"], width, ascii_only)]
    return Group(*parts)


def frame_lines(document: Document) -> Iterator[str]:
    """Yield a line per frame and channel: time, then speech, noise, interference and SNR, if requested."""
    hop_s, several = document["frame_hop_s"], len(document["channels"]) > 1
    for channel in document["channels"]:
        frames: Mapping[str, Any] = channel.get("frames", {})
        labels = [label for label in (*HEADLINES, "snr_db") if label in frames]
        widths = [max(8, len(label)) for label in labels]
        mark = f"{channel['channel']:>2}  " if several else ""
        heading = "  ".join(f"{label:>{width}}" for label, width in zip(labels, widths, strict=True))
        yield f"{'ch  ' if several else ''}{'time_s':>8}  {heading}"
        for i in range(len(frames[labels[0]]) if labels else 0):
            values = (_number(frames[label][i], ".1f" if label == "snr_db" else ".3f") for label in labels)
            row = "  ".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
            yield f"{mark}{i * hop_s:8.2f}  {row}"


def clock(seconds: float) -> str:
    """Format a duration: `3.42 s`, `2:05`, `1:02:05`."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def tally(statuses: Sequence[str], errors: int, skipped: int = 0) -> str:
    """Return the last line of a run, a verdict per channel: `3 verdicts: 2 pass, 1 fail; 1 error; 1 file skipped`."""
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in STATUS_STYLES if status in statuses)
    text = f"{len(statuses)} verdict{'' if len(statuses) == 1 else 's'}" + (f": {counts}" if counts else "")
    text += f"; {errors} error{'' if errors == 1 else 's'}" if errors else ""
    return text + (f"; {skipped} file{'' if skipped == 1 else 's'} skipped" if skipped else "")


def _event_table(channel: Mapping[str, Any]) -> Table:
    table = open_table()
    table.add_column("event", no_wrap=True)
    for heading in ("onset s", "offset s", "length s", "score", "highest"):
        table.add_column(heading, justify="right")
    table.add_column("severity")
    detailed = any(event.get("detail") is not None for event in channel["events"])
    if detailed:
        table.add_column("detail")
    explained = any(event.get("evidence") is not None for event in channel["events"])
    if explained:
        table.add_column("band Hz", justify="right", no_wrap=True)
        table.add_column("over floor dB", justify="right")
        table.add_column("SNR dB", justify="right")
        table.add_column("kind", no_wrap=True)
    for event in sorted(channel["events"], key=lambda event: (event["onset_s"], event["event_id"])):
        offset_s = event["offset_s"]
        table.add_row(
            event["label"],
            f"{event['onset_s']:.2f}",
            _number(offset_s, ".2f"),
            _number(None if offset_s is None else offset_s - event["onset_s"], ".2f"),
            f"{event['score_mean']:.2f}",
            f"{event['score_max']:.2f}",
            Text(event["severity"], style=SEVERITY_STYLES.get(event["severity"], "")),
            *((_detail_cell(event.get("detail")),) if detailed else ()),
            *(_evidence_cells(event.get("evidence") or {}) if explained else ()),
        )
    return table


def _detail_cell(detail: Mapping[str, Any] | None) -> str:
    """Format what is known about a dropout or a tone."""
    if detail is None:
        return ""
    if "gap_ms" in detail:
        return f"{detail['kind']} {detail['gap_ms']:.0f} ms"
    if detail["digits"]:
        return f"{detail['kind']} {detail['digits']}"
    frequencies = "+".join(f"{hz:.0f}" for hz in detail["frequencies_hz"])
    return f"{detail['kind']} {frequencies} Hz" if frequencies else str(detail["kind"])


def _evidence_cells(evidence: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Format band, level over the floor, SNR and kind; JSON has the reason if one is missing."""
    band, kind = evidence.get("band"), evidence.get("kind")
    return (
        "–" if band is None else f"{band['low_hz']:.0f}–{band['high_hz']:.0f}",
        _number(evidence.get("over_floor_db"), ".1f"),
        _number(evidence.get("snr_db"), ".1f"),
        "–" if kind is None else f"{kind} {_number(evidence.get('kind_score'), '.2f')}",
    )


def _levels_lines(levels: Mapping[str, Any]) -> list[str]:
    """Format the signal levels in two lines, and in a third what is above 8 kHz."""
    clipped, silence = levels["clipped_ratio"], levels["digital_silence_ratio"]
    lines = [
        f"level {_number(levels['rms_dbfs'], '.1f')} dBFS, peak {_number(levels['peak_dbfs'], '.1f')} dBFS, "
        f"clipped {_number(None if clipped is None else 100 * clipped, '.2f')} %, "
        f"digital silence {_number(None if silence is None else 100 * silence, '.1f')} %, "
        f"DC {_number(levels['dc_offset'], '.4f')}, band {_number(levels['bandwidth_hz'], '.0f')} Hz",
        f"loudness {_number(levels.get('loudness_lufs'), '.1f')} LUFS, "
        f"range {_number(levels.get('loudness_range_lu'), '.1f')} LU, "
        f"true peak {_number(levels.get('true_peak_dbtp'), '.1f')} dBTP, "
        f"noise floor {_number(levels.get('noise_floor_dbfs'), '.1f')} dBFS",
    ]
    if levels.get("high_band_dbfs") is not None:
        tone_hz = levels.get("high_tone_hz")
        named = "" if tone_hz is None else f", with a tone at {tone_hz:.0f} Hz"
        lines.append(f"above 8 kHz: {levels['high_band_dbfs']:.1f} dBFS{named}")
    return lines


def _stereo_line(stereo: Mapping[str, Any]) -> str:
    """Format the comparison of two channels."""
    inverted = "; one channel is inverted" if stereo["inverted"] else ""
    return (
        f"channels: correlation {_number(stereo['correlation'], '.2f')}, "
        f"channel 0 is {_number(stereo['imbalance_db'], '+.1f')} dB relative to channel 1{inverted}"
    )


def _sparkline_labels(channel: Mapping[str, Any]) -> list[str]:
    """Labels to show as sparklines: speech, the headlines, SNR, and every cause with an event."""
    found = {event["label"] for event in channel["events"]}
    return [label for label in channel["frames"] if label in (*HEADLINES, "snr_db") or label in found]


def _status(status: str) -> Text:
    return Text(status, style=STATUS_STYLES.get(status, ""))


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or value != value else f"{value:{form}}"


def _percent(ratio: float | None) -> str:
    return "–" if ratio is None else f"{100 * ratio:.0f}"


def _reasons(reasons: Iterable[Mapping[str, Any]]) -> Text:
    """Format the first reasons, one per line; the details and JSON contain all of them."""
    texts = [str(reason["message"]) for reason in reasons]
    more = len(texts) - REASONS_SHOWN
    shown = texts[:REASONS_SHOWN] + ([f"… and {more} more"] if more > 0 else [])
    return Text("\n".join(shown))
