"""Converts raw samples to float32, scaled as libsndfile scales the same encoding in a WAV file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.g711 import decode_alaw, decode_mulaw
from speech_qc.errors import InvalidAudio
from speech_qc.wire.vocabulary import Encoding

BLOCK_FRAMES = 65_536
"""Maximum frames in one decoded block; bounds the memory of a block."""


def check_finite(block: NDArray[np.float32], first_frame: int, rate_hz: int) -> None:
    """Reject NaN and infinity, which would corrupt every later sum of the stream.

    Args:
        block: [n, channels].
        first_frame: Position of the block in its recording.
        rate_hz: For the position in seconds.

    Raises:
        InvalidAudio: Names the first bad sample by frame, seconds and channel.
    """
    finite = np.isfinite(block)
    if finite.all():
        return
    row, channel = (int(i) for i in np.argwhere(~finite)[0])
    frame = first_frame + row
    raise InvalidAudio(
        f"expected finite samples, got {block[row, channel]} at sample {frame} ({frame / rate_hz:.4f} s) of channel "
        f"{channel}: fix the program that wrote the recording",
        sample=frame,
        position_s=frame / rate_hz,
        channel=channel,
    )


Converter = Callable[[bytes | memoryview], NDArray[np.float32]]
"""Converts whole little-endian samples to float32 1-D, scaled as in libsndfile; always returns a new array."""


def _from_u8(data: bytes | memoryview) -> NDArray[np.float32]:
    return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) * np.float32(2.0**-7)


def _from_s16(data: bytes | memoryview) -> NDArray[np.float32]:
    return np.frombuffer(data, "<i2") * np.float32(2.0**-15)  # computed in float32 (NEP 50)


def _from_s24(data: bytes | memoryview) -> NDArray[np.float32]:
    three = np.frombuffer(data, np.uint8).reshape(-1, 3)
    four = np.zeros((len(three), 4), np.uint8)
    four[:, 1:] = three  # in the upper bytes, which preserves the sign
    return four.reshape(-1).view("<i4").astype(np.float32) * np.float32(2.0**-31)


def _from_s24_low(data: bytes | memoryview) -> NDArray[np.float32]:
    """Convert 24-bit samples in the lower three of four bytes, as in ALSA's S24_LE; the upper byte is ignored."""
    return (np.frombuffer(data, "<i4") << 8).astype(np.float32) * np.float32(2.0**-31)


def _from_s32(data: bytes | memoryview) -> NDArray[np.float32]:
    return np.frombuffer(data, "<i4").astype(np.float32) * np.float32(2.0**-31)


def _from_f32(data: bytes | memoryview) -> NDArray[np.float32]:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _from_f64(data: bytes | memoryview) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, which `check_finite` reports
        return np.frombuffer(data, "<f8").astype(np.float32)


CONVERTERS: dict[str, Converter] = {
    "PCM_U8": _from_u8,
    "PCM_16": _from_s16,
    "PCM_24": _from_s24,
    "PCM_32": _from_s32,
    "PCM_24_LOW": _from_s24_low,
    "FLOAT": _from_f32,
    "DOUBLE": _from_f64,
    "ALAW": decode_alaw,
    "ULAW": decode_mulaw,
}

LIVE_ENCODINGS: dict[Encoding, tuple[str, int]] = {
    "linear16": ("PCM_16", 2),
    "mulaw": ("ULAW", 1),
    "alaw": ("ALAW", 1),
    "float32": ("FLOAT", 4),
}
"""Maps the encoding's name in the API to its name in `CONVERTERS` and its bytes per sample."""


def pcm_to_float(data: bytes | memoryview, encoding: Encoding) -> NDArray[np.float32]:
    """Convert raw samples of a live stream; channels stay interleaved.

    Args:
        data: Whole samples, little-endian.
        encoding: `linear16`, `float32`, `mulaw` or `alaw`.

    Returns:
        float32 [n], a new array, scaled like the same encoding in a WAV file.

    Raises:
        InvalidAudio: A sample is incomplete, NaN or infinite.
    """
    subtype, sample_bytes = LIVE_ENCODINGS[encoding]
    if len(data) % sample_bytes:
        raise InvalidAudio(
            f"expected whole {encoding} samples of {sample_bytes} bytes, got {len(data)} bytes: send complete samples"
        )
    samples = CONVERTERS[subtype](data)
    if encoding != "float32":  # integers are always finite, and the check would cost time for every live message
        return samples
    finite = np.isfinite(samples)
    if not finite.all():
        position = int(np.argmin(finite))
        raise InvalidAudio(
            f"expected finite samples, got {samples[position]} at sample {position} of {len(samples)} in one block: "
            "check that encoding and byte order match the options of the stream",
            sample=position,
        )
    return samples
