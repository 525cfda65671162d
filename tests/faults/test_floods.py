"""Clients that flood the server are disconnected, and other clients are not affected."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import httpx
import pytest
from websockets.frames import Frame, Opcode

from live_server import connections, open_to, serving, small_socket, until_no_connection
from signals import voice, wav_bytes, white_noise
from speech_qc.client.stream import StreamClient
from speech_qc.server.http_protocol import MAX_PIPELINED
from speech_qc.server.websocket_protocol import FRAMES, SLICE_BYTES
from stream_material import CLOSE
from waiting import until

pytestmark = pytest.mark.slow

UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin).serialize(mask=True, extensions=[])


FLOODS = {
    "pings": frame(Opcode.PING, b"x" * 100),
    "empty pings": frame(Opcode.PING),
    "pongs": frame(Opcode.PONG),
    "empty audio": frame(Opcode.BINARY),
    "single samples": frame(Opcode.BINARY, b"\x01\x02"),
    "commands": frame(Opcode.TEXT, b'{"type": "KeepAlive"}'),
    "empty fragments": frame(Opcode.BINARY, fin=False) + frame(Opcode.CONT, fin=False) * 100,
}


async def send_all(writer: asyncio.StreamWriter, data: bytes, times: int) -> bool:
    """Return whether the server read everything."""
    try:
        for _ in range(times):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return False
    return True


@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed by the server"])
def test_a_flood_of_frames_without_audio_is_cut(kind, closed):
    flood = FLOODS[kind] * (SLICE_BYTES // len(FLOODS[kind]))

    async def main() -> None:
        async with serving() as (url, app):
            reader, writer = await open_to(url)
            writer.write(UPGRADE.replace(b"/stream", b"/stream?nonsense=1") if closed else UPGRADE)
            await reader.readuntil(b'"error"' if closed else b'"ready"')
            assert not await send_all(writer, flood, 2000), "32 MB were taken"
            writer.close()
            await until_no_connection(app)
            await until(lambda: len(app.state.parts.streams) == 0, "the stream has ended")

    asyncio.run(asyncio.wait_for(main(), 60))


def test_others_are_served_while_many_flood():
    flood = FLOODS["empty pings"] * 40_000  # 240 KB in one write

    async def attack(url: str, end: asyncio.Event) -> None:
        while not end.is_set():
            reader, writer = await open_to(url)
            writer.write(UPGRADE)
            await reader.readuntil(b'"ready"')
            await send_all(writer, flood, 4)
            writer.close()

    async def main() -> list[float]:
        async with serving() as (url, app), httpx.AsyncClient() as web:
            end = asyncio.Event()
            attacks = [asyncio.create_task(attack(url, end)) for _ in range(5)]
            waits = []
            for _ in range(20):
                started_s = time.monotonic()
                assert (await web.get(url.replace("ws:", "http:") + "/health/live", timeout=30)).status_code == 200
                waits.append(time.monotonic() - started_s)
            async with StreamClient.connect(url, encoding="linear16", open_timeout_s=30) as stream:
                await stream.send(voice(1.0))
                assert (await stream.close()).frames == 50
            end.set()
            await asyncio.wait(attacks)
            await until(lambda: connections(app) <= 1, "the attackers' connections are closed")
            return waits

    # The attackers share this event loop, so it is slow enough; without the limit it took as long as the attack.
    assert max(asyncio.run(asyncio.wait_for(main(), 110))) < 5.0


@pytest.mark.parametrize("size", [160, 80])
def test_real_time_in_small_frames_and_much_more_than_real_time_in_larger_ones_are_no_flood(size):
    """Send more frames of 20 and 10 ms of A-law in one go than the initial credit allows without audio."""
    sound = bytes(range(256)) * (int(FRAMES) * 2 * size // 256)

    async def main() -> int:
        async with serving(stream_max_ahead_s=60) as (url, _):
            reader, writer = await open_to(url)
            writer.write(UPGRADE.replace(b"/stream", b"/stream?encoding=alaw&sample_rate=8000"))
            await reader.readuntil(b'"ready"')
            reading = asyncio.create_task(reader.read())
            for start in range(0, len(sound), size):
                writer.write(frame(Opcode.BINARY, sound[start : start + size]))
                if start % (100 * size) == 0:
                    await writer.drain()
            writer.write(frame(Opcode.TEXT, CLOSE.encode()))
            said = await asyncio.wait_for(reading, 60)
            writer.close()
            assert said.endswith(b"\x88\x02\x03\xe8"), said[-200:]  # closed with 1000
            return said.count(b'"scores"')

    assert asyncio.run(main()) > 10


def test_a_client_that_pings_and_does_not_read_fills_no_memory():
    async def main() -> None:
        async with serving(send_buffer_bytes=4096) as (url, app):
            plain, loop = await small_socket(url), asyncio.get_running_loop()
            await loop.sock_sendall(plain, UPGRADE)
            most = 0
            for _ in range(int(FRAMES) // 100 + 5):  # below the frame limit, then at it
                try:
                    await loop.sock_sendall(plain, FLOODS["pings"] * 100)
                except ConnectionError:
                    break
                await asyncio.sleep(0.01)
                most = max(most, app.state.parts.memory.unsent_bytes)
            plain.close()
            assert most < 100_000, "answers that nobody takes are not written"
            await until_no_connection(app)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_requests_that_do_not_wait_for_answers_are_cut_and_a_few_are_not():
    ask = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"

    async def main() -> None:
        async with serving() as (url, app):
            reader, writer = await open_to(url)
            writer.write(ask * MAX_PIPELINED)
            for _ in range(MAX_PIPELINED):
                assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")
            writer.close()
            reader, writer = await open_to(url)
            await send_all(writer, ask * 5000, 20)
            said = b""
            with suppress(ConnectionError):
                while more := await reader.read(1 << 16):
                    said += more
            assert said.count(b"HTTP/1.1 200 ") <= MAX_PIPELINED
            writer.close()
            await until_no_connection(app)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_multipart_body_is_bounded_beside_its_file_too(make_client):
    part = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n\r\n'
    client = make_client(max_upload_bytes=200_000)
    headers = {"Content-Type": "multipart/form-data; boundary=B"}

    def body(*names: bytes):
        for name in names:  # in chunks: no length is declared
            yield part % name

    many = client.post("/v1/inspect", content=body(*[b"labels"] * 10_000), headers=headers)
    assert (many.status_code, many.json()["error"]["code"]) == (413, "payload_too_large")
    few = client.post("/v1/inspect", content=body(*[b"x" * 3000] * 12), headers=headers)
    assert (few.status_code, few.json()["error"]["code"]) == (400, "protocol_error")
    assert len(few.content) < 2000
    fine = b"".join(body(b"labels", b"profile", b"file"))
    fine = fine[: -len(b"\r\n")] + wav_bytes(white_noise(1.0)) + b"\r\n--B--\r\n"
    assert client.post("/v1/inspect", content=fine, headers=headers).status_code == 200


def test_an_upload_whose_client_has_left_gives_its_place_back_at_once():
    long = wav_bytes(voice(120.0), container="FLAC")

    async def main() -> None:
        async with serving(upload_chunk_hops=2, max_uploads=1) as (url, app), httpx.AsyncClient() as web:
            _, writer = await open_to(url)
            writer.write(b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(long) + long)
            await until(lambda: app.state.parts.engine.status.sessions == 1, "the upload is being inspected")
            writer.transport.abort()
            await until(lambda: app.state.parts.uploads.taken == 0, "its place is free", patience_s=3)
            metrics = app.state.parts.metrics.registry
            assert metrics.get_sample_value("speechqc_uploads_total", {"outcome": "disconnected"}) == 1
            assert app.state.parts.engine.status.sessions == 0
            answer = await web.post(url.replace("ws:", "http:") + "/v1/inspect", content=wav_bytes(voice(1.0)))
            assert answer.status_code == 200

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_upload_that_takes_too_long_in_all_is_answered_408():
    sound = wav_bytes(white_noise(10.0))

    async def main() -> bytes:
        async with serving(upload_timeout_s=0.5, upload_idle_s=5.0) as (url, _):
            reader, writer = await open_to(url)
            writer.write(b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(sound))
            reading = asyncio.create_task(reader.readuntil(b"\r\n"))
            for start in range(0, len(sound), 4000):
                writer.write(sound[start : start + 4000])
                await asyncio.sleep(0.05)
                if reading.done():
                    break
            writer.close()
            return await asyncio.wait_for(reading, 8)

    assert asyncio.run(asyncio.wait_for(main(), 60)).startswith(b"HTTP/1.1 408 ")
