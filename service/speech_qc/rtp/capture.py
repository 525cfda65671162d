"""Reads packet captures (pcap and pcapng) packet by packet, in constant memory.

Written here because no reader was found that can be given a hostile file: dpkt passes the lengths that a file declares
to `read`, also negative ones, and takes the link type of the first interface for all packets of a pcapng file.
Sources: libpcap's pcap-savefile(5); draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from speech_qc.errors import InvalidAudio

MAGIC_BYTES = 4
"""Bytes at the start of a file that `is_capture` needs."""

MAX_PACKET_BYTES = 1 << 18
"""Longest packet, as in libpcap; a longer one means that the file is damaged."""

_MAX_INTERFACES = 1024
_SKIP_BYTES = 1 << 16
_MICRO, _NANO = 1000, 1
_PCAP: dict[bytes, tuple[str, int]] = {
    b"\xa1\xb2\xc3\xd4": (">", _MICRO),
    b"\xd4\xc3\xb2\xa1": ("<", _MICRO),
    b"\xa1\xb2\x3c\x4d": (">", _NANO),
    b"\x4d\x3c\xb2\xa1": ("<", _NANO),
}
"""Byte order, and nanoseconds per unit of the fraction, by magic number."""
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _PACKET = 0x0A0D0D0A, 1, 2, 3, 6
_PCAPNG = b"\x0a\x0d\x0d\x0a"
_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_NO_LINK = -1


def is_capture(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a packet capture."""
    return head[:MAGIC_BYTES] in _PCAP or head[:MAGIC_BYTES] == _PCAPNG


class Captured(NamedTuple):
    """One packet.

    Attributes:
        time_ns: When it was captured, nanoseconds.
        link: Link type of its interface (LINKTYPE_…).
        data: Its bytes, at most `MAX_PACKET_BYTES`.
    """

    time_ns: int
    link: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Interface:
    link: int
    units_per_s: int
    offset_s: int
    snap_bytes: int


class _Damaged(Exception):
    """The file cannot be followed any further."""


