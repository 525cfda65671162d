"""A net starts from a run or a model file with the same scores, even if it is larger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import onnx
import torch
from made_corpus import RUN_CONFIG, SMALL_NET

from speech_qc.contract import METADATA_KEY
from training.calibrate import label_specs
from training.config import ConfigError, TrainConfig
from training.export import export_graph
from training.model import Detector, ModelConfig
from training.model_file import model_difference, read_model
from training.start import fitted, settle_norms, start_from

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "speech-qc-base.onnx"
OPINIONS = (*SMALL_NET.labels, "sig", "bak", "ovrl")


def random_net(config: ModelConfig, seed: int = 0) -> Detector:
    """Return a net all of whose weights, statistics and calibrations are random."""
    generator = torch.Generator().manual_seed(seed)
    net = Detector(config).eval()
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name in ("low", "high") or not value.dtype.is_floating_point:
                continue
            value.copy_(0.4 * torch.randn(value.shape, generator=generator))
            if name.endswith(("running_var", "spread")):
                value.copy_(value.abs() + 0.5)
    return net


def features_of(net: Detector, batch: int = 4, rows: int = 60) -> torch.Tensor:
    noise = torch.randn(batch, rows, net.spec.columns, generator=torch.Generator().manual_seed(1))
    return net.mean + net.spread * noise


@torch.no_grad()
def scores_of(net: Detector, features: torch.Tensor) -> torch.Tensor:
    return net.eval().scores(net(features))


def write_model(net: Detector, path: Path, **changes: Any) -> Path:
    """Write a model file as the export does, without measuring it."""
    from training.export import _contract

    rows = [dict(zip(net.config.labels, row, strict=True)) for row in net.calibration.tolist()]
    config = TrainConfig.model_validate(RUN_CONFIG.model_dump() | {"model": net.config})
    document = {
        "commit": "0" * 12,
        "config": config.model_dump(mode="json"),
        "manifest_sha256": "1" * 64,
        "progress": {"step": 3, "minutes": 0.1},
        "preprocessing": [],
        "data": [],
    }
    calibration = {"mixtures": 1, "seed": 1, "scale": rows[0], "shift": rows[1]}
    contract = _contract(net, document, config, label_specs(net.config), calibration)
    contract = contract.model_copy(update={"training": contract.training | changes})
    graph = export_graph(net)
    onnx.helper.set_model_props(graph, {METADATA_KEY: contract.model_dump_json()})
    path.write_bytes(graph.SerializeToString())
    return path


@pytest.mark.parametrize("fusion", ["early", "late", "none"])
def test_a_model_file_gives_back_the_net_it_was_made_from(fusion: str, tmp_path: Path) -> None:
    config = ModelConfig.model_validate(SMALL_NET.model_dump() | {"labels": OPINIONS, "fusion": fusion})
    net = random_net(config)
    path = write_model(net, tmp_path / "made.onnx")
    again, contract = read_model(path)
    torch.testing.assert_close(scores_of(again, features_of(net)), scores_of(net, features_of(net)), atol=1e-4, rtol=0)
    assert contract.training["steps"] == 3
    for name in ("mean", "spread", "calibration", "gru.weight_hh_l0", "gru.bias_ih_l0", "head.0.weight"):
        torch.testing.assert_close(again.state_dict()[name], net.state_dict()[name])


def test_the_shipped_model_is_read_into_the_net_it_came_from() -> None:
    net, contract = read_model(SHIPPED)
    assert net.config.labels == tuple(label.name for label in contract.labels)
    assert model_difference(SHIPPED.read_bytes(), net) <= 1e-4
    with torch.no_grad():
        net.state_dict()["gru.weight_hh_l0"][0] += 1.0
    assert model_difference(SHIPPED.read_bytes(), net) > 1e-4


def larger(config: ModelConfig, **changes: Any) -> ModelConfig:
    return config.model_copy(update=changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 11},
        {"image_size": 13},
        {"wave_size": 9},
        {"head_size": 8, "mos_size": 30},
        {"channels": (4, 6, 5)},
        {"channels": (3, 5, 7), "image_size": 9, "wave_size": 6, "hidden_size": 7, "head_size": 6, "mos_size": 25},
    ],
    ids=lambda changes: ",".join(changes),
)
def test_a_larger_net_gives_at_first_what_the_smaller_gave(changes: dict[str, Any]) -> None:
    config = larger(SMALL_NET, labels=OPINIONS)
    small, large = random_net(config), random_net(larger(config, **changes), seed=5)
    before = scores_of(large, features_of(small))
    state, new = fitted(small.state_dict(), small.config, large)
    large.load_state_dict(state)
    assert new == []
    expected = scores_of(small, features_of(small))
    assert (before - expected).abs().max() > 0.1
    torch.testing.assert_close(scores_of(large, features_of(small)), expected, atol=1e-5, rtol=1e-5)


def test_a_start_that_changes_the_scores_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wider layer shifts the inputs that follow it in a concatenation; copying by position alone is refused."""
    path = write_model(random_net(SMALL_NET), tmp_path / "made.onnx")
    wider = Detector(larger(SMALL_NET, image_size=13))
    assert "new" not in start_from(path, wider)
    monkeypatch.setattr(
        "training.start._blocks",
        lambda _name, value, own, *_: [[pair] for pair in zip(value.shape, own.shape, strict=True)],
    )
    with pytest.raises(ConfigError, match="expected the scores of the earlier net"):
        start_from(path, wider)


