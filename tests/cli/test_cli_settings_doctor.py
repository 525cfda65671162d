from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from live_server import serving
from speech_qc.capacity.host import free_port
from speech_qc.cli.doctor import exit_code
from speech_qc.cli.doctor_checks import (
    CHECKS,
    CheckResult,
    check_access,
    check_clock,
    check_cores,
    check_descriptors,
    check_environment,
    check_memory,
    check_port,
)
from speech_qc.cli.doctor_results import check_results
from speech_qc.cli.main import main
from speech_qc.cli.settings import markdown
from speech_qc.settings import Settings
from speech_qc.version import __version__

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).resolve().parents[2]


def test_the_settings_page_is_made_from_the_code() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: speech-qc settings --markdown > docs/settings.md"


def test_the_settings_page_has_every_setting_with_its_bounds() -> None:
    page = markdown()
    for name in Settings.model_fields:
        assert f"| `SPEECHQC_{name.upper()}` |" in page
    assert "| whole number | ≥ 1, ≤ 65535 | `8000` |" in page
    assert "≥ 2, ≤ 100, multiple of 2" in page


def test_settings_says_where_each_value_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    file = tmp_path / "qc.toml"
    file.write_text("max_streams = 7\nport = 1\n")
    monkeypatch.setenv("SPEECHQC_CONFIG", str(file))
    monkeypatch.setenv("SPEECHQC_PORT", "9000")
    assert main(["settings", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["port"] == {"value": 9000, "source": "environment"}
    assert said["max_streams"] == {"value": 7, "source": "file"}
    assert said["drain_s"] == {"value": 30.0, "source": "default"}
    assert main(["settings"]) == 0
    assert "SPEECHQC_MAX_STREAMS" in capsys.readouterr().out


def test_secrets_are_hidden_in_every_form(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr("speech_qc.cli.settings.is_secret", lambda name: name == "default_profile")
    monkeypatch.setenv("SPEECHQC_DEFAULT_PROFILE", "hunter2")
    for words in (["settings"], ["settings", "--json"], ["settings", "--markdown"]):
        assert main(words) == 0
        assert "hunter2" not in capsys.readouterr().out


def test_settings_with_a_wrong_value_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("SPEECHQC_WORKERS", "65")
    assert main(["settings"]) == 2
    said = capsys.readouterr().err
    assert "SPEECHQC_WORKERS='65'" in said and "less than or equal to 64" in said


def test_doctor_finds_wrong_settings_and_ends_with_2(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("SPEECHQC_WORKERS", "65")
    assert main(["doctor", "--json"]) == 2
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["name"], finding["state"]) == ("settings", "fail")


@pytest.mark.slow
def test_doctor_looks_at_everything_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("SPEECHQC_DEVICE", "cpu")
    monkeypatch.setenv("SPEECHQC_PROT", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("SPEECHQC_PORT", str(taken.getsockname()[1]))
        assert main(["doctor", "--json"]) == 2
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert set(found) == {
        "settings", "variables", "libraries", "access", "port", "open files", "memory", "cores", "clock", "results",
        "model",
        "provider", "profiles",
    }  # fmt: skip
    assert found["port"]["state"] == "fail"
    assert "SPEECHQC_PROT" in found["variables"]["text"]
    assert found["provider"]["text"].startswith("CPUExecutionProvider")
    assert all(one["advice"] for one in found.values() if one["state"] != "ok")


def test_doctor_knows_the_service_that_has_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """For example in the container of a running service."""

    async def main() -> None:
        async with serving() as (url, _):
            port = int(url.rsplit(":", 1)[1])
            for host in ("127.0.0.1", "0.0.0.0"):
                found = await asyncio.to_thread(check_port, Settings(host=host, port=port))
                assert (found.state, found.text) == (
                    "ok", f"speech-qc {__version__} listens on {host}, port {port}"
                ), found  # fmt: skip

    asyncio.run(main())


def test_doctor_says_what_is_wrong_with_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("SPEECHQC_MODEL_PATH", str(tmp_path / "none.onnx"))
    assert main(["doctor"]) == 2
    assert "SPEECHQC_MODEL_PATH" in capsys.readouterr().out


def test_places_need_descriptors() -> None:
    settings = Settings(max_streams=1000, max_uploads=8)
    assert check_descriptors(settings, 1071).state == "fail"
    assert "ulimit -n 1344" in check_descriptors(settings, 1071).advice
    assert check_descriptors(settings, 1072).state == check_descriptors(settings, 1343).state == "warn"
    assert check_descriptors(settings, 1344).state == "ok"
    few = Settings(max_streams=1000, max_uploads=8, max_connections=1000)
    assert check_descriptors(few, 1080).state == "ok"


def test_places_need_memory_and_processes_need_cores() -> None:
    settings = Settings(workers=4)
    assert check_memory(settings, 512).state == "warn"
    assert check_memory(settings, 64_000).state == "ok"
    assert "SPEECHQC_WORKERS=2" in check_cores(settings, 2.5).advice
    assert check_cores(settings, 4).state == "ok"


def test_a_clock_that_was_never_set_is_a_failure_and_one_that_nobody_keeps_a_warning() -> None:
    assert check_clock(1970, True).state == "fail"
    assert check_clock(2026, False).state == "warn"
    assert check_clock(2026, True).state == "ok"
    assert check_clock(2026).state in ("ok", "warn")


def test_a_misspelt_variable_is_found_and_the_name_of_the_file_is_none() -> None:
    assert check_environment({"SPEECHQC_MAX_STREAM": "1"}).state == "warn"
    assert check_environment({"SPEECHQC_MAX_STREAMS": "1", "SPEECHQC_CONFIG": "x", "PATH": ""}).state == "ok"


def test_the_port_is_given_back_after_the_look() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    settings = Settings(port=port)
    assert check_port(settings).state == check_port(settings).state == "ok"


def test_doctor_says_what_serve_would_say_of_strangers_and_keys(tmp_path: Path) -> None:
    assert check_access(Settings()).state == "ok"
    assert check_access(Settings(host="0.0.0.0", allow_anonymous=True)).state == "ok"
    assert "SPEECHQC_ALLOW_ANONYMOUS" in check_access(Settings(host="0.0.0.0")).text
    absent = check_access(Settings(api_keys_file=tmp_path / "absent"))
    assert absent.state == "fail" and "absent" in absent.text


def test_settings_about_keys_are_shown_and_the_secret_is_not(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("SPEECHQC_METRICS_NEEDS_KEY", "true")
    monkeypatch.setenv("SPEECHQC_TOKEN_SECRET", "hunter2-hunter2-hunter2")
    assert main(["settings", "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["metrics_needs_key"]["value"] is True
    assert "hunter2" not in out


def test_the_worst_finding_is_the_exit_code() -> None:
    ok, warn, fail = (CheckResult("x", state, "") for state in ("ok", "warn", "fail"))
    assert [exit_code([ok]), exit_code([ok, warn]), exit_code([warn, fail, ok])] == [0, 1, 2]
    assert len(CHECKS) == 5


def settings_of(**given: Any) -> Settings:
    return Settings(**given)


def test_the_database_of_calls_and_webhooks_are_checked(tmp_path):
    assert check_results(settings_of()).text == "calls are kept in memory"
    file = check_results(settings_of(results_url=f"sqlite:///{tmp_path}/calls.db"))
    assert (file.state, file.text) == ("ok", f"calls are kept in {tmp_path}/calls.db")
    assert not (tmp_path / "calls.db").exists(), "it changes nothing"
    assert check_results(settings_of(results_url="sqlite:////absent/calls.db")).state == "fail"
    gone = check_results(settings_of(results_url=f"postgresql://me:hunter2@127.0.0.1:{free_port()}/calls"))
    assert gone.state == "warn" and "does not answer" in gone.text and "hunter2" not in gone.text + gone.advice
    assert "needs SPEECHQC_WEBHOOK_SECRET" in check_results(settings_of(webhook_urls="https://a.example/")).text
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    hooks = check_results(settings_of(webhook_urls="https://a.example/", webhook_secret=secret))
    assert hooks.text == "calls are kept in memory, webhooks to 1 URL"
