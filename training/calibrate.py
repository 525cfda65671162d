"""Turn raw scores into probabilities and event rules: Platt scaling and thresholds, fitted on dedicated mixtures.

The thresholds balance what the events find in the mixtures against false events on clean speech. Of all sets of
thresholds with at most `FALSE_EVENTS_PER_HOUR` on clean speech, the one with the best mean F1 is chosen. F1 is that of
the frames inside events, because users get events: hysteresis covers more than the frames above a threshold, and an
event that is too short is dropped. A label's false events are those of the line, wide band or telephone, that has more
of them: means over both did not carry over to other talkers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from speech_qc.contract import LABEL_CATALOG, LabelSpec
from speech_qc.scoring.events import NOT_FROM_SCORES
from training.event_rules import EVENT_RULES, Timeline, detect, exit_of, painted, timeline
from training.material import Material
from training.metrics import best_f1_threshold, fit_platt
from training.model import VALUE_RANGES, Detector, ModelConfig
from training.train import predict

Float64 = NDArray[np.float64]

ENTER_LOW, ENTER_HIGH = 0.5, 0.95  # below, an event is unlikely; above, a threshold overfits its mixtures
NO_ALARMS = ("speech", "reverberation", *NOT_FROM_SCORES)
"""Labels whose events on clean speech count as no false alarms."""
DEFAULT_ENTER = 0.5
FALSE_EVENTS_PER_HOUR = 32.0  # the calibration's clean speech is partly of crowd microphones, with clicks of their own
FEW_PER_HOUR = 2.0  # a label with no more false events need not find less for the sake of others
ENTER_STEP = 0.03
F1_KEPT = 0.92  # a raised threshold must keep this share of the label's best F1; a remaining excess is reported
HARD_DB, HARD_SHARE = 25.0, 0.7
_GRID = [(a / 4, b / 4) for a in range(-4, 5) for b in range(-4, 5)]
MIN_GAIN = 1e-6  # nats per frame that Platt scaling must gain, or the scores stay unchanged


def label_specs(config: ModelConfig, enter: Mapping[str, float] | None = None) -> tuple[LabelSpec, ...]:
    """Describe a model's score columns for its contract.

    Args:
        config: Names and order of the columns.
        enter: Enter threshold by label; 0.5 by default.
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
                exit=round(exit_of(name, threshold), 3),
                min_duration_s=rule.min_duration_s,
                merge_gap_s=rule.merge_gap_s,
            )
        )
    return tuple(specs)


def calibrate(net: Detector, material: Material, clean: Sequence[Material] = ()) -> tuple[dict[str, float], list[str]]:
    """Calibrate a net so that its scores are probabilities on the given material, and choose enter thresholds.

    `snr_db` also gets a scale and a shift (`fit_measure`); those of the opinion scores stay 1 and 0.

    Args:
        net: Changed in place.
        material: Mixtures that were used for no other choice.
        clean: Clean speech on which false events are counted; without it, only the mixtures set the thresholds.

    Returns:
        Enter threshold per probability label, and remarks to print (labels that could not be calibrated, thresholds at
        their bounds).
    """
    logits = predict(net, torch.from_numpy(material.features), follow=True).numpy()
    frames = logits.shape[1]
    enter: dict[str, float] = {}
    remarks: list[str] = []
    judged: dict[str, Timeline] = {}
    for column, name in enumerate(net.config.labels):
        kind = LABEL_CATALOG[name][1]
        if kind == "mos":
            continue
        counted = material.mask[:, :frames, column]
        logit = logits[..., column][counted].astype(np.float64)
        target = material.target[:, :frames, column][counted].astype(np.float64)
        if kind == "db":
            net.calibration[0, column], net.calibration[1, column] = fit_measure(logit, target, *VALUE_RANGES[kind])
            continue
        if target.size == 0 or target.min() == target.max():
            remarks.append(f"{name}: the calibration mixtures contain only one class of it; not calibrated")
            enter[name] = DEFAULT_ENTER
            continue
        scale, shift = platt(logit, target)
        if (scale, shift) == (1.0, 0.0):
            remarks.append(f"{name}: Platt scaling does not lower the loss; scores are left unscaled")
        net.calibration[0, column], net.calibration[1, column] = scale, shift
        score = 1.0 / (1.0 + np.exp(-(logits[..., column].astype(np.float64) * scale + shift)))
        judged[name] = timeline(score, material.target[:, :frames, column], counted)
        chosen = best_f1_threshold(score[counted], target, EVENT_RULES[name].max_false_rate)
        enter[name] = round(float(np.clip(chosen, ENTER_LOW, ENTER_HIGH)), 3)
        if chosen > ENTER_HIGH:
            rate = EVENT_RULES[name].max_false_rate
            remarks.append(
                f"{name}: every threshold up to {ENTER_HIGH} exceeds {rate:.1%} false frames; {ENTER_HIGH} is used"
            )
    if clean:
        enter, per_hour = quiet_thresholds(net, enter, judged, clean)
        if per_hour > FALSE_EVENTS_PER_HOUR:
            remarks.append(
                f"clean speech raises {per_hour:.1f} events per hour; the limit is {FALSE_EVENTS_PER_HOUR:g}"
            )
    return enter, remarks


