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
from functools import partial
from typing import Any

from speech_qc.errors import Draining, Overloaded, PayloadTooLarge, ProtocolError, SpeechQCError
from speech_qc.live.client_timeouts import ClientTimeouts
from speech_qc.live.ignored_messages import IgnoredMessages
from speech_qc.live.input_checks import InputChecks
from speech_qc.live.intake import Intake, unexpected
from speech_qc.live.options import StreamOptions
from speech_qc.live.outbox import Outbox
from speech_qc.live.score_messages import ScoreMessages, summary_message
from speech_qc.live.scorer import Scorer
from speech_qc.live.socket import ClientGone, Socket
from speech_qc.model.reload import Generation
from speech_qc.pipeline.session import ChannelRecord, Session
from speech_qc.state import AppState
from speech_qc.telemetry.metrics import ABORTED, DISCONNECTED, OK
from speech_qc.telemetry.tracing import note
from speech_qc.wire.client_messages import CloseStream, Configure, Finalize, Gap, KeepAlive, parse_client_message
from speech_qc.wire.close import NORMAL_CLOSE, close_reason, error_text
from speech_qc.wire.encode import to_json
from speech_qc.wire.server_messages import Ready

logger = logging.getLogger("speech_qc.streams")

MAX_TEXT_CHARS = 65_536
"""Maximum length of a text message; valid messages are much shorter."""

