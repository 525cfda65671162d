"""Known facts about a clip correct the teachers where they are known to be wrong, and only there."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from made_corpus import SMALL_NET, made_pool

from training.config import ConfigError, DataConfig
from training.model import FIRST_LABELS, Detector
from training.mos import MOS_LABELS, STRATA, MosClips, draw_clip, make, write
from training.mos_targets import ANCHORS, BAK_COLUMN, BEST_SCORES, DISTILLMOS_COLUMN, Anchors, main, measure, targets_of
from training.train import loss_of

LABELS = (*FIRST_LABELS, *MOS_LABELS)
CLEAN = {
    "snr_db": 45.0,
    "clipped": 0.0,
    "lost": 0.0,
    "c50_db": 30.0,
    "narrow": 0.0,
    "low_rate": 0.0,
    "mnru_q_db": 60.0,
    "suppressed": 0.0,
}
USUAL = Anchors(mean=(3.0, 3.0), spread=(1.0, 1.0), clean=(0.5, 1.5, 4.0), worst=(-1.0, -2.0, 1.5))


def rated(bak: float = 4.0, quality: float = 4.0, /, **changes: float) -> np.ndarray:
    """Return the targets of a clip by its scores from DNSMOS (only BAK counts) and DistillMOS."""
    facts = {name: np.array([value]) for name, value in (CLEAN | changes).items()}
    result: np.ndarray = targets_of(facts, np.array([[1.0, bak, 1.0, quality]]), USUAL)[0]
    return result


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write(tmp_path, "train", made_pool(), DataConfig(clip_seconds=3.0), FIRST_LABELS, 5)
    np.save(tmp_path / "train.scores.npy", np.full((3, 4), 3.0, np.float32))
    return tmp_path


def test_clean_speech_that_the_teachers_rate_low_is_lifted() -> None:
    sig, bak, ovrl = rated(2.0, 2.5)
    assert sig >= 4.0
    assert bak >= 4.0
    assert ovrl >= 4.0
    assert (rated(2.0, 2.5, low_rate=1.0) < (sig, 5.0, ovrl)).all()  # a codec is heard


@pytest.mark.parametrize(
    "damage",
    [{"snr_db": 30.0}, {"clipped": 0.1}, {"lost": 0.1}, {"c50_db": 5.0}, {"mnru_q_db": 15.0}, {"suppressed": 1.0}],
)
def test_damaged_speech_is_not_lifted(damage: dict[str, float]) -> None:
    assert rated(2.0, 2.5, **damage)[2] < 3.0


def test_background_score_falls_with_the_exact_ratio_whatever_the_teachers_say() -> None:
    scores = [rated(snr_db=snr)[1] for snr in (33.0, 25.0, 15.0, 5.0, -5.0)]
    assert all(high - low > 0.1 for high, low in pairwise(scores))


def test_each_score_follows_the_teacher_that_hears_it() -> None:
    low = rated(2.5, 2.5, snr_db=15.0)
    assert (rated(2.5, 3.0, snr_db=15.0) > low).all()  # DistillMOS raises all three
    sig, bak, _ = rated(3.0, 2.5, snr_db=15.0)
    assert sig < low[0]  # the same overall quality over less background noise: the speech itself is worse
    assert bak > low[1]


def test_overall_score_is_the_linear_function_of_the_two_others() -> None:
    rng = np.random.default_rng(1)
    facts = {name: np.full(200, value) for name, value in CLEAN.items()} | {"snr_db": rng.uniform(0.0, 30.0, 200)}
    scores = targets_of(facts, rng.uniform(2.2, 3.8, (200, 4)), USUAL)
    inside = ((scores > 1.0) & (scores < BEST_SCORES)).all(axis=1)
    assert inside.mean() > 0.8
    np.testing.assert_allclose(scores[inside, 2], 0.6 * scores[inside, 0] + 0.48 * scores[inside, 1] - 0.6, atol=1e-9)


def test_anchors_are_clean_speech_and_the_worst_clips() -> None:
    quality = np.linspace(1.2, 4.4, 300)
    teacher = np.stack([quality, quality, quality, quality], axis=1)
    facts = {name: np.full(300, value) for name, value in CLEAN.items()}
    facts["snr_db"] = np.where(np.arange(300) >= 280, 45.0, 10.0)
    anchors = measure(facts, teacher)
    assert anchors.clean[2] == pytest.approx(quality[280:].mean(), abs=0.01)
    assert anchors.worst[2] == pytest.approx(np.quantile(quality, 0.02), abs=0.01)
    facts["snr_db"][:] = 10.0
    with pytest.raises(ValueError, match="clean wide-band"):
        measure(facts, teacher)


def test_shipped_anchors_rate_clean_speech_as_listeners_do() -> None:
    teacher = np.zeros((2, 4))
    columns = [BAK_COLUMN, DISTILLMOS_COLUMN]
    # Teachers' scores with the median combined score of clean speech, and of the worst clips.
    for row, (sig, bak) in enumerate((ANCHORS.clean[:2], ANCHORS.worst[:2])):
        scaled = np.array([(bak - 0.5 * sig) / 1.25, (sig + 0.4 * (bak - 0.5 * sig))])
        teacher[row, columns] = np.array(ANCHORS.mean) + scaled * np.array(ANCHORS.spread)
    facts = {name: np.full(2, value) for name, value in CLEAN.items()} | {"snr_db": np.array([45.0, -10.0])}
    clean, worst = targets_of(facts, teacher)
    assert ((clean > 4.0) & (clean < 4.8)).all()
    assert (worst[1:] < 1.6).all()


def test_the_anchors_of_rated_clips_are_printed_with_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "valid", made_pool(), DataConfig(clip_seconds=3.0), FIRST_LABELS, 20)
    scores = np.random.default_rng(1).uniform(1.5, 4.5, (16, 4)).astype(np.float32)
    np.save(tmp_path / "valid.scores.npy", scores)  # the teachers are not done
    assert main([str(tmp_path), "--split", "valid"]) == 0
    out = capsys.readouterr().out
    means = scores[:, [BAK_COLUMN, DISTILLMOS_COLUMN]].mean(axis=0)
    assert f"ANCHORS = Anchors(mean=({means[0]:.3f}"[:-1] in out
    rows = [line.split("|")[1:3] for line in out.splitlines() if line.startswith("|")][2:]
    assert {name.strip() for name, _ in rows} <= set(STRATA)
    assert sum(int(count) for _, count in rows) == 16
    assert main([str(tmp_path), "--split", "train"]) == 2
    assert "train.scores.npy" in capsys.readouterr().err


def test_clips_are_made_with_enough_speech_and_what_is_known_of_them() -> None:
    clips = make(made_pool(), 48_000, 1, 4)
    assert clips.samples.shape == (4, 48_000)
    assert len(clips.strata) == len(clips.facts) == len(clips.mixtures) == 4
    assert all(-15.0 <= fact.snr_db <= 60.0 for fact in clips.facts)


def test_each_stratum_has_its_damage_and_no_other() -> None:
    pool, drawn = made_pool(), defaultdict(list)
    for seed in range(600):
        stratum, plan = draw_clip(np.random.default_rng([9, seed]), pool, 48_000)
        drawn[stratum].append(plan)
    assert set(drawn) == set(STRATA)
    for stratum, share in STRATA.items():
        assert len(drawn[stratum]) / 600 == pytest.approx(share, abs=0.06), stratum
    faults = {"mnru": "mnru_q_db", "suppressor": "suppressor_db", "loss": "loss_ratio", "overload": "clip_share"}
    for stratum in set(STRATA) - {"mixed"}:
        for plan in drawn[stratum]:
            present = {name for name, field in faults.items() if getattr(plan.channel, field) is not None}
            assert present == {stratum} & set(faults)
            assert (plan.room is not None) == (stratum == "room")
            assert all(-40.0 <= source.level_db <= 5.0 for source in plan.sources)
    assert not any(plan.sources for plan in drawn["clean"])
    assert all(plan.sources for plan in drawn["noise"])
    assert any(plan.channel.narrow for plan in drawn["clean"])


def test_making_clips_again_removes_the_scores_of_earlier_ones(clips: Path) -> None:
    write(clips, "train", made_pool(), DataConfig(clip_seconds=3.0), FIRST_LABELS, 3)
    assert not (clips / "train.scores.npy").exists()


def test_scores_of_another_teacher_are_refused(clips: Path) -> None:
    np.save(clips / "train.scores.npy", np.full((5, 3), 3.0, np.float32))
    with pytest.raises(ConfigError, match=r"expected 4 scores .* got \(5, 3\)"):
        MosClips(clips, "train", LABELS)


def test_clips_carry_opinions_over_speech_and_every_other_target(clips: Path) -> None:
    mos = MosClips(clips, "train", LABELS)
    assert len(mos) == 3  # the teacher has rated only these
    features, value, mask = mos.take(0, 2)
    assert len(features) == 2
    column = LABELS.index("sig")
    assert mask[..., column].sum() > 0
    assert (value[..., column] >= 1.0).all()
    assert mask[..., LABELS.index("speech")].sum() > 0
    np.save(clips / "train.scores.npy", np.full((5, 4), 3.0, np.float32))
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
