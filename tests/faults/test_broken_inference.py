"""Inference raises or hangs in a real server: all clients are notified, readiness fails, liveness continues."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from live_server import serving
from signals import voice, wav_bytes, white_noise
from speech_qc.engine import EchoRunner
from stream_material import pcm16

SECOND = pcm16(white_noise(1.0, level_dbfs=-30))
SOUND = wav_bytes(voice(1.0))


class Troubled(EchoRunner):
    """A runner that raises or hangs on demand."""

    def __init__(self) -> None:
        super().__init__(lookahead_frames=2)
        self.raising = False
        self.hanging = threading.Event()
        self.let_go = threading.Event()

    def run(self, features, state):
        if self.raising:
            raise RuntimeError("the device fell off")
        if self.hanging.is_set():
            self.let_go.wait(20)
        return super().run(features, state)


async def stream_to_its_end(url: str) -> tuple[list[dict], int | None]:
    """Return a stream's messages and close code, or body and status if it was refused before it was open."""
    messages = []
    try:
        link = await connect(f"{url}/v1/stream", compression=None)
    except InvalidStatus as error:
        return [json.loads(error.response.body)], error.response.status_code
    async with link:
        with suppress(ConnectionClosed):  # refused before it is accepted, with the reason in the response
            await link.send(SECOND)
        try:
            while True:
                messages.append(json.loads(await link.recv()))
        except ConnectionClosed:
            return messages, link.close_code


def test_a_device_that_raises_once_too_often_ends_all_and_says_so():
    async def main() -> None:
        runner = Troubled()
        async with serving(runner, max_step_failures=3) as (url, _), httpx.AsyncClient() as web:
            base = url.replace("ws:", "http:")
            runner.raising = True
            for _ in range(3):  # streams opened together may share a step, consecutive ones cannot
                streams = await asyncio.gather(*(stream_to_its_end(url) for _ in range(4)))
                for messages, code in streams:
                    assert code in (1011, 503)
                    assert messages[-1]["error"]["code"] in ("inference_error", "engine_dead")
            ready = await web.get(f"{base}/health/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "dead")
            assert "the device fell off" in ready.json()["reason"]
            assert (await web.get(f"{base}/health/live")).status_code == 200
            assert (await web.post(f"{base}/v1/inspect", content=SOUND)).status_code == 503

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_device_that_hangs_is_found_out_by_the_deadline():
    async def main() -> None:
        runner = Troubled()
        try:
            async with serving(runner, step_deadline_s=0.3, drain_s=1.0) as (url, app), httpx.AsyncClient() as web:
                base = url.replace("ws:", "http:")
                runner.hanging.set()
                upload = asyncio.create_task(web.post(f"{base}/v1/inspect", content=SOUND))
                messages, code = await stream_to_its_end(url)
                assert (messages[-1]["error"]["code"], code) == ("engine_dead", 1011)
                answer = await upload
                assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")
                ready = await web.get(f"{base}/health/ready")
                assert (ready.status_code, ready.json()["status"]) == (503, "dead")
                assert "hangs" in ready.json()["reason"]
                assert (await web.get(f"{base}/health/live")).status_code == 200
                assert "speechqc_engine_alive 0.0" in (await web.get(f"{base}/metrics")).text
                assert app.state.parts.engine.status.sessions == 0
        finally:
            runner.let_go.set()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_work_on_an_upload_that_takes_too_long_is_answered_504():
    async def main() -> None:
        runner = Troubled()
        try:
            async with serving(runner, upload_deadline_s=0.3, drain_s=1.0) as (url, app), httpx.AsyncClient() as web:
                runner.hanging.set()
                answer = await web.post(f"{url.replace('ws:', 'http:')}/v1/inspect", content=SOUND)
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
                runner.let_go.set()
                assert app.state.parts.uploads.taken == 0
        finally:
            runner.let_go.set()

    asyncio.run(asyncio.wait_for(main(), 20))
