"""What is known of the streams of a capture, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from speech_qc.rtp.stream import MissingTime, RtpStream

if TYPE_CHECKING:
    from speech_qc.rtp.reader import CaptureReader

MASKED_KEY = "*"


@dataclass(frozen=True, slots=True)
class MissingReport:
    """Times of a stream that were not received, for one reason.

    Attributes:
        spans: Their number.
        total_s: Their sum.
        longest_s: The longest one.
    """

    spans: int
    total_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class StreamReport:
    """One RTP stream.

    Attributes:
        channel: Index of its channel; None if it could not be decoded.
        ssrc: Its source.
        previous_ssrc: The stream before it between the same addresses; None for the first one.
        source: Address and port.
        target: Address and port.
        codecs: Names of its codecs, in order; those that were not decoded if none was.
        payload_types: Packets by payload type.
        sample_rate_hz: Rate of the decoded sound; None if there is none.
        start_s: First packet, from the first packet of the capture.
        duration_s: Length of the channel, with what was not received; else from the first to the last packet.
        packets: Packets received, with duplicates and late ones.
        lost: Packets that did not come, or too late.
        lost_ratio: Share of the expected packets.
        late: Packets that came too late, and count as lost.
        duplicates: Packets that came twice.
        reordered: Packets that came before an earlier one and were put in order.
        damaged: Packets that could not be decoded.
        marked: Packets with the marker bit.
        comfort_noise: Packets that describe silence.
        restarts: Times that the sequence numbers began anew.
        clock_resets: Times that the timestamps jumped away from the time of arrival.
        jitter_ms: Interarrival jitter (RFC 3550), mean.
        jitter_max_ms: Its maximum.
        drift_ppm: Sender's clock against the capture's, positive if fast; None for less than 30 s.
        loss: Time lost.
        dtx: Time in which nothing was sent.
        digits: Telephone keys, masked unless the setting shows them.
    """

    channel: int | None
    ssrc: int
    previous_ssrc: int | None
    source: str
    target: str
    codecs: tuple[str, ...]
    payload_types: dict[int, int]
    sample_rate_hz: int | None
    start_s: float
    duration_s: float
    packets: int
    lost: int
    lost_ratio: float
    late: int
    duplicates: int
    reordered: int
    damaged: int
    marked: int
    comfort_noise: int
    restarts: int
    clock_resets: int
    jitter_ms: float | None
    jitter_max_ms: float | None
    drift_ppm: float | None
    loss: MissingReport
    dtx: MissingReport
    digits: str


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """A packet capture.

    Attributes:
        packets: Packets in it.
        other_packets: Those that belong to no RTP stream.
        streams: All streams, in order of their first packets.
    """

    packets: int
    other_packets: int
    streams: tuple[StreamReport, ...]


def capture_report(reader: CaptureReader, *, show_digits: bool) -> CaptureReport:
    """Return the report after the iteration."""
    streams = tuple(_stream(reader, stream, show_digits) for stream in reader.streams)
    return CaptureReport(reader.packets, reader.other_packets, streams)


def _stream(reader: CaptureReader, stream: RtpStream, show_digits: bool) -> StreamReport:
    counts, ordering, timeline = stream.timeline.counts, stream.ordering, stream.timeline
    expected = ordering.released + ordering.lost
    is_timed = timeline.jitter.count > 0
    first_ns = reader.start_ns if reader.start_ns is not None else stream.first_ns
    is_leg = stream.leg is not None
    span_s = (stream.last_ns - stream.first_ns) * 1e-9
    names = tuple(stream.codecs) or tuple(reader.codec(stream.key, kind).name for kind in counts.types)
    return StreamReport(
        channel=stream.leg,
        ssrc=stream.key.ssrc,
        previous_ssrc=stream.previous_ssrc,
        source=str(stream.key.source),
        target=str(stream.key.target),
        codecs=names,
        payload_types=dict(counts.types),
        sample_rate_hz=stream.rate_hz if is_leg else None,
        start_s=(timeline.start_ns - first_ns) * 1e-9 + stream.lead_s
        if is_leg
        else (stream.first_ns - first_ns) * 1e-9,
        duration_s=stream.position / stream.rate_hz if is_leg else span_s,
        packets=counts.packets,
        lost=ordering.lost,
        lost_ratio=ordering.lost / expected if expected else 0.0,
        late=ordering.late,
        duplicates=ordering.duplicates,
        reordered=ordering.reordered,
        damaged=stream.damaged,
        marked=counts.marked,
        comfort_noise=counts.comfort,
        restarts=ordering.restarts,
        clock_resets=counts.clock_resets,
        jitter_ms=timeline.jitter.mean_s * 1e3 if is_timed else None,
        jitter_max_ms=timeline.jitter.max_s * 1e3 if is_timed else None,
        drift_ppm=timeline.drift.ppm,
        loss=_missing(stream.missing["loss"], stream.rate_hz),
        dtx=_missing(stream.missing["dtx"], stream.rate_hz),
        digits="".join(stream.keys) if show_digits else MASKED_KEY * len(stream.keys),
    )


def _missing(time: MissingTime, rate_hz: int) -> MissingReport:
    return MissingReport(time.spans, time.samples / max(1, rate_hz), time.longest / max(1, rate_hz))
