"""The legs of a call are compared whichever worker took them."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import connect

from signals import talk, white_noise
from speech_qc.audio.g711 import encode_mulaw
from waiting import block_until
from workers_server import WorkersServer, started

pytestmark = pytest.mark.slow

CALLS, AT_ONCE = 100, 12
PIECE = 1600
"""Samples of a message, 0.2 s."""


@cache
def call(number: int) -> tuple[bytes, bytes]:
    """Two legs of 9 s, 8 kHz µ-law: the second party answers, or interrupts, or echoes, or is never heard."""
    kind = number % 4
    agent, customer = (white_noise(9.0, level_dbfs=-66.0, rate_hz=8000, seed=seed) for seed in (kind, kind + 500))
    said = talk(8000, seed=0, seconds=4.0)
    agent[4000 : 4000 + len(said)] += said
    if kind == 0:
        customer[40_000:72_000] += talk(8000, seed=7, seconds=4.0)
    elif kind == 1:
        customer[24_000:56_000] += talk(8000, seed=7, seconds=4.0)
    elif kind == 2:
        agent[38_000:70_000] += talk(8000, seed=8, seconds=4.0)
        customer[1200:] += agent[:-1200] * np.float32(0.1)
    else:
        agent[38_000:70_000] += talk(8000, seed=8, seconds=4.0)
    return encode_mulaw(agent).tobytes(), encode_mulaw(customer).tobytes()


async def send_call(server: WorkersServer, number: int) -> None:
    """Send both legs in step, twice as fast as real time."""
    legs = call(number)
    url = f"ws://127.0.0.1:{server.port}/v1/stream?encoding=mulaw&sample_rate=8000&call=c{number}&leg="
    # Without a bound on what has come: nobody reads while it sends.
    async with connect(url + "agent", max_queue=None) as agent, connect(url + "customer", max_queue=None) as customer:
        for socket in (agent, customer):
            assert '"ready"' in str(await socket.recv())
        for start in range(0, 72_000, PIECE):
            for socket, audio in zip((agent, customer), legs, strict=True):
                await socket.send(audio[start : start + PIECE])
            await asyncio.sleep(PIECE / 8000 / 2)
        for socket in (agent, customer):
            await socket.send('{"type":"CloseStream"}')
        for socket in (agent, customer):
            async for _ in socket:
                pass


async def send_calls(server: WorkersServer, count: int) -> None:
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(send_call(server, number) for number in range(first, min(count, first + AT_ONCE))))


def documents(server: WorkersServer, count: int) -> dict[str, dict[str, Any]]:
    """Return the call documents once all calls have ended."""
    found: dict[str, dict[str, Any]] = {}

    def all_ended() -> bool:
        answer = httpx.get(f"{server.url}/v1/calls?state=ended&limit=200", timeout=20).json()
        found.update({one["call_id"]: one for one in answer["calls"]})
        return len(found) == count

    block_until(all_ended, f"{count} ended calls", patience_s=60, details=server.log)
    return found


@pytest.mark.long
def test_legs_that_are_split_over_two_workers_give_the_interaction_of_one_worker(tmp_path):
    answers = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with started(folder, workers=workers, ready=workers > 1, MAX_BATCH="8") as server:
            block_until(lambda: _is_ready(server), "readiness", patience_s=60, details=server.log)
            asyncio.run(send_calls(server, CALLS if workers == 2 else AT_ONCE))
            answers.append(documents(server, CALLS if workers == 2 else AT_ONCE))
            streams = {
                worker: value
                for (name, worker), value in server.series().items()
                if name == "speechqc_streams_started_total"
            }
            if workers == 2:
                assert min(streams.values()) >= 0.4 * sum(streams.values()), "the legs are split"
            assert "scored without its call" not in server.log()
    one, two = answers
    labels = set()
    for number in range(CALLS):
        # There are four kinds of calls, so each has its like among the calls of one worker.
        _assert_alike(two[f"c{number}"], one[f"c{number % AT_ONCE}"])
        assert len(two[f"c{number}"]["legs"]) == 2
        assert all(leg["verdict"] for leg in two[f"c{number}"]["legs"])
        labels |= {event["label"] for event in two[f"c{number}"]["interaction"]["events"]}
    assert {"talk_over", "echo", "one_way_audio"} <= labels


def _is_ready(server: WorkersServer) -> bool:
    try:
        return httpx.get(f"{server.url}/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _assert_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare the interactions of two calls whose legs arrived at slightly different times."""
    skew_s = sum(abs(call["legs"][0]["offset_s"] - call["legs"][1]["offset_s"]) for call in (found, expected))
    assert skew_s < 0.6, "the machine is too slow for this test"
    found, expected = found["interaction"], expected["interaction"]
    assert [(e["label"], e["leg"]) for e in found["events"]] == [(e["label"], e["leg"]) for e in expected["events"]]
    for ours, theirs in zip(found["events"], expected["events"], strict=True):
        assert ours["onset_s"] == pytest.approx(
            theirs["onset_s"], abs=skew_s + (0.6 if ours["label"] == "echo" else 0.1)
        )
    for ours, theirs in zip(found["legs"], expected["legs"], strict=True):
        assert ours["talk_ratio"] == pytest.approx(theirs["talk_ratio"], abs=0.03)
        assert ours["interruptions"] == theirs["interruptions"]
