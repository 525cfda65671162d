"""SIP over TCP: messages are cut out of the segments of a connection, since one may fill several (RFC 3261, 18.3)."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from speech_qc.rtp.network import Endpoint, Segment

_START = re.compile(rb"(?:SIP/2\.0 \d{3} |[A-Z]{3,16} (?:sips?|tel):)")
_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*:[ \t]*(\d{1,6})[ \t]*\r\n", re.IGNORECASE)
_MIN_BYTES = 24
"""So many bytes show whether they are the start of a message."""
_MAX_BYTES = 65_536
_MAX_CONNECTIONS = 1024
_TLS_PORT = 5061
_TLS_HANDSHAKE = b"\x16\x03"


class _Unfinished(NamedTuple):
    """The start of a message, and the sequence number of the byte that comes next."""

    data: bytes
    following: int


class SipOverTcp:
    """Reads SIP from TCP segments in the order of their arrival.

    Args:
        learn: Takes a whole message.
    """

    def __init__(self, learn: Callable[[bytes], object]) -> None:
        self._learn = learn
        self._unfinished: OrderedDict[tuple[Endpoint, Endpoint], _Unfinished] = OrderedDict()
        self.lost = 0
        """Messages of which a part is missing; see `unread`."""
        self.encrypted = 0
        """Handshakes of SIP over TLS."""

    @property
    def unread(self) -> int:
        """Messages that are not whole so far."""
        return self.lost + len(self._unfinished)

    def take(self, segment: Segment) -> None:
        """Take a segment."""
        data, way = segment.payload, (segment.source, segment.target)
        if not data:
            return
        before = self._unfinished.get(way)
        if before is not None and segment.sequence == before.following:
            del self._unfinished[way]
            data = before.data + data
        elif _START.match(data) is None:
            is_tls = _TLS_PORT in (segment.source.port, segment.target.port) and data.startswith(_TLS_HANDSHAKE)
            self.encrypted += is_tls
            return
        elif before is not None:  # the rest of the message before has not been captured, or comes out of order
            del self._unfinished[way]
            self.lost += before.data != data  # not if the same is sent again
        rest = self._cut_out(data)
        if rest:
            self._keep(way, _Unfinished(rest, segment.sequence + len(segment.payload) & 0xFFFFFFFF))

    def _cut_out(self, data: bytes) -> bytes:
        """Read whole messages; return the start of one that is not whole."""
        while _START.match(data) is not None:
            head, found, _ = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head + b"\r\n")
            size = len(head) + 4 + (int(length[1]) if length is not None else 0)
            if not found or len(data) < size:
                return data
            self._learn(data[:size])
            data = data[size:].lstrip(b"\r\n")  # line ends between messages keep a connection open
        return data if len(data) < _MIN_BYTES else b""

    def _keep(self, way: tuple[Endpoint, Endpoint], unfinished: _Unfinished) -> None:
        if len(unfinished.data) > _MAX_BYTES:
            self.lost += 1
            return
        self._unfinished[way] = unfinished
        if len(self._unfinished) > _MAX_CONNECTIONS:
            self._unfinished.popitem(last=False)
            self.lost += 1
