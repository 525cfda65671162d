"""G.711 µ-law and A-law as table look-ups.

Live streams send these codes directly, and the training code uses the encoders to simulate a telephone line. Every
table has one entry per possible input, so a conversion is one indexed read per sample. It agrees with libsndfile in
every code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = bytes | bytearray | memoryview | NDArray[np.uint8]

_MULAW_BIAS = 33  # of the 14-bit magnitude; makes every segment start at a power of two (G.711, table 2a)
_MULAW_LIMIT = 8158  # largest 14-bit magnitude that still fits the last segment after the bias
_ALAW_LIMIT = 2047  # largest 12-bit magnitude


def _mulaw_to_linear() -> NDArray[np.float32]:
    """Return the value of each of the 256 codes, scaled so that 16-bit full scale is 1."""
    codes = ~np.arange(256, dtype=np.uint8)  # sent inverted, so that idle lines carry ones
    segment = (codes >> 4).astype(np.int32) & 7
    step = codes.astype(np.int32) & 15
    magnitude = (((2 * step + _MULAW_BIAS) << segment) - _MULAW_BIAS) * 4  # 14 → 16 bits
    return (np.where(codes & 0x80, -magnitude, magnitude) / 32768.0).astype(np.float32)


def _alaw_to_linear() -> NDArray[np.float32]:
    """Return the value of each of the 256 codes, scaled so that 16-bit full scale is 1."""
    codes = np.arange(256, dtype=np.uint8) ^ np.uint8(0x55)  # even bits are sent inverted
    segment = (codes >> 4).astype(np.int32) & 7
    step = codes.astype(np.int32) & 15
    linear = 2 * step + 1  # segment 0 has no leading one; the odd half-step is the middle of the interval
    magnitude = np.where(segment == 0, linear, (linear + 32) << np.maximum(segment - 1, 0)) * 8
    return (np.where(codes & 0x80, magnitude, -magnitude) / 32768.0).astype(np.float32)


def _linear16() -> NDArray[np.int32]:
    """Return every int16 in the order of its bit pattern, so that a uint16 view indexes the table."""
    return np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)


def _linear_to_mulaw() -> NDArray[np.uint8]:
    """Return the code of each of the 65536 int16 values; the magnitude is truncated, not rounded, to 14 bits."""
    linear = _linear16()
    magnitude = np.minimum(np.abs(linear) >> 2, _MULAW_LIMIT) + _MULAW_BIAS
    segment = np.frexp(magnitude)[1] - 6  # position of the leading one; 33 … 63 is segment 0
    code = (segment << 4) | ((magnitude >> (segment + 1)) & 15) | np.where(linear < 0, 0x80, 0)
    inverted: NDArray[np.uint8] = (~code & 0xFF).astype(np.uint8)
    return inverted


def _linear_to_alaw() -> NDArray[np.uint8]:
    """Return the code of each of the 65536 int16 values; the magnitude is truncated, not rounded, to 12 bits."""
    linear = _linear16()
    magnitude = np.minimum(np.abs(linear) >> 4, _ALAW_LIMIT)
    segment = np.maximum(np.frexp(magnitude)[1] - 4, 0)  # 0 … 15 is segment 0
    code = (segment << 4) | ((magnitude >> np.maximum(segment - 1, 0)) & 15) | np.where(linear >= 0, 0x80, 0)
    inverted: NDArray[np.uint8] = (code ^ 0x55).astype(np.uint8)
    return inverted


_MULAW_DECODE = _mulaw_to_linear()
_ALAW_DECODE = _alaw_to_linear()
_MULAW_ENCODE = _linear_to_mulaw()
_ALAW_ENCODE = _linear_to_alaw()


def decode_mulaw(codes: Codes) -> NDArray[np.float32]:
    """Expand µ-law codes; the largest one decodes to 0.980 of full scale.

    Args:
        codes: Bytes or a uint8 array of any shape, one code per sample.

    Returns:
        float32, same shape, a new array; equal to libsndfile's float output.

    Source: ITU-T G.711.
    """
    return _look_up(_MULAW_DECODE, codes)


def decode_alaw(codes: Codes) -> NDArray[np.float32]:
    """Expand A-law codes; the largest one decodes to 0.984 of full scale, and none decodes to exactly zero.

    Args:
        codes: Bytes or a uint8 array of any shape, one code per sample.

    Returns:
        float32, same shape, a new array; equal to libsndfile's float output.

    Source: ITU-T G.711.
    """
    return _look_up(_ALAW_DECODE, codes)


def encode_mulaw(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Compress samples to µ-law via 16-bit integers.

    Args:
        samples: float32 in [-1, 1], any shape; values outside are clipped to full scale, as a line card does.

    Returns:
        uint8, same shape; equal to libsndfile's codes for the same 16-bit integers.

    Source: ITU-T G.711.
    """
    return _MULAW_ENCODE[_to_table_index(samples)]


def encode_alaw(samples: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Compress samples to A-law via 16-bit integers.

    Args:
        samples: float32 in [-1, 1], any shape; values outside are clipped to full scale, as a line card does.

    Returns:
        uint8, same shape; equal to libsndfile's codes for the same 16-bit integers.

    Source: ITU-T G.711.
    """
    return _ALAW_ENCODE[_to_table_index(samples)]


def _look_up(table: NDArray[np.float32], codes: Codes) -> NDArray[np.float32]:
    """Read one table entry per code; bytes are not copied first."""
    if not isinstance(codes, np.ndarray):
        codes = np.frombuffer(codes, dtype=np.uint8)
    return table[codes]


def _to_table_index(samples: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to 16-bit integers and return their bit patterns."""
    scaled = np.clip(np.rint(np.asarray(samples, dtype=np.float32) * np.float32(32768.0)), -32768, 32767)
    index: NDArray[np.uint16] = scaled.astype(np.int16).view(np.uint16)
    return index
