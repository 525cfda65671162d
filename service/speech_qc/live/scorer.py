"""Moves one stream's chunks to the engine and its scores to the outbox, at most one chunk per channel at a time.

The receiver pushes audio and gives commands. Whatever a push, a command or an engine result makes possible is done
immediately, in the same iteration of the event loop. There is no task: waking one up would cost more than most of its
work. All channels of a stream get the same number of samples, so they advance in step.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.stereo import StereoMeter
from speech_qc.calls.legs import LegFeed
from speech_qc.engine import GroupResult, Lane
from speech_qc.errors import InferenceError
from speech_qc.live.lanes import LiveLanes, latency_s
from speech_qc.live.options import StreamOptions
from speech_qc.live.outbox import Outbox
from speech_qc.model.reload import Generation
from speech_qc.pipeline.documents import channel_findings, event_message, stereo_fields, timing_answer
from speech_qc.pipeline.factory import make_lanes
from speech_qc.pipeline.recording import Timing
from speech_qc.pipeline.session import ChannelRecord, Session, Update
from speech_qc.pipeline.shared_channels import SharedChannels
from speech_qc.state import AppState
from speech_qc.wire.encode import to_json
from speech_qc.wire.message import Message
from speech_qc.wire.server_messages import Configured, Finalized, GapMessage
from speech_qc.wire.server_messages import Summary as SummaryMessage
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

COUNT_FRAMES = 50
"""Frames of a stream that are counted in one call: a counter's lock costs as much as checking a frame."""

_T = TypeVar("_T")
_Command = Callable[[], None]
OnPiece = Callable[[int, Float32, float], None]
"""Called with a channel, its samples (a few thousand at a time) and their mean square."""