def test_the_new_units_of_a_larger_net_can_learn() -> None:
    small, large = random_net(SMALL_NET), Detector(larger(SMALL_NET, hidden_size=11))
    large.load_state_dict(fitted(small.state_dict(), small.config, large)[0])
    large.train()(features_of(small)).square().sum().backward()
    gradient = dict(large.named_parameters())["head.0.weight"].grad
    assert gradient is not None
    assert gradient[:, 6:].abs().max() > 0
    kept = large.state_dict()["gru.weight_hh_l0"].reshape(3, 11, 11)
    torch.testing.assert_close(kept[:, :6, :6], small.state_dict()["gru.weight_hh_l0"].reshape(3, 6, 6))
    assert kept[:, :6, 6:].eq(0.0).all()
    assert kept[:, 6:].ne(0.0).any()


def test_a_convolution_with_a_new_input_channel_ignores_it_at_first() -> None:
    """Nets with another representation beside the mel image read it as a second channel."""
    small, large = random_net(SMALL_NET), random_net(SMALL_NET, seed=5)
    first = torch.nn.Conv2d(2, 2, (3, 5), stride=(1, 2), padding=(0, 2), bias=False)
    large.conv1 = first
    state, _ = fitted(small.state_dict(), small.config, large)
    assert state["conv1.weight"].shape == (2, 2, 3, 5)
    assert state["conv1.weight"][:, 1].eq(0.0).all()
    assert state["conv1.weight"][:, 0].equal(small.conv1.weight.detach()[:, 0])


def test_parts_that_the_earlier_net_lacks_keep_their_initial_values_and_are_named(tmp_path: Path) -> None:
    small, large = random_net(SMALL_NET), Detector(larger(SMALL_NET, labels=OPINIONS))
    path = write_model(small, tmp_path / "small.onnx")
    initial = large.state_dict()["mos_gru.weight_hh_l0"].clone()
    made = start_from(path, large)
    assert made["new"] == ["mos_gru", "mos_head"]
    assert made["model"] == f"{RUN_CONFIG.name} {RUN_CONFIG.version}"
    torch.testing.assert_close(large.state_dict()["mos_gru.weight_hh_l0"], initial)
    shared = scores_of(large, features_of(small))[..., : len(SMALL_NET.labels)]
    torch.testing.assert_close(shared, scores_of(small, features_of(small)), atol=1e-4, rtol=1e-4)
    assert large.calibration[:, -3:].tolist() == [[1.0] * 3, [0.0] * 3]


def test_parts_of_the_earlier_net_may_be_left_out(tmp_path: Path) -> None:
    """Their weights are gone; the rest gives what the earlier net gives with those weights at zero."""
    config = larger(SMALL_NET, pcen=True, memory_size=3, snr_bands=8)
    earlier, lean = random_net(config), Detector(larger(SMALL_NET, snr_bands=8))
    made = start_from(write_model(earlier, tmp_path / "model.onnx"), lean)
    assert made["left_out"] == ["pcen", "memory"]
    assert "new" not in made
    stored, _ = read_model(tmp_path / "model.onnx")
    features = features_of(stored)
    assert not torch.allclose(scores_of(lean, features), scores_of(stored, features), atol=1e-3)
    with torch.no_grad():
        stored.conv1.weight[:, 1:] = 0.0
        for layer in (stored.head[0], stored.shares):
            assert isinstance(layer, torch.nn.Linear)
            layer.weight[:, config.hidden_size :] = 0.0
    torch.testing.assert_close(scores_of(lean, features), scores_of(stored, features), rtol=0, atol=1e-4)


def test_settled_norms_change_no_score_and_bring_training_close_to_evaluation(tmp_path: Path) -> None:
    small = random_net(SMALL_NET)
    path = write_model(small, tmp_path / "small.onnx")
    net, _ = read_model(path)
    features = features_of(net, 16)
    expected = scores_of(net, features)

    def training_error() -> float:
        with torch.no_grad():
            return float((net.scores(net.train()(features)) - expected).abs().max())

    before = training_error()
    net, _ = read_model(path)  # evaluating in training mode changed the running statistics
    settle_norms(net, features)
    torch.testing.assert_close(scores_of(net, features), expected, atol=1e-4, rtol=1e-4)
    assert training_error() < 1e-3 < before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 5}, r"gru.weight_ih_l0: expected at most \[15, 12\]"),
        ({"labels": SMALL_NET.labels[1:]}, "expected labels that begin with speech"),
        ({"fusion": "none"}, "expected no other weights than this net.s, got also wave.bias, wave.weight"),
    ],
)
def test_an_earlier_net_that_does_not_fit_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_model(random_net(SMALL_NET), tmp_path / "made.onnx")
    with pytest.raises(ConfigError, match=f"a different shape: {message}"):
        start_from(path, Detector(larger(SMALL_NET, **changes)))


def test_a_file_that_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a model file at"):
        read_model(tmp_path / "missing.onnx")
    (tmp_path / "noise.onnx").write_bytes(b"\xff\xfe not a model")
    with pytest.raises(ConfigError, match="expected an ONNX file"):
        read_model(tmp_path / "noise.onnx")
    net = random_net(SMALL_NET)
    with pytest.raises(ConfigError, match="expected configuration and calibration"):
        read_model(write_model(net, tmp_path / "bare.onnx", calibration={}))
    shifted = {"scale": dict.fromkeys(SMALL_NET.labels, 1.0), "shift": dict.fromkeys(SMALL_NET.labels, 0.3)}
    with pytest.raises(ConfigError, match="expected the net to match within"):
        read_model(write_model(net, tmp_path / "other.onnx", calibration=shifted))
