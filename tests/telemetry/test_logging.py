"""Log lines are JSON unless a person reads them, and never contain audio or payloads."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest

from signals import voice, wav_bytes
from speech_qc.settings import Settings
from speech_qc.telemetry.logging import JsonFormatter, configure_logging, ids, text_formatter, writes_json

LOG = "speech_qc.test"


@pytest.fixture
def lines():
    """Format log records as JSON from now on; return a function that gives the objects."""
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    handler.setFormatter(JsonFormatter(worker=3))
    root = logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.DEBUG)
    try:
        yield lambda: [json.loads(line) for line in sink.getvalue().splitlines()]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def test_a_json_line_says_when_who_what_and_for_whom(lines):
    with ids(request_id="r1", session_id="s1"):
        logging.getLogger(LOG).warning("%d things\nhappened", 3, extra={"outcome": "ok", "_of_ray": 1})
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": LOG,
        "event": "3 things\nhappened",
        "outcome": "ok",
        "request_id": "r1",
        "session_id": "s1",
        "worker": 3,
    }


def test_ids_end_with_their_request(lines):
    with ids(request_id="r1"):
        pass
    logging.getLogger(LOG).info("later")
    assert "request_id" not in lines()[0]


def test_an_exception_stays_in_its_line(lines):
    try:
        raise RuntimeError("it broke")
    except RuntimeError:
        logging.getLogger(LOG).exception("trouble")
    (line,) = lines()
    assert "RuntimeError: it broke" in line["exception"]


def test_a_line_says_all_that_json_can_and_nothing_of_other_formatters(lines):
    facts = {"path": Path("/a b"), "who": "Zoë", "color_message": "red"}
    logging.getLogger(LOG).error("no exception is known", extra=facts, stack_info=True)
    (line,) = lines()
    assert (line["path"], line["who"]) == ("/a b", "Zoë")
    assert "test_logging.py" in line["stack_info"]
    assert not {"color_message", "exception", "args", "lineno"} & set(line)


def test_ids_of_tasks_do_not_mix(lines):
    async def serve(name):
        with ids(request_id=name):
            await asyncio.sleep(0)
            logging.getLogger(LOG).info(name)

    async def serve_both():
        await asyncio.gather(serve("r1"), serve("r2"))

    asyncio.run(serve_both())
    assert [(line["event"], line["request_id"]) for line in lines() if line["logger"] == LOG] == [
        ("r1", "r1"),
        ("r2", "r2"),
    ]


def test_looks_at_health_and_metrics_are_told_at_debug_alone_unless_they_fail(make_client, lines):
    """Several a minute would hide what happened."""
    client = make_client(drain_s=0.0)
    for path in ("/health/live", "/health/ready", "/metrics", "/v1/model"):
        client.get(path)
    client.portal.call(client.app.state.parts.engine.stop)
    client.get("/health/ready")
    access = [(line["level"], line["route"]) for line in lines() if line["logger"] == "speech_qc.access"]
    assert access == [
        ("debug", "/health/live"), ("debug", "/health/ready"), ("debug", "/metrics"), ("info", "/v1/model"),
        ("info", "/health/ready"),
    ]  # fmt: skip


def test_every_line_of_a_request_has_its_id_and_none_has_its_payload(make_client, lines):
    client = make_client()
    client.post(
        "/v1/inspect?profile=default",
        content=wav_bytes(voice(1.0)),
        headers={"X-Request-Id": "abc", "Content-Disposition": 'filename="secret-name.wav"'},
    )
    client.post("/v1/inspect", content=b"secret-bytes", headers={"X-Request-Id": "bad"})
    client.post("/v1/inspect", files={"file": ("secret-name.wav", b"secret-bytes")})
    client.get("/secret-path?secret=query")
    said = [line for line in lines() if line["logger"].startswith("speech_qc")]
    access = [line for line in said if line["logger"] == "speech_qc.access"]
    assert [line["status"] for line in access] == [200, 415, 415, 404]
    assert [line["request_id"] for line in access[:2]] == ["abc", "bad"]
    assert access[0]["route"] == "/v1/inspect"
    assert "secret" not in json.dumps(said)


def test_every_line_of_a_stream_has_its_session(make_client, lines):
    with make_client().websocket_connect("/v1/stream", headers={"X-Request-Id": "s7"}) as session:
        session.send_bytes(bytes(32000))
        session.send_text('{"type":"CloseStream"}')
        while session.receive()["type"] != "websocket.close":
            pass
    (line,) = [line for line in lines() if line["logger"] == "speech_qc.streams"]
    assert (line["session_id"], line["outcome"], line["audio_s"]) == ("s7", "ok", 1.0)


def test_without_a_terminal_the_log_is_json_unless_set(capsys):
    assert writes_json(Settings())
    assert not writes_json(Settings(log_format="text"))
    configure_logging(Settings(log_level="info"))
    configure_logging(Settings(log_level="info"))
    logging.getLogger(LOG).info("once")
    said = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["event"] for line in said] == ["once"]


def test_on_a_terminal_the_log_is_text(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    assert not writes_json(Settings())
    assert writes_json(Settings(log_format="json"))


def test_a_text_line_names_the_worker():
    record = logging.LogRecord("speech_qc", logging.INFO, "", 0, "ready", None, None)
    assert text_formatter().format(record) == "INFO: speech_qc: ready"
    assert text_formatter(2).format(record) == "INFO: worker 2: speech_qc: ready"
