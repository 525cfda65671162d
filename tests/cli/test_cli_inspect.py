from __future__ import annotations

import asyncio
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_material import RATE_HZ, noise, run, write

from speech_qc.cli.answers import answers_in_order
from speech_qc.cli.files import InputFile
from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.engine import EchoRunner
from speech_qc.errors import ContractError, InvalidAudio
from speech_qc.exit_codes import CLOSED_PIPE, INTERRUPTED
from speech_qc.settings import Settings

Capture = pytest.CaptureFixture[str]


def test_single_recording_shows_verdict_events_and_a_lane_of_scores(talk: Path, capsys: Capture) -> None:
    assert run("inspect", talk) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "pass" in out
    lanes = {line.split()[0]: line for line in out.splitlines() if line and line.split()[0] in ("speech", "noise")}
    assert len(lanes["speech"]) == len("interfering_speech") + 2 + 100  # one character per 20 ms
    assert lanes["speech"].split()[1] == "▆" * 100
    assert "onset s" in out


def test_several_recordings_make_one_table_and_a_tally_beside_it(talk: Path, capsys: Capture) -> None:
    write(Path("two.flac"), np.stack([noise(1.0), noise(1.0, level=0.0)], axis=1))
    assert run("inspect", talk, "two.flac", "--profile", "fails") == 1
    out, err = capsys.readouterr()
    rows = [line for line in out.splitlines() if line.startswith(("talk.wav", "two.flac"))]
    assert [row.split()[:2] for row in rows] == [["talk.wav", "2.00"], ["two.flac", "0"], ["two.flac", "1"]]
    assert "onset" not in out
    assert err == "3 verdicts: 3 fail\n"  # the second channel of the second is a silent line
    assert "judged by echo 0.0.0, profile fails\n" in out


def test_narrow_terminal_keeps_every_column(talk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run("inspect", ".", "--profile", "fails")
    out = capsys.readouterr().out
    heading = out.splitlines()[0]
    assert "…" not in heading
    assert heading.endswith("events")
    assert "talk.wav: The peak level is" in out
    assert max(map(len, out.splitlines())) <= 80


def test_scores_prints_one_row_per_frame(talk: Path, capsys: Capture) -> None:
    run("inspect", talk, "--scores")
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["time_s"])
    assert lines[start].split() == ["time_s", "speech", "noise", "interference", "snr_db"]
    assert [line.split()[0] for line in lines[start + 1 : start + 101]] == [f"{0.02 * i:.2f}" for i in range(100)]


def test_scores_of_a_long_recording_are_refused_with_the_way_out(capsys: Capture) -> None:
    write(Path("long.wav"), np.zeros(31 * RATE_HZ, np.float32))
    assert run("inspect", "long.wav", "--scores") == 2
    assert "--format csv --scores" in capsys.readouterr().err


def test_json_of_one_file_is_one_document_with_its_name(talk: Path, capsys: Capture) -> None:
    assert run("inspect", talk, "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file"] == "talk.wav"
    assert len(document["channels"][0]["frames"]["speech"]) == document["audio"]["frames"] == 100


def test_json_of_several_files_is_an_array_even_when_one_is_broken(talk: Path, capsys: Capture) -> None:
    Path("broken.wav").write_bytes(b"RIFF")
    write(Path("other.wav"), noise(1.0))
    assert run("inspect", "broken.wav", talk, "other.wav", "--format", "json", "--no-frames") == 2
    out, err = capsys.readouterr()
    documents = json.loads(out)
    assert [document["file"] for document in documents] == ["talk.wav", "other.wav"]
    assert "frames" not in documents[0]["channels"][0]
    assert "broken.wav: expected a WAV header" in err
    assert err.endswith("2 verdicts: 2 pass; 1 error\n")


def test_json_array_is_valid_when_nothing_could_be_inspected(capsys: Capture) -> None:
    Path("a.wav").write_bytes(b"")
    assert run("inspect", ".", "--format", "json") == 2
    assert json.loads(capsys.readouterr().out) == []


def test_jsonl_has_a_line_per_file_in_the_order_of_the_arguments(capsys: Capture) -> None:
    paths = [write(Path(f"{i}.wav"), noise(0.6 + 0.8 * (7 - i), seed=i)) for i in range(8)]  # the first lasts longest
    assert run("inspect", *paths, "--format", "jsonl") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["file"] for line in lines] == [f"{i}.wav" for i in range(8)]


