"""Reads the RTP streams of a capture: one pass, constant memory, every stream a leg with sound and gaps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from speech_qc.audio import AudioWarning
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.errors import InvalidAudio, PayloadTooLarge
from speech_qc.rtp.capture import Captured, CaptureFile
from speech_qc.rtp.codecs import STATIC, Codec, unknown
from speech_qc.rtp.encryption import has_tags, is_dtls
from speech_qc.rtp.finder import StreamFinder, StreamKey
from speech_qc.rtp.network import Endpoint, Segment, unwrap
from speech_qc.rtp.sdp import Descriptions
from speech_qc.rtp.sip_tcp import SipOverTcp
from speech_qc.rtp.stream import LegItem, RtpStream
from speech_qc.wire.vocabulary import AudioWarningCode

REORDER_MS = 200
"""How long a missing packet is waited for, as a jitter buffer does."""
MAX_KEYED = 4096
"""Pairs of ends that are remembered because they have exchanged DTLS."""


@dataclass(frozen=True, slots=True)
class RtpOptions:
    """How to read a capture.

    Attributes:
        payload_types: What dynamic payload types mean; goes before SDP.
        max_streams: Streams of one capture.
        max_duration_s: Longest leg; gaps count.
        reorder_ms: How long to wait for a missing packet.
    """

    payload_types: Mapping[int, Codec] = field(default_factory=dict)
    max_streams: int = 256
    max_duration_s: float = 4 * 3600.0
    reorder_ms: int = REORDER_MS


class CaptureReader:
    """The streams of one capture; iterated once.

    Args:
        file: The capture, at its start.
        options: How to read it.
        decoders: Decoders of G.722 and Opus.

    Raises:
        InvalidAudio: The file is no capture, or its header is damaged.
    """

    def __init__(self, file: BinaryIO, options: RtpOptions, decoders: PacketDecoders) -> None:
        self.streams: list[RtpStream] = []
        """In order of their first packets; complete after the iteration."""
        self.packets = 0
        """Packets in the capture."""
        self.start_ns: int | None = None
        """Time of the first packet."""
        self._file = CaptureFile(file)
        self._options, self._decoders = options, decoders
        self._descriptions = Descriptions()
        self._sip = SipOverTcp(self._descriptions.learn)
        self._finder = StreamFinder()
        self._by_key: dict[StreamKey, RtpStream] = {}
        self._latest: dict[tuple[Endpoint, Endpoint], RtpStream] = {}
        self._unread: dict[str, int] = {}
        self._encrypted: set[StreamKey] = set()
        self._keyed: set[frozenset[Endpoint]] = set()  # ends that have exchanged DTLS
        self._legs = 0

    @property
    def other_packets(self) -> int:
        """Packets that are not in a stream: other protocols, RTCP, SIP, and what could not be read."""
        return self.packets - sum(stream.timeline.counts.packets for stream in self.streams)

    def __iter__(self) -> Iterator[LegItem]:
        """Yield the sound and the gaps of the legs, each leg in order.

        Raises:
            InvalidAudio: There is no RTP stream that can be decoded.
            PayloadTooLarge: There are too many streams.
        """
        for packet in self._file:
            self.packets += 1
            if self.start_ns is None:
                self.start_ns = packet.time_ns
            yield from self._take(packet)
        for stream in self.streams:
            yield from stream.finish()

    def warnings(self) -> list[AudioWarning]:
        """Return what is wrong with the capture or was not read; complete after the iteration."""
        found: list[AudioWarning] = []

        def warn(code: AudioWarningCode, message: str) -> None:
            found.append(AudioWarning(code, message))

        if self._file.fault is not None:
            warn(
                "samples_missing",
                f"expected a whole capture, got a fault: {self._file.fault}; what follows was not read, capture again "
                "or copy the whole file",
            )
        self._warn_unread(warn)
        for stream in self.streams:
            self._warn_stream(stream, warn)
        return found

    def _take(self, packet: Captured) -> Iterator[LegItem]:
        found = unwrap(packet.link, packet.data)
        if isinstance(found, str):
            self._unread[found] = self._unread.get(found, 0) + 1
            return
        if isinstance(found, Segment):
            self._sip.take(found)
            return
        if self._descriptions.learn(found.payload):
            return
        if is_dtls(found.payload):
            if len(self._keyed) < MAX_KEYED:
                self._keyed.add(frozenset((found.source, found.target)))
            return
        media = self._descriptions.find(found.source, found.target)
        sorted_ = self._finder.sort(packet.time_ns, found, is_announced=media is not None)
        if sorted_ is None:
            return
        key, packets = sorted_
        stream = self._by_key.get(key)
        if stream is None:
            stream = self._open(key, packets[0].time_ns)
            codec = self.codec(key, packets[-1].payload_type)
            if frozenset((key.source, key.target)) in self._keyed or has_tags(packets, codec):
                self._encrypted.add(key)
        if media is not None and media.is_encrypted:
            self._encrypted.add(key)
        for one in packets:
            yield from stream.push(one)

    def _open(self, key: StreamKey, first_ns: int) -> RtpStream:
        options = self._options
        if len(self.streams) >= options.max_streams:
            raise PayloadTooLarge(
                f"expected at most {options.max_streams} RTP streams in a capture, got more: select some of them with "
                "a capture filter (tcpdump -r FILE -w SMALLER udp port …), or raise the limit",
                max_streams=options.max_streams,
            )
        stream = RtpStream(
            key,
            first_ns,
            partial(self.codec, key),
            options.reorder_ms * 1_000_000,
            options.max_duration_s,
            self._next_leg,
            self._decoders,
        )
        ends = (key.source, key.target)
        before = self._latest.get(ends)
        stream.previous_ssrc = None if before is None else before.key.ssrc
        self._latest[ends] = self._by_key[key] = stream
        self.streams.append(stream)
        return stream

    def _next_leg(self) -> int:
        self._legs += 1
        return self._legs - 1

    def codec(self, key: StreamKey, payload_type: int) -> Codec:
        """Explain a payload type of a stream."""
        if key in self._encrypted:
            return unknown(payload_type)
        codec = self._options.payload_types.get(payload_type)
        if codec is None and (media := self._descriptions.find(key.source, key.target)) is not None:
            codec = media.codecs.get(payload_type)
        return codec or STATIC.get(payload_type) or unknown(payload_type)

    def _warn_unread(self, warn: Callable[[AudioWarningCode, str], None]) -> None:
        messages = {
            "link": "packets of a link layer that is not read: capture on Ethernet, Linux cooked or raw IP",
            "damaged": "packets whose lengths contradict each other: they were not read",
            "fragment": "fragments of UDP datagrams: they are not put together; SIP in them was not read, so name "
            "dynamic payload types with the option payload_types",
        }
        for reason, message in messages.items():
            if count := self._unread.get(reason):
                warn("packets_not_read", f"expected whole IP packets, got {count} {message}")
        if self._sip.unread:
            warn(
                "packets_not_read",
                f"expected whole SIP messages over TCP, got {self._sip.unread} of which the capture lacks a part: not "
                "read; name dynamic payload types with the option payload_types",
            )
        if self._sip.encrypted:
            warn(
                "packets_not_read",
                f"expected SIP that can be read, got {self._sip.encrypted} handshakes of SIP over TLS: it says neither "
                "what payload types mean nor what is encrypted; name dynamic types with the option payload_types",
            )
        if self._file.damaged_blocks:
            warn(
                "packets_not_read",
                f"expected whole blocks, got {self._file.damaged_blocks} damaged ones in the capture: skipped",
            )

    def _warn_stream(self, stream: RtpStream, warn: Callable[[AudioWarningCode, str], None]) -> None:
        name = f"{stream.key.source} → {stream.key.target}, SSRC {stream.key.ssrc:#010x}"
        counts = stream.timeline.counts
        for fault in stream.faults:
            warn("streams_not_read", f"{name}: {fault}")
        if stream.key in self._encrypted:
            warn("streams_not_read", f"{name}: expected RTP, got SRTP, which is encrypted: capture where it is not")
        elif counts.unread:
            names = ", ".join(
                codec.name for kind in counts.types if (codec := self.codec(stream.key, kind)).kind == "unread"
            )
            warn(
                "streams_not_read",
                f"{name}: expected PCMU, PCMA, G722, L16 or Opus, got {counts.unread} packets of "
                f"{names or 'these with damaged lengths'}: not decoded; name dynamic types with payload_types, such as "
                "96=opus/48000/2",
            )
        if counts.cut:
            warn(
                "packets_not_read",
                f"{name}: expected whole packets, got {counts.cut} of which the capture has only the start: their "
                "sound is missing; capture without a snap length",
            )
        if stream.damaged and not stream.faults:
            warn("samples_damaged", f"{name}: {stream.damaged} packets could not be decoded: their sound is missing")
        if counts.clock_resets:
            warn(
                "clock_reset",
                f"{name}: expected timestamps that advance with time, got {counts.clock_resets} jumps: from there on, "
                "times are those of arrival",
            )
        if counts.overlapping:
            warn(
                "samples_damaged",
                f"{name}: {counts.overlapping} packets begin before the end of the sound before them: the overlap was "
                "dropped",
            )
        if stream.is_over:
            warn(
                "leg_cut",
                f"{name}: expected at most {self._options.max_duration_s:g} s, got more: what follows was not read",
            )
        if stream.ordering.restarts:
            warn("clock_reset", f"{name}: the sequence numbers began anew {stream.ordering.restarts} time(s)")


def no_streams(reader: CaptureReader) -> InvalidAudio:
    """Return the error for a capture without anything to inspect."""
    found = len(reader.streams)
    what = f"{found} stream(s), none of which can be decoded" if found else "none"
    reasons = "; ".join(warning.message for warning in reader.warnings()[:3])
    return InvalidAudio(
        f"expected RTP streams of PCMU, PCMA, G722, L16 or Opus over UDP, got {what} in {reader.packets} packets"
        + (f" ({reasons})" if reasons else "")
        + ": check what was captured",
        packets=reader.packets,
        streams=found,
    )
