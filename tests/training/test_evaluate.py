"""Known scores give known figures, and each material contains what its name says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from made_corpus import RATE_HZ, made_pool, rush, talk

from speech_qc.audio.features import FrontEnd, frame_levels_dbfs
from speech_qc.contract import FeatureSpec, ModelContract
from speech_qc.engine import echo_contract
from training import baseline, card
from training.aims import aims_markdown
from training.calibrate import calibrate
from training.evaluate import evaluate, main
from training.evaluation.models import model_scorer, onnx_session
from training.material import CLEAN_TELEPHONE, CLEAN_WIDE, MIXED, NOISE_ALONE, Condition, Material, make_material
from training.metrics import calibration_error
from training.mixing.plan import MixOdds, Pool
from training.model import FIRST_LABELS, Detector
from training.report import figures_markdown
from training.train import predict

SAMPLES = 2 * RATE_HZ
CONTRACT = echo_contract()


@pytest.fixture(scope="module")
def pool() -> Pool:
    return made_pool()


@pytest.fixture(scope="module")
def mixed(pool: Pool) -> Material:
    return make_material(pool, FIRST_LABELS, SAMPLES, 5, 40, MIXED)


def column(name: str) -> int:
    return CONTRACT.index(name)


def features_of(*sounds: np.ndarray) -> np.ndarray:
    front = FrontEnd()
    return front(np.stack([np.concatenate([s, s[: front.spec.overlap_samples]]) for s in sounds]))


def test_materials_hold_what_their_names_say(pool: Pool) -> None:
    for condition in (CLEAN_WIDE, CLEAN_TELEPHONE):
        clean = make_material(pool, FIRST_LABELS, SAMPLES, 5, 12, condition)
        for label in ("noise", "interference", "clipping", "dropout"):
            assert not clean.target[..., column(label)].any(), label
            assert clean.mask[..., column(label)].all(), label
        assert clean.target[..., column("speech")].any()
        high = np.median(clean.features[..., 55:64].max(axis=(1, 2)))  # mel bands above 4.9 kHz, ln of their power
        assert high < -18.0 if condition is CLEAN_TELEPHONE else high > -16.0
    alone = make_material(pool, FIRST_LABELS, SAMPLES, 5, 6, NOISE_ALONE)
    assert not alone.target[..., column("speech")].any()
    assert alone.target[..., column("noise")].any(axis=1).all()
    assert not alone.mask[..., column("snr_db")].any()


def test_a_material_has_one_shape(mixed: Material) -> None:
    assert mixed.features.shape == (40, SAMPLES // 160, FeatureSpec().columns)
    assert mixed.target.shape == mixed.mask.shape == (40, SAMPLES // 320, len(FIRST_LABELS))
    assert mixed.seconds == pytest.approx(80.0)


def test_the_baseline_reads_levels_from_features() -> None:
    spec = FeatureSpec()
    sounds = [talk(2.0, 150.0), 0.02 * talk(2.0, 110.0), rush(2.0, 1, 0.05)]
    np.testing.assert_allclose(
        np.maximum(baseline.frame_level_db(features_of(*sounds), spec), -80.0),  # below, the logarithm is clipped
        np.maximum(np.stack([frame_levels_dbfs(sound, spec) for sound in sounds]), -80.0),
        atol=0.1,
    )


def test_a_condition_that_never_comes_is_an_error_and_not_a_hang(pool: Pool) -> None:
    never = Condition("nothing", MixOdds(), False, lambda _plan: False)
    with pytest.raises(ValueError, match="expected 1 mixtures of 'nothing', this pool gave 0"):
        make_material(pool, FIRST_LABELS, SAMPLES, 5, 1, never)


def test_the_energy_baseline_follows_level_floor_rails_and_zeros() -> None:
    speech, noise = talk(1.0, 150.0), rush(1.0, 1, 0.05)
    broken = speech.copy()
    broken[8000:8320] = 0.0
    features = features_of(speech, speech + noise, np.clip(speech * 4.0, -1.0, 1.0), broken)
    scores = baseline.energy_scores(features)
    clean, noisy, clipped, lost = range(4)
    assert scores["noise"][noisy, 30:].min() > scores["noise"][clean, 30:].max() + 20.0
    assert scores["clipping"][clipped].max() > 1.5 * scores["clipping"][clean].max()
    assert scores["dropout"][lost, 25] == 1.0
    assert scores["dropout"][clean].max() < 0.1
    assert scores["snr_db"][clean, 30:].max() > scores["snr_db"][noisy, 30:].max() + 20.0
    assert "reverberation" not in scores


def test_the_baseline_knows_no_future() -> None:
    features = features_of(talk(1.0, 150.0))
    changed = features.copy()
    changed[:, 60:] += 3.0
    before, after = baseline.energy_scores(features), baseline.energy_scores(changed)
    for label, score in before.items():
        np.testing.assert_array_equal(score[:, :30], after[label][:, :30])


def test_calibration_makes_scores_probabilities_and_says_what_it_could_not(mixed: Material) -> None:
    torch.manual_seed(0)
    net = Detector()

    def errors() -> dict[str, float]:
        scores = net.scores(predict(net, torch.from_numpy(mixed.features))).detach().numpy()
        found = {}
        for column, name in enumerate(mixed.labels):
            if name != "snr_db":
                counted = mixed.mask[:, : scores.shape[1], column]
                truth = mixed.target[:, : scores.shape[1], column][counted]
                found[name] = calibration_error(scores[..., column][counted], truth)
        return found

    before = errors()
    enter, remarks = calibrate(net, mixed)
    after = errors()
    left = {remark.split(":")[0] for remark in remarks if "does not lower the loss" in remark}
    assert len(left) < len(before) / 2  # an untrained net ranks some labels backwards
    assert all(error == before[name] for name, error in after.items() if name in left)
    fitted = [name for name in after if name not in left]
    assert np.mean([after[name] for name in fitted]) < 0.1
    assert sum(after[name] for name in fitted) < 0.5 * sum(before[name] for name in fitted)
    assert set(enter) == {label for label in FIRST_LABELS if label != "snr_db"}
    assert all(0.3 <= value <= 0.95 for value in enter.values())
    one_class = replace(mixed, target=mixed.target.copy())
    one_class.target[..., FIRST_LABELS.index("music")] = 0.0
    _, remarks = calibrate(Detector(), one_class)
    assert any(remark.startswith("music: the calibration mixtures contain only one class") for remark in remarks)


@pytest.mark.slow
def test_the_figures_in_a_model_file_are_measured_again_the_same(model: Path, corpus: Path) -> None:
    contract = ModelContract.model_validate_json(
        onnx_session(model.read_bytes()).get_modelmeta().custom_metadata_map["speechqc"]
    )
    figures = evaluate(model_scorer(model), corpus, mixtures=8)
    assert figures == contract.metrics
    text = figures_markdown(figures)
    assert "| `noise` |" in text
    for new in ("| `disturbance` |", "| hum, 10 dB | 2 | 114 |", "… steady noise alone", "noise events per hour"):
        assert new in text
    assert "events of" in text
    assert "curve" not in json.dumps(figures)


@pytest.mark.slow
def test_a_missing_model_or_manifest_is_an_error_with_a_way_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path), "--model", str(tmp_path / "none.onnx")]) == 2
    assert "expected an ONNX file at" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "--model", str(model)]) == 2
    assert "expected a manifest at" in capsys.readouterr().err


@pytest.mark.slow
def test_the_card_keeps_the_prose_and_renews_the_figures(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Prose above\n\n{card.BEGIN}\nold\n{card.END}\n\nProse below\n", encoding="utf-8")
    assert card.main([str(model), "--card", str(path)]) == 0
    first = path.read_text(encoding="utf-8")
    assert first.startswith(f"# Prose above\n\n{card.BEGIN}\n\n")
    assert first.endswith(f"{card.END}\n\nProse below\n")
    assert "old" not in first.split(card.END)[0].split("\n")
    for what in ("speech-qc-made", "CC0", "| `clipping` | impairment |", "AUROC"):
        assert what in first
    assert card.main([str(model), "--card", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == first


def test_the_shipped_card_is_that_of_the_shipped_model_even_where_figures_are_new(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "models" / "speech-qc-base.onnx"
    path = tmp_path / "README.md"
    path.write_text(f"{card.BEGIN}\n{card.END}\n", encoding="utf-8")
    card.write_card(shipped, path)
    made = path.read_text(encoding="utf-8").split(card.BEGIN)[1].split(card.END)[0]
    assert made in shipped.with_name("README.md").read_text(encoding="utf-8")
    figures = json.loads(json.dumps(model_scorer(shipped).contract.metrics))
    for new in ("steady", "clean_recordings", "opinion"):
        figures.pop(new, None)
    figures["snr_db"].pop("steady_noise", None)
    assert "a minute of speech with" not in figures_markdown(figures)
    assert "| steady source under a minute of speech: seconds found | ≥ 97.0 % | – |" in aims_markdown(figures)


@pytest.mark.slow
def test_a_card_without_markers_is_left_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Only prose\n", encoding="utf-8")
    assert card.main([str(model), "--card", str(path)]) == 2
    assert "add these markers where the figures belong" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "# Only prose\n"
    assert card.main([str(path), "--card", str(path)]) == 2
    assert "expected an ONNX file" in capsys.readouterr().err
