"""Decode recordings to float32 blocks, from an HTTP body while it arrives or from a file on disk.

WAV and RF64 are decoded here as their bytes arrive, in constant memory. Any other format must be complete first: the
body is collected (at most `DecodeLimits.max_bytes`), then libsndfile reads it block by block. Independent of HTTP:
the caller pushes bytes and translates the errors.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, DecodeLimits
from speech_qc.audio.wav import (
    BLOCK_FRAMES,
    CONVERTERS,
    WavHeader,
    WavHeaderParser,
    WavSamples,
    check_finite,
    is_placeholder,
)
from speech_qc.errors import InvalidAudio, UnsupportedFormat
from speech_qc.wire.vocabulary import Encoding

__all__ = [
    "LIVE_ENCODINGS",
    "AudioInfo",
    "DecodeLimits",
    "Decoder",
    "FileDecoder",
    "decode_file",
    "is_recording",
    "pcm_to_float",
]

Block = NDArray[np.float32]

READABLE = "WAV, RF64, W64, AIFF, AU, CAF, FLAC, Ogg Vorbis, Ogg Opus, MP3, NIST SPHERE, VOC"
"""The supported formats, for error messages."""

READ_BYTES = 1 << 20  # per read from a file
_SNIFF_BYTES = 24  # the longest signature with its size field (W64)
_HEADER_PIECE_BYTES = 1 << 16  # keeps one huge push from being copied into the header
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # of the largest page
_HEAD_BYTES = 1024  # start of a complete recording: contains the size fields and all of a NIST header
_MP3_SLACK_FRAMES = 2 * 1152  # encoders disagree on the delay and padding they count
_MP3_BLOCK_FRAMES = 4 * 1152  # small, to find where in the file the decoder stops
_MP3_TRAILER_BYTES = 4096  # text tags that may follow the last frame
_UNKNOWN_FRAMES = 1 << 62  # libsndfile reports the largest int64 if the header does not declare a length
_UNSUPPORTED_CODES = frozenset({1, 4, 18})  # libsndfile: unrecognised format, unsupported encoding, unimplemented

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"(RIFF|RF64)....WAVE", "wav"),
    (rb"RIFX....WAVE|riff\x2e\x91\xcf\x11|FORM....(AIFF|AIFC|8SVX)|\.snd|dns\.|caff|fLaC|OggS", "libsndfile"),
    (rb"NIST_1A|Creative Voice File|ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xfd][^\xf0-\xff]", "libsndfile"),
)
"""Maps first bytes to a reader. MPEG audio has only its frame sync: layer bits set, but not the text mark FF FE."""

_KNOWN_UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (rb"\x1a\x45\xdf\xa3", "WebM/Matroska"),
    (rb"....ftyp", "MP4/M4A"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC"),
    (rb"#!AMR", "AMR"),
    (rb"\x30\x26\xb2\x75", "WMA/ASF"),
    (rb"PK\x03\x04|\x1f\x8b", "a compressed archive"),
    (rb"RIFF", "a RIFF file, but not WAVE"),
    (rb"\xff\xfe|\xfe\xff|[\t\r\n -~]+\Z", "text"),
)
"""Formats that users send by mistake, so that the error message can name them."""

_NOT_SOUND = frozenset({"a compressed archive", "a RIFF file, but not WAVE", "text"})
_PICTURES = rb"....ftyp(he[iv][cmsx]|mi[fa][1f]|msf1|avi[fos])"
"""Pictures in the container of MP4."""

SIGNATURE_BYTES = 64
"""Bytes at the start of a file that `is_recording` needs."""

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


def is_recording(head: bytes) -> bool:
    """Whether a file that starts with these bytes holds sound, in a format that can be read or only named.

    Args:
        head: The first `SIGNATURE_BYTES` bytes, or all if there are fewer.
    """
    if re.match(_PICTURES, head, re.DOTALL):
        return False
    sound = [pattern for pattern, name in _KNOWN_UNSUPPORTED if name not in _NOT_SOUND]
    return any(re.match(pattern, head, re.DOTALL) for pattern in (*(pattern for pattern, _ in _SIGNATURES), *sound))


class _Body(io.BytesIO):
    """A collected recording that ignores a seek to an invalid position.

    Broken headers make libsndfile seek before the start or far beyond the end. It detects the failure by the unchanged
    position; an exception would only be printed, because it cannot propagate through C.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


