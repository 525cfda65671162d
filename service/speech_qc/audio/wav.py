"""Streaming WAV reader: parses the header as bytes arrive, then decodes samples block by block.

libsndfile is not used here because a recording is scored while it is uploaded: memory must not grow with its length,
and a live recorder's header (no size yet) must still be readable. Handles bytes and samples only;
`speech_qc.audio.decode` decides which sizes, rates and durations are acceptable.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.g711 import decode_alaw, decode_mulaw
from speech_qc.errors import InvalidAudio

BLOCK_FRAMES = 65_536
"""Maximum frames in one decoded block; bounds the memory of a block."""

HEADER_LIMIT_BYTES = 1 << 20
"""The sample data must begin within this limit; otherwise a size field is broken or the file is not audio."""

_TAG_PCM, _TAG_FLOAT, _TAG_ALAW, _TAG_MULAW, _TAG_EXTENSIBLE = 0x0001, 0x0003, 0x0006, 0x0007, 0xFFFE

_SUBFORMAT_TAILS = (
    bytes.fromhex("000000001000800000aa00389b71"),  # KSDATAFORMAT_SUBTYPE_*: the tag is the first two bytes
    bytes.fromhex("00002107d3118644c8c1ca000000"),  # the same for Ambisonic B-format
)

_SUBTYPES: dict[tuple[int, int], str] = {
    (_TAG_PCM, 1): "PCM_U8",
    (_TAG_PCM, 2): "PCM_16",
    (_TAG_PCM, 3): "PCM_24",
    (_TAG_PCM, 4): "PCM_32",
    (_TAG_FLOAT, 4): "FLOAT",
    (_TAG_FLOAT, 8): "DOUBLE",
    (_TAG_ALAW, 1): "ALAW",
    (_TAG_MULAW, 1): "ULAW",
}
"""Maps format tag and bytes per sample to soundfile's name of the encoding."""


@dataclass(frozen=True)
class WavHeader:
    """Contents of the chunks before the samples.

    Args:
        container: `wav` or `rf64`.
        subtype: soundfile's name of the encoding; None if only libsndfile can read it (ADPCM, GSM, …).
        sample_rate_hz: Frames per second.
        channels: Samples per frame; may be 0 in a broken file.
        frame_bytes: Bytes of one frame, or of one compressed block.
        data_bytes: Declared size of the samples; None if the writer did not know it.
        data_start: Position of the first sample in the file.
    """

    container: str
    subtype: str | None
    sample_rate_hz: int
    channels: int
    frame_bytes: int
    data_bytes: int | None
    data_start: int

    @property
    def frames(self) -> int | None:
        """Declared length; None if it is unknown or cannot be computed from bytes per frame."""
        if self.data_bytes is None or self.subtype is None:
            return None
        return self.data_bytes // self.frame_bytes


class WavHeaderParser:
    """Collects the bytes of one file until its samples begin; owned by one decoder.

    `raw` keeps every byte pushed, so that a format that only libsndfile reads can be passed on from its first byte. It
    exceeds `HEADER_LIMIT_BYTES` by one push at most.
    """

    def __init__(self) -> None:
        self.raw = bytearray()
        self.header: WavHeader | None = None
        self._position = 0  # of the next chunk in the file
        self._format: tuple[int, int, int, int, int] | None = None  # tag, channels, rate, frame bytes, sample bytes
        self._long_data_bytes: int | None = None  # from ds64

    def push(self, data: bytes | memoryview) -> None:
        """Parse more bytes; `header` is set as soon as the data chunk begins.

        Raises:
            InvalidAudio: A chunk is inconsistent with itself or another, or the samples do not begin within the header
                limit.
        """
        self.raw += data
        if self._position == 0:
            if len(self.raw) < 12:
                return
            self._position = 12
        while self.header is None and len(self.raw) >= self._position + 8:
            if not self._take_chunk():
                return

    def _take_chunk(self) -> bool:
        """Parse the chunk at the current position; False if its bytes are not complete yet."""
        name = bytes(self.raw[self._position : self._position + 4])
        size: int = struct.unpack_from("<I", self.raw, self._position + 4)[0]
        body = self._position + 8
        if name == b"data":
            self.header = self._finish_header(size, body)
            return True
        end = body + size + (size & 1)  # chunks are padded to even sizes
        if end > HEADER_LIMIT_BYTES:
            raise InvalidAudio(
                f"expected the samples of the WAV file within its first {HEADER_LIMIT_BYTES} bytes, got chunk {name!r} "
                f"of {size} bytes at byte {self._position} before them: check that the upload is complete and "
                "unchanged, or rewrite the file without that chunk",
                chunk=repr(name),
                chunk_bytes=size,
            )
        if name in (b"fmt ", b"ds64"):
            if len(self.raw) < body + size:
                return False
            chunk = bytes(self.raw[body : body + size])
            if name == b"fmt ":
                self._format = _parse_format(chunk)
            else:
                self._long_data_bytes = _parse_ds64(chunk)
        self._position = end
        return True

    def _finish_header(self, size: int, data_start: int) -> WavHeader:
        """Build the header once the samples begin."""
        if self._format is None:
            raise InvalidAudio(
                "expected a 'fmt ' chunk before the samples of the WAV file, got none, so the encoding is unknown: "
                "export the recording again"
            )
        tag, channels, rate_hz, frame_bytes, sample_bytes = self._format
        long_form = self.raw[:4] == b"RF64"
        if long_form and size == 0xFFFFFFFF:
            if self._long_data_bytes is None:
                raise InvalidAudio(
                    "expected a 'ds64' chunk with the size of the RF64 file, got none: export the recording again"
                )
            # Writers leave 0 or −1 if they could not go back to fill in the size.
            known = 0 < self._long_data_bytes < 1 << 63
            data_bytes = self._long_data_bytes if known else None
        else:
            riff_bytes: int = struct.unpack_from("<I", self.raw, 4)[0]
            data_bytes = None if is_placeholder(size) else size
            if size == 0 and (is_placeholder(riff_bytes) or riff_bytes + 8 <= data_start):
                data_bytes = None  # never filled in; in an intentionally empty file, riff_bytes counts more chunks
        return WavHeader(
            container="rf64" if long_form else "wav",
            subtype=_SUBTYPES.get((tag, sample_bytes)),
            sample_rate_hz=rate_hz,
            channels=channels,
            frame_bytes=frame_bytes,
            data_bytes=data_bytes,
            data_start=data_start,
        )


