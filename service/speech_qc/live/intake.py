"""Takes the audio of one live stream: decodes it, puts it at its place in time, and warns of what is wrong with it.

While the stream has room, a message is only kept on arrival. The next step of the engine decodes what has waited, of
many streams in one call. A message that must wait for room is left to the stream's receiver.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.sample_decoder import SampleDecoder
from speech_qc.errors import PayloadTooLarge, SpeechQCError
from speech_qc.live.clock import ArrivalClock, Missing
from speech_qc.live.input_checks import InputChecks, InputWarning
from speech_qc.live.options import StreamOptions
from speech_qc.live.outbox import Outbox
from speech_qc.live.scorer import Scorer
from speech_qc.pipeline.inbox import Inbox
from speech_qc.state import AppState
from speech_qc.wire.client_messages import Gap
from speech_qc.wire.encode import to_json
from speech_qc.wire.server_messages import StreamWarning

Float32 = NDArray[np.float32]

logger = logging.getLogger("speech_qc.streams")

PIECE_S = 0.1
"""Audio taken from a message in one piece: costs the event loop a fraction of a millisecond."""

STEADY_RATES = (8_000, 16_000)
"""Rates at which each sample becomes the same number of samples at the model's rate, and at once."""

PIECES_PER_TURN = 8
"""After this many pieces, yield to other tasks, however much a fast client has sent."""


