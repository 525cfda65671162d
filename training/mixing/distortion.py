"""Damage to the speech itself, which lowers the opinion score SIG: noise that follows the signal, over-suppression."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import signal

Float32 = NDArray[np.float32]
PEAK = 0.98  # highest peak after noise that follows the signal, which must not cause an overload
WINDOW_S = 0.032  # window of many real-time noise suppressors
HOP_S = 0.008
# The noise in a frequency bin is estimated by the 20th percentile of its power. Stationary noise exceeds 13 times that
# in 5 % of the frames, which are the tones that remain.
NOISE_QUANTILE, NOISE_FACTOR = 0.2, 13.0


def add_correlated_noise(mixture: Float32, q_db: float | None, seed: int) -> tuple[Float32, float]:
    """Modulate the mixture with noise, as the modulated noise reference unit does.

    Args:
        mixture: Samples (n,) within ±1.
        q_db: Ratio of the signal to the noise; None leaves the mixture unchanged.
        seed: Selects the noise.

    Returns:
        The mixture, float32 (n,), and the gain, at most 1, that was needed to keep its peaks below full scale.

    Source: ITU-T P.810, y = x * (1 + 10^(-Q/20) n) with white Gaussian noise n of unit variance.
    """
    if q_db is None:
        return mixture, 1.0
    noise = np.random.default_rng(seed).normal(0.0, 10.0 ** (-q_db / 20.0), len(mixture))
    noisy = mixture * (1.0 + noise)
    gain = min(1.0, PEAK / max(float(np.abs(noisy).max(initial=0.0)), PEAK))
    return (noisy * gain).astype(np.float32), gain


def suppress_noise(
    mixture: Float32, stems: Iterable[Float32], rate_hz: int, depth_db: float, reach_db: float
) -> list[Float32]:
    """Attenuate noise and soft speech in a mixture, and its stems alike: a noise suppressor that is too eager.

    The gains depend on the mixture alone, so the suppressed stems still add up to the suppressed mixture, and their
    energies stay exact. The gains are not smoothed over time or frequency, which leaves isolated tones ("musical
    noise").

    Args:
        mixture: Samples (n,).
        stems: Signals of the same length; usually the mixture and its parts.
        rate_hz: Sample rate.
        depth_db: Attenuation.
        reach_db: Least threshold relative to the mean power of each frequency bin; the higher, the more speech is lost.

    Returns:
        The attenuated stems, each float32 (n,).
    """
    window = signal.windows.hann(int(WINDOW_S * rate_hz), sym=False)
    transform = signal.ShortTimeFFT(window, int(HOP_S * rate_hz), rate_hz)
    power = np.square(np.abs(transform.stft(mixture)))
    soft = power.mean(axis=1, keepdims=True) * 10.0 ** (reach_db / 10.0)
    threshold = np.maximum(soft, NOISE_FACTOR * np.quantile(power, NOISE_QUANTILE, axis=1, keepdims=True))
    gain = np.where(power > threshold, 1.0, 10.0 ** (-depth_db / 20.0))
    return [
        np.asarray(transform.istft(transform.stft(stem) * gain, k1=len(mixture)), dtype=np.float32) for stem in stems
    ]
