"""The components of several processes, each alone."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from speech_qc.capacity.host import PROC, Host, children_of, descendants_of, free_port, parse_steps, resident_kib
from speech_qc.capacity.search import Trial
from speech_qc.cli.capacity import CapacityOptions, CapacityResult, advice
from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.engine import EchoRunner
from speech_qc.errors import SettingsError, StartupError
from speech_qc.settings import Settings
from speech_qc.workers import Job, Member, Supervisor, member, supervisor
from speech_qc.workers.acceptor import bind_all
from speech_qc.workers.metrics_merge import merge
from speech_qc.workers.supervisor import FIRST_DELAY_S, HEALTHY_S, MOST_DELAY_S, describe_exit, restart_delay_s

SECRET = "a secret of the parent"


def registry_text(value: float, *routes: str) -> str:
    registry = CollectorRegistry()
    Gauge("x_active", "Now {open}.", registry=registry).set(value)
    requests = Counter("x_requests", 'By "route".', ["route"], registry=registry)
    for route in routes:
        requests.labels(route).inc(value)
    Histogram("x_seconds", "How long.", buckets=(0.5,), registry=registry).observe(value)
    Info("x_model", "Which.", registry=registry).info({"name": "a b"})
    return generate_latest(registry).decode()


def values(text: str) -> dict[tuple[str, frozenset], float]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "every family once"
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_merged_metrics_are_those_of_each_worker_with_one_label_more():
    texts = {0: registry_text(1, "/", '/{odd} "path"\\'), 1: registry_text(2), 2: None}
    merged = values(merge(texts, {0: 0, 1: 3, 2: 7}))
    expected = {
        (name, labels | {("worker", str(worker))}): value
        for worker, text in texts.items()
        for (name, labels), value in values(text or "").items()
    }
    for worker, (up, restarts) in enumerate([(1, 0), (1, 3), (0, 7)]):
        expected["speechqc_worker_up", frozenset({("worker", str(worker))})] = up
        expected["speechqc_worker_restarts_total", frozenset({("worker", str(worker))})] = restarts
    assert merged == expected


def test_types_survive_the_merge():
    families = text_string_to_metric_families(merge({0: registry_text(1, "/"), 1: registry_text(2, "/")}, {0: 0, 1: 0}))
    kinds = {family.name: family.type for family in families}
    assert (kinds["x_seconds"], kinds["x_requests"], kinds["x_active"]) == ("histogram", "counter", "gauge")
    assert (kinds["speechqc_worker_up"], kinds["speechqc_worker_restarts"]) == ("gauge", "counter")


def test_the_wait_before_a_start_doubles_up_to_a_bound_and_begins_anew_after_a_healthy_life():
    waits = [restart_delay_s(None, 0.1)]
    for _ in range(10):
        waits.append(restart_delay_s(waits[-1], 1.0))
    assert waits[:4] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S, 8 * FIRST_DELAY_S]
    assert waits[-1] == MOST_DELAY_S
    assert restart_delay_s(waits[-1], HEALTHY_S) == FIRST_DELAY_S


def test_a_program_that_cannot_be_started_ends_the_parent_with_the_reason(tmp_path):
    settings = Settings(port=free_port(), workers=2)
    with pytest.raises(StartupError, match=r"worker \d could not be started: .*No such file.*absent"):
        Supervisor(settings, [str(tmp_path / "absent")]).run()


def test_ends_are_said_in_words():
    assert describe_exit(3) == "ended with exit code 3"
    assert describe_exit(-9) == "was terminated by SIGKILL"
    assert describe_exit(-60) == "was terminated by signal 60"


def test_a_job_arrives_as_it_was_said(monkeypatch):
    monkeypatch.setenv("SPEECHQC_PORT", "9999")
    said = Job(1, 3, Settings(port=8123, model_path=Path("m.onnx"), max_streams=7, token_secret=SecretStr(SECRET)), 5)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(said.encode() + b"what follows is left alone")
        heard = Job.receive(theirs)
        assert heard == said, "what the parent says outweighs the environment"
        assert heard is not None and heard.settings.token_secret is not None
        assert heard.settings.token_secret.get_secret_value() == SECRET, "not the stars that stand for it"
        assert theirs.recv(100) == b"what follows is left alone"
        ours.close()
        assert Job.receive(theirs) is None


@asynccontextmanager
async def joined(on_orphaned=None) -> AsyncIterator[tuple[socket.socket, Member]]:
    """Yield worker 1 of 3 and the parent's end of its channel."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    one = Member(theirs, 1, 3, on_orphaned)
    one.offer(lambda: text_of(5))
    await one.join()
    with ours:
        assert await receive(ours) == {"type": "up"}
        yield ours, one
        one.close()


async def receive(ours: socket.socket) -> dict:
    return json.loads(await asyncio.get_running_loop().sock_recv(ours, 1 << 20))


async def send(ours: socket.socket, **message: object) -> None:
    await asyncio.get_running_loop().sock_sendall(ours, json.dumps(message).encode() + b"\n")


def text_of(value: float) -> str:
    return f"# HELP x_active Now.\n# TYPE x_active gauge\nx_active {value:.1f}\n"