class Scorer:
    """Owns the sessions of one stream, and its engine sessions from `open` to `close`.

    Args:
        generation: The model that scores the stream, and its started engine.
        state: Limits and metrics of the server.
        options: What the client requested; `configure` replaces it.
        outbox: Receives the messages to the client.
        on_piece: Called with the samples that were pushed.
        on_heard: Called with a channel, a position and the received samples there, at the model's rate.
        on_update: Called with a channel and its scores and events; if given, no message says them.
    """

    def __init__(
        self,
        generation: Generation,
        state: AppState,
        options: StreamOptions,
        outbox: Outbox,
        on_piece: OnPiece,
        *,
        on_heard: Callable[[int, int, Float32], None] | None = None,
        on_update: Callable[[int, Update], None] | None = None,
    ) -> None:
        settings, metrics, contract = state.settings, state.metrics, generation.contract
        self.options = options
        self.legs: list[LegFeed] = []
        """Take samples and scores, one per channel, if the channels are the legs of a call."""
        if options.legs:
            on_heard = self._heard
        self._on_update = on_update
        self.sessions = [
            Session(
                contract,
                options.rate_hz,
                max_events=settings.max_events,
                reader=generation.reader,
                on_piece=partial(on_piece, channel),
                show_digits=settings.show_digits,
                pool=generation.channels.meters,
                rows=generation.channels.rows,
                gaps=True,
                is_16_bit=options.encoding != "float32",
                on_heard=None if on_heard is None else partial(on_heard, channel),
            )
            for channel in range(options.channels)
        ]
        self._engine, self._contract, self._outbox, self._metrics = generation.engine, contract, outbox, metrics
        self._lanes = lanes = LiveLanes.of(make_lanes(settings))
        self._stereo = StereoMeter() if options.channels == 2 else None
        self._live_seconds = metrics.audio_seconds.labels("live")
        self._live_noisy = metrics.noisy_frames.labels("live")
        self._noisy_counted = 0  # frames
        spec = contract.features
        self._hop, self._overlap = spec.hop_samples, spec.overlap_samples
        self._frame_hop_s = spec.frame_hop_s
        self._hops_per_frame = spec.hops_per_frame
        most = round(settings.stream_max_ahead_s * spec.sample_rate_hz)
        self._max_ahead = max(most, 2 * lanes.live.hops * spec.hop_samples)
        self._numbers: list[int] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set when everything is scored and in the outbox after `end`; fails if the engine fails permanently."""
        outbox.on_room = self._advance
        self._room = asyncio.Event()
        self._command: _Command | None = None
        self._command_done = asyncio.Event()
        self._flushing = False
        self._aligned = False  # chunks end at message boundaries; see _next_lane
        self._ended = False
        self._stopped = False
        self._lane = lanes.live  # of the chunks in the engine
        self._in_flight = 0  # channels whose chunk has no result yet
        self._group = generation.channels
        self._members: list[_Member] = []
        self._is_cut = True  # the chunk that was submitted last
        self._since_s: float | None = None  # when the audio that is being pushed arrived
        self._updates: list[Update | None] = [None] * options.channels
        self._retried = [False] * options.channels
        self._arrived_s = 0.0
        self._arrivals: deque[tuple[int, float]] = deque()  # (samples received by then, time), one per frame at most
        # Frames accepted but not sent: for each channel and chunk, one JSON text per column.
        self._pending: list[list[list[bytes]]] = [[] for _ in self.sessions]
        self._pending_first = 0  # first frame not sent yet
        self._accepted = 0  # frames
        self._uncounted = 0  # frames sent but not yet counted in the metrics
        self._rows = 0  # model rows since the last message, including those of the look-ahead
        self._use(options)
        self.decode_s = self._features_s = self._queue_s = self._step_s = 0.0

    # -- for the receiver ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open an engine session for each channel.

        Raises:
            Overloaded, Draining, EngineDead: The engine refuses; no session stays open then.
        """
        text_only = len(self.sessions) == 1 and not self.options.legs and self._on_update is None
        try:
            for channel, session in enumerate(self.sessions):
                self._numbers.append(self._engine.open_session())
                self._members.append(_Member(self, channel, session, self._group, text_only=text_only))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the engine sessions; may be called twice."""
        self._count(whole=True)
        self._outbox.on_room = None
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            self._engine.close_session(number)
        for member in self._members:
            member.close()

    def push(self, channels: Sequence[Float32], now_s: float, *, bounded: bool) -> None:
        """Take samples that arrived now, the same number for each channel.

        Args:
            channels: float32 (n,) each, at the stream's rate.
            now_s: Monotonic time, seconds.
            bounded: They were converted from integers; see `Session.push`.

        Raises:
            InvalidAudio: The samples have the wrong scale.
        """
        for session, samples in zip(self.sessions, channels, strict=True):
            session.push(samples, bounded=bounded)
        if self._stereo is not None:
            self._stereo.push(channels[0], channels[1])
        received = self.sessions[0].samples_received
        if self._arrivals and received - self._arrivals[-1][0] < self._overlap:
            self._arrivals.pop()  # for messages of a few samples, one entry per window is enough; keep the later time
        self._arrivals.append((received, now_s))
        self._since_s = now_s
        self._advance()
        self._since_s = None

    def gap(self, samples: int, kind: GapKind) -> None:
        """Note that samples at the stream's rate were not received; see `Session.gap`."""
        rate_hz = self._contract.features.sample_rate_hz
        for channel, session in enumerate(self.sessions):
            start = session.position
            session.gap(samples, kind)
            if self.legs:
                stop = session.position
                self.legs[channel].gap(start * rate_hz // session.rate_hz, stop * rate_hz // session.rate_hz, kind)

    @property
    def has_room(self) -> bool:
        """Whether less than the allowed amount of audio waits."""
        return self.sessions[0].samples_waiting < self._max_ahead

    @property
    def samples_missing(self) -> int:
        """Samples at the stream's rate without which no further chunk is complete; may be negative."""
        is_small = self._small or not self._aligned
        following = self._lanes.flush if is_small else self._lanes.live
        hops = following.hops + (0 if self._is_cut else self._lane.hops)
        missing = hops * self._hop + self._overlap - self.sessions[0].samples_waiting
        return -(-missing * self.options.rate_hz // self._contract.features.sample_rate_hz)

    async def wait_for_room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            self._room.clear()
            await self._room.wait()

    async def finalize(self) -> None:
        """Score and send what can be scored before the end; return when `finalized` is in the outbox."""
        self._flushing = True
        await self._do(self._finalize)

    async def configure(self, options: StreamOptions) -> None:
        """Send pending frames, then apply the new options; return when `configured` is in the outbox."""

        def change() -> None:
            self._emit()
            self._use(options)
            self._send(
                Configured(
                    first_frame=self._pending_first,
                    labels=list(options.labels),
                    emit_ms=options.emit_ms,
                    profile=options.profile_name,
                    latency_s=self.latency_s,
                )
            )

        await self._do(change)

    def end(self) -> None:
        """End the audio: score the rest, then set `done`."""
        if not self._ended:
            self._ended = True
            for session in self.sessions:
                session.finish()
            self._command = None
            self._advance()

    def stop(self) -> None:
        """Stop immediately, whatever is pending; cancels `done` unless it is already set."""
        self._stopped = True
        self.done.cancel()

    @property
    def latency_s(self) -> float:
        """The latency that `ready` and `configured` report."""
        return latency_s(self._contract, self.sessions[0], self._lanes, self.options.emit_ms)

    # -- processing --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do everything that is possible now: submit the next chunk, run a command, end."""
        try:
            while not (self._in_flight or self._stopped or self._outbox.full):
                lane = self._next_lane()
                if lane is not None:
                    self._submit(lane)
                elif self._ended:
                    self._emit()
                    self._stopped = True
                    if not self.done.done():
                        self.done.set_result(None)
                elif self._command is not None:
                    command, self._command = self._command, None
                    command()
                    self._command_done.set()
                else:
                    return
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the scoring with an error."""
        self._stopped = True
        if not self.done.done():
            self.done.set_exception(error)

    async def summary(self, session_id: str, total_s: float) -> tuple[list[ChannelRecord], bytes]:
        """Build the records and the last message; runs in a worker thread because it may list thousands of events."""
        return await asyncio.to_thread(self._summary, session_id, total_s)

    def _summary(self, session_id: str, total_s: float) -> tuple[list[ChannelRecord], bytes]:
        records = [session.record(self.options.profile) for session in self.sessions]
        timing = Timing(self.decode_s, self._features_s, self._queue_s, self._step_s, total_s)
        message = SummaryMessage(
            session_id=session_id,
            session_name=self.options.session_name,
            profile=self.options.profile_name,
            duration_s=round(records[0].duration_s, 6),
            frames=records[0].frame_total,
            channels=[channel_findings(channel, record, self.options.labels) for channel, record in enumerate(records)],
            timing=timing_answer(timing),
            **stereo_fields(None if self._stereo is None else self._stereo.result()),
        )
        return records, to_json(message.document())

    async def _do(self, command: _Command) -> None:
        """Queue a command and wait until it has run, so that no audio overtakes it."""
        self._command_done.clear()
        self._command = command
        self._advance()
        await self._command_done.wait()

    def _use(self, options: StreamOptions) -> None:
        self.options = options
        columns = [self._contract.index(label) for label in options.labels]
        self._columns = None if columns == list(range(len(self._contract.labels))) else columns
        self._message = _template(options.labels, len(self.sessions))
        self._shown = frozenset(options.labels)
        emit_hops = round(options.emit_ms / 1000 / self._frame_hop_s) * self._hops_per_frame
        self._emit_rows = emit_hops // self._hops_per_frame
        self._small = self._lanes.chunk_hops(emit_hops) == self._lanes.flush.hops

    def _next_lane(self) -> Lane | None:
        """Return the lane of the next chunk; None if there is too little audio.

        The remainder of the first message is scored in small chunks. After that, messages as long as a chunk complete
        one chunk each. Otherwise every chunk would end slightly after a message boundary, and wait for the whole next
        message.
        """
        hops = self.sessions[0].remaining_hops
        if hops >= self._lanes.live.hops:
            return self._lanes.live
        small = self._small or self._flushing or self._ended or not self._aligned
        if small and hops >= self._lanes.flush.hops:
            return self._lanes.flush
        if self._lane is self._lanes.flush and not self._aligned:
            self._aligned = True
            self._rows = 0  # the emit interval starts here, too
        return None

    def _submit(self, lane: Lane) -> None:
        """Submit the next chunk of each channel to the engine; it is cut when its step begins."""
        self._lane = lane
        for channel in range(len(self._members)):
            self._retried[channel] = False
            self._engine.post(self._numbers[channel], None, lane.name, self._members[channel], self._since_s)
            self._in_flight += 1
        self._is_cut = False

    def cut(self, channel: int) -> Float32:
        """Cut the chunk of a channel."""
        chunk = _required(self.sessions[channel].take(self._lane.hops))
        if not channel:
            self._is_cut = True
            self._arrived_s = self._arrival_s()
            self._room.set()
        return chunk

    def missed(self, channel: int, error: BaseException) -> None:
        """Take the failure to score a chunk; retry once: the state is unchanged, so the stream need not end."""
        if self._stopped:
            return
        if not isinstance(error, InferenceError) or self._retried[channel]:
            self.fail(error)
            return
        try:
            self._retried[channel] = True
            self.sessions[channel].untake(self._lane.hops)
            self._engine.post(self._numbers[channel], None, self._lane.name, self._members[channel])
        except Exception as failure:
            self.fail(failure)

    def told(self, text: list[bytes], frames: int, result: GroupResult, queue_s: float) -> None:
        """Take frames that bring no news, of the only channel; then do what has become possible."""
        if self._stopped:
            return
        self._in_flight = 0
        self._pending[0].append(text)
        self._accepted += frames
        self._accept(result, queue_s)

    def updated(self, channel: int, update: Update, result: GroupResult, queue_s: float) -> None:
        """Take frames and events of a channel; continue when all channels have theirs."""
        if self._stopped:
            return
        self._updates[channel] = update
        self._in_flight -= 1
        if self._in_flight:
            return
        updates = [_required(update) for update in self._updates]
        self._updates = [None] * len(updates)
        self._take_updates(updates)
        while updates[0].rest is not None:
            updates = [_required(update.rest) for update in updates]
            self._skip_to(updates[0].first_frame)
            self._take_updates(updates)
        self._accept(result, queue_s)

    def _accept(self, result: GroupResult, queue_s: float) -> None:
        """Send what a chunk of each channel completes, then do what has become possible."""
        self._features_s += result.features_s
        self._queue_s += queue_s
        self._step_s += result.step_s - result.features_s
        self._rows += self._lane.hops // self._hops_per_frame
        if self._rows >= self._emit_rows:
            self._rows %= self._emit_rows
            self._emit()
        elif self._on_update is not None and self._uncounted >= COUNT_FRAMES:
            self._count()
        self._metrics.stream_lag_seconds.observe(time.monotonic() - self._arrived_s)
        self._advance()

    def _take_updates(self, updates: Sequence[Update]) -> None:
        """Take the next frames and events of each channel."""
        for channel, update in enumerate(updates):
            if self.legs and (update.block.frames or update.events):
                self.legs[channel].scored(update.first_frame, update.scores, update.events)
            if self._on_update is not None:
                self._on_update(channel, update)
                continue
            if update.block.frames:
                self._pending[channel].append(update.block.text())
            for news in update.events:
                if news.event.label in self._shown:
                    self._send(event_message(channel, news))
        self._accepted = updates[0].stop_frame
        if self._on_update is not None:
            self._uncounted += updates[0].block.frames
            self._pending_first = self._accepted

    def _heard(self, channel: int, position: int, samples: Float32) -> None:
        self.legs[channel].heard(position, samples)

    def end_legs(self) -> None:
        """End the legs with what was found so far; those that have ended are not affected."""
        for channel, leg in enumerate(self.legs):
            session = self.sessions[channel]
            record = session.record(self.options.profile)
            found = channel_findings(channel, record, self.options.labels).model_dump(exclude_unset=True)
            leg.ended(found | {"duration_s": round(record.duration_s, 6), "frames": record.frame_total})

    def _skip_to(self, frame: int) -> None:
        """Say that the frames before this one were not received, instead of sending a null for each."""
        self._emit()
        if self._on_update is None:
            first = self._accepted
            start_s = round(first * self._frame_hop_s, 3)
            self._send(GapMessage(first_frame=first, start_s=start_s, frames=frame - first, reason="not_received"))
        self._accepted = self._pending_first = frame

    def _finalize(self) -> None:
        self._flushing = False
        self._rows = 0
        self._emit()
        self._send(Finalized(frames=self._pending_first))

    def _emit(self) -> None:
        """Send all frames that are accepted but not sent."""
        first, count = self._pending_first, self._accepted - self._pending_first
        if not count:
            return
        self._pending_first = self._accepted
        columns: list[bytes] = []
        for blocks in self._pending:
            texts = blocks[0] if len(blocks) == 1 else list(map(b",".join, zip(*blocks, strict=True)))
            columns += texts if self._columns is None else [texts[column] for column in self._columns]
            blocks.clear()
        self._outbox.force(self._message % (first, round(first * self._frame_hop_s, 3), *columns))
        self._uncounted += count
        if self._uncounted >= COUNT_FRAMES:
            self._count()

    def _count(self, *, whole: bool = False) -> None:
        """Count the frames that were sent, and the noisy ones among those that were scored."""
        noisy = sum(session.noisy_frames(whole=whole) for session in self.sessions)
        self._live_noisy.inc(noisy - self._noisy_counted)
        self._noisy_counted = noisy
        frames, self._uncounted = self._uncounted * len(self.sessions), 0
        self._metrics.frames.inc(frames)
        self._live_seconds.inc(frames * self._frame_hop_s)

    def _send(self, message: Message) -> None:
        self._outbox.force(to_json(message.document()))

    def _arrival_s(self) -> float:
        """When the last sample that the chunk just taken needed arrived; now, if it needed none (at the end)."""
        needed = self.sessions[0].samples_taken + self._overlap
        while self._arrivals and self._arrivals[0][0] < needed:
            self._arrivals.popleft()
        return self._arrivals[0][1] if self._arrivals else time.monotonic()


class _Member:
    """One channel of a scorer, as the engine and the channels' group know it.

    It forgets both at the end: the engine may hold the last entries until it has new ones.
    """

    __slots__ = ("_channel", "_scorer", "group", "session", "text_only")

    def __init__(
        self, scorer: Scorer, channel: int, session: Session, group: SharedChannels, *, text_only: bool
    ) -> None:
        self._scorer: Scorer | None = scorer
        self._channel, self.session, self.group, self.text_only = channel, session, group, text_only

    def close(self) -> None:
        if self._scorer is not None:
            self._scorer = None
            del self.session

    def done(self) -> bool:
        return self._scorer is None

    def cancel(self) -> bool:
        return True

    def set_exception(self, error: BaseException, /) -> None:
        if self._scorer is not None:
            self._scorer.missed(self._channel, error)

    def cut(self) -> Float32:
        return _required(self._scorer).cut(self._channel)

    def told(self, text: list[bytes], frames: int, result: GroupResult, queue_s: float) -> None:
        if self._scorer is not None:
            self._scorer.told(text, frames, result, queue_s)

    def updated(self, update: Update, result: GroupResult, queue_s: float) -> None:
        if self._scorer is not None:
            self._scorer.updated(self._channel, update, result, queue_s)

    def failed(self, error: Exception) -> None:
        if self._scorer is not None:
            self._scorer.fail(error)


def _template(labels: Sequence[str], channels: int) -> bytes:
    """Return a `scores` message with room for the first frame, its time, and the frames of each channel and label."""
    frames = ",".join(f'"{label}":[%b]' for label in labels)
    each = ",".join(f'{{"channel":{channel},"frames":{{{frames}}}}}' for channel in range(channels))
    return f'{{"type":"scores","first_frame":%d,"start_s":%a,"channels":[{each}]}}'.encode()


def _required(value: _T | None) -> _T:
    """Return the value; if it is missing, the channels of a stream are out of step."""
    if value is None:
        raise RuntimeError("the channels of a stream are out of step")
    return value
