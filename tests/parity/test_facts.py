"""Whole-file facts are the same for a file and a stream, and cancellation is named."""

from __future__ import annotations

import numpy as np
import pytest

import speech_qc
from signals import voice, wav_bytes, white_noise
from speech_qc.embedded.detector import Detector
from speech_qc.engine import OnnxRunner
from speech_qc.settings import Settings
from stream_material import converse, cut

TIME = np.arange(4 * 16_000) / 16_000
HUM = 0.02 * np.sin(2 * np.pi * 50 * TIME)
CALL = np.stack([voice(4.0) + HUM, 0.5 * voice(4.0, seed=1) + white_noise(4.0, level_dbfs=-60)], axis=1)


def pcm16(samples: np.ndarray) -> np.ndarray:
    return (samples * 32767).astype("<i2")


@pytest.mark.parametrize("size", [3200, 12_344])
def test_a_stream_has_the_levels_and_the_comparison_of_the_file(make_client, size):
    client, samples = make_client(), pcm16(CALL)
    whole = client.post("/v1/inspect", content=wav_bytes(samples)).json()
    summary = converse(client, cut(samples.tobytes(), size), "?channels=2")[-2]
    assert summary["stereo"] == whole["stereo"]
    assert abs(whole["stereo"]["correlation"]) < 0.3
    for live, file in zip(summary["channels"], whole["channels"], strict=True):
        assert live["levels"] == file["levels"]


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 6400])
def test_the_python_stream_has_the_tones_of_the_file(shipped_runner: OnnxRunner, size: int):
    tone = 0.1 * np.sin(2 * np.pi * 425 * TIME)
    samples = pcm16(np.concatenate([CALL, np.stack([tone, tone], axis=1), CALL]))
    detector = Detector(Settings(device="cpu"))
    whole = detector.inspect(samples, sample_rate=16_000)
    with speech_qc.Stream(sample_rate=16_000, channels=2, detector=detector) as stream:
        for start in range(0, len(samples), size):
            stream.push(samples[start : start + size])
    assert stream.result.stereo == whole.stereo
    for live, file in zip(stream.result.channels, whole.channels, strict=True):
        assert live.levels == file.levels
        found = [(e.event_id, e.label, e.onset_s, e.offset_s, e.detail) for e in live.events]
        assert found == [(e.event_id, e.label, e.onset_s, e.offset_s, e.detail) for e in file.events]
        assert "tone" in {label for _, label, *_ in found}


@pytest.mark.parametrize("profile", ["default", "callcenter", "dataset", "broadcast"])
def test_opposite_polarity_is_named_and_fails_if_it_is_mixed(make_client, profile):
    client, one = make_client(), voice(3.0)
    content = wav_bytes(np.stack([one, -one], axis=1))
    mixed = client.post(f"/v1/inspect?channels=mix&profile={profile}", content=content).json()
    assert mixed["stereo"]["inverted"] is True
    (channel,) = mixed["channels"]
    assert channel["levels"]["cancellation_db"] > 20
    assert channel["verdict"]["status"] == "fail"
    assert "cancellation_db_above" in {reason["code"] for reason in channel["verdict"]["reasons"]}
    split = client.post(f"/v1/inspect?profile={profile}", content=content).json()
    assert "were not mixed" in split["channels"][0]["levels"]["unknown"]["cancellation_db"]


def test_one_channel_has_no_comparison(make_client):
    assert "stereo" not in make_client().post("/v1/inspect", content=wav_bytes(voice(1.0))).json()


def test_a_floor_that_an_offset_hides_has_that_reason(make_client):
    samples = 0.3 + white_noise(2.0, level_dbfs=-60)
    (channel,) = make_client().post("/v1/inspect", content=wav_bytes(samples)).json()["channels"]
    assert channel["levels"]["noise_floor_dbfs"] is None
    assert "DC offset" in channel["levels"]["unknown"]["noise_floor_dbfs"]


def test_a_mix_of_silence_has_its_own_reason(make_client):
    content = wav_bytes(np.zeros((16_000, 2), np.float32))
    (channel,) = make_client().post("/v1/inspect?channels=mix", content=content).json()["channels"]
    assert channel["levels"]["cancellation_db"] is None
    assert "digital silence" in channel["levels"]["unknown"]["cancellation_db"]
