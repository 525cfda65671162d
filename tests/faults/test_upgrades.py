"""Upgrade requests that do not become streams or do not end as streams: each gets a reason and is closed."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from live_server import open_to, serving, small_socket, until_no_connection
from signals import white_noise
from speech_qc.engine import EchoRunner
from stream_material import CLOSE, pcm16
from waiting import until

QUICK: dict[str, Any] = {"header_timeout_s": 0.5, "read_timeout_s": 0.5, "upload_idle_s": 0.5, "keep_alive_s": 2.0}
HEAD = b"Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
STREAM = b"GET /v1/stream HTTP/1.1\r\n" + HEAD + KEY
NO_HANDSHAKES = {
    "another method": (b"POST" + STREAM[3:] + b"\r\n", 405),
    "another method and a body that does not come": (b"POST" + STREAM[3:] + b"Content-Length: 9\r\n\r\n", 400),
    "a body": (STREAM + b"Content-Length: 5\r\n\r\nhello", 400),
    "a body that does not come": (STREAM + b"Content-Length: 5\r\n\r\n", 400),
    "a body in chunks": (STREAM + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 400),
    "chunks that do not come": (STREAM + b"Transfer-Encoding: chunked\r\n\r\n", 400),
    "very many headers": (STREAM + b"X: y\r\n" * 200 + b"\r\n", 400),
    "a very long header": (STREAM + b"X: " + b"y" * 8500 + b"\r\n\r\n", 400),
    "a very long address": (STREAM.replace(b"/stream", b"/stream?" + b"y" * 8500) + b"\r\n", 400),
    "no key": (STREAM.replace(KEY, b"") + b"\r\n", 400),
    "another version": (STREAM.replace(b"13", b"12") + b"\r\n", 400),
    "an origin that is no address": (STREAM + b"Origin: http://[::1\r\n\r\n", 403),
}


@pytest.mark.parametrize("case", NO_HANDSHAKES)
def test_what_is_no_handshake_is_answered_and_leaves_no_connection(case):
    said, status = NO_HANDSHAKES[case]

    async def main() -> bytes:
        async with serving(**QUICK) as (url, app):
            reader, writer = await open_to(url)
            writer.write(said)
            answer = await asyncio.wait_for(reader.read(), 8)
            await until_no_connection(app)
            writer.close()
            return answer

    answer = asyncio.run(main())
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"application/json" in head:
        assert json.loads(body)["error"]["code"] == "protocol_error"


def test_a_stream_cannot_be_asked_for_while_an_upload_is_under_way():
    """Its response would be mixed with the stream's messages."""
    begun = b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"

    async def main() -> bytes:
        async with serving(**QUICK) as (url, app):
            reader, writer = await open_to(url)
            writer.write(begun + STREAM + b"\r\n")
            answer = await asyncio.wait_for(reader.read(), 8)
            await until_no_connection(app)
            assert app.state.parts.uploads.taken == 0
            writer.close()
            return answer

    answer = asyncio.run(main())
    assert answer.startswith(b"HTTP/1.1 400 ") and b"on a new connection" in answer


def test_a_stream_whose_client_reads_nothing_at_its_end_is_cut():
    """Unsent messages are in the connection's buffer, and closing would wait for them indefinitely."""

    async def main() -> None:
        async with serving(send_buffer_bytes=4096, **QUICK) as (url, app):
            plain, loop = await small_socket(url), asyncio.get_running_loop()
            await loop.sock_sendall(plain, STREAM + b"\r\n")
            for _ in range(30):
                audio = Frame(Opcode.BINARY, pcm16(white_noise(0.1))).serialize(mask=True, extensions=[])
                await loop.sock_sendall(plain, audio)
            await loop.sock_sendall(plain, Frame(Opcode.TEXT, CLOSE.encode()).serialize(mask=True, extensions=[]))
            metrics = app.state.parts.metrics.registry
            await until(
                lambda: metrics.get_sample_value("speechqc_streams_ended_total", {"outcome": "ok"}) == 1,
                "the stream has ended",
            )
            await until_no_connection(app)
            plain.close()

    asyncio.run(main())