def by_worker(text: str, name: str) -> list[float | None]:
    found = values(text)
    return [found.get((name, frozenset({("worker", worker)}))) for worker in "012"]


def test_a_worker_answers_with_its_own_metrics():
    async def scenario() -> dict:
        async with joined() as (ours, _):
            await send(ours, type="read", id=4)
            return await receive(ours)

    assert asyncio.run(scenario()) == {"type": "text", "id": 4, "text": text_of(5)}


def test_a_scrape_joins_the_others_series_with_its_own():
    async def scenario() -> str:
        async with joined() as (ours, one):
            scrapes = [asyncio.create_task(one.scrape()) for _ in range(2)]
            asked = (await asyncio.get_running_loop().sock_recv(ours, 1 << 20)).splitlines()
            for line, value in reversed(list(zip(asked, (7, 8), strict=True))):
                identity = json.loads(line)["id"]
                await send(ours, type="series", id=identity, texts={"0": text_of(value)}, restarts={"0": 2})
            first, second = await asyncio.gather(*scrapes)
            assert by_worker(second, "x_active") == [8, 5, None], "each scrape gets its own answer"
            return first

    text = asyncio.run(scenario())
    assert by_worker(text, "x_active") == [7, 5, None]
    assert by_worker(text, "speechqc_worker_up") == [1, 1, 0]
    assert by_worker(text, "speechqc_worker_restarts_total") == [2, None, None]


def test_a_silent_parent_costs_the_others_series_not_the_scrape(monkeypatch):
    monkeypatch.setattr(member, "COLLECT_S", 0.02)

    async def scenario() -> str:
        async with joined() as (_, one):
            return await one.scrape()

    assert by_worker(asyncio.run(scenario()), "speechqc_worker_up") == [0, 1, 0]


def test_a_worker_leaves_when_its_parent_is_gone():
    async def scenario() -> None:
        left = asyncio.Event()
        async with joined(left.set) as (ours, _):
            ours.close()
            await asyncio.wait_for(left.wait(), 5)

    asyncio.run(scenario())


def test_every_address_of_a_host_is_bound_and_a_taken_port_is_refused():
    first = bind_all("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    first[0].listen()
    with first[0], pytest.raises(SettingsError, match=rf"SPEECHQC_PORT={port}: Address already in use"):
        bind_all("127.0.0.1", port)
    with pytest.raises(SettingsError, match=r"SPEECHQC_HOST='no such host'"):
        bind_all("no such host", 8000)


def test_capacity_counts_the_steps_of_all_workers_and_advises_places_for_each():
    text = "".join(
        f'speechqc_batch_size_sum{{worker="{worker}",lane="{lane}"}} 30.0\n'
        f'speechqc_batch_size_count{{worker="{worker}",lane="{lane}"}} 10.0\n'
        for worker in (0, 1)
        for lane in ("live", "upload", "flush")
    )
    steps = parse_steps(text)
    assert steps is not None and (steps.chunks, steps.steps) == (120.0, 40.0)
    assert parse_steps(text.replace("batch_size", "other")) is None
    trial = Trial(100, (1.0,) * 5, 1.0, 1.0, 1, 0, 0, None, None, 0.0, None, None)
    finding = CapacityResult("m", [trial], 100, True, "so", workers=2)
    assert "SPEECHQC_MAX_STREAMS=40 (80% of that, for each of the 2 processes)" in advice(finding, CapacityOptions())


@pytest.mark.skipif(not PROC.exists(), reason="the figures of a process are read from /proc")
def test_a_process_is_seen_with_those_that_it_started():
    program = "print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        both = Host("http://x", os.getpid()).memory_kib()
        assert child.pid in children_of(os.getpid())
        assert child.pid in descendants_of(os.getppid())
        assert both is not None and both > (resident_kib(os.getpid()) or 0) + 2000
        child.communicate(b"\n")
    assert child.pid not in children_of(os.getpid())


def test_one_worker_is_served_in_this_process_and_more_are_supervised(monkeypatch):
    seen: list[str | int] = []

    def supervise(settings: Settings) -> int:
        seen.append(settings.workers)
        return 0

    seams = Seams(
        make_runner=lambda _: EchoRunner(), run_server=lambda _, **__: seen.append("here"), supervise=supervise
    )
    assert main(["serve"], seams=seams) == 0
    assert main(["serve", "--workers", "3"], seams=seams) == 0
    monkeypatch.setenv("SPEECHQC_WORKERS", "2")
    assert main(["serve"], seams=seams) == 0
    assert main(["serve", "--workers", "1"], seams=seams) == 0
    assert seen == ["here", 3, 2, "here"]
    assert main(["serve", "--workers", "0"], seams=seams) == 2


def test_a_single_process_has_no_worker_label(make_client):
    client = make_client()
    assert "worker" not in client.get("/metrics").text
    assert client.get("/health/ready").json()["workers"] == 1


def test_the_parent_waits_for_a_worker_shorter_than_a_worker_for_the_parent():
    assert supervisor.READ_S < member.COLLECT_S < 10, "a scrape gives up after 10 s"
