"""Decode recordings to float32 blocks, from an HTTP body while it arrives or from a file on disk.

WAV and headerless samples are decoded as their bytes arrive, in constant memory. Any other format must be complete
first: the body is collected (at most `DecodeLimits.max_bytes`), then libsndfile or, in a process of its own, FFmpeg
reads it block by block. Independent of HTTP: the caller pushes bytes and translates the errors.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, AudioWarning, DecodeLimits, RawFormat
from speech_qc.audio.libsndfile import READABLE, LibsndfileSource, declared_bytes, no_samples, unread_after
from speech_qc.audio.media import MediaSource, media_is_installed, open_media, open_raw, second_chance
from speech_qc.audio.media_formats import RAW_DEMUXERS, MediaFormat, find_media
from speech_qc.audio.media_process import INSTALL, Spool
from speech_qc.audio.pcm import LIVE_ENCODINGS
from speech_qc.audio.wav import WavHeader
from speech_qc.audio.wav_reader import WavReader
from speech_qc.errors import InvalidAudio, UnsupportedFormat

Block = NDArray[np.float32]

READ_BYTES = 1 << 20  # per read from a file
_SHORT_READ_BYTES = 1 << 17  # after a part was skipped, since the next one is short, too
_SNIFF_BYTES = 24  # the longest signature with its size field (W64)
_HEADER_PIECE_BYTES = 1 << 16  # keeps one huge push from being copied into the header

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"(RIFF|RF64|BW64)....WAVE", "wav"),
    (rb"RIFX....WAVE|riff\x2e\x91\xcf\x11|FORM....(AIFF|AIFC|8SVX)|\.snd|dns\.|caff|fLaC|OggS", "libsndfile"),
    (rb"NIST_1A|Creative Voice File|ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xfd][^\xf0-\xff]", "libsndfile"),
)
"""Maps first bytes to a reader. MPEG audio has only its frame sync: layer bits set, but not the text mark FF FE."""

_KNOWN_UNSUPPORTED: tuple[tuple[bytes, str], ...] = (
    (rb"#EXTM3U|ffconcat", "a playlist"),
    (rb"\xd4\xc3\xb2\xa1|\xa1\xb2\xc3\xd4|\x4d\x3c\xb2\xa1|\xa1\xb2\x3c\x4d|\n\r\r\n", "a packet capture"),
    (rb"PK\x03\x04|\x1f\x8b", "a compressed archive"),
    (rb"RIFF", "a RIFF file, but not WAVE"),
    (rb"\xff\xfe|\xfe\xff|[\t\r\n -~]+\Z", "text"),
)
"""Formats that users send by mistake, so that the error message can name them."""

_PICTURES = rb"....ftyp(he[iv][cmsx]|mi[fa][1f]|msf1|avi[fos])"
"""Pictures in the container of MP4."""

_AMBIGUOUS = frozenset({"loas", "eac3"})
"""Formats with two first bytes only, which files of any other kind may have, too."""

SIGNATURE_BYTES = 64
"""Bytes at the start of a file that `is_recording` needs."""


def is_recording(head: bytes) -> bool:
    """Whether a file that starts with these bytes holds sound, in a format that can be read or only named.

    Args:
        head: The first `SIGNATURE_BYTES` bytes, or all if there are fewer.
    """
    if re.match(_PICTURES, head, re.DOTALL):
        return False
    media = find_media(head)
    if media is not None and media.demuxer not in _AMBIGUOUS:
        return True
    return any(re.match(pattern, head, re.DOTALL) for pattern, _ in _SIGNATURES)


class Decoder:
    """Decodes one recording while its bytes arrive; owned by one request, not thread-safe.

    Args:
        limits: Limits; exceeding one raises PayloadTooLarge.
        content_type: Media type given by the sender; only for error messages, the bytes determine the format.
        filename: File name given by the sender; only for error messages.
        total_bytes: Length of the whole recording if known in advance (Content-Length, file size).
        raw: Format of audio without a header; None if the recording has one.

    Raises:
        InvalidAudio: The rate or number of channels in `raw` is not accepted.
        PayloadTooLarge: `total_bytes` exceeds the limit.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        content_type: str | None = None,
        filename: str | None = None,
        total_bytes: int | None = None,
        raw: RawFormat | None = None,
    ) -> None:
        limits.check_bytes(total_bytes or 0, "the recording has")
        if raw is not None:
            limits.check_layout(raw.channels, raw.sample_rate_hz)
        self.info: AudioInfo | None = None
        """Set as soon as the header has been parsed."""
        self.frames = 0
        """Frames decoded so far."""
        self.collected: io.BytesIO | Spool | None = None
        """The recording so far, if only libsndfile or FFmpeg reads its format."""
        self._limits, self._raw = limits, raw
        self._sender = ", ".join(text for text in (content_type, filename) if text)
        self._total_bytes = total_bytes
        self._received_bytes = 0
        self._head = bytearray()  # until the signature is complete
        self._wav: WavReader | None = None
        self._foreign_header: WavHeader | None = None
        self._source: LibsndfileSource | MediaSource | None = None
        self._is_closed = False

    @property
    def held_bytes(self) -> int:
        """Bytes collected so far."""
        return 0 if self.collected is None else self._received_bytes

    @property
    def warnings(self) -> list[AudioWarning]:
        """What was wrong with the recording, although it was read; complete after the last block."""
        found = self._wav.warnings if self._wav else []
        return found + (self._source.warnings if self._source else [])

    def close(self) -> None:
        """Give up the recording: kill FFmpeg's process if there is one; idempotent, and any thread may call it."""
        self._is_closed = True
        if isinstance(self._source, MediaSource):
            self._source.close()

    def push(self, data: bytes | memoryview) -> list[Block]:
        """Decode more bytes of the recording.

        Returns:
            The blocks that these bytes complete, each float32 [n, channels] with n up to `BLOCK_FRAMES`; none while the
            header is incomplete or the recording is being collected.

        Raises:
            InvalidAudio: The header or a sample is invalid.
            UnsupportedFormat: The first bytes match no supported format.
            PayloadTooLarge: Bytes, duration or channels exceed the limits.
        """
        self._received_bytes += len(data)
        self._limits.check_bytes(self._received_bytes, "already received")
        view = memoryview(data)
        blocks: list[Block] = []
        if self._wav is None and self.collected is None:
            missing = _SNIFF_BYTES - len(self._head)
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) < _SNIFF_BYTES:
                return []
            blocks += self._choose_reader()
        while self._wav is not None and self.info is None and self.collected is None and view:
            blocks += self._push_wav(self._wav, view[:_HEADER_PIECE_BYTES])
            view = view[_HEADER_PIECE_BYTES:]
        if self.collected is not None:
            self.collected.write(view)
        elif self._wav is not None and view:
            blocks += self._push_wav(self._wav, view)
        return blocks

    def skip(self, frames: int, room: int) -> int:
        """Take frames as read where that needs no decoding, which is in WAV.

        Args:
            frames: Frames that are not needed.
            room: Bytes of the recording that were not pushed yet.

        Returns:
            Bytes of the recording to leave out before the next push; 0 if its bytes are needed.
        """
        if self._wav is None or self.info is None:
            return 0
        size = self._wav.skip(frames, room)
        self._received_bytes += size
        self.frames = self._wav.frames
        return size

    def finish(self) -> Iterator[Block]:
        """End the recording after its last byte.

        Returns:
            The remaining blocks, decoded one by one during iteration.

        Raises:
            InvalidAudio: The recording is empty, or nothing can be decoded. Iteration may also raise it.
            UnsupportedFormat: The first bytes match no supported format, or libsndfile rejects the recording.
            PayloadTooLarge: See `push`. Iteration may also raise it.
        """
        if self._received_bytes == 0:
            raise InvalidAudio("expected a recording, got an empty body: send the audio itself")
        blocks = self._choose_reader() if self._wav is None and self.collected is None else []
        if self.collected is not None:
            source = self.open_source(self.collected, self._received_bytes)
            self.info = source.info
            return self._count(source)
        assert self._wav is not None
        blocks += self._wav.finish()
        self.frames = self._wav.frames
        if self.frames == 0 and self._raw is not None:
            raise InvalidAudio(
                f"expected at least one {self._raw.encoding} sample per channel, got {self._received_bytes} byte(s): "
                "send the whole recording"
            )
        if self.frames == 0:
            raise no_samples()
        return iter(blocks)

    def open_source(self, file: BinaryIO | io.FileIO, total_bytes: int) -> LibsndfileSource | MediaSource:
        """Open the complete recording, after its first bytes were pushed."""
        header, unread = self._foreign_header, list[AudioWarning]()
        if header is not None and header.data_bytes is not None:
            unread = unread_after(file, total_bytes, header)
            if unread:  # libsndfile and FFmpeg reject a file with such bytes
                total_bytes = header.data_start + header.data_bytes
                whole, file = file, Spool()
                file.copy(whole, total_bytes)
        if self._raw is not None and self._raw.encoding in RAW_DEMUXERS:
            source: LibsndfileSource | MediaSource = open_raw(file, total_bytes, self._limits, self._raw)
        elif isinstance(self.collected, Spool):
            source = open_media(file, total_bytes, self._limits)
        else:
            try:
                source = LibsndfileSource(file, total_bytes, self._limits, self._foreign_header, self._raw)
            except (InvalidAudio, UnsupportedFormat) as error:
                if not isinstance(error.__cause__, soundfile.LibsndfileError):
                    raise
                source = second_chance(error, file, total_bytes, self._limits)
            else:
                if source.is_cut_short and media_is_installed():
                    container = "mp3" if self._foreign_header is None else "wav"
                    source = MediaSource(file, total_bytes, self._limits, MediaFormat(container, container))
        source.warnings += unread
        self._source = source
        if self._is_closed:  # in the meantime, by another thread
            self.close()
        return source

    def _choose_reader(self) -> list[Block]:
        """Select the reader by the signature and pass it the bytes buffered so far."""
        head = bytes(self._head)
        reader = next((reader for pattern, reader in _SIGNATURES if re.match(pattern, head, re.DOTALL)), None)
        if self._raw is not None:
            return self._choose_raw_reader(self._raw, head, reader)
        if reader == "wav" or (len(head) < 12 and head[:4] in (b"RIFF", b"RF64", b"BW64")):
            # Not a bound method: reader and decoder would refer to each other, and wait for the garbage collector.
            self._wav = WavReader(self._total_bytes, check=partial(_check_header, self._limits))
            return self._push_wav(self._wav, memoryview(head))
        if reader == "libsndfile":
            declared = declared_bytes(head) if self._total_bytes is None else None
            self._limits.check_bytes(declared or 0, "the header declares")
            self._collect(head, io.BytesIO())
            return []
        media = find_media(head)
        if media is not None and media_is_installed():
            self._collect(head, Spool())
            return []
        known = (name for pattern, name in _KNOWN_UNSUPPORTED if re.match(pattern, head, re.DOTALL))
        name = next(known, None) if media is None else f"{media.container}, which FFmpeg reads"
        guess = f", which look like {name}" if name else ""
        sender = f" (sent as {self._sender})" if self._sender else ""
        advice = f"install it ({INSTALL}), or " if media is not None else ""
        raise UnsupportedFormat(
            f"expected one of {READABLE}, got first bytes {head[:12]!r}{guess}{sender}: {advice}"
            "convert the recording to WAV or FLAC; for audio without a header, give its encoding and sample rate",
            first_bytes=head[:12].hex(),
        )

    def _choose_raw_reader(self, raw: RawFormat, head: bytes, reader: str | None) -> list[Block]:
        """Select the reader of audio without a header."""
        if reader == "wav" or (reader == "libsndfile" and head[0] != 0xFF):  # an MPEG sync can be a µ-law sample
            raise InvalidAudio(
                f"expected audio without a header, since an encoding is given, got first bytes {head[:12]!r} of a file "
                "with one: leave out encoding and sample_rate",
                first_bytes=head[:12].hex(),
            )
        if raw.encoding not in LIVE_ENCODINGS:
            self._collect(head, io.BytesIO())
            return []
        subtype, sample_bytes = LIVE_ENCODINGS[raw.encoding]
        frame_bytes = sample_bytes * raw.channels
        rate_hz = raw.sample_rate_hz
        header = WavHeader("raw", 0, subtype, rate_hz, raw.channels, frame_bytes, rate_hz * frame_bytes, None, 0)
        self._wav = WavReader(self._total_bytes, header)
        return self._push_wav(self._wav, memoryview(head))

    def _collect(self, head: bytes | bytearray, file: io.BytesIO | Spool) -> None:
        self.collected = file
        file.write(head)

    def _push_wav(self, wav: WavReader, data: memoryview) -> list[Block]:
        """Parse or decode WAV bytes, and check the limits."""
        blocks = wav.push(data)
        header = wav.header
        if header is None:
            return blocks
        if wav.is_foreign:
            self._foreign_header = header
            self._collect(wav.raw, io.BytesIO())
            wav.raw.clear()
            return []
        if self.info is None:
            encoding = f"{header.container}/{header.subtype}"
            self.info = AudioInfo(header.sample_rate_hz, header.channels, encoding, wav.expected_frames)
        self.frames = wav.frames
        self._limits.check_frames(self.frames, header.sample_rate_hz)
        self._limits.check_samples(self.frames, header.channels)
        return blocks

    def _count(self, source: LibsndfileSource | MediaSource) -> Iterator[Block]:
        for block in source:
            self.frames += len(block)
            yield block


