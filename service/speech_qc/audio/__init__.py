"""Audio processing: decoding, resampling, level measures and model features.

Uses NumPy, SciPy, libsndfile and soxr. Independent of asyncio, HTTP, models and scores, so that the service and the
training code run the same code on the same samples. This file defines what the modules share: the description of a
recording, and the limits on its size.
"""

from __future__ import annotations

from dataclasses import dataclass

from speech_qc.errors import InvalidAudio, PayloadTooLarge
from speech_qc.wire.vocabulary import AudioWarningCode, RawEncoding

MIN_RATE_HZ = 8_000
"""Sample rate of telephone audio; a lower rate leaves no speech band to judge."""

MAX_RATE_HZ = 192_000
"""Highest rate that recorders write; a higher one means a broken header."""


def check_rate_hz(rate_hz: int) -> None:
    """Reject sample rates that no speech recording has.

    Raises:
        InvalidAudio: Outside `MIN_RATE_HZ` … `MAX_RATE_HZ`.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise InvalidAudio(
            f"expected a sample rate of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {rate_hz} Hz: "
            "check the rate that was declared, or resample the audio",
            sample_rate_hz=rate_hz,
            min_hz=MIN_RATE_HZ,
            max_hz=MAX_RATE_HZ,
        )


def is_integer(subtype: str) -> bool:
    """Whether the samples of an encoding are integers, so that they are finite and within full scale.

    Args:
        subtype: soundfile's name of the encoding; False for others.
    """
    return subtype.startswith(("PCM_", "ULAW", "ALAW"))


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a recording declares.

    Args:
        sample_rate_hz: Frames per second.
        channels: Samples per frame.
        encoding: Container and encoding, for example `wav/PCM_16` or `ogg/VORBIS`.
        declared_frames: Length according to the header; None if a live recorder did not fill it in.
    """

    sample_rate_hz: int
    channels: int
    encoding: str
    declared_frames: int | None

    @property
    def is_bounded(self) -> bool:
        """Whether the samples are integers in the recording; see `is_integer`."""
        return is_integer(self.encoding.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class AudioWarning:
    """A problem with a recording that was read all the same.

    Args:
        code: Stable name of the problem.
        message: What was expected, what was found, and what was done.
    """

    code: AudioWarningCode
    message: str


@dataclass(frozen=True, slots=True)
class RawFormat:
    """What the sender says about audio without a header.

    Args:
        encoding: Encoding of the samples.
        sample_rate_hz: Frames per second.
        channels: Interleaved samples per frame.
    """

    encoding: RawEncoding
    sample_rate_hz: int
    channels: int = 1


@dataclass(frozen=True)
class DecodeLimits:
    """Limits on one recording; the defaults are those of the service's settings."""

    max_bytes: int = 512 * 1024 * 1024
    max_duration_s: float = 4 * 3600.0
    max_channels: int = 8
    max_samples: int = 4_000_000_000
    """Decoded samples of all channels together; limits a small compressed file that decodes to a huge recording."""

    def check_bytes(self, count: int, what: str) -> None:
        """Raise PayloadTooLarge if `count` exceeds the limit; `what` precedes the count in the message."""
        if count > self.max_bytes:
            raise PayloadTooLarge(
                f"expected at most {self.max_bytes} bytes, {what} {count}: send a shorter or compressed recording, "
                "or raise the limit",
                bytes=count,
                max_bytes=self.max_bytes,
            )

    def check_frames(self, frames: int, rate_hz: int) -> None:
        """Raise PayloadTooLarge if the frames exceed the maximum duration."""
        if frames > self.max_duration_s * rate_hz:
            raise PayloadTooLarge(
                f"expected at most {self.max_duration_s:g} s of audio, got {frames / rate_hz:.1f} s or more: "
                "cut the recording, or raise the limit",
                duration_s=frames / rate_hz,
                max_duration_s=self.max_duration_s,
            )

    def check_samples(self, frames: int, channels: int) -> None:
        """Raise PayloadTooLarge if the frames contain more samples than allowed, all channels together."""
        if frames * channels > self.max_samples:
            raise PayloadTooLarge(
                f"expected at most {self.max_samples} samples, all channels together, got {frames * channels} or more: "
                "cut the recording, or raise the limit",
                samples=frames * channels,
                max_samples=self.max_samples,
            )

    def check_layout(self, channels: int, rate_hz: int) -> None:
        """Raise InvalidAudio or PayloadTooLarge if the header's channels or sample rate are not accepted."""
        if channels == 0:
            raise InvalidAudio("expected one channel or more, got 0 in the header: export the recording again")
        if channels > self.max_channels:
            raise PayloadTooLarge(
                f"expected at most {self.max_channels} channels, got {channels}: send fewer channels at a time, "
                "or raise the limit",
                channels=channels,
                max_channels=self.max_channels,
            )
        check_rate_hz(rate_hz)