def quiet_thresholds(
    net: Detector, enter: Mapping[str, float], judged: Mapping[str, Timeline], clean: Sequence[Material]
) -> tuple[dict[str, float], float]:
    """Raise thresholds until clean speech raises few enough events, at the lowest cost in F1.

    Args:
        net: Calibrated.
        enter: Thresholds to start from; none is lowered.
        judged: The mixtures, by label.
        clean: Speech without any disturbance, one material per kind of line.

    Returns:
        Threshold by label, and the remaining false events per hour, each label's on its worst line.
    """
    scores = [net.scores(predict(net, torch.from_numpy(part.features), follow=True)).numpy() for part in clean]
    hours = [part.seconds / 3600 for part in clean]
    grid = np.round(np.arange(ENTER_LOW, ENTER_HIGH + 1e-9, ENTER_STEP), 3)
    choices = {}
    for name in judged:
        if name in NO_ALARMS:
            continue
        column = net.config.labels.index(name)
        quiet = [_line_of(part, found, column) for part, found in zip(clean, scores, strict=True)]
        rows = [
            (threshold, _event_f1(name, judged[name], threshold), _false_events(name, quiet, hours, threshold))
            for threshold in grid.tolist()
            if threshold >= enter[name] - ENTER_STEP / 2
        ]
        least = F1_KEPT * max(row[1] for row in rows)
        choices[name] = [row for row in rows if row[1] >= least]
    # A price per false event beyond a few makes the choices of the labels independent; it rises until the total is low
    # enough.
    for price in (0.0, *np.geomspace(1e-4, 0.1, 50)):
        taken = {
            name: max(rows, key=lambda row: row[1] - price * max(0.0, row[2] - FEW_PER_HOUR))
            for name, rows in choices.items()
        }
        per_hour = sum(row[2] for row in taken.values())
        if per_hour <= FALSE_EVENTS_PER_HOUR:
            break
    return {**enter, **{name: round(row[0], 3) for name, row in taken.items()}}, per_hour


def _line_of(part: Material, scores: NDArray[np.float32], column: int) -> Timeline:
    """Return one label of a material with its scores [clips, frames, C]."""
    frames = scores.shape[1]
    return timeline(scores[..., column], part.target[:, :frames, column], part.mask[:, :frames, column])


def _false_events(name: str, lines: Sequence[Timeline], hours: Sequence[float], threshold: float) -> float:
    """Return the most events per hour in any material of clean speech."""
    leave, rule = exit_of(name, threshold), EVENT_RULES[name]
    return max(
        len(detect(line.score, threshold, leave, rule)) / length for line, length in zip(lines, hours, strict=True)
    )


def _event_f1(name: str, line: Timeline, threshold: float) -> float:
    """Return the F1 of the frames inside the events."""
    events = detect(line.score, threshold, exit_of(name, threshold), EVENT_RULES[name])
    called = painted(events, len(line.score)) & line.mask
    return float(2 * (called & line.truth).sum() / max(1, called.sum() + line.truth.sum()))


def platt(logit: Float64, target: Float64) -> tuple[float, float]:
    """Return the scale and shift of logits; 1 and 0 if Newton's method does not lower the log loss."""
    with np.errstate(over="ignore", invalid="ignore"):
        scale, shift = fit_platt(logit, target)
    fitted = np.isfinite([scale, shift]).all() and scale > 0.0
    if not fitted or log_loss(logit * scale + shift, target) > log_loss(logit, target) - MIN_GAIN:
        return 1.0, 0.0
    return scale, shift


def fit_measure(logit: Float64, target: Float64, low: float, high: float) -> tuple[float, float]:
    """Return the scale and shift of a measure's logits with the least mean absolute error.

    Frames with audible noise (target below `HARD_DB`) get `HARD_SHARE` of the weight. Most frames are clean, and
    otherwise they would pull uncertain values to the top of the range.
    """
    hard = target < HARD_DB
    if not hard.any() or hard.all():
        return 1.0, 0.0
    weight = np.where(hard, HARD_SHARE / hard.sum(), (1.0 - HARD_SHARE) / (~hard).sum())

    def error(scale: float, shift: float) -> float:
        value = low + (high - low) / (1.0 + np.exp(-(logit * scale + shift)))
        return float((np.abs(value - target) * weight).sum())

    best, reach = (1.0, 0.0), 1.0
    for _ in range(9):  # a coarse grid around the best point so far, then finer ones
        centre = best
        tried = [(centre[0] * (1.0 + a * reach), centre[1] + b * reach) for a, b in _GRID]
        best = min([best, *tried], key=lambda pair: error(*pair))
        reach /= 1.8
    return best


def log_loss(logit: Float64, target: Float64) -> float:
    """Return the mean cross-entropy in nats; stable for large logits."""
    return float(np.mean(np.logaddexp(0.0, logit) - target * logit))
