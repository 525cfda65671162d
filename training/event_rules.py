"""What counts as an event of a label: rules of length and gap, and events by hysteresis as the service finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.scoring.layout import frames_reaching

Float = NDArray[np.floating]
Bool = NDArray[np.bool_]
Runs = NDArray[np.int64]
"""Events as rows (first frame, first frame after), int64 (n, 2), sorted and disjoint."""

FRAME_S = 0.02
GAP_FRAMES = 100  # between clips on one timeline; longer than any rule bridges


@dataclass(frozen=True, slots=True)
class EventRule:
    """What counts as an event of a label, and how many false frames its threshold may allow.

    Args:
        min_duration_s: Shorter events are dropped.
        merge_gap_s: Shorter gaps are bridged.
        max_false_rate: Share of the frames without the label that may reach the enter threshold.
        exit_share: The exit threshold as a share of the enter threshold. Scores that fluctuate around enter stay one
            event.
    """

    min_duration_s: float
    merge_gap_s: float
    max_false_rate: float
    exit_share: float = 0.7


GOES_ON = 0.5
"""Exit share of labels whose sources last: found once, they stay found under loud speech."""

EVENT_RULES: Mapping[str, EventRule] = {
    "speech": EventRule(0.10, 0.20, 0.04),
    "noise": EventRule(0.50, 0.50, 0.02),  # shorter ones in clean speech are mostly false: docs/experiments.md
    "interference": EventRule(0.30, 1.00, 0.02),  # as long as music and tones, its causes
    "stationary_noise": EventRule(0.50, 0.50, 0.01, GOES_ON),
    "transient_noise": EventRule(0.20, 0.20, 0.02),
    "interfering_speech": EventRule(0.40, 0.50, 0.01),
    "music": EventRule(0.60, 1.00, 0.01, GOES_ON),
    "tone": EventRule(0.10, 1.00, 0.01, GOES_ON),  # a loud word can cover it, and call tones pause
    "clipping": EventRule(0.04, 0.30, 0.005),
    "dropout": EventRule(0.02, 0.10, 0.005),  # one lost packet is 20 ms
    "reverberation": EventRule(0.50, 1.00, 0.02),
}
"""Rules of the probability labels; the durations approximate what a listener would call one incident."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """One label of all clips: score, truth and mask, float64/bool (frames with gaps,); gaps are masked."""

    score: NDArray[np.float64]
    truth: Bool
    mask: Bool

    @property
    def judged_hours(self) -> float:
        """Length of the unmasked frames in hours."""
        return float(self.mask.sum()) * FRAME_S / 3600


def timeline(
    scores: Sequence[Float] | Float, truths: Sequence[Float | Bool] | Float | Bool, masks: Sequence[Bool] | Bool
) -> Timeline:
    """Concatenate clips; each argument has one array (frames,) per clip."""
    total = sum(len(score) + GAP_FRAMES for score in scores)
    line = Timeline(np.full(total, -np.inf), np.zeros(total, bool), np.zeros(total, bool))
    position = 0
    for score, truth, mask in zip(scores, truths, masks, strict=True):
        span = slice(position, position + len(score))
        line.score[span], line.mask[span], line.truth[span] = score, mask, (truth > 0.5) & mask
        position += len(score) + GAP_FRAMES
    return line


def runs(active: Bool) -> Runs:
    """Return the runs of True."""
    edges = np.flatnonzero(np.diff(active.astype(np.int8), prepend=0, append=0))
    return edges.reshape(-1, 2).astype(np.int64)


def merged(events: Runs, rule: EventRule) -> Runs:
    """Bridge short gaps, then drop events that are too short."""
    if not len(events):
        return events
    apart = events[1:, 0] - events[:-1, 1] >= max(1, frames_reaching(rule.merge_gap_s, FRAME_S))
    joined = np.stack([events[np.r_[True, apart], 0], events[np.r_[apart, True], 1]], axis=1)
    long = joined[:, 1] - joined[:, 0] >= max(1, frames_reaching(rule.min_duration_s, FRAME_S))
    return np.asarray(joined[long])


def detect(score: Float, enter: float, leave: float, rule: EventRule) -> Runs:
    """Find events by hysteresis, like the service, which also lets those of `reverberation` begin in speech only."""
    up = score >= enter
    decided = np.flatnonzero(up | (score < leave))
    latest = np.zeros(len(score), np.int64)
    latest[decided] = np.arange(1, len(decided) + 1)
    states = np.concatenate([[False], up[decided]])
    return merged(runs(states[np.maximum.accumulate(latest)]), rule)


def painted(events: Runs, frames: int) -> Bool:
    """Return which of `frames` frames are in an event."""
    change = np.zeros(frames + 1, np.int64)
    np.add.at(change, events[:, 0], 1)
    np.add.at(change, events[:, 1], -1)
    return np.asarray(np.cumsum(change)[:-1] > 0)


def exit_of(label: str, enter: float) -> float:
    """Return the exit threshold that belongs to a label's enter threshold."""
    return enter * EVENT_RULES[label].exit_share
