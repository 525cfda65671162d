"""Limits of streams, disconnections, and no effect on other clients."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from starlette.testclient import WebSocketDenialResponse
from websockets.asyncio.client import connect

from live_server import serving
from signals import white_noise
from speech_qc.app import create_app
from speech_qc.engine import EchoRunner
from speech_qc.errors import SpeechQCError
from speech_qc.live import stream as stream_module
from speech_qc.live.options import parse_options
from speech_qc.live.stream import LiveStream
from speech_qc.settings import Settings
from speech_qc.state import AppState
from speech_qc.wire.close import MAX_REASON_BYTES, close_reason
from stream_material import (
    CLOSE,
    KEEP_ALIVE,
    converse,
    cut,
    frames_of,
    of_type,
    pcm16,
    receive,
    receive_all,
)
from waiting import block_until, until

SECOND = pcm16(white_noise(1.0, level_dbfs=-30))
PIECES = cut(SECOND, 3200)


class Peer:
    """A client without a network: it sends scripted messages and records received ones."""

    def __init__(self, say: Callable[[Peer], AsyncIterator[bytes | str | None]]) -> None:
        self._script = say(self)
        self.taken = 0  # messages the server has read
        self.told: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.aborted = False
        self.reading = asyncio.Event()
        self.reading.set()
        self.news = asyncio.Event()

    async def receive(self) -> bytes | str | None:
        message = await anext(self._script, None)
        self.taken += 1
        return message

    def tap(self, sink: Callable[[bytes], bool] | None) -> None:
        """Receive this client's audio."""

    def send_now(self, text: bytes) -> bool:  # noqa: ARG002  # it has no fast path
        return False

    async def send(self, text: bytes) -> None:
        await self.reading.wait()
        self.told.append(json.loads(text))
        self.news.set()

    async def close(self, code: int, reason: str) -> None:
        await self.reading.wait()
        self.closed = (code, reason)

    def abort(self) -> None:
        self.aborted = True


@asynccontextmanager
async def running(runner: EchoRunner | None = None, **settings: object) -> AsyncIterator[AppState]:
    app = create_app(Settings(**settings), runner or EchoRunner(lookahead_frames=2))  # type: ignore[arg-type]
    async with app.router.lifespan_context(app):
        yield app.state.parts


def stream_of(parts: AppState, peer: Peer, *query: tuple[str, str]) -> LiveStream:
    generation = parts.models.current
    options = parse_options(query, generation.contract, parts.profiles, "default")
    return LiveStream(peer, options, "s", generation, parts)


async def endless(peer: Peer) -> AsyncIterator[bytes | str | None]:
    while True:
        for piece in PIECES:
            yield piece


def test_a_silent_client_is_told_and_closed_with_1008(make_client):
    client = make_client(stream_idle_s=0.1)
    with client.websocket_connect("/v1/stream") as session:
        ready, error, close = receive_all(session)
    assert ready["type"] == "ready"
    assert "KeepAlive" in error["error"]["message"]
    assert close["code"] == 1008
    assert "KeepAlive" in close["reason"]


def test_keep_alive_keeps_a_stream_open_and_silence_ends_it():
    async def say(peer: Peer) -> AsyncIterator[bytes | str | None]:
        for _ in range(8):
            await asyncio.sleep(0.05)
            yield KEEP_ALIVE
        peer.taken = 0
        await asyncio.Event().wait()

    async def main() -> None:
        async with running(stream_idle_s=0.2) as parts:
            peer = Peer(say)
            assert await stream_of(parts, peer).run() == "protocol_error"
            assert peer.taken == 0, "all eight were taken before the time-out"
            assert peer.closed is not None and peer.closed[0] == 1008

    asyncio.run(main())


def test_a_client_that_does_not_read_costs_bounded_memory_and_is_cut():
    async def main() -> None:
        async with running(stream_send_timeout_s=0.15, stream_max_ahead_s=0.5, stream_send_queue_bytes=4096) as parts:
            peer = Peer(endless)
            peer.reading.clear()
            stream = stream_of(parts, peer)
            assert await stream.run() == "overloaded"
            # After 4 KiB of messages, one being sent, and half a second of queued audio, the socket is not read.
            assert peer.taken < 30
            assert peer.aborted
            assert parts.engine.status.sessions == 0
            assert len(parts.streams) == 0

    asyncio.run(main())


