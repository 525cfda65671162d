"""The client class against a real server on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from live_server import serving
from signals import voice, white_noise
from speech_qc.client.stream import MAX_WAITING, NoStream, StreamClient, StreamClosed, _no_stream, encode, stream_url
from speech_qc.wire.server_messages import (
    Configured,
    EventMessage,
    Finalized,
    Scores,
    StreamError,
    StreamWarning,
    Summary,
)
from stream_material import pcm16

SAMPLES = (voice(2.0) + white_noise(2.0, level_dbfs=-40)).astype(np.float32)


def test_a_stream_from_connect_to_summary():
    async def main() -> None:
        async with serving() as (url, _), StreamClient.connect(url, session_name="test", emit_ms=200) as stream:
            assert stream.ready.session_name == "test"
            for start in range(0, len(SAMPLES), 1600):
                await stream.send(SAMPLES[start : start + 1600])
            await stream.keep_alive()
            done = await stream.finalize()
            assert 90 < done.frames < 100
            await stream.configure(labels=["noise"])
            summary = await stream.close()
            messages = [message async for message in stream]
            assert messages[-1] is summary is stream.summary
            assert summary.frames == 100
            assert await stream.close() is summary
            frames = [value for m in messages if isinstance(m, Scores) for value in m.channels[0].frames["noise"]]
            assert len(frames) == 100
            kinds = {type(message) for message in messages}
            assert kinds <= {Scores, EventMessage, StreamWarning, Finalized, Configured, Summary}
            assert {Scores, Finalized, Configured} <= kinds

    asyncio.run(main())


def test_messages_can_be_read_while_audio_is_sent():
    async def main() -> None:
        async with serving() as (url, _), StreamClient.connect(url) as stream:
            seen = []

            async def read() -> None:
                async for message in stream:
                    seen.append(message)

            reading = asyncio.create_task(read())
            await stream.send(pcm16(SAMPLES))
            summary = await stream.close()
            await reading
            assert seen[-1] is summary

    asyncio.run(main())


@pytest.mark.parametrize("encoding", ["linear16", "mulaw", "alaw", "float32"])
def test_arrays_are_encoded_as_the_stream_was_opened(encoding):
    stereo = np.stack([SAMPLES, SAMPLES[::-1]], axis=1)

    async def main() -> None:
        async with (
            serving() as (url, _),
            StreamClient.connect(url, encoding=encoding, sample_rate=8000, channels=2) as stream,
        ):
            await stream.send(stereo)
            summary = await stream.close()
            assert summary.duration_s == 4.0
            for channel in summary.channels:
                expected = 20 * np.log10(np.sqrt(np.mean(SAMPLES.astype(float) ** 2)))
                assert channel.levels.rms_dbfs == pytest.approx(expected, abs=0.1)

    asyncio.run(main())


def test_a_refusal_says_why_and_when_to_come_back():
    async def main() -> None:
        async with serving(max_streams=1) as (url, _):
            async with StreamClient.connect(url):
                with pytest.raises(StreamClosed, match="1013") as refused:
                    await StreamClient.connect(url)
            assert (refused.value.code, refused.value.retry_after_s) == (1013, 1)
            with pytest.raises(StreamClosed, match="sample_rate") as wrong:
                await StreamClient.connect(url, sample_rate=4000)
            assert (wrong.value.code, wrong.value.retry_after_s) == (1008, None)

    asyncio.run(main())


def test_a_violation_reaches_who_iterates_and_who_closes():
    async def main() -> None:
        async with serving() as (url, _), StreamClient.connect(url, encoding="float32") as stream:
            await stream.send(np.array([np.nan], np.float32))
            with pytest.raises(StreamClosed, match="finite") as ended:
                async for message in stream:
                    assert isinstance(message, StreamError)
            assert ended.value.code == 1007
            with pytest.raises(StreamClosed):
                await stream.close()
            with pytest.raises(StreamClosed):
                await stream.finalize()

    asyncio.run(main())


def test_a_summary_of_a_stream_that_the_server_ended_is_not_taken_for_a_whole_one():
    async def main() -> None:
        async with serving() as (url, app), StreamClient.connect(url) as stream:
            await stream.send(SAMPLES)
            await stream.finalize()
            await app.state.parts.streams.drain(5.0)
            for _ in range(2):
                with pytest.raises(StreamClosed, match=r"1012: .*covers the first 2\.00 s") as ended:
                    await stream.close()
                assert ended.value.code == 1012
                assert ended.value.summary is not None
                assert ended.value.summary is stream.summary
                assert ended.value.summary.duration_s == 2.0
                assert ended.value.retry_after_s == 5.0
            with pytest.raises(StreamClosed) as told:
                async for _ in stream:
                    pass
            assert told.value.summary is stream.summary

    asyncio.run(main())


def test_what_was_sent_before_close_is_whole_even_at_a_shutdown():
    async def main() -> None:
        async with serving() as (url, app), StreamClient.connect(url) as stream:
            sending = asyncio.create_task(stream.send(np.tile(SAMPLES, 15)))
            async for message in stream:
                if isinstance(message, Scores):
                    break
            await sending
            closing = asyncio.create_task(stream.close())
            await asyncio.sleep(0)
            await app.state.parts.streams.drain(30.0)
            try:
                assert (await closing).duration_s == 30.0
            except StreamClosed as ended:  # it is not known whether the server had CloseStream by then
                assert ended.summary is not None
                assert ended.error is not None
                assert ended.error.error.detail["covered_s"] == ended.summary.duration_s

    asyncio.run(main())


@pytest.mark.slow
def test_nobody_who_listens_is_no_reason_to_be_cut():
    async def main() -> None:
        async with serving() as (url, _), StreamClient.connect(url, emit_ms=20) as stream:
            for _ in range(30):
                await stream.send(pcm16(SAMPLES))
            summary = await stream.close()
            assert summary.frames == 3000

    asyncio.run(main())


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """A server that is not a stream: it sends these bytes, or nothing, to each client."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is not None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()
        else:
            await reader.read()
            writer.close()

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def refusal(url: str, **options: Any) -> str:
    """Return the error message of a client that finds no stream at the URL."""
    with pytest.raises(NoStream) as caught:
        await StreamClient.connect(url, **options)
    assert isinstance(caught.value, OSError), "who waits for one must get this one"
    assert caught.value.url in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP 404 instead of a WebSocket: give"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP 200 instead of a WebSocket"),
        (b"220 mail.example ESMTP\r\n", "response that is not WebSocket"),
        (b"", "response that is not WebSocket"),
    ],
)
def test_another_service_at_the_address_is_said_to_be_one(answer: bytes, told: str):
    async def main() -> None:
        async with answering(answer) as url:
            assert told in await refusal(url)

    asyncio.run(main())


