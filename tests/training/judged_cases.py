"""Cases with ground truth and contenders with scores that tests choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from training.evaluation.cases import FRAME_SAMPLES, Case
from training.evaluation.contenders import Contender, Judgement


def case(name: str = "made", frames: int = 400, **changes: Any) -> Case:
    """Return a silent case; `truth` gives spans of frames by label, `open_` spans that do not count."""
    truth: Mapping[str, Sequence[tuple[int, int]]] = changes.pop("truth", {})
    open_: Mapping[str, Sequence[tuple[int, int]]] = changes.pop("open_", {})
    values: Mapping[str, np.ndarray] = changes.pop("values", {})
    labels = tuple(dict.fromkeys([*truth, *open_, *values]))
    target, mask = np.zeros((frames, len(labels)), np.float32), np.ones((frames, len(labels)), bool)
    for column, label in enumerate(labels):
        for start, stop in truth.get(label, ()):
            target[start:stop, column] = 1.0
        for start, stop in open_.get(label, ()):
            mask[start:stop, column] = False
        if label in values:
            target[:, column] = values[label]
    return Case(name, np.zeros(frames * FRAME_SAMPLES, np.float32), labels, target, mask, **changes)


def says(frames: int = 400, whole: Mapping[str, float] | None = None, **spans: Sequence[tuple[int, int]]) -> Judgement:
    """Return scores of 0.9 in spans and 0.1 elsewhere, by label."""
    scores = {label: np.full(frames, 0.1, np.float32) for label in spans}
    for label, pairs in spans.items():
        for start, stop in pairs:
            scores[label][start:stop] = 0.9
    return Judgement(scores, whole or {})


def fixed(judgements: Sequence[Judgement], name: str = "made", **enter: float) -> Contender:
    """Return a contender with predefined scores."""
    return Contender(name, lambda cases: list(judgements)[: len(cases)], enter)
