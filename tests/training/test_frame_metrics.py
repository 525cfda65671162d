"""Frame figures compared with brute-force definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from training.calibrate import log_loss, platt
from training.metrics import auroc, average_precision, best_f1_threshold, calibration_error, fit_platt, rates_at


def material(seed: int, count: int = 300, ties: bool = False) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    target = (rng.random(count) < 0.3).astype(np.float64)
    score = np.clip(rng.normal(0.4 + 0.2 * target, 0.2), 0.0, 1.0)
    return (np.round(score, 1) if ties else score), target


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_the_share_of_pairs_in_the_right_order(ties: bool) -> None:
    score, target = material(1, ties=ties)
    positive, negative = score[target == 1][:, None], score[target == 0][None]
    right = np.mean((positive > negative) + 0.5 * (positive == negative))
    assert auroc(score, target) == pytest.approx(right)


def test_auroc_of_one_class_is_no_number() -> None:
    assert auroc(np.array([0.1, 0.9]), np.zeros(2)) is None
    assert auroc(np.array([0.1, 0.9]), np.ones(2)) is None


def test_average_precision_is_the_mean_precision_at_each_positive() -> None:
    score, target = material(2)
    order = np.argsort(-score)
    found, precisions = 0, []
    for rank, index in enumerate(order, start=1):
        if target[index]:
            found += 1
            precisions.append(found / rank)
    assert average_precision(score, target) == pytest.approx(np.mean(precisions))
    assert average_precision(score, np.zeros_like(target)) is None


def test_calibration_error_is_the_distance_of_confidence_and_frequency() -> None:
    score = np.array([0.1, 0.1, 0.1, 0.1, 0.9, 0.9])
    target = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    assert calibration_error(score, target) == pytest.approx((4 * abs(0.1 - 0.25) + 2 * abs(0.9 - 1.0)) / 6)
    assert calibration_error(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.0


def test_scores_drawn_from_their_own_probabilities_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(40_000)
    assert calibration_error(score, (rng.random(40_000) < score).astype(float)) < 0.01
    assert calibration_error(score**3, (rng.random(40_000) < score).astype(float)) > 0.1


def test_rates_count_scores_at_the_threshold_as_called() -> None:
    score, target = np.array([0.5, 0.4, 0.5, 0.6]), np.array([1.0, 1.0, 0.0, 0.0])
    assert rates_at(score, target, 0.5) == (0.5, 1.0)
    assert rates_at(score, np.zeros(4), 0.5) == (0.0, 0.75)


@pytest.mark.parametrize("limit", [0.01, 0.1])
def test_the_chosen_threshold_keeps_the_false_rate_and_has_the_best_f1(limit: float) -> None:
    score, target = material(3, 3000)
    chosen = best_f1_threshold(score, target, limit)

    def f1(threshold: float) -> float:
        called = score >= threshold
        return float(2 * (called & (target == 1)).sum() / (called.sum() + target.sum()))

    assert rates_at(score, target, chosen)[1] <= limit
    allowed = [t for t in np.linspace(0.05, 0.95, 91) if rates_at(score, target, float(t))[1] <= limit]
    assert f1(chosen) == pytest.approx(max(f1(float(t)) for t in allowed))


def test_where_no_threshold_keeps_the_rate_the_highest_is_taken() -> None:
    assert best_f1_threshold(np.ones(10), np.arange(10.0) % 2, 0.1) == pytest.approx(0.95)


def test_platt_scaling_finds_the_line_that_made_the_truth() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0.0, 3.0, 50_000)
    target = (rng.random(50_000) < 1.0 / (1.0 + np.exp(-(0.5 * logit - 1.0)))).astype(float)
    scale, shift = fit_platt(logit, target)
    assert scale == pytest.approx(0.5, abs=0.02)
    assert shift == pytest.approx(-1.0, abs=0.05)
    assert platt(logit, target) == (scale, shift)


def test_platt_scaling_never_makes_the_loss_worse() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logit = rng.normal(0.0, 20.0, 60)
        target = (logit + rng.normal(0.0, 10.0, 60) > 15.0).astype(float)
        scale, shift = platt(logit, target)
        assert scale > 0.0
        assert log_loss(logit * scale + shift, target) <= log_loss(logit, target)


def test_scores_that_rank_backwards_are_left_as_they_are() -> None:
    logit = np.linspace(-3.0, 3.0, 200)
    assert platt(logit, (logit < 0.0).astype(float)) == (1.0, 0.0)
