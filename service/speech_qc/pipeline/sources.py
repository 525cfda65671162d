"""Where the samples of a recording come from in a program: a path, bytes, an open file, or an array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, DecodeLimits, check_rate_hz
from speech_qc.audio.decode import READ_BYTES, Decoder, decode_file
from speech_qc.errors import InvalidAudio, ProtocolError

Block = NDArray[np.float32]
Bytes = bytes | bytearray | memoryview
Source = str | PathLike[str] | Bytes | BinaryIO | NDArray[Any]
"""A path, the bytes of a recording, an open binary file, or samples (n,) or (n, channels)."""

ARRAY_BLOCK = 1 << 16
"""Samples of an array, per channel, that are taken at once."""


class BlockSource(Protocol):
    """A recording as decoded blocks, float32 (n, channels) each; iterated once."""

    @property
    def info(self) -> AudioInfo | None:
        """What the header says; known with the first block."""

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block, as they are asked for."""


class BytesSource:
    """A recording whose bytes are in memory or come from an open file.

    Args:
        source: The bytes, or an object with `read(size)`.
        limits: Bounds.
    """

    def __init__(self, source: Bytes | BinaryIO, limits: DecodeLimits) -> None:
        self._source = source
        total_bytes = memoryview(source).nbytes if isinstance(source, Bytes) else None
        name = getattr(source, "name", None)
        self._decoder = Decoder(limits, filename=name if isinstance(name, str) else None, total_bytes=total_bytes)

    @property
    def info(self) -> AudioInfo | None:
        """What the header says; known with the first block."""
        return self._decoder.info

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block; raises what `Decoder` raises."""
        for piece in self._pieces():
            yield from self._decoder.push(piece)
        yield from self._decoder.finish()

    def _pieces(self) -> Iterator[bytes | memoryview]:
        source = self._source
        if isinstance(source, Bytes):
            view = memoryview(source).cast("B")
            for start in range(0, len(view), READ_BYTES):
                yield view[start : start + READ_BYTES]
            return
        while piece := source.read(READ_BYTES):
            if not isinstance(piece, bytes):
                raise ProtocolError(f"expected a file opened in binary mode ('rb'), reading it gave {type(piece)}")
            yield piece


class ArraySource:
    """Samples in memory.

    Args:
        samples: float32, float64 or int16, (n,) or (n, channels).
        rate_hz: Samples per second.
        limits: Bounds.

    Raises:
        InvalidAudio: Another type or shape, samples that are not finite, or an impossible rate.
        PayloadTooLarge: More channels or seconds than the limits allow.
    """

    def __init__(self, samples: NDArray[Any], rate_hz: int, limits: DecodeLimits) -> None:
        check_rate_hz(rate_hz)
        channels = 1 if samples.ndim == 1 else samples.shape[-1]
        limits.check_layout(channels, rate_hz)
        limits.check_frames(len(samples), rate_hz)
        self._samples = samples
        self.info = AudioInfo(rate_hz, channels, f"array/{samples.dtype.name}", len(samples))

    def __iter__(self) -> Iterator[Block]:
        """Give blocks of float32."""
        for start in range(0, len(self._samples), ARRAY_BLOCK):
            block = float_samples(self._samples[start : start + ARRAY_BLOCK])
            yield block[:, None] if block.ndim == 1 else block


def check_samples(samples: NDArray[Any]) -> None:
    """Refuse an array that cannot be audio.

    Raises:
        InvalidAudio: Another type or shape than documented.
    """
    if samples.dtype not in (np.float32, np.float64, np.int16):
        raise InvalidAudio(
            f"expected samples as float32 or float64 in [-1, 1], or as int16, given {samples.dtype}: convert them"
        )
    if samples.ndim not in (1, 2):
        raise InvalidAudio(f"expected samples of shape (n,) or (n, channels), given {samples.shape}: reshape them")


def float_samples(samples: NDArray[Any]) -> Block:
    """Turn samples into float32; integers are divided by 32768, as in a WAV file.

    Raises:
        InvalidAudio: Samples that are not finite.
    """
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    found = samples.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise InvalidAudio("expected finite samples, found NaN or infinity among them: check how they were computed")
    return found


def opened(source: Source, sample_rate: int | None, limits: DecodeLimits) -> AbstractContextManager[BlockSource]:
    """Open whatever a program calls a recording.

    Args:
        source: The recording.
        sample_rate: Of an array; files say theirs themselves.
        limits: Bounds.

    Raises:
        ProtocolError: A type that is no recording, an array without its rate, or a rate for a file.
        InvalidAudio: The file cannot be opened, or an array of another type or shape.
    """
    if isinstance(source, np.ndarray):
        check_samples(source)
        if sample_rate is None:
            raise ProtocolError("expected sample_rate=… with an array of samples, none was given: add it")
        return nullcontext(ArraySource(source, sample_rate, limits))
    if sample_rate is not None:
        raise ProtocolError("sample_rate is for arrays of samples; a recording's header says its own: leave it out")
    if isinstance(source, str | PathLike):
        return decode_file(source, limits)
    if not isinstance(source, Bytes) and not hasattr(source, "read"):
        raise ProtocolError(
            f"expected a path, bytes, a binary file or a NumPy array, given {type(source).__name__}: convert it"
        )
    return nullcontext(BytesSource(source, limits))
