"""RTP streams in captures, with exact truth: what is found, put in order, lost, not sent and decoded."""

from __future__ import annotations

import io
import struct
from dataclasses import replace

import numpy as np
import pytest

from rtp_captures import (
    A,
    B,
    Capture,
    Sent,
    alaw,
    delayed,
    encoded_packets,
    ethernet,
    ip_packet,
    linear16,
    mulaw,
    sent,
)
from signals import Float32, voice
from speech_qc.audio.g711 import decode_mulaw, encode_mulaw
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.errors import InvalidAudio, PayloadTooLarge, ProtocolError
from speech_qc.rtp.codecs import opus_samples, parse_payload_types
from speech_qc.rtp.reader import CaptureReader, RtpOptions
from speech_qc.rtp.reports import CaptureReport, StreamReport, capture_report
from speech_qc.rtp.stream import LegAudio, LegGap, LegItem

VOICE = voice(4.0, rate_hz=8000)
PAYLOADS = mulaw(VOICE)  # 200 packets of 20 ms
HEARD = decode_mulaw(encode_mulaw(VOICE))


class Read:
    """A capture that was read to its end."""

    def __init__(self, data: bytes, **options) -> None:
        with PacketDecoders() as decoders:
            self.reader = CaptureReader(io.BytesIO(data), RtpOptions(**options), decoders)
            self.items: list[LegItem] = list(self.reader)
        self.report: CaptureReport = capture_report(self.reader, show_digits=False)
        self.codes = [warning.code for warning in self.reader.warnings()]

    @property
    def only(self) -> StreamReport:
        (stream,) = self.report.streams
        return stream

    def samples(self, leg: int = 0) -> Float32:
        """The sound of a leg, with NaN where nothing was received."""
        parts = [
            item.samples if isinstance(item, LegAudio) else np.full(item.samples, np.nan, np.float32)
            for item in self.items
            if item.leg == leg
        ]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def gaps(self, leg: int = 0) -> list[tuple[str, int, int]]:
        """Kind, start and length of each gap."""
        found: list[tuple[str, int, int]] = []
        position = 0
        for item in self.items:
            if item.leg != leg:
                continue
            if isinstance(item, LegGap):
                found.append((item.kind, position, item.samples))
                position += item.samples
            else:
                position += len(item.samples)
        return found


def read(packets, **options) -> Read:
    return Read(Capture().add(packets).pcap(), **options)


def test_a_whole_stream_is_decoded_to_the_last_sample():
    found = read(sent(PAYLOADS))
    np.testing.assert_array_equal(found.samples(), HEARD)
    assert found.only.codecs == ("PCMU",) and found.only.ssrc == 0x1234ABCD
    assert (found.only.source, found.only.target) == ("192.0.2.1:16384", "192.0.2.2:20000")
    assert (found.only.packets, found.only.lost, found.only.marked) == (200, 0, 1)
    assert found.only.duration_s == 4.0 and found.only.jitter_ms == pytest.approx(0.0, abs=0.01)
    assert found.codes == []


@pytest.mark.parametrize("form", ["pcap", "nano", "pcapng", "swapped"])
def test_every_format_of_captures_is_read(form):
    capture = Capture().add(sent(PAYLOADS[:50]))
    data = {"pcap": capture.pcap, "pcapng": capture.pcapng}.get(form, lambda: capture.pcap(nano=form == "nano"))()
    if form == "swapped":
        swapped = struct.pack(">IHHIIII", *struct.unpack("<IHHIIII", data[:24]))
        at = 24
        while at < len(data):
            fields = struct.unpack_from("<IIII", data, at)
            swapped += struct.pack(">IIII", *fields) + data[at + 16 : at + 16 + fields[2]]
            at += 16 + fields[2]
        data = swapped
    found = Read(data)
    np.testing.assert_array_equal(found.samples(), HEARD[: 50 * 160])
    assert found.only.jitter_ms == pytest.approx(0.0, abs=0.01)


