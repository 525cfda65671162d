"""Decode corrupt, unsupported or too large files: the right error, early, with a helpful message."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_qc.audio import DecodeLimits
from speech_qc.audio.decode import Decoder, decode_file
from speech_qc.audio.media import media_is_installed
from speech_qc.audio.segments import Segment, Window
from speech_qc.audio.wav import HEADER_LIMIT_BYTES
from speech_qc.errors import ClientError, InvalidAudio, PayloadTooLarge, UnsupportedFormat

SAMPLES = (np.sin(np.arange(16_000) * 0.1) * 20_000).astype("<i2")
WAV_HEADER_BYTES = 44


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def wav(
    *,
    tag: int = 1,
    channels: int = 1,
    rate_hz: int = 16_000,
    bits: int = 16,
    block_align: int | None = None,
    byte_rate: int | None = None,
    data_bytes: int | None = None,
    data: bytes = SAMPLES.tobytes(),
) -> bytes:
    align = channels * bits // 8 if block_align is None else block_align
    rate = rate_hz * align if byte_rate is None else byte_rate
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, rate, align, bits)
    size = len(data) if data_bytes is None else data_bytes
    body = b"WAVE" + chunk(b"fmt ", form) + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", min(36 + size, 0xFFFFFFFF)) + body


def written(container: str, subtype: str, frames: int = 40_000, channels: int = 1, rate_hz: int = 16_000) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(5).uniform(-0.5, 0.5, (frames, channels))
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def decode(recording: bytes, limits: DecodeLimits | None = None, piece: int = 1000) -> int:
    decoder = Decoder(limits or DecodeLimits())
    for start in range(0, len(recording), piece):
        decoder.push(recording[start : start + piece])
    for _ in decoder.finish():
        pass
    return decoder.frames


def fails_alike(recording: bytes, error: type[ClientError], match: str, tmp_path: Path) -> ClientError:
    """Check that the body in two cuts and the file on disk get the same error."""
    for piece in (7, 1 << 20):
        with pytest.raises(error, match=match):
            decode(recording, piece=piece)
    path = tmp_path / "recording"
    path.write_bytes(recording)
    with pytest.raises(error, match=match) as caught:
        for _ in decode_file(path):
            pass
    return caught.value


def without_media(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behave as without the extra `media`."""
    monkeypatch.setattr("speech_qc.audio.media.pyav_folder", lambda: None)


def test_an_empty_body_is_refused(tmp_path: Path) -> None:
    fails_alike(b"", InvalidAudio, "empty body", tmp_path)


