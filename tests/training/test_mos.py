"""Known facts about a clip correct the teacher where it is known to be wrong, and only there."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from made_corpus import SMALL_NET, made_pool

from training.config import ConfigError, DataConfig
from training.model import FIRST_LABELS, Detector
from training.mos import MOS_LABELS, MosClips, make, targets_of, write
from training.train import loss_of

LABELS = (*FIRST_LABELS, *MOS_LABELS)
CLEAN = {"snr_db": 45.0, "clipped": 0.0, "lost": 0.0, "c50_db": 30.0, "narrow": 0.0, "low_rate": 0.0}


def rated(teacher: tuple[float, float, float] = (3.2, 4.0, 3.0), /, **changes: float) -> np.ndarray:
    facts = {name: np.array([value]) for name, value in (CLEAN | changes).items()}
    result: np.ndarray = targets_of(facts, np.array([teacher]))[0]
    return result


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write(tmp_path, "train", made_pool(), DataConfig(clip_seconds=3.0), FIRST_LABELS, 5)
    np.save(tmp_path / "train.scores.npy", np.full((3, 3), 3.0, np.float32))
    return tmp_path


def test_clean_speech_that_the_teacher_rates_low_is_lifted() -> None:
    sig, bak, ovrl = rated()
    assert sig >= 4.0
    assert bak >= 4.2
    assert ovrl >= 4.0


def test_background_score_falls_with_the_exact_ratio_whatever_the_teacher_says() -> None:
    scores = [rated(snr_db=snr)[1] for snr in (40.0, 25.0, 15.0, 5.0, -5.0)]
    assert all(high - low > 0.1 for high, low in pairwise(scores))


@pytest.mark.parametrize(("fact", "value"), [("clipped", 0.3), ("lost", 0.1), ("c50_db", 0.0)])
def test_harm_to_the_speech_lowers_its_score_and_the_overall_one(fact: str, value: float) -> None:
    harmed = rated(**{fact: value})
    assert harmed[0] < rated()[0] - 0.3
    assert harmed[2] < rated()[2] - 0.3


def test_clips_are_made_with_enough_speech_and_what_is_known_of_them() -> None:
    samples, facts, mixtures = make(made_pool(), 48_000, 1, 4)
    assert samples.shape == (4, 48_000)
    assert len(facts) == len(mixtures) == 4
    assert all(-15.0 <= fact.snr_db <= 60.0 for fact in facts)


def test_clips_carry_opinions_over_speech_and_every_other_target(clips: Path) -> None:
    mos = MosClips(clips, "train", LABELS)
    assert len(mos) == 3  # the teacher has rated only these
    features, value, mask = mos.take(0, 2)
    assert len(features) == 2
    column = LABELS.index("sig")
    assert mask[..., column].sum() > 0
    assert (value[..., column] >= 1.0).all()
    assert mask[..., LABELS.index("speech")].sum() > 0
    np.save(clips / "train.scores.npy", np.full((5, 3), 3.0, np.float32))
    mos.refresh()
    assert len(mos) == 5


def test_clips_that_nobody_rated_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected rated clips"):
        MosClips(tmp_path, "train", LABELS)


def test_the_loss_of_an_opinion_is_that_of_the_clip_mean(clips: Path) -> None:
    net = Detector(SMALL_NET.model_copy(update={"labels": LABELS, "lookahead_frames": 0})).eval()
    features, value, mask = MosClips(clips, "train", LABELS).all()
    weights = torch.tensor([float(name == "bak") for name in LABELS])
    column = LABELS.index("bak")
    with torch.no_grad():
        scores = net.scores(net(features))[..., column]
        speaking = mask[..., column]
        mean = (scores * speaking).sum(1) / speaking.sum(1)
        value[..., column] = mean[:, None]
        assert loss_of(net, (features, value, mask), weights)[0] == pytest.approx(0.0, abs=1e-6)
        value[..., column] += 1.0
        assert loss_of(net, (features, value, mask), weights)[0] == pytest.approx(1.0 - 0.15, abs=1e-3)
