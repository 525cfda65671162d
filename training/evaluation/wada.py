"""WADA-SNR: estimate the signal-to-noise ratio of a whole recording from its amplitude distribution.

Speech amplitudes follow a gamma distribution, noise a Gaussian; the ratio follows from where the mixture lies between
the two.

Source: Kim & Stern (2008), "Robust signal-to-noise ratio estimation based on waveform amplitude distribution analysis".
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

SPEECH_SHAPE = 0.4  # of the gamma distribution, from the paper
LOW_DB, HIGH_DB = -20, 100
AMPLITUDE_POINTS, NOISE_POINTS = 3000, 200  # quantiles over which the table is summed


def wada_snr_db(samples: NDArray[np.float32]) -> float:
    """Estimate the SNR of a recording, dB, in -20 … 100; digital silence gives -20."""
    magnitude = np.abs(samples.astype(np.float64) - float(np.mean(samples, dtype=np.float64)))
    peak = float(magnitude.max(initial=0.0))
    if peak == 0.0:
        return float(LOW_DB)
    return float(np.interp(_statistic(np.maximum(magnitude / peak, 1e-10)), _table(), np.arange(LOW_DB, HIGH_DB + 1)))


def _statistic(magnitude: NDArray[np.float64]) -> float:
    """Return the log of the mean minus the mean of the log: 0.41 for Gaussian amplitudes, more for speech."""
    return float(np.log(magnitude.mean()) - np.log(magnitude).mean())


@cache
def _table() -> NDArray[np.float64]:
    """Return the statistic for every whole dB from -20 to 100, ascending."""
    speech = stats.gamma(SPEECH_SHAPE).ppf((np.arange(AMPLITUDE_POINTS) + 0.5) / AMPLITUDE_POINTS)
    noise = stats.norm.ppf((np.arange(NOISE_POINTS) + 0.5) / NOISE_POINTS)
    speech /= np.sqrt(np.mean(speech**2))
    noise /= np.sqrt(np.mean(noise**2))
    rows = []
    for level_db in range(LOW_DB, HIGH_DB + 1):
        # The noise quantiles have both signs, so one sign of the speech is enough.
        mixed = np.abs(speech[:, None] + 10.0 ** (-level_db / 20.0) * noise[None])
        rows.append(_statistic(np.maximum(mixed, 1e-12)))
    return np.maximum.accumulate(rows)
