"""Requests, connections and commands as clients send them, each with the answer that helps."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import case_files as files
import pytest
from case_files import PCM
from case_kinds import kinds
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from live_server import open_to, serving


def test_an_offer_of_http_2_is_ignored() -> None:
    """Java's HTTP client and `curl --http2` offer an upgrade with every request."""
    body = files.plain()
    head = (
        "POST /v1/inspect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        f"Upgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\nContent-Length: {len(body)}\r\n\r\n"
    )

    async def status() -> bytes:
        async with serving() as (url, _):
            reader, writer = await open_to(url)
            writer.write(head.encode() + body)
            line = await asyncio.wait_for(reader.readline(), 20)
            writer.close()
            return line

    assert asyncio.run(status()).startswith(b"HTTP/1.1 200")


@kinds(("unknown_option", "profil=dataset", "profile"), ("option_twice", "profile=dataset&profile=default", "profile"))
def test_an_option_that_means_nothing_is_rejected(client: TestClient, case: tuple[str, str]) -> None:
    """A misspelt option must not silently give the verdict of another profile."""
    query, right = case
    answer = client.post(f"/v1/inspect?{query}", content=files.plain())
    assert answer.status_code == 400
    assert right in answer.json()["error"]["message"]


def values_of(name: str, document: Any) -> list[Any]:
    """Return all values of a key, at any depth."""
    if isinstance(document, dict):
        here = [document[name]] if name in document else []
        return here + [found for value in document.values() for found in values_of(name, value)]
    return [found for value in document for found in values_of(name, value)] if isinstance(document, list) else []


def test_the_answer_names_the_profile_that_judged(client: TestClient) -> None:
    answer = client.post("/v1/inspect?profile=dataset", content=files.plain())
    assert "dataset" in values_of("profile", answer.json())


def test_options_may_come_as_form_fields(client: TestClient) -> None:
    """HTML forms and many HTTP libraries put the options beside the file."""
    answer = client.post("/v1/inspect", files={"file": ("a.wav", files.plain())}, data={"channels": "sideways"})
    assert answer.status_code == 400
    assert "channels" in answer.json()["error"]["message"]


@kinds(("wrong_field_small", 1_000), ("wrong_field_large", 300_000))
def test_a_wrong_form_field_gets_the_same_error_at_any_size(client: TestClient, case: tuple[int]) -> None:
    (size,) = case
    answer = client.post("/v1/inspect", files={"recording": ("a.wav", files.plain()[:44] + bytes(size))})
    assert answer.status_code == 400
    assert "file" in answer.json()["error"]["message"]


def command(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `speech-qc` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "speech_qc", *map(str, arguments)], input=stdin, capture_output=True, timeout=60
    )


def test_a_folder_counts_what_it_skips(tmp_path: Path) -> None:
    """A folder of recordings also holds notes, and recordings in formats or with names that are not inspected."""
    (tmp_path / "a.wav").write_bytes(files.plain())
    (tmp_path / "notes.txt").write_text("not a recording")
    (tmp_path / "b.gsm").write_bytes(bytes(330))
    run = command("inspect", tmp_path)
    assert b"skipped" in run.stdout + run.stderr
    assert b"2" in run.stderr


def test_inspect_reads_standard_input(sample_path: Path) -> None:
    """`ffmpeg … -f wav - | speech-qc inspect -`."""
    run = command("inspect", "-", "--format", "json", stdin=sample_path.read_bytes())
    assert run.returncode in (0, 1), run.stderr.decode()
    assert json.loads(run.stdout)["audio"]["duration_s"] == pytest.approx(9.974, abs=0.001)


def test_a_trailing_slash_opens_the_stream_or_names_the_address(client: TestClient) -> None:
    """Clients that join addresses send `/v1/stream/`."""
    try:
        with client.websocket_connect("/v1/stream/") as session:
            assert session.receive_json()["type"] == "ready"
    except WebSocketDenialResponse as denied:
        assert denied.status_code == 404
        assert "/v1/stream" in denied.text


def test_audio_in_json_is_told_once_that_audio_is_binary(client: TestClient) -> None:
    """Clients of other services send base64 in JSON text messages."""
    sent = 250
    message = json.dumps({"audio": base64.b64encode(PCM[:3200]).decode()})
    with client.websocket_connect("/v1/stream") as session:
        assert session.receive_json()["type"] == "ready"
        for _ in range(sent):
            session.send_text(message)
        session.send_text('{"type":"CloseStream"}')
        received = []
        while (got := session.receive())["type"] != "websocket.close":
            received.append(json.loads(got["text"]))
    errors = [answer for answer in received if answer["type"] == "error"]
    assert len(errors) == 1
    assert "binary" in errors[0]["error"]["message"]
