"""Event figures: F1 with a collar, PSDS, detection delay.

All cases are concatenated on one timeline, with gaps too long to be bridged, so every figure takes only a few NumPy
calls. Ground truth is converted to events by the same rules for every contender (`training.event_rules`):
short gaps are bridged, and events that are too short or unsure count neither way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.event_rules import (
    EVENT_RULES,
    FRAME_S,
    GAP_FRAMES,
    Bool,
    EventRule,
    Runs,
    Timeline,
    detect,
    merged,
    painted,
    runs,
)

COLLAR_FRAMES = 10  # 200 ms
OFFSET_SHARE = 0.2  # tolerance of an event's end as a share of its length, if larger than the collar (as in DCASE)
OPEN_SHARE = 0.5  # a detection with a larger share of masked frames is neither right nor wrong
DTC = GTC = 0.7  # share of a detection inside events; share of an event inside such detections
MAX_FALSE_PER_HOUR = 100.0
SPREAD_WEIGHT = 1.0  # alpha_ST; alpha_CT is 0: confusing two labels costs as much as any false event
PSDS_POINTS = 40
PSDS_TERMS = (
    f"PSDS1: detection and ground-truth tolerance {DTC}, no extra cost for cross-triggers (alpha_CT 0), spread over "
    f"labels weighted {SPREAD_WEIGHT:g} (alpha_ST), at most {MAX_FALSE_PER_HOUR:g} false events per hour, "
    f"{PSDS_POINTS} thresholds"
)


def true_events(line: Timeline, rule: EventRule) -> tuple[Runs, Bool]:
    """Return the events of the ground truth, and the frames that count; events that are too short do not count.

    A masked frame does not end an event: whether the event pauses there is unknown.
    """
    known = np.flatnonzero(line.mask)
    before, after = known[:-1], known[1:]
    masked = after - before - 1
    open_ = (masked > 0) & (masked < GAP_FRAMES) & line.truth[before] & line.truth[after]
    within = painted(np.stack([before[open_], after[open_]], axis=1), len(line.mask))
    events = merged(runs(line.truth | within), rule)
    counted = line.mask & ~(line.truth & ~painted(events, len(line.mask)))
    return events, counted


def event_figures(line: Timeline, label: str, enter: float, leave: float, latency_s: float) -> dict[str, Any]:
    """Return precision, recall and F1 with a collar of 200 ms, and the detection delay."""
    rule = EVENT_RULES[label]
    truth, counted = true_events(line, rule)
    found = detect(line.score, enter, leave, rule)
    right = _matches(truth, found, counted)
    open_share = 1.0 - _inside(found, counted) / np.maximum(1, found[:, 1] - found[:, 0])
    wrong = int(((open_share <= OPEN_SHARE) & ~right).sum())
    hits, missed = int(right.sum()), len(truth) - int(right.sum())
    called = hits + wrong
    return {
        "events": len(truth),
        "precision": round(hits / called, 4) if called else None,
        "recall": round(hits / len(truth), 4) if len(truth) else None,
        "f1": round(2 * hits / (2 * hits + wrong + missed), 4) if len(truth) else None,
        **_delay(truth, line.score >= enter, found, latency_s),
    }


def psds_curve(line: Timeline, label: str) -> NDArray[np.float64]:
    """Return false events per hour and the share of events found, (points, 2), from strict to lax thresholds."""
    rule = EVENT_RULES[label]
    truth, counted = true_events(line, rule)
    judged = line.score[counted]
    if not len(truth) or not judged.size:
        return np.zeros((0, 2))
    hours = line.judged_hours
    points = []
    for threshold in np.unique(np.quantile(judged, 1.0 - np.geomspace(1e-4, 0.95, PSDS_POINTS))):
        found = detect(line.score, float(threshold), float(threshold), rule)
        length = _inside(found, counted)
        found, length = found[length > 0], length[length > 0]
        relevant = _inside(found, counted & painted(truth, len(counted))) >= DTC * length
        covered = _inside(truth, counted & painted(found[relevant], len(counted)))
        hit = covered >= GTC * np.maximum(1, _inside(truth, counted))
        points.append((float((~relevant).sum()) / hours, float(hit.mean())))
    return np.array(sorted(points))


def psds(curves: Mapping[str, NDArray[np.float64]]) -> float | None:
    """Return the area under the mean of the labels' curves minus their spread, up to the highest false-event rate.

    Source: Bilen et al. (2020), "A framework for the robust evaluation of sound event detection".
    """
    rates = np.linspace(0.0, MAX_FALSE_PER_HOUR, 401)
    steps = []
    for curve in curves.values():
        if len(curve):
            best = np.maximum.accumulate(curve[:, 1])
            index = np.searchsorted(curve[:, 0], rates, side="right") - 1
            steps.append(np.where(index >= 0, best[np.maximum(index, 0)], 0.0))
    if not steps:
        return None
    effective = np.maximum(np.mean(steps, axis=0) - SPREAD_WEIGHT * np.std(steps, axis=0), 0.0)
    return float(np.trapezoid(effective, rates) / MAX_FALSE_PER_HOUR)


def _matches(truth: Runs, found: Runs, counted: Bool) -> Bool:
    """Mark detections that match an event not matched before, (n found,); masked frames widen the collar."""
    right = np.zeros(len(found), bool)
    closed = np.cumsum(counted, dtype=np.int64)
    free = np.ones(len(truth), bool)
    for i, (start, stop) in enumerate(found):
        slack = np.maximum(COLLAR_FRAMES, OFFSET_SHARE * (truth[:, 1] - truth[:, 0]))
        first = _closed_between(closed, truth[:, 0], start)
        last = _closed_between(closed, truth[:, 1], stop)
        fits = np.flatnonzero(free & (first <= COLLAR_FRAMES) & (last <= slack))
        if fits.size:
            free[fits[0]] = False
            right[i] = True
    return right


def _closed_between(closed: NDArray[np.int64], edges: NDArray[np.int64], place: int) -> NDArray[np.float64]:
    """Return the distance of edges to a frame, in unmasked frames; infinite if it exceeds `GAP_FRAMES` anyway."""
    before = np.concatenate([[0], closed])
    distance = np.abs(before[edges] - before[place]).astype(np.float64)
    return np.where(np.abs(edges - place) <= GAP_FRAMES, distance, np.inf)


def _delay(truth: Runs, called: Bool, found: Runs, latency_s: float) -> dict[str, float | None]:
    """Return the share of events that overlap a detection, and the time until the first frame at the threshold.

    A score that is at the threshold before the onset counts as one frame late, the minimum for any detector.
    """
    detected = painted(found, len(called)) & called
    places = np.flatnonzero(detected)
    late = []
    for start, stop in truth:
        index = np.searchsorted(places, start)
        if index < len(places) and places[index] < stop:
            late.append((places[index] - start + 1) * FRAME_S + latency_s)
    if not late:
        return {"found": 0.0 if len(truth) else None, "delay_p50_s": None, "delay_p95_s": None}
    p50, p95 = np.percentile(late, [50, 95])
    return {
        "found": round(len(late) / len(truth), 4),
        "delay_p50_s": round(float(p50), 3),
        "delay_p95_s": round(float(p95), 3),
    }


def _inside(events: Runs, marks: Bool) -> NDArray[np.int64]:
    """Count the marked frames in each event."""
    before = np.concatenate([[0], np.cumsum(marks)])
    return np.asarray(before[events[:, 1]] - before[events[:, 0]])
