"""Slow, half-open or aborted connections to a real server: each is closed without leaving anything behind."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

from live_server import open_to, serving, small_socket, until_no_connection
from signals import wav_bytes, white_noise
from waiting import until

pytestmark = pytest.mark.slow

SOUND = wav_bytes(white_noise(2.0))
QUICK: dict[str, Any] = {"header_timeout_s": 0.3, "read_timeout_s": 0.3, "upload_idle_s": 0.3, "keep_alive_s": 2.0}
UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def post(length: int) -> bytes:
    return b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length


async def answer_of(reader: asyncio.StreamReader, seconds: float = 8.0) -> bytes:
    async with asyncio.timeout(seconds):
        return await reader.read()


def at_rest(app) -> bool:
    parts = app.state.parts
    return parts.uploads.taken == 0 and parts.engine.status.sessions == 0 and len(parts.streams) == 0


@pytest.mark.parametrize("said", [b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"GET /"])
def test_a_head_that_never_ends_is_cut(said):
    async def main() -> None:
        async with serving(**QUICK) as (url, _):
            reader, writer = await open_to(url)
            writer.write(said)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                async with asyncio.timeout(5):
                    await reader.readexactly(1)
            writer.close()

    asyncio.run(main())


def test_a_head_that_comes_byte_by_byte_is_cut_too():
    async def main() -> None:
        async with serving(**QUICK) as (url, _):
            reader, writer = await open_to(url)
            reading = asyncio.create_task(reader.read())

            async def drip() -> None:
                writer.write(b"GET / HTTP/1.1\r\n")
                while True:
                    writer.write(b"X-A: b\r\n")
                    await asyncio.sleep(0.05)

            dripping = asyncio.create_task(drip())
            async with asyncio.timeout(5):
                done, _ = await asyncio.wait({reading})
            dripping.cancel()
            await asyncio.wait({dripping})
            assert done.pop().exception() is not None or reading.result() == b""
            writer.close()

    asyncio.run(main())


def test_a_head_that_is_too_long_gets_431_however_it_is_cut():
    long = b"GET /health/live HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n"
    many = b"GET /health/live HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 900 + b"\r\n"
    address = b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"

    async def main() -> None:
        async with serving(max_header_bytes=8192) as (url, _):
            for head in (long, many, address):
                reader, writer = await open_to(url)
                writer.write(head)
                assert (await answer_of(reader)).startswith(b"HTTP/1.1 431 "), head[:30]
                writer.close()
            reader, writer = await open_to(url)
            with pytest.raises(ConnectionError):
                writer.write(b"GET / HTTP/1.1\r\nX-Endless: ")
                for _ in range(10_000):
                    writer.write(b"a" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0)
            writer.close()

    asyncio.run(main())


def test_a_normal_client_is_not_disturbed_by_the_bounds():
    async def main() -> None:
        async with serving(**QUICK, max_header_bytes=4096) as (url, _):
            reader, writer = await open_to(url)
            for _ in range(3):  # over one connection, with a body larger than the header limit
                writer.write(post(len(SOUND)) + SOUND)
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
            writer.close()

    asyncio.run(main())


def test_an_upload_that_stops_is_answered_408_and_gives_its_place_back():
    async def main() -> None:
        async with serving(**QUICK, max_uploads=1) as (url, app):
            reader, writer = await open_to(url)
            writer.write(post(len(SOUND)) + SOUND[:30_000])
            answer = await answer_of(reader)
            assert answer.startswith(b"HTTP/1.1 408 ") and b"request_timeout" in answer
            assert at_rest(app)
            writer.close()

    asyncio.run(main())


def test_an_upload_that_drips_is_answered_408():
    async def main() -> None:
        async with serving(**QUICK, upload_min_bytes_per_s=5000) as (url, app):
            reader, writer = await open_to(url)
            writer.write(post(len(SOUND)) + SOUND[:100])

            async def drip() -> None:
                for byte in range(100, 10_000):
                    writer.write(SOUND[byte : byte + 1])
                    await asyncio.sleep(0.02)

            dripping = asyncio.create_task(drip())
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
            finally:
                dripping.cancel()
                await asyncio.wait({dripping})
            assert head.startswith(b"HTTP/1.1 408 ")
            writer.close()
            await until(lambda: at_rest(app), "nothing is left of the client")

    asyncio.run(main())


def test_a_client_that_does_not_take_its_answer_is_cut():
    async def main() -> None:
        async with serving(send_buffer_bytes=4096, **QUICK) as (url, app):
            plain, loop = await small_socket(url), asyncio.get_running_loop()
            sound = wav_bytes(white_noise(60.0))  # 3000 frames of 12 labels: about 200 KB of JSON
            await loop.sock_sendall(plain, post(len(sound)) + sound)
            await until(lambda: at_rest(app), "nothing is left of the client")

            await asyncio.sleep(1.5)  # nothing is read until the server has closed the connection
            received = b""
            try:
                while piece := await asyncio.wait_for(loop.sock_recv(plain, 1 << 16), 5):
                    received += piece
            except ConnectionResetError:
                pass
            length = int(received.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert len(received) < length, "the rest was thrown away with the connection"
            plain.close()

    asyncio.run(main())


def test_clients_that_vanish_within_a_message_leave_nothing():
    half_a_frame = b"\x82\xfe" + (16_000).to_bytes(2, "big") + bytes(4) + bytes(5000)

    async def main() -> None:
        async with serving() as (url, app):
            for vanish in (b"", b"\x82", half_a_frame, b"\x01\x85" + bytes(4) + b"Hello"):
                reader, writer = await open_to(url)
                writer.write(UPGRADE)
                await reader.readuntil(b"\r\n\r\n")
                writer.write(vanish)
                await writer.drain()
                await until(lambda: len(app.state.parts.streams) == 1, "the stream has begun")
                reset = struct.pack("ii", 1, 0)  # an RST instead of a FIN
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                writer.transport.abort()
                await until(lambda: at_rest(app), "nothing is left of the client")
            reader, writer = await open_to(url)
            writer.write(post(len(SOUND)) + SOUND[:30_000])
            await until(lambda: app.state.parts.uploads.taken == 1, "the upload has begun")
            writer.transport.abort()
            await until(lambda: at_rest(app), "nothing is left of the client")

    asyncio.run(main())


def test_a_half_open_socket_is_closed_by_the_idle_time():
    """The client's machine loses power: no FIN, no RST, no pong arrives."""

    async def main() -> None:
        async with serving(stream_idle_s=0.3) as (url, app):
            reader, writer = await open_to(url)
            writer.write(UPGRADE)
            await reader.readuntil(b"\r\n\r\n")
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # it also has read methods
            await until(lambda: len(app.state.parts.streams) == 1, "the stream has begun")
            await until(lambda: at_rest(app), "nothing is left of the client")
            writer.transport.abort()

    asyncio.run(main())


def test_what_is_left_of_a_body_that_was_refused_is_passed_over_but_not_for_ever():
    """The connection stays usable, and the rest is not parsed as the next request's header."""

    async def main() -> None:
        async with serving(**QUICK, max_upload_bytes=50_000) as (url, app):
            reader, writer = await open_to(url)
            for _ in range(2):
                writer.write(post(200_000) + bytes(60_000))
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 8)
                assert head.startswith(b"HTTP/1.1 413 ")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                writer.write(bytes(140_000))
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 8)).startswith(b"HTTP/1.1 200 ")
            writer.close()

            reader, writer = await open_to(url)
            writer.write(post(10**9) + bytes(60_000))
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(8):
                    while True:
                        writer.write(bytes(1000))
                        await writer.drain()
                        await asyncio.sleep(0.01)
            writer.close()
            await until_no_connection(app)

    asyncio.run(main())


def test_a_connection_whose_body_is_complete_after_its_answer_is_closed_when_nothing_comes_any_more():
    async def main() -> None:
        async with serving(**(QUICK | {"keep_alive_s": 0.3})) as (url, app):
            reader, writer = await open_to(url)
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 8)
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(b"x")
            await until_no_connection(app)
            writer.close()

    asyncio.run(main())
