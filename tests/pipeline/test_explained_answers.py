from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from jsonschema import validate

from signals import voice, wav_bytes, white_noise
from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.engine import EchoRunner, OnnxRunner
from speech_qc.pipeline.explain.evidence import REASONS

FIELDS = {"band", "over_floor_db", "snr_db", "kind", "kind_score", "unknown"}


def hissing_voice() -> np.ndarray:
    """Generate eight seconds of voice, with noise between 0.8 and 2 kHz in three of them."""
    samples = voice(8.0)
    spectrum = np.fft.rfft(np.random.default_rng(3).standard_normal(48_000))
    hertz = np.fft.rfftfreq(48_000, 1 / 16_000)
    spectrum[(hertz < 800) | (hertz > 2_000)] = 0
    samples[32_000:80_000] += (0.06 * np.fft.irfft(spectrum) / 0.5).astype(np.float32)
    return samples + white_noise(8.0, level_dbfs=-75.0)


def without_evidence(body: dict) -> list:
    channels = json.loads(json.dumps(body["channels"]))
    for channel in channels:
        for event in channel["events"]:
            event.pop("evidence", None)
    return channels


def test_band_of_a_noise_is_named_by_the_shipped_model(make_client, shipped_runner: OnnxRunner):
    body = make_client(shipped_runner).post("/v1/inspect?explain=true", content=wav_bytes(hissing_voice())).json()
    noises = [e for e in body["channels"][0]["events"] if e["label"] == "noise" and 1.9 < e["onset_s"] < 4.5]
    assert noises
    for event in noises:
        evidence = event["evidence"]
        assert evidence["band"]["low_hz"] == pytest.approx(800, rel=0.15)
        assert all(isinstance(evidence["band"][end], int) for end in ("low_hz", "high_hz")), "whole Hz, as documented"
        assert evidence["band"]["high_hz"] == pytest.approx(2_000, rel=0.15)
        assert evidence["band"]["against"] == "floor" and evidence["over_floor_db"] > 20
        assert evidence["kind"] in ("stationary_noise", "transient_noise")


def test_without_explain_there_is_no_evidence_and_the_rest_is_the_same(make_client):
    client, audio = make_client(), wav_bytes(white_noise(2.0))
    plain = client.post("/v1/inspect", content=audio).json()
    explained = client.post("/v1/inspect?explain=true", content=audio).json()

    assert plain["channels"][0]["events"]
    assert not any("evidence" in event for event in plain["channels"][0]["events"])
    assert all(set(event["evidence"]) == FIELDS for event in explained["channels"][0]["events"])
    assert without_evidence(explained) == plain["channels"]


def test_explained_answer_is_what_openapi_declares(make_client):
    client = make_client()
    document = client.get("/openapi.json").json()
    body = client.post("/v1/inspect?explain=true", content=wav_bytes(voice(2.0))).json()
    assert body["channels"][0]["events"]
    validate(body, {"$ref": "#/components/schemas/InspectAnswer", **document})


def test_every_missing_figure_has_a_reason_and_no_other(make_client):
    client = make_client()
    for audio in (white_noise(2.0), voice(3.0), np.zeros(16_000, np.float32)):
        body = client.post("/v1/inspect?explain=true", content=wav_bytes(audio)).json()
        for event in body["channels"][0]["events"]:
            evidence = event["evidence"]
            missing = {name for name in FIELDS - {"unknown"} if evidence[name] is None}
            assert missing == set(evidence["unknown"])
            assert all(evidence["unknown"].values())


def test_frames_are_left_out_though_evidence_needs_them(make_client):
    body = make_client().post("/v1/inspect?explain=true&frames=false", content=wav_bytes(white_noise(1.0))).json()
    assert "frames" not in body["channels"][0]
    assert "evidence" in body["channels"][0]["events"][0]


def test_evidence_goes_with_its_event_when_labels_are_chosen(make_client):
    client, audio = make_client(), wav_bytes(voice(3.0))
    every = client.post("/v1/inspect?explain=true", content=audio).json()["channels"][0]["events"]
    some = client.post("/v1/inspect?explain=true&labels=music,tone", content=audio).json()["channels"][0]["events"]
    assert some and some == [event for event in every if event["label"] in ("music", "tone")]


def test_each_channel_has_evidence_of_its_own(make_client):
    client = make_client()
    sides = [white_noise(2.0, seed=1), voice(2.0)]
    stereo = client.post("/v1/inspect?explain=true", content=wav_bytes(np.stack(sides, axis=1))).json()
    for channel, side in zip(stereo["channels"], sides, strict=True):
        mono = client.post("/v1/inspect?explain=true", content=wav_bytes(side)).json()
        assert channel["events"] == mono["channels"][0]["events"]


def test_label_tracks_do_not_change_with_explain(make_client):
    client, audio = make_client(), wav_bytes(white_noise(1.0))
    plain = client.post("/v1/inspect?format=csv", content=audio)
    assert client.post("/v1/inspect?format=csv&explain=true", content=audio).text == plain.text


def test_no_more_sound_is_kept_than_the_stated_maximum(make_client, monkeypatch):
    monkeypatch.setattr("speech_qc.pipeline.recording.MAX_FRAMES", 100)  # of two channels: one second each
    stereo = np.stack([white_noise(3.0, seed=1), white_noise(3.0, seed=2)], axis=1)
    body = make_client().post("/v1/inspect?explain=true", content=wav_bytes(stereo)).json()
    for channel in body["channels"]:
        late = [event["evidence"] for event in channel["events"] if event["offset_s"] > 1.0]
        assert late
        assert all(evidence["unknown"]["band"] == REASONS["late"] for evidence in late)


@pytest.fixture
def recording(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    soundfile.write("talk.wav", white_noise(2.0), 16_000)
    return tmp_path / "talk.wav"


def run(*arguments: str) -> int:
    return main(list(arguments), seams=Seams(make_runner=lambda _: EchoRunner(2)))


def test_command_line_gives_the_evidence_of_the_api(recording: Path, make_client, capsys):
    run("inspect", "talk.wav", "--explain", "-f", "json", "--fail-on", "never")
    here = json.loads(capsys.readouterr().out)
    there = make_client().post("/v1/inspect?explain=true", content=recording.read_bytes()).json()
    assert here["channels"] == there["channels"]


def test_table_shows_evidence_only_when_asked(recording: Path, capsys):
    run("inspect", "talk.wav", "--fail-on", "never")
    plain = capsys.readouterr().out
    run("inspect", "talk.wav", "--explain", "--fail-on", "never")
    explained = capsys.readouterr().out
    assert "band Hz" not in plain and "band Hz" in explained and "over floor dB" in explained


def test_explain_is_refused_where_nothing_would_show_it(recording: Path, capsys):
    assert run("inspect", "talk.wav", "--explain", "-f", "rttm") == 2
    assert "--explain" in capsys.readouterr().err


@pytest.mark.slow
def test_picture_frames_the_band_of_each_event(recording: Path):
    pytest.importorskip("matplotlib", reason="--plot needs matplotlib, the extra 'plot'")
    run("inspect", "talk.wav", "--plot", "plain.svg", "--fail-on", "never")
    run("inspect", "talk.wav", "--plot", "framed.svg", "--explain", "--fail-on", "never")
    plain, framed = (Path(name).read_text(encoding="utf-8") for name in ("plain.svg", "framed.svg"))
    white = "stroke: #ffffff; stroke-width: 2.4"
    assert white not in plain and white in framed