def test_every_link_layer_is_unwrapped():
    packets = sent(PAYLOADS[:20])
    v6 = [replace(one, source=("2001:db8::1", 4000), target=("2001:db8::2", 4002)) for one in packets]

    def wrapped(wrap, link, chosen=packets):
        capture = Capture([(one.at_s, wrap(ip_packet(one.rtp(), one.source, one.target))) for one in chosen])
        return Read(capture.pcap(linktype=link))

    found = [
        wrapped(lambda ip: ethernet(ip, vlans=(7,)), 1),
        wrapped(lambda ip: ethernet(ip, vlans=(7, 8)), 1),
        wrapped(lambda ip: bytes(14) + b"\x08\x00" + bytes(ip), 113),
        wrapped(lambda ip: b"\x08\x00" + bytes(18) + bytes(ip), 276),
        wrapped(bytes, 101),
        wrapped(bytes, 228),
        wrapped(lambda ip: b"\x02\x00\x00\x00" + bytes(ip), 0),
        wrapped(ethernet, 1, v6),
        wrapped(bytes, 229, v6),
        wrapped(lambda ip: ethernet(ip) + bytes(6), 1),  # padding after the datagram
    ]
    for one in found:
        np.testing.assert_array_equal(one.samples(), HEARD[:3200])
    assert found[7].only.source == "[2001:db8::1]:4000"


def test_each_interface_of_a_pcapng_file_has_its_own_link_layer():
    def block(kind: int, body: bytes) -> bytes:
        body += bytes(-len(body) % 4)
        return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))

    data = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    nanoseconds = struct.pack("<HHB3xHH", 9, 1, 9, 0, 0)
    data += block(1, struct.pack("<HHI", 1, 0, 0)) + block(1, struct.pack("<HHI", 101, 0, 0) + nanoseconds)
    for i, one in enumerate(sent(PAYLOADS[:40])):
        ip = ip_packet(one.rtp())
        frame = bytes(ip) if i % 2 else ethernet(ip)
        units = round(one.at_s * (1e9 if i % 2 else 1e6))
        data += block(6, struct.pack("<IIIII", i % 2, units >> 32, units & 0xFFFFFFFF, len(frame), len(frame)) + frame)
    found = Read(data)
    np.testing.assert_array_equal(found.samples(), HEARD[:6400])
    assert found.only.jitter_ms == pytest.approx(0.0, abs=0.01), "both resolutions of the clock are read"


def test_loss_is_a_gap_of_that_length_and_never_sound():
    gone = {10, 50, 51, 52, 199 - 5}
    found = read([one for i, one in enumerate(sent(PAYLOADS)) if i not in gone])
    assert found.gaps() == [("loss", 1600, 160), ("loss", 8000, 480), ("loss", 194 * 160, 160)]
    assert (found.only.lost, found.only.packets) == (5, 195)
    assert found.only.lost_ratio == pytest.approx(5 / 200)
    assert found.only.loss.spans == 3 and found.only.loss.longest_s == 0.06 and found.only.dtx.spans == 0
    expected = HEARD.copy()
    for i in gone:
        expected[i * 160 : i * 160 + 160] = np.nan
    np.testing.assert_array_equal(found.samples(), expected)


def test_a_contiguous_sequence_with_a_jump_in_time_is_no_loss():
    talk = sent(PAYLOADS)
    shift = 12_000  # 1.5 s
    later = [
        replace(one, at_s=one.at_s + 1.5, timestamp=one.timestamp + shift, marker=i == 0)
        for i, one in enumerate(talk[100:])
    ]
    found = read(talk[:100] + later)
    assert found.gaps() == [("dtx", 16_000, shift)]
    assert (found.only.lost, found.only.marked, found.only.dtx.total_s) == (0, 2, 1.5)
    np.testing.assert_array_equal(found.samples()[-16_000:], HEARD[16_000:])


def test_comfort_noise_is_neither_sound_nor_loss():
    talk = sent(PAYLOADS)
    noise = Sent(2.0, 200, 5000 + 16_000, b"\x40", 13)
    later = [
        replace(one, at_s=one.at_s + 1, sequence=one.sequence + 1, timestamp=one.timestamp + 8000) for one in talk[100:]
    ]
    found = read([*talk[:100], noise, *later])
    assert found.gaps() == [("dtx", 16_000, 8000)]
    assert (found.only.comfort_noise, found.only.lost) == (1, 0)


