"""Carries one stream's chunks to the engine and its scores to the outbox, at most one chunk per channel at a time.

The receiver pushes audio and gives commands; whatever becomes possible by that, or by an answer of the engine, is done
at once in the same turn of the event loop. There is no task: waking one up would cost more than most of its work. All
channels of a stream get the same number of samples, so they advance in step.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from speech_qc.contract import ModelContract
from speech_qc.engine import Engine, Lane, StepResult
from speech_qc.errors import InferenceError
from speech_qc.live.options import StreamOptions
from speech_qc.live.outbox import Outbox
from speech_qc.pipeline.documents import channel_findings, event_fields, timing_answer
from speech_qc.pipeline.factory import FLUSH_LANE, LIVE_LANE
from speech_qc.pipeline.recording import Timing
from speech_qc.pipeline.session import ChannelRecord, ChunkReader, Session
from speech_qc.telemetry.metrics import Metrics
from speech_qc.wire.client_messages import Message
from speech_qc.wire.encode import to_json
from speech_qc.wire.server_messages import Configured, EventNews, Finalized
from speech_qc.wire.server_messages import Summary as SummaryMessage

Float32 = NDArray[np.float32]

COUNT_FRAMES = 50
"""Frames of a stream that are counted at once: a counter's lock costs as much as looking at a frame."""

_T = TypeVar("_T")
_Command = Callable[[], None]
OnPiece = Callable[[int, Float32, float], None]
"""Told of a channel's samples, some thousand at a time, and their mean square."""


@dataclass(frozen=True, slots=True)
class LiveLanes:
    """The engine's two lanes for live audio."""

    live: Lane
    flush: Lane

    @classmethod
    def of(cls, lanes: Sequence[Lane]) -> LiveLanes:
        """Pick them by name."""
        by_name = {lane.name: lane for lane in lanes}
        return cls(by_name[LIVE_LANE], by_name[FLUSH_LANE])

    def chunk_hops(self, emit_hops: int) -> int:
        """Hops of the chunks that serve such an emit interval: small ones only where large ones would delay it."""
        return self.live.hops if emit_hops >= self.live.hops else self.flush.hops


