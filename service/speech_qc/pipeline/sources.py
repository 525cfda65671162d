"""Audio sources of a program: recordings as path, bytes, open file or array; live audio as bytes or arrays."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, AudioWarning, DecodeLimits, RawFormat, check_rate_hz
from speech_qc.audio.decode import READ_BYTES, Decoder, decode_file
from speech_qc.audio.sample_decoder import SampleDecoder
from speech_qc.errors import InvalidAudio, ProtocolError
from speech_qc.pipeline.session import MAX_MAGNITUDE
from speech_qc.rtp.capture import MAGIC_BYTES, is_capture
from speech_qc.wire.vocabulary import Encoding

Block = NDArray[np.float32]
Bytes = bytes | bytearray | memoryview
Source = str | PathLike[str] | Bytes | BinaryIO | NDArray[Any]
"""A path, the bytes of a recording, an open binary file, or samples (n,) or (n, channels)."""
WholeNumber = float | np.integer[Any]
"""A number without a fraction; libraries give sample rates as int, float or NumPy scalar."""

ARRAY_BLOCK = 1 << 16
"""Samples of an array, per channel, that are converted at once."""


class BlockSource(Protocol):
    """A recording as decoded blocks, float32 (n, channels) each; iterated once."""

    @property
    def info(self) -> AudioInfo | None:
        """Properties that the header declares; known with the first block."""

    @property
    def warnings(self) -> Sequence[AudioWarning]:
        """What was wrong with the recording, although it was read; complete after the last block."""

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block, on demand."""


class BytesSource:
    """A recording whose bytes are in memory or come from an open file.

    WAV is decoded in constant memory. Other formats are collected first; a path needs no such copy.

    Args:
        source: The bytes, or an object with `read(size)`, which is read from its position to its end.
        limits: Limits on the recording.
        raw: Format of audio without a header; None if the recording has one.
    """

    def __init__(self, source: Bytes | BinaryIO, limits: DecodeLimits, raw: RawFormat | None = None) -> None:
        self._source = flat_bytes(source) if isinstance(source, Bytes) else source
        total_bytes = len(self._source) if isinstance(self._source, memoryview) else None
        name = getattr(source, "name", None)
        filename = name if isinstance(name, str) else None
        self._decoder = Decoder(limits, filename=filename, total_bytes=total_bytes, raw=raw)

    @property
    def info(self) -> AudioInfo | None:
        """Properties that the header declares; known with the first block."""
        return self._decoder.info

    @property
    def warnings(self) -> Sequence[AudioWarning]:
        """What was wrong with the recording, although it was read; complete after the last block."""
        return self._decoder.warnings

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block; raises the errors of `Decoder`, and OSError if the file cannot be read."""
        is_empty = True
        try:
            for piece in self._pieces():
                is_empty = False
                yield from self._decoder.push(piece)
            if is_empty:
                raise InvalidAudio(
                    "expected the bytes of a recording, got none: pass the whole file; rewind a file that was read "
                    "before"
                )
            yield from self._decoder.finish()
        finally:
            self._decoder.close()

    def _pieces(self) -> Iterator[bytes | memoryview]:
        source = self._source
        if isinstance(source, memoryview):
            for start in range(0, len(source), READ_BYTES):
                yield source[start : start + READ_BYTES]
            return
        while True:
            piece = source.read(READ_BYTES)
            if not isinstance(piece, Bytes):
                raise ProtocolError(
                    f"expected a file whose read() returns bytes, it returned {type(piece).__name__}: "
                    "open it in binary mode ('rb')"
                )
            if not len(piece):
                return
            yield flat_bytes(piece)


class ArraySource:
    """Samples in memory.

    Args:
        samples: float32, float64 or int16, (n,) or (n, channels).
        rate_hz: Samples per second.
        limits: Limits on the recording.

    Raises:
        InvalidAudio: The type, shape or rate is not supported, or a sample is not finite.
        PayloadTooLarge: More channels or seconds than the limits allow.
    """

    warnings: Sequence[AudioWarning] = ()

    def __init__(self, samples: NDArray[Any], rate_hz: int, limits: DecodeLimits) -> None:
        check_rate_hz(rate_hz)
        samples = np.asarray(samples)  # subclasses may index differently
        check_samples(samples)
        if samples.size == 0:
            raise InvalidAudio(f"expected samples, got an empty array of shape {samples.shape}: check its source")
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        if channels > max(limits.max_channels, len(samples)):
            raise InvalidAudio(
                f"expected samples of shape (n, channels), got {samples.shape}, which is {channels} channels of "
                f"{len(samples)} samples: transpose the array (samples.T)"
            )
        limits.check_layout(channels, rate_hz)
        limits.check_frames(len(samples), rate_hz)
        self._samples = samples
        self.info = AudioInfo(rate_hz, channels, f"array/{samples.dtype.name}", len(samples))

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks of float32."""
        for start in range(0, len(self._samples), ARRAY_BLOCK):
            block = float_samples(self._samples[start : start + ARRAY_BLOCK])
            yield block[:, None] if block.ndim == 1 else block


