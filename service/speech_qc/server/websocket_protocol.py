"""uvicorn's WebSocket protocol with a fast path for live audio.

Through ASGI, each message in and out wakes two tasks and pauses and resumes reading. That costs more than everything
else that the event loop does for a chunk. The fast path passes audio to the stream directly from the parser, and writes
scores directly to the transport. All other messages go through ASGI, and so does audio while earlier messages are
pending.

This class depends on undocumented attributes of uvicorn; `tests/server/test_uvicorn_attributes.py` lists them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN

from speech_qc.errors import ProtocolError
from speech_qc.server.raw_response import raw_response
from speech_qc.server.timeouts import ConnectionLimits, ConnectionTimeouts, SlowReaderCheck
from speech_qc.server.websocket_frames import FINAL_BINARY, FINAL_TEXT, MessageBoundary, text_frame_head, whole_message
from speech_qc.settings import Settings
from speech_qc.wire.close import MAX_REASON_BYTES

logger = logging.getLogger("speech_qc.access")

SLICE_BYTES = 16 * 1024
"""Bytes parsed before yielding to other tasks: there can be thousands of frames in them."""

FRAMES, FRAMES_PER_S, BYTES_PER_FRAME = 2000.0, 100.0, 40.0
"""Rate limit on frames, as a token bucket: its size, the refill per second, and the bytes of audio that earn one more
frame. Audio in real time fits even in frames of 5 ms, and so does faster audio in larger frames. A flood of pings or of
empty or tiny frames does not; each of them costs as much as a frame with audio."""


TEXT_BYTES_PER_BYTE = 3
"""Bytes of a text message that count as one byte of audio, where text carries audio: base64, names and braces."""


VIOLATIONS = {
    1007: "protocol_error: send audio in binary messages, and text as UTF-8",
    1008: "protocol_error: send fewer and larger messages, 100 a second at most",
    1009: "payload_too_large: send smaller messages",
    1011: "error: reconnect",
}
"""Reasons of closes after violations below the level of messages, by code: `code: what to do`."""

MAX_DROPPED_BYTES = 8 * 1024 * 1024
"""Maximum that is read after a violation; a client sends less until it has read the close."""


class LiveWebSocketProtocol(ConnectionTimeouts, WebSocketsSansIOProtocol):
    """One connection, without compression; uvicorn creates the instances, so `bounded_websocket_protocol` binds limits.

    It also closes two kinds of connections that uvicorn would keep open indefinitely: one with an invalid handshake,
    and one that is closing while the client does not read the pending data.
    """

    sink: Callable[[bytes], bool] | None = None
    """Called with each binary message that has no pending message before it; returns whether it took the message."""

    text_sink: Callable[[bytes], bool] | None = None
    """The same for text messages, which phone systems send audio in; they may not be valid UTF-8."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # uvicorn logs URLs with their query at `info`, the library logs headers and payloads at `debug`: secrets leak.
        self.logger = self.conn.logger = _discreet
        self.conn.debug = False
        self._unread = SlowReaderCheck(self.limits.read_timeout_s)
        self._made_s = 0.0
        self._credit = FRAMES
        self._dropped = 0  # bytes
        self._rest: list[bytes] = []  # not a deque, which takes 0.7 KiB when it is empty
        self._boundary = MessageBoundary()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the periodic check."""
        super().connection_made(transport)
        self._made_s = self.loop.time()
        self._tick()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the periodic check."""
        self._cancel_check()
        super().connection_lost(exc)

    def _tick(self) -> None:
        """Drop a client that does not complete the handshake or does not read; costs nothing per message."""
        now_s = self.loop.time()
        late = not self.handshake_complete and now_s - self._made_s > self.limits.header_timeout_s
        if late or self._unread.is_stuck(self.transport.get_write_buffer_size(), now_s):
            reason = "handshake did not complete in time" if late else "client stopped reading"
            logger.info("stream dropped: %s", reason)
            self.transport.abort()
            return
        self._credit = min(FRAMES, self._credit + FRAMES_PER_S * self.limits.check_interval_s)
        self._schedule_check(self._tick)

    def shutdown(self) -> None:
        """Close the connection at shutdown.

        uvicorn's own method raises an error if the client is already closing, and so skips all later connections.
        """
        if self.handshake_complete and not self.close_sent and self.conn.state is not OPEN:
            self.stop_keepalive()
            self.transport.close()
        else:
            super().shutdown()

    async def send(self, message: Any) -> None:
        """Send an event of the application."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # answered with another status than 101, which uvicorn would log as an error

    def _refuse_handshake(self, why: Exception) -> None:
        """Answer a request that the library could not parse as a handshake."""
        error = ProtocolError(
            f"expected a WebSocket handshake (RFC 6455, section 4): GET, HTTP/1.1, no body; {why.__cause__ or why}"
        )
        self.transport.write(raw_response(error))
        self.handshake_complete = self.close_sent = True
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse the received data, one slice at a time; reading from the connection is paused meanwhile."""
        if self._rest:
            self._rest.append(data)
            self.transport.pause_reading()
        elif len(data) > SLICE_BYTES:
            self._rest.extend(data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES))
            self.transport.pause_reading()
            self._parse_next()
        else:
            self._parse(data)

    def _parse_next(self) -> None:
        """Parse the next slice; resume reading after the last one."""
        if self.transport.is_closing():
            self._rest.clear()
            return
        try:
            self._parse(self._rest.pop(0))
        except BaseException:  # asyncio closes the connection on errors in `data_received`, but not in a callback
            self._rest.clear()
            self.transport.abort()
            raise
        if self._rest:
            self.loop.call_soon(self._parse_next)
        elif not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        """Pass a whole binary message to the sink if no message is pending before it; otherwise parse as usual."""
        if self.conn.eof_sent:  # after a violation, or a close frame
            self._dropped += len(data)
            if self._dropped > MAX_DROPPED_BYTES:
                self.transport.abort()
            return
        is_text = data[0] == FINAL_TEXT
        if (
            (sink := self._free_sink(is_text=is_text)) is not None
            and self._boundary.reached
            and self.conn.state is OPEN
            and len(data) <= self.config.ws_max_size
        ):
            message = whole_message(data, FINAL_TEXT if is_text else FINAL_BINARY)
            if message is not None and sink(message):
                self._may_send(len(message) // TEXT_BYTES_PER_BYTE if is_text else len(message))
                return
        if self.handshake_initiated:  # uvicorn passes the handshake request alone, before any frame
            self._boundary.feed(data)
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None and not self.close_sent:
            self._refuse_handshake(self.conn.handshake_exc)

    async def receive(self) -> Any:
        """Return the next event for the application; resume reading after the last one if nothing is left to parse."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if not self._rest:
                self.transport.resume_reading()
        return message

    def _may_send(self, size: int) -> bool:
        """Count a frame against the rate limit; close the connection if the client exceeds it.

        Args:
            size: Bytes of audio in the frame.

        Returns:
            Whether the frame may be processed.
        """
        self._credit = min(FRAMES, self._credit + size / BYTES_PER_FRAME) - 1.0
        if self._credit >= 0.0:
            return True
        if not self.transport.is_closing() and not self.conn.eof_sent:
            logger.warning("stream dropped: client sent too many frames with little or no audio")
            if self.close_sent or not self.handshake_complete:
                self.transport.abort()
            else:
                self.conn.fail(1008)
                self.handle_parser_exception()
        return False

    def handle_parser_exception(self) -> None:
        """Close the connection after a violation, so that the client gets to know why.

        Closing it at once would reset it while the client still sends, and a reset discards the close frame before the
        client has read it. So what it sends is read and dropped until it closes, too.
        """
        if self.close_sent:  # the client answers with anything but a close frame; it is closed by the timer
            return
        found = self.conn.close_sent
        if found is None:  # during the handshake
            self.transport.abort()
            return
        self.conn.data_to_send()  # the library's close frame, whose reason does not say what to do
        code = found.code
        reason = VIOLATIONS.get(code, f"protocol_error: correct the frames: {found.reason}")[:MAX_REASON_BYTES]
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(Frame(Opcode.CLOSE, Close(code, reason).serialize()).serialize(mask=False))
        self.close_sent = True
        if not self.transport.can_write_eof():  # TLS
            self.transport.close()
            return
        self.transport.write_eof()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def handle_ping(self) -> None:
        """Count the ping and send a pong, unless the client does not read."""
        answer = b"".join(self.conn.data_to_send())
        # After a violation there is no answer, and writing nothing would fail as well.
        if self._may_send(0) and answer and (self.writable.is_set() or self.conn.close_sent is not None):
            self.transport.write(answer)  # may also contain the reply to a close frame

    def handle_pong(self, event: Frame) -> None:
        """Count the frame against the rate limit."""
        if self._may_send(0):
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """Count the frame against the rate limit."""
        if self._may_send(len(event.data)):
            super().handle_cont(event)

    def handle_text(self, event: Frame) -> None:
        """Count the frame against the rate limit; a command contains no audio, a phone system's text may."""
        if self._may_send(0 if self.text_sink is None else len(event.data) // TEXT_BYTES_PER_BYTE):
            super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Count the frame against the rate limit."""
        if self._may_send(len(event.data)):
            super().handle_bytes(event)

    def send_receive_event_to_app(self) -> None:
        """Pass a complete message to the sink, or queue it for the application."""
        if (sink := self._free_sink(is_text=self.curr_msg_data_type == "text")) is not None and sink(
            self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        ):
            self.frames = []
            return
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_utf8(self.frames):
            self.frames = []
            if self.conn.state is OPEN:  # later data may have closed it
                self.conn.fail(1007)  # uvicorn closes it, too, but logs a traceback with bytes of the message
                self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    def _free_sink(self, *, is_text: bool) -> Callable[[bytes], bool] | None:
        """Return the sink, or None if a message is pending before the next one."""
        sink = self.text_sink if is_text else self.sink
        return sink if sink is not None and self.queue.empty() and not self.close_sent else None

    def send_now(self, text: bytes) -> bool:
        """Send a UTF-8 text message if the connection is open and sending need not wait; return whether it was sent."""
        if (
            not self.writable.is_set()
            or not self.handshake_complete
            or self.close_sent
            or self.disconnected
            or self.transport.is_closing()
        ):
            return False
        self.transport.write(text_frame_head(len(text)) + text)
        return True


def _is_utf8(pieces: list[bytes]) -> bool:
    try:
        b"".join(pieces).decode()
    except UnicodeDecodeError:
        return False
    return True


def bounded_websocket_protocol(settings: Settings) -> type[LiveWebSocketProtocol]:
    """Return the protocol class with the limits of these settings, for uvicorn's option `ws`."""
    return type("ConfiguredWebSocketProtocol", (LiveWebSocketProtocol,), {"limits": ConnectionLimits.of(settings)})


_discreet = logging.getLogger("speech_qc.socket")
_discreet.setLevel(logging.WARNING)
