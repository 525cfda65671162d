"""An exported file matches PyTorch and its contract, or it is not created."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch")

import onnx
import torch
from made_corpus import RUN_CONFIG, SMALL_NET

import training.export
from speech_qc.audio.features import FrontEnd
from speech_qc.contract import LABEL_CATALOG, METADATA_KEY, ModelContract
from speech_qc.engine import OnnxRunner, echo_contract
from training.calibrate import (
    ENTER_HIGH,
    ENTER_LOW,
    FALSE_EVENTS_PER_HOUR,
    _event_f1,
    fit_measure,
    label_specs,
    quiet_thresholds,
)
from training.corpora.manifest import manifest_sha256
from training.evaluation.models import read_run
from training.event_rules import EVENT_RULES, exit_of, timeline
from training.export import ExportError, export, export_graph, golden_path, main, verify
from training.material import Material
from training.model import Detector, Fusion

pytestmark = pytest.mark.slow


def calibrated_net(run: Path, contract: ModelContract) -> Detector:
    """Return the run's net with the calibration declared in the file."""
    net, _ = read_run(run)
    for row, name in enumerate(("scale", "shift")):
        values = contract.training["calibration"][name]
        net.calibration[row] = torch.tensor([values[label] for label in contract.label_names])
    return net


def bytes_of(net: Detector, **changes: object) -> bytes:
    """Return the bytes of a net's model file."""
    contract = echo_contract().model_copy(
        update={"labels": label_specs(net.config), "state_size": net.state_size} | changes
    )
    graph = export_graph(net)
    onnx.helper.set_model_props(graph, {METADATA_KEY: contract.model_dump_json()})
    content: bytes = graph.SerializeToString()
    return content


def test_the_service_loads_the_file_and_gets_the_scores_of_pytorch(model: Path, run: Path) -> None:
    runner = OnnxRunner(model, "cpu")
    contract = runner.contract
    net = calibrated_net(run, contract)
    rng = np.random.default_rng(0)
    for batch, hops in ((1, 2), (3, 20), (7, 6)):
        features = rng.normal(-5.0, 2.0, (batch, hops, contract.features.columns)).astype(np.float32)
        state = rng.normal(0.0, 0.3, (batch, contract.state_size)).astype(np.float32)
        scores, new_state = runner.run(features, state)
        with torch.no_grad():
            logits, expected_state = net.forward_chunk(torch.from_numpy(features), torch.from_numpy(state))
        np.testing.assert_allclose(scores, net.scores(logits).numpy(), atol=1e-4)
        np.testing.assert_allclose(new_state, expected_state.numpy(), atol=1e-4)


def test_the_file_declares_where_it_comes_from(model: Path, corpus: Path) -> None:
    contract = OnnxRunner(model, "cpu").contract
    assert contract.name == "speech-qc-made"
    assert contract.lookahead_frames == SMALL_NET.lookahead_frames
    assert contract.training["config"] == RUN_CONFIG.model_dump(mode="json")
    assert contract.training["manifest_sha256"] == manifest_sha256(corpus)
    assert contract.training["parameters"] == Detector(SMALL_NET).parameter_count()
    assert {"commit", "seed", "steps", "minutes", "mmacs_per_s"} <= set(contract.training)
    assert all({"source", "licence", "hours"} <= set(entry) for entry in contract.data)
    assert contract.metrics["material"]["mixtures"] == 8
    assert set(contract.metrics["labels"]) == {*EVENT_RULES, "disturbance"}
    assert contract.metrics["material"]["seed"] != contract.training["calibration"]["seed"]


def test_every_probability_has_thresholds_within_their_bounds(model: Path) -> None:
    for label in OnnxRunner(model, "cpu").contract.labels:
        if label.kind == "probability":
            assert label.enter is not None
            assert ENTER_LOW <= label.enter <= ENTER_HIGH
            assert label.exit == pytest.approx(exit_of(label.name, label.enter), abs=1e-3)
            assert label.min_duration_s == EVENT_RULES[label.name].min_duration_s
        else:
            assert label.enter is None