@pytest.mark.parametrize(
    ("first", "guess"),
    [
        (b"hello, this is not audio at all, sorry", "like text"),
        (b"hi", "like text"),
        ("Grüße".encode("utf-16") * 5, "like text"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "like matroska"),
        (b"\x00\x00\x00\x20ftypM4A " + bytes(40), "like mp4"),
        (b"\xff\xf1\x50\x80" + bytes(40), "like aac"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://example.org/a.ts", "like a playlist"),
        (b"PK\x03\x04" + bytes(40), "like a compressed archive"),
        (b"RIFF\x24\x00\x00\x00AVI LIST" + bytes(40), "like avi"),
        (b"RIFF\x24\x00\x00\x00RMIDdata" + bytes(40), "but not WAVE"),
        (bytes(40), "got first bytes"),
        (bytes(range(128, 228)), "got first bytes"),
    ],
)
def test_unknown_bytes_are_named_and_the_readable_formats_listed(
    first: bytes, guess: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_media(monkeypatch)
    error = fails_alike(first, UnsupportedFormat, guess, tmp_path)
    assert repr(first[:12]) in error.message
    assert error.detail["first_bytes"] == first[:12].hex()
    for name in ("WAV", "FLAC", "Ogg Opus", "MP3"):
        assert name in error.message


def test_unknown_bytes_are_refused_before_the_rest_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    without_media(monkeypatch)
    with pytest.raises(UnsupportedFormat, match=r"sent as audio/webm, talk\.webm"):
        Decoder(DecodeLimits(), content_type="audio/webm", filename="talk.webm").push(b"\x1a\x45\xdf\xa3" + bytes(20))


@pytest.mark.parametrize("first", [b"OggS", b"fLaC", b"ID3\x04", b"FORM\0\0\0\x10AIFF", b"caff\0\1\0\0", b".snd"])
def test_a_signature_without_audio_behind_it_is_refused(first: bytes, tmp_path: Path) -> None:
    fails_alike(first + bytes(100), ClientError, "upload", tmp_path)


def test_a_wav_in_an_encoding_no_library_reads_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = wav(tag=0x4321, block_align=1000)
    fails_alike(recording, UnsupportedFormat, "tag 0x4321", tmp_path)
    without_media(monkeypatch)
    error = fails_alike(recording, UnsupportedFormat, "libsndfile rejects", tmp_path)
    assert "tag 0x4321" in error.message and "pip install 'speech-qc[media]'" in error.message


@pytest.mark.parametrize("count", [4, 11, 12, 20, 30, 40, 43, WAV_HEADER_BYTES])
def test_a_wav_header_without_samples_is_refused(count: int, tmp_path: Path) -> None:
    fails_alike(wav(data_bytes=0)[:count], InvalidAudio, "header only", tmp_path)


def test_a_wav_that_is_empty_on_purpose_is_refused(tmp_path: Path) -> None:
    body = wav(data=b"")[12:] + chunk(b"LIST", b"INFOISFT\x04\0\0\0abcd" * 10)
    recording = b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body
    fails_alike(recording, InvalidAudio, "header only", tmp_path)


def test_another_header_without_samples_is_refused(tmp_path: Path) -> None:
    fails_alike(written("AU", "PCM_16", frames=0), InvalidAudio, "header only", tmp_path)


def test_zero_channels_are_refused(tmp_path: Path) -> None:
    fails_alike(wav(channels=0), InvalidAudio, "got 0 in the header", tmp_path)


@pytest.mark.parametrize(
    "recording", [wav(channels=9), written("FLAC", "PCM_16", channels=8), wav(channels=40, bits=8)]
)
def test_more_channels_than_allowed_are_refused(recording: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match="at most 7 channels"):
        decode(recording, DecodeLimits(max_channels=7))


@pytest.mark.parametrize("rate_hz", [0, 7_999, 192_001, 0xFFFFFFF])
def test_a_wav_rate_outside_the_range_is_refused(rate_hz: int, tmp_path: Path) -> None:
    byte_rate = rate_hz * 2 & 0xFFFFFFFF
    fails_alike(wav(rate_hz=rate_hz, byte_rate=byte_rate), InvalidAudio, f"got {rate_hz} Hz", tmp_path)


def test_a_rate_outside_the_range_is_refused_in_other_formats(tmp_path: Path) -> None:
    fails_alike(written("AU", "PCM_16", rate_hz=4_000), InvalidAudio, "got 4000 Hz", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bits", [32, 64])
def test_a_sample_that_is_not_finite_is_refused_with_its_position(bad: float, bits: int, tmp_path: Path) -> None:
    samples = np.zeros((70_000, 2), f"<f{bits // 8}")
    samples[68_000, 1] = bad
    recording = wav(tag=3, channels=2, bits=bits, data=samples.tobytes())
    error = fails_alike(recording, InvalidAudio, r"sample 68000 \(4\.2500 s\) of channel 1", tmp_path)
    assert error.detail == {"sample": 68_000, "position_s": 4.25, "channel": 1}


def test_a_double_beyond_float32_is_refused_as_infinite(tmp_path: Path) -> None:
    recording = wav(tag=3, bits=64, data=np.array([0, 1e300], "<f8").tobytes())
    fails_alike(recording, InvalidAudio, "finite samples, got inf at sample 1", tmp_path)


def test_a_sample_that_is_not_finite_is_refused_in_other_formats(tmp_path: Path) -> None:
    samples = np.zeros(100, np.float32)
    samples[42] = np.nan
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="AU", subtype="FLOAT")
    fails_alike(file.getvalue(), InvalidAudio, "nan at sample 42", tmp_path)


def test_a_total_known_in_advance_is_refused_before_any_byte() -> None:
    with pytest.raises(PayloadTooLarge, match="at most 1000 bytes, the recording has 1001"):
        Decoder(DecodeLimits(max_bytes=1000), total_bytes=1001)


def rf64(data_bytes: int) -> bytes:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", data_bytes + 72, data_bytes, 0, 0))
    body = wav(data_bytes=0xFFFFFFFF, data=b"")[12:]
    return b"RF64\xff\xff\xff\xffWAVE" + ds64 + body


@pytest.mark.parametrize(
    "first",
    [
        wav(data_bytes=0x30000000, data=b""),
        wav(tag=0x0011, bits=4, block_align=256, data_bytes=0x30000000, data=b""),
        rf64((1 << 40) + 12_345),
        b"FORM\x30\x00\x00\x00AIFFCOMM" + bytes(20),
        b".snd\0\0\0\x18\x30\0\0\0" + bytes(20),
        b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0" + struct.pack("<Q", (1 << 40) + 12_345) + bytes(20),
    ],
    ids=["wav", "adpcm", "rf64", "aiff", "au", "w64"],
)
def test_a_declared_size_above_the_limit_is_refused_at_once(first: bytes) -> None:
    with pytest.raises(PayloadTooLarge, match="at most 536870912 bytes, the header declares"):
        Decoder(DecodeLimits()).push(first)


@pytest.mark.parametrize("recording", [wav(data_bytes=0xFFFFFFFF), written("FLAC", "PCM_16")])
def test_bytes_above_the_limit_are_refused_while_they_come(recording: bytes) -> None:
    decoder = Decoder(DecodeLimits(max_bytes=20_000))
    decoder.push(recording[:20_000])
    with pytest.raises(PayloadTooLarge, match="at most 20000 bytes, already received 20001"):
        decoder.push(recording[20_000:20_001])


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "recording"
    path.write_bytes(bytes(20_001))
    with pytest.raises(PayloadTooLarge, match="the recording has 20001"):
        decode_file(path, DecodeLimits(max_bytes=20_000))


def test_a_declared_duration_above_the_limit_is_refused_at_once() -> None:
    with pytest.raises(PayloadTooLarge, match=r"at most 0\.5 s of audio, got 1\.0 s"):
        Decoder(DecodeLimits(max_duration_s=0.5)).push(wav()[:WAV_HEADER_BYTES])
    decoder = Decoder(DecodeLimits(max_duration_s=0.5))
    decoder.push(written("FLAC", "PCM_16"))
    with pytest.raises(PayloadTooLarge, match=r"at most 0\.5 s of audio, got 2\.5 s"):
        decoder.finish()  # before any block is requested


def test_an_undeclared_duration_above_the_limit_is_refused_when_reached() -> None:
    decoder = Decoder(DecodeLimits(max_duration_s=0.5))
    recording = wav(data_bytes=0xFFFFFFFF)
    decoder.push(recording[: WAV_HEADER_BYTES + 16_000])
    with pytest.raises(PayloadTooLarge, match=r"at most 0\.5 s"):
        decoder.push(recording[WAV_HEADER_BYTES + 16_000 :])


@pytest.mark.parametrize(
    ("container", "subtype"),
    [
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("MP3", "MPEG_LAYER_III"),
        ("NIST", "PCM_16"),
        ("OGG", "OPUS"),
    ],
)
def test_half_a_recording_is_read_with_a_warning(container: str, subtype: str, tmp_path: Path) -> None:
    recording = written(container, subtype)
    assert decode(recording) >= 40_000
    path = tmp_path / "recording"
    path.write_bytes(recording[: len(recording) // 2])
    file = decode_file(path)
    assert 0.3 * 40_000 < sum(map(len, file)) < 0.6 * 40_000
    assert {warning.code for warning in file.warnings} <= {"samples_missing", "samples_damaged"}
    assert "upload the whole file" in file.warnings[0].message


@pytest.mark.parametrize("subtype", ["PCM_16", "ALAC_16"])
def test_half_a_recording_that_cannot_be_decoded_is_refused(subtype: str, tmp_path: Path) -> None:
    recording = written("CAF", subtype)
    fails_alike(recording[: len(recording) // 2], InvalidAudio, "whole", tmp_path)


def test_an_mp3_that_libsndfile_would_cut_short_needs_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = written("MP3", "MPEG_LAYER_III", frames=160_000)
    without_tag = recording[recording.index(recording[:2], 100) :]  # variable bit rate, its length is a guess now
    if media_is_installed():
        assert decode(without_tag) == pytest.approx(160_000, abs=3000)
    monkeypatch.setattr("speech_qc.audio.decode.media_is_installed", lambda: False)
    path = tmp_path / "recording"
    path.write_bytes(without_tag)
    file = decode_file(path)
    assert sum(map(len, file)) < 150_000
    assert [warning.code for warning in file.warnings] == ["bytes_not_read"]


@pytest.mark.parametrize(
    ("recording", "match"),
    [
        (b"RIFF\x40\0\0\0WAVE" + chunk(b"fmt ", bytes(14)) + chunk(b"data", bytes(90)), "16 bytes or more, got 14"),
        (b"RIFF\x40\0\0\0WAVE" + chunk(b"data", bytes(90)), "'fmt ' chunk before the samples"),
        (b"RF64\xff\xff\xff\xffWAVE" + wav(data_bytes=0xFFFFFFFF)[12:], "'ds64' chunk"),
        (b"RF64\xff\xff\xff\xffWAVE" + chunk(b"ds64", bytes(16)) + wav()[12:], "28 bytes or more, got 16"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(recording: bytes, match: str, tmp_path: Path) -> None:
    fails_alike(recording, InvalidAudio, match, tmp_path)


@pytest.mark.parametrize("size", [HEADER_LIMIT_BYTES, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_huge_chunk_before_the_samples_is_refused_without_waiting_for_it(size: int) -> None:
    decoder = Decoder(DecodeLimits())
    with pytest.raises(InvalidAudio, match="within its first 1048576 bytes"):
        decoder.push(b"RIFF\xff\xff\xff\xffWAVEJUNK" + struct.pack("<I", size) + bytes(8))


def test_endless_empty_chunks_end_at_the_header_limit() -> None:
    decoder = Decoder(DecodeLimits())
    decoder.push(b"RIFF\xff\xff\xff\xffWAVE")
    with pytest.raises(InvalidAudio, match="within its first 1048576 bytes"):
        for _ in range(HEADER_LIMIT_BYTES // 8000 + 2):
            decoder.push(b"JUNK\0\0\0\0" * 1000)


def test_a_missing_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.wav", tmp_path):
        with pytest.raises(InvalidAudio, match="expected a readable file"):
            decode_file(path)


@pytest.mark.parametrize("make", [lambda: wav(), lambda: rf64(32_000) + SAMPLES.tobytes()], ids=["wav", "rf64"])
@settings(max_examples=60)
@given(flips=st.lists(st.tuples(st.integers(0, 79), st.integers(0, 255)), max_size=6))
def test_a_damaged_header_gives_samples_or_a_client_error(
    make: Callable[[], bytes], flips: list[tuple[int, int]]
) -> None:
    recording = bytearray(make())
    for position, value in flips:
        recording[position] = value
    try:
        assert decode(bytes(recording)) > 0
    except ClientError as error:
        assert error.message


DAMAGED = ("WAV IMA_ADPCM", "W64 PCM_16", "AIFF PCM_16", "AU PCM_16", "CAF ALAC_16", "FLAC PCM_16", "OGG VORBIS")


@pytest.mark.parametrize("kind", DAMAGED)
@settings(max_examples=25)
@given(flips=st.lists(st.tuples(st.integers(0, 119), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_damaged_recording_gives_samples_or_a_client_error(kind: str, flips: list[tuple[int, int]]) -> None:
    container, subtype = kind.split()
    recording = bytearray(written(container, subtype, frames=1000))
    for position, value in flips:
        recording[position] = value
    try:
        assert decode(bytes(recording)) > 0
    except ClientError as error:
        assert error.message


def test_libsndfile_may_seek_before_the_start_of_a_body() -> None:
    window = Window(io.BytesIO(bytes(100)), Segment(20, 80))
    window.seek(10)
    assert window.seek(-1) == window.seek(1 << 63) == 10
    assert len(window.read()) == 50
