"""Files as phones, recorders, browsers, archives and broken programs write them, made from a few seconds of speech."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from signals import voice, wav_bytes

RATE_HZ = 16_000
SECONDS = 4.0
SPEECH = voice(SECONDS)
PCM = (SPEECH * 32767).astype("<i2").tobytes()

PCM_TAG, MP3_TAG = 0x0001, 0x0055
MP3_KBIT = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # by the bit rate index of MPEG-2 layer III


def chunk(name: bytes, body: bytes, *, size: int | None = None) -> bytes:
    """Return a RIFF chunk, whose declared size may be wrong."""
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) % 2)


def wav(
    body: bytes = PCM, *, tag: int = PCM_TAG, bits: int = 16, align: int = 2, byte_rate: int = 2 * RATE_HZ,
    data_bytes: int | None = None, extra: bytes = b"", after: bytes = b"",
) -> bytes:  # fmt: skip
    """Return a mono WAV at 16 kHz with these header fields.

    Args:
        body: The samples.
        tag: Format tag.
        bits: Bits per sample.
        align: Block align.
        byte_rate: Bytes per second.
        data_bytes: Declared size of the data chunk; None for the right one.
        extra: Extension of the fmt chunk, with its size.
        after: Whatever follows the samples.
    """
    form = struct.pack("<HHIIHH", tag, 1, RATE_HZ, byte_rate, align, bits) + extra
    declared = len(body) if data_bytes is None else data_bytes
    riff = min(4 + 8 + len(form) + 8 + declared + len(after), 0xFFFFFFFF)
    start = b"RIFF" + struct.pack("<I", riff) + b"WAVE" + chunk(b"fmt ", form)
    return start + chunk(b"data", body, size=declared) + after


def in_four_bytes() -> bytes:
    """Return 24-bit samples in the low three bytes of four, with the tag of plain PCM (`arecord -f S24_LE`)."""
    samples = (SPEECH.astype(np.float64) * (2**23 - 1)).astype("<i4").tobytes()
    return wav(samples, bits=24, align=4, byte_rate=4 * RATE_HZ)


def encoded(
    container: str, subtype: str, samples: NDArray[np.float32] = SPEECH, rate_hz: int = RATE_HZ, **options: Any
) -> bytes:
    """Encode with libsndfile; the options are those of `soundfile.write`."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype, **options)
    return file.getvalue()


def mp3(mode: str = "VARIABLE") -> bytes:
    """Return an MP3 file of variable or constant bit rate that begins with its Xing or Info tag."""
    return encoded("MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)


def mp3_in_wav(mode: str) -> bytes:
    """Return an MP3 stream without its tag inside WAV, with the header fields that FFmpeg writes to a pipe."""
    extra = struct.pack("<HHIHHH", 12, 1, 2, 1152, 1, 1105)
    file = mp3(mode)
    tag_bytes = 72_000 * MP3_KBIT[file[2] >> 4] // RATE_HZ + (file[2] >> 1 & 1)  # of the first frame, MPEG-2 layer III
    return wav(file[tag_bytes:], tag=MP3_TAG, bits=0, align=576, byte_rate=0, extra=extra)


def ogg_crc(page: bytes) -> int:
    """Return the checksum of an Ogg page whose own checksum field is zero."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = ((crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc


def opus_without_rate() -> bytes:
    """Return Opus whose header leaves the input rate unspecified (0)."""
    file = bytearray(encoded("OGG", "OPUS", voice(SECONDS, rate_hz=48_000), 48_000))
    head = file.index(b"OpusHead")
    file[head + 12 : head + 16] = bytes(4)
    page_bytes = 27 + file[26] + sum(file[27 : 27 + file[26]])
    file[22:26] = bytes(4)
    file[22:26] = struct.pack("<I", ogg_crc(bytes(file[:page_bytes])))
    return bytes(file)


def by_ffmpeg(container: str, codec: str, rate_hz: int = RATE_HZ, *, video: bool = False, **options: Any) -> bytes:
    """Encode with FFmpeg's libraries.

    Args:
        container: FFmpeg's name of the container.
        codec: FFmpeg's name of the encoder.
        rate_hz: Sample rate of the stream.
        video: Put a few pictures beside the sound.
        options: Attributes of the codec context, such as `bit_rate`.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        pictures = output.add_stream("mpeg4", rate=5, width=64, height=64, pix_fmt="yuv420p") if video else None
        stream: Any = output.add_stream(codec, rate=rate_hz, layout="mono")
        for name, value in options.items():
            setattr(stream, name, value)
        frame = av.AudioFrame.from_ndarray((voice(SECONDS, rate_hz=rate_hz) * 32767).astype("<i2")[None], "s16", "mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        resampler = av.AudioResampler(stream.format, "mono", rate_hz, stream.frame_size or 1024)
        if pictures is not None:
            for number in range(round(5 * SECONDS)):
                picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 9 * number, np.uint8), "rgb24")
                picture.pts = number
                output.mux(pictures.encode(picture))
            output.mux(pictures.encode(None))
        for ready in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(ready))
        output.mux(stream.encode(None))
    return file.getvalue()


def plain() -> bytes:
    """Return the speech as an ordinary WAV file."""
    return wav_bytes(SPEECH)