def test_a_client_that_reads_again_in_time_is_told_why():
    async def main() -> None:
        async with running(stream_send_timeout_s=0.2) as parts:
            peer = Peer(endless)
            peer.reading.clear()
            task = asyncio.create_task(stream_of(parts, peer).run())
            await until(lambda: parts.engine.status.sessions == 1, "the stream has begun")
            await until(lambda: parts.engine.status.sessions == 0, "it was dropped, though not yet cut off")
            peer.reading.set()
            assert await task == "overloaded"
            assert peer.told[-1]["error"]["detail"]["unread_s"] == 0.2
            assert peer.closed is not None and peer.closed[0] == 1013
            assert "read" in peer.closed[1]
            assert not peer.aborted

    asyncio.run(main())


def test_streams_beyond_the_limit_get_1013_and_a_retry_hint(make_client):
    client = make_client(max_streams=2)
    with client.websocket_connect("/v1/stream") as first, client.websocket_connect("/v1/stream") as second:
        assert (receive(first)["type"], receive(second)["type"]) == ("ready", "ready")
        error, close = converse(client, [], close=False)
        assert error["error"]["code"] == "overloaded"
        assert error["error"]["detail"]["retry_after_s"] == 1
        assert close["code"] == 1013
        assert "retry after 1 s" in close["reason"]
        for session in (first, second):
            session.send_text(CLOSE)
            receive_all(session)
    assert converse(client, [SECOND])[-1]["code"] == 1000


def test_a_stereo_stream_takes_two_places(make_client):
    client = make_client(max_streams=3)
    with client.websocket_connect("/v1/stream?channels=2") as stereo:
        assert receive(stereo)["type"] == "ready"
        assert converse(client, [], "?channels=2", close=False)[-1]["code"] == 1013
        assert converse(client, [])[-1]["code"] == 1000


def test_a_client_that_leaves_frees_its_places(make_client):
    client = make_client(max_streams=2)
    for _ in range(5):
        with client.websocket_connect("/v1/stream?channels=2") as session:
            assert receive(session)["type"] == "ready"
            session.send_bytes(SECOND)
        block_until(lambda: not client.get("/health/ready").json()["sessions"], "the stream's sessions are closed")


def test_a_connection_that_breaks_frees_its_places():
    async def main() -> None:
        async with serving() as (url, app):
            parts: AppState = app.state.parts
            link = await connect(f"{url}/v1/stream", compression=None)
            await link.recv()
            await link.send(SECOND)
            assert parts.engine.status.sessions == 1
            link.transport.abort()
            await until(lambda: parts.engine.status.sessions == 0 and len(parts.streams) == 0, "its places are free")
            assert parts.metrics.streams_ended.labels("disconnected")._value.get() == 1

    asyncio.run(main())