def test_loss_within_a_pause_is_told_from_the_pause():
    talk = sent(PAYLOADS)
    later = [
        replace(one, at_s=one.at_s + 1, sequence=one.sequence + 2, timestamp=one.timestamp + 8000) for one in talk[100:]
    ]
    found = read(talk[:100] + later)
    assert found.gaps() == [("loss", 16_000, 320), ("dtx", 16_320, 7680)]


def test_reordered_doubled_and_late_packets():
    talk = sent(PAYLOADS)
    late = [0.0] * 200
    late[20] = 0.05  # behind two others
    late[60] = 1.0  # long after its time was over
    found = read([*delayed(talk, late), replace(talk[30], at_s=talk[30].at_s + 0.001), talk[31]])
    assert (found.only.reordered, found.only.duplicates, found.only.late, found.only.lost) == (1, 2, 1, 1)
    assert found.gaps() == [("loss", 60 * 160, 160)]


def test_sequence_and_timestamp_wrap():
    found = read(sent(PAYLOADS, sequence=65_500, timestamp=2**32 - 3000))
    np.testing.assert_array_equal(found.samples(), HEARD)
    assert (found.only.lost, found.only.restarts, found.only.clock_resets) == (0, 0, 0)
    assert found.only.jitter_ms == pytest.approx(0.0, abs=0.01)


def test_a_restart_of_the_sender_goes_on_at_the_time_of_arrival():
    talk = sent(PAYLOADS)
    again = [
        replace(one, at_s=one.at_s + 0.5, sequence=one.sequence + 30_000, timestamp=one.timestamp + 2**31)
        for one in talk[100:]
    ]
    found = read(talk[:100] + again)
    assert (found.only.restarts, found.only.clock_resets, found.only.lost) == (1, 1, 0)
    assert found.gaps() == [("dtx", 16_000, 4000)]
    np.testing.assert_array_equal(found.samples()[-16_000:], HEARD[16_000:])
    assert found.codes == ["clock_reset", "clock_reset"]


def test_a_clock_that_is_set_back_costs_no_sound():
    talk = sent(PAYLOADS)
    found = read(talk[:100] + [replace(one, timestamp=one.timestamp - 8000) for one in talk[100:]])
    np.testing.assert_array_equal(found.samples(), HEARD)
    assert found.only.clock_resets == 1 and found.codes == ["clock_reset"]


def test_a_jump_of_the_clock_of_the_capture_is_no_gap():
    talk = sent(PAYLOADS)
    found = read(talk[:100] + [replace(one, at_s=one.at_s + 3600) for one in talk[100:]])
    np.testing.assert_array_equal(found.samples(), HEARD)
    assert found.codes == [] and found.only.jitter_max_ms == pytest.approx(0.0, abs=0.01)


def test_packets_that_overlap_are_trimmed_and_named():
    talk = sent(PAYLOADS)
    found = read(talk[:100] + [replace(one, timestamp=one.timestamp - 80) for one in talk[100:]])
    np.testing.assert_array_equal(found.samples(), np.delete(HEARD, range(16_000, 16_080)))
    assert found.codes == ["samples_damaged"]


def test_jitter_is_that_of_rfc_3550():
    rng = np.random.default_rng(1)
    late = rng.uniform(0, 0.015, 200).round(6)
    found = read(delayed(sent(PAYLOADS), late.tolist()))
    jitter, worst, total = 0.0, 0.0, 0.0
    for i in range(1, 200):
        jitter += (abs(late[i] - late[i - 1]) - jitter) / 16
        worst, total = max(worst, jitter), total + jitter
    assert found.only.jitter_ms == pytest.approx(1000 * total / 199, rel=1e-3)
    assert found.only.jitter_max_ms == pytest.approx(1000 * worst, rel=1e-3)
    assert found.only.lost == 0