class PushedAudio:
    """Converts the bytes and arrays of a live stream to pieces, one array per channel; used by one stream.

    Args:
        encoding: Encoding of bytes.
        channels: Interleaved channels.
        piece_samples: Maximum samples per channel in a piece.
    """

    def __init__(self, encoding: Encoding, channels: int, piece_samples: int) -> None:
        self._decoder = SampleDecoder(encoding, channels, piece_samples)
        self._channels, self._piece_samples = channels, piece_samples
        self._is_float = encoding == "float32"

    @property
    def rest_bytes(self) -> int:
        """Bytes of an incomplete sample that wait for the rest of it."""
        return len(self._decoder.rest)

    def pieces(self, audio: Bytes | NDArray[Any]) -> Iterator[list[Block]]:
        """Check and convert audio; exhaust the iterator before the next call.

        Returns:
            Pieces of one float32 (n,) per channel, contiguous, n >= 1.

        Raises:
            InvalidAudio: The samples have the wrong type, shape or scale; raised before the first piece is returned.
            ProtocolError: Neither bytes nor an array, or an array after bytes that ended within a sample.
        """
        if isinstance(audio, np.ndarray):
            return self._split(np.asarray(audio))  # subclasses may index differently
        if not isinstance(audio, Bytes):
            raise ProtocolError(f"expected bytes or a NumPy array, got {type(audio).__name__}: convert it")
        pieces = self._decoder.pieces(bytes(audio))
        if not self._is_float:
            return pieces
        rest = self._decoder.rest
        try:
            decoded = list(pieces)
            for samples in (samples for piece in decoded for samples in piece):
                _check_scale(samples)
        except InvalidAudio:
            self._decoder.rest = rest  # as before the refused push
            raise
        return iter(decoded)

    def _split(self, samples: NDArray[Any]) -> Iterator[list[Block]]:
        if self.rest_bytes:
            raise ProtocolError("expected the other bytes of a sample, got an array: push those bytes first")
        check_samples(samples)
        columns = samples[:, None] if samples.ndim == 1 else samples
        count, size = self._channels, self._piece_samples
        if columns.shape[1] != count:
            hint = "transpose the array (samples.T)" if columns.shape[0] == count else "give one column per channel"
            raise InvalidAudio(f"expected samples of shape (n, {count}), got {samples.shape}: {hint}")
        floats = np.ascontiguousarray(float_samples(columns).T)  # (channels, n)
        _check_scale(floats)
        return (list(floats[:, start : start + size]) for start in range(0, floats.shape[1], size))


def _check_scale(samples: Block) -> None:
    """Reject what `Session.push` would reject, before any channel has accepted its part."""
    peak = float(np.abs(samples).max(initial=0.0))
    if not peak <= MAX_MAGNITUDE:
        raise InvalidAudio(
            f"expected float samples around ±1, got a magnitude of {peak:g}: they seem to be scaled as integers; "
            "divide them by 32768 (16 bit), or push them as int16",
            magnitude=peak,
        )


def flat_bytes(source: Bytes) -> memoryview:
    """Return a flat view of bytes; copies only those that are not contiguous.

    Returns:
        One-dimensional, of format `B`.
    """
    view = memoryview(source)
    return view.cast("B") if view.contiguous and view.nbytes else memoryview(view.tobytes())


def whole_number(name: str, value: WholeNumber) -> int:
    """Convert an option such as a sample rate to an int.

    Raises:
        ProtocolError: The value has a fraction or is not a number.
    """
    is_number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value == int(value):
        return int(value)
    raise ProtocolError(f"{name}: expected a whole number, got {value!r}")


