"""One live stream from opening to close.

While the stream has room, audio goes from the socket to the engine without any task in between, and so do scores back
while the client keeps up. Two tasks take over when something has to wait: one receives, one sends.

`LiveStream.run` handles everything that can end a stream: `CloseStream`, a client that disconnects, sends something
invalid, or stops sending or reading, an engine failure, and a shutdown of the server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.sample_decoder import SampleDecoder
from speech_qc.errors import CapacityError, Draining, Overloaded, PayloadTooLarge, ProtocolError, SpeechQCError
from speech_qc.live.clock import ArrivalClock, Missing
from speech_qc.live.ignored_messages import IgnoredMessages
from speech_qc.live.input_checks import InputChecks, InputWarning, PieceChecks
from speech_qc.live.options import StreamOptions
from speech_qc.live.outbox import Outbox
from speech_qc.live.scorer import Scorer
from speech_qc.live.socket import ClientGone, Socket
from speech_qc.model.reload import Generation
from speech_qc.pipeline.session import ChannelRecord
from speech_qc.state import AppState
from speech_qc.telemetry.metrics import ABORTED, DISCONNECTED, OK
from speech_qc.telemetry.tracing import note
from speech_qc.wire.client_messages import CloseStream, Configure, Finalize, Gap, KeepAlive, parse_client_message
from speech_qc.wire.close import NORMAL_CLOSE, close_reason, error_text
from speech_qc.wire.encode import to_json
from speech_qc.wire.server_messages import Finalized, Ready, StreamWarning

Float32 = NDArray[np.float32]

logger = logging.getLogger("speech_qc.streams")

PIECE_S = 0.1
"""Audio taken from a message in one piece: costs the event loop a fraction of a millisecond."""

STEADY_RATES = (8_000, 16_000)
"""Rates at which each sample becomes the same number of samples at the model's rate, and at once."""

PIECES_PER_TURN = 8
"""After this many pieces, yield to other tasks, however much a fast client has sent."""

MAX_TEXT_CHARS = 65_536
"""Maximum length of a text message; valid messages are much shorter."""


