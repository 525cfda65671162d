"""Moves one stream's chunks to the engine and its scores to its output, at most one chunk per channel at a time.

The receiver pushes audio and gives commands. Whatever a push, a command or an engine result makes possible is done
immediately, in the same iteration of the event loop. There is no task: waking one up would cost more than most of its
work. All channels of a stream get the same number of samples, so they advance in step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.stereo import Stereo, StereoMeter
from speech_qc.calls.legs import LegFeed
from speech_qc.engine import GroupResult, Lane
from speech_qc.errors import InferenceError
from speech_qc.live.lanes import LiveLanes
from speech_qc.live.options import StreamOptions
from speech_qc.live.score_messages import ScoreOutput, leg_document
from speech_qc.live.scored_channel import ScoredChannel, required
from speech_qc.live.stream_metrics import StreamMetrics
from speech_qc.model.reload import Generation
from speech_qc.pipeline.factory import make_lanes
from speech_qc.pipeline.recording import Timing
from speech_qc.pipeline.session import ChannelRecord, Session
from speech_qc.state import AppState
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

OnPiece = Callable[[int, Float32, float], None]
"""Called with a channel, its samples (a few thousand at a time) and their mean square."""


class Scorer:
    """Owns the sessions of one stream, and its engine sessions from `open` to `close`.

    Args:
        generation: The model that scores the stream, and its started engine.
        state: Limits and metrics of the server.
        options: What the client requested; `use` replaces it.
        output: Takes frames and events; has no reference to the scorer.
        on_piece: Called with the samples that were pushed.
    """

    def __init__(
        self, generation: Generation, state: AppState, options: StreamOptions, output: ScoreOutput, on_piece: OnPiece
    ) -> None:
        settings, contract = state.settings, generation.contract
        self.options = options
        self.legs: list[LegFeed] = []
        """Take samples and scores, one per channel, if the channels are the legs of a call."""
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
                is_16_bit=options.is_16_bit,
                on_heard=partial(_pass_on, self.legs, channel) if options.legs else None,
            )
            for channel in range(options.channels)
        ]
        self._engine, self._group = generation.engine, generation.channels
        self._output = output
        self._on_text = output.on_text if options.channels == 1 and not options.legs else None
        spec = contract.features
        self._lanes = LiveLanes(contract, make_lanes(settings), options.emit_ms)
        self._stereo = StereoMeter() if options.channels == 2 else None
        self._metrics = StreamMetrics(state.metrics, self.sessions, spec)
        self._hop, self._overlap, self._model_rate_hz = spec.hop_samples, spec.overlap_samples, spec.sample_rate_hz
        most = round(settings.stream_max_ahead_s * spec.sample_rate_hz)
        self._max_ahead = max(most, 2 * self._lanes.live.hops * spec.hop_samples)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set when everything is scored and passed on after `end`; fails if the engine fails permanently."""
        self._room = asyncio.Event()
        self._command: Callable[[], None] | None = None
        self._command_done = asyncio.Event()
        self._flushing = False
        self._ended = False
        self._stopped = False
        self._in_flight = 0  # channels whose chunk has no result yet
        self._channels: list[ScoredChannel] = []
        self._is_cut = True  # the chunk that was submitted last
        self._since_s: float | None = None  # when the audio that is being pushed arrived
        self.decode_s = self._features_s = self._queue_s = self._step_s = 0.0

    # -- for the receiver ---------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open an engine session for each channel.

        Raises:
            Overloaded, Draining, EngineDead: The engine refuses; no session stays open then.
        """
        try:
            for session in self.sessions:
                number, text_only = self._engine.open_session(), self._on_text is not None
                self._channels.append(ScoredChannel(self, number, session, self._group, text_only=text_only))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the engine sessions; may be called twice."""
        self._metrics.count(whole=True)
        for channel in self._channels:
            self._engine.close_session(channel.number)
            channel.close()
        self._channels = []

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
        self._metrics.arrived(self.sessions[0].received, now_s)
        self._since_s = now_s
        self.advance()
        self._since_s = None

    def gap(self, samples: int, kind: GapKind) -> None:
        """Note that samples at the stream's rate were not received; see `Session.gap`."""
        rate_hz = self._model_rate_hz
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
        hops = self._lanes.following_hops + (0 if self._is_cut else self._lanes.current.hops)
        missing = hops * self._hop + self._overlap - self.sessions[0].samples_waiting
        return -(-missing * self.options.rate_hz // self._model_rate_hz)

    async def wait_for_room(self) -> None:
        """Wait until there is room."""
        while not self.has_room:
            self._room.clear()
            await self._room.wait()

    async def do(self, command: Callable[[], None], *, flush: bool = False) -> None:
        """Run a command after all audio so far; return when it has run.

        Args:
            command: Not run if the stream ends before.
            flush: Score whatever completes a frame first, not only whole chunks.
        """
        self._flushing = flush
        self._command_done.clear()
        self._command = command
        self.advance()
        await self._command_done.wait()

    def use(self, options: StreamOptions) -> None:
        """Apply new options."""
        self.options = options
        self._lanes.use(options.emit_ms)

    def end(self) -> None:
        """End the audio: score the rest, then set `done`."""
        if not self._ended:
            self._ended = True
            for session in self.sessions:
                session.finish()
            self._command = None
            self.advance()

    def stop(self) -> None:
        """Stop immediately, whatever is pending; cancels `done` unless it is already set."""
        self._stopped = True
        self._command = None
        self.done.cancel()

    @property
    def latency_s(self) -> float:
        """The latency that `ready` and `configured` report."""
        return self._lanes.latency_s(self.sessions[0].resampler_latency_s)

    # -- processing --------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Do everything that is possible now: submit the next chunk, run a command, end."""
        try:
            while not (self._in_flight or self._stopped or self._output.full):
                lane = self._lanes.next(self.sessions[0].remaining_hops, flush=self._flushing or self._ended)
                if lane is not None:
                    self._submit(lane)
                elif self._ended:
                    self._output.emit()
                    self._stopped = True
                    if not self.done.done():
                        self.done.set_result(None)
                elif self._command is not None:
                    command, self._command = self._command, None
                    if self._flushing:
                        self._flushing = False
                        self._lanes.restart()
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

    def records(self) -> list[ChannelRecord]:
        """Return the results of each channel so far; may list thousands of events."""
        return [session.record(self.options.profile) for session in self.sessions]

    def timing(self, total_s: float) -> Timing:
        """Return how long the work on the stream took so far."""
        return Timing(self.decode_s, self._features_s, self._queue_s, self._step_s, total_s)

    def stereo(self) -> Stereo | None:
        """Return the comparison of the channels so far; None unless there are two."""
        return None if self._stereo is None else self._stereo.result()

    def _submit(self, lane: Lane) -> None:
        """Submit the next chunk of each channel to the engine; it is cut when its step begins."""
        self._lanes.current = lane
        for channel in self._channels:
            channel.retried = False
            self._engine.post(channel.number, None, lane.name, channel, self._since_s)
            self._in_flight += 1
        self._is_cut = False

    def cut(self, session: Session) -> Float32:
        """Cut the chunk of a channel."""
        chunk = required(session.take(self._lanes.current.hops))
        if session is self.sessions[0]:
            self._is_cut = True
            self._metrics.cut(session.taken)
            self._room.set()
        return chunk

    def missed(self, channel: ScoredChannel, error: BaseException) -> None:
        """Take the failure to score a chunk; retry once: the state is unchanged, so the stream need not end."""
        if self._stopped:
            return
        if not isinstance(error, InferenceError) or channel.retried:
            self.fail(error)
            return
        try:
            channel.retried = True
            channel.session.untake(self._lanes.current.hops)
            self._engine.post(channel.number, None, self._lanes.current.name, channel)
        except Exception as failure:
            self.fail(failure)

    def told(self, text: list[bytes], frames: int, result: GroupResult, queue_s: float) -> None:
        """Take frames that bring no news, of the only channel; then do what has become possible."""
        if self._stopped:
            return
        self._in_flight = 0
        assert self._on_text is not None  # the channel was told so
        self._on_text(text, frames)
        self._accept(frames, result, queue_s)

    def updated(self, result: GroupResult, queue_s: float) -> None:
        """Note that a channel has its frames and events; continue when all channels have theirs."""
        if self._stopped:
            return
        self._in_flight -= 1
        if self._in_flight:
            return
        frames = 0
        following = [channel.update for channel in self._channels]
        while following[0] is not None:
            updates = [required(update) for update in following]
            frames += updates[0].block.frames
            for feed, update in zip(self.legs, updates, strict=False):
                if update.block.frames or update.events:
                    feed.scored(update.first_frame, update.scores, update.events)
            self._output.updated(updates)
            following = [update.rest for update in updates]
        for channel in self._channels:
            channel.update = None
        self._accept(frames, result, queue_s)

    def _accept(self, frames: int, result: GroupResult, queue_s: float) -> None:
        """Pass on what a chunk of each channel completes, then do what has become possible."""
        self._features_s += result.features_s
        self._queue_s += queue_s
        self._step_s += result.step_s - result.features_s
        if self._lanes.is_due():
            self._output.emit()
        self._metrics.scored(frames)
        self.advance()

    def end_legs(self, *, regular: bool) -> None:
        """End the legs with what was found so far, as the client said or not; those that have ended do not change."""
        for channel, leg in enumerate(self.legs):
            record = self.sessions[channel].record(self.options.profile)
            leg.ended(leg_document(channel, record, self.options.labels), regular=regular)


def _pass_on(legs: list[LegFeed], channel: int, position: int, samples: Float32) -> None:
    """Tell a leg what was heard; knows the legs only, so that a session does not refer to its scorer."""
    legs[channel].heard(position, samples)
