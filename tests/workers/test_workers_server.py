"""Several processes behind one port, tested from outside."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import ExitStack, suppress

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from signals import voice
from speech_qc.security.api_keys import make_key, write_keys
from workers_server import WorkersServer, started

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with started(tmp_path_factory.mktemp("workers")) as running:
        yield running


def open_stream(server: WorkersServer, until_end: ExitStack, seconds: float = 1.0) -> ClientConnection:
    """A live stream with some speech in flight."""
    stream = until_end.enter_context(connect(f"ws://127.0.0.1:{server.port}/v1/stream", compression=None))
    assert json.loads(stream.recv(10))["type"] == "ready"
    if seconds:
        stream.send((np.asarray(voice(seconds)) * 32767).astype("<i2").tobytes())
    return stream


def streams_by_worker(server: WorkersServer) -> list[float]:
    found = server.series()
    return [value for (name, worker), value in sorted(found.items()) if name == "speechqc_streams_active"]


def hear_out(stream: ClientConnection) -> tuple[list[dict], int]:
    """Return all messages up to the close, and the close code."""
    messages = []
    try:
        while True:
            messages.append(json.loads(stream.recv(20)))
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return messages, closed.rcvd.code


def test_both_workers_answer_and_readiness_says_how_many_there_are(server):
    def both_have_answered() -> bool:
        assert server.get("/health/ready").json()["workers"] == 2
        found = server.series()
        return all(found.get(("speechqc_http_requests_total", worker), 0) > 0 for worker in "01")

    server.until(both_have_answered, "requests at both workers")


def test_one_scrape_shows_every_series_of_both_workers_each_family_once(server):
    text = server.get("/metrics").text
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    by_worker: dict[str, set[str]] = {"0": set(), "1": set()}
    for family in families:
        assert family.documentation
        for sample in family.samples:
            by_worker[sample.labels["worker"]].add(sample.name)
    assert {"speechqc_model_info", "speechqc_streams_active", "speechqc_stream_lag_seconds_bucket"} <= by_worker["0"]
    # Series without labels exist from the start; the rest depend on what each worker has served.
    assert {name for name in by_worker["0"] ^ by_worker["1"] if "http_request" not in name} == set()
    found = server.series()
    assert (found["speechqc_worker_up", "0"], found["speechqc_worker_up", "1"]) == (1, 1)


def test_streams_that_stay_are_split_evenly(server):
    with ExitStack() as until_end:
        for _ in range(100):
            open_stream(server, until_end, seconds=0.0)
        first, second = streams_by_worker(server)
        assert first + second == 100
        assert abs(first - second) <= 2


def test_the_split_is_even_again_after_a_worker_was_killed(tmp_path):
    with started(tmp_path, workers=3) as server, ExitStack() as until_end:
        for _ in range(100):
            open_stream(server, until_end, seconds=0.0)
        before = streams_by_worker(server)
        assert sum(before) == 100 and max(before) - min(before) <= 1
        killed = server.pids()[1]
        os.kill(killed, signal.SIGKILL)
        server.until(lambda: server.pids()[1] != killed, "another process is worker 1")
        kept = streams_by_worker(server)
        assert kept == [before[0], 0, before[2]], "the others lose none"
        for _ in range(int(before[1])):
            open_stream(server, until_end, seconds=0.0)
        after = streams_by_worker(server)
        assert sum(after) == 100 and max(after) - min(after) <= 1


def test_a_killed_worker_shows_as_down_and_is_started_again(server):
    killed = server.pids()[0]
    os.kill(killed, signal.SIGKILL)
    server.until(lambda: server.series()["speechqc_worker_up", "0"] == 0, "worker 0 down")
    down = server.series()
    assert down["speechqc_worker_up", "1"] == 1
    assert ("speechqc_streams_active", "0") not in down and ("speechqc_streams_active", "1") in down

    server.until(lambda: server.series()["speechqc_worker_up", "0"] == 1, "worker 0 up again")
    found = server.series()
    assert found["speechqc_worker_restarts_total", "0"] == 1
    assert found["speechqc_worker_restarts_total", "1"] == 0
    assert server.pids()[0] != killed
    assert f"worker 0 (process {killed}) was terminated by SIGKILL; restarting it in 0.5 s" in server.log()


def test_a_signal_to_one_worker_drains_that_one_and_starts_it_anew(server):
    old = server.pids()[1]
    os.kill(old, signal.SIGTERM)
    server.until(lambda: server.pids()[1] != old, "another process is worker 1")
    assert server.process.poll() is None
    assert f"Finished server process [{old}]" in server.log()
    found = server.series()
    assert (found["speechqc_worker_up", "1"], found["speechqc_worker_restarts_total", "1"]) == (1, 1)


def test_a_signal_ends_the_live_streams_of_all_workers_with_their_summaries(tmp_path):
    with started(tmp_path) as server, ExitStack() as until_end:
        streams = [open_stream(server, until_end) for _ in range(4)]
        assert streams_by_worker(server) == [2, 2]
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            messages, code = hear_out(stream)
            assert code == 1012
            assert [message["type"] for message in messages[-2:]] == ["summary", "error"]
            assert messages[-2]["duration_s"] == pytest.approx(1.0)
            assert messages[-1]["error"]["code"] == "draining"
        assert server.ends() == 0
        assert "Traceback" not in server.log()


def test_a_second_signal_ends_what_does_not_end(tmp_path):
    with started(tmp_path, DRAIN_S="60") as server, socket.create_connection(("127.0.0.1", server.port)) as upload:
        upload.sendall(b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nRIFF")
        server.until(lambda: sum(server.series()["speechqc_uploads_active", w] for w in "01") == 1, "an upload")
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: "SIGTERM received: draining the workers for up to 60 s" in server.log(), "drain")
        server.until(lambda: "Waiting for connections to close" in server.log(), "waiting for the upload")
        assert server.process.poll() is None, "the server waits for an upload in progress"
        server.process.send_signal(signal.SIGTERM)
        assert server.ends() == 128 + signal.SIGTERM


def test_workers_end_in_order_when_their_parent_is_killed(tmp_path):
    with started(tmp_path) as server:
        server.process.kill()
        assert server.ends() == -signal.SIGKILL

        def nobody_listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", server.port)) != 0

        server.until(nobody_listens, "both workers gone")
        server.until(lambda: server.log().count("Finished server process") == 2, "both workers ended in order")
        assert server.log().count("the parent process has exited: this worker drains and exits") == 2


def test_a_model_that_cannot_be_loaded_ends_all_with_its_message(tmp_path):
    absent = tmp_path / "absent.onnx"
    with started(tmp_path, ready=False, MODEL_PATH=str(absent)) as server:
        assert server.ends() == 2
        log = server.log()
        assert log.rstrip().splitlines()[-1].startswith("error: ") and str(absent) in log and "Traceback" not in log


def test_a_port_that_is_taken_is_named_before_any_worker_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with started(tmp_path, ready=False, port=port) as server:
            assert server.ends() == 2
            assert f"SPEECHQC_PORT={port}: Address already in use" in server.log()
            assert "process" not in server.log()


def test_a_connection_that_a_worker_adopts_has_the_bounds_of_any_other(server):
    for _ in range(2):  # one per worker
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            head = b"".join(b"X-%d: %b\r\n" % (number, b"a" * 1000) for number in range(40))
            with suppress(BrokenPipeError):  # it may be refused before it is completely sent
                client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 431 ")


def test_a_hangup_of_the_parent_reloads_the_model_of_every_worker(server):
    def reloads() -> list[float | None]:
        found = server.series()
        return [found.get(("speechqc_model_reloads_total", worker)) for worker in "01"]

    assert reloads() == [0, 0]
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: reloads() == [1, 1], "a reload in both workers")
    assert server.log().count("the file contains the model in use") == 2


def test_a_token_of_one_worker_opens_streams_at_all(tmp_path):
    key, kept = make_key("desk")
    write_keys(tmp_path / "keys", [kept])
    with started(tmp_path, API_KEYS_FILE=str(tmp_path / "keys")) as keyed, ExitStack() as until_end:
        answer = httpx.post(keyed.url + "/v1/token", headers={"X-API-Key": key}, timeout=10)
        for _ in range(4):
            url = f"ws://127.0.0.1:{keyed.port}/v1/stream?token={answer.json()['token']}"
            stream = until_end.enter_context(connect(url, compression=None))
            assert json.loads(stream.recv(10))["type"] == "ready"
        assert streams_by_worker(keyed) == [2, 2]
        assert "token=" not in keyed.log()


def test_a_second_server_does_not_slip_beside_one_with_workers(server, tmp_path):
    with started(tmp_path, ready=False, port=server.port) as second:
        assert second.ends() == 2
        assert "Address already in use" in second.log()
