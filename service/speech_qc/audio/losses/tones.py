"""Tells pure tones from other sound."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TONE_RESIDUAL = 1e-3
"""Share of the energy that a predictor of order 4 leaves of one or two pure tones (−30 dB)."""


def is_tonal(samples: NDArray[np.float32]) -> bool:
    """Say whether one or two pure tones explain some samples.

    Args:
        samples: float32 [n], at about 8 kHz: at a higher rate, speech is as predictable as a tone.
    """
    wide = samples.astype(np.float64)
    wide -= wide.mean()
    count = len(wide) - 4
    past = np.stack([wide[3 - k : 3 - k + count] for k in range(4)], axis=1)
    weights = np.linalg.lstsq(past, wide[4:], rcond=None)[0]
    rest = wide[4:] - past @ weights
    return bool(rest.dot(rest) < TONE_RESIDUAL * wide[4:].dot(wide[4:]))
