"""Frame metrics: AUROC, average precision, calibration error, Platt scaling, thresholds for a false-alarm rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Float = NDArray[np.floating]

BINS = 15  # equal-width bins in which scores and frequencies are compared
DET_POINTS = 40  # number of score quantiles, and of false-positive rates, at which the curve is sampled
NEWTON_STEPS = 50  # at most; Platt scaling converges in far fewer


def auroc(score: Float, target: Float) -> float | None:
    """Return the area under the ROC curve by ranks (ties count half); None if a class is missing."""
    positive = target > 0.5
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if ones == 0 or zeros == 0:
        return None
    ranks = rankdata(score)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def average_precision(score: Float, target: Float) -> float | None:
    """Return the mean precision over the positives in descending order of score; None without positives."""
    positive = target > 0.5
    if not positive.any():
        return None
    hits = positive[np.argsort(-score, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, hits.size + 1)
    return float(precision[hits].mean())


def calibration_error(score: Float, target: Float) -> float:
    """Return the expected calibration error: mean gap of confidence and frequency over bins, weighted by frames."""
    index = np.minimum((score * BINS).astype(int), BINS - 1)
    weight = np.bincount(index, minlength=BINS)
    confidence = np.bincount(index, weights=score, minlength=BINS)
    frequency = np.bincount(index, weights=target, minlength=BINS)
    return float(np.abs(confidence - frequency).sum() / max(1, weight.sum()))


def rates_at(score: Float, target: Float, threshold: float) -> tuple[float, float]:
    """Return the true- and false-positive rate at a threshold (score >= threshold)."""
    positive = target > 0.5
    called = score >= threshold
    return float(called[positive].mean()) if positive.any() else 0.0, (
        float(called[~positive].mean()) if (~positive).any() else 0.0
    )


def best_f1_threshold(score: Float, target: Float, max_false_rate: float) -> float:
    """Return the threshold with the best frame F1 among those with a false-positive rate of at most `max_false_rate`.

    Returns:
        A value in [0.05, 0.95]; the maximum if no threshold meets the rate.
    """
    grid = np.linspace(0.05, 0.95, 91)
    best, chosen = -1.0, 0.95
    positives = max(1, int((target > 0.5).sum()))
    for threshold in grid:
        called = score >= threshold
        true = int((called & (target > 0.5)).sum())
        false_rate = rates_at(score, target, float(threshold))[1]
        f1 = 2 * true / max(1, int(called.sum()) + positives)
        if false_rate <= max_false_rate and f1 > best:
            best, chosen = f1, float(threshold)
    return chosen


def fit_platt(logit: Float, target: Float) -> tuple[float, float]:
    """Return the scale and shift of logits that minimise the log loss (Newton's method).

    Source: Platt (1999), without target smoothing, because there are many frames.
    """
    scale, shift = 1.0, 0.0
    for _ in range(NEWTON_STEPS):
        z = np.clip(scale * logit + shift, -30, 30)
        p = 1.0 / (1.0 + np.exp(-z))
        weight = p * (1 - p) + 1e-9
        error = p - target
        gradient = np.array([np.mean(error * logit), np.mean(error)])
        mixed = np.mean(weight * logit)
        hessian = np.array([[np.mean(weight * logit * logit), mixed], [mixed, np.mean(weight)]]) + 1e-9 * np.eye(2)
        change = np.linalg.solve(hessian, gradient)
        scale, shift = scale - float(change[0]), shift - float(change[1])
        if np.abs(change).max() < 1e-7:
            break
    return (scale, shift) if scale > 0 else (1.0, 0.0)


def reliability(score: Float, target: Float) -> list[tuple[float, float, float]]:
    """Return mean score, share of positives and share of all frames for each non-empty equal-width bin."""
    index = np.minimum((score * BINS).astype(int), BINS - 1)
    weight = np.bincount(index, minlength=BINS)
    confidence = np.bincount(index, weights=score, minlength=BINS)
    frequency = np.bincount(index, weights=target > 0.5, minlength=BINS)
    return [
        (round(float(confidence[i] / n), 4), round(float(frequency[i] / n), 4), round(float(n / weight.sum()), 5))
        for i, n in enumerate(weight)
        if n
    ]


def det_points(score: Float, target: Float) -> list[tuple[float, float]]:
    """Return false-positive and miss rates from strict to lax thresholds, for a detection-error trade-off curve."""
    positive = target > 0.5
    ones, zeros = np.sort(score[positive]), np.sort(score[~positive])
    if not ones.size or not zeros.size:
        return []
    thresholds = np.unique(np.quantile(score, np.linspace(0.0, 1.0, DET_POINTS)))
    wanted = np.geomspace(1e-4, 0.5, DET_POINTS)  # false-positive rates to sample
    thresholds = np.unique(np.concatenate([thresholds, np.quantile(zeros, 1.0 - wanted)]))
    misses = np.searchsorted(ones, thresholds, side="left") / ones.size
    false = 1.0 - np.searchsorted(zeros, thresholds, side="left") / zeros.size
    return [(round(float(f), 5), round(float(m), 5)) for f, m in zip(false[::-1], misses[::-1], strict=True)]
