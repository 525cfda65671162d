"""Levels, mixing and quantisation: what all generators need."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

PACKET_S = 0.02
ACTIVE_RANGE_DB = 15.0  # frames this far below the loudest ones still count as active speech
LOUDEST_PERCENTILE = 95.0
QUIETEST_DB = -200.0  # stands for the level of digital silence


@dataclass(frozen=True, slots=True)
class Sound:
    """A recording to be judged.

    Args:
        samples: float64, (n,), full scale at ±1.
        rate_hz: Their rate.
        span_s: Onset and offset of the loss in it, seconds; None if there is none.
    """

    samples: Float64
    rate_hz: int
    span_s: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate_hz


def db(power: Float64 | np.floating) -> Float64:
    """Convert mean squares to dB."""
    return 10 * np.log10(np.maximum(power, 10 ** (QUIETEST_DB / 10)))


def frame_levels(samples: Float64, rate_hz: int, frame_s: float = PACKET_S) -> Float64:
    """Return the level of each whole frame, dBFS, (frames,)."""
    size = round(frame_s * rate_hz)
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    return db(np.mean(frames**2, axis=1))


def active_level(samples: Float64, rate_hz: int) -> float:
    """Return the level of active speech, dBFS: the mean power of the frames within 15 dB of the loudest ones.

    Source: idea from ITU-T P.56, with a percentile of frame levels instead of its envelope and margin.
    """
    levels = frame_levels(samples, rate_hz)
    active = levels[levels >= np.percentile(levels, LOUDEST_PERCENTILE) - ACTIVE_RANGE_DB]
    return float(db(np.mean(10 ** (active / 10))))


def rms_level(samples: Float64) -> float:
    """Return the RMS level, dBFS."""
    return float(db(np.mean(samples**2)))


def add_noise(speech: Float64, noise: Float64, rate_hz: int, snr_db: float) -> Float64:
    """Add a noise of the same length at an SNR of active speech level to noise RMS; the sum is kept below full scale.

    Returns:
        The mixture, (n,), at most 0.98 at its peak.
    """
    gain = 10 ** ((active_level(speech, rate_hz) - snr_db - rms_level(noise)) / 20)
    return below_full_scale(speech + gain * noise)


def below_full_scale(samples: Float64, peak: float = 0.98) -> Float64:
    """Scale down what would clip."""
    return samples * min(1.0, peak / max(1e-9, float(np.max(np.abs(samples)))))


def resampled(samples: Float64, from_hz: int, to_hz: int) -> Float64:
    """Change the rate with a long band-limiting filter."""
    if from_hz == to_hz:
        return samples
    return np.asarray(soxr.resample(samples, from_hz, to_hz, quality="VHQ"), np.float64)


def as_int16(samples: Float64) -> NDArray[np.int16]:
    """Round to 16 bits, as recorders do."""
    return np.round(samples * 32768).clip(-32768, 32767).astype(np.int16)


def through_codec(samples: Float64, rate_hz: int, subtype: str) -> Float64:
    """Encode as WAV and decode again; padding that the codec adds stays.

    Args:
        samples: float64, (n,).
        rate_hz: Their rate.
        subtype: libsndfile's name of the codec, such as `ULAW` or `MS_ADPCM`.
    """
    file = io.BytesIO()
    soundfile.write(file, as_int16(samples), rate_hz, format="WAV", subtype=subtype)
    file.seek(0)
    return np.asarray(soundfile.read(file, dtype="float64")[0], np.float64)


def shaped_noise(rng: np.random.Generator, count: int, gains: Float64) -> Float64:
    """Return Gaussian noise with a magnitude response, given at equally spaced frequencies up to half the rate.

    Args:
        rng: Random numbers.
        count: Samples.
        gains: Linear gains, (points,), the first at 0 Hz and the last at half the rate.
    """
    spectrum = np.fft.rfft(rng.standard_normal(count))
    place = np.linspace(0, len(gains) - 1, len(spectrum))
    return np.fft.irfft(spectrum * np.interp(place, np.arange(len(gains)), gains), count)
