"""Telephone keys, which may be a card number or a PIN, are in no output unless one setting asks for them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import speech_qc
from signals import voice, wav_bytes, white_noise
from speech_qc.cli.main import main
from speech_qc.cli.options import Format
from speech_qc.embedded.detector import Detector
from speech_qc.settings import Settings
from speech_qc.wire.vocabulary import AnswerFormat
from stream_material import converse, cut, pcm16

DIGITS = "4929123476508831"
STARS = "*" * len(DIGITS)
LOW_HZ, HIGH_HZ, KEYS = (697, 770, 852, 941), (1209, 1336, 1477), ("123", "456", "789", "*0#")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def call() -> np.ndarray:
    """A caller who keys in a card number."""
    parts = [voice(1.0), np.zeros(4800)]
    time = np.arange(1600) / 16_000
    for digit in DIGITS:
        row = next(i for i, keys in enumerate(KEYS) if digit in keys)
        hz = LOW_HZ[row], HIGH_HZ[KEYS[row].index(digit)]
        parts += [0.15 * sum(np.sin(2 * np.pi * f * time) for f in hz), np.zeros(1600)]
    samples = np.concatenate([*parts, np.zeros(8000), voice(1.0)])
    return (samples + white_noise(len(samples) / 16_000, level_dbfs=-75)[: len(samples)]).astype(np.float32)


def holds_keys(text: str) -> bool:
    """Whether the keys, or a part of them that could identify a card, stand anywhere in a text."""
    return any(DIGITS[start : start + 6] in text for start in range(len(DIGITS) - 5))


def test_the_python_api_masks_keys(call):
    result = speech_qc.inspect(call, sample_rate=16_000, explain=True)
    assert STARS in json.dumps(result.to_dict())
    assert not holds_keys(json.dumps(result.to_dict()) + repr(result))
    shown = speech_qc.inspect(call, sample_rate=16_000, frames=False, show_digits=True)
    assert DIGITS in json.dumps(shown.to_dict())


@pytest.mark.parametrize("show_digits", [False, True])
def test_a_stream_masks_keys_in_its_updates_and_its_result(call, show_digits):
    with speech_qc.Stream(sample_rate=16_000, show_digits=show_digits) as stream:
        updates = stream.push(call)
        updates += stream.finish()
    text = " ".join(event.model_dump_json() for update in updates for event in update.events)
    for said in (text, json.dumps(stream.result.to_dict())):
        assert (DIGITS in said, STARS in said) == (show_digits, not show_digits)


@pytest.mark.parametrize("form", list(Format))
def test_no_output_of_the_command_line_has_keys(call, tmp_path, capsys, caplog, form):
    path = tmp_path / "call.wav"
    path.write_bytes(wav_bytes(call))
    caplog.set_level(logging.DEBUG)
    explained = ["--explain"] if form in ("json", "table") else []
    assert main(["inspect", str(path), "--format", form, *explained]) in (0, 1)
    captured = capsys.readouterr()
    assert captured.out
    assert not holds_keys(captured.out + captured.err + caplog.text)


def test_the_command_line_shows_keys_on_request_or_by_the_setting(call, tmp_path, capsys, monkeypatch):
    path = tmp_path / "call.wav"
    path.write_bytes(wav_bytes(call))
    for option in (["--show-digits"], []):
        main(["inspect", str(path), "--format", "json", "--no-frames", *option])
        assert (DIGITS in capsys.readouterr().out) == bool(option)
    assert main(["inspect", str(path), "--show-digits", "--url", "http://127.0.0.1:9"]) == 2
    assert "SPEECHQC_SHOW_DIGITS" in capsys.readouterr().err


@pytest.mark.parametrize("show_digits", [False, True])
def test_a_server_masks_keys_in_answers_messages_and_logs(make_client, shipped_runner, call, caplog, show_digits):
    client = make_client(shipped_runner, show_digits=show_digits, log_level="debug")
    caplog.set_level(logging.DEBUG)
    said = client.post("/v1/inspect?explain=true", content=wav_bytes(call)).text
    assert (DIGITS in said, STARS in said) == (show_digits, not show_digits)
    for form in AnswerFormat.__args__:  # type: ignore[attr-defined]
        if form != "json":
            assert not holds_keys(client.post(f"/v1/inspect?format={form}", content=wav_bytes(call)).text)
    messages = json.dumps(converse(client, cut(pcm16(call), 3200)))
    assert (DIGITS in messages, STARS in messages) == (show_digits, not show_digits)
    assert not holds_keys(caplog.text)
    metrics = client.get("/metrics").text
    assert DIGITS not in metrics
    # Six digits of a measured value may be those of the keys by chance, so parts are sought only in names and labels.
    families = list(text_string_to_metric_families(metrics))
    assert not any(holds_keys(f"{sample.name} {sample.labels}") for family in families for sample in family.samples)


def test_one_setting_shows_keys_in_the_python_api(call):
    detector = Detector(Settings(show_digits=True))
    found = detector.inspect(call, sample_rate=16_000, frames=False)
    assert DIGITS in json.dumps(found.to_dict())


def test_masking_is_the_default():
    assert Settings().show_digits is False
    assert "SPEECHQC_SHOW_DIGITS" in (Path(__file__).parent.parent / "docs" / "settings.md").read_text(encoding="utf-8")
