"""Gives every packet of a stream its place in time: what is sound, what is not received, and why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from speech_qc.rtp.codecs import Codec
from speech_qc.rtp.figures import Drift, Jitter
from speech_qc.rtp.packets import RtpPacket
from speech_qc.wire.vocabulary import GapKind

TOLERANCE_S = 0.005
"""A timestamp may differ this much from the end of the sound before it; encoders of gateways round."""

MAX_STRAY_S = 5.0
"""A timestamp may jump this far unchecked; a longer jump that arrival contradicts is a reset of the sender's clock."""

_EVENT_KEYS = "0123456789*#ABCD"
_OPUS_DTX_BYTES = 2


class Sound(NamedTuple):
    """A packet to decode.

    Attributes:
        codec: How.
        payload: Its bytes.
        ticks: Its length on the clock of its codec.
        skip: Ticks at its start that were received before.
    """

    codec: Codec
    payload: bytes
    ticks: int
    skip: int


class Missing(NamedTuple):
    """A time without sound.

    Attributes:
        kind: `loss`, or `dtx` if nothing was sent (discontinuous transmission).
        seconds: Its length.
    """

    kind: GapKind
    seconds: float


class Keys(NamedTuple):
    """A telephone key that was pressed (RFC 4733)."""

    key: str


Entry = Sound | Missing | Keys


@dataclass(slots=True)
class Counts:
    """Totals of a stream; `ordering` counts what is lost, late and doubled."""

    packets: int = 0
    comfort: int = 0
    events: int = 0
    marked: int = 0
    cut: int = 0
    unread: int = 0
    overlapping: int = 0
    clock_resets: int = 0
    types: dict[int, int] = field(default_factory=dict)


