"""Telephone speech that was brought to a higher rate: the rate promises a band that the speech does not have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.signal import resample, resample_poly

from answers.signal import Float64, Sound, below_full_scale, resampled, through_codec

TELEPHONE_HZ = 8_000
HISS_DBFS = -75.0


def _linear(narrow: Float64, factor: int) -> Float64:
    place = np.arange(len(narrow) * factor) / factor
    return np.interp(place, np.arange(len(narrow)), narrow)


UPSAMPLERS: dict[str, Callable[[Float64, int], Float64]] = {
    "polyphase": lambda narrow, factor: np.asarray(resample_poly(narrow, factor, 1), np.float64),
    "linear": _linear,
    "repeated": lambda narrow, factor: np.repeat(narrow, factor),
    "FFT": lambda narrow, factor: np.asarray(resample(narrow, len(narrow) * factor), np.float64),
}
"""Ways to bring samples to a multiple of their rate, by name."""


def upsampled(
    speech: Float64, rate_hz: int, rng: np.random.Generator, way: str, to_hz: int = 16_000, *, hiss: bool = False
) -> Sound:
    """Band-limit speech to a telephone's 8 kHz, half of the time through µ-law, and bring it to a higher rate.

    Args:
        speech: Wide-band speech, (n,).
        rate_hz: Its rate.
        rng: Random numbers.
        way: One of `UPSAMPLERS`.
        to_hz: The higher rate, a multiple of 8 kHz.
        hiss: Add hiss at −75 dBFS at the higher rate.
    """
    narrow = resampled(speech, rate_hz, TELEPHONE_HZ)
    if rng.random() < 0.5:
        narrow = through_codec(narrow, TELEPHONE_HZ, "ULAW")
    wide = UPSAMPLERS[way](narrow, to_hz // TELEPHONE_HZ)
    if hiss:
        wide = wide + rng.standard_normal(len(wide)) * 10 ** (HISS_DBFS / 20)
    return Sound(below_full_scale(wide), to_hz)
