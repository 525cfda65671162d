"""docker-compose.scale.yml: streams and uploads on two replicas behind nginx, one of which is killed or stopped."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import httpx
import numpy as np
import pytest
import soundfile
from docker_engine import Stack, block_until, docker, figure, health, inspect
from numpy.typing import NDArray

from board import SAMPLE, ask
from speech_qc.client.stream import StreamClient, StreamClosed
from speech_qc.wire.server_messages import AnyServerMessage, Finalized, Scores, Summary

pytestmark = pytest.mark.docker

ACTIVE = "speechqc_streams_active"
PACE_S = 0.1


class Caller:
    """One live stream in real time, and its scores.

    Args:
        stream: An open stream.
        replica: The container that serves it.
        audio: Samples at 16 kHz, sent repeatedly.
    """

    def __init__(self, stream: StreamClient, replica: str, audio: NDArray[np.float32]) -> None:
        self.stream, self.replica = stream, replica
        self.got: list[AnyServerMessage] = []
        self.end: StreamClosed | None = None
        self._audio = audio
        self._news = asyncio.Event()
        self._tasks = [asyncio.create_task(self._talk()), asyncio.create_task(self._listen())]

    @property
    def frames(self) -> int:
        """Return the number of scored frames; check that none is missing or repeated."""
        expected = 0
        for message in self.got:
            if isinstance(message, Scores):
                assert message.first_frame == expected
                expected += len(message.channels[0].frames["speech"])
        return expected

    async def _talk(self) -> None:
        at = 0
        try:
            while True:
                await self.stream.send(self._audio[at : at + 1600])
                at = (at + 1600) % (self._audio.size - 1600)
                await asyncio.sleep(PACE_S)
        except StreamClosed:
            pass

    async def _listen(self) -> None:
        try:
            async for message in self.stream:
                self.got.append(message)
                self._news.set()
        except StreamClosed as end:
            self.end = end

    async def hang_up(self) -> Summary:
        self._tasks[0].cancel()
        await asyncio.wait([self._tasks[0]])
        return await self.stream.close()

    async def scored(self, frames: int) -> None:
        """Wait for this number of frames."""
        async with asyncio.timeout(60):
            while self.frames < frames:
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> None:
        """Wait until the server ends the stream."""
        async with asyncio.timeout(120):
            await asyncio.wait([self._tasks[1]])

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()


@pytest.fixture(scope="module")
def audio() -> NDArray[np.float32]:
    samples, rate_hz = soundfile.read(SAMPLE, dtype="float32")
    assert rate_hz == 16_000
    return samples


def is_healthy(container: str) -> bool:
    return health(container) == "healthy"


def both_take_part(stack: Stack) -> list[str]:
    """Return the two replicas when both are healthy."""
    block_until(lambda: len(stack.containers("speech-qc")) == 2, "two replicas")
    replicas = stack.containers("speech-qc")
    for one in replicas:
        block_until(partial(is_healthy, one), f"{one} healthy")
    return replicas


async def call(stack: Stack, replicas: list[str], audio: NDArray[np.float32], pool: AsyncExitStack) -> Caller:
    """Open a stream through nginx and find the replica that serves it."""

    async def counts() -> list[float]:
        return [await asyncio.to_thread(figure, one, ACTIVE) for one in replicas]

    before = await counts()
    url = stack.address("nginx")
    stream = await pool.enter_async_context(StreamClient.connect(url, encoding="linear16", open_timeout_s=30))
    after = await counts()
    risen = [one for one, was, now in zip(replicas, before, after, strict=True) if now > was]
    assert len(risen) == 1, (before, after)
    caller = Caller(stream, risen[0], audio)
    pool.callback(caller.stop)
    return caller


async def going_on(callers: list[Caller]) -> None:
    """Check that each stream receives further scores."""
    for one in callers:
        await one.scored(one.frames + 25)


async def hear(callers: list[Caller]) -> None:
    for one in callers:
        await one.scored(25)


async def new_ones_work(stack: Stack, audio: NDArray[np.float32], number: int) -> None:
    """Run streams and uploads through nginx; all must succeed."""
    url = stack.address("nginx")
    for _ in range(number):
        async with StreamClient.connect(url, encoding="linear16", open_timeout_s=30) as stream:
            await stream.send(audio[:16_000])
            assert (await stream.close()).frames == 50
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            assert (await http.post("/v1/inspect", content=SAMPLE.read_bytes())).status_code == 200


def test_streams_go_where_fewest_are(scaled: Stack, audio):
    replicas = both_take_part(scaled)

    async def scenario() -> None:
        async with AsyncExitStack() as pool:
            callers = [await call(scaled, replicas, audio, pool) for _ in range(4)]
            assert sorted(one.replica for one in callers) == sorted(replicas * 2)
            await hear(callers)
            summaries = [await one.hang_up() for one in callers]
            assert all(summary.frames > 25 for summary in summaries)

    asyncio.run(scenario())


def test_the_replicas_give_the_same_answer_and_their_metrics_are_not_mixed(scaled: Stack):
    answers = []
    for _ in range(4):
        found = httpx.post(f"{scaled.address('nginx')}/v1/inspect", content=SAMPLE.read_bytes(), timeout=60).json()
        answers.append((found["model"]["sha256"], found["channels"][0]["frames"]["noise"]))
    assert all(answer == answers[0] for answer in answers)
    uploads = [figure(one, 'speechqc_uploads_total{outcome="ok"}') for one in scaled.containers("speech-qc")]
    assert all(number > 0 for number in uploads), "one replica got no upload"
    assert httpx.get(f"{scaled.address('nginx')}/metrics").status_code == 404


def test_the_request_id_and_large_bodies_pass_through_nginx(scaled: Stack):
    url = f"{scaled.address('nginx')}/v1/inspect"
    answer = httpx.post(url, content=SAMPLE.read_bytes(), headers={"X-Request-ID": "from-outside-1"}, timeout=60)
    assert answer.headers["X-Request-ID"] == "from-outside-1"
    assert "from-outside-1" in scaled.compose("logs", "nginx")
    zeros = b"RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80>\x00\x00\x00}\x00\x00\x02\x00\x10\x00"
    long = zeros + b"data\x00\x00\x00\x00" + bytes(16_000 * 2 * 120)  # two minutes, 3.8 MB: more than nginx's default
    answer = httpx.post(f"{url}?frames=false", content=long, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["audio"]["duration_s"] == 120.0


def test_prometheus_finds_every_replica(scaled: Stack):
    prometheus = scaled.address("prometheus")
    block_until(lambda: len(ask(prometheus, 'up{job="speech-qc"} == 1')) == 2, "two replicas up")
    assert float(ask(prometheus, "sum(speechqc_ready)")[0]["value"][1]) == 2


def test_when_a_replica_dies_streams_of_the_other_go_on_and_new_ones_work(scaled: Stack, audio):
    replicas = both_take_part(scaled)

    async def scenario() -> None:
        async with AsyncExitStack() as pool:
            callers = [await call(scaled, replicas, audio, pool) for _ in range(4)]
            await hear(callers)
            dead = callers[0].replica
            await asyncio.to_thread(docker, "kill", dead)
            theirs = [one for one in callers if one.replica == dead]
            others = [one for one in callers if one.replica != dead]
            for one in theirs:
                await one.ended()
                assert one.end is not None and one.end.code == 1006
            await going_on(others)
            await new_ones_work(scaled, audio, 6)
            for one in others:
                assert one.end is None
                assert (await one.hang_up()).frames >= one.frames

    asyncio.run(scenario())
    block_until(lambda: len(ask(scaled.address("prometheus"), 'up{job="speech-qc"}')) == 1, "Prometheus has let it go")


def test_when_a_replica_leaves_its_clients_get_their_summary_and_1012(scaled: Stack, audio):
    scaled.up()  # restarts the killed one
    replicas = both_take_part(scaled)
    block_until(lambda: len(ask(scaled.address("prometheus"), 'up{job="speech-qc"} == 1')) == 2, "two replicas again")

    async def scenario() -> None:
        async with AsyncExitStack() as pool:
            callers = [await call(scaled, replicas, audio, pool) for _ in range(4)]
            await hear(callers)
            leaving = callers[0].replica
            stopping = asyncio.create_task(asyncio.to_thread(docker, "stop", leaving))
            theirs = [one for one in callers if one.replica == leaving]
            others = [one for one in callers if one.replica != leaving]
            assert theirs and others
            for one in theirs:
                await one.ended()
                assert one.end is not None and one.end.code == 1012
                kinds = [type(message) for message in one.got]
                assert Finalized in kinds and kinds.index(Finalized) < kinds.index(Summary)
                summary = one.got[kinds.index(Summary)]
                assert isinstance(summary, Summary) and summary.frames == one.frames
            await new_ones_work(scaled, audio, 4)
            await going_on(others)
            for one in others:
                assert one.end is None
                await one.hang_up()
            await stopping
            # The server re-raises the signal when all is done, and the init process reports it as 128 + 15.
            assert inspect(leaving)["State"]["ExitCode"] in (0, 143)

    asyncio.run(scenario())


def test_more_replicas_take_part_without_a_restart_of_nginx(scaled: Stack, audio):
    nginx = scaled.containers("nginx")
    scaled.compose("up", "--wait", "--no-build", "--no-recreate", "--scale=speech-qc=3", "speech-qc")
    replicas = scaled.containers("speech-qc")
    assert len(replicas) == 3 and scaled.containers("nginx") == nginx

    async def scenario() -> None:
        async with AsyncExitStack() as pool:
            await asyncio.sleep(3)  # nginx resolves the addresses every second
            callers = [await call(scaled, replicas, audio, pool) for _ in range(3)]
            assert {one.replica for one in callers} == set(replicas)

    asyncio.run(scenario())


def test_down_leaves_nothing_of_several_replicas(scaled: Stack):
    assert scaled.left()
    scaled.down()
    assert scaled.left() == []