def is_placeholder(size: int) -> bool:
    """Whether a size field means "unknown": −1 or slightly less (ffmpeg), or just below 2^31 (sox)."""
    return size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x7FFFFFFF


def _parse_ds64(chunk: bytes) -> int:
    """Read the 64-bit data size; the RIFF size and sample count in the same chunk add no information."""
    if len(chunk) < 28:
        raise InvalidAudio(f"expected a 'ds64' chunk of 28 bytes or more, got {len(chunk)}: export the recording again")
    size: int = struct.unpack_from("<Q", chunk, 8)[0]
    return size


def _parse_format(chunk: bytes) -> tuple[int, int, int, int, int]:
    """Parse a fmt chunk and check that its fields are consistent.

    Returns:
        Format tag (0 if unknown), channels, rate in Hz, bytes per frame, bytes per sample.

    Raises:
        InvalidAudio: The chunk is too short, or block align or byte rate is inconsistent with the other fields.

    Source: Microsoft "Multiple channel audio data and WAVE files"; RFC 2361 for the tags.
    """
    if len(chunk) < 16:
        raise InvalidAudio(
            f"expected a WAV 'fmt ' chunk of 16 bytes or more, got {len(chunk)}: export the recording again"
        )
    tag, channels, rate_hz, byte_rate, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _TAG_EXTENSIBLE:
        tag = struct.unpack_from("<H", chunk, 24)[0] if len(chunk) >= 40 and chunk[26:40] in _SUBFORMAT_TAILS else 0
    sample_bytes = (bits + 7) // 8
    if (tag, sample_bytes) in _SUBTYPES and channels:
        if frame_bytes != channels * sample_bytes:
            raise InvalidAudio(
                f"expected a WAV block align of {channels * sample_bytes} for {channels} channels of {bits} bits, got "
                f"{frame_bytes}: export the recording again",
                channels=channels,
                bits=bits,
                block_align=frame_bytes,
            )
        if byte_rate != rate_hz * frame_bytes:
            raise InvalidAudio(
                f"expected a WAV byte rate of {rate_hz * frame_bytes} for {rate_hz} Hz with {frame_bytes} bytes per "
                f"frame, got {byte_rate}: export the recording again",
                sample_rate_hz=rate_hz,
                byte_rate=byte_rate,
            )
    return tag, channels, rate_hz, frame_bytes, sample_bytes


class WavSamples:
    """Converts the bytes of a data chunk to blocks of frames; owned by one decoder.

    A push may end in the middle of a frame; less than one frame is kept between pushes. Chunks after the data chunk
    (LIST, id3 …) are ignored, and so is an incomplete frame at the end of the data chunk.
    """

    def __init__(self, header: WavHeader) -> None:
        if header.subtype is None:
            raise ValueError("expected a header with a known subtype, got one that only libsndfile reads")
        self.received_bytes = 0
        self.frames = 0
        self.header = header
        self._convert = CONVERTERS[header.subtype]
        self._rest = b""  # of an incomplete frame

    def push(self, data: bytes | memoryview) -> list[NDArray[np.float32]]:
        """Convert all frames that are now complete.

        Returns:
            Blocks of at most `BLOCK_FRAMES` frames, each float32 [n, channels], C-contiguous, a new array.

        Raises:
            InvalidAudio: A float sample is NaN or infinite.
        """
        header, view = self.header, memoryview(data)
        if header.data_bytes is not None:
            view = view[: header.data_bytes - self.received_bytes]
        self.received_bytes += len(view)
        blocks: list[NDArray[np.float32]] = []
        if self._rest:
            missing = min(header.frame_bytes - len(self._rest), len(view))
            self._rest += view[:missing]
            view = view[missing:]
            if len(self._rest) < header.frame_bytes:
                return blocks
            blocks.append(self._block(self._rest))
        whole = len(view) - len(view) % header.frame_bytes
        for start in range(0, whole, BLOCK_FRAMES * header.frame_bytes):
            blocks.append(self._block(view[start : min(start + BLOCK_FRAMES * header.frame_bytes, whole)]))
        self._rest = bytes(view[whole:])
        return blocks

    def _block(self, data: bytes | memoryview) -> NDArray[np.float32]:
        """Convert whole frames and count them."""
        block = self._convert(data).reshape(-1, self.header.channels)
        check_finite(block, self.frames, self.header.sample_rate_hz)
        self.frames += len(block)
        return block


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
    "FLOAT": _from_f32,
    "DOUBLE": _from_f64,
    "ALAW": decode_alaw,
    "ULAW": decode_mulaw,
}
