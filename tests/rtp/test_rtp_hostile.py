"""Captures of any content: an exact place for every packet, a clear error, bounded memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtp_captures import Capture, Sent, ethernet, ip_packet, mulaw, sent
from signals import voice
from speech_qc.audio.g711 import decode_mulaw, encode_mulaw
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.errors import InvalidAudio, PayloadTooLarge
from speech_qc.rtp.capture import CaptureFile
from speech_qc.rtp.network import unwrap
from speech_qc.rtp.packets import parse_rtp
from speech_qc.rtp.reader import CaptureReader, RtpOptions
from speech_qc.rtp.stream import LegAudio

VOICE = voice(1.2, rate_hz=8000)
PAYLOADS = mulaw(VOICE)  # 60
HEARD = decode_mulaw(encode_mulaw(VOICE))


def read(data: bytes, **options) -> tuple[CaptureReader, list]:
    with PacketDecoders() as decoders:
        reader = CaptureReader(io.BytesIO(data), RtpOptions(**options), decoders)
        return reader, list(reader)


@pytest.mark.slow
@given(
    lost=st.sets(st.integers(4, 55), max_size=20),
    doubled=st.sets(st.integers(4, 55), max_size=5),
    swapped=st.sets(st.integers(4, 55), max_size=8),
    pauses=st.dictionaries(st.integers(4, 55), st.integers(1, 30_000), max_size=3),
    sequence=st.integers(0, 65_535),
    timestamp=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_every_packet_has_its_place(lost, doubled, swapped, pauses, sequence, timestamp):
    packets: list[Sent] = []
    expected: list[np.ndarray] = []
    shift = 0
    for i, one in enumerate(sent(PAYLOADS, sequence=sequence, timestamp=timestamp)):
        if i in pauses:
            ticks = pauses[i] if pauses[i] > 40 else 0  # below 5 ms it is the jitter of a gateway
            shift += ticks
            expected.append(np.full(ticks, np.nan, np.float32))
        packets.append(replace(one, at_s=one.at_s + shift / 8000, timestamp=one.timestamp + shift))
        part = HEARD[i * 160 : i * 160 + 160]
        expected.append(np.full(160, np.nan, np.float32) if i in lost else part)
    arrivals = [
        replace(one, at_s=one.at_s + (0.03 if i in swapped else 0.0)) for i, one in enumerate(packets) if i not in lost
    ]
    arrivals += [replace(packets[i], at_s=packets[i].at_s + 0.031) for i in doubled - lost]
    reader, items = read(Capture().add(arrivals).pcap())
    heard = [
        item.samples if isinstance(item, LegAudio) else np.full(item.samples, np.nan, np.float32) for item in items
    ]
    np.testing.assert_array_equal(np.concatenate(heard), np.concatenate(expected))
    (stream,) = reader.streams
    assert stream.ordering.lost == len(lost)
    assert stream.ordering.duplicates == len(doubled - lost)


@given(st.binary(max_size=300), st.sampled_from([b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\x3c\x4d", b"\x0a\x0d\x0d\x0a"]))
@settings(max_examples=300)
def test_any_bytes_after_the_magic_number_end_in_order(data, magic):
    try:
        packets = list(CaptureFile(io.BytesIO(magic + data)))
    except InvalidAudio:
        return
    assert len(packets) < 30


@given(st.integers(0, 300), st.binary(max_size=120))
@settings(max_examples=500)
def test_any_packet_is_a_datagram_or_named(link, data):
    for chosen in (link, 1, 101, 113, 276, 0):
        found = unwrap(chosen, data)
        assert isinstance(found, str) or len(found.payload) <= len(data)
    parse_rtp(0, b"\x80" + data, False)
    parse_rtp(0, b"\xbf" + data, True)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(0, 65_535),
            st.integers(0, 2**32 - 1),
            st.sampled_from([0, 8, 11, 13, 96, 101]),
        ),
        max_size=120,
    )
)
@settings(max_examples=150)
def test_any_sequence_of_rtp_packets_is_read_within_bounds(fields):
    packets = [
        Sent(0.01 * i, sequence, timestamp, bytes(160), kind, ssrc=ssrc)
        for i, (ssrc, sequence, timestamp, kind) in enumerate(fields)
    ]
    steady = sent(PAYLOADS, ssrc=77)
    reader, items = read(Capture().add(packets).add(steady).pcap(), max_duration_s=60.0)
    for stream in reader.streams:
        if stream.leg is not None:
            total = sum(
                len(item.samples) if isinstance(item, LegAudio) else item.samples
                for item in items
                if item.leg == stream.leg
            )
            assert total == stream.position <= 60 * stream.rate_hz
            assert isinstance(next(item for item in items if item.leg == stream.leg), LegAudio)
    assert any(stream.key.ssrc == 77 and stream.ordering.lost == 0 for stream in reader.streams)


def grown_by(data: bytes, **options) -> int:
    """Return the most memory that reading takes, beside the items, which are dropped."""
    with PacketDecoders() as decoders:
        tracemalloc.start()
        try:
            for _ in CaptureReader(io.BytesIO(data), RtpOptions(**options), decoders):
                pass
        except (InvalidAudio, PayloadTooLarge):
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    return peak


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length():
    short = Capture().add(sent(PAYLOADS * 10)).pcap()
    long = Capture().add(sent(PAYLOADS * 100)).pcap()
    # Whatever else runs in this process is counted, too; packets that are kept would take more than all of the file.
    assert grown_by(long) < grown_by(short) + len(long) // 5


@pytest.mark.slow
def test_a_flood_of_candidates_and_of_holes_takes_no_memory():
    rng = np.random.default_rng(1)
    flood = Capture()
    for i in range(8_000):
        flood.frames.append((i * 1e-4, ethernet(ip_packet(b"\x80\x00" + rng.bytes(10) + bytes(800)))))
    assert grown_by(flood.pcap()) < 16 << 20
    holes = [Sent(i * 1e-6, 2 * i, 160 * i, bytes(8000), ssrc=i % 50) for i in range(4000)]
    assert grown_by(Capture().add(holes).pcap()) < 16 << 20


def test_blocks_of_any_declared_length_are_not_allocated():
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    for kind in (1, 3, 5, 6, 0x0BAD):
        for length in (0, 8, 12, 2**31, 2**32 - 4, 2**32 - 1):
            data = section + struct.pack("<II", kind, length) + bytes(64)
            assert grown_by(data) < 1 << 20
    assert grown_by(struct.pack("<IIIHHqI", 0x0A0D0D0A, 2**32 - 4, 0x1A2B3C4D, 1, 0, -1, 28)) < 1 << 20