def test_every_probability_label_has_an_event_rule() -> None:
    assert set(EVENT_RULES) == {name for name, (_, kind) in LABEL_CATALOG.items() if kind == "probability"}


def test_the_file_carries_one_document_and_its_weights(model: Path) -> None:
    graph = onnx.load(model, load_external_data=False)
    assert [entry.key for entry in graph.metadata_props] == [METADATA_KEY]
    assert [entry.version for entry in graph.opset_import] == [training.export.OPSET]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in graph.graph.initializer)


def test_golden_vectors_are_small_and_repeat(model: Path) -> None:
    path = golden_path(model)
    assert path.stat().st_size < 200_000
    runner = OnnxRunner(model, "cpu")
    with np.load(path) as golden:
        scores, new_state = runner.run(golden["features"], golden["state"])
        np.testing.assert_allclose(scores, golden["scores"], atol=1e-4)
        np.testing.assert_allclose(new_state, golden["new_state"], atol=1e-4)
        assert golden["state"].any()
        np.testing.assert_allclose(FrontEnd()(golden["samples"][None]), golden["features"], atol=1e-4)


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_every_fusion_can_be_exported_and_verified(fusion: Fusion) -> None:
    torch.manual_seed(1)
    net = Detector(SMALL_NET.model_copy(update={"fusion": fusion})).eval()
    assert 0.0 <= verify(bytes_of(net), net) <= training.export.PARITY_TOLERANCE


def test_a_graph_of_other_weights_is_found_out() -> None:
    net, other = Detector(SMALL_NET).eval(), Detector(SMALL_NET).eval()
    with pytest.raises(ExportError, match=r"between ONNX Runtime and PyTorch, found(.|\n)*\(B, T\) \(1, 2\)"):
        verify(bytes_of(other), net)


def test_a_graph_that_does_not_fit_its_contract_is_found_out() -> None:
    net = Detector(SMALL_NET).eval()
    with pytest.raises(ExportError, match="input 'state': expected shape"):
        verify(bytes_of(net, state_size=net.state_size + 1), net)
    with pytest.raises(ExportError, match="does not match its contract"):
        verify(export_graph(net).SerializeToString(), net)


def broken_tolerance(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training.export, "PARITY_TOLERANCE", -1.0)


def broken_disk(patch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    patch.setattr(np, "savez_compressed", full)


@pytest.mark.parametrize(("damage", "error"), [(broken_tolerance, ExportError), (broken_disk, OSError)])
def test_a_failed_export_leaves_no_file(
    run: Path,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[pytest.MonkeyPatch], None],
    error: type[Exception],
) -> None:
    damage(monkeypatch)
    with pytest.raises(error):
        export(run, corpus, tmp_path / "models" / "made.onnx", mixtures=4, evaluation_mixtures=4)
    assert not list(tmp_path.rglob("*.*"))