@pytest.mark.parametrize("first", ['{"type":"hello"}', "welcome", b"\x00\x01", '{"type":"finalized","frames":3}'])
def test_a_websocket_of_another_kind_is_said_to_be_one(first: str | bytes):
    async def main() -> None:
        async def greet(link: ServerConnection) -> None:
            await link.send(first)
            await link.wait_closed()

        async with serve(greet, "127.0.0.1", 0) as server:
            told = await refusal(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            assert "not `ready` but" in told

    asyncio.run(main())


def test_a_server_that_is_not_there_or_silent_is_said_to_be():
    async def main() -> None:
        async with answering(None) as url:
            assert "got no answer within 0.1 s" in await refusal(url, open_timeout_s=0.1)
        told = await refusal(url)  # the server no longer listens
        assert "cannot connect (connection refused): start one" in told
        assert "cannot resolve the host name" in str(_no_stream(url, socket.gaierror(), 1.0))

    asyncio.run(main())


def test_tls_where_there_is_none_is_said():
    async def main() -> None:
        async with serving() as (url, _):
            assert "without TLS" in await refusal(url.replace("ws:", "wss:"))

    asyncio.run(main())


def test_a_path_that_the_server_does_not_have_is_said_to_be_wrong():
    async def main() -> None:
        async with serving() as (url, _):
            assert "HTTP 404 instead of a WebSocket: give the server's address" in await refusal(url + "/v2/stream")

    asyncio.run(main())


def test_addresses_are_completed():
    assert stream_url("http://a:1") == "ws://a:1/v1/stream"
    assert stream_url("wss://a/v1/stream?x=1", labels="noise,speech", profile=None) == (
        "wss://a/v1/stream?x=1&labels=noise%2Cspeech"
    )
    with pytest.raises(ValueError, match="ws"):
        stream_url("a:1")


def test_arrays_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        encode(np.zeros(10, np.float32), "linear16", 2)
    with pytest.raises(ValueError, match=r"\(n, 1\)"):
        encode(np.zeros((10, 2), np.float32), "linear16", 1)


READY = (
    '{"type":"ready","session_id":"s","session_name":null,"model":{"name":"m","version":"1","sha256":"0"},'
    '"frame_hop_s":0.02,"latency_s":0.055,"encoding":"linear16","sample_rate_hz":16000,"channels":1,"emit_ms":100,'
    '"labels":["noise"],"profile":"default","said_by_a_later_version":1}'
)
WARNING = '{"type":"warning","code":"silence","message":"nothing is heard","channel":0,"later":{}}'


@asynccontextmanager
async def told_much(last: str | None = None, over: int = 100) -> AsyncIterator[StreamClient]:
    """A client whose server sends `over` messages more than the unread limit, then one more, or closes with 1013."""

    async def tell(link: ServerConnection) -> None:
        async def hear() -> None:
            """Read everything: unread audio would reset the connection at its end and lose the close reason."""
            async for asked in link:
                if isinstance(asked, str) and last is not None:
                    await link.send(last)

        hearing = asyncio.create_task(hear())
        for text in (READY, *[WARNING] * (MAX_WAITING + over)):
            await link.send(text)
        if last is None:
            await link.close(1013, "come back later")
        await hearing

    async with (
        serve(tell, "127.0.0.1", 0, close_timeout=1) as server,
        StreamClient.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}") as stream,
    ):
        yield stream