def _check_header(limits: DecodeLimits, wav: WavReader) -> None:
    """Check what the header of a WAV declares against the limits."""
    header = wav.header
    assert header is not None
    limits.check_layout(header.channels, header.sample_rate_hz)
    limits.check_bytes(header.data_start + (wav.expected_bytes or 0), "the header declares")
    limits.check_frames(wav.expected_frames or 0, header.sample_rate_hz)
    limits.check_samples(wav.expected_frames or 0, header.channels)


class FileDecoder:
    """Decodes an open file block by block, in constant memory; can be iterated once.

    `info` is available from the start. Close the decoder, or use a `with` statement, unless you iterate to the end.

    Args:
        file: The recording, at its start; owned by this object. FFmpeg reads a copy in memory unless it is a `FileIO`.
        total_bytes: Its length; None for a pipe, where formats other than WAV are collected first, as by `Decoder`.
        limits: Limits; None for the defaults.
        raw: Format of audio without a header; None if the recording has one.
        name: Its name, for error messages.

    Raises:
        InvalidAudio, UnsupportedFormat, PayloadTooLarge: As `Decoder`.
    """

    held_bytes = 0

    def __init__(
        self,
        file: BinaryIO | io.FileIO,
        total_bytes: int | None,
        limits: DecodeLimits | None = None,
        raw: RawFormat | None = None,
        *,
        name: str | None = None,
    ) -> None:
        self._file, self._total_bytes = file, total_bytes
        self.frames = 0
        """Frames up to the end of the last block, with those that were skipped."""
        self._needed = 0
        self._decoder: Decoder | None = None
        try:
            self._decoder = Decoder(limits or DecodeLimits(), filename=name, total_bytes=total_bytes, raw=raw)
            self.info, self._blocks = self._open(self._decoder, total_bytes)
        except BaseException:
            self.close()
            raise

    @property
    def warnings(self) -> list[AudioWarning]:
        """What was wrong with the recording, although it was read; complete after the last block."""
        return [] if self._decoder is None else self._decoder.warnings

    def _open(self, decoder: Decoder, total_bytes: int | None) -> tuple[AudioInfo, Iterator[Block]]:
        """Read until the header has been parsed."""
        first: list[Block] = []
        rest: Iterator[Block] | None = None
        while decoder.info is None:
            data = self._file.read(READ_BYTES)
            if not data:
                rest = decoder.finish()  # raises an error that names what is missing, unless it is tiny or from a pipe
                break
            first = decoder.push(data)
            if decoder.collected is not None and total_bytes is not None:
                source = decoder.open_source(self._file, total_bytes)
                decoder.collected = None  # it is read from the disk instead
                return source.info, self._read_source(source)
        assert decoder.info is not None
        return decoder.info, self._read_wav(decoder, first) if rest is None else rest

    def _read_wav(self, decoder: Decoder, first: list[Block]) -> Iterator[Block]:
        yield from first
        first.clear()  # otherwise these blocks would stay in memory until the end
        while True:
            data = self._file.read(_SHORT_READ_BYTES if self._skip(decoder) else READ_BYTES)
            if not data:
                break
            yield from decoder.push(data)
        yield from decoder.finish()

    def _read_source(self, source: LibsndfileSource | MediaSource) -> Iterator[Block]:
        for block in source:
            if isinstance(source, LibsndfileSource):
                self.frames = source.frames - len(block)
            yield block
            if isinstance(source, LibsndfileSource):
                source.needed = self._needed

    def skip_to(self, frame: int) -> None:
        """Leave out frames before this one that are not read yet, where that needs no decoding: in WAV and FLAC."""
        self._needed = frame

    def _skip(self, decoder: Decoder) -> bool:
        """Skip what is not needed; return whether anything was skipped."""
        if self._needed <= decoder.frames or self._total_bytes is None:
            return False
        before = decoder.frames
        size = decoder.skip(self._needed - before, self._total_bytes - self._file.tell())
        self._file.seek(size, io.SEEK_CUR)
        self.frames += decoder.frames - before
        return size > 0

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block; raise the errors of `Decoder.finish` at the first fault in the recording."""
        try:
            for block in self._blocks:
                self.frames += len(block)
                yield block
        finally:
            self.close()

    def close(self) -> None:
        """Close the file and end its decoder; idempotent."""
        if self._decoder is not None:
            self._decoder.close()
        self._file.close()

    def __enter__(self) -> FileDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def decode_file(
    path: str | os.PathLike[str], limits: DecodeLimits | None = None, raw: RawFormat | None = None
) -> FileDecoder:
    """Open a recording on disk.

    Args:
        path: Any format in `READABLE`, also a pipe.
        limits: Limits; None for the defaults.
        raw: Format of audio without a header; None if the recording has one.

    Returns:
        A decoder with `info`; iterate it for the blocks (float32 [n, channels], n up to `BLOCK_FRAMES`).

    Raises:
        InvalidAudio, UnsupportedFormat, PayloadTooLarge: As `Decoder`, also when the file cannot be opened; iteration
            may also raise them.
    """
    path = Path(path)
    try:
        file = path.open("rb", buffering=0)
    except (OSError, ValueError) as error:  # the latter for names that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidAudio(f"expected a readable file, got {path.name!r} ({reason}): check the path") from error
    facts = os.fstat(file.fileno())
    total_bytes = facts.st_size if stat.S_ISREG(facts.st_mode) else None  # a pipe or a device
    name = os.fsencode(path.name).decode("utf-8", "replace")  # a message is text, a name any bytes
    return FileDecoder(file, total_bytes, limits, raw, name=name)
