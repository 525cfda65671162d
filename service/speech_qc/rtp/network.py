"""Unwraps captured packets: link layer, IP, UDP and TCP. What cannot be unwrapped is named, not guessed."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Literal, NamedTuple

Unread = Literal["link", "damaged", "fragment", "other"]
"""Why a packet holds neither: unknown link layer, lengths that contradict each other, part of a fragmented
datagram, or another protocol."""

_ETHERNET, _IP4, _IP6, _TCP, _UDP = 1, 0x0800, 0x86DD, 6, 17
_VLAN = frozenset({0x8100, 0x88A8, 0x9100})
_RAW = frozenset({12, 14, 101, 228, 229})
_SLL, _SLL2 = 113, 276
_NULL = frozenset({0, 108})
_MAX_TAGS, _MAX_EXTENSIONS = 4, 8
_FRAGMENT = 44
_EXTENSIONS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination options


class Endpoint(NamedTuple):
    """One end of a datagram or a connection.

    Attributes:
        address: 4 or 16 bytes.
        port: UDP or TCP port.
    """

    address: bytes
    port: int

    def __str__(self) -> str:
        address = ip_address(self.address)
        return f"{address}:{self.port}" if address.version == 4 else f"[{address}]:{self.port}"


class Datagram(NamedTuple):
    """A UDP datagram.

    Attributes:
        source: Where it comes from.
        target: Where it goes to.
        payload: Its content, as far as it was captured.
        is_cut: Whether the capture has only its start (snap length).
    """

    source: Endpoint
    target: Endpoint
    payload: bytes
    is_cut: bool


class Segment(NamedTuple):
    """A TCP segment.

    Attributes:
        source: Where it comes from.
        target: Where it goes to.
        sequence: Number of its first byte, 32 bits.
        payload: Its content, as far as it was captured.
    """

    source: Endpoint
    target: Endpoint
    sequence: int
    payload: bytes


Found = Datagram | Segment | Unread


def unwrap(link: int, data: bytes) -> Found:
    """Return the UDP datagram or the TCP segment of a captured packet, or why there is none.

    Args:
        link: Link type: Ethernet (with VLAN tags), Linux cooked v1 and v2, raw IP, or BSD loopback.
        data: The packet.
    """
    if link == _ETHERNET:
        return _ethernet(data)
    if link in _RAW:
        return _ip(data)
    if link == _SLL:
        return _by_type(data[14:16], data[16:])
    if link == _SLL2:
        return _by_type(data[0:2], data[20:])
    if link in _NULL:
        return _ip(data[4:])
    return "link"


def _ethernet(data: bytes) -> Found:
    at = 12
    for _ in range(_MAX_TAGS):
        kind = int.from_bytes(data[at : at + 2], "big")
        if kind not in _VLAN:
            break
        at += 4
    return _by_type(data[at : at + 2], data[at + 2 :])


def _by_type(kind: bytes, data: bytes) -> Found:
    if len(kind) < 2:
        return "damaged"
    number = int.from_bytes(kind, "big")
    if number in _VLAN:  # Linux cooked captures keep tags as well
        return _by_type(data[2:4], data[4:]) if len(data) >= 4 and data[2:4] != kind else "other"
    return _ip(data) if number in (_IP4, _IP6) else "other"


def _ip(data: bytes) -> Found:
    if not data:
        return "damaged"
    version = data[0] >> 4
    if version == 4:
        return _ip4(data)
    return _ip6(data) if version == 6 else "other"


def _ip4(data: bytes) -> Found:
    header = (data[0] & 15) * 4
    if header < 20 or len(data) < header:
        return "damaged"
    total, fragment = struct.unpack_from(">2xH2xH", data)
    if fragment & 0x3FFF:  # an offset, or more to come
        return "fragment" if data[9] == _UDP else "other"
    if total and total < header:
        return "damaged" if data[9] == _UDP else "other"
    # The network card may have to fill in the length; then it is 0. Short frames are padded beyond it.
    return _transport(data[9], data[12:16], data[16:20], data[header : total or len(data)])


def _ip6(data: bytes) -> Found:
    if len(data) < 40:
        return "damaged"
    length, kind = struct.unpack_from(">4xHB", data)
    rest = data[40 : 40 + length] if length else data[40:]
    for _ in range(_MAX_EXTENSIONS):
        if kind in (_UDP, _TCP):
            return _transport(kind, data[8:24], data[24:40], rest)
        if len(rest) < 8:
            return "damaged" if kind in _EXTENSIONS or kind == _FRAGMENT else "other"
        if kind == _FRAGMENT:
            if struct.unpack_from(">H", rest, 2)[0] & 0xFFF9:
                return "fragment" if rest[0] == _UDP else "other"
            kind, rest = rest[0], rest[8:]
        elif kind in _EXTENSIONS:
            kind, rest = rest[0], rest[(rest[1] + 1) * 8 :]
        else:
            return "other"
    return "other"


def _transport(kind: int, source: bytes, target: bytes, data: bytes) -> Found:
    if kind == _UDP:
        return _udp(source, target, data)
    return _tcp(source, target, data) if kind == _TCP else "other"


def _tcp(source: bytes, target: bytes, data: bytes) -> Found:
    if len(data) < 20:
        return "other"
    source_port, target_port, sequence, offset = struct.unpack_from(">HHI4xB", data)
    payload = data[(offset >> 4) * 4 :]
    return Segment(Endpoint(source, source_port), Endpoint(target, target_port), sequence, payload)


def _udp(source: bytes, target: bytes, data: bytes) -> Found:
    if len(data) < 8:
        return "damaged"
    source_port, target_port, length = struct.unpack_from(">HHH", data)
    if length and length < 8:
        return "damaged"
    payload = data[8 : length or len(data)]
    return Datagram(Endpoint(source, source_port), Endpoint(target, target_port), payload, len(data) < length)
