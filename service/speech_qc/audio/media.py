"""Reads recordings in the formats that FFmpeg decodes: limits, conversion to float32, and what was lost.

The decoding itself is done by a process of its own, see `audio.media_process`. What that process says is checked here
like any other input.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, AudioWarning, DecodeLimits, RawFormat
from speech_qc.audio.media_formats import (
    DECLARES_LENGTH,
    HAS_TIMESTAMPS,
    RAW_DEMUXERS,
    SAMPLE_FORMATS,
    MediaFormat,
    codec_names,
    find_media,
    find_second_chance,
)
from speech_qc.audio.media_lengths import find_end
from speech_qc.audio.media_process import INSTALL, MEMORY_BYTES, MediaProcess, Spool, pyav_folder
from speech_qc.audio.pcm import BLOCK_FRAMES, check_finite
from speech_qc.audio.wav_reader import tracks_warning
from speech_qc.errors import ClientError, InvalidAudio, PayloadTooLarge, UnsupportedFormat
from speech_qc.wire.vocabulary import AudioWarningCode

Block = NDArray[np.float32]

_SLACK_S = 0.2  # containers round their durations and count the delay of encoders
_SLACK_SHARE = 0.001  # the clocks of recorders drift
_HEAD_BYTES = 64  # includes the document type that tells WebM from other Matroska files
_SCALES: dict[str, tuple[type[np.generic], float, float]] = {
    "u8": (np.uint8, -128.0, 2.0**-7),
    "s16": (np.int16, 0.0, 2.0**-15),
    "s32": (np.int32, 0.0, 2.0**-31),
    "s64": (np.int64, 0.0, 2.0**-63),
    "flt": (np.float32, 0.0, 1.0),
    "dbl": (np.float64, 0.0, 1.0),
}
"""Type, offset and factor of each sample format."""


def media_is_installed() -> bool:
    """Whether the extra `media` is installed."""
    return pyav_folder() is not None


class MediaSource:
    """A complete recording in a format that FFmpeg reads; can be iterated once.

    Its process runs from the start to the end of the iteration, or until `close`, which any thread may call.

    Args:
        file: The recording: a BytesIO or a file with a descriptor.
        total_bytes: Its length.
        limits: Limits, checked before any sample is decoded and while decoding.
        media: Its format.

    Raises:
        InvalidAudio: The recording is broken or has no sound.
        UnsupportedFormat: FFmpeg has no decoder for it, or PyAV is not installed.
        PayloadTooLarge: Channels or duration exceed the limits, or decoding it takes too much memory.
    """

    def __init__(self, file: BinaryIO, total_bytes: int, limits: DecodeLimits, media: MediaFormat) -> None:
        self.warnings: list[AudioWarning] = []
        """What could not be read as declared; complete when the iteration has ended."""
        self._file = _with_descriptor(file)
        self._total_bytes, self._limits, self._media = total_bytes, limits, media
        self._info: AudioInfo | None = None
        self._length_s: float | None = None
        self._end = find_end(self._file, total_bytes, media.demuxer)
        self._has_times = media.demuxer in HAS_TIMESTAMPS
        self._process = MediaProcess(self._file, media)

    @property
    def info(self) -> AudioInfo:
        """What the recording is; waits for the first decoded frame."""
        if self._info is None:
            try:
                with _checked():
                    self._info = self._read_header()
            except BaseException:
                self.close()
                raise
        return self._info

    def close(self) -> None:
        """Kill the process; idempotent."""
        self._process.close()

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block; raise InvalidAudio or PayloadTooLarge at the first fault in the recording."""
        info = self.info
        try:
            frames = 0
            for block in self._blocks(info.channels):
                check_finite(block, frames, info.sample_rate_hz)
                frames += len(block)
                self._limits.check_frames(frames, info.sample_rate_hz)
                self._limits.check_samples(frames, info.channels)
                yield block
            if frames == 0:
                raise InvalidAudio("expected samples, the recording has none: upload the finished recording")
        finally:
            self.close()

    def _read_header(self) -> AudioInfo:
        """Wait for the first message and check the limits."""
        kind, content = self._process.read()
        facts = _parse(content) if kind in (b"H", b"X") else {}
        if kind != b"H":
            raise self._error(facts)
        rate_hz, channels = int(facts["rate_hz"]), int(facts["channels"])
        self._limits.check_layout(channels, rate_hz)
        length_s = facts["length_s"]
        if self._media.demuxer in DECLARES_LENGTH and length_s:
            self._length_s = float(length_s)
        declared = None if self._length_s is None else round(self._length_s * rate_hz)
        self._limits.check_frames(declared or 0, rate_hz)
        self._limits.check_samples(declared or 0, channels)
        tracks = int(facts["tracks"])
        if tracks > 1:
            self.warnings.append(tracks_warning(tracks))
        return AudioInfo(rate_hz, channels, f"{self._media.container}/{facts['codec']}", declared)

    def _blocks(self, channels: int) -> Iterator[Block]:
        """Join the frames that the process sends to blocks of at most `BLOCK_FRAMES`."""
        waiting: list[Block] = []
        count = 0
        while True:
            kind, content = self._process.read()
            if kind != b"F":
                break
            with _checked():
                samples = _to_float(content, channels)
            while count + len(samples) >= BLOCK_FRAMES:
                room = BLOCK_FRAMES - count
                yield np.concatenate([*waiting, samples[:room]])
                samples, waiting, count = samples[room:], [], 0
            waiting.append(samples)
            count += len(samples)
        if count:
            yield np.concatenate(waiting)
        with _checked():
            self._finish(kind, content)

    def _finish(self, kind: bytes, content: bytes) -> None:
        """Read the last message."""
        facts: dict[str, Any] = _parse(content)
        if kind != b"E":
            raise self._error(facts)
        self._warn_damage(facts)
        self._warn_missing(facts)

    def _warn_missing(self, facts: dict[str, Any]) -> None:
        """Warn about an end that is missing."""
        rate_hz, frames = self.info.sample_rate_hz, int(facts["frames"])
        damaged_s = 0.0 if facts["last_failed"] else float(facts["failed_s"])  # that may be the whole rest
        found_s = frames / rate_hz + damaged_s + (float(facts["gaps_s"]) if self._has_times else 0.0)
        missing_s = 0.0 if self._length_s is None else self._length_s - found_s
        if self._end.declared is not None:
            missing = self._end.declared - self._total_bytes
            seconds = missing / self._total_bytes * frames / rate_hz
            self._warn(
                "samples_missing",
                f"expected {self._end.declared} bytes as the header declares, got {self._total_bytes}: the last "
                f"{missing} bytes are missing, about {seconds:.1f} s; upload the whole file",
            )
        elif self._end.fault is not None:
            unread = self._total_bytes - self._end.fault
            seconds = unread / max(1, self._end.fault) * frames / rate_hz
            self._warn(
                "bytes_not_read",
                f"expected a container that can be followed to its end, got a fault at byte {self._end.fault}: the "
                f"{unread} bytes after it were not read, about {seconds:.1f} s if they are sound",
            )
        elif missing_s > max(_SLACK_S, _SLACK_SHARE * found_s):
            self._warn(
                "samples_missing",
                f"expected {self._length_s:.1f} s as the header declares, got {found_s:.1f} s: {missing_s:.1f} s are "
                "missing or damaged; upload the whole file, or export it again",
            )
        elif facts["last_failed"] and self._media.container != "raw":  # its packets are cut at any byte
            self._warn(
                "samples_missing",
                "expected a whole packet at the end, got only part of it: the recording may be cut off; check that "
                "you have the whole file",
            )

    def _warn_damage(self, facts: dict[str, Any]) -> None:
        """Warn about packets that could not be decoded, gaps and changes in the middle."""
        packets, failed = int(facts["packets"]), int(facts["failed"])
        if failed > bool(facts["last_failed"]):
            self._warn(
                "samples_damaged",
                f"expected whole sound packets, got {failed} of {packets} damaged, about "
                f"{float(facts['failed_s']):.2f} s: times after them may be too early",
            )
        if facts["read_failed"]:
            self._warn(
                "samples_missing",
                "expected a container that can be read to its end, got a fault in it: what follows was not inspected; "
                "convert the recording to WAV or FLAC",
            )
        if facts["gaps"] and self._has_times:
            self._warn(
                "samples_missing",
                f"expected continuous timestamps, got gaps of {float(facts['gaps_s']):.2f} s together, {facts['gaps']} "
                "in number: the recording has no sound there, and times after them are too early",
            )
        if facts["changes"]:
            self._warn(
                "layout_changed",
                f"expected one sample rate and number of channels, got {facts['changes']} changes in the recording: "
                "the sound after them was converted to the first",
            )

    def _warn(self, code: AudioWarningCode, message: str) -> None:
        self.warnings.append(AudioWarning(code, message))

    def _error(self, facts: dict[str, Any]) -> ClientError:
        """Return the error that the process reported."""
        name, kind, message = self._media.container, facts.get("kind"), str(facts.get("message"))[:200]
        if kind == "silent":
            return InvalidAudio(f"expected a recording with sound, got {name} with {message}: record the sound, too")
        if kind == "unsupported":
            codec = message or codec_names(self._file, self._media.demuxer) or "unknown"
            return UnsupportedFormat(
                f"expected sound that libsndfile or FFmpeg decodes, got {name} with the codec {codec}: convert the "
                "recording to WAV or FLAC with the program that made it",
                codec=codec,
            )
        if kind == "memory":
            return PayloadTooLarge(
                f"expected a recording that FFmpeg decodes in {MEMORY_BYTES >> 20} MiB, this one needs more: convert "
                "it to WAV or FLAC, without pictures",
                max_bytes=MEMORY_BYTES,
            )
        if kind in ("invalid", "empty") and self._end.declared is not None:
            return InvalidAudio(
                f"truncated: the header declares {self._end.declared} bytes, got {self._total_bytes}, and FFmpeg "
                f"cannot read {name} without the rest ({message}): upload the whole file"
            )
        what = {"empty": f"damaged: {message}", "broken": f"FFmpeg's process failed: {message}"}
        return InvalidAudio(
            f"expected a whole recording, got {name} that FFmpeg rejects ({what.get(str(kind), message)}): check that "
            "you upload the whole file, or convert it to WAV or FLAC"
        )


