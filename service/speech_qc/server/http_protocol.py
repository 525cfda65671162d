"""uvicorn's HTTP protocol with bounds that it lacks: on heads, on clients that do not read, on connections.

Without them one connection could fill the memory with a header without an end, or hold a descriptor or an answer for
ever, and many could use up all descriptors, after which nobody is heard, the supervisor's health check included.
uvicorn's own `limit_concurrency` would refuse that check as well, and a supervisor that hears nothing kills the process
with all its streams; it counts neither idle connections nor streams that ask for their upgrade, and tells no client
when to come back. This class builds on attributes of uvicorn's that are not documented; `tests/faults/` fails when they
change.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from speech_qc.errors import PayloadTooLarge, ProtocolError, TooManyConnections
from speech_qc.server.raw_response import headers_of, raw_answer
from speech_qc.server.timeouts import ConnectionLimits, ConnectionTimeouts, SlowReaderCheck
from speech_qc.settings import RESERVED_CONNECTIONS, Settings
from speech_qc.wire.encode import to_json
from speech_qc.wire.vocabulary import PROBE_PATHS

logger = logging.getLogger("speech_qc.access")

MAX_PIPELINED = 8
"""Requests of one connection that wait for the answers before them; each costs far more memory than its bytes."""


class BoundedHttpProtocol(ConnectionTimeouts, HttpToolsProtocol):
    """One connection; `bounded_http_protocol` binds the limits and the counter, since uvicorn makes the objects."""

    on_refused: staticmethod[[], None]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = self._lines_bytes = 0
        self._in_head = self._asked = self._in_message = False
        self._answered_since_s: float | None = None
        self._head_since_s: float | None = None
        self._unread = SlowReaderCheck(self.limits.read_timeout_s, self.limits.read_min_bytes_per_s)
        self._is_beyond = False
        self._application = self.app

    @property
    def is_new(self) -> bool:
        """Whether the head of its first request has not come yet."""
        return not self._asked and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look at the connection, unless there are far too many."""
        super().connection_made(transport)
        self._is_beyond = len(self.connections) > self.limits.max_connections
        if len(self.connections) > self.limits.max_connections + RESERVED_CONNECTIONS:
            self._refuse_connection()
            return
        self._head_since_s = self.loop.time()  # one that never says anything has a head that is not complete
        self._tick()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        self._stop_looking()
        super().connection_lost(exc)
        self.cycle = None  # type: ignore[assignment]  # which keeps this object; who still answers, keeps both

    def data_received(self, data: bytes) -> None:
        """Refuse a head that is too long before all of it is kept."""
        if self.transport.is_closing():
            return
        if self._head_since_s is None and not self._in_message and self._between_requests():
            self._head_since_s = self.loop.time()
        if self._head_since_s is not None:
            # A body that came along with its head counts as well here, so only what was in pieces is judged yet.
            before = self._head_bytes
            self._head_bytes += len(data)
            if before > self.limits.max_header_bytes:
                self._refuse_head()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """A new request: its head begins."""
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._lines_bytes = 0
        if self._head_since_s is None:
            self._head_since_s = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Count a part of the first line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: from here on the body has its own bounds, and a request for a stream has none."""
        self._asked, self._in_head = True, False
        if not (self.parser.should_upgrade() and self._should_upgrade()):  # or that one still has to happen, in time
            self._head_since_s, self._head_bytes = None, 0
        if len(self.pipeline) >= MAX_PIPELINED:
            self._cut(f"more than {MAX_PIPELINED} of its requests wait for the answers before them")
            raise _Refused
        self.app = self._spared if self._has_no_room() else self._application
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete, too."""
        self._in_message = False
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing():
            # It was answered before; what came since has ended uvicorn's wait for the next request.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _count(self, size: int) -> None:
        self._lines_bytes += size
        if self._lines_bytes > self.limits.max_header_bytes:
            raise _Refused

    def send_400_response(self, msg: str) -> None:
        """Say what was wrong, unless the connection is closing because of it."""
        if not self.transport.is_closing():
            if self._in_head and self._lines_bytes > self.limits.max_header_bytes:
                self._refuse_head()
            else:
                super().send_400_response(msg)

    def handle_websocket_upgrade(self) -> None:
        """From here on the socket has its own bounds."""
        if self._has_no_room():
            self._refuse_connection()
        elif not self._between_requests():
            # Its answer would be written into the stream, and would wait for a body that nobody hands over any more.
            self.transport.write(raw_answer(ProtocolError(
                "expected a stream on a connection of its own, the request before it is not answered yet: open another"
            )))  # fmt: skip
            self.transport.close()
        else:
            self._stop_looking()
            super().handle_websocket_upgrade()
            self.parser = None  # type: ignore[assignment]  # as when a connection is lost, or each keeps the other

    def _has_no_room(self) -> bool:
        """Whether this connection is one too many, still."""
        self._is_beyond = self._is_beyond and len(self.connections) > self.limits.max_connections
        return self._is_beyond

    async def _spared(self, scope: Any, receive: Any, send: Any) -> None:
        """The application of a connection too many."""
        if scope["path"] in PROBE_PATHS:
            await self._application(scope, receive, send)
            return
        self.on_refused()
        error = self._too_many()
        body = to_json(error.body())
        await send({"type": "http.response.start", "status": error.http_status, "headers": headers_of(error, body)})
        await send({"type": "http.response.body", "body": body})

    def _refuse_connection(self) -> None:
        """Answer at once, in bytes: there may be no request, and the one for a stream has no application here."""
        self.on_refused()
        self.transport.write(raw_answer(self._too_many()))
        self.transport.close()

    def _too_many(self) -> TooManyConnections:
        limit, retry_after_s = self.limits.max_connections, TooManyConnections.retry_after_s
        return TooManyConnections(
            f"expected at most {limit} connections at the same time, this is one more: close those that are not used, "
            f"try again in {retry_after_s} s, or raise SPEECHQC_MAX_CONNECTIONS",
            max_connections=limit,
            retry_after_s=retry_after_s,
        )

    def _refuse_head(self) -> None:
        limit = self.limits.max_header_bytes
        error = PayloadTooLarge(
            f"expected a head of at most {limit} bytes: send fewer or shorter headers", max_bytes=limit
        )
        self.transport.write(raw_answer(error, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        self.transport.close()

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _tick(self) -> None:
        """Cut a client that is too slow; costs nothing per message."""
        limits, now_s = self.limits, self.loop.time()
        if self._head_since_s is not None and now_s - self._head_since_s > limits.header_timeout_s:
            self._cut("its request's head did not come in time")
            return
        if self._in_message and not self._in_head and self._asked and self._between_requests():
            # A request that was refused early; what is left of its body is passed over, so that its answer is read.
            self._answered_since_s = now_s if self._answered_since_s is None else self._answered_since_s
            if now_s - self._answered_since_s > limits.read_timeout_s:
                self._cut("it goes on sending what was answered already")
                return
        else:
            self._answered_since_s = None
        if self._unread.is_stuck(self.transport.get_write_buffer_size(), now_s):
            self._cut("it does not take its answer")
            return
        self._look_again(self._tick)

    def _cut(self, why: str) -> None:
        logger.info("a connection was cut: %s", why)
        self.transport.abort()


class _Refused(Exception):
    """Ends the parsing; uvicorn's class takes it for a request that cannot be parsed."""


def bounded_http_protocol(settings: Settings, on_refused: Callable[[], None]) -> type[BoundedHttpProtocol]:
    """The protocol with the limits of these settings, as `http` of uvicorn's options.

    Args:
        settings: The limits.
        on_refused: Called for each that is refused because there are too many.
    """
    bound = {"limits": ConnectionLimits.of(settings), "on_refused": staticmethod(on_refused)}
    return type("BoundGuardedHttpProtocol", (BoundedHttpProtocol,), bound)
