from __future__ import annotations

import numpy as np
import pytest
from engine_doubles import SPEC

from speech_qc.contract import LABEL_CATALOG
from speech_qc.engine import EchoRunner, Runner, echo_contract


def stream(hops: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-10.0, 6.0, (hops, SPEC.columns)).astype(np.float32)


def test_echo_keeps_the_runner_protocol_and_its_own_contract() -> None:
    runner: Runner = EchoRunner(lookahead_frames=3)
    contract = runner.contract
    assert contract.label_names == tuple(name for name, (_, kind) in LABEL_CATALOG.items() if kind != "mos")
    assert contract.lookahead_frames == 3
    wrong = contract.check(
        {"features": ("B", "T", SPEC.columns), "state": ("B", contract.state_size)},
        {"scores": ("B", "frames", len(contract.labels)), "new_state": ("B", contract.state_size)},
    )
    assert wrong == []


@pytest.mark.parametrize("lookahead", [0, 1, 5])
@pytest.mark.parametrize("hops", [2, 4, 10, 60])
def test_echo_in_chunks_adds_up_to_the_whole_stream(lookahead: int, hops: int) -> None:
    runner = EchoRunner(lookahead)
    features = stream(240)
    state = np.zeros((1, runner.contract.state_size), np.float32)
    parts = []
    for start in range(0, len(features), hops):
        scores, state = runner.run(features[np.newaxis, start : start + hops], state)
        parts.append(scores[0])
    outputs = np.concatenate(parts)
    assert state[0, 0] == 240
    np.testing.assert_array_equal(outputs[:lookahead], 0.0)
    np.testing.assert_allclose(outputs[lookahead:], runner.expected(features)[: 120 - lookahead], atol=1e-6)


def test_echo_scores_tell_position_column_and_loudness() -> None:
    runner = EchoRunner()
    contract = runner.contract
    features = stream(240)
    scores = runner.expected(features)
    np.testing.assert_allclose(scores[:, contract.index("tone")], np.arange(120) % 100 / 100, atol=1e-6)
    changed = features.copy()
    changed[:, contract.index("music")] += 1.0
    differs = np.any(runner.expected(changed) != scores, axis=0)
    # one column changes its own label and, as part of the mean, the two labels that follow loudness
    assert {contract.label_names[c] for c in np.flatnonzero(differs)} == {"music", "speech", "snr_db"}
    loud, silent = (
        runner.expected(np.full((2, SPEC.columns), 0.0, np.float32)),
        runner.expected(np.full((2, SPEC.columns), -23.0, np.float32)),
    )
    assert loud[0, 0] > 0.9
    assert silent[0, 0] < 0.1


def test_echo_does_not_modify_its_input() -> None:
    runner = EchoRunner(2)
    features, state = stream(10)[np.newaxis], np.ones((1, runner.contract.state_size), np.float32)
    before = features.copy(), state.copy()
    scores, _ = runner.run(features, state)
    scores[:] = -1.0
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(state, before[1])


def test_echo_contract_refuses_nothing_it_declares() -> None:
    assert echo_contract(version="1.2.3").version == "1.2.3"
