"""The part of WebSocket (RFC 6455) that a load client needs, as cheap per message as Python allows.

This code handles thousands of messages a second on the same cores as the server under test. A library for the whole
protocol would use a large part of the capacity that it is meant to measure.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

from speech_qc.client.credentials import bearer

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FINAL = 0x80
NO_MASK = b"\0\0\0\0"
"""Clients must mask; with a key of zeros the bytes stay unchanged, so that one frame can be sent on all streams."""

HEAD_END = b"\r\n\r\n"


def client_frame(kind: int, payload: bytes) -> bytes:
    """Return a complete client frame."""
    size = len(payload)
    if size < 126:
        head = bytes((FINAL | kind, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((FINAL | kind, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((FINAL | kind, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + NO_MASK + payload


def upgrade_request(url: str, api_key: str | None = None) -> bytes:
    """Return the request for the WebSocket upgrade, with an API key if there is one."""
    parts = urlsplit(url)
    key = base64.b64encode(os.urandom(16)).decode()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    keys = "".join(f"{name}: {value}\r\n" for name, value in bearer(api_key).items())
    return (
        f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{keys}\r\n"
    ).encode()


class FrameSocket(asyncio.Protocol):
    """One connection of a client.

    Args:
        request: Result of `upgrade_request`.
        on_text: Called with each text message.
        on_end: Called once, with the close code (1006 without a close frame) and the reason.
    """

    def __init__(self, request: bytes, on_text: Callable[[bytes], None], on_end: Callable[[int, str], None]) -> None:
        self._request, self._on_text, self._on_end = request, on_text, on_end
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._open = self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request the upgrade."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class has the methods but not the base class
        self._transport.write(self._request)

    def write(self, frame: bytes) -> None:
        """Send a frame; data that the server does not read yet is buffered in memory."""
        if self._transport is not None and not self._ended:
            self._transport.write(frame)

    def abort(self) -> None:
        """Abort the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Split the received data into frames."""
        if self._rest:
            data = self._rest + data
        if not self._open:
            head, found, rest = data.partition(HEAD_END)
            if not found:
                self._rest = data
                return
            status = head.split(b"\r\n", 1)[0].decode("latin-1")
            if " 101 " not in f"{status} ":
                self._end(1006, f"expected 101 Switching Protocols, got {status!r}")
                return
            self._open, data = True, rest
        position, size = 0, len(data)
        while size - position >= 2:
            length, start = data[position + 1], position + 2
            if length == 126:
                length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif length == 127:
                length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            end = start + length
            if end > size:
                break
            kind = data[position]
            if kind == FINAL | TEXT:
                self._on_text(data[start:end])
            else:
                self._other(kind, data[start:end])
            position = end
        self._rest = data[position:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end of the connection, unless there was a close frame."""
        self._end(1006, str(exc) if exc else "the connection was lost")

    def _other(self, kind: int, payload: bytes) -> None:
        if kind == FINAL | PING:
            self.write(client_frame(PONG, payload))
        elif kind == FINAL | CLOSE:
            self.write(client_frame(CLOSE, payload[:2]))
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            self._end(code, payload[2:].decode(errors="replace"))
        elif kind != FINAL | PONG:
            self._end(1006, f"expected unfragmented text messages, got a frame that begins with 0x{kind:02x}")

    def _end(self, code: int, reason: str) -> None:
        if self._ended:
            return
        self._ended = True
        if self._transport is not None:
            self._transport.close()
        self._on_end(code, reason)
