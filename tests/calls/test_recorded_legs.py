"""The channels of a recording as legs: the same answer from Python, HTTP and the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest

import speech_qc
from closeness import assert_close
from signals import talk, wav_bytes
from speech_qc.cli.main import main
from speech_qc.wire.schemas import InspectAnswer


@pytest.fixture(scope="module")
def recording():
    rng = np.random.default_rng(0)
    agent, customer = (1e-3 * rng.standard_normal(16_000 * 12).astype(np.float32) for _ in range(2))
    agent[16_000 : 5 * 16_000] += talk(seed=1)
    customer[6 * 16_000 : 10 * 16_000] += talk(seed=2)
    return wav_bytes(np.stack([agent, customer], axis=1))


@pytest.fixture
def client(make_client, shipped_runner):
    return make_client(shipped_runner)


def test_python_http_and_command_line_say_the_same(recording, client, tmp_path, capsys):
    here = speech_qc.inspect(recording, legs=["agent", "customer"]).to_dict()
    answer = client.post("/v1/inspect", params={"legs": "agent,customer"}, content=recording)
    file = tmp_path / "call.wav"
    file.write_bytes(recording)
    capsys.readouterr()
    main(["inspect", "--legs", "agent,customer", "--format", "json", str(file)])
    shown = json.loads(capsys.readouterr().out)

    assert answer.status_code == 200
    InspectAnswer.model_validate(answer.json())
    assert [leg["role"] for leg in here["interaction"]["legs"]] == ["agent", "customer"]
    assert [channel["role"] for channel in here["channels"]] == ["agent", "customer"]
    assert_close(answer.json()["interaction"], here["interaction"])
    assert_close(shown["interaction"], here["interaction"])


def test_the_result_has_what_happened_between_the_legs(recording):
    found = speech_qc.inspect(recording, legs="agent,customer").interaction

    assert found is not None
    assert found.legs[0].talk_ratio == pytest.approx(4 / 12, abs=0.12)
    assert found.response_s is not None
    assert found.response_s.median == pytest.approx(1.0, abs=0.6)
    assert speech_qc.inspect(recording).interaction is None
    assert "interaction" not in speech_qc.inspect(recording).to_dict()


def test_the_table_shows_the_legs(recording, tmp_path, capsys):
    file = tmp_path / "call.wav"
    file.write_bytes(recording)
    main(["inspect", "--legs", "agent,customer", str(file)])
    shown = capsys.readouterr().out

    assert "Channel 1 (customer)" in shown
    assert "interruptions" in shown


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"legs": "agent"}, "legs: expected 2 different names"),
        ({"legs": "agent,agent"}, "legs: expected 2 different names"),
        ({"legs": "agent,"}, "legs: expected 2 different names"),
        ({"legs": "a,b", "channels": "mix"}, "legs: expected channels=split, got mix"),
    ],
)
def test_names_of_legs_are_checked(client, recording, params, expected):
    answer = client.post("/v1/inspect", params=params, content=recording)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(expected)


def test_a_mono_recording_has_no_legs(client):
    answer = client.post("/v1/inspect", params={"legs": "a,b"}, content=wav_bytes(talk()))

    assert answer.status_code == 400
    assert "expected a recording with 2 channels, one per leg, got 1" in answer.json()["error"]["message"]
