"""Reads complete recordings through libsndfile, every joined recording in them included."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import nullcontext
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, AudioWarning, DecodeLimits, RawFormat
from speech_qc.audio.native_stderr import silenced
from speech_qc.audio.pcm import BLOCK_FRAMES, check_finite
from speech_qc.audio.segments import (
    Segment,
    Window,
    count_ogg_tracks,
    find_segments,
    has_variable_bit_rate,
    with_opus_rate,
)
from speech_qc.audio.wav import WavHeader, is_endless, is_placeholder
from speech_qc.audio.wav_reader import ChunkWalker, joined_warning, missing_warning, tracks_warning, unread_warning
from speech_qc.errors import InvalidAudio, UnsupportedFormat
from speech_qc.wire.vocabulary import RawEncoding

Block = NDArray[np.float32]

READABLE = "WAV, RF64, BW64, W64, AIFF, AU, CAF, FLAC, Ogg Vorbis, Ogg Opus, MP3, NIST SPHERE, VOC"
"""The supported formats, for error messages."""

RAW_SUBTYPES: dict[RawEncoding, str] = {"gsm": "GSM610", "vox": "VOX_ADPCM"}
"""Headerless encodings that libsndfile reads, with its name of each."""

_TAG_MP3 = 0x0055
_HEAD_BYTES = 1024  # start of a complete recording: contains the size fields and all of a NIST header
_OGG_PAGE_BYTES = 27 + 255 + 255 * 255  # of the largest page
_MP3_SLACK_FRAMES = 2 * 1152  # encoders disagree on the delay and padding they count
_SMALL_BLOCK_FRAMES = 4 * 1152  # of compressed formats: a fault costs the block in which it is
_SEEK_S = 10.0  # decoding a few seconds costs no more than seeking
_COMPRESSED = frozenset({"FLAC", "OGG", "MP3", "CAF"})
_MP3_TRAILER_BYTES = 4096  # text tags that may follow the last frame
_UNKNOWN_FRAMES = 1 << 62  # libsndfile reports the largest int64 if the header does not declare a length
_UNSUPPORTED_CODES = frozenset({1, 4, 18})  # libsndfile: unrecognised format, unsupported encoding, unimplemented


class _ForwardFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """A forward-only file, because soundfile seeks after each read, which fails if the length is unknown."""

    def seekable(self) -> bool:
        return False


class _Part:
    """One of the recordings in a file, opened.

    Args:
        file: The file.
        segment: Where in it the recording is.
        raw: What the sender says about audio without a header.

    Raises:
        soundfile.LibsndfileError: libsndfile rejects it.
    """

    def __init__(self, file: BinaryIO | Window, segment: Segment, raw: RawFormat | None) -> None:
        self.window = Window(file, segment if raw else with_opus_rate(file, segment))
        self.segment = segment
        options = {}
        if raw is not None:
            options = {"format": "RAW", "subtype": RAW_SUBTYPES[raw.encoding], "samplerate": raw.sample_rate_hz}
            options |= {"channels": raw.channels}
        with silenced():
            self.sound = _ForwardFile(self.window, closefd=False, **options)
        self.declared: int | None = self.sound.frames if self.sound.frames < _UNKNOWN_FRAMES else None
        self.is_mp3 = self.sound.format == "MP3"
        self.is_mpeg = "MPEG" in self.sound.subtype  # also in other containers
        self.is_guessed = self.is_mp3 and not _mp3_has_length(self.window)
        if self.is_guessed:
            self.declared = None  # libsndfile has extrapolated from the first frame
        self.least_frames = (self.declared or 0) - (_MP3_SLACK_FRAMES if self.is_mpeg else 0)

    @property
    def layout(self) -> tuple[int, int]:
        """Rate and channels: what all parts of one recording must share."""
        return self.sound.samplerate, self.sound.channels

    @property
    def unread_bytes(self) -> int:
        """Bytes of the segment that the decoder has not read."""
        return max(0, self.segment.end - self.segment.start - self.window.tell())


class LibsndfileSource:
    """A complete recording in any format that libsndfile reads; can be iterated once.

    Chained Ogg streams and MP3 files one behind the other are read as one recording, as long as they have the same rate
    and channels.

    Args:
        file: The recording, seekable.
        total_bytes: Its length.
        limits: Limits, checked before any sample is decoded and while decoding.
        header: Header of a WAV with a compressed encoding, for its declared size.
        raw: What the sender says about audio without a header.

    Raises:
        InvalidAudio: The header is broken, or the file joins too many recordings.
        UnsupportedFormat: libsndfile has no decoder for it.
        PayloadTooLarge: Channels or declared duration exceed the limits.
    """

    def __init__(
        self,
        file: BinaryIO | Window,
        total_bytes: int,
        limits: DecodeLimits,
        header: WavHeader | None = None,
        raw: RawFormat | None = None,
    ) -> None:
        self.warnings: list[AudioWarning] = []
        """What could not be read as declared; complete when the iteration has ended."""
        self.frames = 0
        """Frames up to the end of the last block, with those that were skipped."""
        self.needed = 0
        """First frame that is needed from now on; FLAC is not decoded before it."""
        file.seek(0)
        head = b"" if raw else file.read(_HEAD_BYTES)
        if head[:4] == b"OggS" and _ogg_is_cut(file, total_bytes):
            self._warn_missing("a whole Ogg page at the end", "only part of it")
        self._check_size(head, total_bytes, header)
        in_wav = header is not None and header.tag == _TAG_MP3
        if header is not None and in_wav:
            # libsndfile extrapolates the length of MP3 in WAV from one frame; it reads the same frames alone correctly.
            end = total_bytes if header.data_bytes is None else header.data_start + header.data_bytes
            file = Window(file, Segment(header.data_start, min(total_bytes, end)))
        size = file.seek(0, io.SEEK_END)
        self._file, self._limits, self._raw = file, limits, raw
        self._segments = [Segment(0, size)] if raw else find_segments(file, size)
        try:
            self._first = _Part(file, self._segments[0], raw)
        except soundfile.LibsndfileError as error:
            # The header of a WAV has already been parsed, so libsndfile must be rejecting its encoding.
            unsupported = header is not None or error.code in _UNSUPPORTED_CODES
            kind = UnsupportedFormat if unsupported else InvalidAudio
            raise kind(
                f"expected one of {READABLE}, got a recording that libsndfile rejects ({error.error_string}): check "
                "that you upload the whole file, or convert it to WAV or FLAC"
            ) from error
        sound, declared = self._first.sound, self._first.declared
        limits.check_layout(sound.channels, sound.samplerate)
        if head[:7] == b"NIST_1A" and (count := re.search(rb"sample_count -i (\d{1,18})\s", head)):
            declared = self._first.least_frames = int(count[1])  # libsndfile derives the length from the file size
        limits.check_frames(declared or 0, sound.samplerate)
        limits.check_samples(declared or 0, sound.channels)
        if not raw and (tracks := count_ogg_tracks(file, self._segments[0])) > 1:
            self.warnings.append(tracks_warning(tracks))
        encoding = f"{'wav' if in_wav else sound.format.lower()}/{sound.subtype}"
        known = declared if len(self._segments) == 1 else None
        self.info = AudioInfo(sound.samplerate, sound.channels, encoding, known)

    @property
    def is_cut_short(self) -> bool:
        """Whether libsndfile would stop before the end: an MP3 of variable bit rate that declares no length."""
        return self._first.is_guessed and has_variable_bit_rate(self._first.window)

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block.

        Raises:
            InvalidAudio: Nothing can be decoded, or a sample is not finite.
            PayloadTooLarge: More frames or samples than the limits allow.
        """
        frames, joined = 0, 1
        for block in self._decode(self._first, 0):
            frames += len(block)
            yield block
        for position, segment in enumerate(self._segments[1:], 1):
            part = self._next_part(segment)
            if part is None:
                self._warn_unread(segment.start, self._segments[-1].end, frames, self._segments[position - 1].end)
                break
            joined += 1
            for block in self._decode(part, frames):
                frames += len(block)
                yield block
        if frames == 0:
            raise no_samples()
        if joined > 1:
            self.warnings.append(joined_warning(joined))

    def _next_part(self, segment: Segment) -> _Part | None:
        """Open a further recording; None if it cannot be read together with the first."""
        try:
            part = _Part(self._file, segment, self._raw)
        except soundfile.LibsndfileError:
            return None
        if part.layout == self._first.layout:
            return part
        part.sound.close()
        return None

    def _decode(self, part: _Part, earlier_frames: int) -> Iterator[Block]:
        """Decode one of the recordings in the file."""
        frames, rate_hz = 0, self.info.sample_rate_hz
        is_compressed = part.is_mpeg or part.sound.format in _COMPRESSED
        shape = (_SMALL_BLOCK_FRAMES if is_compressed else BLOCK_FRAMES, self.info.channels)
        with part.sound:
            while True:
                if part.sound.format == "FLAC" and self.needed - frames > _SEEK_S * rate_hz:
                    frames = self._skip(part, frames)
                try:
                    with silenced() if part.is_mpeg else nullcontext():
                        block = part.sound.read(out=np.empty(shape, np.float32))
                except soundfile.LibsndfileError as error:
                    if frames == 0:
                        raise InvalidAudio(
                            f"expected a whole recording, got one that cannot be decoded ({error.error_string}): "
                            "upload the whole file"
                        ) from error
                    self._warn_damage(part, frames, error.error_string)
                    return
                if len(block) == 0:
                    break
                check_finite(block, earlier_frames + frames, rate_hz)
                frames += len(block)
                self.frames = earlier_frames + frames
                self._limits.check_frames(self.frames, rate_hz)
                self._limits.check_samples(self.frames, self.info.channels)
                yield block
            unread_bytes = part.unread_bytes
        if part.is_mp3 and unread_bytes > _MP3_TRAILER_BYTES:
            start = part.segment.end - unread_bytes
            self._warn_unread(start, part.segment.end, frames, start - part.segment.start)
        if frames < part.least_frames:
            missing_s = (part.least_frames - frames) / rate_hz
            self._warn_missing(
                f"{part.least_frames} frames, as the header declares", f"{frames} (about {missing_s:.1f} s are missing)"
            )

    def _skip(self, part: _Part, frames: int) -> int:
        """Seek the first frame that is needed, and return where decoding goes on; where it is if that fails."""
        if part.declared is None or self.needed >= part.declared:
            return frames
        try:
            return int(part.sound.seek(self.needed))
        except soundfile.LibsndfileError:  # damaged: decoding finds out where
            return int(part.sound.seek(frames))

    def _warn_missing(self, expected: str, got: str) -> None:
        message = f"expected {expected}, got {got}: if the recording should be longer, upload the whole file"
        self.warnings.append(AudioWarning("samples_missing", message))

    def _warn_damage(self, part: _Part, frames: int, reason: str) -> None:
        """Warn that decoding stopped in the middle of a part."""
        rest = "" if part.declared is None else f", about {(part.declared - frames) / self.info.sample_rate_hz:.1f} s,"
        message = (
            f"expected samples to the end, got a fault after {frames / self.info.sample_rate_hz:.1f} s ({reason}): the "
            f"rest{rest} was not read; upload the whole file, or convert it to WAV or FLAC"
        )
        self.warnings.append(AudioWarning("samples_damaged", message))

    def _warn_unread(self, start: int, end: int, frames: int, read_bytes: int) -> None:
        """Warn about bytes that were not read; `frames` in `read_bytes` give their approximate duration."""
        unread_bytes = end - start
        seconds = unread_bytes * frames / max(1, read_bytes) / self.info.sample_rate_hz
        self.warnings.append(unread_warning(unread_bytes, seconds, "they cannot be decoded together with the rest"))

    def _check_size(self, head: bytes, total_bytes: int, header: WavHeader | None) -> None:
        """Warn if the file is shorter than its header declares."""
        if header is not None and header.data_bytes is not None:
            received = total_bytes - header.data_start
            if header.data_bytes > received and not is_endless(header.data_bytes):
                missing = header.seconds(header.data_bytes - received)
                self.warnings.append(missing_warning(header.data_bytes, received, missing))
        declared = declared_bytes(head) if header is None else None
        if declared is not None and declared > total_bytes:
            self.warnings.append(missing_warning(declared, total_bytes))


