"""Shows a live stream: sparklines that move with the audio, events and warnings as they arrive, and the summary."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from speech_qc.cli.files import InputFile, printable
from speech_qc.cli.sparklines import blocks, column_means
from speech_qc.cli.tables import HEADLINES, SEVERITY_STYLES, clock, detail, output_console, without_padding
from speech_qc.wire.server_messages import (
    AnyServerMessage,
    EventMessage,
    Ready,
    Scores,
    StreamError,
    StreamWarning,
    Summary,
)

Float32 = NDArray[np.float32]

COLUMN_S = 0.1
"""Audio per character of a moving sparkline."""
DRAW_S = 0.05
"""Minimum time between two updates of the display."""
NEWS_SHOWN = 8
HISTORY_S = 600.0
"""Scores kept per stream, which bounds memory; the summary of a longer stream has no sparklines."""
SNR_SHOWN_DB = 40.0


class View(Protocol):
    """Shows a stream; always call `close` at the end."""

    def take(self, message: AnyServerMessage) -> None:
        """Show one message."""

    def close(self) -> None:
        """Show the summary after the stream has ended."""


class JsonView:
    """Prints every message as one line of JSON."""

    def take(self, message: AnyServerMessage) -> None:
        """Print the message and flush, for the reader of the pipe."""
        sys.stdout.write(message.model_dump_json(exclude_unset=True) + "\n")
        sys.stdout.flush()

    def close(self) -> None:
        """Do nothing: all messages have been printed."""


class History:
    """The most recent scores of one channel; bounded.

    Args:
        labels: Labels in the order of the stream.
        hop_s: Seconds between frames.
    """

    def __init__(self, labels: Sequence[str], hop_s: float) -> None:
        self._limit = round(HISTORY_S / hop_s)
        self._parts: dict[str, deque[Float32]] = {label: deque() for label in labels}
        self._kept = self.total = 0

    def add(self, frames: dict[str, list[float | None]]) -> None:
        """Append the next frames."""
        arrays = {label: np.array(values, np.float32) for label, values in frames.items()}
        count = max((len(values) for values in arrays.values()), default=0)
        for label, parts in self._parts.items():
            parts.append(arrays.get(label, np.full(count, np.nan, np.float32)))
        self._kept += count
        self.total += count
        while self._kept > self._limit:
            self._kept -= max(len(parts.popleft()) for parts in self._parts.values())

    def last(self, label: str, count: int) -> Float32:
        """Return the last frames, at most `count`, float32 (n,)."""
        taken, parts = 0, list[Float32]()
        for part in reversed(self._parts[label]):
            parts.append(part)
            taken += len(part)
            if taken >= count:
                break
        return np.concatenate(parts[::-1])[-count:] if parts else np.zeros(0, np.float32)

    def complete(self) -> dict[str, Float32] | None:
        """Return all scores by label; None if old ones were discarded, or there are none."""
        if self.total != self._kept or not self.total:
            return None
        return {label: np.concatenate(parts) for label, parts in self._parts.items()}


class TerminalView:
    """Moving sparklines on a terminal, a line per event otherwise; the summary looks like that of `speech-qc inspect`.

    Args:
        source: The audio source, for its name.
        ready: The server's `ready` message.
        notes: Console on standard error.
    """

    def __init__(self, source: InputFile, ready: Ready, notes: Console) -> None:
        self._source, self._ready, self._notes = source, ready, notes
        self._console = output_console(sys.stdout)
        self._histories = [History(ready.labels, ready.frame_hop_s) for _ in range(ready.channels)]
        self._running: dict[tuple[int, int], EventMessage] = {}
        self._news: deque[Text] = deque(maxlen=NEWS_SHOWN)
        self._summary: Summary | None = None
        self._drawn_s = 0.0
        self._live: Live | None = None
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def take(self, message: AnyServerMessage) -> None:
        """Show one message."""
        if isinstance(message, Scores):
            for part in message.channels:
                self._histories[part.channel].add(part.frames)
        elif isinstance(message, EventMessage):
            self._event(message)
        elif isinstance(message, StreamWarning):
            where = "" if message.channel is None or self._ready.channels == 1 else f"channel {message.channel}: "
            self._tell(Text(printable(f"warning: {where}{message.message}"), style="yellow"), self._notes)
        elif isinstance(message, StreamError):
            self._tell(Text(printable(f"error: {message.error.message}"), style="red"), self._notes)
        elif isinstance(message, Summary):
            self._summary = message
        now_s = time.monotonic()
        if self._live is not None and now_s - self._drawn_s >= DRAW_S:
            self._drawn_s = now_s
            self._live.update(self.picture(), refresh=True)

    def close(self) -> None:
        """Print the summary."""
        if self._live is not None:
            self._live.stop()
        if self._summary is None:
            return
        console = self._console
        with console.capture() as capture:
            console.print(detail(self._source, self._document(self._summary), console.width, ascii_only=self._ascii))
        sys.stdout.write(_encodable(without_padding(capture.get())))
        sys.stdout.flush()

    def picture(self) -> RenderableType:
        """Render the current state of the stream."""
        ready, hop_s = self._ready, self._ready.frame_hop_s
        scored_s = self._histories[0].total * hop_s
        head = f"{self._source.name}  {clock(scored_s)}  {ready.model.name} {ready.model.version}"
        parts: list[RenderableType] = [Text(printable(head), style="bold")]
        for channel, history in enumerate(self._histories):
            if ready.channels > 1:
                parts.append(Text(f"Channel {channel}", style="bold"))
            parts += [self._sparkline(history, label) for label in self._sparklines(channel)]
        parts += [Text(), *self._news]
        return Group(*parts)

    @property
    def _ascii(self) -> bool:
        return self._console.options.ascii_only

    def _sparklines(self, channel: int) -> list[str]:
        """Labels to show: speech, the headlines, SNR, and every cause with an event in progress."""
        running = {event.label for (where, _), event in self._running.items() if where == channel}
        return [label for label in self._ready.labels if label in (*HEADLINES, "snr_db") or label in running]

    def _sparkline(self, history: History, label: str) -> Text:
        per_column = max(1, round(COLUMN_S / self._ready.frame_hop_s))
        margin = max(len(name) for name in self._ready.labels) + 2
        columns = max(1, self._console.width - margin - 7)
        # Align columns to the start of the stream, so that a sparkline moves without flickering.
        kept = columns * per_column + history.total % per_column
        values = history.last(label, kept)
        line = ""
        if len(values) >= per_column:
            line = blocks(_scaled(column_means(values, len(values) // per_column), label), self._ascii)[-columns:]
        now = values[-1] if len(values) else np.nan
        figure = "–" if not np.isfinite(now) else f"{now:.1f}" if label == "snr_db" else f"{now:.2f}"
        return Text(f"{label:<{margin}}{figure:>5} {line}", no_wrap=True)

    def _event(self, event: EventMessage) -> None:
        key = (event.channel, event.event_id)
        if event.phase == "begin":
            self._running[key] = event
        else:
            self._running.pop(key, None)
        where = f"channel {event.channel}  " if self._ready.channels > 1 else ""
        at_s = event.onset_s if event.phase == "begin" or event.offset_s is None else event.offset_s
        text = Text(f"{at_s:9.2f} s  {where}{event.label} {'begins' if event.phase == 'begin' else 'ends'}")
        if event.phase == "end":
            text.append(f" after {at_s - event.onset_s:.2f} s, ")
            text.append(str(event.severity), style=SEVERITY_STYLES.get(str(event.severity), ""))
        self._tell(text, self._console)

    def _tell(self, text: Text, console: Console) -> None:
        """Show a line below the sparklines, or print it if there are none."""
        if self._live is not None:
            self._news.append(text)
        elif console is self._console:
            sys.stdout.write(_encodable(text.plain + "\n"))
            sys.stdout.flush()
        else:
            console.print(text)

    def _document(self, summary: Summary) -> dict[str, Any]:
        """Convert the summary to the document format of `POST /v1/inspect`."""
        ready = self._ready
        channels = [channel.model_dump() for channel in summary.channels]
        for channel, history in zip(channels, self._histories, strict=True):
            if channel["events_dropped"] is None:
                del channel["events_dropped"]
            frames = history.complete()
            if frames is not None:
                channel["frames"] = frames
        return {
            "model": ready.model.model_dump(),
            "profile": summary.profile,
            "audio": {
                "duration_s": summary.duration_s,
                "sample_rate_hz": ready.sample_rate_hz,
                "channels": ready.channels,
                "encoding": ready.encoding,
            },
            "frame_hop_s": ready.frame_hop_s,
            "channels": channels,
        }


def _scaled(values: NDArray[np.float64], label: str) -> NDArray[np.float64]:
    return values / SNR_SHOWN_DB if label == "snr_db" else values


def _encodable(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)
