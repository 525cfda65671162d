"""Faults: a receiver that is down, a process that is killed, a database that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import func, select
from store_material import SECRET, Receiver, event, value, whole_call

from signals import voice, wav_bytes
from speech_qc.call_store.schema import deliveries, events
from speech_qc.call_store.writer import Writer
from waiting import block_until

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
KINDS = ["call.started", "event.begin", "event.begin", "event.begin", "call.ended"]


def hooks(receiver, url):
    return {"results_url": url, "webhook_urls": receiver.url, "webhook_secret": SECRET, "webhook_timeout_s": 1}


def in_order(receiver, calls):
    for number in range(calls):
        bodies = receiver.of_call(f"c{number}")
        assert [body["type"] for body in bodies] == KINDS, number
        assert [body["data"]["number"] for body in bodies[1:4]] == [0, 1, 2]
    assert not receiver.invalid


def in_database(stack, table):
    with stack.results.database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(table))


@pytest.mark.long
def test_a_receiver_that_is_down_for_a_minute_gets_everything_in_order_when_it_is_back(
    make_stack, monkeypatch, tmp_path
):
    receiver = Receiver()  # its port is free, but nothing listens
    stack = make_stack(**hooks(receiver, f"sqlite:///{tmp_path}/calls.db"))
    began_s = time.monotonic()
    for number in range(30):
        for one in whole_call(f"c{number}"):
            stack.results.publish(one)
        time.sleep(2)
    assert time.monotonic() - began_s >= 60
    assert in_database(stack, deliveries) == 150
    receiver.start()
    try:
        # The longest wait that a minute of failures can lead to is 48 s (32 s, spread by half); then all are hastened.
        receiver.until(150, 60)
        in_order(receiver, 30)
        block_until(lambda: in_database(stack, deliveries) == 0, "the outbox is empty")
    finally:
        receiver.stop()


@contextmanager
def process(calls, pause_s=0.0, **settings):
    """A process of its own with these settings; killed at the end."""
    environment = os.environ | {f"SPEECHQC_{name.upper()}": str(text) for name, text in settings.items()}
    paths = [ROOT / "service", ROOT / "tests", ROOT / "tests" / "call_store"]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, paths))
    script = ROOT / "tests" / "call_store" / "call_process.py"
    running = subprocess.Popen(
        [sys.executable, str(script), str(calls), str(pause_s)], env=environment, stdout=subprocess.PIPE
    )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert running.stdout is not None
        running.stdout.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def kept_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/calls.db"
    return request.getfixturevalue("postgres").database()


def test_a_process_that_is_killed_before_a_delivery_has_lost_nothing(kept_url):
    receiver = Receiver()
    with process(20, **hooks(receiver, kept_url)) as running:
        assert running.stdout is not None and running.stdout.readline() == b"stored\n"
    receiver.start()  # after the process has been killed
    try:
        with process(0, **hooks(receiver, kept_url)):
            receiver.until(100, 30)
        in_order(receiver, 20)
    finally:
        receiver.stop()


def test_a_process_that_is_killed_during_deliveries_has_lost_nothing(kept_url, receiver):
    """What it was sending is sent again, with the same id, when its claim has ended."""
    taken = threading.Event()

    def answer(document):
        if len(receiver.accepted) >= 30:
            taken.set()
        return 200

    receiver.answer, receiver.delay_s = answer, 0.05
    with process(20, **hooks(receiver, kept_url)):
        assert taken.wait(30)
    receiver.delay_s = 0.0
    with process(0, **hooks(receiver, kept_url)):
        receiver.until(100, 30)
    in_order(receiver, 20)
    assert len(receiver.accepted) <= 100 + 8, "at most the requests at that moment were repeated"


def test_while_the_database_is_gone_streams_go_on_and_results_wait(postgres, make_client, monkeypatch):
    client = make_client(results_url=postgres.database(), results_max_waiting=200)
    results, registry = client.app.state.parts.results, client.app.state.parts.metrics.registry
    results.publish(event("call.started", "a"))
    block_until(lambda: client.get("/v1/calls/a").status_code == 200, "the database is in use")
    assert client.get("/v1/calls").json()["scope"] == "shared"
    postgres.stop()
    try:
        began_s = time.monotonic()
        for number in range(300):
            results.publish(event("scores", "a", number=number))
            if number < 50:
                results.publish(event("event.begin", "a", number=number))
        assert time.monotonic() - began_s < 0.5, "publishing does not wait"
        answer = client.get("/v1/calls")
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "results_unavailable"
        assert answer.headers["retry-after"] == "5"
        assert client.post("/v1/inspect", content=wav_bytes(voice(0.5))).status_code == 200
        with client.websocket_connect("/v1/stream") as socket:
            assert socket.receive_json()["type"] == "ready"
        assert value(registry, "speechqc_results_connected") == 0
        waiting = value(registry, "speechqc_results_waiting")
        dropped = value(registry, "speechqc_results_dropped_total", reason="full")
        assert waiting <= 200 and waiting + dropped == 350, "bounded and counted"
        results.publish(event("call.ended", "a"))
    finally:
        postgres.start()
    block_until(lambda: value(registry, "speechqc_results_waiting") == 0, "what waited is written", patience_s=30)
    assert client.get("/v1/calls/a").json()["state"] == "ended"
    with results.database.reading() as connection:
        kept = connection.scalar(select(func.count()).select_from(events))
        first = connection.scalars(select(events.c.body).where(events.c.kind == "event.begin").order_by(events.c.seq))
        assert [f'"number":{number}}}' in body for number, body in enumerate(first)] == [True] * 50
    assert kept == waiting + 2
    assert value(registry, "speechqc_results_connected") == 1


def test_a_server_starts_while_its_database_is_down(postgres, make_client):
    url = postgres.database()
    postgres.stop()
    try:
        client = make_client(results_url=url)
        assert client.get("/health/ready").status_code == 200
        client.app.state.parts.results.publish(event("call.started", "a"))
        assert client.get("/v1/calls").status_code == 503
    finally:
        postgres.start()
    block_until(lambda: client.get("/v1/calls/a").status_code == 200, "it is stored later", patience_s=30)


def test_a_full_disk_is_an_outage_and_loses_nothing(make_stack, tmp_path, monkeypatch):
    stack = make_stack(results_url=f"sqlite:///{tmp_path}/calls.db")
    stack.results.publish(event("call.started", "a"))
    stack.stored()
    with stack.results.database.writing() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    with stack.results.database.reading() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
    for number in range(200):
        stack.results.publish(event("event.begin", "a", number=number, filler="x" * 1000))
    block_until(lambda: not stack.results._writer.is_connected, "the database is full")
    assert stack.results._writer.waiting == 200
    with stack.results.database.reading() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    stack.stored(20)
    assert in_database(stack, events) == 201


def test_a_writer_that_meets_a_surprise_goes_on(make_stack, monkeypatch):
    """Not every failure is one of the database: none may end the thread."""
    real, failures = Writer._store, [RuntimeError("surprise"), MemoryError(), KeyError("x")]

    def store(self, entries):
        if failures:
            raise failures.pop()
        return real(self, entries)

    monkeypatch.setattr(Writer, "_store", store)
    stack = make_stack()
    for one in whole_call("a"):
        stack.results.publish(one)
    stack.stored(20)
    assert in_database(stack, events) == 5 and not failures
