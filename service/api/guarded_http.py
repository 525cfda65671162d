"""uvicorn's HTTP protocol with bounds that it lacks, on the head of a request and on a client that does not read.

Without them one connection could fill the memory with a header without an end, or hold a descriptor or an answer for
ever. It builds on attributes of uvicorn's class that are not documented; `tests/faults/test_slow_clients.py` fails when
they change.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import Settings

logger = logging.getLogger("service.access")

LOOKS = 4
"""Looks at a connection within its shortest time-out."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of a connection; see the settings of the same names."""

    max_header_bytes: int
    header_timeout_s: float
    read_timeout_s: float

    @classmethod
    def of(cls, settings: Settings) -> ConnectionLimits:
        """As the settings say."""
        return cls(settings.max_header_bytes, settings.header_timeout_s, settings.read_timeout_s)


class GuardedHttpProtocol(HttpToolsProtocol):
    """One connection; `guarded` binds the limits, since uvicorn makes the objects."""

    limits: ConnectionLimits

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = self._lines_bytes = 0
        self._in_head = self._asked = False
        self._head_since_s: float | None = None
        self._unsent_bytes, self._unsent_since_s = 0, 0.0
        self._look: asyncio.TimerHandle | None = None

    @property
    def is_new(self) -> bool:
        """Whether the head of its first request has not come yet."""
        return not self._asked and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look at the connection."""
        super().connection_made(transport)
        self._head_since_s = self.loop.time()  # one that never says anything has a head that is not complete
        self._tick()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking."""
        self._stop_looking()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Refuse a head that is too long before all of it is kept."""
        if self._head_since_s is None and not self._in_head and self._between_requests():
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
        self._in_head = True
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
        """The head is complete: from here on the body has its own bounds."""
        self._asked, self._in_head, self._head_since_s, self._head_bytes = True, False, None, 0
        super().on_headers_complete()

    def _count(self, size: int) -> None:
        self._lines_bytes += size
        if self._lines_bytes > self.limits.max_header_bytes:
            raise _HeadTooLong

    def send_400_response(self, msg: str) -> None:
        """Say what was wrong, unless the connection is closing because of it."""
        if not self.transport.is_closing():
            if self._in_head and self._lines_bytes > self.limits.max_header_bytes:
                self._refuse_head()
            else:
                super().send_400_response(msg)

    def handle_websocket_upgrade(self) -> None:
        """From here on the socket has its own bounds."""
        self._stop_looking()
        super().handle_websocket_upgrade()

    def _refuse_head(self) -> None:
        text = (
            f'{{"error":{{"code":"payload_too_large","message":"expected a head of at most '
            f'{self.limits.max_header_bytes} bytes: send fewer or shorter headers","detail":{{}},"request_id":null}}}}'
        )
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text.encode())
        )
        self.transport.close()

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _tick(self) -> None:
        """Cut a client that is too slow; costs nothing per message."""
        limits, now_s = self.limits, self.loop.time()
        if self._head_since_s is not None and now_s - self._head_since_s > limits.header_timeout_s:
            self._cut("its request's head did not come in time")
            return
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent_bytes:
            self._unsent_since_s = now_s
        elif now_s - self._unsent_since_s > limits.read_timeout_s:
            self._cut("it does not take its answer")
            return
        self._unsent_bytes = unsent
        self._look = self.loop.call_later(min(limits.header_timeout_s, limits.read_timeout_s) / LOOKS, self._tick)

    def _cut(self, why: str) -> None:
        logger.info("a connection was cut: %s", why)
        self.transport.abort()

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None


class _HeadTooLong(Exception):
    """Ends the parsing of a head; uvicorn's class takes it for a request that cannot be parsed."""


def guarded(settings: Settings) -> type[GuardedHttpProtocol]:
    """The protocol with the limits of these settings, as `http` of uvicorn's options."""
    return type("BoundGuardedHttpProtocol", (GuardedHttpProtocol,), {"limits": ConnectionLimits.of(settings)})