async def send_for_ever(stream: StreamClient) -> None:
    while True:
        await stream.send(bytes(320))
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("left", [
    pytest.param(True, id="the loop was left"),
    pytest.param(False, id="somebody holds it", marks=pytest.mark.slow),  # for the 10 s of its close
])  # fmt: skip
def test_who_reads_no_more_is_told_of_the_end_when_sending(left: bool):
    async def main() -> None:
        # Beyond the 16 messages that `websockets` keeps, the close frame would wait unread in the kernel, and be lost
        # with the connection when the server stops waiting.
        async with told_much(over=5) as stream:
            messages = aiter(stream)
            assert isinstance(await anext(messages), StreamWarning)
            if left:
                del messages
            with pytest.raises(StreamClosed, match="come back later"):
                await asyncio.wait_for(send_for_ever(stream), 30)

    asyncio.run(main())


def test_finalize_hears_its_answer_behind_what_nobody_reads():
    async def main() -> None:
        async with told_much('{"type":"finalized","frames":7}') as stream:
            messages = aiter(stream)
            await anext(messages)
            assert (await asyncio.wait_for(stream.finalize(), 10)).frames == 7

    asyncio.run(main())


def test_fields_of_a_later_version_are_passed_over():
    async def main() -> None:
        async with told_much('{"type":"finalized","frames":7,"later":true}') as stream:
            assert stream.ready.labels == ["noise"]
            assert (await asyncio.wait_for(stream.finalize(), 10)).frames == 7

    asyncio.run(main())