def open_media(file: BinaryIO, total_bytes: int, limits: DecodeLimits) -> MediaSource:
    """Open a recording of which `find_media` knows the first bytes; arguments and errors as for `MediaSource`."""
    file.seek(0)
    media = find_media(file.read(_HEAD_BYTES))
    assert media is not None
    return MediaSource(file, total_bytes, limits, media)


def open_raw(file: BinaryIO, total_bytes: int, limits: DecodeLimits, raw: RawFormat) -> MediaSource:
    """Open audio without a header in one of `RAW_DEMUXERS`; other arguments and errors as for `MediaSource`.

    Raises:
        UnsupportedFormat: PyAV is not installed.
    """
    if not media_is_installed():
        raise UnsupportedFormat(f"encoding={raw.encoding} needs FFmpeg, which is not installed: {INSTALL}")
    demuxer, options = RAW_DEMUXERS[raw.encoding]
    rate = ("sample_rate", str(raw.sample_rate_hz))
    return MediaSource(file, total_bytes, limits, MediaFormat(demuxer, "raw", (*options, rate)))


def second_chance(error: ClientError, file: BinaryIO, total_bytes: int, limits: DecodeLimits) -> MediaSource:
    """Open a recording that libsndfile has rejected.

    Args:
        error: Why libsndfile rejected it.
        file: As for `MediaSource`.
        total_bytes: As for `MediaSource`.
        limits: As for `MediaSource`.

    Raises:
        ClientError: `error`, if the recording is cut off, or FFmpeg does not read this container or is not installed;
            else as `MediaSource`.
    """
    media = find_second_chance(file)
    if media is None or find_end(file, total_bytes, media.demuxer).declared is not None:
        raise error
    if not media_is_installed():
        codec = codec_names(file, media.demuxer)
        named = f" The codec is {codec}." if codec else ""
        raise type(error)(f"{error.message}.{named} FFmpeg reads more codecs: {INSTALL}", **error.detail) from error
    return MediaSource(file, total_bytes, limits, media)


