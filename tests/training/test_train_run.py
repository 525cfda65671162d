"""A short run on a synthetic corpus learns, stops, and resumes to the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from made_corpus import RUN_CONFIG, SMALL_NET, write_corpus

import training.train
from training.config import ConfigError, DataConfig, TrainConfig
from training.corpora.manifest import manifest_sha256
from training.examples import MixtureExamples, clip_samples, load_pool
from training.material import VALID_SEED_OFFSET, make_checks
from training.model import FIRST_LABELS, Detector
from training.train import followed, predict, train

pytestmark = pytest.mark.slow


def checkpoint(run: Path, name: str = "last.pt") -> dict[str, Any]:
    document: dict[str, Any] = torch.load(run / name, weights_only=True)
    return document


def stopped_run(corpus: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped after its first step was saved."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.train, "_log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(RUN_CONFIG, corpus, out)


def test_a_run_saves_weights_configuration_and_where_they_come_from(run: Path, corpus: Path) -> None:
    document = checkpoint(run)
    assert document["progress"]["step"] == 3
    assert TrainConfig.model_validate(document["config"]) == RUN_CONFIG
    assert document["manifest_sha256"] == manifest_sha256(corpus)
    assert {entry["kind"] for entry in document["data"]} == {"speech", "noise", "music", "rir"}
    assert len((run / "log.csv").read_text(encoding="utf-8").splitlines()) == 4
    assert not list(run.glob("*.partial"))


def test_a_run_changes_the_weights_and_keeps_a_mean_of_them(run: Path) -> None:
    document = checkpoint(run)
    torch.manual_seed(RUN_CONFIG.seed)
    start = Detector(RUN_CONFIG.model).state_dict()
    assert not document["net"]["gru.weight_hh_l0"].equal(start["gru.weight_hh_l0"])
    assert not document["ema"]["gru.weight_hh_l0"].equal(document["net"]["gru.weight_hh_l0"])
    assert (document["net"]["spread"] >= 1e-2).all()


def test_a_stopped_run_resumes_to_the_weights_of_an_unbroken_one(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_run(corpus, tmp_path / "run", monkeypatch)
    assert checkpoint(tmp_path / "run")["progress"]["step"] == 1
    train(RUN_CONFIG, corpus, tmp_path / "run")
    assert "at step 1" in capsys.readouterr().out
    resumed, whole = checkpoint(tmp_path / "run"), checkpoint(run)
    assert resumed["progress"]["step"] == 3
    for part in ("net", "ema"):
        for name, value in whole[part].items():
            assert value.equal(resumed[part][name]), f"{part} {name}"


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-4}, {"seed": 4}, {"model": SMALL_NET.model_copy(update={"head_size": 9})}]
)
def test_a_run_resumes_only_with_its_own_configuration(
    run: Path, corpus: Path, tmp_path: Path, change: Mapping[str, Any]
) -> None:
    (tmp_path / "last.pt").write_bytes((run / "last.pt").read_bytes())
    with pytest.raises(ConfigError, match="made with a different config: choose another --out"):
        train(RUN_CONFIG.model_copy(update=dict(change)), corpus, tmp_path)


def test_a_run_resumes_only_with_its_own_material(run: Path, corpus: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "corpus")
    manifest = other / "manifest.csv"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("CC0", "CC-BY-4.0"), encoding="utf-8")
    (tmp_path / "last.pt").write_bytes((run / "last.pt").read_bytes())
    with pytest.raises(ConfigError, match="made with a different manifest_sha256"):
        train(RUN_CONFIG, other, tmp_path)


def test_the_command_line_trains_and_says_what_it_reached(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "made.yaml"
    config.write_text(json.dumps(RUN_CONFIG.model_copy(update={"steps": 1}).model_dump(mode="json")), encoding="utf-8")
    assert training.train.main([str(config), "--data", str(corpus), "--out", str(tmp_path / "run")]) == 0
    assert "best: " in capsys.readouterr().out
    assert training.train.main([str(config), "--data", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "expected a manifest" in capsys.readouterr().err


def test_a_run_can_start_from_another_and_says_so(run: Path, corpus: Path, tmp_path: Path) -> None:
    again = RUN_CONFIG.model_copy(update={"seed": 9, "learning_rate": 1e-12, "steps": 1})
    train(again, corpus, tmp_path / "second", start=run)
    first, second = checkpoint(run, "best.pt"), checkpoint(tmp_path / "second")
    assert second["start"]["steps"] == first["progress"]["step"]
    assert second["start"]["config"] == first["config"]
    for name in ("gru.weight_hh_l0", "mean", "spread"):  # with almost no learning rate, copied
        torch.testing.assert_close(second["net"][name], first["ema"][name], atol=1e-6, rtol=0)


def test_a_start_that_does_not_fit_is_refused(run: Path, corpus: Path, tmp_path: Path) -> None:
    narrower = RUN_CONFIG.model_copy(update={"model": SMALL_NET.model_copy(update={"hidden_size": 5})})
    with pytest.raises(ConfigError, match="a different shape"):
        train(narrower, corpus, tmp_path / "a", start=run)
    with pytest.raises(ConfigError, match="train it first"):
        train(RUN_CONFIG, corpus, tmp_path / "b", start=tmp_path / "nowhere")


def test_a_run_of_the_first_version_starts_one_with_opinion_scores(run: Path, corpus: Path, tmp_path: Path) -> None:
    """The first version's image layer was linear over flattened maps, and it had no opinion scores."""
    first = checkpoint(run, "best.pt")
    image = first["ema"]["image.weight"]
    first["ema"]["image.weight"] = image.flatten(1)
    (tmp_path / "first").mkdir()
    torch.save(first, tmp_path / "first" / "best.pt")
    model = SMALL_NET.model_copy(update={"labels": (*SMALL_NET.labels, "sig", "bak", "ovrl")})
    again = RUN_CONFIG.model_copy(update={"learning_rate": 1e-12, "steps": 1, "model": model})
    train(again, corpus, tmp_path / "second", start=tmp_path / "first")
    second = checkpoint(tmp_path / "second")["net"]
    torch.testing.assert_close(second["image.weight"], image, atol=1e-6, rtol=0)
    assert second["low"].tolist()[-3:] == [1.0, 1.0, 1.0]
    assert second["calibration"].shape[1] == len(model.labels)


