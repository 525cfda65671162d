"""Streams that are legs of a call: `call`, `leg` and `trunk` of `/v1/stream`."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect

from live_server import serving
from signals import talk
from speech_qc.calls.interaction import Interaction
from waiting import until

pytestmark = pytest.mark.anyio


def pcm(samples):
    return (np.asarray(samples) * 32767).astype("<i2").tobytes()


async def finish(socket):
    await socket.send('{"type":"CloseStream"}')
    return [json.loads(message) async for message in socket]


async def ended_call(url, app):
    await until(lambda: len(app.state.parts.calls) == 0, "the call has ended")
    async with httpx.AsyncClient(base_url=url.replace("ws:", "http:")) as client:
        found: list[dict[str, Any]] = []
        while not found:
            found = (await client.get("/v1/calls", params={"state": "ended"})).json()["calls"]
    return found[0]


async def test_two_streams_that_name_one_call_are_its_legs(shipped_runner):
    async with serving(shipped_runner) as (url, app):
        query = f"{url}/v1/stream?sample_rate=8000&trunk=t1&session_name=Desk&call=4711&leg="
        async with connect(query + "agent") as agent, connect(query + "customer") as customer:
            await agent.send(pcm(talk(8000, seconds=3.0)))
            await customer.send(pcm(np.zeros(24_000)))
            summaries = [(await finish(socket))[-1] for socket in (agent, customer)]
        document = await ended_call(url, app)

    assert (document["call_id"], document["trunk"], document["name"]) == ("4711", "t1", "Desk")
    assert document["vendor"] == "stream"
    assert [leg["role"] for leg in document["legs"]] == ["agent", "customer"]
    for leg, summary in zip(document["legs"], summaries, strict=True):
        assert leg["summary"] == summary["channels"][0]["summary"]
        assert leg["duration_s"] == 3.0
    assert document["interaction"]["legs"][0]["talk_ratio"] > 0.3
    assert document["interaction"]["legs"][1]["talk_ratio"] == 0


async def test_the_channels_of_one_stream_can_be_both_legs(shipped_runner):
    async with serving(shipped_runner) as (url, app):
        async with connect(f"{url}/v1/stream?sample_rate=8000&channels=2&call=c&leg=agent,customer") as socket:
            stereo = np.stack([talk(8000, seconds=3.0), np.zeros(24_000)], axis=1)
            await socket.send(pcm(stereo))
            await socket.send('{"type":"Gap","ms":2000,"kind":"hold"}')
            await socket.send(pcm(stereo))
            await finish(socket)
        document = await ended_call(url, app)

    assert [leg["duration_s"] for leg in document["legs"]] == [8.0, 8.0]
    assert document["legs"][0]["transport"]["hold_ms"] == 2000
    assert document["interaction"]["duration_s"] == pytest.approx(8.0, abs=0.1)


@pytest.mark.parametrize("legs", ["leg=agent", "channels=2&leg=agent,customer"])
async def test_a_gap_of_a_day_costs_no_more_than_one_of_a_minute(legs, monkeypatch):
    steps, step = [0], Interaction._step

    def counted(self, frames):
        steps[0] += 1
        step(self, frames)

    monkeypatch.setattr(Interaction, "_step", counted)
    costs = []
    for seconds in (60, 86_400):
        steps[0], cpu_s = 0, time.process_time()
        async with serving() as (url, app):
            async with connect(f"{url}/v1/stream?call=c&{legs}") as socket:
                await socket.send(bytes(96_000))
                await socket.send(json.dumps({"type": "Gap", "ms": 1000 * seconds}))
                await socket.send(bytes(96_000))
                messages = await finish(socket)
            document = await ended_call(url, app)
        assert document["legs"][0]["transport"]["loss_ms"] == 1000 * seconds
        assert [leg["late_s"] for leg in document["legs"]] == [0.0] * len(document["legs"])
        costs.append((len(messages), steps[0]))
        assert time.process_time() - cpu_s < 30
    assert costs[0][1] == costs[1][1] < 60
    assert costs[0][0] == pytest.approx(costs[1][0], abs=3)


async def test_a_leg_whose_client_disconnects_ends_with_what_was_scored(shipped_runner):
    async with serving(shipped_runner, call_wait_s=0.1) as (url, app):
        socket = await connect(f"{url}/v1/stream?call=c&leg=agent")
        await socket.send(pcm(talk(seconds=2.0)))
        async for message in socket:
            if '"scores"' in str(message):
                break
        socket.transport.abort()
        document = await ended_call(url, app)

    assert document["interaction"] is None
    assert document["legs"][0]["frames"] > 0


async def test_a_call_goes_on_when_the_connection_of_both_legs_was_lost_and_is_back(shipped_runner):
    async with serving(shipped_runner, call_wait_s=60.0) as (url, app):
        for lost in (True, False):
            socket = await connect(f"{url}/v1/stream?sample_rate=8000&channels=2&call=c&leg=agent,customer")
            await socket.send(pcm(np.stack([talk(8000, seconds=2.0), np.zeros(16_000)], axis=1)))
            async for message in socket:
                if '"scores"' in str(message):
                    break
            if lost:
                socket.transport.abort()
                await until(lambda: app.state.parts.streams.channels == 0, "it is noticed")
                await asyncio.sleep(1.0)
            else:
                await finish(socket)
        document = await ended_call(url, app)

    assert [leg["role"] for leg in document["legs"]] == ["agent", "customer"] * 2
    assert all(leg["frames"] > 0 for leg in document["legs"])
    assert "documents" not in document


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("call=c", "call and leg: expected both"),
        ("leg=agent", "call and leg: expected both"),
        ("trunk=t", "call and leg: expected both"),
        ("call=c&leg=a,b", "leg: expected one name of at most 64"),
        ("call=c&leg=a&channels=2", "leg: expected 2 different names"),
        ("call=" + "c" * 200 + "&leg=a", "call: expected at most 128 printable characters"),
    ],
)
async def test_names_are_checked(query, expected):
    async with serving() as (url, _), connect(f"{url}/v1/stream?{query}") as socket:
        error = json.loads(await socket.recv())

    assert error["error"]["message"].startswith(expected)


async def test_a_name_that_the_call_has_is_refused_and_the_first_leg_goes_on():
    async with serving() as (url, _), connect(f"{url}/v1/stream?call=c&leg=agent") as first:
        assert json.loads(await first.recv())["type"] == "ready"
        async with connect(f"{url}/v1/stream?call=c&leg=agent") as second:
            error = json.loads(await second.recv())
        assert "a name that no other leg of call 'c' has" in error["error"]["message"]
        assert "if this one comes back because its connection was lost, retry" in error["error"]["message"]
        assert error["error"]["detail"] == {"leg_in_use": "agent", "retry_after_s": 5}
        assert second.close_reason is not None
        assert second.close_reason.endswith("retry in a few seconds if you are reconnecting")
        assert (await finish(first))[-1]["type"] == "summary"
