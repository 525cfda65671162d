"""PSDS against an implementation of other people, on the same scores and events."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation import events
from training.evaluation.events import psds, psds_curve
from training.event_rules import FRAME_S, EventRule, runs, timeline

peer = pytest.importorskip("sed_scores_eval", reason="needs sed_scores_eval and pandas<3")

CASES, FRAMES = 60, 400
PLAIN = EventRule(FRAME_S, 0.0, 0.01)
"""The peer neither bridges gaps nor drops short events."""


@pytest.mark.parametrize("seed", range(3))
def test_psds_is_that_of_sed_scores_eval(monkeypatch, seed):
    pandas = pytest.importorskip("pandas")
    labels = ("music", "tone")
    monkeypatch.setattr(events, "EVENT_RULES", dict.fromkeys(labels, PLAIN))
    monkeypatch.setattr(events, "PSDS_POINTS", 400)
    rng = np.random.default_rng(seed)
    truths = {label: [np.zeros(FRAMES) for _ in range(CASES)] for label in labels}
    scores: dict[str, list[np.ndarray]] = {label: [] for label in labels}
    for label, noise in zip(labels, (0.06, 0.1), strict=True):
        for truth in truths[label]:
            for _ in range(rng.integers(0, 3)):
                start = int(rng.integers(0, FRAMES - 60))
                truth[start : start + int(rng.integers(20, 60))] = 1.0
            wobble = np.convolve(rng.normal(0.0, 1.0, FRAMES + 24), np.ones(25) / 5.0, "valid")
            scores[label].append(np.clip(0.5 + 0.35 * (truth - 0.5) + noise * wobble, 0.0, 1.0))
    full = np.ones(FRAMES, bool)
    curves = {label: psds_curve(timeline(scores[label], truths[label], [full] * CASES), label) for label in labels}
    edges = np.arange(FRAMES + 1) * FRAME_S
    frames, truth_events, lengths = {}, {}, {}
    for case in range(CASES):
        name = f"case-{case}"
        columns = {label: scores[label][case] for label in labels}
        frames[name] = pandas.DataFrame({"onset": edges[:-1], "offset": edges[1:], **columns})
        truth_events[name] = [
            (float(start) * FRAME_S, float(stop) * FRAME_S, label)
            for label in labels
            for start, stop in runs(truths[label][case] > 0.5)
        ]
        lengths[name] = FRAMES * FRAME_S
    expected, *_ = peer.intersection_based.psds(
        frames, truth_events, lengths, dtc_threshold=events.DTC, gtc_threshold=events.GTC, cttc_threshold=None,
        alpha_ct=0.0, alpha_st=events.SPREAD_WEIGHT, unit_of_time="hour", max_efpr=events.MAX_FALSE_PER_HOUR,
    )  # fmt: skip
    found = psds(curves)
    assert found is not None
    assert 0.05 < expected < 0.95
    assert found == pytest.approx(expected, abs=0.02)