@pytest.mark.parametrize("ppm", [-120, 0, 300])
def test_a_clock_that_is_off_is_measured(ppm):
    rng = np.random.default_rng(2)
    packets = sent((PAYLOADS * 15)[:3000])
    at = [one.at_s * (1 - ppm * 1e-6) + rng.uniform(0, 0.004) for one in packets]
    found = read([replace(one, at_s=round(time, 6)) for one, time in zip(packets, at, strict=True)])
    assert found.only.drift_ppm == pytest.approx(ppm, abs=10)
    assert read(sent(PAYLOADS)).only.drift_ppm is None, "four seconds are too short"


def test_two_directions_and_a_new_ssrc_are_streams_of_their_own():
    back = sent(alaw(VOICE), payload_type=8, ssrc=7, source=B, target=A)
    first, second = sent(PAYLOADS[:100]), sent(PAYLOADS[100:], ssrc=0x99, start_s=2.0, sequence=9)
    found = read(first + back + second)
    ends = [(one.channel, one.ssrc, one.previous_ssrc, one.codecs) for one in found.report.streams]
    assert ends == [(0, 0x1234ABCD, None, ("PCMU",)), (1, 7, None, ("PCMA",)), (2, 0x99, 0x1234ABCD, ("PCMU",))]
    assert found.report.streams[2].start_s == pytest.approx(2.0)
    np.testing.assert_array_equal(found.samples(2), HEARD[16_000:])


def test_other_udp_is_not_mistaken_for_rtp():
    rng = np.random.default_rng(3)
    capture = Capture()
    for i in range(3000):
        capture.datagram(i * 0.01, b"\x80" + rng.bytes(11) + rng.bytes(160))  # version 2, but nothing fits
        capture.datagram(i * 0.01, rng.bytes(int(rng.integers(0, 200))), A, ("192.0.2.9", 53))
        fixed = b"\x80\x00" + rng.bytes(6) + b"SSRC" + bytes(160)  # one SSRC, sequence at random
        capture.datagram(i * 0.01, fixed, A, ("192.0.2.9", 54))
    found = Read(capture.pcap())
    assert found.report.streams == () and found.items == []
    assert found.report.other_packets == 9000


def test_rtcp_beside_a_stream_is_not_a_stream():
    capture = Capture().add(sent(PAYLOADS))
    for i in range(20):
        capture.datagram(i * 0.2, b"\x80\xc8\x00\x06" + bytes(24))
    assert len(Read(capture.pcap()).report.streams) == 1


SDP = (
    "SIP/2.0 200 OK\r\nContent-Type: application/sdp\r\n\r\n"
    "v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\ns=-\r\nc=IN IP4 192.0.2.2\r\nt=0 0\r\n"
    "m=audio 20000 RTP/AVP 97 101\r\na=rtpmap:97 L16/16000\r\na=rtpmap:101 telephone-event/8000\r\n"
)


def test_sdp_in_the_capture_explains_dynamic_types():
    wide = voice(2.0)
    packets = sent(linear16(wide), 320, clock_hz=16_000, payload_type=97)
    data = Capture().datagram(-1, SDP.encode(), ("192.0.2.2", 5060), ("192.0.2.1", 5060)).add(packets).pcap()
    found = Read(data)
    assert found.only.codecs == ("L16",) and found.only.sample_rate_hz == 16_000
    np.testing.assert_allclose(found.samples(), wide, atol=2 / 32768)

    without = read(packets)
    assert without.only.channel is None and without.items == [] and without.codes == ["streams_not_read"]
    named = read(packets, payload_types=parse_payload_types("97=L16/16000"))
    np.testing.assert_array_equal(named.samples(), found.samples())


def test_encrypted_streams_are_named_and_not_scored():
    sdp = SDP.replace("RTP/AVP", "RTP/SAVP")
    packets = sent(linear16(voice(1.0)), 320, clock_hz=16_000, payload_type=97)
    found = Read(Capture().datagram(-1, sdp.encode(), ("192.0.2.2", 5060), ("192.0.2.1", 5060)).add(packets).pcap())
    assert found.items == [] and found.codes == ["streams_not_read"]