REST_S, QUIET_S = 1.0, 0.01
"""At a shutdown, messages behind the one in progress are taken for this long, and until none has come for `QUIET_S`."""


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
        self._ignored = IgnoredMessages()
        self._outbox = Outbox(state.settings.stream_send_queue_bytes, time.monotonic, socket.send_now)
        checks = InputChecks(options.rate_hz, options.channels, options.encoding)
        self._messages = ScoreMessages(generation.contract, options, self._outbox)
        self._scorer = Scorer(generation, state, options, self._messages, checks.on_piece)
        self._outbox.on_room = self._scorer.advance
        self._intake = Intake(options, session_id, generation.inbox, self._scorer, checks, self._outbox, state)
        self._draining = self._closed_by_client = False
        self._last_call: asyncio.TimerHandle | None = None  # ends the receiver at a shutdown
        self._receiver: asyncio.Task[bool] | None = None
        self._timeouts = ClientTimeouts(state.settings, self._intake, self._outbox)
        self._started_s = time.monotonic()

    async def run(self) -> str:
        """Serve the stream until it ends.

        Returns:
            `ok`, `disconnected`, or the code of the error that ended it.

        Raises:
            Overloaded, Draining, EngineDead: The stream was refused; nothing was sent.
        """
        self._registry.check(self._options.channels)
        self._scorer.open()
        try:
            self._join_call()
        except SpeechQCError:
            self._scorer.end_legs(regular=False)
            self._close_scorer()
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
            self._scorer.end_legs(regular=self._closed_by_client)
            self._close_scorer()
            self._registry.remove(self)
            self._metrics.streams_active.dec()
            self._metrics.streams_ended.labels(outcome).inc()
            for session in self._scorer.sessions:
                self._metrics.end_channel("live", session.scores.snr_db(), session.scores.event_counts)
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

    def _close_scorer(self) -> None:
        self._outbox.on_room = None  # or they would keep each other in memory
        self._scorer.close()

    def _join_call(self) -> None:
        """Add the channels to their call, if they are legs of one."""
        if self._join is not None:
            for info in self._options.legs:
                self._scorer.legs.append(self._join(info))

    def drain(self, timeout_s: float) -> None:
        """End the stream because the server is shutting down: score the rest, send the summary, close with 1012.

        A message that is being taken is taken to its end, as are those behind it. A stream that is already closing is
        not affected, nor is one whose `CloseStream` is among those messages.

        Args:
            timeout_s: Time for everything; audio that has not been taken in the first half is dropped.
        """
        if self._receiver is None or self._receiver.done():
            return
        self._draining = True
        is_idle, self._intake.listening_since = self._intake.listening_since is not None, None
        if is_idle:
            self._receiver.cancel()
        else:
            self._last_call = asyncio.get_running_loop().call_later(timeout_s / 2, self._receiver.cancel)

    # -- endings ------------------------------------------------------------------------------------------------------

    async def _serve(self) -> str:
        loop = asyncio.get_running_loop()
        sender = loop.create_task(self._outbox.run(self._socket.send))
        scorer = self._scorer.done
        self._receiver = loop.create_task(self._receive())
        self._outbox.force(self._ready())
        self._socket.tap(self._intake.take_at_once)
        self._timeouts.start()
        try:
            return await self._run_to_end(self._receiver, scorer, sender)
        finally:
            self._timeouts.stop()
            if self._last_call is not None:
                self._last_call.cancel()
            self._intake.close()
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
                error = _draining(self._scorer.sessions[0])
                self._messages.finalized()
            records, text = await asyncio.to_thread(self._summary, time.monotonic() - self._started_s)
            for record in records:
                self._metrics.verdicts.labels(record.verdict.status).inc()
            self._outbox.force(text)
        except ClientGone:
            return DISCONNECTED
        except SpeechQCError as fault:
            error = fault.with_traceback(None)  # its frames reference the stream, which references the error
        except Exception:
            logger.exception("unexpected error id=%s", self._session_id)
            error = unexpected()
        if error is not None:
            self._scorer.stop()  # nothing may follow the error message
            self._intake.close()
            receiver.cancel()
            await asyncio.wait({receiver})
            if self._timeouts.is_stuck(time.monotonic()):
                self._outbox.clear()  # the client does not read: only the error message still matters
            self._close_scorer()  # free the engine sessions now; the close may take longer
            self._outbox.force(error_text(error, self._session_id))
        return await self._send_close(sender, error)

    async def _wait_until_scored(
        self, receiver: asyncio.Task[bool], scorer: asyncio.Future[None], sender: asyncio.Task[None]
    ) -> bool:
        """Wait until all audio is scored after a regular end; return False if the client disconnected instead.

        Raises:
            SpeechQCError: The client violated the protocol or timed out, or the engine failed.
        """
        fault = self._intake.fault
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
        self._intake.end()
        if (ignored := self._ignored.warning()) is not None:
            self._intake.warn(ignored)
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

    # -- the receiver -------------------------------------------------------------------------------------------------

    async def _receive(self) -> bool:
        """Process messages until CloseStream (True) or until the client disconnects (False).

        Raises:
            SpeechQCError: The client sent something that ends the stream.
        """
        is_open: bool | None = None
        while is_open is None and not self._draining:
            self._intake.listening_since = time.monotonic()
            message = await self._socket.receive()
            self._intake.listening_since = None
            is_open = await self._message(message)
        end_s = time.monotonic() + REST_S
        while is_open is None and time.monotonic() < end_s:
            try:
                async with asyncio.timeout(QUIET_S):
                    message = await self._socket.receive()
            except TimeoutError:
                break
            is_open = await self._message(message)
            if is_open:
                self._draining = False  # nothing is missing
        return is_open is not False

    async def _message(self, message: bytes | str | None) -> bool | None:
        """Process a message; return what `_receive` does if it was the last one, else None."""
        self._intake.take_waiting()
        if isinstance(message, bytes):
            await self._intake.take(message)
            return None
        if message is None:
            return False
        return await self._text(message) or None

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
                self._closed_by_client = True
                return True
            if isinstance(command, KeepAlive):
                self._intake.paused()
            elif isinstance(command, Gap):
                self._intake.gap(command)
                await self._scorer.wait_for_room()
            elif isinstance(command, Finalize):
                await self._scorer.do(self._messages.finalized, flush=True)
            elif isinstance(command, Configure):
                options = self._scorer.options.changed(
                    self._contract, self._profiles,
                    labels=command.labels, emit_ms=command.emit_ms, profile=command.profile,
                )  # fmt: skip
                await self._scorer.do(partial(self._configure, options))
        except ProtocolError as error:
            if self._ignored.is_new(error):
                await self._outbox.put(error_text(error, self._session_id))
        return False

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

    def _configure(self, options: StreamOptions) -> None:
        self._scorer.use(options)
        self._messages.configure(options, self._scorer.latency_s)

    def _summary(self, total_s: float) -> tuple[list[ChannelRecord], bytes]:
        scorer = self._scorer
        records = scorer.records()
        timing = scorer.timing(total_s)
        return records, summary_message(self._session_id, scorer.options, records, timing, scorer.stereo())


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _draining(session: Session) -> Draining:
    covered_s = session.position / session.rate_hz
    return Draining(
        f"the server is shutting down; the summary covers the first {covered_s:.2f} s of the stream: reconnect to "
        "another server and send the rest",
        covered_s=round(covered_s, 6),
        retry_after_s=Draining.retry_after_s,
    )
