"""Recordings from standard input, without a header, or with faults that the command reports."""

from __future__ import annotations

import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_material import RATE_HZ, noise, run

Capture = pytest.CaptureFixture[str]
PCM = (noise(2.0) * 32767).astype("<i2").tobytes()


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_a_dash_reads_a_recording_from_standard_input(
    talk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, talk.read_bytes())
    assert run("inspect", "-") == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:2] == ["-", "2.00"]


def test_standard_input_can_be_drawn_and_written_to_a_folder(
    talk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, talk.read_bytes())
    assert run("inspect", "-", "--out", "results", "--format", "json", "--plot", "p.png") == 0
    assert json.loads(Path("results/stdin.json").read_bytes())["file"] == "-"
    assert Path("p.png").is_file()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("options", [(), ("--plot", "p.png")])
def test_a_named_pipe_is_a_recording(options: tuple[str, ...], talk: Path, capsys: Capture) -> None:
    soundfile.write("talk.flac", soundfile.read(talk)[0], RATE_HZ)
    os.mkfifo("pipe")
    with ThreadPoolExecutor() as pool:
        pool.submit(Path("pipe").write_bytes, Path("talk.flac").read_bytes())
        assert run("inspect", talk, "pipe", "--format", "jsonl", *options) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert second["file"] == "pipe"
    assert second["channels"] == first["channels"]


class Broken(io.RawIOBase):
    def readable(self) -> bool:
        return True

    def readinto(self, _: object) -> int:
        raise IsADirectoryError("Is a directory")


@pytest.mark.parametrize("stdin", [None, io.TextIOWrapper(io.BufferedReader(Broken()))], ids=["closed", "broken"])
def test_standard_input_that_cannot_be_read_is_an_error(
    stdin: io.TextIOWrapper | None, talk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("inspect", "-", talk) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("dash", ["-", "pcm.raw"])
def test_audio_without_a_header_is_inspected_as_declared(
    dash: str, talk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, PCM)
    Path("pcm.raw").write_bytes(PCM)
    options = ("--encoding", "linear16", "--sample-rate", str(RATE_HZ))
    assert run("inspect", dash, *options, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["audio"] == {
        "duration_s": 2.0, "sample_rate_hz": RATE_HZ, "channels": 1, "encoding": "raw/PCM_16", "frames": 100,
    }  # fmt: skip
    assert run("inspect", talk, "pcm.raw", *options, "--channels", "2,mix") == 2  # one of them has a header
    assert "leave out encoding and sample_rate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--encoding", "linear16"), "expected sample_rate=… with encoding=linear16, got none"),
        (("--sample-rate", "8000"), "expected sample_rate only for audio without a header"),
        (("--channels", "2"), "expected a number of channels only for audio without a header"),
        (("--channels", "both"), "channels: expected split, mix, or"),
        (("--encoding", "mulaw", "--sample-rate", "80"), "expected a sample rate of 8000 to 192000 Hz, got 80"),
        (("--encoding", "gsm", "--channels", "2"), "expected one channel with encoding=gsm, got 2"),
        (("--encoding", "g722", "--sample-rate", "48000"), "expected a sample rate of 16000 Hz with encoding=g722"),
    ],
)
def test_incomplete_options_for_audio_without_a_header_are_refused(
    options: tuple[str, ...], message: str, talk: Path, capsys: Capture
) -> None:
    assert run("inspect", talk, *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "csv", "audacity", "textgrid", "rttm", "webvtt"])
def test_every_format_without_warnings_of_its_own_prints_them_beside(form: str, talk: Path, capsys: Capture) -> None:
    talk.write_bytes(talk.read_bytes()[:-3200])
    assert run("inspect", talk, "--format", form) == 0
    assert "warning: talk.wav: expected 64000 bytes, as the header declares, got 60800" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_contains_the_warnings(form: str, talk: Path, capsys: Capture) -> None:
    talk.write_bytes(talk.read_bytes()[:-3200])
    assert run("inspect", talk, "--format", form) == 0
    out, err = capsys.readouterr()
    assert [warning["code"] for warning in json.loads(out)["warnings"]] == ["samples_missing"]
    assert err == ""


def test_float_samples_without_a_header_keep_their_values(talk: Path, capsys: Capture) -> None:
    Path("f.raw").write_bytes(np.full(RATE_HZ, 0.25, "<f4").tobytes())
    run("inspect", "f.raw", "--encoding", "float32", "--sample-rate", str(RATE_HZ), "--format", "json")
    levels = json.loads(capsys.readouterr().out)["channels"][0]["levels"]
    assert levels["peak_dbfs"] == pytest.approx(-12.04, abs=0.01)