def test_keys_are_counted_and_masked():
    talk = sent(PAYLOADS)
    keys = [
        Sent(2.0 + 0.02 * i, 200 + i, 5000 + 16_000 + 4000 * (i // 3), bytes([5 + i // 3, 0x0A, 0, 80 * (i % 3)]), 101)
        for i in range(6)
    ]
    later = [
        replace(one, at_s=one.at_s + 1, sequence=one.sequence + 6, timestamp=one.timestamp + 8000) for one in talk[100:]
    ]
    found = read([*talk[:100], *keys, *later], payload_types=parse_payload_types("101=telephone-event/8000"))
    assert found.only.digits == "**" and found.only.lost == 0
    assert capture_report(found.reader, show_digits=True).streams[0].digits == "56"


@pytest.mark.parametrize("codec", ["g722", "libopus"])
def test_codecs_with_a_state(codec):
    pytest.importorskip("av", reason="the extra [media] has it")
    rate_hz = 16_000 if codec == "g722" else 48_000
    source = voice(4.0, rate_hz=rate_hz)
    payloads = encoded_packets(codec, source, rate_hz)
    ticks, clock_hz, kind = (160, 8000, 9) if codec == "g722" else (960, 48_000, 111)
    packets = sent(payloads, ticks, clock_hz=clock_hz, payload_type=kind)
    found = read(packets[:40] + packets[42:], payload_types=parse_payload_types("111=opus/48000/2"))
    assert found.only.sample_rate_hz == rate_hz and found.only.damaged == 0
    step = rate_hz // 50
    assert found.gaps() == [("loss", 40 * step, 2 * step)]
    heard = found.samples()
    assert len(heard) == len(payloads) * step, "clock of 8 kHz, sound of 16 kHz"
    delay = int(np.argmax(np.correlate(heard[: 30 * step], source[: 29 * step], "valid")))
    assert delay < step
    np.testing.assert_allclose(
        np.nanstd(heard[60 * step :]), np.std(source[60 * step :]), rtol=0.1, err_msg="the level is that of the source"
    )


def test_opus_with_pauses_is_no_loss():
    pytest.importorskip("av", reason="the extra [media] has it")
    payloads = encoded_packets("libopus", voice(4.0, rate_hz=48_000), 48_000)
    steady = sent(payloads, 960, clock_hz=48_000, payload_type=111)
    kept = [one for i, one in enumerate(steady) if not 110 <= i < 150 or i == 130]
    packets = [
        replace(one, sequence=100 + number, payload=one.payload[:1] if one is steady[130] else one.payload)
        for number, one in enumerate(kept)
    ]
    found = read(packets, payload_types=parse_payload_types("111=opus/48000/2"))
    assert (found.only.lost, found.only.loss.spans, found.only.comfort_noise) == (0, 0, 1)
    assert found.gaps() == [("dtx", 110 * 960, 20 * 960), ("dtx", 130 * 960, 960), ("dtx", 131 * 960, 19 * 960)]
    assert len(found.samples()) == len(payloads) * 960


def test_without_pyav_other_streams_are_read_all_the_same(monkeypatch):
    monkeypatch.setattr("speech_qc.audio.packet_decoders.pyav_folder", lambda: None)
    wide = sent([bytes(160)] * 50, payload_type=9, ssrc=9)
    found = read(wide + sent(PAYLOADS))
    assert [(one.ssrc, one.channel) for one in found.report.streams] == [(9, None), (0x1234ABCD, 0)]
    assert found.codes == ["streams_not_read"] and "speech-qc[media]" in found.reader.warnings()[0].message


def test_a_leg_begins_with_its_first_sound():
    pytest.importorskip("av", reason="the extra [media] has it")
    odd = b"\xf1abc"  # two frames of the same length in three bytes
    payloads = [odd] * 5 + encoded_packets("libopus", voice(1.0, rate_hz=48_000), 48_000)
    found = read(
        sent(payloads, 960, clock_hz=48_000, payload_type=111),
        payload_types=parse_payload_types("111=opus/48000/2"),
    )
    assert isinstance(found.items[0], LegAudio)
    assert found.only.damaged == 5 and found.only.start_s == pytest.approx(0.1)
    assert found.only.duration_s == pytest.approx(1.0, abs=0.021)


def test_a_change_of_codec_and_rate_keeps_the_leg():
    wide = voice(2.0)
    first = sent(PAYLOADS[:100])
    second = sent(linear16(wide), 320, clock_hz=16_000, payload_type=97, sequence=200, timestamp=9, start_s=2.0)
    found = read(first + second, payload_types=parse_payload_types("97=L16/16000"))
    assert found.only.codecs == ("PCMU", "L16") and found.only.sample_rate_hz == 8000
    assert len(found.samples()) == 32_000 and not np.isnan(found.samples()).any()
    assert found.only.jitter_max_ms == pytest.approx(0.0, abs=0.01), "another clock is no jitter"


def test_a_snap_length_leaves_figures_and_no_sound():
    packets = [ethernet(ip_packet(one.rtp()))[:60] for one in sent(PAYLOADS)]
    found = Read(Capture([(i * 0.02, frame) for i, frame in enumerate(packets)]).pcap())
    assert (found.only.packets, found.only.lost) == (200, 0)
    assert found.only.channel is None and "packets_not_read" in found.codes


def test_fragments_are_named():
    whole = ip_packet(bytes(3000))
    whole.mf = 1
    found = Read(Capture().add(sent(PAYLOADS[:20])).pcap() + Capture([(1.0, ethernet(whole))]).pcap()[24:])
    assert found.codes == ["packets_not_read"] and len(found.report.streams) == 1


def test_a_cut_capture_is_read_up_to_there():
    found = Read(Capture().add(sent(PAYLOADS)).pcap()[:-100])
    assert found.codes == ["samples_missing"] and found.only.packets == 199


@pytest.mark.parametrize("count", [2**31 - 1, 2**32 - 1, 300_000])
def test_a_length_that_lies_ends_the_reading(count):
    data = bytearray(Capture().add(sent(PAYLOADS)).pcap())
    at = 24 + 100 * (16 + 214)
    struct.pack_into("<I", data, at + 8, count)
    found = Read(bytes(data))
    assert found.codes == ["samples_missing"] and found.only.packets == 100


@pytest.mark.parametrize("jump", [2**31 - 1, 2**31, 2**32 - 200_000, 10**9])
def test_timestamps_that_jump_by_hours_make_no_hours(jump):
    talk = sent(PAYLOADS)
    found = read(talk[:100] + [replace(one, timestamp=one.timestamp + jump) for one in talk[100:]])
    assert found.only.clock_resets == 1 and found.codes == ["clock_reset"]
    assert len(found.samples()) == 32_000


def test_a_leg_ends_at_the_longest_duration():
    talk = sent(PAYLOADS)
    shift = 30 * 3600
    later = [replace(one, at_s=one.at_s + shift, timestamp=one.timestamp + shift * 8000) for one in talk[100:]]
    found = read(talk[:100] + later, max_duration_s=3600.0)
    assert found.codes.count("leg_cut") == 1
    assert found.only.duration_s == 3600.0 and len(found.items) < 20


def test_too_many_streams_are_refused():
    packets = [one for number in range(5) for one in sent(PAYLOADS[:6], ssrc=number)]
    with pytest.raises(PayloadTooLarge, match="at most 4 RTP streams"):
        read(packets, max_streams=4)


def test_a_file_that_is_no_capture_is_refused():
    for data in (b"", b"\xd4\xc3", b"RIFF" + bytes(40), b"\xd4\xc3\xb2\xa1\x02\x00", b"\x0a\x0d\x0d\x0a" + bytes(20)):
        with pytest.raises(InvalidAudio, match="capture"):
            Read(data)


@pytest.mark.parametrize("text", ["96", "96=opus", "200=opus/48000", "96=foo/8000", "96=opus/48000;"])
def test_wrong_payload_types_are_refused(text):
    with pytest.raises(ProtocolError, match="payload_types"):
        parse_payload_types(text)


def test_lengths_of_opus_packets():
    assert opus_samples(b"\x08") == 960, "SILK, 20 ms"
    assert opus_samples(b"\x1b\x02") == 2 * 2880, "two frames of 60 ms"
    assert opus_samples(b"\x19") == 2 * 2880 and opus_samples(b"\xe0") == 120 and opus_samples(b"\xfc") == 960
    assert opus_samples(b"") == opus_samples(b"\x1b") == opus_samples(b"\x1b\x3f") == 0
