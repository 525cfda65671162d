"""Decode well-formed files: every format, any split of the bytes, in bounded memory."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, DecodeLimits
from speech_qc.audio.decode import Decoder, decode_file
from speech_qc.audio.pcm import BLOCK_FRAMES, pcm_to_float
from speech_qc.errors import InvalidAudio
from speech_qc.settings import Settings

Samples = NDArray[np.float32]

NATIVE = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
FOREIGN = (
    ("WAV", "IMA_ADPCM"),
    ("WAV", "MS_ADPCM"),
    ("WAV", "GSM610"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AIFF", "FLOAT"),
    ("AU", "PCM_16"),
    ("AU", "ULAW"),
    ("CAF", "PCM_24"),
    ("CAF", "ALAC_16"),
    ("NIST", "PCM_16"),
    ("VOC", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
)
EVERY = [("WAV", s) for s in NATIVE] + [("WAVEX", s) for s in NATIVE] + [("RF64", s) for s in NATIVE] + list(FOREIGN)


def noise(frames: int, channels: int) -> Samples:
    return np.random.default_rng(11).uniform(-0.9, 0.9, (frames, channels)).astype(np.float32)


def written(container: str, subtype: str, samples: Samples, rate_hz: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()


def reference(recording: bytes) -> Samples:
    return soundfile.read(io.BytesIO(recording), dtype="float32", always_2d=True)[0]


def decoded(recording: bytes, piece: int | None = None) -> tuple[Samples, Decoder]:
    decoder = Decoder(DecodeLimits())
    blocks: list[Samples] = []
    step = piece or len(recording)
    for start in range(0, len(recording), step):
        blocks += decoder.push(recording[start : start + step])
    blocks += decoder.finish()
    return np.concatenate(blocks), decoder


def chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def pcm_format(channels: int = 1, rate_hz: int = 16_000) -> bytes:
    return chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate_hz, rate_hz * channels * 2, channels * 2, 16))


def riff(*chunks: bytes, size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) if size is None else size) + body


RAW = (noise(500, 1)[:, 0] * 32767).astype("<i2")


@pytest.mark.parametrize(("container", "subtype"), EVERY)
def test_every_format_decodes_as_libsndfile_does(container: str, subtype: str, tmp_path: Path) -> None:
    channels = 1 if subtype == "GSM610" else 2
    recording = written(container, subtype, noise(9_001, channels))
    expected = reference(recording)
    samples, decoder = decoded(recording, 4096)
    assert samples.dtype == np.float32
    # mpg123's last bit depends on the block size of the reads.
    np.testing.assert_allclose(samples, expected, rtol=0, atol=1e-6 if container == "MP3" else 0)
    assert decoder.frames == len(expected)
    name = "wav" if container == "WAVEX" else container.lower()
    assert decoder.info == AudioInfo(16_000, channels, f"{name}/{subtype}", len(expected))

    path = tmp_path / "recording.raw"  # the name must not matter
    path.write_bytes(recording)
    with decode_file(path) as file:
        assert file.info == decoder.info
        np.testing.assert_array_equal(np.concatenate(list(file)), samples)
        assert file.frames == len(expected)


@pytest.mark.parametrize("subtype", NATIVE)
def test_a_wav_pushed_byte_by_byte_gives_the_same_samples(subtype: str) -> None:
    recording = written("WAV", subtype, noise(301, 3))
    np.testing.assert_array_equal(decoded(recording, 1)[0], reference(recording))


@pytest.mark.parametrize("piece", [1, 7, 13, 4096])
@pytest.mark.parametrize("container", ["RF64", "WAVEX", "FLAC"])
def test_the_cut_of_the_bytes_changes_nothing(container: str, piece: int) -> None:
    recording = written(container, "PCM_24", noise(601, 2))
    np.testing.assert_array_equal(decoded(recording, piece)[0], reference(recording))


def test_samples_come_while_the_recording_is_still_arriving() -> None:
    recording = riff(pcm_format(), chunk(b"data", RAW.tobytes()))
    decoder = Decoder(DecodeLimits())
    assert decoder.push(recording[:40]) == []
    assert decoder.info is None
    first = decoder.push(recording[40:244])
    assert decoder.info is not None
    assert sum(len(block) for block in first) == decoder.frames == 100
    assert not decoder.collected


def test_blocks_are_bounded_however_much_is_pushed() -> None:
    recording = written("WAV", "PCM_16", noise(2 * BLOCK_FRAMES + 5, 1))
    decoder = Decoder(DecodeLimits())
    lengths = [len(block) for block in decoder.push(recording)]
    assert sum(lengths) == 2 * BLOCK_FRAMES + 5
    assert max(lengths) <= BLOCK_FRAMES
    collected = Decoder(DecodeLimits())
    assert collected.push(written("FLAC", "PCM_16", noise(BLOCK_FRAMES + 5, 1))) == []
    lengths = [len(block) for block in collected.finish()]
    assert sum(lengths) == BLOCK_FRAMES + 5
    assert max(lengths) <= BLOCK_FRAMES


def test_blocks_do_not_share_memory_with_what_was_pushed() -> None:
    recording = bytearray(written("WAV", "FLOAT", noise(1_000, 1)))
    expected = reference(bytes(recording))
    decoder = Decoder(DecodeLimits())
    blocks = decoder.push(memoryview(recording))
    recording[:] = bytes(len(recording))
    np.testing.assert_array_equal(np.concatenate(blocks), expected)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFF00, 0x7FFFF000, 0x7FFFFFFF])
def test_a_live_recorders_open_size_reads_to_the_end(size: int) -> None:
    header = riff(pcm_format(), b"data" + struct.pack("<I", size), size=size)
    samples, decoder = decoded(header + RAW.tobytes() + b"\x01", 100)  # half a sample at the end
    np.testing.assert_array_equal(samples[:, 0], RAW / np.float32(32768))
    assert decoder.info == AudioInfo(16_000, 1, "wav/PCM_16", None)


@pytest.mark.parametrize("long_size", [0, 0xFFFFFFFFFFFFFFFF])
def test_an_rf64_with_an_open_size_reads_to_the_end(long_size: int) -> None:
    ds64 = chunk(b"ds64", struct.pack("<QQQI", long_size, long_size, 0, 0))
    recording = riff(ds64, pcm_format(), b"data\xff\xff\xff\xff", size=0xFFFFFFFF).replace(b"RIFF", b"RF64", 1)
    samples, decoder = decoded(recording + RAW.tobytes())
    assert len(samples) == len(RAW)
    assert decoder.info == AudioInfo(16_000, 1, "rf64/PCM_16", None)


def test_a_recorder_that_never_filled_in_the_sizes_reads_to_the_end() -> None:
    header = riff(pcm_format(), b"data" + bytes(4))  # RIFF size ends where the samples begin
    assert len(decoded(header + RAW.tobytes())[0]) == len(RAW)


def test_other_chunks_are_skipped_with_their_padding() -> None:
    odd = chunk(b"LIST", b"INFOodd")
    recording = riff(
        chunk(b"JUNK", b"x" * 27), pcm_format(), odd, chunk(b"data", RAW.tobytes()), odd, chunk(b"id3 ", b"a")
    )
    for piece in (1, 50, len(recording)):
        samples, decoder = decoded(recording, piece)
        np.testing.assert_array_equal(samples[:, 0], RAW / np.float32(32768))
        assert decoder.info is not None
        assert decoder.info.declared_frames == len(RAW)


def test_float_samples_beyond_full_scale_are_kept() -> None:
    loud = noise(100, 1) * 5
    np.testing.assert_array_equal(decoded(written("WAV", "FLOAT", loud))[0], loud)


def test_a_flac_without_a_total_reads_to_the_end() -> None:
    recording = bytearray(written("FLAC", "PCM_16", noise(BLOCK_FRAMES + 999, 1)))
    expected = reference(bytes(recording))
    recording[21] &= 0xF0  # the 36-bit total in STREAMINFO, which an encoder into a pipe leaves at 0
    recording[22:26] = bytes(4)
    samples, decoder = decoded(bytes(recording))
    np.testing.assert_array_equal(samples, expected)
    assert decoder.info == AudioInfo(16_000, 1, "flac/PCM_16", None)


def test_an_mp3_without_an_encoders_tag_is_read_to_the_end() -> None:
    samples = noise(160_000, 1)
    samples[:40_000] = 0  # small first frames: libsndfile's estimate of the length is far too long
    recording = written("MP3", "MPEG_LAYER_III", samples)
    second = recording.index(recording[:2], 100)  # the first frame contains only the tag
    result, decoder = decoded(recording[second:])
    assert len(result) >= 160_000
    assert decoder.info == AudioInfo(16_000, 1, "mp3/mp3", None)


def test_a_big_endian_wav_is_left_to_libsndfile() -> None:
    file = io.BytesIO()
    soundfile.write(file, noise(500, 1), 16_000, format="WAV", subtype="PCM_16", endian="BIG")
    assert file.getvalue()[:4] == b"RIFX"
    np.testing.assert_array_equal(decoded(file.getvalue())[0], reference(file.getvalue()))


def peak_bytes_of_push(seconds: int) -> int:
    """Return the peak memory while a WAV of this length arrives in pieces and each block is discarded."""
    header = riff(pcm_format(), b"data" + struct.pack("<I", seconds * 32_000), size=36 + seconds * 32_000)
    piece = bytes(64_000)
    tracemalloc.start()
    decoder = Decoder(DecodeLimits(max_duration_s=1e6, max_bytes=1 << 40))
    decoder.push(header)
    for _ in range(seconds // 2):
        decoder.push(piece)
    assert list(decoder.finish()) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_length_of_a_wav() -> None:
    assert peak_bytes_of_push(1200) < peak_bytes_of_push(20) + 50_000


def peak_bytes_of_file(path: Path) -> int:
    tracemalloc.start()
    for _ in decode_file(path):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_memory_does_not_grow_with_the_length_of_a_file(container: str, tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    short.write_bytes(written(container, "PCM_16", np.zeros((3_000_000, 1), np.float32)))
    long.write_bytes(written(container, "PCM_16", np.zeros((12_000_000, 1), np.float32)))
    assert peak_bytes_of_file(long) < peak_bytes_of_file(short) + 50_000


def test_default_limits_are_those_of_the_settings() -> None:
    fields = Settings.model_fields
    assert DecodeLimits() == DecodeLimits(
        max_bytes=fields["max_upload_bytes"].default,
        max_duration_s=fields["max_duration_s"].default,
        max_channels=fields["max_channels"].default,
    )


@pytest.mark.parametrize(
    ("encoding", "subtype"), [("linear16", "PCM_16"), ("float32", "FLOAT"), ("mulaw", "ULAW"), ("alaw", "ALAW")]
)
def test_live_samples_convert_like_the_same_samples_in_a_file(encoding: str, subtype: str) -> None:
    recording = written("WAV", subtype, noise(300, 1))
    start = recording.index(b"data") + 8
    size = struct.unpack_from("<I", recording, start - 4)[0]
    live = pcm_to_float(recording[start : start + size], encoding)  # type: ignore[arg-type]
    assert live.dtype == np.float32
    np.testing.assert_array_equal(live, reference(recording)[:, 0])


def test_half_a_live_sample_is_refused() -> None:
    with pytest.raises(InvalidAudio, match="whole linear16 samples of 2 bytes, got 3 bytes"):
        pcm_to_float(bytes(3), "linear16")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_live_samples_that_are_not_finite_are_refused_with_their_position(bad: float) -> None:
    samples = np.zeros(20, "<f4")
    samples[17] = bad
    with pytest.raises(InvalidAudio, match="sample 17 of 20") as caught:
        pcm_to_float(samples.tobytes(), "float32")
    assert caught.value.detail["sample"] == 17


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_pipe_is_read_to_its_end(container: str) -> None:
    recording = io.BytesIO()
    soundfile.write(recording, np.linspace(-0.5, 0.5, 8_000), 8_000, format=container)
    reading, writing = os.pipe()
    with ThreadPoolExecutor() as pool, os.fdopen(writing, "wb") as file, os.fdopen(reading):
        pool.submit(_write_all, file, recording.getvalue())
        with decode_file(f"/dev/fd/{reading}") as decoder:
            assert decoder.info.declared_frames in (None, 8_000)
            assert sum(map(len, decoder)) == 8_000
            assert decoder.warnings == []


def _write_all(file: IO[bytes], content: bytes) -> None:
    with file:
        file.write(content)
