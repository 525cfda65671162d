from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_material import run
from fastapi import FastAPI

from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.engine import EchoRunner
from speech_qc.settings import Settings
from speech_qc.version import __version__

Capture = pytest.CaptureFixture[str]


class Server:
    """Record the settings of each served model."""

    def __init__(self) -> None:
        self.app: Any = None
        self.options: dict[str, Any] = {}
        self.settings: Settings | None = None

    def seams(self) -> Seams:
        def make_runner(settings: Settings) -> EchoRunner:
            assert self.app is None, "the model comes before the server"
            self.settings = settings
            return EchoRunner()

        def run_server(app: Any, **options: Any) -> None:
            self.app, self.options = app, options

        return Seams(make_runner=make_runner, run_server=run_server)


def test_serve_loads_the_model_then_serves_where_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    words = ["serve", "--host", "0.0.0.0", "--port", "9000", "--model", "m.onnx", "--device", "cpu"]
    monkeypatch.setenv("SPEECHQC_ALLOW_ANONYMOUS", "true")
    assert main([*words, "--log-level", "warning"], seams=server.seams()) == 0
    assert isinstance(server.app, FastAPI)
    assert server.settings is not None
    assert (server.settings.model_path, server.settings.device) == (Path("m.onnx"), "cpu")
    assert {name: server.options[name] for name in ("host", "port", "log_level")} == {
        "host": "0.0.0.0",
        "port": 9000,
        "log_level": "warning",
    }


def test_serve_takes_what_is_not_said_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHQC_PORT", "8123")
    server = Server()
    assert main(["serve"], seams=server.seams()) == 0
    assert server.options["port"] == 8123


def test_serve_with_a_wrong_setting_never_serves(capsys: Capture) -> None:
    server = Server()
    assert main(["serve", "--port", "70000"], seams=server.seams()) == 2
    assert server.app is None
    assert "SPEECHQC_PORT=70000" in capsys.readouterr().err


def test_serve_with_a_wrong_profile_never_serves(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHQC_DEFAULT_PROFILE", "absent")
    server = Server()
    assert main(["serve"], seams=server.seams()) == 2
    assert server.app is None
    assert "absent" in capsys.readouterr().err


@pytest.mark.slow
def test_serve_without_a_model_is_one_sentence_and_exit_code_2(workplace: Path) -> None:
    words = [sys.executable, "-m", "speech_qc", "serve", "--model", str(workplace / "absent.onnx"), "--device", "cpu"]
    root = Path(__file__).parents[2]
    result = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: model file ")
    assert len(result.stderr.splitlines()) == 1


def test_model_prints_labels_with_thresholds(capsys: Capture) -> None:
    assert run("model") == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["model"][1:] == ["echo", "0.0.0"]
    assert rows["noise"] == ["noise", "headline", "probability", "0", "…", "1", "0.5", "0.35", "0.1", "0.2"]
    assert rows["snr_db"][-4:] == ["–"] * 4
    assert rows["latency"][1:3] == ["55", "ms"]


def test_model_as_json_is_what_the_server_answers(capsys: Capture) -> None:
    from fastapi.testclient import TestClient

    from speech_qc.app import create_app
    from speech_qc.settings import load_settings

    assert run("model", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    with TestClient(create_app(load_settings(), EchoRunner(2))) as client:
        assert document == client.get("/v1/model").json()


def test_version_is_the_packages(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"speech-qc {__version__}\n"


def test_help_says_what_the_exit_codes_mean(capsys: Capture) -> None:
    assert main(["inspect", "--help"]) == 0
    assert "Exit codes" in capsys.readouterr().out


def test_help_does_not_wait_for_the_model_runtime() -> None:
    code = (
        "import sys; import speech_qc.cli.main; "
        "print([n for n in ('onnxruntime', 'fastapi', 'matplotlib', 'uvicorn', 'httpx') if n in sys.modules])"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [[], ["inspekt"], ["serve", "--device", "abacus"]])
def test_wrong_command_is_exit_code_2(words: list[str], capsys: Capture) -> None:
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err
