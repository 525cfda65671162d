"""Streams and connections are freed when they end, without the garbage collector, which rarely runs in a server."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import warnings
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from live_server import serving
from signals import wav_bytes, white_noise
from speech_qc import gc_tuning
from speech_qc.audio.decode import Decoder
from speech_qc.live.scorer import Scorer
from speech_qc.live.stream import LiveStream
from speech_qc.pipeline.inspector import Inspector
from speech_qc.pipeline.recording import Recording
from speech_qc.pipeline.session import Session
from speech_qc.server.http_protocol import BoundedHttpProtocol
from speech_qc.server.websocket_protocol import LiveWebSocketProtocol
from stream_material import CLOSE, FINALIZE, cut, pcm16
from waiting import until

pytestmark = pytest.mark.slow

PIECES = cut(pcm16(white_noise(0.5, level_dbfs=-30)), 3200)
KINDS = (LiveWebSocketProtocol, BoundedHttpProtocol, LiveStream, Scorer, Session, Decoder, Inspector, Recording)


def in_memory() -> Counter[str]:
    return Counter(kind.__name__ for thing in gc.get_objects() for kind in KINDS if issubclass(type(thing), kind))


@pytest.fixture(autouse=True)
def no_collector(monkeypatch):
    monkeypatch.setattr(gc_tuning, "COLLECT_S", 1e9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # objects left by the test clients of earlier tests
        gc.collect()
    gc.disable()
    yield
    gc.enable()


@asynccontextmanager
async def a_stream(url: str, query: str = "") -> AsyncIterator[ClientConnection]:
    """A stream that has received some audio."""
    async with connect(f"{url}/v1/stream{query}", compression=None) as link:
        for piece in PIECES:
            await link.send(piece)
        yield link


async def last_message(link: ClientConnection) -> str | bytes:
    last: str | bytes = ""
    with suppress(ConnectionClosed):
        async for message in link:
            last = message
    return last


async def to_its_end(url: str) -> None:
    async with a_stream(url) as link:
        await link.send(CLOSE)
        assert "summary" in await last_message(link)


async def with_commands(url: str) -> None:
    async with a_stream(url, "?channels=2") as link:
        for text in (FINALIZE, '{"type":"Configure","emit_ms":200}', "no JSON", CLOSE):
            await link.send(text)
        assert "summary" in await last_message(link)


async def with_wrong_samples(url: str) -> None:
    async with connect(f"{url}/v1/stream?encoding=float32", compression=None) as link:
        await link.send(np.full(1600, np.nan, np.float32).tobytes())
        assert "invalid_audio" in await last_message(link)


async def with_too_long_a_text(url: str) -> None:
    async with a_stream(url) as link:
        await link.send("x" * 70_000)
        assert "payload_too_large" in await last_message(link)


async def with_an_unknown_option(url: str) -> None:
    async with connect(f"{url}/v1/stream?encoding=morse", compression=None) as link:
        assert "error" in await last_message(link)


async def left_by_the_client(url: str) -> None:
    async with a_stream(url):
        pass


async def cut_off(url: str) -> None:
    async with a_stream(url) as link:
        link.transport.abort()


async def uploads(url: str) -> None:
    whole, flac = wav_bytes(white_noise(1.0)), wav_bytes(white_noise(1.0), container="FLAC")
    broken = np.full(16_000, np.nan, np.float32)
    async with httpx.AsyncClient(base_url=url.replace("ws", "http", 1)) as web:
        for content, status in (
            (whole, 200), (flac, 200), (b"RIFF and nothing", 415), (whole[:-1000], 200), (flac[:4000], 422),
            (b"fLaC" + bytes(4000), 415), (wav_bytes(broken, subtype="FLOAT"), 422),
            (wav_bytes(white_noise(90.0)), 413),
        ):  # fmt: skip
            assert (await web.post("/v1/inspect", content=content)).status_code == status
        assert (await web.get("/health/live")).status_code == 200


async def an_upload_that_is_given_up(url: str) -> None:
    long = wav_bytes(white_noise(20.0), container="FLAC")
    _, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    writer.write(b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(long) + long)
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.transport.abort()


async def reset_after_the_answer(url: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize(
    "ending",
    [
        to_its_end, with_commands, with_wrong_samples, with_too_long_a_text, with_an_unknown_option, left_by_the_client,
        cut_off, uploads, an_upload_that_is_given_up, reset_after_the_answer,
    ],
)  # fmt: skip
def test_nothing_is_left_for_the_collector(ending: Callable[[str], Awaitable[None]]):
    async def main() -> None:
        async with serving(max_held_bytes=2**20) as (url, _app):
            before = in_memory()
            for _ in range(3):
                await ending(url)

            def left() -> Counter[str]:
                return in_memory() - before

            # The server may notice an end slightly later than the client.
            await until(lambda: not left(), "nothing is left in memory", every_s=0.05, details=left)

    asyncio.run(asyncio.wait_for(main(), 20))


def test_cycles_are_found_by_the_clock(monkeypatch):
    class Thing:
        """An object with a reference to itself."""

        itself: Thing

    async def main() -> None:
        async with serving():
            thing = Thing()
            thing.itself = thing
            there = weakref.ref(thing)
            del thing
            await asyncio.sleep(0.3)
            assert there() is not None, "it was freed before the collection, so this test shows nothing"
            monkeypatch.setattr(gc_tuning, "COLLECT_S", 0.1)
            await until(lambda: there() is None, "the collector has freed it")

    asyncio.run(asyncio.wait_for(main(), 20))