def test_some_clips_begin_where_others_ended() -> None:
    left = torch.arange(1.0, 9.0).reshape(8, 1)
    begins = followed(left, 4000, 0.5, np.random.default_rng(0))
    assert begins is not None
    fresh = begins.eq(0.0).float().mean()
    assert 0.45 < fresh < 0.55
    assert set(begins.flatten().tolist()) == {0.0, *left.flatten().tolist()}
    assert left.flatten().tolist() == list(range(1, 9))
    assert followed(None, 4, 0.5, np.random.default_rng(0)) is None
    assert followed(left, 4, 0.0, np.random.default_rng(0)) is None


def test_half_of_what_is_predicted_follows_when_asked() -> None:
    torch.manual_seed(0)
    net = Detector(SMALL_NET)
    features = torch.randn(4, 20, net.spec.columns)
    # Half of them per batch in both cases, because a batch of another size may sum in a different order.
    alone, after = predict(net, features, 2), predict(net, features, follow=True)
    ahead = SMALL_NET.lookahead_frames
    assert after[:2].equal(alone[:2])
    whole = net(torch.cat([features[:2], features[2:]], dim=1))[:, 10 + ahead :]
    torch.testing.assert_close(after[2:], whole)
    assert not after[2:].allclose(alone[2:])


def test_a_run_with_followed_clips_resumes_where_it_was(corpus: Path, tmp_path: Path) -> None:
    config = RUN_CONFIG.model_copy(update={"followed_share": 0.5, "steps": 2})
    train(config, corpus, tmp_path / "run")
    stored = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert stored["left"].shape == (config.batch_size, Detector(config.model).state_size)
    fresh = RUN_CONFIG.model_copy(update={"steps": 2})
    train(fresh, corpus, tmp_path / "fresh")
    other = torch.load(tmp_path / "fresh" / "last.pt", weights_only=True)
    assert any(not stored["net"][name].equal(value) for name, value in other["net"].items())


def test_validation_hears_mixtures_of_its_own_seed_and_as_many_of_each_kind_as_asked(corpus: Path) -> None:
    data = DataConfig(clip_seconds=2.0, valid_mixtures=3, valid_clean=4, valid_noise=2)
    checks = make_checks(corpus, data, FIRST_LABELS, seed=3)
    pool, _, _ = load_pool(corpus, data, "valid")
    same = MixtureExamples(pool, FIRST_LABELS, clip_samples(data), 3 + VALID_SEED_OFFSET)
    for index in range(3):
        features, target, mask = same[index]
        np.testing.assert_array_equal(checks.mixed.features[index], features)
        np.testing.assert_array_equal(checks.mixed.target[index], target)
        np.testing.assert_array_equal(checks.mixed.mask[index], mask > 0)
    assert [len(material.features) for material in checks.clean] == [2, 2]
    assert checks.noise is not None
    assert len(checks.noise.features) == 2
    assert checks.mos is None
    without = make_checks(corpus, DataConfig(clip_seconds=2.0, valid_mixtures=1), FIRST_LABELS, seed=3)
    assert without.clean == ()
    assert without.noise is None


def test_a_run_can_start_from_a_model_file(model: Path, run: Path, corpus: Path, tmp_path: Path) -> None:
    again = RUN_CONFIG.model_copy(update={"learning_rate": 1e-12, "steps": 1})
    train(again, corpus, tmp_path / "second", start=model)
    first, second = checkpoint(run, "best.pt"), checkpoint(tmp_path / "second")
    assert second["start"]["config"] == first["config"]
    assert second["start"]["steps"] == first["progress"]["step"]
    for name in ("gru.weight_hh_l0", "mean", "spread"):
        torch.testing.assert_close(second["net"][name], first["ema"][name], atol=1e-5, rtol=0)
    assert not second["net"]["norm1.running_var"].equal(torch.ones(SMALL_NET.channels[0]))
