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

PURE_REST = 3e-4
"""Share (−35 dB) below which it is a tone for certain: of a single one the window leaves 7e-5, and µ-law adds 2e-4."""

FLAT = 2.5 / 32768
"""Range of samples in which there is nothing but rounding."""


def rest_of_tones(samples: NDArray[np.float32]) -> float:
    """Return the share of the power that is not around one or two frequencies; 1 if there is no sound.

    Args:
        samples: float32 [n], 15 to 30 ms at any rate.
    """
    if float(samples.max()) - float(samples.min()) < FLAT:
        return 1.0
    count = len(samples)
    size = next_fast_len(4 * count, real=True)
    spectrum = rfft((samples - samples.mean()) * np.hanning(count + 2)[1:-1].astype(np.float32), size)
    power = np.square(np.abs(spectrum), dtype=np.float64)
    total, reach = float(power.sum()), round(PEAK_WIDTH * size / count)
    for _ in range(2):
        peak = int(power.argmax())
        power[max(0, peak - reach) : peak + reach + 1] = 0.0
    return float(power.sum()) / total


def may_be_tone(samples: NDArray[np.float32]) -> bool:
    """Say whether nearly all power lies around one or two frequencies; see `rest_of_tones`."""
    return rest_of_tones(samples) < REST
