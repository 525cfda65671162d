"""docker-compose.yml as a new user starts it: the sample, the dashboard, the first alert."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from docker_engine import Stack, block_until, docker, health, inspect

from board import SAMPLE, ask, expressions, load, panels

pytestmark = pytest.mark.docker


def test_the_sample_is_inspected_through_the_published_port(watched: Stack):
    answer = httpx.post(f"{watched.address('speech-qc')}/v1/inspect", content=SAMPLE.read_bytes(), timeout=60)
    assert answer.status_code == 200
    assert {event["label"] for event in answer.json()["channels"][0]["events"]} >= {"noise", "tone"}
    assert httpx.get(f"{watched.address('speech-qc')}/health/ready").json()["provider"] == "CPUExecutionProvider"


def test_every_container_is_bounded_healthy_and_without_privileges(watched: Stack):
    for service in watched.services:
        (container,) = watched.containers(service)
        found = inspect(container)
        host = found["HostConfig"]
        assert health(container) == "healthy", service
        assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["Memory"] > 0 and host["NanoCpus"] > 0 and host["PidsLimit"] > 0, service
        assert found["State"]["Running"] and found["RestartCount"] == 0, service
        for ports in found["NetworkSettings"]["Ports"].values():
            assert {port["HostIp"] for port in ports or ()} <= {"127.0.0.1"}, service
        status = docker("exec", container, "cat", "/proc/1/status")
        assert "Uid:\t0\t" not in status, f"{service} is root"


def test_prometheus_sees_what_it_should_and_the_board_has_data(watched: Stack):
    prometheus = watched.address("prometheus")
    block_until(
        lambda: {one["metric"]["job"] for one in ask(prometheus, "up == 1")} >= {"speech-qc", "prometheus"},
        "both targets up",
    )
    for _ in range(4):
        asyncio.run(load(watched.ports["speech-qc"]))
        time.sleep(6)  # scrapes run every 5 s, and values increase between two of them
    silent = [name for name, text in expressions("1m").items() if not ask(prometheus, text)]
    assert not silent
    rules = [
        rule for group in httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"] for rule in group["rules"]
    ]
    assert len(rules) >= 20
    assert {rule["health"] for rule in rules} == {"ok"}
    known = httpx.get(f"{prometheus}/api/v1/alertmanagers").json()["data"]["activeAlertmanagers"]
    assert [one["url"] for one in known] == ["http://alertmanager:9093/api/v2/alerts"]


def test_grafana_has_the_board(watched: Stack):
    if "grafana" not in watched.services:
        pytest.skip("there is no image of Grafana to be had, and no Debian package that could stand in")
    found = httpx.get(f"{watched.address('grafana')}/api/search", params={"type": "dash-db"}).json()
    board = httpx.get(f"{watched.address('grafana')}/api/dashboards/uid/{found[0]['uid']}").json()
    assert len(board["dashboard"]["panels"]) == len(panels())


def test_an_alarm_comes_when_the_service_is_gone_and_goes_when_it_is_back(watched: Stack):
    def alarms() -> set[str]:
        found = httpx.get(f"{watched.address('alertmanager')}/api/v2/alerts").json()
        return {one["labels"]["alertname"] for one in found}

    assert "SpeechQCDown" not in alarms()
    watched.compose("stop", "speech-qc")
    block_until(lambda: "SpeechQCDown" in alarms(), "SpeechQCDown after a minute without the service")
    watched.compose("start", "speech-qc")
    block_until(lambda: "SpeechQCDown" not in alarms(), "the alarm's end")


def test_a_restart_keeps_what_prometheus_knew(watched: Stack):
    watched.compose("restart", "prometheus")
    (container,) = watched.containers("prometheus")
    block_until(lambda: health(container) == "healthy", "Prometheus again")
    assert ask(watched.address("prometheus"), 'max_over_time(up{job="speech-qc"}[10m])')


def test_down_leaves_nothing(watched: Stack):
    assert watched.left()
    watched.down()
    assert watched.left() == []