class Decoder:
    """Decodes one recording while its bytes arrive; owned by one request, not thread-safe.

    Args:
        limits: Limits; exceeding one raises PayloadTooLarge.
        content_type: Media type given by the sender; only for error messages, the bytes determine the format.
        filename: File name given by the sender; only for error messages.
        total_bytes: Length of the whole recording if known in advance (Content-Length, file size).

    Raises:
        PayloadTooLarge: `total_bytes` exceeds the limit.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        content_type: str | None = None,
        filename: str | None = None,
        total_bytes: int | None = None,
    ) -> None:
        limits.check_bytes(total_bytes or 0, "the recording has")
        self.info: AudioInfo | None = None
        """Set as soon as the header has been parsed."""
        self.frames = 0
        """Frames decoded so far."""
        self.collected: io.BytesIO | None = None
        """The recording so far, if only libsndfile reads its format."""
        self.foreign_header: WavHeader | None = None
        """Header of a WAV with an encoding that only libsndfile reads."""
        self._limits = limits
        self._sender = ", ".join(text for text in (content_type, filename) if text)
        self._received_bytes = 0
        self._head = bytearray()  # until the signature is complete
        self._parser: WavHeaderParser | None = None
        self._header: WavHeader | None = None
        self._samples: WavSamples | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes collected so far."""
        return 0 if self.collected is None else self._received_bytes

    def push(self, data: bytes | memoryview) -> list[Block]:
        """Decode more bytes of the recording.

        Returns:
            The blocks that these bytes complete, each float32 [n, channels] with n up to `BLOCK_FRAMES`; none while the
            header is incomplete or the recording is being collected.

        Raises:
            InvalidAudio: The header or a sample is invalid.
            UnsupportedFormat: The first bytes match no supported format.
            PayloadTooLarge: Bytes, duration or channels, declared or counted, exceed the limits.
        """
        self._received_bytes += len(data)
        self._limits.check_bytes(self._received_bytes, "already received")
        view = memoryview(data)
        if self._parser is None and self.collected is None:
            missing = _SNIFF_BYTES - len(self._head)
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) < _SNIFF_BYTES:
                return []
            self._choose_reader()
        blocks: list[Block] = []
        while self._parser is not None and self._header is None and view:
            blocks += self._push_header(self._parser, view[:_HEADER_PIECE_BYTES])
            view = view[_HEADER_PIECE_BYTES:]
        if self.collected is not None:
            self.collected.write(view)
        elif self._samples is not None and view:
            blocks += self._push_samples(self._samples, view)
        return blocks

    def finish(self) -> Iterator[Block]:
        """End the recording after its last byte.

        Returns:
            The remaining blocks, decoded one by one during iteration.

        Raises:
            InvalidAudio: The recording is empty or shorter than the header declares. Iteration may also raise it.
            UnsupportedFormat: The first bytes match no supported format, or libsndfile rejects the recording.
            PayloadTooLarge: See `push`. Iteration may also raise it.
        """
        if self._received_bytes == 0:
            raise InvalidAudio("expected a recording, got an empty body: send the audio itself")
        if self._parser is None and self.collected is None:
            self._choose_reader()
        if self.collected is not None:
            source = LibsndfileSource(self.collected, self._received_bytes, self._limits, self.foreign_header)
            self.info = source.info
            return self._count(source)
        if self._samples is None or self._header is None:
            raise InvalidAudio(
                f"expected a WAV header and samples, got a header only, cut off after {self._received_bytes} bytes: "
                "upload the whole file"
            )
        declared, received = self._header.data_bytes, self._samples.received_bytes
        if declared is not None and received < declared:
            raise _truncated(f"{declared} bytes of samples", f"{received}")
        if self.frames == 0:
            raise _no_samples()
        return iter(())

    def _choose_reader(self) -> None:
        """Select the reader by the signature and pass it the bytes buffered so far."""
        head = bytes(self._head)
        reader = next((reader for pattern, reader in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)
        if reader == "wav" or (len(head) < 12 and head[:4] in (b"RIFF", b"RF64")):
            self._parser = WavHeaderParser()
            self._parser.push(head)
        elif reader == "libsndfile":
            self._limits.check_bytes(_declared_bytes(head) or 0, "the header declares")
            self.collected = _Body()
            self.collected.write(head)
        else:
            known = (name for pattern, name in _KNOWN_UNSUPPORTED if re.match(pattern, head, re.DOTALL))
            guess = next((f", which look like {name}" for name in known), "")
            sender = f" (sent as {self._sender})" if self._sender else ""
            raise UnsupportedFormat(
                f"expected one of {READABLE}, got first bytes {head[:12]!r}{guess}{sender}: "
                "convert the recording to WAV or FLAC",
                first_bytes=head[:12].hex(),
            )

    def _push_header(self, parser: WavHeaderParser, data: memoryview) -> list[Block]:
        """Parse the WAV header; once it is complete, check it and decode the samples received along with it."""
        parser.push(data)
        header = self._header = parser.header
        if header is None:
            return []
        self._limits.check_layout(header.channels, header.sample_rate_hz)
        if header.data_bytes is not None:
            self._limits.check_bytes(header.data_start + header.data_bytes, "the header declares")
        if header.subtype is None:
            self.foreign_header, self.collected = header, _Body()
            self.collected.write(parser.raw)
            parser.raw.clear()
            return []
        self._limits.check_frames(header.frames or 0, header.sample_rate_hz)
        self._limits.check_samples(header.frames or 0, header.channels)
        encoding = f"{header.container}/{header.subtype}"
        self.info = AudioInfo(header.sample_rate_hz, header.channels, encoding, header.frames)
        self._samples = WavSamples(header)
        first = bytes(parser.raw[header.data_start :])
        parser.raw.clear()
        return self._push_samples(self._samples, first)

    def _push_samples(self, samples: WavSamples, data: bytes | memoryview) -> list[Block]:
        """Decode WAV samples and check the limits."""
        blocks = samples.push(data)
        self.frames = samples.frames
        self._limits.check_frames(self.frames, samples.header.sample_rate_hz)
        self._limits.check_samples(self.frames, samples.header.channels)
        return blocks

    def _count(self, source: LibsndfileSource) -> Iterator[Block]:
        for block in source:
            self.frames += len(block)
            yield block


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A forward-only file, because soundfile seeks after each read, which fails if the length is unknown."""

    def seekable(self) -> bool:
        return False


class LibsndfileSource:
    """A complete recording in any format that libsndfile reads; can be iterated once.

    Args:
        file: The recording: a BytesIO or a file with a descriptor.
        total_bytes: Its length.
        limits: Limits, checked before any sample is decoded and while decoding.
        header: Header of a WAV with a compressed encoding, for its declared size.

    Raises:
        InvalidAudio: The header is broken, or declares more bytes than the recording has.
        UnsupportedFormat: libsndfile has no decoder for it.
        PayloadTooLarge: Channels or declared duration exceed the limits.
    """

    def __init__(self, file: BinaryIO, total_bytes: int, limits: DecodeLimits, header: WavHeader | None) -> None:
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        declared_bytes = _declared_bytes(head)
        if header is not None:
            declared_bytes = None if header.data_bytes is None else header.data_start + header.data_bytes
        if declared_bytes is not None and declared_bytes > total_bytes:
            raise _truncated(f"{declared_bytes} bytes", str(total_bytes))
        if head[:4] == b"OggS" and _ogg_is_cut(file, total_bytes):
            raise _truncated("a whole Ogg page at the end", "only part of it")
        file.seek(0)
        try:
            # Pass the descriptor: given a name that ends in .raw, soundfile would assume that there is no header.
            self._sound = _ForwardFile(file if isinstance(file, io.BytesIO) else file.fileno(), closefd=False)
        except soundfile.LibsndfileError as error:
            # The header of a WAV has already been parsed, so libsndfile must be rejecting its encoding.
            unsupported = header is not None or error.code in _UNSUPPORTED_CODES
            kind = UnsupportedFormat if unsupported else InvalidAudio
            raise kind(
                f"expected one of {READABLE}, got a recording that libsndfile rejects ({error.error_string}): check "
                "that you upload the whole file, or convert it to WAV or FLAC"
            ) from error
        limits.check_layout(self._sound.channels, self._sound.samplerate)
        declared: int | None = self._sound.frames if self._sound.frames < _UNKNOWN_FRAMES else None
        self._guessed = self._sound.format == "MP3" and not _mp3_has_length(file)
        if self._guessed:
            declared = None  # libsndfile has extrapolated from the first frame
        if head[:7] == b"NIST_1A" and (count := re.search(rb"sample_count -i (\d{1,18})\s", head)):
            declared = int(count[1])  # libsndfile derives the length from the file size
        limits.check_frames(declared or 0, self._sound.samplerate)
        limits.check_samples(declared or 0, self._sound.channels)
        encoding = f"{self._sound.format.lower()}/{self._sound.subtype}"
        self.info = AudioInfo(self._sound.samplerate, self._sound.channels, encoding, declared)
        self._limits = limits
        self._file, self._total_bytes = file, total_bytes
        self._least_frames = (declared or 0) - (_MP3_SLACK_FRAMES if self._sound.format == "MP3" else 0)

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block; raise InvalidAudio or PayloadTooLarge at the first fault in the recording."""
        frames, rate_hz = 0, self.info.sample_rate_hz
        shape = (_MP3_BLOCK_FRAMES if self._guessed else BLOCK_FRAMES, self.info.channels)
        with self._sound:
            while True:
                try:
                    block = self._sound.read(out=np.empty(shape, np.float32))
                except soundfile.LibsndfileError as error:
                    raise InvalidAudio(
                        f"damaged or truncated: decoding failed after {frames} frames ({frames / rate_hz:.2f} s; "
                        f"{error.error_string}): upload the whole file"
                    ) from error
                if len(block) == 0:
                    break
                check_finite(block, frames, rate_hz)
                frames += len(block)
                self._limits.check_frames(frames, rate_hz)
                self._limits.check_samples(frames, self.info.channels)
                yield block
            unread_bytes = self._total_bytes - self._file.tell()
        if self._guessed and unread_bytes > _MP3_TRAILER_BYTES:
            raise InvalidAudio(
                "expected an MP3 with a length tag or a constant bit rate, got one of which only the first "
                f"{frames / rate_hz:.1f} s can be read ({unread_bytes} bytes are left): convert it to WAV or FLAC, or "
                "rewrite the tag"
            )
        if frames == 0:
            raise _no_samples()
        if frames < self._least_frames:
            raise _truncated(f"{self.info.declared_frames} frames", f"{frames}")


class FileDecoder:
    """Decodes a recording on disk block by block, in constant memory; can be iterated once.

    `info` is available from the start. Close the decoder, or use a `with` statement, unless you iterate to the end.

    Raises:
        InvalidAudio, UnsupportedFormat, PayloadTooLarge: As `Decoder`; also when the file cannot be opened.
    """

    held_bytes = 0

    def __init__(self, path: str | os.PathLike[str], limits: DecodeLimits | None = None) -> None:
        path = Path(path)
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise InvalidAudio(
                f"expected a readable file, got {path.name!r} ({error.strerror}): check the path"
            ) from error
        self.frames = 0
        try:
            self.info, self._blocks = self._open(path.name, limits or DecodeLimits())
        except BaseException:
            self.close()
            raise

    def _open(self, name: str, limits: DecodeLimits) -> tuple[AudioInfo, Iterator[Block]]:
        """Read until the header has been parsed."""
        total_bytes = os.fstat(self._file.fileno()).st_size
        decoder = Decoder(limits, filename=name, total_bytes=total_bytes)
        first: list[Block] = []
        while decoder.info is None:
            data = self._file.read(READ_BYTES)
            if not data:
                decoder.finish()  # raises an error that names what is missing
                raise _no_samples()
            first = decoder.push(data)
            if decoder.collected is not None:
                source = LibsndfileSource(self._file, total_bytes, limits, decoder.foreign_header)
                return source.info, iter(source)
        return decoder.info, self._read_wav(decoder, first)

    def _read_wav(self, decoder: Decoder, first: list[Block]) -> Iterator[Block]:
        yield from first
        first.clear()  # otherwise these blocks would stay in memory until the end
        while data := self._file.read(READ_BYTES):
            yield from decoder.push(data)
        yield from decoder.finish()

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block; raise the errors of `Decoder.finish` at the first fault in the recording."""
        try:
            for block in self._blocks:
                self.frames += len(block)
                yield block
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; idempotent."""
        self._file.close()

    def __enter__(self) -> FileDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def decode_file(path: str | os.PathLike[str], limits: DecodeLimits | None = None) -> FileDecoder:
    """Open a recording on disk.

    Args:
        path: Any format in `READABLE`.
        limits: Limits; None for the defaults.

    Returns:
        A decoder with `info`; iterate it for the blocks (float32 [n, channels], n up to `BLOCK_FRAMES`).

    Raises:
        InvalidAudio, UnsupportedFormat, PayloadTooLarge: As `Decoder`; iteration may also raise them.
    """
    return FileDecoder(path, limits)


def _truncated(declared: str, received: str) -> InvalidAudio:
    return InvalidAudio(f"truncated: the header declares {declared}, got {received}: upload the whole file")


def _no_samples() -> InvalidAudio:
    return InvalidAudio("expected samples after the header, got a header only: upload the finished recording")


def _declared_bytes(head: bytes) -> int | None:
    """Return the length of the recording from the container's size field; None if it has none or it is not set."""
    if len(head) < 24:
        return None
    size: int
    if head[:4] in (b"FORM", b"RIFX"):
        size = struct.unpack_from(">I", head, 4)[0]
        return None if is_placeholder(size) else size + 8
    if head[:4] in (b".snd", b"dns."):
        start, size = struct.unpack_from(">II" if head[:1] == b"." else "<II", head, 4)
        return None if is_placeholder(size) else start + size
    if head[:4] == b"riff":
        size = struct.unpack_from("<Q", head, 16)[0]
        return size if size < 1 << 63 else None
    return None


def _mp3_has_length(file: BinaryIO) -> bool:
    """Whether the first MP3 frame is the tag in which encoders count frames; restores the file position."""
    position = file.tell()
    file.seek(0)
    head = file.read(10)
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])  # seven bits per byte
    file.seek(start)
    first = file.read(256)
    file.seek(position)
    return any(tag in first for tag in (b"Xing", b"Info", b"VBRI"))


def _ogg_is_cut(file: BinaryIO, total_bytes: int) -> bool:
    """Whether the last Ogg page is incomplete; libsndfile would drop it silently (RFC 3533, section 6)."""
    file.seek(max(0, total_bytes - _OGG_PAGE_BYTES))
    tail = file.read(_OGG_PAGE_BYTES)
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return True
    segments = tail[start + 26]
    table = tail[start + 27 : start + 27 + segments]
    return len(table) < segments or start + 27 + segments + sum(table) > len(tail)
