"""SIGTERM to a real process in which everything hangs: waiting clients are notified, and the process exits in time."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from contextlib import suppress

import pytest
from frail_server import SOUND, Frail, started
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from signals import voice
from speech_qc.capacity.host import free_port
from speech_qc.exit_codes import FATAL
from speech_qc.shutdown import RESERVED_S, DrainDeadline
from stream_material import pcm16
from waiting import until

DRAIN_S = 4.0
LATE_S = 1.5
"""Margin for a busy machine."""
PATIENT = {
    "DRAIN_S": str(DRAIN_S), "STEP_DEADLINE_S": "60", "UPLOAD_IDLE_S": "60", "READ_TIMEOUT_S": "60",
    "HEADER_TIMEOUT_S": "60", "STREAM_SEND_TIMEOUT_S": "60", "STREAM_IDLE_S": "60", "LOG_LEVEL": "debug",
}  # fmt: skip
"""Only the drain limit ends anything."""


class Clients:
    """The clients of one server that keep it from exiting on its own."""

    def __init__(self, server: Frail) -> None:
        self._server = server
        self.answers: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def says(self, data: bytes) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        writer.write(data)
        self.writers.append(writer)
        return reader

    async def uploads(self, data: bytes, length: int) -> None:
        reader = await self.says(b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length + data)
        try:
            self.answers.append(await reader.read())
        except ConnectionError as error:
            self.answers.append(repr(error).encode())

    async def streams(self, speaking: asyncio.Event) -> int | None:
        """Run a live stream to its end; return its close code."""
        async with connect(self._server.url.replace("http", "ws") + "/v1/stream", compression=None) as link:
            try:
                assert json.loads(await link.recv())["type"] == "ready"
                speaking.set()
                while True:
                    await link.send(pcm16(voice(0.1)))
                    await asyncio.sleep(0.1)
            except ConnectionClosed:
                return link.close_code


async def hang_all(server: Frail) -> tuple[list[bytes], int | None, float]:
    """Return the uploads' responses, the stream's close code, and the time from the signal until all were received."""
    speaking = asyncio.Event()
    async with Clients(server) as clients:
        await clients.says(b"GET /health/live HTTP/1.1\r\nX-Never-Ends: ")
        stopped = asyncio.create_task(clients.uploads(SOUND[:2000], len(SOUND)))
        stream = asyncio.create_task(clients.streams(speaking))
        await speaking.wait()
        server.hang()
        stuck = asyncio.create_task(clients.uploads(SOUND, len(SOUND)))
        await until(lambda: not server.may_hang, "a step hangs")
        await asyncio.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        begun_s = time.monotonic()
        await asyncio.gather(stopped, stuck)
        return clients.answers, await stream, begun_s


@pytest.mark.slow
def test_a_process_whose_streams_and_uploads_hang_ends_in_time_and_tells_them(tmp_path):
    with started(tmp_path, free_port(), **PATIENT) as server:
        answers, close, begun_s = asyncio.run(asyncio.wait_for(hang_all(server), 60))
        code = server.ends()
        assert time.monotonic() - begun_s < DRAIN_S + LATE_S, server.log()
    assert [answer.split(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 503 Service Unavailable"] * 2
    assert all(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "draining" for answer in answers)
    assert close == 1012
    assert code in (-signal.SIGTERM, FATAL)


@pytest.mark.slow
@pytest.mark.parametrize(("steps_in", "codes"), [("thread", (0, 1)), ("loop", (1,))])
def test_workers_that_hang_end_in_time_too(tmp_path, steps_in, codes):
    """A blocked event loop handles no signal: another thread ends the process, which is not a clean exit."""
    with started(tmp_path, free_port(), **PATIENT, WORKERS="2", STEPS_IN=steps_in, EXIT_WHEN_DEAD_S="0") as server:
        server.until(lambda: "2 workers listen" in server.log(), "both workers")
        server.hang()

        async def main() -> float:
            async with Clients(server) as clients:
                uploads = [asyncio.create_task(clients.uploads(SOUND, len(SOUND))) for _ in range(2)]
                await until(lambda: not server.may_hang, "a step hangs")
                server.process.send_signal(signal.SIGTERM)
                begun_s = time.monotonic()
                await asyncio.gather(*uploads)
                return begun_s

        begun_s = asyncio.run(asyncio.wait_for(main(), 60))
        assert server.ends() in codes
        assert time.monotonic() - begun_s < DRAIN_S + 1 + LATE_S, server.log()


def test_the_time_to_drain_is_one_for_all():
    now_s = 100.0
    drain = DrainDeadline(30.0, lambda: now_s)
    assert (drain.work_remaining_s, drain.remaining_s) == (30.0 - RESERVED_S, 30.0)
    now_s += 20
    drain.begin()
    assert (drain.work_remaining_s, drain.remaining_s) == (10.0 - RESERVED_S, 10.0)
    now_s += 20
    assert (drain.work_remaining_s, drain.remaining_s) == (0.0, 0.0)
    assert DrainDeadline(0.0, lambda: now_s).remaining_s == RESERVED_S, "a process needs a moment to end"
