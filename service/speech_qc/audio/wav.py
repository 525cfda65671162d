"""Parses the header of a WAV, RF64 or BW64 file as its bytes arrive.

libsndfile is not used because a recording is scored while it is uploaded: memory must not grow with its length, and a
live recorder's header, which has no size yet, must be readable. Fields that contradict each other are common in
practice; where the samples can be read all the same, the parser reads them and warns.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from speech_qc.audio import AudioWarning
from speech_qc.errors import InvalidAudio

HEADER_LIMIT_BYTES = 1 << 20
"""The sample data must begin within this limit; otherwise a size field is broken or the file is not audio."""

LONG_FORMS = (b"RF64", b"BW64")
"""First bytes of the forms with 64-bit sizes (EBU Tech 3306, ITU-R BS.2088)."""

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

PADDED_24 = "PCM_24_IN_32"
"""24 bits in four bytes; the samples show whether they are in the upper three bytes or, as ALSA has them, the lower."""

_ENDLESS_BYTES = 1_000_000_000
"""Sizes from here on are rarely true; a round one is what a live recorder writes before it knows the size."""


@dataclass(frozen=True)
class WavHeader:
    """Contents of the chunks before the samples.

    Args:
        container: `wav`, `rf64` or `bw64`.
        tag: Format tag; 0 if unknown.
        subtype: soundfile's name of the encoding, or `PADDED_24`; None if only libsndfile can read it (ADPCM, GSM, …).
        sample_rate_hz: Frames per second.
        channels: Samples per frame; may be 0 in a broken file.
        frame_bytes: Bytes of one frame, or of one compressed block.
        byte_rate: Declared bytes per second; may be wrong.
        data_bytes: Declared size of the samples; None if the writer did not know it.
        data_start: Position of the first sample in the file.
        warnings: Fields that were ignored.
    """

    container: str
    tag: int
    subtype: str | None
    sample_rate_hz: int
    channels: int
    frame_bytes: int
    byte_rate: int
    data_bytes: int | None
    data_start: int
    warnings: tuple[AudioWarning, ...] = ()

    @property
    def frames(self) -> int | None:
        """Declared length; None if it is unknown or cannot be computed from bytes per frame."""
        if self.data_bytes is None or self.subtype is None:
            return None
        return self.data_bytes // self.frame_bytes

    @property
    def layout(self) -> tuple[int, str | None, int, int, int]:
        """What two recordings must share to be read as one."""
        return self.tag, self.subtype, self.sample_rate_hz, self.channels, self.frame_bytes

    def seconds(self, byte_count: int) -> float:
        """Duration of this many bytes of samples; approximate if they are compressed."""
        rate = self.sample_rate_hz * self.frame_bytes if self.subtype else self.byte_rate
        return byte_count / rate if rate else 0.0


@dataclass(frozen=True, slots=True)
class _Format:
    """The fields of a fmt chunk that are used."""

    tag: int
    subtype: str | None
    channels: int
    rate_hz: int
    frame_bytes: int
    byte_rate: int
    warnings: tuple[AudioWarning, ...]


class WavHeaderParser:
    """Collects the bytes of one file until its samples begin; owned by one decoder.

    `raw` keeps every byte pushed, so that a format that only libsndfile reads can be passed on from its first byte. It
    exceeds `HEADER_LIMIT_BYTES` by one push at most.
    """

    def __init__(self) -> None:
        self.raw = bytearray()
        self.header: WavHeader | None = None
        self._position = 0  # of the next chunk in the file
        self._format: _Format | None = None
        self._long_data_bytes: int | None = None  # from ds64

    def push(self, data: bytes | memoryview) -> None:
        """Parse more bytes; `header` is set as soon as the data chunk begins.

        Raises:
            InvalidAudio: A chunk is too short, or the samples do not begin within the header limit.
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
        fmt = self._format
        if fmt is None:
            raise InvalidAudio(
                "expected a 'fmt ' chunk before the samples of the WAV file, got none, so the encoding is unknown: "
                "export the recording again"
            )
        long_form = bytes(self.raw[:4]) in LONG_FORMS
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
            container=bytes(self.raw[:4]).decode().lower() if long_form else "wav",
            tag=fmt.tag,
            subtype=fmt.subtype,
            sample_rate_hz=fmt.rate_hz,
            channels=fmt.channels,
            frame_bytes=fmt.frame_bytes,
            byte_rate=fmt.byte_rate,
            data_bytes=data_bytes,
            data_start=data_start,
            warnings=fmt.warnings,
        )


