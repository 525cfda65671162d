"""Recognises RTP streams among UDP datagrams; nothing in a datagram says that it is RTP.

Packets with the same addresses and SSRC are a stream when several of them have close, distinct sequence numbers, a
possible payload type, and timestamps that advance. Until then they wait, within bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from speech_qc.rtp.codecs import is_possible
from speech_qc.rtp.network import Datagram, Endpoint
from speech_qc.rtp.packets import RtpPacket, parse_rtp

MIN_PACKETS = 4
"""Packets that make a stream, unless SIP has announced it; then one is enough."""

_MAX_SPREAD = 40  # of their sequence numbers
_MAX_CANDIDATES, _MAX_CANDIDATE_BYTES = 4096, 4 << 20
_MAX_PACKETS = 16  # duplicates do not count towards `MIN_PACKETS`


class StreamKey(NamedTuple):
    """What identifies a stream."""

    source: Endpoint
    target: Endpoint
    ssrc: int


class _Candidate:
    def __init__(self) -> None:
        self.packets: list[RtpPacket] = []

    def add(self, packet: RtpPacket) -> int:
        """Keep a packet; return by how many bytes this grows."""
        grown = len(packet.payload) + 100
        self.packets.append(packet)
        if len(self.packets) > _MAX_PACKETS:
            grown -= len(self.packets.pop(0).payload) + 100
        return grown

    @property
    def bytes(self) -> int:
        return sum(len(packet.payload) + 100 for packet in self.packets)

    @property
    def is_stream(self) -> bool:
        recent = {packet.sequence: packet for packet in self.packets}
        if len(recent) < MIN_PACKETS:
            return False
        newest = self.packets[-1].sequence
        near = [
            packet
            for number, packet in recent.items()
            if abs(((number - newest + 0x8000) & 0xFFFF) - 0x8000) <= _MAX_SPREAD
        ]
        return len(near) >= MIN_PACKETS and len({packet.timestamp for packet in near}) >= MIN_PACKETS // 2


class StreamFinder:
    """Sorts datagrams into streams."""

    def __init__(self) -> None:
        self.rtcp = self.other = 0
        """Datagrams of RTCP, and those that are no RTP."""
        self._known: set[StreamKey] = set()
        self._candidates: OrderedDict[StreamKey, _Candidate] = OrderedDict()
        self._bytes = 0

    @property
    def waiting(self) -> int:
        """Packets that are in no stream yet."""
        return sum(len(candidate.packets) for candidate in self._candidates.values())

    def sort(self, time_ns: int, found: Datagram, *, is_announced: bool) -> tuple[StreamKey, list[RtpPacket]] | None:
        """Take a datagram.

        Args:
            time_ns: When it was captured.
            found: The datagram.
            is_announced: Whether SIP has named one of its ends.

        Returns:
            The stream and its packets, several when it has just been recognised; None if there are none yet.
        """
        data = found.payload
        if len(data) < 12 or data[0] >> 6 != 2:
            self.other += 1
            return None
        if 192 <= data[1] <= 223:
            self.rtcp += 1
            return None
        packet = parse_rtp(time_ns, data, found.is_cut)
        if packet is None:
            self.other += 1
            return None
        key = StreamKey(found.source, found.target, packet.ssrc)
        if key in self._known:
            return key, [packet]
        if is_announced:
            self._known.add(key)
            return key, [packet]
        if not is_possible(packet.payload_type):
            self.other += 1
            return None
        return self._wait(key, packet)

    def _wait(self, key: StreamKey, packet: RtpPacket) -> tuple[StreamKey, list[RtpPacket]] | None:
        candidate = self._candidates.setdefault(key, _Candidate())
        self._candidates.move_to_end(key)
        self._bytes += candidate.add(packet)
        if candidate.is_stream:
            del self._candidates[key]
            self._bytes -= candidate.bytes
            self._known.add(key)
            return key, candidate.packets
        while len(self._candidates) > _MAX_CANDIDATES or self._bytes > _MAX_CANDIDATE_BYTES:
            _, dropped = self._candidates.popitem(last=False)
            self._bytes -= dropped.bytes
            self.other += len(dropped.packets)
        return None
