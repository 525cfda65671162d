"""Robust statistics: a normal range from earlier periods, and the threshold for a stated rate of false alarms.

The unit is the period, such as a day, not the recording: recordings of a day share their network, weather and staff, so
hundreds of them agree more closely with each other than with those of the next day.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]

MIN_HISTORY = 10
"""Periods from which a scale can be estimated; with fewer, the threshold is too far away to be of use."""
_QN = 2.21914
_QN_SMALL = {2: 0.399, 3: 0.994, 4: 0.512, 5: 0.844, 6: 0.611, 7: 0.857, 8: 0.669, 9: 0.872}
"""Corrections for small samples that make Qn unbiased for normal values."""
_MEDIAN_VARIANCE = np.pi / 2
"""Variance of a median of normal values, relative to that of their mean."""


def qn_scale(values: Floats) -> Floats:
    """Estimate the standard deviation, even if almost half of the values are outliers.

    Qn has 82 % of the efficiency of the standard deviation for normal values; the median absolute deviation has 37 %.

    Source: P. J. Rousseeuw, C. Croux, "Alternatives to the Median Absolute Deviation", 1993.

    Args:
        values: At least two along the last axis, (…, n).

    Returns:
        The scale, (…).
    """
    count = values.shape[-1]
    first, second = np.triu_indices(count, 1)
    distances = np.abs(values[..., first] - values[..., second])
    half = count // 2 + 1
    rank = half * (half - 1) // 2 - 1
    distances.partition(rank, axis=-1)
    small = _QN_SMALL.get(count) or (count / (count + 1.4) if count % 2 else count / (count + 3.8))
    return np.asarray(_QN * small * distances[..., rank])


def sampling_variance(spread: Any, count: Any) -> Any:
    """Return the variance of the median of a period, because it has only so many recordings.

    Args:
        spread: Standard deviation of its recordings.
        count: Their number.
    """
    return _MEDIAN_VARIANCE * spread**2 / count


def threshold(history: int, rate: float) -> float:
    """Return the deviation, in predicted standard deviations, that one period in normal operation exceeds at this rate.

    It is a quantile of Student's t. Its degrees of freedom are fewer than the periods, because a robust scale varies
    more; they are set so that the rate is not exceeded (`benchmarks/bench_baseline.py` measures it).

    Args:
        history: Number of earlier periods, at least `MIN_HISTORY`.
        rate: Probability, on both sides together.
    """
    return float(-stdtrit(0.6 * history - 0.3, rate / 2))


def predicted(history: Floats, sampling: Floats, next_sampling: Floats) -> tuple[Floats, Floats]:
    """Return where the next period is expected, and its standard deviation.

    Args:
        history: Values of earlier periods, (…, n).
        sampling: Their sampling variances, (…, n).
        next_sampling: That of the next period, (…).

    Returns:
        Centre and standard deviation, (…). The latter counts the variation between periods, the uncertainty of the
        centre, and that a period with fewer recordings than usual varies more. It is never below what the sampling
        alone explains.
    """
    count = history.shape[-1]
    centre = np.median(history, axis=-1)
    variance = qn_scale(history) ** 2
    usual = np.median(sampling, axis=-1)
    variance = np.maximum(variance + np.maximum(next_sampling - usual, 0.0), next_sampling)
    return centre, np.sqrt(variance * (1 + _MEDIAN_VARIANCE / count))