class CaptureFile:
    """The packets of a capture, in the order of the file; iterated once.

    Args:
        file: The capture, at its start; only `read` is used, never for more than `MAX_PACKET_BYTES`.

    Raises:
        InvalidAudio: The file is not a capture, or its header is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.fault: str | None = None
        """Why the file could not be read to its end; known after the iteration."""
        self.damaged_blocks = 0
        """Blocks of a pcapng file that were skipped because their lengths contradict each other."""
        self.bytes_read = 0
        self._file = file
        try:
            head = self._take(MAGIC_BYTES)
            if head in _PCAP:
                self._packets = self._read_pcap(*_PCAP[head])
            elif head == _PCAPNG:
                self._packets = self._read_pcapng()
            else:
                raise InvalidAudio(
                    f"expected a capture in the format pcap or pcapng, got first bytes {head!r}: "
                    "save the packets with tcpdump or Wireshark"
                )
        except _Damaged as error:
            raise InvalidAudio(f"expected a capture, got an incomplete header ({error}): save it again") from error

    def __iter__(self) -> Iterator[Captured]:
        """Yield the packets; a fault ends the iteration and is kept as `fault`."""
        try:
            yield from self._packets
        except _Damaged as error:
            self.fault = str(error)

    def _take(self, count: int) -> bytes:
        """Read exactly this many bytes."""
        data = self._file.read(count)
        while len(data) < count:  # a raw file or a pipe may return less
            more = self._file.read(count - len(data))
            if not more:
                raise _Damaged(f"it ends within a record, after byte {self.bytes_read + len(data)}")
            data += more
        self.bytes_read += count
        return data

    def _start(self, count: int) -> bytes | None:
        """Read the start of a record; None at the end of the file."""
        first = self._file.read(1)
        if not first:
            return None
        self.bytes_read += 1
        return first + self._take(count - 1)

    def _read_pcap(self, order: str, unit_ns: int) -> Iterator[Captured]:
        link = struct.unpack(order + "I", self._take(20)[16:])[0] & 0xFFFF  # above: the length of frame checksums
        record = struct.Struct(order + "IIII")
        return self._pcap_packets(record, link, unit_ns)

    def _pcap_packets(self, record: struct.Struct, link: int, unit_ns: int) -> Iterator[Captured]:
        while (head := self._start(16)) is not None:
            seconds, fraction, captured, _ = record.unpack(head)
            if captured > MAX_PACKET_BYTES:
                raise _Damaged(f"a packet of {captured} bytes is declared before byte {self.bytes_read}")
            yield Captured(seconds * 1_000_000_000 + fraction * unit_ns, link, self._take(captured))

    def _read_pcapng(self) -> Iterator[Captured]:
        order = self._read_section(self._take(4))
        return self._pcapng_packets(order)

    def _read_section(self, length: bytes) -> str:
        """Read a section header after its type; return the byte order of the section."""
        order = _ORDERS.get(self._take(4))
        if order is None:
            raise _Damaged(f"no byte order before byte {self.bytes_read}")
        count: int = struct.unpack(order + "I", length)[0]
        if count < 28 or count % 4:
            raise _Damaged(f"a section header of {count} bytes before byte {self.bytes_read}")
        self._skip(count - 12)
        return order

    def _pcapng_packets(self, order: str) -> Iterator[Captured]:
        interfaces: list[_Interface] = []
        while (head := self._start(8)) is not None:
            if head[:4] == _PCAPNG:
                order, interfaces = self._read_section(head[4:]), []
                continue
            kind, count = struct.unpack(order + "II", head)
            if count < 12 or count % 4:
                raise _Damaged(f"a block of {count} bytes is declared before byte {self.bytes_read}")
            rest = count - 12
            if kind not in (_INTERFACE, _OLD_PACKET, _SIMPLE, _PACKET):
                self._skip(rest + 4)
                continue
            if rest > MAX_PACKET_BYTES + _SKIP_BYTES:
                raise _Damaged(f"a block of {count} bytes is declared before byte {self.bytes_read}")
            body = self._take(rest)
            self._skip(4)
            if kind == _INTERFACE:
                if len(interfaces) >= _MAX_INTERFACES:
                    raise _Damaged(f"more than {_MAX_INTERFACES} interfaces")
                interfaces.append(_interface(order, body))
                continue
            packet = _packet(order, kind, body, interfaces)
            if packet is None:
                self.damaged_blocks += 1
            else:
                yield packet

    def _skip(self, count: int) -> None:
        while count > 0:
            count -= len(self._take(min(count, _SKIP_BYTES)))


def _interface(order: str, body: bytes) -> _Interface:
    """Read the description of an interface; one that is damaged stands for a link that nothing reads."""
    if len(body) < 8:
        return _Interface(_NO_LINK, 1_000_000, 0, 0)
    link, _, snap_bytes = struct.unpack_from(order + "HHI", body)
    units_per_s, offset_s, at = 1_000_000, 0, 8
    while at + 4 <= len(body):
        code, count = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + count]
        if code == 0 or len(value) < count:
            break
        if code == 9 and count == 1:
            power = value[0] & 0x7F
            units_per_s = 2 ** min(power, 63) if value[0] & 0x80 else 10 ** min(power, 18)
        elif code == 14 and count == 8:
            offset_s = struct.unpack(order + "q", value)[0]
        at += 4 + (count + 3) // 4 * 4
    return _Interface(link, units_per_s, offset_s, snap_bytes)


def _packet(order: str, kind: int, body: bytes, interfaces: list[_Interface]) -> Captured | None:
    """Read a block with a packet; None if it is damaged."""
    if kind == _SIMPLE:  # without a time: such a file has no arrival times at all
        if len(body) < 4 or not interfaces:
            return None
        length = struct.unpack_from(order + "I", body)[0]
        snap = interfaces[0].snap_bytes or length
        data = body[4 : 4 + min(length, snap)]
        return Captured(0, interfaces[0].link, data)
    if len(body) < 20:
        return None
    if kind == _PACKET:
        number, high, low, count = struct.unpack_from(order + "IIII", body)
    else:
        number, _, high, low, count = struct.unpack_from(order + "HHIII", body)
    data = body[20 : 20 + count]
    if number >= len(interfaces) or len(data) < count or count > MAX_PACKET_BYTES:
        return None
    interface = interfaces[number]
    units = high << 32 | low
    time_ns = interface.offset_s * 1_000_000_000 + units * 1_000_000_000 // interface.units_per_s
    return Captured(time_ns, interface.link, data)
