"""The header of an RTP packet (RFC 3550, 5.1)."""

from __future__ import annotations

import struct
from typing import NamedTuple

_HEADER = struct.Struct(">BBHII")
_MAX_PAYLOAD_BYTES = 9000  # a jumbo frame


class RtpPacket(NamedTuple):
    """One packet.

    Attributes:
        time_ns: When it was captured.
        payload_type: 0 to 127.
        is_marked: The marker bit: after a pause, the first packet with sound.
        sequence: 16 bits; `ordering` extends it so that it never wraps.
        timestamp: 32 bits, in units of the codec's clock.
        ssrc: The source.
        payload: Without header, extensions and padding.
        is_cut: Whether the capture lacks the end of the payload.
    """

    time_ns: int
    payload_type: int
    is_marked: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    is_cut: bool


def parse_rtp(time_ns: int, data: bytes, is_cut: bool) -> RtpPacket | None:
    """Return the packet in a datagram; None if its header contradicts itself."""
    if len(data) < 12:
        return None
    first, second, sequence, timestamp, ssrc = _HEADER.unpack_from(data)
    if first >> 6 != 2:
        return None
    start, stop = 12 + 4 * (first & 15), len(data)
    if first & 0x10:
        if len(data) < start + 4:
            return None
        start += 4 + 4 * struct.unpack_from(">H", data, start + 2)[0]
    if first & 0x20 and not is_cut:
        padding = data[-1]
        if padding == 0:
            return None
        stop -= padding
    if start > stop or stop - start > _MAX_PAYLOAD_BYTES:
        return None
    return RtpPacket(time_ns, second & 127, second > 127, sequence, timestamp, ssrc, data[start:stop], is_cut)
