"""`speech-qc baseline` on results of an archive: table, JSON, metrics."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from speech_qc.archive.dest import Destination
from speech_qc.archive.rows import as_table
from speech_qc.baseline.measures import MEASURES
from speech_qc.cli.main import main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "baseline.md").read_text(encoding="utf-8")
START = datetime(2026, 1, 1, 9, tzinfo=UTC)
DAYS = 20


def row(uri: str, manifest: dict[str, Any] | None, snr_db: float, *, error: str | None = None) -> dict[str, Any]:
    """A row of results as an archive has it; only the SNR differs."""
    found: dict[str, Any] = {
        "uri": uri,
        "manifest": None if manifest is None else json.dumps(manifest),
        "inspected_at": START,
        "model": "m 1",
        "profile": "default",
    }
    if error is not None:
        return {**found, "error": {"code": "invalid_audio", "message": error}}
    return {
        **found,
        "channel": 0,
        "channels": 1,
        "duration_s": 4.0,
        "status": "fail" if snr_db < 5 else "pass",
        "reasons": [],
        "summary": {"snr_db": snr_db, "quality": 80.0},
        "levels": {"loudness_lufs": -23.0},
        "events": [],
    }


def calls(days: int = DAYS, start: datetime = START) -> list[dict[str, Any]]:
    """Three trunks; the SNR of the one named south falls on the last day."""
    rng = np.random.default_rng(5)
    found = []
    for trunk in ("north", "south", "west"):
        for day in range(days):
            level = 25 + rng.normal() - (22 if trunk == "south" and day == days - 1 else 0)
            started = start + timedelta(days=day)
            for call in range(12):
                uri = f"/calls/{trunk}/{started:%Y%m%d}/{call}.wav"
                found.append(row(uri, {"trunk": trunk, "started_at": started.isoformat()}, level + rng.normal()))
    return found


@pytest.fixture
def results(tmp_path: Path) -> str:
    return written(tmp_path / "results", calls())


def written(folder: Path, rows: list[dict[str, Any]]) -> str:
    with Destination(str(folder)) as destination:
        destination.add(as_table(rows))
        destination.flush()
    return str(folder)


BY_COLUMN = ("--by", "trunk", "--time", "started_at")


def test_the_table_names_who_left_the_range_when(results: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["baseline", results, *BY_COLUMN]) == 0

    page = capsys.readouterr().out
    assert page.startswith("1 of 3 groups by trunk are out of range in the day of 2026-01-20: south\n")
    line = next(line for line in page.splitlines() if line.startswith("south") and "snr_db" in line)
    assert "2026-01-20" in line and "ongoing" in line
    assert "false alarm has a probability of at most 1.00%" in page


def test_the_page_shows_the_real_table(results: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["baseline", results, "--by", "trunk"]) == 0

    shown = PAGE.split("$ speech-qc baseline results --by trunk\n")[1].split("```")[0]
    assert capsys.readouterr().out == shown


def test_the_page_has_every_measure_and_field(results: str, capsys: pytest.CaptureFixture[str]):
    for measure in MEASURES:
        row = rf"\| `{measure.name}` \| {measure.worse} \| {measure.least:g}( \w+)? \|"
        assert re.search(row, PAGE), measure
    assert main(["baseline", results, *BY_COLUMN, "--json"]) == 0
    for field in json.loads(capsys.readouterr().out):
        assert f"`{field}`" in PAGE.split("## JSON")[1], field


def test_names_of_groups_cannot_control_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = "x\x1b[2Jy"
    rows = [{**one, "manifest": one["manifest"].replace("south", json.dumps(name)[1:-1])} for one in calls()]

    assert main(["baseline", written(tmp_path / "results", rows), *BY_COLUMN]) == 0

    assert "\x1b" not in capsys.readouterr().out


def test_json_has_everything(results: str, capsys: pytest.CaptureFixture[str]):
    assert main(["baseline", results, *BY_COLUMN, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["out_of_range"] == ["south"]
    assert {one["measure"] for one in found["excursions"]} == {"snr_db", "fail_ratio"}
    assert all(one["group"] == "south" and one["ongoing"] for one in found["excursions"])
    ranges = {(one["group"], one["measure"]): one for one in found["ranges"]}
    assert len(ranges) == found["compared"] == 3 * 4, "SNR, quality, loudness, share of failures"
    north = ranges["north", "snr_db"]
    assert not north["out"] and north["low"] < 23 < north["value"] and north["high"] is None
    assert (north["recordings"], north["periods"]) == (12, DAYS - 1)
    number_or_null = {"type": ["number", "null"]}
    jsonschema.validate(
        found["ranges"],
        {"items": {"properties": {"low": number_or_null, "high": number_or_null, "deviation": number_or_null}}},
    )


def test_groups_and_times_from_the_names_of_recordings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [{**one, "manifest": None} for one in calls()] + [row("/elsewhere.wav", None, 20.0)]
    results = written(tmp_path / "results", rows)
    path = ["--by-path", "calls/{line}/{day}/*.wav", "--by", "line"]

    for options in (["--time", "day"], []):
        assert main(["baseline", results, *path, *options, "--json"]) == 0

        found = json.loads(capsys.readouterr().out)
        assert found["out_of_range"] == ["south"]
        assert found["latest_period"] == "2026-01-20"
        assert found["left_out"] == {"without line": 1}


def test_what_cannot_be_used_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [
        *calls(12),
        row("/a.wav", {"trunk": "north", "started_at": "soon"}, 20.0),
        row("/b.wav", {"trunk": "north"}, 20.0),
        row("/c.wav", {"started_at": START.isoformat()}, 20.0),
        row("/d.wav", {"trunk": "north", "started_at": START.isoformat()}, 20.0, error="expected audio"),
        *(row(f"/new/{n}.wav", {"trunk": "new", "started_at": START.isoformat()}, 20.0) for n in range(3)),
    ]
    results = written(tmp_path / "results", rows)

    assert main(["baseline", results, *BY_COLUMN, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == {
        "whose started_at is no time": 1,
        "without started_at": 1,
        "without trunk": 1,
        "could not be inspected": 1,
    }
    assert found["not_judged"] == {"new": "0 periods with enough recordings; 11 are needed"}


def samples_of(text: str) -> dict[str, tuple[dict[str, str], float]]:
    families = text_string_to_metric_families(text)
    return {sample.name: (sample.labels, sample.value) for family in families for sample in family.samples}


def test_metrics_have_numbers_and_no_names(results: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "speech-qc.prom"
    assert main(["baseline", results, *BY_COLUMN, "--metrics", str(file)]) == 0

    text = file.read_text()
    by = {"by": "trunk"}
    assert samples_of(text) == {
        "speechqc_baseline_groups_out_of_range": (by, 1.0),
        "speechqc_baseline_groups_judged": (by, 3.0),
        "speechqc_baseline_groups": (by, 3.0),
        "speechqc_baseline_latest_period_timestamp_seconds": (by, datetime(2026, 1, 20, tzinfo=UTC).timestamp()),
    }
    assert "south" not in text
    assert "south" in capsys.readouterr().out


def test_recordings_of_today_and_of_a_wrong_clock_do_not_clear_the_alert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    monkeypatch.setenv("COLUMNS", "400")
    now = datetime.now(UTC)
    yesterday, wrong = (now - timedelta(days=1)).date(), now + timedelta(days=3650)
    # In twelve hours, so that the day has not ended even if the test runs past midnight.
    times = [now + timedelta(hours=12)] * 15 + [wrong, now + timedelta(days=9)]
    rows = [
        *calls(start=now - timedelta(days=DAYS)),
        *(row(f"/{n}.wav", {"trunk": "south", "started_at": at.isoformat()}, 25.0) for n, at in enumerate(times)),
    ]
    results, file = written(tmp_path / "results", rows), tmp_path / "speech-qc.prom"

    assert main(["baseline", results, *BY_COLUMN, "--metrics", str(file)]) == 0
    page = capsys.readouterr().out
    assert main(["baseline", results, *BY_COLUMN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert page.startswith(f"1 of 3 groups by trunk are out of range in the day of {yesterday}: south\n")
    assert samples_of(file.read_text())["speechqc_baseline_groups_out_of_range"][1] == 1
    assert document["out_of_range"] == ["south"]
    assert (document["latest_period"], document["compared"]) == (str(yesterday), 12)
    unfinished, future = document["left_out"].items()
    assert unfinished == ("of a day that has not ended", 15)
    assert future[1] == 2
    assert future[0].startswith("dated in the future (expected ")
    assert future[0].endswith(f" at the latest, got up to {wrong.isoformat(timespec='minutes')})")
    assert f"Recordings left out: 2 {future[0]}, 15 of a day that has not ended\n" in page


def test_where_nothing_can_be_compared_there_is_no_latest_period(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    results, file = written(tmp_path / "results", calls(3)), tmp_path / "speech-qc.prom"

    assert main(["baseline", results, *BY_COLUMN, "--metrics", str(file)]) == 0
    page = capsys.readouterr().out
    assert main(["baseline", results, *BY_COLUMN, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)

    assert page == ("0 of 3 groups by trunk can be compared\n3 groups have too few days to judge: north, south, west\n")
    assert (document["latest_period"], document["compared"], document["out_of_range"]) == (None, 0, [])
    assert {name: value for name, (_, value) in samples_of(file.read_text()).items()} == {
        "speechqc_baseline_groups_out_of_range": 0,
        "speechqc_baseline_groups_judged": 0,
        "speechqc_baseline_groups": 3,
    }


def test_a_group_with_few_recordings_is_named_beside_busier_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    started = (START + timedelta(days=DAYS)).isoformat()
    next_day = [
        row(f"/next/{trunk}/{n}.wav", {"trunk": trunk, "started_at": started}, 25 + n / 10)
        for trunk, count in (("north", 12), ("south", 3))
        for n in range(count)
    ]
    results, file = written(tmp_path / "results", calls() + next_day), tmp_path / "speech-qc.prom"

    assert main(["baseline", results, *BY_COLUMN, "--metrics", str(file)]) == 0

    heading = "1 of 3 groups by trunk are out of range in the day of 2026-01-21 or the one before: south "
    assert " ".join(capsys.readouterr().out.split()).startswith(heading)
    samples = samples_of(file.read_text())
    assert samples["speechqc_baseline_groups_out_of_range"][1] == 1
    assert samples["speechqc_baseline_groups_judged"][1] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "agent"], "720 without agent"),
        (["--by", "trunk", "--time", "when"], "720 without when"),
        ([*BY_COLUMN, "--by-path", "calls/*.wav"], "expected fields in braces"),
        ([*BY_COLUMN, "--false-alarm-rate", "0"], "between 0 and 1"),
        ([*BY_COLUMN, "--metrics", "/nosuch/x.prom"], "can be written"),
    ],
)
def test_wrong_use_says_what_to_do(results: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["baseline", results, *options]) == 2
    assert message in capsys.readouterr().err
