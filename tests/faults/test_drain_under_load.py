"""SIGTERM to a busy real process: all accepted work is answered, then it exits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from signals import voice, wav_bytes
from speech_qc.capacity.host import free_port
from stream_material import pcm16
from waiting import block_until, until

ROOT = Path(__file__).resolve().parents[2]
SOUND = wav_bytes(voice(20.0))
PIECE = pcm16(voice(0.1))
SETTINGS = {"DEVICE": "cpu", "MAX_BATCH": "4", "UPLOAD_CHUNK_HOPS": "40", "MAX_UPLOADS": "4", "DRAIN_S": "20"}


@pytest.fixture
def server(tmp_path):
    port = free_port()
    environment = os.environ | {f"SPEECHQC_{name}": value for name, value in SETTINGS.items()}
    words = [sys.executable, "-m", "speech_qc", "serve", "--port", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=out, stderr=out)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        with suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200
        return False

    try:
        block_until(ready, "the server is ready", patience_s=60, every_s=0.1, details=log.read_text)
        yield process, port
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


async def upload_until_refused(port: int, outcomes: list[object]) -> None:
    """Upload repeatedly; record each status, and connections that could not be opened."""

    async def body():
        for start in range(0, len(SOUND), 65_536):  # slow enough that some are in progress at any time
            yield SOUND[start : start + 65_536]
            await asyncio.sleep(0.01)

    while True:
        async with httpx.AsyncClient(timeout=40) as web:
            try:
                answer = await web.post(f"http://127.0.0.1:{port}/v1/inspect?frames=false", content=body())
            except httpx.ConnectError:
                return
            except httpx.HTTPError as error:
                outcomes.append(repr(error))
                return
            outcomes.append(answer.status_code)
            if answer.status_code == 503:
                return


async def stream_until_closed(port: int, ready: asyncio.Event) -> tuple[int | None, list[dict], int]:
    messages: list[dict] = []
    sent = 0
    async with connect(f"ws://127.0.0.1:{port}/v1/stream", compression=None) as link:

        async def send() -> None:
            nonlocal sent
            while True:
                await link.send(PIECE)
                sent += 1
                await asyncio.sleep(0.1)

        sending = asyncio.create_task(send())
        try:
            while True:
                messages.append(json.loads(await link.recv()))
                if messages[-1]["type"] == "scores":
                    ready.set()
        except ConnectionClosed:
            pass
        finally:
            sending.cancel()
            await asyncio.wait({sending})
    return link.close_code, messages, sent


@pytest.mark.slow
def test_sigterm_under_load_leaves_nothing_accepted_unanswered(server):
    process, port = server
    outcomes: list[object] = []

    async def main() -> list[tuple[int | None, list[dict], int]]:
        events = [asyncio.Event() for _ in range(4)]
        streams = [asyncio.create_task(stream_until_closed(port, event)) for event in events]
        await asyncio.gather(*(event.wait() for event in events))
        uploads = [asyncio.create_task(upload_until_refused(port, outcomes)) for _ in range(3)]
        await until(lambda: 200 in outcomes, "an upload is answered", patience_s=60)
        process.send_signal(signal.SIGTERM)
        await asyncio.gather(*uploads)
        return await asyncio.gather(*streams)

    ended = asyncio.run(asyncio.wait_for(main(), 90))
    assert process.wait(30) in (0, -signal.SIGTERM)  # uvicorn re-raises the signal when all is done
    assert set(outcomes) <= {200, 503}, outcomes
    for code, messages, sent in ended:
        assert code == 1012
        assert [message["type"] for message in messages[-3:]] == ["finalized", "summary", "error"]
        frames = sum(len(m["channels"][0]["frames"]["speech"]) for m in messages if m["type"] == "scores")
        assert frames == messages[-2]["frames"]
        assert 5 * (sent - 3) <= frames <= 5 * sent, "all that had arrived was scored"