def test_no_log_line_holds_the_query_or_a_header_of_a_stream(caplog):
    """Not even at `debug`, where the WebSocket library logs headers and payloads."""
    said = STREAM.replace(b"/stream", b"/stream?token=sqt_hidden1&session_name=hidden2") + b"X-API-Key: hidden3\r\n\r\n"
    told = logging.getLogger("uvicorn.error")

    async def main() -> None:
        async with serving(**QUICK) as (url, app):
            told.addHandler(caplog.handler)
            told.setLevel(logging.DEBUG)
            reader, writer = await open_to(url)
            writer.write(said)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(Frame(Opcode.TEXT, b'{"type": "hidden4"}').serialize(mask=True, extensions=[]))
            await asyncio.wait_for(reader.readuntil(b"protocol_error"), 8)
            writer.close()
            await until_no_connection(app)

    level = told.level
    try:
        with caplog.at_level(logging.DEBUG):
            asyncio.run(main())
    finally:
        told.removeHandler(caplog.handler)
        told.setLevel(level)
    assert "stream disconnected" in caplog.text, "the log was heard"
    assert "hidden" not in caplog.text


@pytest.mark.slow
def test_a_stream_that_is_closing_keeps_nobody_else_from_an_orderly_end():
    """The client sends a close but does not read earlier messages; meanwhile the server receives SIGTERM."""

    async def main() -> bytes:
        async with serving(send_buffer_bytes=4096, drain_s=4.0, read_timeout_s=60.0) as (url, app):
            plain, loop = await small_socket(url), asyncio.get_running_loop()
            await loop.sock_sendall(plain, STREAM + b"\r\n")
            audio = Frame(Opcode.BINARY, pcm16(white_noise(0.1))).serialize(mask=True, extensions=[])
            while app.state.parts.memory.unsent_bytes < 20_000:
                await loop.sock_sendall(plain, audio)
                await asyncio.sleep(0.005)
            await loop.sock_sendall(plain, Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True, extensions=[]))
            reader, writer = await open_to(url)
            writer.write(b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b"RIFF")
            parts = app.state.parts
            await until(lambda: parts.uploads.taken == 1 and len(parts.streams) == 0, "upload begun, stream ended")
            reading = asyncio.create_task(reader.read())
        # by now the server has exited cleanly, and has told the upload's client that it could not finish it
        answer = await asyncio.wait_for(reading, 8)
        writer.close()
        plain.close()
        return answer

    assert asyncio.run(asyncio.wait_for(main(), 60)).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("after_close", [False, True], ids=["before", "after the server's close"])
def test_text_that_is_none_ends_its_connection_wherever_it_stands(after_close):
    wrong = Frame(Opcode.TEXT, b"\xff\xfe").serialize(mask=True, extensions=[])
    close = Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True, extensions=[])
    padding = Frame(Opcode.BINARY, bytes(20_000)).serialize(mask=True, extensions=[])

    async def main() -> None:
        async with serving(**QUICK) as (url, app):
            reader, writer = await open_to(url)
            writer.write((STREAM.replace(b"/stream", b"/stream?nonsense=1") if after_close else STREAM) + b"\r\n")
            await reader.readuntil(b'"error"' if after_close else b'"ready"')
            writer.write(padding + wrong + close)
            await asyncio.wait_for(reader.read(), 8)
            await until_no_connection(app)
            await until(lambda: len(app.state.parts.streams) == 0, "the stream has ended")
            writer.close()

    asyncio.run(main())


def test_a_refusal_before_a_stream_is_open_is_no_error_of_the_server(caplog):
    class Dead(EchoRunner):
        def run(self, *_: object):
            raise RuntimeError("the device fell off")

    async def main() -> None:
        async with serving(Dead(), max_step_failures=1, **QUICK) as (url, app):
            reader, writer = await open_to(url)
            writer.write(STREAM + b"\r\n")
            await reader.readuntil(b'"ready"')
            writer.write(Frame(Opcode.BINARY, bytes(32_000)).serialize(mask=True, extensions=[]))
            await asyncio.wait_for(reader.readuntil(b"engine_dead"), 8)
            writer.close()
            reader, writer = await open_to(url)
            writer.write(STREAM + b"\r\n")
            said = await asyncio.wait_for(reader.read(), 8)
            assert said.startswith(b"HTTP/1.1 503 ") and b"engine_dead" in said
            writer.close()
            await until_no_connection(app)

    asyncio.run(main())
    assert "handshake" not in caplog.text
