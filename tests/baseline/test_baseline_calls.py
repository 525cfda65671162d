"""Live trunks against their own past: the calls that a server has kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speech_qc.baseline.live_calls import CallObservations
from speech_qc.call_store import records
from speech_qc.call_store.database import Database, parse_url
from speech_qc.call_store.records import Entry, Subscription
from speech_qc.calls.events import CallEvent
from speech_qc.cli.main import main

START = datetime(2026, 1, 1, 9, tzinfo=UTC)
DAYS = 20


def leg(role: str, snr_db: float) -> dict[str, Any]:
    status = "fail" if snr_db < 5 else "pass"
    return {
        "role": role,
        "verdict": {"status": status, "reasons": []},
        "summary": {"snr_db": snr_db, "quality": 80.0},
        "levels": {"loudness_lufs": -23.0},
        "events": [],
    }


def ended(number: int, trunk: str | None, started: datetime, legs: list[dict[str, Any]]) -> CallEvent:
    data = {"state": "ended", "started_at": started.isoformat(), "legs": legs}
    at = started + timedelta(minutes=3)
    return CallEvent("call.ended", f"call-{number}", "twilio", trunk, at, data, document_id=str(number))


def history(start: datetime = START) -> list[CallEvent]:
    """Three trunks; on the last day, the customers of the one named south are hard to hear."""
    rng = np.random.default_rng(5)
    found: list[CallEvent] = []
    for trunk in ("north", "south", "west"):
        for day in range(DAYS):
            level = 25 + rng.normal() - (22 if trunk == "south" and day == DAYS - 1 else 0)
            for _ in range(12):
                legs = [leg("agent", 30 + rng.normal()), leg("customer", level + rng.normal())]
                found.append(ended(len(found), trunk, start + timedelta(days=day), legs))
    return found


def filled(path: Path, events: list[CallEvent]) -> str:
    url = f"sqlite:///{path}"
    database = Database(parse_url(url), private=False)
    database.prepare()
    with database.writing() as connection:
        records.store(connection, [Entry.of(event) for event in events], Subscription())
    database.close()
    return url


def test_a_trunk_that_falls_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    url = filled(tmp_path / "calls.db", history())
    assert main(["baseline", url, "--by", "trunk", "--json", "--metrics", str(tmp_path / "qc.prom")]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["out_of_range"] == ["south"]
    assert document["latest_period"] == "2026-01-20"
    assert {one["measure"] for one in document["excursions"]} >= {"snr_db", "fail_ratio"}
    assert document["left_out"] == {}
    assert "speechqc_baseline" in (tmp_path / "qc.prom").read_text()


def test_calls_of_today_do_not_clear_the_alert(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    now = datetime.now(UTC)
    events = history(now - timedelta(days=DAYS))
    soon = now + timedelta(hours=12)  # of a day that has not ended even if the test runs past midnight
    events += [ended(len(events) + n, "south", soon, [leg("customer", 25.0)]) for n in range(12)]
    assert main(["baseline", filled(tmp_path / "calls.db", events), "--by", "trunk", "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["out_of_range"] == ["south"]
    assert document["latest_period"] == str((now - timedelta(days=1)).date())
    assert document["left_out"] == {"of a day that has not ended": 12}


def test_by_role_each_leg_counts(tmp_path: Path):
    url = filled(tmp_path / "calls.db", [ended(0, "a", START, [leg("agent", 30.0), leg("customer", 12.0)])])
    by_role = {one.group: one.values["snr_db"] for one in CallObservations(url, "role").observations()}
    assert by_role == {"agent": 30.0, "customer": 12.0}
    (by_trunk,) = CallObservations(url, "trunk").observations()
    assert (by_trunk.group, by_trunk.time) == ("a", START)


def test_what_cannot_be_compared_is_counted(tmp_path: Path):
    live = CallEvent("call.started", "live", "twilio", "a", START, {"state": "live", "started_at": START.isoformat()},
                     document_id="live")  # fmt: skip
    events = [
        live,
        ended(0, None, START, [leg("agent", 30.0)]),
        ended(1, "a", START, [{"role": "agent"}]),
        ended(2, "a", START, [leg("agent", 30.0)]),
    ]
    source = CallObservations(filled(tmp_path / "calls.db", events), "trunk")
    assert [one.group for one in source.observations()] == ["a"]
    assert source.left_out == {"without trunk": 1, "without results": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "speaker"], "expected trunk, vendor, role for calls, got 'speaker'"),
        (["--by", "trunk", "--time", "started_at"], "expected none for calls"),
        (["--by", "trunk"], "expected ended calls with trunk, got none (there are none)"),
    ],
)
def test_wrong_requests_say_what_to_do(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    url = filled(tmp_path / "calls.db", [])
    assert main(["baseline", url, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_database_that_no_server_has_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["baseline", f"sqlite:///{tmp_path}/none.db", "--by", "trunk"]) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "other.db").touch()
    assert main(["baseline", f"sqlite:///{tmp_path}/other.db", "--by", "trunk"]) == 2
    assert "it cannot be read" in capsys.readouterr().err