def check_samples(samples: NDArray[Any]) -> None:
    """Reject an array that cannot be audio.

    Raises:
        InvalidAudio: The type or shape is not supported.
    """
    if samples.dtype not in (np.float32, np.float64, np.int16):
        raise InvalidAudio(
            f"expected samples as float32 or float64 in [-1, 1], or as int16, got {samples.dtype}: convert "
            "them, and scale other integers"
        )
    if samples.ndim not in (1, 2):
        raise InvalidAudio(f"expected samples of shape (n,) or (n, channels), got {samples.shape}: reshape them")


def float_samples(samples: NDArray[Any]) -> Block:
    """Convert samples to float32; integers are divided by 32768, as in a WAV file.

    Raises:
        InvalidAudio: A sample is not finite.
    """
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / np.float32(32768)
    with np.errstate(over="ignore"):  # becomes infinity, which is refused
        found = samples.astype(np.float32, copy=False)
    if not np.isfinite(found).all():
        raise InvalidAudio("expected finite samples, found NaN or infinity among them: check how they were computed")
    return found


def opened(
    source: Source, sample_rate: WholeNumber | None, limits: DecodeLimits, raw: RawFormat | None = None
) -> AbstractContextManager[BlockSource]:
    """Open a recording from any source that a program can pass.

    Args:
        source: The recording.
        sample_rate: Sample rate of an array; None for files.
        limits: Limits on the recording.
        raw: Format of audio without a header; None if the recording has one.

    Raises:
        ProtocolError: The source has another type, an array has no sample rate, or another source has one.
        InvalidAudio: The file cannot be opened, or the array has the wrong type or shape.
        UnsupportedFormat: The file is not in a readable format.
        PayloadTooLarge: More seconds or channels than the limits allow.
    """
    if isinstance(source, np.ndarray):
        if sample_rate is None:
            raise ProtocolError("expected sample_rate=… with an array of samples, got none: add it")
        return nullcontext(ArraySource(source, whole_number("sample_rate", sample_rate), limits))
    if not isinstance(source, str | PathLike | Bytes) and not hasattr(source, "read"):
        raise ProtocolError(
            f"expected a path, bytes, a binary file or a NumPy array, got {type(source).__name__}: convert it "
            "(samples with numpy.asarray)"
        )
    if isinstance(source, io.TextIOBase):
        raise ProtocolError("expected a file opened in binary mode, got one in text mode: open it with mode 'rb'")
    if sample_rate is not None and raw is None:
        raise ProtocolError(
            "sample_rate is only for arrays, because a recording's header says its own: leave it out, or add "
            "encoding=… for audio without a header"
        )
    if isinstance(source, str | PathLike):
        return decode_file(os.fsdecode(source), limits, raw)
    return nullcontext(BytesSource(source, limits, raw))


@contextmanager
def opened_capture(source: Source) -> Iterator[BinaryIO | None]:
    """Open a packet capture; yields None for anything else, which `opened` may then open."""
    if isinstance(source, Bytes):
        view = flat_bytes(source)
        yield io.BytesIO(view) if is_capture(bytes(view[:MAGIC_BYTES])) else None
    elif isinstance(source, str | PathLike):
        file = _opened_regular(source)
        if file is None:
            yield None
            return
        with file:
            head = file.read(MAGIC_BYTES)
            file.seek(0)
            yield file if is_capture(head) else None
    elif _is_seekable(source):
        start = source.tell()
        head = source.read(MAGIC_BYTES)
        source.seek(start)
        yield source if isinstance(head, bytes) and is_capture(head) else None
    else:
        yield None


def _is_seekable(source: Source) -> TypeGuard[BinaryIO]:
    """Whether a file in binary mode can be read twice; a pipe or the body of a response cannot."""
    if isinstance(source, io.TextIOBase) or not hasattr(source, "read"):
        return False
    seekable = getattr(source, "seekable", None)
    return seekable is not None and bool(seekable())


def _opened_regular(path: str | PathLike[str]) -> BinaryIO | None:
    """Open a file on disk; None for a pipe, and for what `opened` will refuse."""
    try:
        return Path(path).open("rb", buffering=READ_BYTES) if Path(path).is_file() else None
    except (OSError, ValueError):
        return None
