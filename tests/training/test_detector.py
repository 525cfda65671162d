"""The net gives the same scores whole or in chunks, respects its look-ahead, and has the stated size."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from made_corpus import SMALL_NET

from speech_qc.contract import LABEL_CATALOG, MAX_LOOKAHEAD_S, FeatureSpec
from training.model import PAST_ROWS, Detector, Fusion, ModelConfig

FUSIONS = get_args(Fusion)
PARTS: dict[str, dict[str, object]] = {fusion: {"fusion": fusion} for fusion in FUSIONS} | {
    "pcen": {"pcen": True},
    "memory": {"memory_size": 3},
    "snr": {"snr_bands": 16},
    "all": {"fusion": "late", "pcen": True, "memory_size": 3, "snr_bands": 16},
}
COLUMNS = FeatureSpec().columns


def small(kind: str = "early", seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    net = Detector(SMALL_NET.model_copy(update=PARTS[kind]))
    if net.shares is not None:
        net.snr_gain.data.fill_(1.0)
    for norm in (net.norm1, net.norm2, net.norm3):  # statistics as after training, so that no terms cancel by chance
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0.0, 0.3)
        norm.running_var.uniform_(0.5, 2.0)
    net.mean.normal_(0.0, 0.5)
    net.spread.uniform_(0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize("kind", PARTS)
@torch.no_grad()
def test_chunks_of_any_length_give_what_the_whole_gives(kind: str) -> None:
    net, rng = small(kind), np.random.default_rng(1)
    features = torch.randn(3, 120, COLUMNS)
    whole, last = net.forward_chunk(features, net.init_state(3))
    assert whole.equal(net(features))
    for _ in range(5):
        state, parts, position = net.init_state(3), [], 0
        while position < 120:
            hops = 2 * int(rng.integers(1, 12))
            logits, state = net.forward_chunk(features[:, position : position + hops], state)
            parts.append(logits)
            position += hops
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=0)
        torch.testing.assert_close(state, last, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", PARTS)
@torch.no_grad()
def test_an_answer_depends_on_no_hop_behind_its_own_frame(kind: str) -> None:
    net = small(kind)
    features = torch.randn(1, 40, COLUMNS)
    before = net(features)
    for frame in (0, 7, 18):
        changed = features.clone()
        changed[:, 2 * frame + 2 :] += 3.0
        after = net(changed)
        torch.testing.assert_close(after[:, : frame + 1], before[:, : frame + 1], atol=1e-6, rtol=0)
        assert (after[:, frame + 1] - before[:, frame + 1]).abs().max() > 1e-4


@pytest.mark.parametrize("column", [0, COLUMNS - 1])
@torch.no_grad()
def test_an_answer_depends_on_the_last_hop_of_its_frame(column: int) -> None:
    net = small()
    features = torch.randn(1, 20, COLUMNS)
    changed = features.clone()
    changed[:, 11, column] += 5.0
    difference = (net(changed) - net(features)).abs().amax(dim=(0, 2))
    assert (difference[:5] == 0.0).all()
    assert difference[5] > 1e-6


@torch.no_grad()
def test_without_fusion_the_waveform_view_is_not_read() -> None:
    features = torch.randn(1, 20, COLUMNS)
    changed = features.clone()
    changed[..., FeatureSpec().mel_bands :] += 5.0
    assert small("none")(changed).equal(small("none")(features))
    for kind in ("early", "late"):
        assert not small(kind)(changed).equal(small(kind)(features))


@torch.no_grad()
def test_streams_in_a_batch_do_not_touch_each_other() -> None:
    net = small()
    features, state = torch.randn(4, 20, COLUMNS), torch.rand(4, net.state_size)
    together, new_state = net.forward_chunk(features, state)
    for index in range(4):
        one = slice(index, index + 1)
        alone, new_alone = net.forward_chunk(features[one], state[one])
        torch.testing.assert_close(alone, together[one], atol=1e-5, rtol=0)
        torch.testing.assert_close(new_alone, new_state[one], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "extra"), [("none", 0), ("early", 0), ("late", 4), ("pcen", 8 * 64), ("memory", 9), ("snr", 16)]
)
def test_the_state_holds_the_past_rows_and_hidden_vectors(kind: str, extra: int) -> None:
    net = small(kind)
    assert net.state_size == PAST_ROWS * 64 + 6 + extra
    assert net.init_state(5).shape == (5, net.state_size)
    assert not net.init_state(5).any()
    _, new_state = net.forward_chunk(torch.zeros(5, 2, COLUMNS), net.init_state(5))
    assert new_state.shape == (5, net.state_size)


def test_the_shipped_shape_has_about_230_thousand_weights() -> None:
    net = Detector(ModelConfig())
    assert net.parameter_count() == 234_396
    assert net.state_size == 608
    assert 15e6 < net.macs_per_second() < 30e6


def test_the_default_look_ahead_is_within_what_a_live_listener_accepts() -> None:
    assert ModelConfig().lookahead_frames * FeatureSpec().frame_hop_s <= MAX_LOOKAHEAD_S
    with pytest.raises(ValueError, match="lookahead_frames"):
        ModelConfig(lookahead_frames=6)


def test_scores_are_in_their_ranges_and_follow_the_calibration() -> None:
    net = small()
    logits = torch.linspace(-30.0, 30.0, 61)[None, :, None].expand(1, 61, len(net.config.labels))
    scores = net.scores(logits)
    for column, label in enumerate(net.config.labels):
        low, high = (-15.0, 45.0) if LABEL_CATALOG[label][1] == "db" else (0.0, 1.0)
        assert scores[..., column].min() == pytest.approx(low, abs=1e-4)
        assert scores[..., column].max() == pytest.approx(high, abs=1e-4)
    net.calibration[0, 0], net.calibration[1, 0] = 2.0, -1.0
    assert net.scores(logits)[0, 31, 0] == pytest.approx(1.0 / (1.0 + np.exp(-(2.0 * 1.0 - 1.0))))


def test_opinion_scores_have_a_slow_memory_of_their_own_and_come_last() -> None:
    labels = ("speech", "snr_db", "sig", "bak")
    net = Detector(SMALL_NET.model_copy(update={"labels": labels, "mos_size": 5}))
    assert net.state_size == PAST_ROWS * 64 + SMALL_NET.hidden_size + 5
    scores = net.scores(net(torch.randn(2, 20, COLUMNS)))
    assert scores.shape == (2, 10, 4)
    assert (scores[..., 2:] >= 1.0).all()
    assert (scores[..., 2:] <= 5.0).all()
    with pytest.raises(ValueError, match="opinion scores must be the last labels"):
        Detector(SMALL_NET.model_copy(update={"labels": ("sig", "speech")}))
