"""Exports of results: NeMo manifests, Label Studio tasks, label tracks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from results_material import LOUD, QUIET, failed, inspected, item, write_results

from speech_qc.archive.sources.find import archive_sources
from speech_qc.cli.main import main
from speech_qc.columns import COLUMNS
from speech_qc.embedded.detector import Detector

LABEL_STUDIO = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {"type": "object", "required": ["audio"], "properties": {"audio": {"type": "string"}}},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["model_version", "result"],
                    "properties": {
                        "model_version": {"type": "string"},
                        "score": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                        "result": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["id", "from_name", "to_name", "type", "value"],
                                "properties": {
                                    "type": {"const": "labels"},
                                    "value": {
                                        "type": "object",
                                        "required": ["start", "end", "channel", "labels"],
                                        "properties": {
                                            "start": {"type": "number", "minimum": 0},
                                            "end": {"type": "number", "minimum": 0},
                                            "channel": {"type": "integer"},
                                            "labels": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The documented form of tasks with regions of audio."""


@pytest.fixture
def results(tmp_path: Path, echo_detector: Detector) -> str:
    """Four items: a whole stereo recording, a part, one that cannot be read, one that was inspected twice."""
    stereo = item("/calls/a.wav", {"audio_filepath": "a.wav", "duration": 1.6, "text": "hello", "speaker": "ann"})
    part = item("/calls/a.wav", {"audio_filepath": "a.wav"}, offset_s=0.5, length_s=1.5)
    bad = item("/calls/b d/é.wav")
    again = item("/calls/c.wav")
    first = [
        *inspected(echo_detector, stereo, QUIET, LOUD),
        *inspected(echo_detector, part, QUIET),
        *failed(bad, "expected audio"),
        *inspected(echo_detector, again, LOUD),
    ]
    return write_results(tmp_path / "results", first, inspected(echo_detector, again, QUIET))


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_nemo_adds_columns_to_the_manifest(results: str, capsysbinary: pytest.CaptureFixture[bytes]):
    assert main(["archive", "export", results, "--format", "nemo"]) == 0

    entries = lines(capsysbinary.readouterr().out.decode())
    assert [(one["audio_filepath"], one["qc_status"]) for one in entries] == [
        ("/calls/a.wav", "fail"),
        ("/calls/a.wav", "pass"),
        ("/calls/b d/é.wav", None),
        ("/calls/c.wav", "pass"),
    ], "the newest inspection of each"
    assert entries[0]["text"] == "hello" and entries[0]["duration"] == 1.6, "the manifest's own"
    assert entries[0]["qc_channel"] == 1, "the loud one"
    assert (entries[1]["offset"], entries[1]["duration"]) == (0.5, 1.5)
    assert entries[2]["qc_error"] == "expected audio" and entries[2]["duration"] == 0.0
    assert all(set(COLUMNS) <= set(one) for one in entries)


def test_an_exported_manifest_is_a_source(results: str, tmp_path: Path):
    out = tmp_path / "clean.jsonl"

    assert main(["archive", "export", results, "-f", "nemo", "--status", "pass", "--out", str(out)]) == 0

    items = list(archive_sources([str(out)])[0].items())
    assert [(one.uri, one.offset_s, one.length_s) for one in items] == [
        ("/calls/a.wav", 0.5, 1.5),
        ("/calls/c.wav", None, 1.5),
    ]
    assert items[0].manifest["qc_status"] == "pass"


def test_statuses_may_be_repeated(results: str, capsysbinary: pytest.CaptureFixture[bytes]):
    assert main(["archive", "export", results, "-f", "nemo", "--status", "fail", "--status", "error"]) == 0
    assert [one["qc_status"] for one in lines(capsysbinary.readouterr().out.decode())] == ["fail", None]