def _with_descriptor(file: BinaryIO) -> io.FileIO:
    """Return the file, or a copy if it has no descriptor; the original is then emptied if it is in memory."""
    if isinstance(file, io.FileIO):
        return file
    spool = Spool()
    spool.copy(file, file.seek(0, io.SEEK_END))
    if isinstance(file, io.BytesIO):
        file.truncate(0)
    return spool


@contextmanager
def _checked() -> Iterator[None]:
    """Turn a message that no sound process sends into an error of the recording."""
    try:
        yield
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InvalidAudio(
            f"expected FFmpeg to decode the recording, its process sent something else ({type(error).__name__}): the "
            "recording may be damaged; convert it to WAV or FLAC"
        ) from error


def _to_float(content: bytes, channels: int) -> Block:
    """Convert the content of an `F` message.

    Returns:
        float32 [n, channels].
    """
    name = SAMPLE_FORMATS[content[0]] if content and content[0] < len(SAMPLE_FORMATS) else ""
    kind, offset, factor = _SCALES[name.removesuffix("p")]
    samples = np.frombuffer(content, kind, offset=1)
    if factor != 1.0:
        samples = (samples + np.float32(offset)) * np.float32(factor)
    with np.errstate(over="ignore", invalid="ignore"):  # overflow gives infinity, which `check_finite` reports
        samples = samples.astype(np.float32)
    return samples.reshape(channels, -1).T if name.endswith("p") else samples.reshape(-1, channels)


def _parse(content: bytes) -> dict[str, Any]:
    facts = json.loads(content)
    return facts if isinstance(facts, dict) else {}