def test_a_reader_that_stops_on_a_real_socket_is_cut():
    async def main() -> None:
        async with serving(send_buffer_bytes=4096, stream_send_timeout_s=0.2, stream_send_queue_bytes=4096) as (
            url,
            app,
        ):
            parts: AppState = app.state.parts
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # full after a few messages
            plain.setblocking(False)
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", int(url.rsplit(":", 1)[1])))
            reader, writer = await asyncio.open_connection(sock=plain, limit=2**12)
            writer.write(
                b"GET /v1/stream?emit_ms=20 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            # Masked with zeros, so the payload is unchanged: one message of 16 000 bytes, half a second.
            frame = b"\x82\xfe" + (16_000).to_bytes(2, "big") + bytes(4) + SECOND[:16_000]

            async def pour() -> None:
                while True:
                    writer.write(frame)
                    await writer.drain()

            pouring = asyncio.create_task(pour())
            await until(lambda: parts.engine.status.sessions == 1, "the stream has begun")
            await until(lambda: len(parts.streams) == 0, "the stream was cut")
            outcome = parts.metrics.streams_ended.labels("overloaded")._value.get()
            pouring.cancel()
            await asyncio.wait({pouring})
            writer.transport.abort()
            assert outcome == 1

    asyncio.run(main())


def test_at_shutdown_every_stream_gets_its_summary_and_1012():
    async def say(peer: Peer) -> AsyncIterator[bytes | str | None]:
        yield SECOND
        await asyncio.Event().wait()

    async def main() -> None:
        async with running() as parts:
            peers = [Peer(say) for _ in range(3)]
            tasks = [asyncio.create_task(stream_of(parts, peer).run()) for peer in peers]
            await until(lambda: all(len(peer.told) > 5 for peer in peers), "every stream has got scores")
            await parts.streams.drain(5.0)
            assert [await task for task in tasks] == ["draining"] * 3
            for peer in peers:
                assert [m["type"] for m in peer.told[-3:]] == ["finalized", "summary", "error"]
                assert len(frames_of(peer.told)["noise"]) == peer.told[-2]["frames"] == 50
                assert peer.told[-1]["error"]["detail"] == {"retry_after_s": 5, "covered_s": 1.0}
                assert "covers the first 1.00 s of the stream" in peer.told[-1]["error"]["message"]
                assert peer.closed is not None and peer.closed[0] == 1012
            late = Peer(say)
            with pytest.raises(SpeechQCError) as refused:
                await stream_of(parts, late).run()
            assert refused.value.ws_close == 1012

    asyncio.run(main())


async def taking_a_long_message(parts: AppState, peer: Peer) -> asyncio.Task[str]:
    """Run the stream of a peer until some of its long message is scored."""
    task = asyncio.create_task(stream_of(parts, peer).run())
    await until(lambda: of_type(peer.told, "scores"), "the long message is being taken")
    return task


@pytest.mark.parametrize("then", [None, CLOSE])
def test_at_shutdown_the_message_in_progress_is_taken_to_its_end_with_those_behind_it(then):
    async def say(peer: Peer) -> AsyncIterator[bytes | str | None]:
        yield 25 * SECOND
        yield SECOND
        if then is not None:
            yield then
        await asyncio.Event().wait()

    async def main() -> None:
        async with running() as parts:
            peer = Peer(say)
            task = await taking_a_long_message(parts, peer)
            assert peer.taken == 1
            await parts.streams.drain(30.0)
            outcome = await task
            assert of_type(peer.told, "summary")[0]["duration_s"] == 26.0
            assert len(frames_of(peer.told)["noise"]) == 26 * 50
            if then is None:
                assert outcome == "draining"
                assert peer.told[-1]["error"]["detail"]["covered_s"] == 26.0
            else:
                assert (outcome, peer.told[-1]["type"], peer.closed) == ("ok", "summary", (1000, "")), (
                    "nothing is missing"
                )

    asyncio.run(main())


@pytest.mark.parametrize("endlessly", [False, True])
def test_a_shutdown_takes_what_there_is_time_for_and_says_how_much_that_was(endlessly, monkeypatch):
    monkeypatch.setattr(stream_module, "REST_S", 0.1)

    async def say(peer: Peer) -> AsyncIterator[bytes | str | None]:
        yield 30 * SECOND
        while endlessly:
            yield SECOND
        await asyncio.Event().wait()

    async def main() -> None:
        async with running() as parts:
            peer = Peer(say)
            task = await taking_a_long_message(parts, peer)
            await parts.streams.drain(30.0 if endlessly else 0.02)
            assert await asyncio.wait_for(task, 20) == "draining"
            summary, error = peer.told[-2:]
            assert (0 < summary["duration_s"] < 30) is not endlessly
            assert error["error"]["detail"]["covered_s"] == summary["duration_s"]
            assert f"the first {summary['duration_s']:.2f} s" in error["error"]["message"]

    asyncio.run(main())


def test_a_server_told_to_stop_lets_real_clients_finish_with_1012():
    async def main() -> None:
        async with serving() as (url, _):
            link = await connect(f"{url}/v1/stream", compression=None)
            await link.send(SECOND)
            told = [json.loads(await link.recv()) for _ in range(4)]
        told += [json.loads(text) async for text in _rest(link)]
        assert [m["type"] for m in told[-3:]] == ["finalized", "summary", "error"]
        assert told[-2]["frames"] == 50
        assert link.close_code == 1012
        assert "retry after 5 s" in (link.close_reason or "")

    asyncio.run(main())


async def _rest(link: Any) -> AsyncIterator[str]:
    from websockets.exceptions import ConnectionClosed

    while True:
        try:
            yield await link.recv()
        except ConnectionClosed:
            return


class FailingRunner(EchoRunner):
    """A runner that fails the steps with these numbers, counted from the end of the warm-up."""

    def __init__(self, failing: range) -> None:
        super().__init__(lookahead_frames=2)
        self.failing, self.steps = failing, 0

    def run(self, features, state):
        self.steps += 1
        if self.steps in self.failing:
            raise RuntimeError("the device fell off")
        return super().run(features, state)


def test_one_failed_step_is_tried_again_and_not_heard(make_client):
    failed = converse(make_client(FailingRunner(range(3, 4))), [SECOND])
    intact = converse(make_client(FailingRunner(range(0))), [SECOND])
    assert of_type(failed, "error") == []
    assert frames_of(failed) == frames_of(intact)
    assert failed[-1]["code"] == 1000


def test_a_step_that_fails_twice_ends_the_stream_with_1011(make_client):
    client = make_client(FailingRunner(range(3, 5)))
    *_, error, close = converse(client, [SECOND])
    assert (error["error"]["code"], close["code"]) == ("inference_error", 1011)
    assert converse(client, [SECOND])[-1]["code"] == 1000


def test_a_dead_engine_ends_streams_with_1011_and_refuses_new_ones(make_client):
    client = make_client(FailingRunner(range(1, 100)), max_step_failures=1)
    *_, error, close = converse(client, [SECOND])
    assert (error["error"]["code"], close["code"]) == ("engine_dead", 1011)
    for path in ("/v1/stream", "/v1/telephony/twilio"):
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(path):
            pass  # before it is open, so that a load balancer tries another server
        assert (refused.value.status_code, refused.value.json()["error"]["code"]) == (503, "engine_dead")
    metrics = client.get("/metrics").text
    assert 'speechqc_refusals_total{reason="dead"} 0.0' not in metrics
    assert 'speechqc_streams_ended_total{outcome="engine_dead"} 2.0' in metrics
    assert 'speechqc_telephony_ended_total{outcome="engine_dead"} 1.0' in metrics


def test_a_client_faster_than_real_time_takes_one_place_in_a_step_like_everybody():
    """Counted in steps, not in seconds, so that a busy machine cannot make it fail."""
    rounds = 12

    async def main() -> None:
        async with running() as parts:
            waits: list[int] = []

            async def paced(peer: Peer) -> AsyncIterator[bytes | str | None]:
                for number in range(rounds):
                    peer.news.clear()
                    asked_at = parts.engine.status.steps
                    yield PIECES[number % len(PIECES)]
                    if number:  # the first chunk is complete only with the second message
                        await peer.news.wait()
                        waits.append(parts.engine.status.steps - asked_at)
                yield CLOSE

            burst = Peer(endless)
            greedy = asyncio.create_task(stream_of(parts, burst).run())
            await until(lambda: len(burst.told) > 5, "the greedy client has got scores")
            before = len(of_type(burst.told, "scores"))
            others = [Peer(paced) for _ in range(10)]
            outcomes = await asyncio.gather(*(stream_of(parts, peer).run() for peer in others))
            served = len(of_type(burst.told, "scores")) - before
            greedy.cancel()
            await asyncio.wait({greedy})
            assert outcomes == ["ok"] * 10
            assert len(waits) == 10 * (rounds - 1)
            assert sorted(waits)[len(waits) // 2] <= 3
            assert max(waits) <= 6, "a paced chunk waits for a step or two, however much the greedy client sends"
            assert served > rounds, "and the greedy client is served meanwhile"

    asyncio.run(main())


def test_memory_of_a_stream_does_not_grow_with_its_length():
    async def main() -> None:
        async with running() as parts:
            peer = Peer(endless)
            stream = stream_of(parts, peer)
            task = asyncio.create_task(stream.run())
            session = stream._scorer.sessions[0]

            def done(frames: int) -> bool:
                return session.frames_done > frames

            sizes = []
            for frames in (500, 3000):
                await until(partial(done, frames), f"{frames} frames are scored", patience_s=20)
                sizes.append(session.samples_waiting)
                peer.told.clear()
            assert session.scores._kept is None
            assert max(sizes) <= 1.2 * 16_000
            assert len(stream._scorer._metrics.arrivals) < 100
            assert len(session.scores._events) <= parts.settings.max_events
            task.cancel()
            await asyncio.wait({task})

    asyncio.run(main())


def test_close_reasons_fit_into_a_close_frame():
    from test_errors import served

    for kind in served():
        reason = close_reason(kind("m" * 500))
        assert reason.startswith(kind.code)
        assert len(reason.encode()) <= MAX_REASON_BYTES
