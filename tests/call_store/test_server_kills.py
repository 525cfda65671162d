"""The whole server, or a worker of it, is killed between results and their delivery, and in the middle of calls."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from sqlalchemy import select
from store_material import SECRET, Receiver
from websockets.asyncio.client import ClientConnection, connect

from signals import talk, white_noise
from speech_qc.audio.g711 import encode_mulaw
from speech_qc.call_store.database import Database, parse_url
from speech_qc.call_store.schema import deliveries, events
from speech_qc.wire.schemas import CallAnswer
from waiting import block_until
from workers_server import WorkersServer, started

pytestmark = [pytest.mark.slow, pytest.mark.long]

DONE = ["done0", "done1", "done2"]
CUT_OFF_S = 75.0
"""A call whose process was killed is ended within this time: half a minute, and a start."""


@pytest.fixture(params=["sqlite", "postgresql"])
def kept_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/calls.db"
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def late_receiver() -> Iterator[Receiver]:
    """A receiver that is down."""
    receiver = Receiver()
    yield receiver
    receiver.stop()


def stereo(seconds: float) -> bytes:
    """Two parties, of whom the second one answers; 8 kHz µ-law, interleaved."""
    sides = np.stack([white_noise(seconds, level_dbfs=-66.0, rate_hz=8000, seed=seed) for seed in (1, 2)], axis=1)
    sides[2000:18_000, 0] += talk(8000, seconds=2.0)
    sides[20_000:36_000, 1] += talk(8000, seconds=2.0, seed=3)
    return encode_mulaw(sides.reshape(-1)).tobytes()


async def begin(server: WorkersServer, call: str, audio: bytes) -> ClientConnection:
    """Open a call with both legs on one socket and send so much of it, twice as fast as real time."""
    query = f"encoding=mulaw&sample_rate=8000&channels=2&call={call}&leg=agent,customer"
    socket = await connect(f"ws://127.0.0.1:{server.port}/v1/stream?{query}", max_queue=None, ping_interval=None)
    for start in range(0, len(audio), 3200):
        await socket.send(audio[start : start + 3200])
        await asyncio.sleep(0.1)
    return socket


async def end(socket: ClientConnection) -> None:
    await socket.send('{"type":"CloseStream"}')
    async for _ in socket:
        pass


def listed(server: WorkersServer, state: str) -> dict[str, dict[str, Any]]:
    """Return the documents of all calls in a state; each must be there once."""
    calls = httpx.get(f"{server.url}/v1/calls?state={state}&limit=200", timeout=20).json()["calls"]
    assert len({one["call_id"] for one in calls}) == len(calls)
    return {one["call_id"]: one for one in calls}


def count(server: WorkersServer) -> tuple[int, int]:
    """Return how many calls have ended, and how many are live."""
    return len(listed(server, "ended")), len(listed(server, "live"))


def stored(url: str) -> dict[str, list[dict[str, Any]]]:
    """Return what the database says has happened in each call, in order, without scores."""
    database = Database(parse_url(url), private=False)
    found: dict[str, list[dict[str, Any]]] = {}
    with database.reading() as connection:
        told = select(events.c.call_id, events.c.body).where(events.c.kind != "scores").order_by(events.c.seq)
        for row in connection.execute(told):
            found.setdefault(row.call_id, []).append(orjson.loads(row.body))
    database.close()
    return found


def waiting(url: str) -> int:
    """Return how many webhooks wait for their delivery."""
    database = Database(parse_url(url), private=False)
    with database.reading() as connection:
        count = len(connection.execute(select(deliveries.c.number)).all())
    database.close()
    return count


def settings_of(url: str, receiver: Receiver) -> dict[str, Any]:
    return {"RESULTS_URL": url, "WEBHOOK_URLS": receiver.url, "WEBHOOK_SECRET": SECRET, "WEBHOOK_TIMEOUT_S": "1"}


def check(server: WorkersServer, url: str, receiver: Receiver, cut: set[str]) -> None:
    """Each webhook has come once, in order and signed; each call has one document, and none is live."""
    told = stored(url)
    total = sum(len(one) for one in told.values())
    receiver.until(total, 90)
    block_until(lambda: waiting(url) == 0, "the outbox is empty", patience_s=30)
    assert not receiver.invalid
    assert len(receiver.accepted) == total, "each came once: nothing had been accepted before the kill"
    for call, bodies in told.items():
        assert receiver.of_call(call) == bodies, call
        assert (bodies[0]["type"], bodies[-1]["type"]) == ("call.started", "call.ended"), call
        assert [body["type"] for body in bodies].count("call.ended") == 1, call
    documents = listed(server, "ended")
    assert set(documents) == set(told)
    for call, document in documents.items():
        CallAnswer.model_validate(document)
        assert document == told[call][-1]["data"]
        assert document.get("lost", False) == (call in cut), call
        assert all(leg["ended_at"] for leg in document["legs"]), call
        assert ("verdict" in document["legs"][0]) == (call not in cut), call
    assert not listed(server, "live")


def test_a_whole_server_that_is_killed_loses_no_webhook_and_no_call(tmp_path, kept_url, late_receiver):
    settings, audio = settings_of(kept_url, late_receiver), stereo(5.0)

    async def calls(server: WorkersServer) -> None:
        for socket in await asyncio.gather(*(begin(server, call, audio) for call in DONE)):
            await end(socket)
        sockets = await asyncio.gather(*(begin(server, call, audio) for call in ("cut0", "cut1")))
        server.until(
            lambda: len(listed(server, "ended")) == 3 and len(listed(server, "live")) == 2, "results are stored"
        )
        for pid in (server.process.pid, *server.pids().values()):
            os.kill(pid, signal.SIGKILL)
        for socket in sockets:
            with suppress(Exception):
                await asyncio.wait_for(socket.wait_closed(), 10)

    with started(tmp_path, **settings) as server:
        asyncio.run(calls(server))
        assert server.ends() == -signal.SIGKILL
    assert waiting(kept_url) >= 8, "nothing was delivered"
    assert not late_receiver.accepted
    with started(tmp_path, port=server.port, **settings) as again:
        late_receiver.start()
        block_until(lambda: count(again) == (5, 0), "cut calls are ended", patience_s=CUT_OFF_S,
                    details=again.log)  # fmt: skip
        check(again, kept_url, late_receiver, {"cut0", "cut1"})


def test_a_worker_that_is_killed_loses_no_webhook_and_only_its_own_calls_are_cut_off(tmp_path, kept_url, late_receiver):
    settings, audio = settings_of(kept_url, late_receiver), stereo(5.0)

    async def calls(server: WorkersServer) -> set[str]:
        """Return the calls of the worker that was killed."""
        for socket in await asyncio.gather(*(begin(server, call, audio) for call in DONE)):
            await end(socket)
        sockets = {call: await begin(server, call, audio) for call in ("live0", "live1")}
        server.until(
            lambda: len(listed(server, "ended")) == 3 and len(listed(server, "live")) == 2, "results are stored"
        )
        os.kill(server.pids()[0], signal.SIGKILL)
        cut = set()
        for call, socket in sockets.items():
            with suppress(TimeoutError):
                await asyncio.wait_for(socket.wait_closed(), 3)
                cut.add(call)
        for call in set(sockets) - cut:
            await end(sockets[call])
        return cut

    with started(tmp_path, **settings) as server:
        cut = asyncio.run(calls(server))
        assert len(cut) == 1, "each worker had one"
        late_receiver.start()
        block_until(lambda: count(server) == (5, 0), "the cut call is ended", patience_s=CUT_OFF_S,
                    details=server.log)  # fmt: skip
        check(server, kept_url, late_receiver, cut)