class LiveStream:
    """One stream; `run` it once.

    Args:
        socket: Open connection.
        options: What the client requested.
        session_id: Identifies the stream in messages and logs.
        generation: The model that scores it, which the caller holds.
        state: The parts of the server.
    """

    def __init__(
        self, socket: Socket, options: StreamOptions, session_id: str, generation: Generation, state: AppState
    ) -> None:
        self._socket, self._options, self._session_id = socket, options, session_id
        self._contract, self._identity = generation.contract, generation.identity
        self._settings, self._metrics, self._profiles, self._registry = (
            state.settings, state.metrics, state.profiles, state.streams,
        )  # fmt: skip
        self._join = state.calls.join if options.legs else None
        self._checks = InputChecks(options.rate_hz, options.channels, options.encoding)
        self._ignored = IgnoredMessages()
        self._checked = PieceChecks(self._checks)
        self._outbox = Outbox(state.settings.stream_send_queue_bytes, time.monotonic, socket.send_now)
        self._scorer = Scorer(generation, state, options, self._outbox, self._checked.on_piece)
        piece_samples = max(1, round(options.rate_hz * PIECE_S))
        self._decoder = SampleDecoder(options.encoding, options.channels, piece_samples)
        self._bounded = options.encoding != "float32"
        self._frame_bytes = self._decoder.piece_bytes // piece_samples
        self._clock = ArrivalClock[list[Float32]](options.rate_hz) if options.position == "arrival" else None
        self._clock_timer: asyncio.TimerHandle | None = None
        # Messages of arrived audio that the next step decodes, together with those of other streams.
        self._inbox = generation.inbox
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._enough_bytes = 1  # with fewer, no chunk is complete
        self._due_s: float | None = None  # when they were announced
        self.shared_encoding = options.encoding if self._bounded and options.channels == 1 else None
        self._is_steady = self._bounded and options.rate_hz in STEADY_RATES
        self._pieces = 0
        self._listening_since: float | None = None
        self._draining = False
        self._receiver: asyncio.Task[bool] | None = None
        self._fault: asyncio.Future[SpeechQCError] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._started_s = time.monotonic()

    async def run(self) -> str:
        """Serve the stream until it ends.

        Returns:
            `ok`, `disconnected`, or the code of the error that ended it.

        Raises:
            Overloaded, Draining, EngineDead: The stream was refused; nothing was sent.
        """
        try:
            self._registry.check(self._options.channels)
        except CapacityError as refusal:
            self._metrics.refuse("draining" if isinstance(refusal, Draining) else "streams")
            raise
        self._scorer.open()
        try:
            self._join_call()
        except SpeechQCError:
            self._scorer.end_legs()
            self._scorer.close()
            raise
        self._registry.add(self, self._options.channels)
        self._metrics.streams_started.inc()
        self._metrics.streams_active.inc()
        outcome = ABORTED
        try:
            outcome = await self._serve()
        except Exception:
            outcome = SpeechQCError.code
            raise
        finally:
            self._scorer.end_legs()
            self._scorer.close()
            self._registry.remove(self)
            self._metrics.streams_active.dec()
            self._metrics.streams_ended.labels(outcome).inc()
            for session in self._scorer.sessions:
                self._metrics.end_channel("live", session.snr_db(), session.event_counts)
            seconds = time.monotonic() - self._started_s
            audio_s = self._scorer.sessions[0].samples_in / self._options.rate_hz
            facts: dict[str, str | float] = {
                "outcome": outcome,
                "audio_s": round(audio_s, 3),
                "duration_s": round(seconds, 3),
            }
            logger.info(
                "stream %s: %.1f s of audio in %.1f s id=%s",
                *(outcome, audio_s, seconds, self._session_id),
                extra=facts,
            )
            note({f"speechqc.{name}": fact for name, fact in facts.items()})
        return outcome

    def _join_call(self) -> None:
        """Add the channels to their call, if they are legs of one."""
        if self._join is not None:
            for info in self._options.legs:
                self._scorer.legs.append(self._join(info))

    def drain(self) -> None:
        """End the stream because the server is shutting down: score the rest, send the summary, close with 1012.

        A stream that is already closing is not affected.
        """
        if self._receiver is not None and not self._receiver.done():
            self._draining = True
            self._listening_since = None
            self._receiver.cancel()

    # -- endings ------------------------------------------------------------------------------------------------------

    async def _serve(self) -> str:
        loop = asyncio.get_running_loop()
        self._fault = loop.create_future()
        sender = loop.create_task(self._outbox.run(self._socket.send))
        scorer = self._scorer.done
        self._receiver = loop.create_task(self._receive())
        self._outbox.force(self._ready())
        self._socket.tap(self._take_at_once)
        self._tick()
        try:
            return await self._run_to_end(self._receiver, scorer, sender)
        finally:
            for timer in (self._timer, self._clock_timer):
                if timer is not None:
                    timer.cancel()
            self._listening_since = None
            self._scorer.stop()
            tasks: set[asyncio.Task[Any]] = {self._receiver, sender}
            # Drop both references, or socket and stream, and task and stream, would keep each other in memory.
            self._socket.tap(None)
            self._receiver = None
            for task in tasks:
                task.cancel()
                task.add_done_callback(_retrieve_exception)  # handled elsewhere, or caused by the cancellation
            # Not gather: if cancelled, it raises a child's CancelledError, which the caller cannot tell from its own.
            await asyncio.wait(tasks)

    async def _run_to_end(
        self, receiver: asyncio.Task[bool], scorer: asyncio.Future[None], sender: asyncio.Task[None]
    ) -> str:
        error: SpeechQCError | None = None
        try:
            if not await self._wait_until_scored(receiver, scorer, sender):
                return DISCONNECTED
            if self._draining:
                error = _draining()
                frames = self._scorer.sessions[0].frames_done
                self._outbox.force(to_json(Finalized(frames=frames).document()))
            records, text = await self._scorer.summary(self._session_id, time.monotonic() - self._started_s)
            self._count(records)
            self._outbox.force(text)
        except ClientGone:
            return DISCONNECTED
        except SpeechQCError as fault:
            error = fault.with_traceback(None)  # its frames reference the stream, which references the error
        except Exception:
            logger.exception("unexpected error id=%s", self._session_id)
            error = _unexpected()
        if error is not None:
            self._scorer.stop()  # nothing may follow the error message
            self._listening_since = None
            receiver.cancel()
            await asyncio.wait({receiver})
            if self._is_stuck(time.monotonic()):
                self._outbox.clear()  # the client does not read: only the error message still matters
            self._scorer.close()  # free the engine sessions now; the close may take longer
            self._outbox.force(error_text(error, self._session_id))
        return await self._send_close(sender, error)

    async def _wait_until_scored(
        self, receiver: asyncio.Task[bool], scorer: asyncio.Future[None], sender: asyncio.Task[None]
    ) -> bool:
        """Wait until all audio is scored after a regular end; return False if the client disconnected instead.

        Raises:
            SpeechQCError: The client violated the protocol or timed out, or the engine failed.
        """
        fault = self._fault
        if fault is None:
            raise RuntimeError("a stream can be served only once")
        waiting: set[asyncio.Future[object]] = {receiver, scorer, sender, fault}  # type: ignore[arg-type]
        while True:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if sender in done:
                if not isinstance(sender.exception(), ClientGone):  # raising it would keep the frames in memory
                    sender.result()
                return False
            if receiver in done:
                if not receiver.cancelled() and not receiver.result():
                    return False
                self._end_audio()
            if scorer in done:
                scorer.result()
                return True
            if fault in done:
                raise fault.result()

    def _end_audio(self) -> None:
        self.take_waiting()
        if self._clock is not None:
            self._take_in_time(self._clock.finish(), time.monotonic())
        if self._decoder.rest_bytes:
            self._warn(InputWarning(
                "incomplete_sample",
                "the stream ended in the middle of a sample: "
                f"the last {self._decoder.rest_bytes} bytes were not scored",
            ))  # fmt: skip
        if (ignored := self._ignored.warning()) is not None:
            self._warn(ignored)
        self._scorer.end()

    async def _send_close(self, sender: asyncio.Task[None], error: SpeechQCError | None) -> str:
        """Send pending messages and a close frame; drop the connection if the client accepts neither."""
        self._outbox.close()
        timeout_s = self._settings.stream_send_timeout_s
        await asyncio.wait({sender}, timeout=timeout_s)
        if not sender.done():
            self._socket.abort()
            return error.code if error is not None else Overloaded.code
        if sender.exception() is not None:
            return error.code if error is not None else DISCONNECTED
        code, reason = (error.ws_close, close_reason(error)) if error is not None else (NORMAL_CLOSE, "")
        try:
            async with asyncio.timeout(timeout_s):
                await self._socket.close(code, reason)
        except TimeoutError:
            self._socket.abort()
        except ClientGone:
            pass
        return OK if error is None else error.code

    def _tick(self) -> None:
        """Check periodically whether the client has stopped sending or reading; costs nothing per message."""
        settings, now_s = self._settings, time.monotonic()
        idle_s, send_s = settings.stream_idle_s, settings.stream_send_timeout_s
        fault: SpeechQCError | None = None
        if self._listening_since is not None and now_s - self._listening_since > idle_s:
            fault = ProtocolError(
                f"expected audio or KeepAlive at least every {idle_s:g} s, got none: send KeepAlive every "
                f"{idle_s / 3:.3g} s while there is no audio, and CloseStream at the end",
                idle_s=idle_s,
            )
        if self._is_stuck(now_s):
            fault = Overloaded(
                f"expected the client to read, it accepted no message for {send_s:g} s: read while you send",
                unread_s=send_s,
                retry_after_s=Overloaded.retry_after_s,
            )
        if fault is not None:
            self._end_with(fault)
            return
        self._timer = asyncio.get_running_loop().call_later(min(idle_s, send_s, 4.0) / 4, self._tick)

    def _end_with(self, fault: SpeechQCError) -> None:
        """End the stream with this error, unless it already has one."""
        self._listening_since = None
        if self._fault is not None and not self._fault.done():
            self._fault.set_result(fault)

    def _is_stuck(self, now_s: float) -> bool:
        """Whether the client has not accepted a message for too long."""
        since = self._outbox.sending_since
        return since is not None and now_s - since > self._settings.stream_send_timeout_s

    # -- the receiver -------------------------------------------------------------------------------------------------

    async def _receive(self) -> bool:
        """Process messages until CloseStream (True) or until the client disconnects (False).

        Raises:
            SpeechQCError: The client sent something that ends the stream.
        """
        while True:
            self._listening_since = time.monotonic()
            message = await self._socket.receive()
            self._listening_since = None
            self.take_waiting()
            if isinstance(message, bytes):
                await self._audio(message)
            elif message is None:
                return False
            elif await self._text(message):
                return True

    async def _audio(self, message: bytes) -> None:
        if len(message) > self._settings.stream_max_message_bytes:
            raise PayloadTooLarge(
                f"expected messages of at most {self._settings.stream_max_message_bytes} bytes, got {len(message)}: "
                "send the audio in smaller messages",
                bytes=len(message),
                max_bytes=self._settings.stream_max_message_bytes,
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

    def _take_at_once(self, message: bytes) -> bool:
        """Process a short message on arrival if it need not wait; return False to leave it to the receiver."""
        if self._listening_since is None or len(message) > self._decoder.piece_bytes or not self._scorer.has_room:
            return False
        now_s = self._listening_since = time.monotonic()
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

    def collected(self) -> bytes:
        """Return the whole samples of the messages that wait, which wait no longer."""
        data = self._decoder.rest + self._joined()
        odd = len(data) % self._frame_bytes
        self._decoder.rest = data[len(data) - odd :] if odd else b""
        return data[: len(data) - odd] if odd else data

    def take_waiting(self) -> None:
        """Take the messages that wait, if there are any."""
        if self._waiting:
            try:
                channels = self._decoder.decode(self._joined())
            except SpeechQCError as fault:
                self._end_with(fault)
            else:
                self._hear(channels)
        self._due_s = None

    def _joined(self) -> bytes:
        """Return the messages that wait, which wait no longer."""
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0
        return data

    def heard(self, samples: Float32) -> None:
        """Take samples that were decoded together with those of other streams."""
        if len(samples) and self._receiver is not None:
            self._hear([samples])
        self._due_s = None

    def _hear(self, channels: list[Float32] | None) -> None:
        """Take samples that waited, None for fewer than one; end the stream with whatever is raised.

        No caller handles errors here, and other streams must go on.
        """
        if channels is None:
            return
        now_s = time.monotonic() if self._due_s is None else self._due_s
        try:
            self._take(channels, now_s)
            self._note_pace(len(channels[0]), now_s)
            if self._is_steady:
                self._enough_bytes = self._scorer.samples_missing * self._frame_bytes - self._decoder.rest_bytes
        except SpeechQCError as fault:
            self._end_with(fault)
        except Exception:
            logger.exception("unexpected error id=%s", self._session_id)
            self._end_with(_unexpected())

    def _take(self, channels: list[Float32], now_s: float) -> None:
        """Take one piece of audio, at its place in time."""
        if self._clock is None:
            self._push(channels, now_s)
            return
        self._take_in_time(self._clock.take(channels, len(channels[0]), now_s), now_s)

    def _take_in_time(self, items: list[list[Float32] | Missing], now_s: float) -> None:
        """Take audio and gaps in order, and look again when audio that waits is due."""
        for item in items:
            if isinstance(item, Missing):
                self._scorer.gap(item.samples, item.kind)
                self._checks.paused()
            else:
                self._push(item, now_s)
        if self._clock is not None and self._clock.due_s is not None and self._clock_timer is None:
            self._clock_timer = asyncio.get_running_loop().call_later(self._clock.due_s - now_s, self._expire)

    def _expire(self) -> None:
        self._clock_timer = None
        if self._clock is not None and self._receiver is not None and not self._receiver.done():
            now_s = time.monotonic()
            try:
                self._take_in_time(self._clock.expire(now_s), now_s)
            except SpeechQCError as fault:
                self._end_with(fault)

    def _push(self, channels: list[Float32], now_s: float) -> None:
        """Push one piece of audio and send the warnings about it."""
        started_s = time.monotonic()
        self._scorer.push(channels, now_s, bounded=self._bounded)
        if self._checked.pieces:
            self._warn_of_pieces(now_s)
        self._scorer.decode_s += time.monotonic() - started_s

    def _warn_of_pieces(self, now_s: float) -> None:
        """Send the warnings about the pieces that were measured meanwhile."""
        warnings = self._checked.taken()
        for channel, session in enumerate(self._scorer.sessions):
            if self._checks.levels_due(channel):
                warnings += self._checks.check_levels(channel, session.levels(), session.samples_in, now_s)
        for warn in warnings:
            self._warn(warn)

    def _note_pace(self, arrived: int, now_s: float) -> None:
        warn = self._checks.arrived(arrived / self._options.rate_hz, now_s) if arrived else None
        if warn is not None:
            self._warn(warn)

    async def _text(self, message: str) -> bool:
        """Process a text message; return whether it was the last one."""
        if len(message) > MAX_TEXT_CHARS:
            raise PayloadTooLarge(
                f"expected text messages of at most {MAX_TEXT_CHARS} characters, got {len(message)}: send audio in "
                "binary messages",
                max_chars=MAX_TEXT_CHARS,
            )
        try:
            command = parse_client_message(message)
            if isinstance(command, CloseStream):
                return True
            if isinstance(command, KeepAlive):
                self._checks.paused()
            elif isinstance(command, Gap):
                self._gap(command)
                await self._scorer.wait_for_room()
            elif isinstance(command, Finalize):
                await self._scorer.finalize()
            elif isinstance(command, Configure):
                await self._scorer.configure(
                    self._scorer.options.changed(
                        self._contract, self._profiles,
                        labels=command.labels, emit_ms=command.emit_ms, profile=command.profile,
                    )
                )  # fmt: skip
        except ProtocolError as error:
            if self._ignored.is_new(error):
                await self._outbox.put(error_text(error, self._session_id))
        return False

    def _gap(self, command: Gap) -> None:
        """Note a gap that the client declares; an incomplete sample before it is dropped."""
        if self._decoder.rest_bytes:
            self._decoder.rest = b""
            self._warn(InputWarning("incomplete_sample", "a sample before a Gap was incomplete: it was not scored"))
        samples = max(1, round(command.ms * self._options.rate_hz / 1000))
        if self._clock is not None:
            self._take_in_time(self._clock.gap(samples), time.monotonic())
        self._scorer.gap(samples, command.kind)
        self._checks.paused()

    def _warn(self, warn: InputWarning) -> None:
        """Send a warning, whatever is pending: there are few, because repeats are rate limited."""
        self._metrics.stream_warnings.labels(warn.code).inc()
        self._outbox.force(to_json(StreamWarning(**asdict(warn)).document()))

    # -- messages to the client ---------------------------------------------------------------------------------------

    def _ready(self) -> bytes:
        options = self._options
        message = Ready(
            session_id=self._session_id,
            session_name=options.session_name,
            model=self._identity,
            frame_hop_s=self._contract.features.frame_hop_s,
            latency_s=self._scorer.latency_s,
            encoding=options.encoding,
            sample_rate_hz=options.rate_hz,
            channels=options.channels,
            emit_ms=options.emit_ms,
            labels=list(options.labels),
            profile=options.profile_name,
        )
        return to_json(message.document())

    def _count(self, records: list[ChannelRecord]) -> None:
        for record in records:
            self._metrics.verdicts.labels(record.verdict.status).inc()


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _draining() -> Draining:
    return Draining(
        "the server is shutting down; the summary covers all audio received: reconnect to another server",
        retry_after_s=Draining.retry_after_s,
    )


def _unexpected() -> SpeechQCError:
    return SpeechQCError("unexpected server error: the log has the details under this session id")