def test_csv_of_several_files_has_one_header_and_a_file_column(talk: Path, capsys: Capture) -> None:
    write(Path('odd, "name".wav'), noise(1.0))
    run("inspect", ".", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["file"] for row in rows} == {"talk.wav", 'odd, "name".wav'}
    assert all(float(row["offset_s"]) > float(row["onset_s"]) for row in rows)


def test_csv_scores_have_a_row_per_frame(talk: Path, capsys: Capture) -> None:
    run("inspect", talk, "--format", "csv", "--scores", "--labels", "noise,speech")
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows[0] == ["channel", "start_s", "speech", "noise"]
    assert len(rows) == 101


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("textgrid", 'File type = "ooTextFile"'),
        ("webvtt", "WEBVTT"),
        ("rttm", "SPEAKER talk.wav 1 "),
        ("audacity", "0"),
    ],
)
def test_label_export_goes_to_stdout(talk: Path, capsys: Capture, form: str, start: str) -> None:
    assert run("inspect", talk, "--format", form) == 0
    assert capsys.readouterr().out.startswith(start)


def test_label_export_of_several_files_needs_a_folder(talk: Path, capsys: Capture) -> None:
    assert run("inspect", ".", "--format", "textgrid") == 2
    assert "--out DIR" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "extension"),
    [("json", "json"), ("jsonl", "jsonl"), ("csv", "csv"), ("audacity", "txt"), ("textgrid", "TextGrid"),
     ("rttm", "rttm"), ("webvtt", "vtt"), ("table", "txt")],
)  # fmt: skip
def test_out_writes_one_file_per_recording_and_nothing_to_stdout(form: str, extension: str, capsys: Capture) -> None:
    write(Path("in/a/x.wav"), noise(0.8))
    write(Path("in/b/x.wav"), noise(0.8))
    write(Path("in/b/y.wav"), noise(0.8))
    assert run("inspect", "in", "--format", form, "--out", "new/results") == 0
    names = sorted(path.name for path in Path("new/results").iterdir())
    assert names == [f"a__x.{extension}", f"b__x.{extension}", f"y.{extension}"]
    assert all(path.stat().st_size for path in Path("new/results").iterdir())
    assert capsys.readouterr().out == ""


def test_out_that_is_a_file_is_refused_before_work_begins(talk: Path, capsys: Capture) -> None:
    Path("taken").touch()
    assert run("inspect", talk, "--out", "taken") == 2
    assert "--out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("profile", "fail_on", "code"),
    [("default", "fail", 0), ("default", "warn", 0), ("warns", "fail", 0), ("warns", "warn", 1), ("fails", "fail", 1),
     ("fails", "warn", 1), ("fails", "never", 0)],
)  # fmt: skip
def test_exit_code_follows_the_verdict(talk: Path, profile: str, fail_on: str, code: int) -> None:
    assert run("inspect", talk, "--profile", profile, "--fail-on", fail_on, "--format", "jsonl") == code


@pytest.mark.parametrize(
    ("fail_on", "code"),
    [((), 0), (("skipped",), 1), (("fail", "skipped"), 1), (("never",), 0), (("warn",), 0), (("never", "skipped"), 2)],
)
def test_skipped_files_are_said_and_count_if_asked(fail_on: tuple[str, ...], code: int, capsys: Capture) -> None:
    write(Path("calls/a.wav"), noise(2.0))
    Path("calls/b.gsm").write_bytes(bytes(330))
    options = [part for value in fail_on for part in ("--fail-on", value)]
    assert run("inspect", "calls", "--format", "jsonl", *options) == code
    out, err = capsys.readouterr()
    if code == 2:
        assert "'never' alone" in err
        return
    assert len(out.splitlines()) == 1
    assert err == ("skipped 1 file that does not look like audio: 1 .gsm (b.gsm)\n1 verdict: 1 pass; 1 file skipped\n")


def test_skipped_does_not_count_verdicts_and_an_error_comes_first(talk: Path) -> None:
    assert run("inspect", talk, "--profile", "fails", "--fail-on", "skipped") == 0
    assert run("inspect", talk, "--profile", "fails", "--fail-on", "skipped", "--fail-on", "fail") == 1
    Path("calls").mkdir()
    Path("calls/b.gsm").write_bytes(bytes(330))
    assert run("inspect", talk, "calls", "--fail-on", "skipped") == 2


