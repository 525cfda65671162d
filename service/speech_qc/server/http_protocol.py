"""uvicorn's HTTP protocol with the limits that it lacks: header size, time-outs, number of connections.

Without them one connection could exhaust memory with an endless header, or keep a descriptor or a response
indefinitely. Many connections could use up all descriptors; then the server accepts nothing, not even the supervisor's
health check.

uvicorn's own `limit_concurrency` is no substitute. It rejects the health check as well, so that the supervisor kills
the process with all its streams. It counts neither idle connections nor pending WebSocket upgrades, and its response
has no `Retry-After`.

This class depends on undocumented attributes of uvicorn; `tests/server/test_uvicorn_attributes.py` lists them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from speech_qc.errors import PayloadTooLarge, ProtocolError, TooManyConnections
from speech_qc.server.raw_response import headers_of, raw_response
from speech_qc.server.timeouts import ConnectionLimits, ConnectionTimeouts, SlowReaderCheck
from speech_qc.settings import RESERVED_CONNECTIONS, Settings
from speech_qc.wire.encode import to_json
from speech_qc.wire.vocabulary import PROBE_PATHS

logger = logging.getLogger("speech_qc.access")

MAX_PIPELINED = 8
"""Maximum pipelined requests per connection; each needs far more memory than its bytes."""


class BoundedHttpProtocol(ConnectionTimeouts, HttpToolsProtocol):
    """One connection; uvicorn creates the instances, so `bounded_http_protocol` binds the limits and the counter."""

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
        """Whether the headers of the first request are still incomplete."""
        return not self._asked and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the periodic check, or refuse the connection if there are far too many."""
        super().connection_made(transport)
        self._is_beyond = len(self.connections) > self.limits.max_connections
        if len(self.connections) > self.limits.max_connections + RESERVED_CONNECTIONS:
            self._refuse_connection()
            return
        self._head_since_s = self.loop.time()  # a client that never sends anything runs into the header time-out
        self._tick()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the periodic check and the keep-alive timer."""
        self._cancel_check()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves the timer, and with it this object, after a reset
        self.cycle = None  # type: ignore[assignment]  # breaks a reference cycle: the request refers to this object

    def data_received(self, data: bytes) -> None:
        """Pass data to the parser; refuse headers that are too long before all of them are buffered."""
        if self.transport.is_closing():
            return
        if self._head_since_s is None and not self._in_message and self._between_requests():
            self._head_since_s = self.loop.time()
        if self._head_since_s is not None:
            # This count includes body bytes in the same packet, so check only what arrived before this packet.
            before = self._head_bytes
            self._head_bytes += len(data)
            if before > self.limits.max_header_bytes:
                self._refuse_head()
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Pass data to the parser; a request to upgrade to anything but a WebSocket is served as HTTP/1.1.

        RFC 9110, section 7.8, lets a server ignore `Upgrade`. The parser does not: it stops after the headers, as if
        the rest were in the other protocol. So a new parser gets the headers again, without `Upgrade`, then the rest.
        """
        self._unset_keepalive_if_required()
        try:
            while True:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    if not self._ignores_upgrade():
                        break
                    data = self._head_without_upgrade() + data[upgrade.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        except httptools.HttpParserError:
            self.send_400_response("the parser rejects it")
            return
        if self._should_upgrade():
            self.handle_websocket_upgrade()
        else:
            self.send_400_response("CONNECT is for proxies")

    def _ignores_upgrade(self) -> bool:
        """Whether the parser is about to stop after the headers for an upgrade that is not to a WebSocket."""
        return self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT" and not self._should_upgrade()

    def _head_without_upgrade(self) -> bytes:
        """Return the request line and the headers of the current request, without `Upgrade`."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        return b"".join((*lines, b"\r\n"))

    def on_message_begin(self) -> None:
        """Start counting the headers of a new request."""
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._lines_bytes = 0
        if self._head_since_s is None:
            self._head_since_s = self.loop.time()

    def on_url(self, url: bytes) -> None:
        """Count a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Stop the header time-out: the body has its own limits."""
        if self._ignores_upgrade():
            return  # called again for the same request, without the upgrade
        self._asked, self._in_head = True, False
        if not (self.parser.should_upgrade() and self._should_upgrade()):  # an upgrade still has to complete in time
            self._head_since_s, self._head_bytes = None, 0
        if len(self.pipeline) >= MAX_PIPELINED:
            self._drop(f"client sent more than {MAX_PIPELINED} pipelined requests")
            raise _Refused
        self.app = self._limited_app if self._has_no_room() else self._application
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note the end of the body; restart the keep-alive time-out if the response was sent before it."""
        if self._ignores_upgrade():
            return
        self._in_message = False
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and not self.transport.is_closing():
            # The rest of the body has cancelled uvicorn's keep-alive timer.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _count(self, size: int) -> None:
        self._lines_bytes += size
        if self._lines_bytes > self.limits.max_header_bytes:
            raise _Refused

    def send_400_response(self, msg: str) -> None:
        """Send the error response, in the form of all errors, unless the connection is already closing."""
        if not self.transport.is_closing():
            if self._in_head and self._lines_bytes > self.limits.max_header_bytes:
                self._refuse_head()
            else:
                self.transport.write(raw_response(ProtocolError(
                    f"expected a valid HTTP/1.1 request ({msg}): check the client and any proxy in between"
                )))  # fmt: skip
                self.transport.close()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol, which has its own limits."""
        if self._has_no_room():
            self._refuse_connection()
        elif not self._between_requests():
            # The pending response would be written into the stream, and its handler would never get its body.
            self.transport.write(raw_response(ProtocolError(
                "expected a WebSocket upgrade without pending requests, got one before an earlier response was sent: "
                "open the stream on a new connection"
            )))  # fmt: skip
            self.transport.close()
        else:
            self._cancel_check()
            super().handle_websocket_upgrade()
            self.parser = None  # type: ignore[assignment]  # breaks a reference cycle, as in `connection_lost`

    def _has_no_room(self) -> bool:
        """Whether this connection is still above the limit."""
        self._is_beyond = self._is_beyond and len(self.connections) > self.limits.max_connections
        return self._is_beyond

    async def _limited_app(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a connection above the limit: health checks as usual, anything else an error."""
        if scope["path"] in PROBE_PATHS:
            await self._application(scope, receive, send)
            return
        self.on_refused()
        error = self._too_many()
        body = to_json(error.body())
        await send({"type": "http.response.start", "status": error.http_status, "headers": headers_of(error, body)})
        await send({"type": "http.response.body", "body": body})

    def _refuse_connection(self) -> None:
        """Write the error directly: there may be no request, and an upgrade request has no application to answer it."""
        self.on_refused()
        self.transport.write(raw_response(self._too_many()))
        self.transport.close()

    def _too_many(self) -> TooManyConnections:
        limit, retry_after_s = self.limits.max_connections, TooManyConnections.retry_after_s
        return TooManyConnections(
            f"expected at most {limit} connections at the same time, got one more: close unused connections, "
            f"try again in {retry_after_s} s, or raise SPEECHQC_MAX_CONNECTIONS",
            max_connections=limit,
            retry_after_s=retry_after_s,
        )

    def _refuse_head(self) -> None:
        limit = self.limits.max_header_bytes
        error = PayloadTooLarge(
            f"expected request headers of at most {limit} bytes: send fewer or shorter ones", max_bytes=limit
        )
        self.transport.write(raw_response(error, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        self.transport.close()

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _tick(self) -> None:
        """Drop a client that is too slow; costs nothing per message."""
        limits, now_s = self.limits, self.loop.time()
        if self._head_since_s is not None and now_s - self._head_since_s > limits.header_timeout_s:
            self._drop("request headers did not arrive in time")
            return
        if self._in_message and not self._in_head and self._asked and self._between_requests():
            # The request was refused early. The rest of its body is discarded, so that the client reads the response.
            self._answered_since_s = now_s if self._answered_since_s is None else self._answered_since_s
            if now_s - self._answered_since_s > limits.read_timeout_s:
                self._drop("client keeps sending the body of a request that was already answered")
                return
        else:
            self._answered_since_s = None
        if self._unread.is_stuck(self.transport.get_write_buffer_size(), now_s):
            self._drop("client stopped reading")
            return
        self._schedule_check(self._tick)

    def _drop(self, why: str) -> None:
        logger.info("connection dropped: %s", why)
        self.transport.abort()


class _Refused(Exception):
    """Ends the parsing; uvicorn's class treats it as an invalid request."""


def bounded_http_protocol(settings: Settings, on_refused: Callable[[], None]) -> type[BoundedHttpProtocol]:
    """Return the protocol class with the limits of these settings, for uvicorn's option `http`.

    Args:
        settings: The limits.
        on_refused: Called for each connection that is refused because there are too many.
    """
    bound = {"limits": ConnectionLimits.of(settings), "on_refused": staticmethod(on_refused)}
    return type("ConfiguredHttpProtocol", (BoundedHttpProtocol,), bound)
