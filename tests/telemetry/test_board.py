"""Every expression of the dashboard and every rule returns data from Prometheus under load."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from programs import program

from board import BOARD, ask, expressions, load, panels
from speech_qc.capacity.host import free_port
from waiting import block_until

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
PATIENCE_S = 180.0


def test_the_board_is_what_its_program_makes():
    spec = importlib.util.spec_from_file_location("make_board", GRAFANA / "make_board.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert BOARD.read_text(encoding="utf-8") == module.text(), "run: python deploy/grafana/make_board.py"


def test_no_panel_is_empty_hidden_behind_another_or_without_source():
    seen: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & seen, f"{panel['title']} covers another panel"
        assert place["x"] + place["w"] <= 24
        seen |= cells
        if panel["type"] != "row":
            assert panel["targets"] and panel["datasource"]["uid"] == "prometheus", panel["title"]


@contextmanager
def running(*words: str, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=ROOT, env=os.environ | variables, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def until_answered(url: str, log: Path) -> None:
    def answered() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(url).status_code == 200
        return False

    def read() -> str:
        return log.read_text(encoding="utf-8", errors="replace")

    block_until(answered, f"{url} answers", patience_s=PATIENCE_S, every_s=0.1, details=read)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a Prometheus with our rules that scrapes a busy server with two workers."""
    binary = program("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    port, its_port = free_port(), free_port()
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus/rules/*.yml")]
    config["alerting"] = {}
    config["scrape_configs"] = config["scrape_configs"][:1]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    log, its_log = folder / "service.log", folder / "prometheus.log"
    with (
        running(
            *(sys.executable, "-m", "speech_qc", "serve", "--port", str(port), "--workers", "2"),
            log=log, SPEECHQC_DEVICE="cpu", SPEECHQC_MAX_BATCH="4", SPEECHQC_MAX_STREAMS="2",
        ),
        running(
            *(binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
            f"--web.listen-address=127.0.0.1:{its_port}", log=its_log,
        ),
    ):  # fmt: skip
        until_answered(f"http://127.0.0.1:{port}/health/ready", log)
        until_answered(f"http://127.0.0.1:{its_port}/-/ready", its_log)
        address = f"http://127.0.0.1:{its_port}"
        for _ in range(3):
            asyncio.run(load(port))
            time.sleep(2.5)  # scrapes between which values have increased
        yield address


@pytest.mark.slow
def test_every_expression_of_the_board_returns_data(prometheus):
    silent = [name for name, text in expressions().items() if not ask(prometheus, text)]
    assert not silent


@pytest.mark.slow
def test_what_happened_is_on_the_board(prometheus):
    def value(name: str) -> float:
        return sum(float(one["value"][1]) for one in ask(prometheus, expressions()[name]))

    assert value("Engine alive: alive") == 1
    assert value("Workers up: up") == 2
    assert value("Streams and places: places") == 4
    assert value("Frames scored: frames") > 0
    assert value("Refused and dropped: refused: {{reason}}") > 0
    assert value("Share of noisy frames: {{path}}") > 0
    assert value("Instances up: up") == 1
    assert value("Memory of uploads and responses: limit per process") == 2**30
    assert value("Restarts in 15 minutes: {{instance}}") == 0
    assert value("Lag from arrival to scores: p99") > 0
    assert value("Events by label: {{label}}") > 0


@pytest.mark.slow
def test_every_rule_is_evaluated_and_no_alarm_comes_of_ordinary_work(prometheus):
    groups = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 29
    assert {rule["health"] for rule in rules} == {"ok"}, [rule for rule in rules if rule["health"] != "ok"]
    firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
    assert firing == []
    for record in [rule["name"] for rule in rules if rule["type"] == "recording"]:
        assert ask(prometheus, record), record
