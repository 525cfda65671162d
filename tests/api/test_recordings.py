"""Recordings without a header, and recordings with faults that the answer reports."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from signals import voice, wav_bytes
from speech_qc.app import create_app
from speech_qc.engine import EchoRunner
from speech_qc.settings import Settings

VOICE = voice(1.0)
PCM = (VOICE * 32767).astype("<i2").tobytes()


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(Settings(), EchoRunner())) as client:
        yield client


def test_audio_without_a_header_is_inspected_as_declared(client: Any) -> None:
    answer = client.post("/v1/inspect?encoding=linear16&sample_rate=16000&frames=false", content=PCM)
    assert answer.status_code == 200, answer.text
    raw, whole = answer.json(), client.post("/v1/inspect?frames=false", content=wav_bytes(VOICE)).json()
    assert raw["audio"] == whole["audio"] | {"encoding": "raw/PCM_16"}
    assert raw["channels"][0]["summary"] == whole["channels"][0]["summary"]


@pytest.mark.parametrize(("channels", "expected"), [("2", 2), ("2,split", 2), ("2,mix", 1)])
def test_interleaved_channels_are_separated_or_mixed(channels: str, expected: int, client: Any) -> None:
    stereo = np.stack([VOICE, VOICE[::-1]], axis=1)
    pcm = (stereo * 32767).astype("<i2").tobytes()
    fields = {"encoding": "linear16", "sample_rate": "16000", "channels": channels, "frames": "false"}
    answer = client.post("/v1/inspect", data=fields, files={"file": ("call.raw", pcm)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["audio"]["channels"] == 2
    assert answer.json()["audio"]["duration_s"] == 1.0
    assert len(answer.json()["channels"]) == expected


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("encoding=linear16", "expected sample_rate=… with encoding=linear16"),
        ("encoding=pcm", "linear16"),
        ("sample_rate=8000", "only for audio without a header"),
        ("channels=2", "only for audio without a header"),
        ("channels=3,both", "channels: expected split, mix"),
        ("encoding=mulaw&sample_rate=100", "expected a sample rate of 8000"),
    ],
)
def test_wrong_options_for_audio_without_a_header_are_refused(query: str, message: str, client: Any) -> None:
    answer = client.post(f"/v1/inspect?{query}", content=PCM)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]


def test_the_answer_lists_what_was_wrong_with_the_recording(client: Any) -> None:
    cut = wav_bytes(VOICE)[:-3200]
    answer = client.post("/v1/inspect?frames=false", content=cut).json()
    assert [warning["code"] for warning in answer["warnings"]] == ["samples_missing"]
    assert "3200 bytes (about 0.100 s) are missing" in answer["warnings"][0]["message"]
    assert client.post("/v1/inspect?frames=false", content=wav_bytes(VOICE)).json()["warnings"] == []


@pytest.mark.parametrize("form", ["csv", "audacity", "textgrid", "rttm", "webvtt"])
def test_a_label_track_names_warnings_and_profile_in_headers(form: str, client: Any) -> None:
    answer = client.post(f"/v1/inspect?format={form}&profile=dataset", content=wav_bytes(VOICE) + wav_bytes(VOICE))
    assert answer.headers["X-Warnings"] == "joined"
    assert answer.headers["X-Profile"] == "dataset"