def is_placeholder(size: int) -> bool:
    """Whether a size field means "unknown": −1 or slightly less (ffmpeg), or just below 2^31 (sox)."""
    return size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x7FFFFFFF


def is_endless(size: int) -> bool:
    """Whether a size that exceeds the file is a recorder's round stand-in, such as 0x80000000 or 2 000 000 000.

    A header of up to 256 bytes may be counted in it or not. Sizes of 64 bits are not affected.
    """
    if not _ENDLESS_BYTES <= size < 1 << 32:
        return False
    return size % 1_000_000 == 0 or (size + 256) % (1 << 16) <= 512


def _parse_ds64(chunk: bytes) -> int:
    """Read the 64-bit data size; the RIFF size and sample count in the same chunk add no information."""
    if len(chunk) < 28:
        raise InvalidAudio(f"expected a 'ds64' chunk of 28 bytes or more, got {len(chunk)}: export the recording again")
    size: int = struct.unpack_from("<Q", chunk, 8)[0]
    return size


def _parse_format(chunk: bytes) -> _Format:
    """Parse a fmt chunk; where the size of a frame is certain, block align and byte rate that contradict it are wrong.

    Raises:
        InvalidAudio: The chunk is too short.

    Source: Microsoft "Multiple channel audio data and WAVE files"; RFC 2361 for the tags.
    """
    if len(chunk) < 16:
        raise InvalidAudio(
            f"expected a WAV 'fmt ' chunk of 16 bytes or more, got {len(chunk)}: export the recording again"
        )
    tag, channels, rate_hz, byte_rate, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _TAG_EXTENSIBLE:
        tag = struct.unpack_from("<H", chunk, 24)[0] if len(chunk) >= 40 and chunk[26:40] in _SUBFORMAT_TAILS else 0
    sample_bytes = _sample_bytes(tag, bits, frame_bytes, channels)
    subtype = _SUBTYPES.get((tag, sample_bytes))
    if subtype is None or not channels:
        return _Format(tag, subtype, channels, rate_hz, frame_bytes, byte_rate, ())
    if tag == _TAG_PCM and 16 < bits <= 24 and sample_bytes == 4:
        subtype = PADDED_24
    warnings = []
    for name, declared, right in (
        ("block align", frame_bytes, channels * sample_bytes),
        ("byte rate", byte_rate, rate_hz * channels * sample_bytes),
    ):
        if declared != right:
            warnings.append(
                AudioWarning(
                    "header_field_ignored",
                    f"expected a WAV {name} of {right} for {channels} channel(s) of {bits} bits at {rate_hz} Hz, got "
                    f"{declared}: it was ignored",
                )
            )
    return _Format(tag, subtype, channels, rate_hz, channels * sample_bytes, byte_rate, tuple(warnings))


def _sample_bytes(tag: int, bits: int, frame_bytes: int, channels: int) -> int:
    """Return the bytes of one sample; block align decides only where the bits per sample leave it open."""
    if tag in (_TAG_ALAW, _TAG_MULAW):
        return 1  # some writers declare the 16 bits that a sample decodes to, or none
    aligned = frame_bytes // channels if channels and frame_bytes % channels == 0 else 0
    if bits == 0 or (tag == _TAG_PCM and 16 < bits <= 24 and aligned == 4):
        return aligned
    return (bits + 7) // 8
