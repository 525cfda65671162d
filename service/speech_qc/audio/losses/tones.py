"""Tells tones from other sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len, rfft

PEAK_WIDTH = 2.8
"""Half the width of a peak, in bins of the unpadded transform; tones so near that they beat are one peak."""

REST = 4e-3
"""Share of the power beside two peaks (−24 dB) below which they are tones; telephone keys have less as µ-law, too. One
stretch of speech in twenty has less, so that this alone proves no tone."""


def may_be_tone(samples: NDArray[np.float32]) -> bool:
    """Say whether nearly all power lies around one or two frequencies.

    Args:
        samples: float32 [n], 15 to 30 ms at any rate.
    """
    count = len(samples)
    size = next_fast_len(4 * count, real=True)
    spectrum = rfft((samples - samples.mean()) * np.hanning(count + 2)[1:-1].astype(np.float32), size)
    power = np.square(np.abs(spectrum), dtype=np.float64)
    total, reach = float(power.sum()), round(PEAK_WIDTH * size / count)
    for _ in range(2):
        peak = int(power.argmax())
        power[max(0, peak - reach) : peak + reach + 1] = 0.0
    return float(power.sum()) < REST * total
