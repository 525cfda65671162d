"""Recordings as real programs write them: contradictory headers, joined files, unknown sizes; all sound is read."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speech_qc.audio import AudioWarning, DecodeLimits, RawFormat
from speech_qc.audio.decode import Decoder, decode_file
from speech_qc.audio.segments import find_segments
from speech_qc.errors import InvalidAudio, PayloadTooLarge

RATE_HZ = 16_000
SAMPLES = (np.random.default_rng(7).uniform(-0.5, 0.5, RATE_HZ) * 32767).astype("<i2")
PCM = SAMPLES.tobytes()
FLOATS = SAMPLES[:, None] / np.float32(32768)

MP3_TAG = b"\xff\xfb\x90\0" + bytes(32) + b"Xing" + struct.pack(">II", 2, 48 * 5_000)


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + bytes(len(body) % 2)


def wav(
    data: bytes = PCM,
    *,
    size: int | None = None,
    align: int = 2,
    byte_rate: int = 32_000,
    bits: int = 16,
    rate_hz: int = RATE_HZ,
    tag: int = 1,
    after: bytes = b"",
    name: bytes = b"RIFF",
) -> bytes:
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", tag, 1, rate_hz, byte_rate, align, bits))
    body = b"WAVE" + fmt + chunk(b"data", data, size) + after
    return name + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body


def decoded(
    recording: bytes, tmp_path: Path, raw: RawFormat | None = None
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.float32]], list[AudioWarning]]:
    """Decode as a body in small and in large pieces and as a file; all must agree."""
    path = tmp_path / "recording"
    path.write_bytes(recording)
    file = decode_file(path, raw=raw)
    samples = np.concatenate(list(file))
    for piece in (617, 1 << 20):
        for total_bytes in (None, len(recording)):
            decoder = Decoder(DecodeLimits(), total_bytes=total_bytes, raw=raw)
            blocks = []
            for start in range(0, len(recording), piece):
                blocks += decoder.push(recording[start : start + piece])
            blocks += list(decoder.finish())
            np.testing.assert_array_equal(np.concatenate(blocks), samples)
            assert decoder.warnings == file.warnings
            assert decoder.frames == len(samples)
    return samples, file.warnings


def codes(warnings: list[AudioWarning]) -> list[str]:
    return [warning.code for warning in warnings]


@pytest.mark.parametrize("align", [0, 1, 4, 65535])
def test_a_wrong_block_align_is_ignored_with_a_warning(align: int, tmp_path: Path) -> None:
    samples, warnings = decoded(wav(align=align), tmp_path)
    np.testing.assert_array_equal(samples, FLOATS)
    assert codes(warnings) == ["header_field_ignored"]
    assert f"block align of 2 for 1 channel(s) of 16 bits at 16000 Hz, got {align}" in warnings[0].message


@pytest.mark.parametrize("byte_rate", [0, 256, 16_000, 64_000])
def test_a_wrong_byte_rate_is_ignored_with_a_warning(byte_rate: int, tmp_path: Path) -> None:
    samples, warnings = decoded(wav(byte_rate=byte_rate), tmp_path)
    np.testing.assert_array_equal(samples, FLOATS)
    assert codes(warnings) == ["header_field_ignored"]
    assert f"byte rate of 32000 for 1 channel(s) of 16 bits at 16000 Hz, got {byte_rate}" in warnings[0].message


@pytest.mark.parametrize(
    "size", [0x80000000, 0x80000024, 0x7FFFF024, 2_000_000_000, 0xFFFFFFFF, 0xFFFF0000, 4_000_000_000]
)
def test_a_round_size_means_unknown_and_the_file_is_read_to_its_end(size: int, tmp_path: Path) -> None:
    samples, warnings = decoded(wav(size=size), tmp_path)
    np.testing.assert_array_equal(samples, FLOATS)
    assert warnings == []


@pytest.mark.parametrize("surplus", [1, 2, 8, 16, 36, 44, len(PCM)])
def test_a_size_that_is_too_large_is_read_to_the_end_with_a_warning(surplus: int, tmp_path: Path) -> None:
    samples, warnings = decoded(wav(size=len(PCM) + surplus), tmp_path)
    np.testing.assert_array_equal(samples, FLOATS)
    assert codes(warnings) == ["samples_missing"]
    assert f"{surplus} bytes (about {surplus / 32_000:.3f} s) are missing" in warnings[0].message


def test_half_a_recording_says_how_much_is_missing(tmp_path: Path) -> None:
    samples, warnings = decoded(wav()[: 44 + len(PCM) // 2], tmp_path)
    np.testing.assert_array_equal(samples, FLOATS[: RATE_HZ // 2])
    assert "16000 bytes (about 0.500 s) are missing" in warnings[0].message


@pytest.mark.parametrize(
    ("container", "subtype"),
    [("WAV", "IMA_ADPCM"), ("WAV", "GSM610"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16")],
)
def test_half_of_other_containers_says_that_bytes_are_missing(container: str, subtype: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, FLOATS, RATE_HZ, format=container, subtype=subtype)
    recording = file.getvalue()
    samples, warnings = decoded(recording[: len(recording) // 2], tmp_path)
    assert 0.4 * RATE_HZ < len(samples) < 0.6 * RATE_HZ
    assert codes(warnings) == ["samples_missing"]


def left(samples: np.ndarray[tuple[int], np.dtype[np.int32]]) -> bytes:
    return (samples << 8).astype("<i4").tobytes()


def right(samples: np.ndarray[tuple[int], np.dtype[np.int32]]) -> bytes:
    return samples.astype("<i4").tobytes()


@pytest.mark.parametrize("silence", [0, 3, 6000])
@pytest.mark.parametrize("justified", [left, right])
def test_24_bits_in_four_bytes_are_read_wherever_they_are(
    justified: Callable[..., bytes], silence: int, tmp_path: Path
) -> None:
    values = np.random.default_rng(3).integers(-(1 << 22), 1 << 22, RATE_HZ).astype(np.int32)
    values[:silence] = 0
    samples, _ = decoded(wav(justified(values), bits=24, align=4, byte_rate=64_000), tmp_path)
    np.testing.assert_array_equal(samples[:, 0], values / np.float32(1 << 23))


def test_a_further_data_chunk_is_read(tmp_path: Path) -> None:
    half = len(PCM) // 2
    samples, warnings = decoded(
        wav(PCM[:half], after=chunk(b"LIST", b"INFOodd") + chunk(b"data", PCM[half:]) + chunk(b"id3 ", b"x")), tmp_path
    )
    np.testing.assert_array_equal(samples, FLOATS)
    assert warnings == []


def test_joined_wav_files_are_read_as_one(tmp_path: Path) -> None:
    samples, warnings = decoded(wav() + wav() + wav(), tmp_path)
    np.testing.assert_array_equal(samples, np.tile(FLOATS, (3, 1)))
    assert codes(warnings) == ["joined"]
    assert "got 3 of the same format" in warnings[0].message


@pytest.mark.parametrize("begin", [wav, lambda data: chunk(b"data", data)], ids=["recording", "data chunk"])
def test_further_samples_begin_with_a_whole_sample(begin: Callable[[bytes], bytes], tmp_path: Path) -> None:
    samples, _ = decoded(wav(PCM[:1001]) + begin(PCM), tmp_path)
    np.testing.assert_array_equal(samples, np.concatenate([FLOATS[:500], FLOATS]))


@pytest.mark.parametrize("short", [chunk(b"data", b""), wav(PCM[:2])], ids=["data chunk", "recording"])
def test_the_time_for_many_short_parts_grows_with_their_number_only(short: bytes) -> None:
    count = (1 << 21) // len(short)
    decoder = Decoder(DecodeLimits())
    started_s = time.process_time()
    decoder.push(wav() + short * count)
    list(decoder.finish())
    assert time.process_time() - started_s < 5
    assert decoder.frames == len(FLOATS) + count * (short[:4] == b"RIFF")


def test_a_joined_wav_of_another_format_is_named_with_its_bytes_and_seconds(tmp_path: Path) -> None:
    second = wav(rate_hz=8000, byte_rate=16_000)
    samples, warnings = decoded(wav() + second, tmp_path)
    np.testing.assert_array_equal(samples, FLOATS)
    assert codes(warnings) == ["bytes_not_read"]
    assert f"{len(second)} more bytes (about 1.0 s)" in warnings[0].message
    assert "another format (8000 Hz" in warnings[0].message


def test_a_size_that_is_too_small_says_how_much_was_left(tmp_path: Path) -> None:
    samples, warnings = decoded(wav(size=len(PCM) // 4), tmp_path)
    np.testing.assert_array_equal(samples, FLOATS[: RATE_HZ // 4])
    assert codes(warnings) == ["bytes_not_read"]
    assert "24000 more bytes (about 0.8 s)" in warnings[0].message


@pytest.mark.parametrize("after", [bytes(5000), chunk(b"LIST", b"INFO"), chunk(b"abcd", b"\xff" * 99), b"\0"])
def test_padding_and_other_chunks_after_the_samples_are_no_problem(after: bytes, tmp_path: Path) -> None:
    samples, warnings = decoded(wav(after=after), tmp_path)
    np.testing.assert_array_equal(samples, FLOATS)
    assert warnings == []


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "GSM610"])
def test_a_wav_behind_a_compressed_one_is_named(subtype: str, tmp_path: Path) -> None:
    first = encoded("WAV", subtype, 1.0)
    _, warnings = decoded(first + wav(), tmp_path)
    assert codes(warnings) == ["bytes_not_read"]
    assert f"{len(wav())} more bytes" in warnings[0].message


def test_bw64_is_read(tmp_path: Path) -> None:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 0, len(PCM), RATE_HZ, 0))
    plain = wav(size=0xFFFFFFFF)
    samples, warnings = decoded(b"BW64\xff\xff\xff\xffWAVE" + ds64 + plain[12:], tmp_path)
    np.testing.assert_array_equal(samples, FLOATS)
    assert warnings == []


def encoded(container: str, subtype: str, seconds: float, rate_hz: int = RATE_HZ, seed: int = 1) -> bytes:
    file = io.BytesIO()
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    sound = 0.3 * np.sin(2 * np.pi * (200 + 50 * seed) * t)
    soundfile.write(file, sound, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_ogg_is_read_to_its_end(subtype: str, tmp_path: Path) -> None:
    chained = b"".join(encoded("OGG", subtype, 2.0, seed=seed) for seed in range(3))
    samples, warnings = decoded(chained, tmp_path)
    assert len(samples) == pytest.approx(6 * RATE_HZ, abs=100)
    assert codes(warnings) == ["joined"]
    assert np.abs(samples[-RATE_HZ:]).max() > 0.25


def test_a_chained_link_of_another_rate_is_named_with_its_seconds(tmp_path: Path) -> None:
    second = encoded("OGG", "VORBIS", 2.0, rate_hz=32_000)
    samples, warnings = decoded(encoded("OGG", "VORBIS", 2.0) + second, tmp_path)
    assert len(samples) == pytest.approx(2 * RATE_HZ, abs=100)
    assert codes(warnings) == ["bytes_not_read"]
    assert f"got {len(second)} more bytes" in warnings[0].message


def test_a_second_track_in_ogg_is_named(tmp_path: Path) -> None:
    first, second = (bytearray(encoded("OGG", "VORBIS", 2.0, seed=seed)) for seed in range(2))
    struct.pack_into("<I", second, 14, 12345)  # the serial number of its first page; libsndfile ignores that track
    page_bytes = 28 + second[27]
    struct.pack_into("<I", second, 22, 0)
    struct.pack_into("<I", second, 22, ogg_crc(second[:page_bytes]))
    samples, warnings = decoded(bytes(first[:page_bytes] + second[:page_bytes] + first[page_bytes:]), tmp_path)
    assert len(samples) == pytest.approx(2 * RATE_HZ, abs=100)
    assert codes(warnings) == ["tracks_not_read"]


@pytest.mark.parametrize("link", [b"OggS\0\x02", MP3_TAG], ids=["ogg", "mp3"])
def test_more_links_than_any_recorder_writes_are_refused(link: bytes) -> None:
    decoder = Decoder(DecodeLimits())
    decoder.push(link * 10_002)
    with pytest.raises(InvalidAudio, match="at most 10000 recordings joined"):
        decoder.finish()


def test_a_chain_of_tags_is_not_followed_for_each_recording() -> None:
    tag = b"ID3\x03" + bytes(5) + b"\x26" + bytes(38)  # as long as a frame, so that each frame refers to one
    recording = MP3_TAG * 5_000 + tag * 10_000
    started_s = time.process_time()
    find_segments(io.BytesIO(recording), len(recording))
    assert time.process_time() - started_s < 5


def test_opus_without_an_input_rate_is_decoded_at_48_khz(tmp_path: Path) -> None:
    recording = bytearray(encoded("OGG", "OPUS", 2.0))
    head = recording.index(b"OpusHead")
    recording[head + 12 : head + 16] = bytes(4)
    page_bytes = 27 + recording[26] + recording[27]
    struct.pack_into("<I", recording, 22, 0)
    struct.pack_into("<I", recording, 22, ogg_crc(recording[:page_bytes]))
    path = tmp_path / "recording"
    path.write_bytes(recording)
    with decode_file(path) as file:
        assert file.info.sample_rate_hz == 48_000
    samples, _ = decoded(bytes(recording), tmp_path)
    assert len(samples) == pytest.approx(2 * 48_000, abs=400)


def ogg_crc(page: bytes | bytearray) -> int:
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
        table.append(crc)
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ table[crc >> 24 ^ byte]
    return crc


def test_mp3_files_joined_behind_a_tag_are_read_to_the_end(tmp_path: Path) -> None:
    first, second = encoded("MP3", "MPEG_LAYER_III", 2.0), encoded("MP3", "MPEG_LAYER_III", 3.0, seed=4)
    assert any(tag in first[:200] for tag in (b"Xing", b"Info"))
    picture = b"ID3\x04\0\0\0\0\x60\0" + bytes(0x60 << 7)  # more than any trailer
    for between in (b"", picture, b"TAG" + bytes(125), b"TAG" + bytes(125) + picture):
        samples, warnings = decoded(first + between + second, tmp_path)
        assert len(samples) == pytest.approx(5 * RATE_HZ, abs=3000)
        assert codes(warnings) == ["joined"]


def test_an_mp3_within_a_tag_is_not_taken_for_a_recording(tmp_path: Path) -> None:
    recording = encoded("MP3", "MPEG_LAYER_III", 2.0)
    tag = b"ID3\x03\0\0\0\0" + bytes([len(recording) >> 7, len(recording) & 0x7F]) + recording
    samples, warnings = decoded(tag + recording, tmp_path)
    assert len(samples) == pytest.approx(2 * RATE_HZ, abs=3000)
    assert warnings == []


def test_a_tagged_mp3_followed_by_untagged_frames_is_read_to_the_end(tmp_path: Path) -> None:
    first, second = encoded("MP3", "MPEG_LAYER_III", 2.0), encoded("MP3", "MPEG_LAYER_III", 2.0, seed=4)
    frame = second.index(second[:2], 100)  # without the frame that has the tag
    parts = find_segments(io.BytesIO(first + second[frame:]), len(first) + len(second) - frame)
    assert [part.start for part in parts] == [0, len(first)]


def test_sizes_that_a_header_only_claims_do_not_count_towards_the_limit() -> None:
    recording = wav(size=0x80000000)
    decoder = Decoder(DecodeLimits(max_bytes=100_000), total_bytes=len(recording))
    decoder.push(recording)
    assert sum(map(len, decoder.finish())) + decoder.frames == RATE_HZ
    with pytest.raises(PayloadTooLarge, match="the header declares"):
        Decoder(DecodeLimits(max_bytes=100_000)).push(wav(size=123_456)[:60])


@pytest.mark.parametrize("rate_hz", [0, 1, 0xFFFFFFFF])
def test_an_impossible_rate_is_refused_before_any_sample_is_read(rate_hz: int) -> None:
    with pytest.raises(InvalidAudio, match="expected a sample rate of 8000 to 192000 Hz"):
        Decoder(DecodeLimits()).push(wav(b"\xff" * 4000, tag=3, bits=32, align=4, rate_hz=rate_hz, byte_rate=0))


RAW_KINDS = [("linear16", "PCM_16"), ("mulaw", "ULAW"), ("alaw", "ALAW"), ("float32", "FLOAT"), ("vox", "VOX_ADPCM")]


@pytest.mark.parametrize(("encoding", "subtype"), RAW_KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_audio_without_a_header_is_read_as_declared(encoding: str, subtype: str, channels: int, tmp_path: Path) -> None:
    if encoding == "vox" and channels == 2:
        pytest.skip("VOX has one channel")
    file = io.BytesIO()
    sound = np.random.default_rng(2).uniform(-0.5, 0.5, (RATE_HZ, channels))
    soundfile.write(file, sound, RATE_HZ, format="RAW", subtype=subtype)
    samples, warnings = decoded(file.getvalue(), tmp_path, RawFormat(encoding, RATE_HZ, channels))  # type: ignore[arg-type]
    assert samples.shape == (RATE_HZ, channels)
    if encoding != "vox":
        np.testing.assert_allclose(samples, sound, atol=0.02)
    assert warnings == []


def test_gsm_without_a_header_is_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    t = np.arange(8000) / 8000
    soundfile.write(file, 0.5 * np.sin(2 * np.pi * 440 * t), 8000, format="RAW", subtype="GSM610")
    samples, _ = decoded(file.getvalue(), tmp_path, RawFormat("gsm", 8000))
    assert len(samples) == pytest.approx(8000, abs=160)
    assert np.abs(samples).max() > 0.3


def test_an_encoding_for_a_recording_with_a_header_is_refused() -> None:
    with pytest.raises(InvalidAudio, match="leave out encoding and sample_rate"):
        Decoder(DecodeLimits(), raw=RawFormat("mulaw", 8000)).push(wav())


def test_less_than_a_sample_without_a_header_is_named() -> None:
    decoder = Decoder(DecodeLimits(), raw=RawFormat("linear16", RATE_HZ, 2))
    decoder.push(b"abc")
    with pytest.raises(InvalidAudio, match=r"at least one linear16 sample per channel, got 3 byte\(s\)"):
        decoder.finish()
