"""From raw scores to probabilities and event rules: Platt scaling and thresholds on mixtures made for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.contract import LABEL_CATALOG, LabelSpec
from training.material import Material
from training.metrics import best_f1_threshold, fit_platt
from training.model import VALUE_RANGES, Detector, ModelConfig
from training.train import predict

Float64 = NDArray[np.float64]

ENTER_LOW, ENTER_HIGH = 0.5, 0.9  # an event is more likely than not; above, a threshold fits its mixtures alone
EXIT_SHARE = 0.7  # exit = this share of enter: scores that tremble around enter stay one event
DEFAULT_ENTER = 0.5
MIN_GAIN = 1e-6  # nats per frame that Platt scaling must win, else the scores stay as they are


@dataclass(frozen=True, slots=True)
class EventRule:
    """What makes an event of a label, and how many false frames its threshold may let through.

    Args:
        min_duration_s: Shorter events are dropped.
        merge_gap_s: Shorter gaps are bridged.
        max_false_rate: Share of the frames without the label that may reach the enter threshold.
    """

    min_duration_s: float
    merge_gap_s: float
    max_false_rate: float


EVENT_RULES: Mapping[str, EventRule] = {
    "speech": EventRule(0.10, 0.20, 0.04),
    "noise": EventRule(0.20, 0.50, 0.02),
    "interference": EventRule(0.20, 0.50, 0.02),
    "stationary_noise": EventRule(0.30, 0.50, 0.01),
    "transient_noise": EventRule(0.06, 0.20, 0.01),  # a mouse click lasts three frames
    "interfering_speech": EventRule(0.30, 0.50, 0.01),
    "music": EventRule(0.50, 1.00, 0.01),
    "tone": EventRule(0.10, 0.50, 0.01),
    "clipping": EventRule(0.04, 0.30, 0.005),
    "dropout": EventRule(0.02, 0.10, 0.005),  # one lost packet is 20 ms
    "reverberation": EventRule(0.50, 1.00, 0.02),
}
"""Rules of the probability labels; durations follow what a listener would call one incident."""


def label_specs(config: ModelConfig, enter: Mapping[str, float] | None = None) -> tuple[LabelSpec, ...]:
    """Describe a model's score columns for its contract.

    Args:
        config: Names and order of the columns.
        enter: Enter threshold by label; 0.5 where none is given.
    """
    specs = []
    for name in config.labels:
        family, kind = LABEL_CATALOG[name]
        low, high = VALUE_RANGES[kind]
        if kind != "probability":
            specs.append(LabelSpec(name=name, family=family, kind=kind, low=low, high=high))
            continue
        rule, threshold = EVENT_RULES[name], (enter or {}).get(name, DEFAULT_ENTER)
        specs.append(
            LabelSpec(
                name=name,
                family=family,
                kind=kind,
                low=low,
                high=high,
                enter=threshold,
                exit=round(threshold * EXIT_SHARE, 3),
                min_duration_s=rule.min_duration_s,
                merge_gap_s=rule.merge_gap_s,
            )
        )
    return tuple(specs)


def calibrate(net: Detector, material: Material) -> tuple[dict[str, float], list[str]]:
    """Set a net's calibration so that its scores are probabilities on a material, and choose enter thresholds.

    The scale and shift of measures stay 1 and 0.

    Args:
        net: Changed in place.
        material: Mixtures that nothing else was chosen on.

    Returns:
        Enter threshold per probability label, and what a person should know (labels that could not be calibrated,
        thresholds at their bounds).
    """
    logits = predict(net, torch.from_numpy(material.features)).numpy()
    frames = logits.shape[1]
    enter: dict[str, float] = {}
    remarks: list[str] = []
    for column, name in enumerate(net.config.labels):
        if LABEL_CATALOG[name][1] != "probability":
            continue
        counted = material.mask[:, :frames, column]
        logit = logits[..., column][counted].astype(np.float64)
        target = material.target[:, :frames, column][counted].astype(np.float64)
        if target.size == 0 or target.min() == target.max():
            remarks.append(f"{name}: the calibration mixtures hold only one class of it; neither scaled nor fitted")
            enter[name] = DEFAULT_ENTER
            continue
        scale, shift = platt(logit, target)
        if (scale, shift) == (1.0, 0.0):
            remarks.append(f"{name}: Platt scaling does not lower the loss; scores are as the net gives them")
        net.calibration[0, column], net.calibration[1, column] = scale, shift
        score = 1.0 / (1.0 + np.exp(-(logit * scale + shift)))
        chosen = best_f1_threshold(score, target, EVENT_RULES[name].max_false_rate)
        enter[name] = round(float(np.clip(chosen, ENTER_LOW, ENTER_HIGH)), 3)
        if chosen > ENTER_HIGH:
            rate = EVENT_RULES[name].max_false_rate
            remarks.append(f"{name}: no threshold up to {ENTER_HIGH} keeps {rate:.1%} false frames; {ENTER_HIGH} taken")
    return enter, remarks


def platt(logit: Float64, target: Float64) -> tuple[float, float]:
    """Scale and shift of logits; 1 and 0 where Newton's method did not make the log loss smaller."""
    with np.errstate(over="ignore", invalid="ignore"):
        scale, shift = fit_platt(logit, target)
    fitted = np.isfinite([scale, shift]).all() and scale > 0.0
    if not fitted or log_loss(logit * scale + shift, target) > log_loss(logit, target) - MIN_GAIN:
        return 1.0, 0.0
    return scale, shift


def log_loss(logit: Float64, target: Float64) -> float:
    """Mean cross-entropy in nats; stable for large logits."""
    return float(np.mean(np.logaddexp(0.0, logit) - target * logit))