class Intake:
    """Takes the audio of one stream; used from one event loop. It holds no reference to the stream.

    Args:
        options: Format of the audio.
        session_id: Identifies the stream in logs.
        inbox: Decodes messages that wait, together with those of other streams.
        scorer: Takes the samples.
        checks: Checks what the scorer measures.
        outbox: Takes the warnings.
        state: Limits and metrics of the server.
    """

    def __init__(
        self,
        options: StreamOptions,
        session_id: str,
        inbox: Inbox,
        scorer: Scorer,
        checks: InputChecks,
        outbox: Outbox,
        state: AppState,
    ) -> None:
        self._rate_hz, self._session_id = options.rate_hz, session_id
        self._max_message_bytes = state.settings.stream_max_message_bytes
        self._inbox, self._scorer, self._checks = inbox, scorer, checks
        self._outbox, self._metrics = outbox, state.metrics
        piece_samples = max(1, round(options.rate_hz * PIECE_S))
        self._decoder = SampleDecoder(options.encoding, options.channels, piece_samples)
        self._bounded = options.is_16_bit
        self._is_steady = self._bounded and options.rate_hz in STEADY_RATES
        self.shared_encoding = options.encoding if self._bounded and options.channels == 1 else None
        self._clock = ArrivalClock[list[Float32]](options.rate_hz) if options.position == "arrival" else None
        self._timer: asyncio.TimerHandle | None = None  # of the clock
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._enough_bytes = 1  # with fewer, no chunk is complete
        self._due_s: float | None = None  # when they were announced
        self._pieces = 0
        self.listening_since: float | None = None
        """When the last message arrived; None while the receiver works on one, and after the end."""
        self.fault: asyncio.Future[SpeechQCError] = asyncio.get_running_loop().create_future()
        """Set to the error that must end the stream."""

    def end_with(self, fault: SpeechQCError) -> None:
        """End the stream with this error, unless it already has one."""
        self.listening_since = None
        if not self.fault.done():
            self.fault.set_result(fault)

    def end(self) -> None:
        """Take what waits; no audio follows."""
        self.take_waiting()
        if self._clock is not None:
            self._take_in_time(self._clock.finish(), time.monotonic())
        if self._decoder.rest:
            self.warn(InputWarning(
                "incomplete_sample",
                f"the stream ended in the middle of a sample: the last {len(self._decoder.rest)} bytes were not scored",
            ))  # fmt: skip

    def close(self) -> None:
        """Discard what waits; may be called twice."""
        self.listening_since = None
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    # -- messages -----------------------------------------------------------------------------------------------------

    async def take(self, message: bytes) -> None:
        """Take a message of any length; wait for room after each piece.

        Raises:
            PayloadTooLarge, InvalidAudio: The message ends the stream.
        """
        if len(message) > self._max_message_bytes:
            raise PayloadTooLarge(
                f"expected messages of at most {self._max_message_bytes} bytes, got {len(message)}: "
                "send the audio in smaller messages",
                bytes=len(message),
                max_bytes=self._max_message_bytes,
            )
        now_s = time.monotonic()
        arrived = 0
        for channels in self._decoder.pieces(message):
            arrived += len(channels[0])
            self._take(channels, now_s)
            self._pieces += 1
            await self._scorer.wait_for_room()
            if self._pieces % PIECES_PER_TURN == 0:
                await asyncio.sleep(0)
        self._note_pace(arrived, now_s)

    def take_at_once(self, message: bytes) -> bool:
        """Take a short message on arrival if it need not wait; return False to leave it to the receiver."""
        if self.listening_since is None or len(message) > self._decoder.piece_bytes or not self._scorer.has_room:
            return False
        now_s = self.listening_since = time.monotonic()
        self._waiting.append(message)
        self._waiting_bytes += len(message)
        if self._clock is not None:  # needs the time of every message
            self.take_waiting()
        elif self._due_s is not None:
            if self._waiting_bytes > self._decoder.piece_bytes + self._enough_bytes:  # the engine is slow
                self.take_waiting()
        elif self._waiting_bytes >= self._enough_bytes:
            self._due_s = now_s
            try:
                self._inbox.announce(self, now_s)
            except SpeechQCError as refusal:
                self._scorer.fail(refusal)
        return True

    def gap(self, command: Gap) -> None:
        """Note a gap that the client declares; an incomplete sample before it is dropped."""
        if self._decoder.rest:
            self._decoder.rest = b""
            self.warn(InputWarning("incomplete_sample", "a sample before a Gap was incomplete: it was not scored"))
        samples = max(1, round(command.ms * self._rate_hz / 1000))
        if self._clock is not None:
            self._take_in_time(self._clock.gap(samples), time.monotonic())
        self._scorer.gap(samples, command.kind)
        self._checks.paused()

    def paused(self) -> None:
        """Note that the client pauses on purpose."""
        self._checks.paused()

    # -- for the inbox ------------------------------------------------------------------------------------------------

    def collected(self) -> bytes:
        """Return the whole samples of the messages that wait, which wait no longer."""
        return self._decoder.whole(self._joined())

    def heard(self, samples: Float32) -> None:
        """Take samples that were decoded together with those of other streams."""
        if len(samples):
            self._hear([samples])
        self._due_s = None

    def take_waiting(self) -> None:
        """Decode and take the messages that wait, if there are any."""
        if self._waiting:
            try:
                channels = self._decoder.decode(self._joined())
            except SpeechQCError as fault:
                self.end_with(fault)
            else:
                if channels is not None:
                    self._hear(channels)
        self._due_s = None

    def _joined(self) -> bytes:
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return data

    # -- samples ------------------------------------------------------------------------------------------------------

    def _hear(self, channels: list[Float32]) -> None:
        """Take samples that waited; end the stream with whatever is raised.

        No caller handles errors here, and other streams must go on.
        """
        now_s = time.monotonic() if self._due_s is None else self._due_s
        try:
            self._take(channels, now_s)
            self._note_pace(len(channels[0]), now_s)
            if self._is_steady:
                missing = self._scorer.samples_missing * self._decoder.frame_bytes
                self._enough_bytes = missing - len(self._decoder.rest)
        except SpeechQCError as fault:
            self.end_with(fault)
        except Exception:
            logger.exception("unexpected error id=%s", self._session_id)
            self.end_with(unexpected())

    def _take(self, channels: list[Float32], now_s: float) -> None:
        """Take one piece of audio, at its place in time."""
        if self._clock is None:
            self._push(channels, now_s)
        else:
            self._take_in_time(self._clock.take(channels, len(channels[0]), now_s), now_s)

    def _take_in_time(self, items: list[list[Float32] | Missing], now_s: float) -> None:
        """Take audio and gaps in order, and look again when audio that waits is due."""
        for item in items:
            if isinstance(item, Missing):
                self._scorer.gap(item.samples, item.kind)
                self._checks.paused()
            else:
                self._push(item, now_s)
        if self._clock is not None and self._clock.due_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._clock.due_s - now_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._clock is not None:
            now_s = time.monotonic()
            try:
                self._take_in_time(self._clock.expire(now_s), now_s)
            except SpeechQCError as fault:
                self.end_with(fault)

    def _push(self, channels: list[Float32], now_s: float) -> None:
        """Push one piece of audio and send the warnings about it."""
        started_s = time.monotonic()
        self._scorer.push(channels, now_s, bounded=self._bounded)
        if self._checks.pieces:
            self._warn_of_pieces(now_s)
        self._scorer.decode_s += time.monotonic() - started_s

    # -- warnings -----------------------------------------------------------------------------------------------------

    def _warn_of_pieces(self, now_s: float) -> None:
        """Send the warnings about the pieces that were measured meanwhile."""
        warnings = self._checks.taken()
        for channel, session in enumerate(self._scorer.sessions):
            if self._checks.levels_due(channel):
                warnings += self._checks.check_levels(channel, session.levels(), session.samples_in, now_s)
        for warning in warnings:
            self.warn(warning)

    def _note_pace(self, arrived: int, now_s: float) -> None:
        warning = self._checks.arrived(arrived / self._rate_hz, now_s) if arrived else None
        if warning is not None:
            self.warn(warning)

    def warn(self, warning: InputWarning) -> None:
        """Send a warning, whatever is pending: there are few, because repeats are rate limited."""
        self._metrics.stream_warnings.labels(warning.code).inc()
        self._outbox.force(to_json(StreamWarning(**asdict(warning)).document()))


def unexpected() -> SpeechQCError:
    """Return the error that ends a stream after an unexpected failure, which the caller logs."""
    return SpeechQCError("unexpected server error: the log has the details under this session id")
