"""uvicorn's WebSocket protocol with a short way for live audio.

By way of ASGI, a message in and a message out wake two tasks and switch reading off and on again. That is more than
the rest of what the event loop does for a chunk, so audio that a stream can take at once is handed over where it was
parsed, and scores are written where they were made. Everything else goes the common way; so does audio while anything
before it still waits.

It builds on undocumented attributes of uvicorn's class; `tests/server/test_uvicorn_attributes.py` names them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.protocol import OPEN

from speech_qc.errors import ProtocolError
from speech_qc.server.raw_response import raw_answer
from speech_qc.server.timeouts import ConnectionLimits, ConnectionTimeouts, SlowReaderCheck
from speech_qc.server.websocket_frames import MessageBoundary, text_frame_head, whole_binary_message
from speech_qc.settings import Settings

logger = logging.getLogger("speech_qc.access")

SLICE_BYTES = 16 * 1024
"""Parsed at once, then others get their turn: there can be thousands of frames in it."""

FRAMES, FRAMES_PER_S, BYTES_PER_FRAME = 2000.0, 100.0, 40.0
"""How many frames a client may send: so many at first, so many more a second, and one more for so many bytes of audio.
Real time in frames of 5 ms fits, faster than that in frames that hold something as well; a flood of pings, of empty or
of tiny frames, each of which costs as much as one with audio, does not."""


class LiveWebSocketProtocol(ConnectionTimeouts, WebSocketsSansIOProtocol):
    """One connection. `bounded_websocket_protocol` binds the limits, since uvicorn makes the objects; no compression.

    uvicorn ends neither a connection whose handshake failed to parse, nor one that is closing and whose client does not
    take what was sent before; both would stay for ever.
    """

    sink: Callable[[bytes], bool] | None = None
    """Is offered each binary message that nothing waits before; True when it took it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # At `info` uvicorn logs addresses with their query, the library at `debug` headers and payloads: tokens, keys.
        self.logger = self.conn.logger = _discreet
        self.conn.debug = False
        self._unread = SlowReaderCheck(self.limits.read_timeout_s)
        self._made_s = 0.0
        self._credit = FRAMES
        self._rest: deque[bytes] = deque()
        self._boundary = MessageBoundary()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to look at the connection."""
        super().connection_made(transport)
        self._made_s = self.loop.time()
        self._tick()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        self._stop_looking()
        super().connection_lost(exc)

    def _tick(self) -> None:
        """Cut a client that is not there or does not read; costs nothing per message."""
        now_s = self.loop.time()
        late = not self.handshake_complete and now_s - self._made_s > self.limits.header_timeout_s
        if late or self._unread.is_stuck(self.transport.get_write_buffer_size(), now_s):
            logger.info("a stream was cut: %s", "it never began" if late else "its client does not read")
            self.transport.abort()
            return
        self._credit = min(FRAMES, self._credit + FRAMES_PER_S * self.limits.look_s)
        self._look_again(self._tick)

    def shutdown(self) -> None:
        """The server goes away; uvicorn's way fails, for all after it, where the client is closing already."""
        if self.handshake_complete and not self.close_sent and self.conn.state is not OPEN:
            self.stop_keepalive()
            self.transport.close()
        else:
            super().shutdown()

    async def send(self, message: Any) -> None:
        """Send an event of the application."""
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # by another answer than 101, which uvicorn would call a fault

    def _refuse_handshake(self, why: Exception) -> None:
        """Answer what the library could not read as a handshake."""
        error = ProtocolError(
            f"expected the opening of a WebSocket (RFC 6455, section 4): GET, HTTP/1.1, no body; {why.__cause__ or why}"
        )
        self.transport.write(raw_answer(error))
        self.handshake_complete = self.close_sent = True
        self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Parse what came, a slice at a time: meanwhile nothing more is read of this connection."""
        if self._rest:
            self._rest.append(data)
            self.transport.pause_reading()
        elif len(data) > SLICE_BYTES:
            self._rest.extend(data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES))
            self.transport.pause_reading()
            self._go_on()
        else:
            self._parse(data)

    def _go_on(self) -> None:
        """Parse the next slice; read again after the last."""
        if self.transport.is_closing():
            self._rest.clear()
            return
        try:
            self._parse(self._rest.popleft())
        except BaseException:  # out of `data_received` it would end the connection; out of a callback it would not
            self._rest.clear()
            self.transport.abort()
            raise
        if self._rest:
            self.loop.call_soon(self._go_on)
        elif not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _parse(self, data: bytes) -> None:
        """Take a whole binary message at once, where nothing waits before it; else parse as ever."""
        if (
            (sink := self._free_sink()) is not None
            and self._boundary.reached
            and self.conn.state is OPEN
            and len(data) <= self.config.ws_max_size
        ):
            message = whole_binary_message(data)
            if message is not None and sink(message):
                self._may_send(len(message))
                return
        if self.handshake_initiated:  # uvicorn hands over the opening request by itself, before any frame
            self._boundary.feed(data)
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None and not self.close_sent:
            self._refuse_handshake(self.conn.handshake_exc)

    async def receive(self) -> Any:
        """Next event for the application; reads again when that was the last, and nothing is left to be parsed."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused = False
            if not self._rest:
                self.transport.resume_reading()
        return message

    def _may_send(self, size: int) -> bool:
        """Count a frame with so many bytes of audio; ends the connection of a client that sends too many."""
        self._credit = min(FRAMES, self._credit + size / BYTES_PER_FRAME) - 1.0
        if self._credit >= 0.0:
            return True
        if not self.transport.is_closing():
            logger.warning("a stream was cut: its client sends a flood of frames with little or nothing in them")
            if self.close_sent or not self.handshake_complete:
                self.transport.abort()
            else:
                self.queue.put_nowait({"type": "websocket.disconnect", "code": 1008})
                self.conn.fail(1008, "protocol_error: send fewer and larger messages, 100 a second at most")
                self.transport.write(b"".join(self.conn.data_to_send()))
                self.close_sent = True
                self.transport.close()
        return False

    def handle_ping(self) -> None:
        """Answer, unless the client does not take the answers before."""
        answer = b"".join(self.conn.data_to_send())
        if self._may_send(0) and (self.writable.is_set() or self.conn.close_sent is not None):
            self.transport.write(answer)  # which may hold the answer to a close, too

    def handle_pong(self, event: Frame) -> None:
        """Count it."""
        if self._may_send(0):
            super().handle_pong(event)

    def handle_cont(self, event: Frame) -> None:
        """Count it."""
        if self._may_send(len(event.data)):
            super().handle_cont(event)

    def handle_text(self, event: Frame) -> None:
        """Count it; a command holds no audio."""
        if self._may_send(0):
            super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Count it."""
        if self._may_send(len(event.data)):
            super().handle_bytes(event)

    def send_receive_event_to_app(self) -> None:
        """Hand a complete message over."""
        if (
            self.curr_msg_data_type == "bytes"
            and (sink := self._free_sink()) is not None
            and sink(self.frames[0] if len(self.frames) == 1 else b"".join(self.frames))
        ):
            self.frames = []
            return
        if self.curr_msg_data_type == "text" and not self.close_sent and not _is_utf8(self.frames):
            self.frames = []
            if self.conn.state is OPEN:  # and has not been closed by what came behind it
                self.conn.send_close(1007)  # as uvicorn does, which logs a traceback with bytes of the message
                self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    def _free_sink(self) -> Callable[[bytes], bool] | None:
        """The sink, unless something waits before the next message."""
        return self.sink if self.queue.empty() and not self.close_sent else None

    def send_now(self, text: bytes) -> bool:
        """Send a text message, UTF-8, unless that would have to wait or is not the time for it."""
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
    """The protocol with the limits of these settings, as `ws` of uvicorn's options."""
    return type("BoundAudioSocketProtocol", (LiveWebSocketProtocol,), {"limits": ConnectionLimits.of(settings)})


_discreet = logging.getLogger("speech_qc.socket")
_discreet.setLevel(logging.WARNING)
