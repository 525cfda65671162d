"""What the client of a live stream is told of its scores: frames wait here until a message is due."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from speech_qc.audio.stereo import Stereo
from speech_qc.contract import ModelContract
from speech_qc.live.options import StreamOptions
from speech_qc.live.outbox import Outbox
from speech_qc.pipeline.channel_scores import Update
from speech_qc.pipeline.documents import channel_findings, event_message, stereo_fields, timing_answer
from speech_qc.pipeline.recording import Timing
from speech_qc.pipeline.session import ChannelRecord
from speech_qc.wire.encode import to_json
from speech_qc.wire.message import Message
from speech_qc.wire.server_messages import Configured, Finalized, GapMessage, Summary


class ScoreOutput(Protocol):
    """Takes what a scorer finds."""

    @property
    def full(self) -> bool:
        """Whether scoring must pause; `Scorer.advance` must be called when it may go on."""

    @property
    def on_text(self) -> Callable[[list[bytes], int], None] | None:
        """Takes frames of a single channel as JSON, one text per column, and their number; None to get all updates."""

    def updated(self, updates: Sequence[Update]) -> None:
        """Take the next frames and events, one update per channel."""

    def emit(self) -> None:
        """Pass on what was taken: the time between two messages has passed."""


class ScoreMessages:
    """Writes the messages about one stream's scores.

    Args:
        contract: Contract of the model.
        options: What the client requested; `configure` replaces it.
        outbox: Takes the messages.
    """

    def __init__(self, contract: ModelContract, options: StreamOptions, outbox: Outbox) -> None:
        self._contract, self._outbox, self._channels = contract, outbox, options.channels
        self._frame_hop_s = contract.features.frame_hop_s
        # Frames accepted but not sent: for each channel and chunk, one JSON text per column.
        self._pending: list[list[list[bytes]]] = [[] for _ in range(options.channels)]
        self._first = 0  # first frame not sent yet
        self._stop = 0  # first frame not accepted yet
        self._use(options)

    @property
    def full(self) -> bool:
        """Whether the client is so far behind that nothing should be added."""
        return self._outbox.full

    def on_text(self, text: list[bytes], frames: int) -> None:
        """Take frames that bring no news, of the only channel, as JSON: one text per column."""
        self._pending[0].append(text)
        self._stop += frames

    def updated(self, updates: Sequence[Update]) -> None:
        """Take the next frames and events, one update per channel; events are sent at once."""
        if updates[0].first_frame > self._stop:
            self._skip_to(updates[0].first_frame)
        self._stop = updates[0].stop_frame
        for channel, update in enumerate(updates):
            if update.block.frames:
                self._pending[channel].append(update.block.text())
            for news in update.events:
                if news.event.label in self._shown:
                    self._send(event_message(channel, news))

    def emit(self) -> None:
        """Send all frames that wait."""
        first = self._first
        if first == self._stop:
            return
        self._first = self._stop
        columns: list[bytes] = []
        for blocks in self._pending:
            texts = blocks[0] if len(blocks) == 1 else list(map(b",".join, zip(*blocks, strict=True)))
            columns += texts if self._columns is None else [texts[column] for column in self._columns]
            blocks.clear()
        self._outbox.force(self._message % (first, round(first * self._frame_hop_s, 3), *columns))

    def finalized(self) -> None:
        """Send all frames that wait, and say how many there were."""
        self.emit()
        self._send(Finalized(frames=self._first))

    def configure(self, options: StreamOptions, latency_s: float) -> None:
        """Send all frames that wait, then apply the new options, and say so."""
        self.emit()
        self._use(options)
        self._send(
            Configured(
                first_frame=self._first,
                labels=list(options.labels),
                emit_ms=options.emit_ms,
                profile=options.profile_name,
                latency_s=latency_s,
            )
        )

    def _use(self, options: StreamOptions) -> None:
        columns = [self._contract.index(label) for label in options.labels]
        self._columns = None if columns == list(range(len(self._contract.labels))) else columns
        self._message = _template(options.labels, self._channels)
        self._shown = frozenset(options.labels)

    def _skip_to(self, frame: int) -> None:
        """Say that the frames before this one were not received, instead of sending a null for each."""
        self.emit()
        first, start_s = self._stop, round(self._stop * self._frame_hop_s, 3)
        self._send(GapMessage(first_frame=first, start_s=start_s, frames=frame - first, reason="not_received"))
        self._first = self._stop = frame

    def _send(self, message: Message) -> None:
        self._outbox.force(to_json(message.document()))


def summary_message(
    session_id: str, options: StreamOptions, records: Sequence[ChannelRecord], timing: Timing, stereo: Stereo | None
) -> bytes:
    """Return the last message of a stream; it may list thousands of events."""
    message = Summary(
        session_id=session_id,
        session_name=options.session_name,
        profile=options.profile_name,
        duration_s=round(records[0].duration_s, 6),
        frames=records[0].frame_total,
        channels=[channel_findings(channel, record, options.labels) for channel, record in enumerate(records)],
        timing=timing_answer(timing),
        **stereo_fields(stereo),
    )
    return to_json(message.document())


def leg_document(channel: int, record: ChannelRecord, labels: Sequence[str]) -> dict[str, Any]:
    """Return the document with which a leg ends."""
    found = channel_findings(channel, record, labels).model_dump(exclude_unset=True)
    return found | {"duration_s": round(record.duration_s, 6), "frames": record.frame_total}


def _template(labels: Sequence[str], channels: int) -> bytes:
    """Return a `scores` message with room for the first frame, its time, and the frames of each channel and label."""
    frames = ",".join(f'"{label}":[%b]' for label in labels)
    each = ",".join(f'{{"channel":{channel},"frames":{{{frames}}}}}' for channel in range(channels))
    return f'{{"type":"scores","first_frame":%d,"start_s":%a,"channels":[{each}]}}'.encode()
