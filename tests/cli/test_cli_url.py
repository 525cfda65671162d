from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli_material import noise, run, write

from speech_qc.app import create_app
from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.engine import EchoRunner
from speech_qc.settings import load_settings

Capture = pytest.CaptureFixture[str]
SERVER = "http://server.test"


class ServerTransport(httpx.AsyncBaseTransport):
    """The real application, started in the event loop of its first request."""

    def __init__(self, **settings: object) -> None:
        self.requests: list[httpx.Request] = []
        self._app = create_app(load_settings(**settings), EchoRunner(2))
        self._inner = httpx.ASGITransport(self._app)
        self._starting = asyncio.Lock()
        self._lifespan: AbstractAsyncContextManager[object] | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async with self._starting:  # requests sent together with the first one also wait for the server
            if self._lifespan is None:
                self._lifespan = self._app.router.lifespan_context(self._app)
                await self._lifespan.__aenter__()
        self.requests.append(request)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        if self._lifespan is not None:
            await self._lifespan.__aexit__(None, None, None)


def ask(transport: httpx.AsyncBaseTransport, *arguments: str | Path) -> int:
    words = ["inspect", "--url", SERVER, *map(str, arguments)]
    return main(words, seams=Seams(transport=transport, make_runner=_no_runner))


def _no_runner(settings: object) -> EchoRunner:
    raise AssertionError("with --url no model is loaded here")


def answering(*answers: httpx.Response | Exception) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A server that sends these responses in sequence and repeats the last one."""
    requests: list[httpx.Request] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        await request.aread()
        requests.append(request)
        given = answers[min(len(requests), len(answers)) - 1]
        if isinstance(given, Exception):
            raise given
        return given

    return httpx.MockTransport(answer), requests


def comparable(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text)
    return {name: value for name, value in document.items() if name not in ("request_id", "timing")}


def test_server_and_command_line_give_the_same_answer(talk: Path, capsys: Capture) -> None:
    transport = ServerTransport()
    assert ask(transport, talk, "--format", "json", "--labels", "speech,noise,snr_db") == 0
    remote = comparable(capsys.readouterr().out)
    assert run("inspect", talk, "--format", "json", "--labels", "speech,noise,snr_db") == 0
    assert comparable(capsys.readouterr().out) == remote
    assert list(remote["channels"][0]["frames"]) == ["speech", "noise", "snr_db"]


@pytest.mark.parametrize("form", ["table", "csv", "textgrid"])
def test_every_format_reads_the_same_from_a_server(talk: Path, capsys: Capture, form: str) -> None:
    assert ask(ServerTransport(), talk, "--format", form) == 0
    remote = capsys.readouterr().out
    run("inspect", talk, "--format", form)
    assert capsys.readouterr().out == remote


def test_file_is_sent_as_it_is_with_its_length(talk: Path) -> None:
    transport, requests = answering(httpx.Response(500))
    ask(transport, talk, "--profile", "warns", "--channels", "mix", "--format", "jsonl", "--no-frames")
    request = requests[0]
    assert request.content == talk.read_bytes()
    assert request.headers["Content-Length"] == str(talk.stat().st_size)
    assert "Transfer-Encoding" not in request.headers
    assert request.url.path == "/v1/inspect"
    assert dict(request.url.params) == {"channels": "mix", "frames": "false", "profile": "warns"}


def test_an_option_of_zero_is_sent_too(talk: Path, capsys: Capture) -> None:
    assert ask(ServerTransport(), talk, "--encoding", "mulaw", "--sample-rate", "0") == 2
    assert "expected a sample rate of 8000 to 192000 Hz, got 0" in capsys.readouterr().err


def test_verdict_of_the_server_makes_the_exit_code(talk: Path) -> None:
    assert ask(ServerTransport(), talk, "--profile", "fails") == 1


def test_error_of_the_server_is_told_in_its_words_and_others_go_on(talk: Path, capsys: Capture) -> None:
    Path("broken.wav").write_bytes(b"RIFF")
    assert ask(ServerTransport(), "broken.wav", talk, "--format", "jsonl") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["file"] == "talk.wav"
    assert "error: broken.wav: expected a WAV header" in err


def test_full_server_is_asked_again(talk: Path, capsys: Capture) -> None:
    busy = httpx.Response(429, headers={"Retry-After": "0"})
    transport, requests = answering(busy, busy, httpx.Response(418, text="teapot"))
    assert ask(transport, talk) == 2
    assert len(requests) == 3
    assert requests[2].content == talk.read_bytes()  # the body was sent again
    assert "418" in capsys.readouterr().err


def test_server_that_stays_full_is_given_up(talk: Path, capsys: Capture) -> None:
    body = {"error": {"code": "overloaded", "message": "all places are taken", "detail": {}, "request_id": "r"}}
    transport, requests = answering(httpx.Response(429, headers={"Retry-After": "0"}, json=body))
    assert ask(transport, talk) == 2
    assert len(requests) == 5
    assert capsys.readouterr().err == "error: talk.wav: all places are taken\n"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: httpx.ConnectError("connection refused"), "cannot be reached"),
        (lambda: httpx.ReadTimeout(""), "did not answer in time"),
        (
            lambda: httpx.Response(404, text="<html>"),
            "answered 404 Not Found; is it the address of",
        ),
        (lambda: httpx.Response(200, text="hello"), "sent an unexpected answer"),
        (lambda: httpx.Response(200, json={"channels": [{"frames": 3}]}), "sent an unexpected answer"),
    ],
)
def test_server_that_is_none_is_an_error_in_one_sentence(
    talk: Path, capsys: Capture, make: Callable[[], httpx.Response | Exception], words: str
) -> None:
    transport, _ = answering(make())
    assert ask(transport, talk) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


def test_many_files_fit_through_a_server_with_one_place(capsys: Capture) -> None:
    for i in range(5):
        write(Path(f"in/{i}.wav"), noise(0.6, seed=i))
    assert ask(ServerTransport(max_uploads=4), "in", "--format", "jsonl", "--no-frames") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