def test_label_studio_has_a_region_per_event(results: str, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]):
    out = tmp_path / "tasks.json"
    options = ["--root", "/calls/", "--url", "https://host/audio/", "--out", str(out)]
    assert main(["archive", "export", results, "-f", "label-studio", *options]) == 0

    tasks = json.loads(out.read_bytes())
    jsonschema.validate(tasks, LABEL_STUDIO)
    assert [task["data"]["audio"] for task in tasks] == [
        "https://host/audio/a.wav",
        "https://host/audio/a.wav",
        "https://host/audio/b%20d/%C3%A9.wav",
        "https://host/audio/c.wav",
    ]
    stereo, part = tasks[0]["predictions"][0]["result"], tasks[1]["predictions"][0]["result"]
    assert {region["value"]["channel"] for region in stereo} == {0, 1}
    assert min(region["value"]["start"] for region in part) >= 0.5, "times count from the start of the file"
    assert len({region["id"] for region in stereo}) == len(stereo)
    assert tasks[0]["data"]["speaker"] == "ann" and tasks[0]["data"]["qc_status"] == "fail"
    assert not capsysbinary.readouterr().out


def test_label_tracks_are_those_of_inspect(
    results: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], echo_detector: Detector
):
    out = tmp_path / "labels"
    assert main(["archive", "export", results, "-f", "audacity", "--out", str(out)]) == 0

    found = sorted(str(path.relative_to(out)) for path in out.rglob("*.txt"))
    assert found == ["calls/a.wav.txt", "calls/a.wav@0.500000+1.500000.txt", "calls/c.wav.txt"]
    track = (out / "calls" / "c.wav.txt").read_text().splitlines()
    events = echo_detector.inspect(QUIET, sample_rate=16_000).channels[0].events
    expected = [(event.onset_s, event.label) for event in sorted(events, key=lambda one: (one.onset_s, one.label))]
    assert [(float(line.split("\t")[0]), line.split("\t")[2].split()[0]) for line in track] == expected
    assert "ch1: " in (out / "calls" / "a.wav.txt").read_text()
    assert "1 recordings have none" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["textgrid", "rttm", "webvtt", "csv"])
def test_every_label_format_is_written(results: str, tmp_path: Path, form: str):
    out = tmp_path / "tracks"
    assert main(["archive", "export", results, "-f", form, "--out", str(out)]) == 0
    assert all(path.stat().st_size for path in out.rglob("*.*"))
    assert sum(path.is_file() for path in out.rglob("*")) == 3


def test_names_cannot_leave_the_folder_or_clash(tmp_path: Path, echo_detector: Detector):
    long = "x" * 240
    uris = [
        "/../../a.wav",
        "s3://bucket/a.wav",
        "/data/s.tar#k/a:1.wav",
        "/data/s.tar#k/a_1.wav",
        f"/{long}1",
        f"/{long}2",
    ]
    rows = [row for uri in uris for row in inspected(echo_detector, item(uri), QUIET)]
    out = tmp_path / "labels"
    results = write_results(tmp_path / "results", rows)

    assert main(["archive", "export", results, "-f", "rttm", "--out", str(out)]) == 0

    assert sum(path.is_file() for path in out.rglob("*")) == len(uris)
    assert {path.name for path in tmp_path.iterdir()} == {"profiles.yaml", "results", "labels"}


def test_recordings_inside_containers_are_refused_where_they_cannot_be_named(
    tmp_path: Path, echo_detector: Detector, capsys: pytest.CaptureFixture[str]
):
    for number, uri in enumerate(("/d/s.tar#a.wav", "/d/t.parquet#audio:3", "/d/wav.ark:16")):
        results = write_results(tmp_path / f"r{number}", inspected(echo_detector, item(uri), QUIET))
        for form in ("nemo", "label-studio"):
            assert main(["archive", "export", results, "-f", form]) == 2
            assert "expected recordings that are files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-f", "audacity"], "add --out"),
        (["-f", "nemo", "--root", "/a", "--url", "/b"], "leave them out"),
        (["-f", "label-studio", "--root", "/a"], "both or neither"),
        (["-f", "label-studio", "--root", "/elsewhere", "--url", "/b"], "below /elsewhere"),
        (["-f", "nemo", "--out", "/nosuch/folder/x.jsonl"], "cannot write"),
    ],
)
def test_wrong_use_says_what_to_do(results: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["archive", "export", results, *options]) == 2
    assert message in capsys.readouterr().err


def test_no_results_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["archive", "export", str(tmp_path / "nosuch"), "-f", "nemo"]) == 2
    assert "no such folder" in capsys.readouterr().err
