"""The shipped model passes the limits in `models/gate.json` on the frozen set."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from training.evaluation.contenders import Contender, Judgement, model_contender
from training.evaluation.gate import GATE_PATH, failures, fingerprint, gate_figures
from training.evaluation.models import model_scorer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shipped(model_path) -> Contender:
    scorer = model_scorer(model_path)
    return model_contender(scorer.contract, scorer.score)


@pytest.fixture(scope="module")
def gate() -> dict:
    return json.loads(GATE_PATH.read_text(encoding="utf-8"))


def test_the_frozen_set_is_the_one_that_the_floors_were_measured_on(gate):
    np.testing.assert_allclose(fingerprint(), gate["fingerprint"], atol=0.011)


def test_the_shipped_model_passes_every_floor(shipped, gate):
    assert not failures(gate_figures(shipped), gate["limits"])


def test_a_model_that_hears_half_as_well_does_not_pass(shipped, gate):
    """The gate can fail: the same model with noisy scores misses most limits."""
    rng = np.random.default_rng(0)

    def blur(judgement: Judgement) -> Judgement:
        frames = {
            name: scores + rng.normal(0.0, 20.0, len(scores))
            if name == "snr_db"
            else np.clip(scores + rng.normal(0.0, 0.4, len(scores)), 0.0, 1.0)
            for name, scores in judgement.frames.items()
        }
        return Judgement({name: scores.astype(np.float32) for name, scores in frames.items()}, judgement.whole)

    dull = replace(shipped, contract=None, judge=lambda cases: [blur(j) for j in shipped.judge(cases)])
    missed = failures(gate_figures(dull), gate["limits"])
    assert len(missed) > len(gate["limits"]) / 2