@pytest.mark.parametrize(("fail_on", "code"), [("fail", 0), ("warn", 1)])
def test_unknown_verdict_passes_unless_warnings_count(fail_on: str, code: int) -> None:
    write(Path("short.wav"), noise(0.2))
    assert run("inspect", "short.wav", "--fail-on", fail_on) == code


def test_error_outweighs_a_failed_verdict(talk: Path) -> None:
    Path("broken.wav").write_bytes(b"RIFF")
    assert run("inspect", ".", "--profile", "fails") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.wav"], "nowhere.wav: no such file or folder"),
        (["talk.wav", "--profile", "x"], "expected profile to be one of default, warns, fails"),
        (["talk.wav", "--labels", "x"], "expected labels from speech, noise"),
        (["talk.wav", "--format", "xml"], "xml"),
        (["talk.wav", "--url", "http://a", "--device", "cpu"], "--device"),
        (["talk.wav", "--url", "127.0.0.1:8000"], "http://127.0.0.1:8000"),
        (["talk.wav", "--scores", "--format", "json"], "--scores"),
        ([], "FILES"),
    ],
)
def test_wrong_use_is_explained_with_exit_code_2(talk: Path, capsys: Capture, arguments: list[str], words: str) -> None:
    assert run("inspect", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "Traceback" not in err


def test_missing_argument_does_not_stop_the_others(talk: Path, capsys: Capture) -> None:
    assert run("inspect", "gone.wav", talk, "--format", "jsonl", "--no-frames") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == "talk.wav"
    assert "gone.wav" in err


def test_model_that_cannot_be_loaded_is_exit_code_2(talk: Path, capsys: Capture) -> None:
    assert main(["inspect", str(talk), "--model", "absent.onnx"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: model file absent.onnx")


def test_model_and_device_reach_the_settings(talk: Path) -> None:
    seen: list[Settings] = []

    def make_runner(settings: Settings) -> EchoRunner:
        seen.append(settings)
        raise ContractError("enough")

    main(["inspect", str(talk), "--model", "m.onnx", "--device", "cpu"], seams=Seams(make_runner=make_runner))
    assert (seen[0].model_path, seen[0].device) == (Path("m.onnx"), "cpu")


def test_mixed_channels_make_one_record(capsys: Capture) -> None:
    write(Path("two.wav"), np.stack([noise(1.0), noise(1.0, seed=2)], axis=1))
    run("inspect", "two.wav", "--channels", "mix", "--format", "json", "--no-frames")
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert len(document["channels"]) == 1
    assert document["audio"]["channels"] == 2


def test_recordings_are_inspected_side_by_side_but_no_more_than_allowed() -> None:
    running = highest = 0

    async def inspect(path: Path) -> dict[str, Any]:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1
        if path.name == "3":
            raise InvalidAudio("broken")
        return {"name": path.name}

    async def collect() -> list[Any]:
        sources = [InputFile(Path(str(i))) for i in range(9)]
        return [answer async for _, answer in answers_in_order(sources, inspect, 4)]

    answers = asyncio.run(collect())
    assert highest == 4
    assert isinstance(answers[3], InvalidAudio)
    assert [answer["name"] for answer in answers if isinstance(answer, dict)] == list("01245678")


@pytest.mark.slow
def test_reader_that_leaves_ends_the_run_without_a_word(workplace: Path) -> None:
    write(Path("a.wav"), noise(30.0))
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from cli_material import run\n"
        "sys.exit(run('inspect', *['a.wav'], '--format', 'json'))"
    )
    here = Path(__file__).parent
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(here.parents[1]), str(here)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,  # unread output stays in the pipe, whose capacity is less than one document
    )
    assert process.stdout is not None
    assert process.stdout.read(10) == b'{"file":"a'
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert err == b""
    assert process.returncode == CLOSED_PIPE


def test_interruption_is_quiet(talk: Path, capsys: Capture) -> None:
    def make_runner(settings: Settings) -> EchoRunner:
        raise KeyboardInterrupt

    assert main(["serve"], seams=Seams(make_runner=make_runner)) == INTERRUPTED
    assert capsys.readouterr().err == ""
