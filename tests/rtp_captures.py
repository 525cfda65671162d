"""Packet captures with RTP streams of which every packet is known; dpkt writes them."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import dpkt
import numpy as np

from signals import Float32
from speech_qc.audio.g711 import encode_alaw, encode_mulaw

A, B = ("192.0.2.1", 16384), ("192.0.2.2", 20000)
START_S = 1_700_000_000.0


@dataclass(frozen=True)
class Sent:
    """One RTP packet on the wire."""

    at_s: float
    sequence: int
    timestamp: int
    payload: bytes
    payload_type: int = 0
    marker: bool = False
    ssrc: int = 0x1234ABCD
    source: tuple[str, int] = A
    target: tuple[str, int] = B

    def rtp(self) -> bytes:
        """The packet."""
        head = bytes([0x80, self.marker << 7 | self.payload_type])
        head += (self.sequence & 0xFFFF).to_bytes(2, "big") + (self.timestamp & 0xFFFFFFFF).to_bytes(4, "big")
        return head + self.ssrc.to_bytes(4, "big") + self.payload


def sent(
    payloads: Iterable[bytes],
    ticks: int = 160,
    *,
    clock_hz: int = 8000,
    payload_type: int = 0,
    sequence: int = 100,
    timestamp: int = 5000,
    ssrc: int = 0x1234ABCD,
    source: tuple[str, int] = A,
    target: tuple[str, int] = B,
    start_s: float = 0.0,
) -> list[Sent]:
    """Send payloads at a steady pace."""
    return [
        Sent(
            start_s + i * ticks / clock_hz,
            sequence + i,
            timestamp + i * ticks,
            payload,
            payload_type,
            i == 0,
            ssrc,
            source,
            target,
        )
        for i, payload in enumerate(payloads)
    ]


def mulaw(samples: Float32, count: int = 160) -> list[bytes]:
    """Encode 8 kHz samples as payloads of `count` bytes."""
    return _pieces(encode_mulaw(samples).tobytes(), count)


def alaw(samples: Float32, count: int = 160) -> list[bytes]:
    """Encode 8 kHz samples as payloads of `count` bytes."""
    return _pieces(encode_alaw(samples).tobytes(), count)


def linear16(samples: Float32, count: int = 320) -> list[bytes]:
    """Encode samples as payloads of `count` samples."""
    return _pieces((samples * 32767).astype(">i2").tobytes(), 2 * count)


def _pieces(data: bytes, count: int) -> list[bytes]:
    return [data[i : i + count] for i in range(0, len(data) - count + 1, count)]


def encoded_packets(codec: str, samples: Float32, rate_hz: int, options: dict[str, str] | None = None) -> list[bytes]:
    """Encode with FFmpeg: G.722 in packets of 20 ms, or Opus."""
    import av
    from av.audio.codeccontext import AudioCodecContext

    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, AudioCodecContext)
    context.sample_rate, context.layout, context.format = rate_hz, "mono", "s16"
    context.options = options or {}
    context.open()
    count = context.frame_size or rate_hz // 50
    found: list[bytes] = []
    for start in range(0, len(samples) - count + 1, count):
        block = (samples[start : start + count] * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, start
        found += [bytes(packet) for packet in context.encode(frame)]
    return found


def udp(payload: bytes, source: tuple[str, int] = A, target: tuple[str, int] = B) -> dpkt.udp.UDP:
    """Return a datagram."""
    return dpkt.udp.UDP(sport=source[1], dport=target[1], ulen=8 + len(payload), data=payload)


def ip_packet(payload: bytes, source: tuple[str, int] = A, target: tuple[str, int] = B) -> dpkt.ip.IP | dpkt.ip6.IP6:
    """Return a datagram in IPv4 or IPv6, by its addresses."""
    datagram = udp(payload, source, target)
    if ":" in source[0]:
        ends = {
            "src": socket.inet_pton(socket.AF_INET6, source[0]),
            "dst": socket.inet_pton(socket.AF_INET6, target[0]),
        }
        return dpkt.ip6.IP6(nxt=17, plen=len(datagram), hlim=64, data=datagram, **ends)
    ends = {"src": socket.inet_aton(source[0]), "dst": socket.inet_aton(target[0])}
    return dpkt.ip.IP(p=17, len=20 + len(datagram), data=datagram, **ends)


def ethernet(packet: dpkt.ip.IP | dpkt.ip6.IP6, vlans: Sequence[int] = ()) -> bytes:
    """Return a frame, with VLAN tags if wanted."""
    kind = 0x86DD if isinstance(packet, dpkt.ip6.IP6) else 0x0800
    tags = b"".join(b"\x81\x00" + number.to_bytes(2, "big") for number in vlans)
    return bytes(12) + tags + kind.to_bytes(2, "big") + bytes(packet)


@dataclass
class Capture:
    """A capture to which packets are added; they are written in order of time."""

    frames: list[tuple[float, bytes]] = field(default_factory=list)

    def add(self, packets: Iterable[Sent]) -> Capture:
        """Add RTP packets over Ethernet."""
        for packet in packets:
            self.datagram(packet.at_s, packet.rtp(), packet.source, packet.target)
        return self

    def datagram(
        self, at_s: float, payload: bytes, source: tuple[str, int] = A, target: tuple[str, int] = B
    ) -> Capture:
        """Add any datagram over Ethernet."""
        self.frames.append((at_s, ethernet(ip_packet(payload, source, target))))
        return self

    def pcap(self, *, nano: bool = False, linktype: int = 1) -> bytes:
        """Return the file."""
        file = io.BytesIO()
        writer = dpkt.pcap.Writer(file, linktype=linktype, nano=nano)
        for at_s, frame in sorted(self.frames, key=lambda one: one[0]):
            writer.writepkt(frame, ts=round(START_S + at_s, 6))
        return file.getvalue()

    def pcapng(self) -> bytes:
        """Return the file in the newer format."""
        file = io.BytesIO()
        writer = dpkt.pcapng.Writer(file)
        for at_s, frame in sorted(self.frames, key=lambda one: one[0]):
            writer.writepkt(frame, ts=START_S + at_s)
        return file.getvalue()


def delayed(packets: Sequence[Sent], seconds: Sequence[float]) -> list[Sent]:
    """Delay each packet."""
    return [replace(packet, at_s=packet.at_s + late) for packet, late in zip(packets, seconds, strict=True)]
