"""Carries one stream's chunks to the engine and its scores to the outbox: one task, at most one chunk per channel.

The receiver pushes audio and gives commands; this side takes chunks as they become complete. All channels of a stream
get the same number of samples, so they advance in step.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.assembly import FLUSH_LANE, LIVE_LANE
from service.contract import ModelContract
from service.engine import Engine, Lane, StepResult
from service.errors import InferenceError
from service.inspection import Timing
from service.live.options import StreamOptions
from service.live.outbox import Outbox
from service.metrics import Metrics
from service.report import FRAME_DECIMALS, channel_document, event_document, to_json
from service.scoring import EventUpdate
from service.session import ChannelRecord, Session

Float32 = NDArray[np.float32]

_Command = Callable[[], Awaitable[None]]


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
        *,
        max_events: int,
        max_ahead_samples: int,
    ) -> None:
        self.options = options
        self.sessions = [Session(contract, options.rate_hz, max_events=max_events) for _ in range(options.channels)]
        self._engine, self._contract, self._lanes, self._outbox = engine, contract, lanes, outbox
        self._metrics = metrics
        self._live_seconds = metrics.audio_seconds.labels("live")
        spec = contract.features
        self._overlap = spec.overlap_samples
        self._frame_hop_s = spec.frame_hop_s
        self._hops_per_frame = spec.hops_per_frame
        self._max_ahead = max(max_ahead_samples, 2 * lanes.live.hops * spec.hop_samples)
        self._numbers: list[int] = []
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._command: _Command | None = None
        self._command_done = asyncio.Event()
        self._flushing = False
        self._ended = False
        self._arrivals: deque[tuple[int, float]] = deque()  # (samples received by then, time), one per frame at most
        self._pending: list[list[Float32]] = [[] for _ in self.sessions]  # accepted, not sent
        self._pending_first = 0
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
        numbers, self._numbers = self._numbers, []
        for number in numbers:
            self._engine.close_session(number)

    def push(self, channels: Sequence[Float32], now_s: float) -> None:
        """Take samples, as many of each channel, that arrived now.

        Raises:
            InvalidAudio: Samples of another scale.
        """
        for session, samples in zip(self.sessions, channels, strict=True):
            session.push(samples)
        received = self.sessions[0].samples_received
        if self._arrivals and received - self._arrivals[-1][0] < self._overlap:
            self._arrivals.pop()  # messages of a few samples: one note per window is enough, the later time counts
        self._arrivals.append((received, now_s))
        self._work.set()

    async def wait_for_room(self) -> None:
        """Return when less than the allowed amount of audio waits."""
        while self.sessions[0].samples_waiting >= self._max_ahead:
            self._room.clear()
            await self._room.wait()

    async def finalize(self) -> None:
        """Score and send what can be scored without an end; returns when `finalized` is in the outbox."""
        self._flushing = True
        await self._do(self._finalize)

    async def configure(self, options: StreamOptions) -> None:
        """Send what waits by the old options, then go by the new ones; returns when `configured` is in the outbox."""

        async def change() -> None:
            await self._emit()
            self._use(options)
            await self._outbox.put(self._encode({
                "type": "configured", "first_frame": self._pending_first, "labels": list(options.labels),
                "emit_ms": options.emit_ms, "profile": options.profile_name, "latency_s": self.latency_s,
            }))  # fmt: skip

        await self._do(change)

    def end(self) -> None:
        """There is no more audio: `run` scores the rest and returns."""
        if not self._ended:
            self._ended = True
            for session in self.sessions:
                session.finish()
            self._command = None
            self._work.set()

    @property
    def latency_s(self) -> float:
        """As `ready` and `configured` tell it."""
        return latency_s(self._contract, self.sessions[0], self._lanes, self.options.emit_ms)

    # -- the scorer's task --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Score until the end; the last scores are in the outbox then.

        Raises:
            SpeechQCError: The engine failed for good, or refused.
        """
        while True:
            lane = self._next_lane()
            if lane is not None:
                await self._step(lane)
            elif self._ended:
                await self._emit()
                return
            elif self._command is not None:
                command, self._command = self._command, None
                await command()
                self._command_done.set()
            else:
                self._work.clear()
                await self._work.wait()

    async def summary(self, session_id: str, total_s: float) -> tuple[list[ChannelRecord], str]:
        """The last message and what it was made from; made in a worker thread, for it may list thousands of events."""
        return await asyncio.to_thread(self._summary, session_id, total_s)

    def _summary(self, session_id: str, total_s: float) -> tuple[list[ChannelRecord], str]:
        records = [session.record(self.options.profile) for session in self.sessions]
        timing = Timing(self.decode_s, self._features_s, self._queue_s, self._step_s, total_s)
        return records, self._encode({
            "type": "summary",
            "session_id": session_id,
            "session_name": self.options.session_name,
            "duration_s": round(records[0].duration_s, 6),
            "frames": records[0].frame_total,
            "channels": [
                channel_document(self._contract, channel, record, self.options.labels, frames=False)
                for channel, record in enumerate(records)
            ],
            "timing": {name: round(value, 6) for name, value in asdict(timing).items()},
        })  # fmt: skip

    async def _do(self, command: _Command) -> None:
        """Hand a command over and wait until it is done, so that no audio overtakes it."""
        self._command_done.clear()
        self._command = command
        self._work.set()
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
        hops = self.sessions[0].remaining_hops
        if hops >= self._lanes.live.hops:
            return self._lanes.live
        small = self._small or self._flushing or self._ended
        return self._lanes.flush if small and hops >= self._lanes.flush.hops else None

    async def _step(self, lane: Lane) -> None:
        """Score one chunk of each channel."""
        chunks = [session.take(lane.hops) for session in self.sessions]
        self._room.set()
        arrived_s = self._arrival_s()
        if len(chunks) == 1:
            results = [await self._score(self._numbers[0], chunks[0], lane)]
        else:
            pairs = zip(self._numbers, chunks, strict=True)
            answers = await asyncio.gather(*(self._score(*pair, lane) for pair in pairs), return_exceptions=True)
            results = []
            for answer in answers:
                if isinstance(answer, BaseException):
                    raise answer
                results.append(answer)
        self._rows += lane.hops // self._hops_per_frame
        for channel, (session, result) in enumerate(zip(self.sessions, results, strict=True)):
            self._features_s += result.features_s
            self._queue_s += result.queue_s
            self._step_s += result.step_s - result.features_s
            update = session.accept(result.scores)
            if len(update.scores):
                self._pending[channel].append(update.scores)
            for news in update.events:
                if news.event.label in self._shown:
                    await self._outbox.put(self._event(channel, news))
        if self._rows >= self._emit_rows:
            self._rows %= self._emit_rows
            await self._emit()
        self._metrics.stream_lag_seconds.observe(time.monotonic() - arrived_s)

    async def _score(self, number: int, chunk: Float32 | None, lane: Lane) -> StepResult:
        """Run one chunk; once more when its step failed, for the state is as before and the stream need not end."""
        if chunk is None:
            raise RuntimeError("channels of a stream have fallen out of step")
        try:
            return await self._engine.submit(number, chunk, lane.name)
        except InferenceError:
            return await self._engine.submit(number, chunk, lane.name)

    async def _finalize(self) -> None:
        self._flushing = False
        self._rows = 0
        await self._emit()
        await self._outbox.put(self._encode({"type": "finalized", "frames": self._pending_first}))

    async def _emit(self) -> None:
        """Send all frames that are accepted and not sent."""
        if not self._pending[0]:
            return
        channels, count = [], 0
        for channel, waiting in enumerate(self._pending):
            block = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)  # [n, C]
            waiting.clear()
            count = len(block)
            channels.append({"channel": channel, "frames": self._frames(block)})
        first, self._pending_first = self._pending_first, self._pending_first + count
        text = self._encode({
            "type": "scores",
            "first_frame": first,
            "start_s": round(first * self._frame_hop_s, 3),
            "channels": channels,
        })  # fmt: skip
        self._metrics.frames.inc(count * len(channels))
        self._live_seconds.inc(count * len(channels) * self._frame_hop_s)
        await self._outbox.put(text)

    def _frames(self, block: Float32) -> orjson.Fragment:
        """Scores [n, C] of n >= 1 frames by label, as JSON: one encoding of all rows, cut at their borders."""
        columns = block.T if self._columns is None else block.T[self._columns]
        rows = np.round(np.ascontiguousarray(columns), FRAME_DECIMALS)  # [labels, n]
        lists = orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
        return orjson.Fragment(b"{" + b"],".join(map(bytes.__add__, self._prefixes, lists)) + b"]}")

    def _event(self, channel: int, news: EventUpdate) -> str:
        return self._encode({
            "type": "event", "phase": news.phase, "channel": channel, **event_document(news.event),
        })  # fmt: skip

    def _encode(self, document: dict[str, Any]) -> str:
        return to_json(document).decode()

    def _arrival_s(self) -> float:
        """When the last sample that the chunk just taken needed had arrived; now, where it needed none (the end)."""
        needed = self.sessions[0].samples_taken + self._overlap
        while self._arrivals and self._arrivals[0][0] < needed:
            self._arrivals.popleft()
        return self._arrivals[0][1] if self._arrivals else time.monotonic()