def latency_s(contract: ModelContract, session: Session, lanes: LiveLanes, emit_ms: int) -> float:
    """Longest time from a frame's last sample until its scores are sent, computing and the network not counted.

    The model's look-ahead and window, what the resampler holds back, and the wait of a message's first frame for its
    last one: scores are sent when as many chunks are done as reach the emit interval.
    """
    hop_s = contract.features.frame_hop_s / contract.features.hops_per_frame
    emit_hops = round(emit_ms / 1000 / hop_s)
    chunk = lanes.chunk_hops(emit_hops)
    interval_s = -(-emit_hops // chunk) * chunk * hop_s
    waits_s = interval_s - contract.features.frame_hop_s
    return round(contract.latency_s + session.resampler_latency_s + waits_s, 4)


class Scorer:
    """Owns the sessions of one stream and its places in the engine, from `open` to `close`.

    Args:
        engine: Started.
        contract: Of its model.
        lanes: Chunk sizes.
        options: What the client asked for; `configure` replaces it.
        outbox: Where messages go.
        metrics: Where frames and lag are counted.
        reader: The engine's.
        on_piece: Told what came.
        max_events: Events listed per channel.
        max_ahead_samples: Samples at the model's rate that may wait.
    """

    def __init__(
        self,
        engine: Engine,
        contract: ModelContract,
        lanes: LiveLanes,
        options: StreamOptions,
        outbox: Outbox,
        metrics: Metrics,
        reader: ChunkReader,
        on_piece: OnPiece,
        *,
        max_events: int,
        max_ahead_samples: int,
    ) -> None:
        self.options = options
        self.sessions = [
            Session(
                contract, options.rate_hz, max_events=max_events, reader=reader, on_piece=partial(on_piece, channel)
            )
            for channel in range(options.channels)
        ]
        self._engine, self._contract, self._lanes, self._outbox = engine, contract, lanes, outbox
        self._metrics = metrics
        self._live_seconds = metrics.audio_seconds.labels("live")
        self._live_noisy = metrics.noisy_frames.labels("live")
        self._noisy_counted = 0  # frames
        spec = contract.features
        self._overlap = spec.overlap_samples
        self._frame_hop_s = spec.frame_hop_s
        self._hops_per_frame = spec.hops_per_frame
        self._max_ahead = max(max_ahead_samples, 2 * lanes.live.hops * spec.hop_samples)
        self._numbers: list[int] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all is scored and in the outbox after `end`; fails when the engine does, for good."""
        outbox.on_room = self._advance
        self._room = asyncio.Event()
        self._command: _Command | None = None
        self._command_done = asyncio.Event()
        self._flushing = False
        self._aligned = False  # chunks end where messages do; see _next_lane
        self._ended = False
        self._stopped = False
        self._lane = lanes.live  # of the chunks in the engine
        self._in_flight = 0  # channels whose chunk has no answer yet
        self._chunks: list[Float32] = []
        self._results: list[StepResult | None] = [None] * options.channels
        self._retried = [False] * options.channels
        self._arrived_s = 0.0
        self._arrivals: deque[tuple[int, float]] = deque()  # (samples received by then, time), one per frame at most
        # Accepted, not sent: of each channel the frames of each chunk as JSON, a text per column.
        self._pending: list[list[list[bytes]]] = [[] for _ in self.sessions]
        self._pending_first = 0  # the first frame that was not sent
        self._accepted = 0  # frames
        self._uncounted = 0  # frames that were sent and that the metrics do not know of
        self._rows = 0  # model rows since the last message, those of the look-ahead included
        self._use(options)
        self.decode_s = self._features_s = self._queue_s = self._step_s = 0.0

    # -- the receiver's side ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take the places in the engine.

        Raises:
            Overloaded, Draining, EngineDead: It has none; nothing is held then.
        """
        try:
            for _ in self.sessions:
                self._numbers.append(self._engine.open_session())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the places back; may be called twice."""
        self._count(whole=True)
        self._outbox.on_room = None
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            self._engine.close_session(number)

    def push(self, channels: Sequence[Float32], now_s: float, *, bounded: bool) -> None:
        """Take samples, as many of each channel, that arrived now.

        Args:
            channels: float32 (n,) each, at the stream's rate.
            now_s: Monotonic seconds.
            bounded: They come from integers; see `Session.push`.

        Raises:
            InvalidAudio: Samples of another scale.
        """
        for session, samples in zip(self.sessions, channels, strict=True):
            session.push(samples, bounded=bounded)
        received = self.sessions[0].samples_received
        if self._arrivals and received - self._arrivals[-1][0] < self._overlap:
            self._arrivals.pop()  # messages of a few samples: one note per window is enough, the later time counts
        self._arrivals.append((received, now_s))
        self._advance()

    @property
    def has_room(self) -> bool:
        """Whether less than the allowed amount of audio waits."""
        return self.sessions[0].samples_waiting < self._max_ahead

    async def wait_for_room(self) -> None:
        """Return when there is room."""
        while not self.has_room:
            self._room.clear()
            await self._room.wait()

    async def finalize(self) -> None:
        """Score and send what can be scored without an end; returns when `finalized` is in the outbox."""
        self._flushing = True
        await self._do(self._finalize)

    async def configure(self, options: StreamOptions) -> None:
        """Send what waits by the old options, then go by the new ones; returns when `configured` is in the outbox."""

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
        """There is no more audio: score the rest, then `done`."""
        if not self._ended:
            self._ended = True
            for session in self.sessions:
                session.finish()
            self._command = None
            self._advance()

    def stop(self) -> None:
        """Do nothing more, whatever waits; `done` is cancelled unless it was done before."""
        self._stopped = True
        self.done.cancel()

    @property
    def latency_s(self) -> float:
        """As `ready` and `configured` tell it."""
        return latency_s(self._contract, self.sessions[0], self._lanes, self.options.emit_ms)

    # -- what follows from it -----------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Do what can be done now: submit the next chunk, act on a command, end."""
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
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._stopped = True
        if not self.done.done():
            self.done.set_exception(error)

    async def summary(self, session_id: str, total_s: float) -> tuple[list[ChannelRecord], bytes]:
        """The last message and what it was made from; made in a worker thread, for it may list thousands of events."""
        return await asyncio.to_thread(self._summary, session_id, total_s)

    def _summary(self, session_id: str, total_s: float) -> tuple[list[ChannelRecord], bytes]:
        records = [session.record(self.options.profile) for session in self.sessions]
        timing = Timing(self.decode_s, self._features_s, self._queue_s, self._step_s, total_s)
        message = SummaryMessage(
            session_id=session_id,
            session_name=self.options.session_name,
            duration_s=round(records[0].duration_s, 6),
            frames=records[0].frame_total,
            channels=[channel_findings(channel, record, self.options.labels) for channel, record in enumerate(records)],
            timing=timing_answer(timing),
        )
        return records, to_json(message.document())

    async def _do(self, command: _Command) -> None:
        """Hand a command over and wait until it is done, so that no audio overtakes it."""
        self._command_done.clear()
        self._command = command
        self._advance()
        await self._command_done.wait()

    def _use(self, options: StreamOptions) -> None:
        self.options = options
        columns = [self._contract.index(label) for label in options.labels]
        self._columns = None if columns == list(range(len(self._contract.labels))) else columns
        self._prefixes = [f'"{label}":['.encode() for label in options.labels]
        self._shown = frozenset(options.labels)
        emit_hops = round(options.emit_ms / 1000 / self._frame_hop_s) * self._hops_per_frame
        self._emit_rows = emit_hops // self._hops_per_frame
        self._small = self._lanes.chunk_hops(emit_hops) == self._lanes.flush.hops

    def _next_lane(self) -> Lane | None:
        """Lane of the next chunk; None when too little audio is there.

        What the first message leaves over is scored in small chunks. From then on, senders of messages as long as a
        chunk complete one with each message; otherwise every chunk would end a little after a message does and wait
        for the whole next one.
        """
        hops = self.sessions[0].remaining_hops
        if hops >= self._lanes.live.hops:
            return self._lanes.live
        small = self._small or self._flushing or self._ended or not self._aligned
        if small and hops >= self._lanes.flush.hops:
            return self._lanes.flush
        if self._lane is self._lanes.flush and not self._aligned:
            self._aligned = True
            self._rows = 0  # the emit interval is counted from here, too
        return None

    def _submit(self, lane: Lane) -> None:
        """Hand one chunk of each channel to the engine."""
        self._lane = lane
        chunks = [session.take(lane.hops) for session in self.sessions]
        self._room.set()
        self._arrived_s = self._arrival_s()
        # Copies: the sessions go on writing to what they gave, and a step that fails is tried again.
        self._chunks = [_required(chunk).copy() for chunk in chunks]
        for channel in range(len(chunks)):
            self._retried[channel] = False
            self._send_chunk(channel)
            self._in_flight += 1

    def _send_chunk(self, channel: int) -> None:
        future = self._engine.submit(self._numbers[channel], self._chunks[channel], self._lane.name, copy=False)
        future.add_done_callback(partial(self._answered, channel))

    def _answered(self, channel: int, future: asyncio.Future[StepResult]) -> None:
        """Take the engine's answer; the last one of the channels' goes on."""
        if future.cancelled():
            return
        error = future.exception()
        if self._stopped:
            return
        try:
            if isinstance(error, InferenceError) and not self._retried[channel]:
                # Once more: the state is as before, and the stream need not end.
                self._retried[channel] = True
                self._send_chunk(channel)
                return
            if error is not None:
                self._fail(error)
                return
            self._results[channel] = future.result()
            self._in_flight -= 1
            if not self._in_flight:
                self._accept()
        except Exception as failure:
            self._fail(failure)
            return
        self._advance()

    def _accept(self) -> None:
        """Take the scores of one chunk of each channel."""
        self._chunks.clear()
        self._rows += self._lane.hops // self._hops_per_frame
        for channel, session in enumerate(self.sessions):
            result, self._results[channel] = _required(self._results[channel]), None
            self._features_s += result.features_s
            self._queue_s += result.queue_s
            self._step_s += result.step_s - result.features_s
            update = session.accept(result.reading)
            if update.block.frames:
                self._pending[channel].append(update.block.text())
            for news in update.events:
                if news.event.label in self._shown:
                    self._send(EventNews(phase=news.phase, channel=channel, **event_fields(news.event)))
        self._accepted = self.sessions[0].frames_done
        if self._rows >= self._emit_rows:
            self._rows %= self._emit_rows
            self._emit()
        self._metrics.lag.observe(time.monotonic() - self._arrived_s)

    def _finalize(self) -> None:
        self._flushing = False
        self._rows = 0
        self._emit()
        self._send(Finalized(frames=self._pending_first))

    def _emit(self) -> None:
        """Send all frames that are accepted and not sent."""
        first, count = self._pending_first, self._accepted - self._pending_first
        if not count:
            return
        self._pending_first = self._accepted
        channels = b'{"channel":0,"frames":{' + self._frames(self._pending[0])
        for channel in range(1, len(self._pending)):
            channels += b'}},{"channel":%d,"frames":{' % channel + self._frames(self._pending[channel])
        head = f'{{"type":"scores","first_frame":{first},"start_s":{round(first * self._frame_hop_s, 3)},"channels":['
        self._outbox.force(head.encode() + channels + b"}}]}")
        self._uncounted += count
        if self._uncounted >= COUNT_FRAMES:
            self._count()

    def _count(self, *, whole: bool = False) -> None:
        """Tell the metrics of the frames that were sent, and how many of those that were scored are noisy."""
        noisy = sum(session.noisy_frames(whole=whole) for session in self.sessions)
        self._live_noisy.inc(noisy - self._noisy_counted)
        self._noisy_counted = noisy
        frames, self._uncounted = self._uncounted * len(self.sessions), 0
        self._metrics.frames.inc(frames)
        self._live_seconds.inc(frames * self._frame_hop_s)

    def _frames(self, blocks: list[list[bytes]]) -> bytes:
        """One channel's frames by label, as the inside of a JSON object; they are taken out of `blocks`."""
        columns = blocks[0] if len(blocks) == 1 else list(map(b",".join, zip(*blocks, strict=True)))
        blocks.clear()
        if self._columns is not None:
            columns = [columns[column] for column in self._columns]
        return b"],".join(map(bytes.__add__, self._prefixes, columns)) + b"]"

    def _send(self, message: Message) -> None:
        self._outbox.force(to_json(message.document()))

    def _arrival_s(self) -> float:
        """When the last sample that the chunk just taken needed had arrived; now, where it needed none (the end)."""
        needed = self.sessions[0].samples_taken + self._overlap
        while self._arrivals and self._arrivals[0][0] < needed:
            self._arrivals.popleft()
        return self._arrivals[0][1] if self._arrivals else time.monotonic()


def _required(value: _T | None) -> _T:
    """What cannot be missing, or the channels of a stream have fallen out of step."""
    if value is None:
        raise RuntimeError("channels of a stream have fallen out of step")
    return value