def unread_after(file: BinaryIO | Window, total_bytes: int, header: WavHeader) -> list[AudioWarning]:
    """Describe bytes behind the data chunk of a compressed WAV, which neither libsndfile nor FFmpeg reads, if any."""
    end = header.data_start + (total_bytes if header.data_bytes is None else header.data_bytes)
    unread_bytes = _bytes_after(file, end) if end < total_bytes else 0
    return [unread_warning(unread_bytes, header.seconds(unread_bytes))] if unread_bytes else []


def _bytes_after(file: BinaryIO | Window, position: int) -> int:
    """Count the bytes after the samples of a WAV that are not read; chunks of other kinds do not count."""
    walker = ChunkWalker(odd=bool(position & 1))
    file.seek(position)
    while data := file.read(1 << 20):
        after = walker.push(memoryview(data))
        if walker.found:
            found_at = file.tell() - len(after) - len(walker.found)
            return file.seek(0, io.SEEK_END) - found_at
    walker.finish()
    return walker.unread_bytes


def no_samples() -> InvalidAudio:
    """Return the error for a recording that consists of a header only."""
    return InvalidAudio("expected samples after the header, got a header only: upload the finished recording")


def declared_bytes(head: bytes) -> int | None:
    """Return the length of the recording from the container's size field; None if it has none or it is not set."""
    if len(head) < 24:
        return None
    size, start = 0xFFFFFFFF, 0
    if head[:4] in (b"FORM", b"RIFX"):
        size, start = struct.unpack_from(">I", head, 4)[0], 8
    elif head[:4] in (b".snd", b"dns."):
        start, size = struct.unpack_from(">II" if head[:1] == b"." else "<II", head, 4)
    elif head[:4] == b"riff":
        long_size: int = struct.unpack_from("<Q", head, 16)[0]
        return long_size if long_size < 1 << 63 else None
    return None if is_placeholder(size) or is_endless(size) else start + size


def _mp3_has_length(file: io.RawIOBase) -> bool:
    """Whether the first MP3 frame is the tag in which encoders count frames; restores the file position."""
    position = file.tell()
    file.seek(0)
    head = file.read(10) or b""
    start = 0
    if head[:3] == b"ID3" and len(head) == 10:
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])  # seven bits per byte
    file.seek(start)
    first = file.read(256) or b""
    file.seek(position)
    return any(tag in first for tag in (b"Xing", b"Info", b"VBRI"))


def _ogg_is_cut(file: BinaryIO | Window, total_bytes: int) -> bool:
    """Whether the last Ogg page is incomplete; libsndfile would drop it silently (RFC 3533, section 6)."""
    file.seek(max(0, total_bytes - _OGG_PAGE_BYTES))
    tail = file.read(_OGG_PAGE_BYTES)
    start = tail.rfind(b"OggS")
    if start < 0 or len(tail) < start + 27:
        return True
    segments = tail[start + 26]
    table = tail[start + 27 : start + 27 + segments]
    return len(table) < segments or start + 27 + segments + sum(table) > len(tail)