def test_a_failed_export_leaves_the_old_file_as_it_was(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made.onnx"
    out.write_bytes(b"the old model")
    broken_tolerance(monkeypatch)
    options = ["--mixtures", "4", "--evaluation-mixtures", "4"]
    assert main([str(run), "--data", str(corpus), "--out", str(out), *options]) == 2
    assert "between ONNX Runtime and PyTorch" in capsys.readouterr().err
    assert out.read_bytes() == b"the old model"
    assert [path.name for path in tmp_path.iterdir()] == ["made.onnx"]


def test_a_folder_without_a_checkpoint_is_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--data", str(corpus), "--out", str(tmp_path / "made.onnx")]) == 2
    assert "expected a checkpoint at" in capsys.readouterr().err
    (tmp_path / "best.pt").write_bytes(b"no checkpoint")
    assert main([str(tmp_path), "--data", str(corpus), "--out", str(tmp_path / "made.onnx")]) == 2
    assert "is not a checkpoint of training.train" in capsys.readouterr().err


def test_the_command_line_writes_model_golden_vectors_and_card(
    run: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, card = tmp_path / "made.onnx", tmp_path / "README.md"
    options = ["--mixtures", "4", "--evaluation-mixtures", "4", "--card", str(card)]
    assert main([str(run), "--data", str(corpus), "--out", str(out), *options]) == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "made.golden.npz", "made.onnx"]
    assert OnnxRunner(out, "cpu").sha256 in card.read_text(encoding="utf-8")


def test_a_measure_is_fitted_where_it_is_hard_as_much_as_where_it_is_easy() -> None:
    rng = np.random.default_rng(0)
    target = np.concatenate([np.full(9000, 40.0), rng.uniform(-10.0, 20.0, 1000)])
    logit = np.log((target + 15.0) / (45.0 - target)) * 0.5 + 0.7  # scaled and shifted
    scale, shift = fit_measure(logit, target, -15.0, 45.0)
    value = -15.0 + 60.0 / (1.0 + np.exp(-(logit * scale + shift)))
    assert np.abs(value - target)[9000:].mean() < 1.0
    assert np.abs(value - target)[:9000].mean() < 1.0
    assert fit_measure(logit[:9000], target[:9000], -15.0, 45.0) == (1.0, 0.0)


def test_thresholds_rise_until_clean_speech_is_quiet(run: Path) -> None:
    net, _ = read_run(run)
    frames, labels = 100, net.config.labels
    clean = Material(
        "clean",
        labels,
        np.zeros((2, 2 * frames + 2 * net.config.lookahead_frames, net.spec.columns), np.float32),
        np.zeros((2, frames, len(labels)), np.float32),
        np.zeros((2, frames, len(labels)), np.bool_),
        4.0,
    )
    column = labels.index("noise")
    with torch.no_grad():
        level = float(net.scores(net(torch.from_numpy(clean.features)))[..., column].max())
    net.calibration[1, column] = np.log(0.7 / 0.3) - np.log(level / (1.0 - level))  # about 0.7 in silence
    sure = np.repeat([[0.02, 0.98]], 50, axis=1)
    torn = np.concatenate([sure, np.repeat([[0.02, 0.6]], 50, axis=1)])
    enter = dict.fromkeys(EVENT_RULES, 0.5)
    judged = {name: timeline(sure, sure > 0.5, np.ones_like(sure, bool)) for name in EVENT_RULES}
    quiet, per_hour = quiet_thresholds(net, enter, judged, [clean])
    assert per_hour <= FALSE_EVENTS_PER_HOUR
    assert quiet["noise"] > 0.65
    assert quiet["speech"] == 0.5
    judged["noise"] = timeline(torn, torn > 0.5, np.ones_like(torn, bool))  # fewer false events would cost too much F1
    found, per_hour = quiet_thresholds(net, enter, judged, [clean])
    assert found["noise"] < 0.65
    assert per_hour > FALSE_EVENTS_PER_HOUR


def test_a_threshold_is_judged_by_its_events(run: Path) -> None:
    net, _ = read_run(run)
    labels = net.config.labels
    speech = Material(
        "clean",
        labels,
        np.zeros((1, 200 + 2 * net.config.lookahead_frames, net.spec.columns), np.float32),
        np.zeros((1, 100, len(labels)), np.float32),
        np.zeros((1, 100, len(labels)), np.bool_),
        2.0,
    )
    net.calibration[1, labels.index("noise")] = -50.0  # silence raises no event
    score = np.full((1, 200), 0.02)
    score[0, 50:150], score[0, 50] = 0.63, 0.85  # the frames between exit and enter belong to the event
    score[0, 180:190] = 0.82  # too short for an event of noise
    truth = np.zeros((1, 200), bool)
    truth[0, 50:150] = True
    judged = {"noise": timeline(score, truth, np.ones_like(truth))}
    chosen, _ = quiet_thresholds(net, {"noise": 0.8}, judged, [speech])
    assert chosen["noise"] == 0.8  # all of the event and nothing else: no higher threshold is better
    assert _event_f1("noise", judged["noise"], 0.8) == 1.0
    assert _event_f1("noise", judged["noise"], 0.92) == 0.0
