"""What ended streams leave behind is freed soon, however seldom Python's own collector looks."""

from __future__ import annotations

import asyncio
import gc

from live_server import serving
from signals import white_noise
from stream_material import CLOSE, cut, pcm16
from websockets.asyncio.client import connect

from service import collecting
from service.live.stream import LiveStream

PIECES = cut(pcm16(white_noise(0.5, level_dbfs=-30)), 3200)


def streams_in_memory() -> int:
    return sum(type(thing) is LiveStream for thing in gc.get_objects())


async def one_stream(url: str) -> None:
    async with connect(f"{url}/v1/stream", compression=None) as link:
        for piece in PIECES:
            await link.send(piece)
        await link.send(CLOSE)
        async for _ in link:
            pass


def test_ended_streams_are_freed_by_the_clock(monkeypatch):
    async def main() -> None:
        async with serving() as (url, _app):
            before = streams_in_memory()
            for _ in range(4):
                await one_stream(url)
            assert streams_in_memory() >= before + 3, "nothing is left for the collector, so this test shows nothing"
            monkeypatch.setattr(collecting, "COLLECT_S", 0.1)
            while streams_in_memory() > before:  # noqa: ASYNC110  # the heap has no event
                await asyncio.sleep(0.05)

    monkeypatch.setattr(collecting, "COLLECT_S", 1e9)
    gc.collect()
    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(main(), 20))
    finally:
        gc.enable()