class Timeline:
    """The time axis of one stream.

    Timestamps decide; arrival decides where the sender's clock was reset: where timestamps jump further than
    `MAX_STRAY_S` and arrival contradicts them, or where they go back by a packet or more.

    A contiguous sequence with a jump of the timestamps is discontinuous transmission. Where numbers are missing, as
    many packets as are missing are loss, and any time beyond them is discontinuous transmission.

    Args:
        codec_of: Explains payload types.
    """

    def __init__(self, codec_of: Callable[[int], Codec]) -> None:
        self.counts = Counts()
        self.jitter, self.drift = Jitter(), Drift()
        self._codec_of = codec_of
        self._missing = 0  # packets since the last sound
        self._end: int | None = None  # timestamp at the end of the sound so far
        self._clock_hz = 0
        self._packet_s = 0.02  # of the last packet with sound
        self._start_ns = self._last_ns = 0
        self._position_s = 0.0
        self._arrival = _Arrival()
        self._event: int | None = None

    @property
    def start_ns(self) -> int:
        """When the first packet with sound was captured; 0 before it."""
        return self._start_ns

    def arrive(self, packet: RtpPacket) -> None:
        """Count a packet when it arrives, in whatever order."""
        counts = self.counts
        counts.packets += 1
        counts.types[packet.payload_type] = counts.types.get(packet.payload_type, 0) + 1
        counts.marked += packet.is_marked
        codec = self._codec_of(packet.payload_type)
        if codec.kind in ("audio", "unread") and codec.clock_hz:  # the packets of an event share a timestamp
            self._arrival.add(packet, codec.clock_hz, self.jitter)

    def place(self, missing: int, packet: RtpPacket) -> list[Entry]:
        """Take a packet in order.

        Args:
            missing: Packets that are missing before it.
            packet: The packet.

        Returns:
            What it adds to the time axis, in order.
        """
        self._missing += missing
        codec = self._codec_of(packet.payload_type)
        if codec.kind == "comfort":
            self.counts.comfort += 1
            return []
        if codec.kind == "events":
            return self._key(packet)
        ticks = self._length(codec, packet)
        if ticks == 0:  # not decoded, or damaged: its time will be missing
            self._missing += 1
            self.counts.unread += 1
            return []
        entries: list[Entry] = [*self._gap(codec, packet, ticks)]
        assert self._end is not None
        clock = codec.clock_hz
        back = -_signed(packet.timestamp - self._end)
        skip = back if back > TOLERANCE_S * clock else 0
        self.counts.overlapping += skip > 0
        self._clock_hz, self._packet_s, self._last_ns, self._missing = clock, ticks / clock, packet.time_ns, 0
        self._end = (self._end + ticks - skip) & 0xFFFFFFFF
        self.drift.add(self._position_s, (packet.time_ns - self._start_ns) * 1e-9)
        seconds = (ticks - skip) / clock
        self._position_s += seconds
        if packet.is_cut:
            self.counts.cut += 1
            entries.append(Missing("loss", seconds))
        elif codec.name == "opus" and len(packet.payload) <= _OPUS_DTX_BYTES:
            self.counts.comfort += 1
            entries.append(Missing("dtx", seconds))
        else:
            whole = packet.payload[: ticks * 2 * codec.channels] if codec.name == "L16" else packet.payload
            entries.append(Sound(codec, whole, ticks, skip))
        return entries

    def _length(self, codec: Codec, packet: RtpPacket) -> int:
        """Ticks of a packet; if the capture has only its start, as many as the packet before it."""
        if codec.kind == "unread":
            return 0
        if packet.is_cut and codec.name != "opus":
            return round(self._packet_s * codec.clock_hz)
        return codec.ticks(packet.payload)

    def _gap(self, codec: Codec, packet: RtpPacket, ticks: int) -> list[Missing]:
        """Return what is missing before a packet, and move the time axis to it.

        Afterwards, the time axis ends at the packet, less than `TOLERANCE_S` before it, or within it.
        """
        if self._end is None:
            self._end, self._start_ns = packet.timestamp, packet.time_ns
            return []
        clock = codec.clock_hz
        step = _signed(packet.timestamp - self._end)
        step_s = step / clock
        arrived_s = (packet.time_ns - self._last_ns) * 1e-9 - self._packet_s
        lost_s = self._missing * self._packet_s
        contradiction_s = abs(step_s - max(arrived_s, 0.0))
        if contradiction_s > MAX_STRAY_S:
            self.drift.skip()  # one of both clocks has jumped
        is_reset = step <= -ticks or (abs(step_s) > MAX_STRAY_S and contradiction_s > MAX_STRAY_S)
        if is_reset or clock != self._clock_hz:
            self.counts.clock_resets += clock == self._clock_hz
            self.drift.skip()
            step_s = arrived_s if arrived_s > self._packet_s + TOLERANCE_S else min(lost_s, MAX_STRAY_S)
        elif step_s <= TOLERANCE_S:
            return []
        self._end = packet.timestamp
        self._position_s += step_s
        if lost_s and step_s - lost_s <= TOLERANCE_S:
            lost_s = step_s
        gaps = Missing("loss", min(lost_s, step_s)), Missing("dtx", step_s - min(lost_s, step_s))
        return [gap for gap in gaps if gap.seconds > 0]

    def _key(self, packet: RtpPacket) -> list[Entry]:
        """Read a telephone event; its packets repeat, with the same timestamp."""
        self.counts.events += 1
        if len(packet.payload) < 4 or packet.payload[0] >= len(_EVENT_KEYS) or packet.timestamp == self._event:
            return []
        self._event = packet.timestamp
        return [Keys(_EVENT_KEYS[packet.payload[0]])]


class _Arrival:
    """Extends the timestamps of packets in order of arrival, for the jitter."""

    def __init__(self) -> None:
        self._last: tuple[int, RtpPacket] | None = None
        self._clock_hz = 0

    def add(self, packet: RtpPacket, clock_hz: int, jitter: Jitter) -> None:
        extended = packet.timestamp
        if clock_hz != self._clock_hz:  # another codec
            self._clock_hz, self._last = clock_hz, None
            jitter.skip()
        if self._last is not None:
            before, last = self._last
            step = _signed(packet.timestamp - last.timestamp)
            extended = before + step
            if abs(step / clock_hz - (packet.time_ns - last.time_ns) * 1e-9) > MAX_STRAY_S:
                jitter.skip()
        self._last = (extended, packet)
        jitter.add(packet.time_ns, extended / clock_hz)


def _signed(difference: int) -> int:
    """Read the difference of two timestamps modulo 2**32 as a signed number."""
    return ((difference + 0x80000000) & 0xFFFFFFFF) - 0x80000000
