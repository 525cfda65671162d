"""One client that sends as fast as it can, and fifty that speak: these must not notice."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from live_server import serving
from signals import white_noise
from stream_material import CLOSE, cut, pcm16

PACED = 50
MESSAGES = 20
MESSAGE_S = 0.1
SECONDS = MESSAGES * MESSAGE_S
AUDIO = cut(pcm16(white_noise(SECONDS, level_dbfs=-30)), round(16_000 * MESSAGE_S) * 2)

ATTEMPTS = 3
"""Other programs may hold the machine up in one run; a server that is unfair is so in each."""


@dataclass
class Heard:
    """What the clients of one run saw."""

    frames: list[int] = field(default_factory=list)
    """Frames that each paced client got scores of."""
    lags_s: list[float] = field(default_factory=list)
    """From sending a message to the scores that it completes, of all paced clients."""
    late_s: list[float] = field(default_factory=list)
    """By how much each paced client's last message left late."""
    burst_frames: int = 0
    """Frames of the one that does not pace itself, when the others had ended."""

    def lag_s(self, share: float) -> float:
        return float(np.quantile(self.lags_s, share))


async def paced(url: str, heard: Heard, delay_s: float) -> None:
    """Speak in real time; note when each message's scores come."""
    async with connect(f"{url}/v1/stream?labels=noise", compression=None) as link:
        await link.recv()
        await asyncio.sleep(delay_s)
        start_s = time.monotonic()
        sent_s: list[float] = []

        async def speak() -> None:
            for number, piece in enumerate(AUDIO):
                await asyncio.sleep(start_s + number * MESSAGE_S - time.monotonic())
                sent_s.append(time.monotonic())
                await link.send(piece)
            heard.late_s.append(sent_s[-1] - start_s - (MESSAGES - 1) * MESSAGE_S)
            await link.send(CLOSE)

        speaking, following = asyncio.create_task(speak()), 0
        async for text in link:
            now_s, message = time.monotonic(), json.loads(text)
            if message["type"] == "scores":
                assert message["first_frame"] == following
                following += len(message["channels"][0]["frames"]["noise"])
                latest = len(sent_s) - 1  # scores of the message that was sent last, or late ones of one before
                complete = min(latest, int((following * 0.02 + 0.06) / MESSAGE_S) - 1)
                if 2 <= complete < MESSAGES - 1:
                    heard.lags_s.append(now_s - sent_s[complete])
            elif message["type"] == "summary":
                assert message["frames"] == following
        await speaking
        heard.frames.append(following)
        assert link.close_code == 1000


async def burst(link: ClientConnection, heard: Heard) -> None:
    """Send as fast as the socket takes it, and read."""

    async def pour() -> None:
        while True:
            for piece in AUDIO:
                await link.send(piece)

    pouring = asyncio.create_task(pour())
    try:
        async for text in link:
            message = json.loads(text)
            if message["type"] == "scores":
                assert message["first_frame"] == heard.burst_frames
                heard.burst_frames += len(message["channels"][0]["frames"]["noise"])
    except ConnectionClosed:
        pass
    finally:
        pouring.cancel()
        await asyncio.wait({pouring})


async def one_run(*, with_burst: bool) -> Heard:
    heard = Heard()
    async with serving(max_streams=PACED + 1) as (url, _):
        greedy: asyncio.Task[None] | None = None
        if with_burst:
            link = await connect(f"{url}/v1/stream?labels=noise", compression=None)
            await link.recv()
            greedy = asyncio.create_task(burst(link, heard))
        await asyncio.gather(*(paced(url, heard, number * MESSAGE_S / PACED) for number in range(PACED)))
        if greedy is not None:
            greedy.cancel()
            await asyncio.wait({greedy})
            link.transport.abort()
    return heard


@pytest.mark.slow
def test_fifty_paced_clients_do_not_notice_one_that_sends_as_fast_as_it_can():
    """The bound is relative to the same fifty alone, on the same machine, a moment before."""
    seen = []
    for _ in range(ATTEMPTS):
        alone = asyncio.run(one_run(with_burst=False))
        beside = asyncio.run(one_run(with_burst=True))
        for heard in (alone, beside):
            assert heard.frames == [round(SECONDS / 0.02)] * PACED, "nothing may be lost, however busy the machine"
        assert beside.burst_frames > 0
        seen.append({
            "p50 alone, beside": (alone.lag_s(0.5), beside.lag_s(0.5)),
            "p95 alone, beside": (alone.lag_s(0.95), beside.lag_s(0.95)),
            "late alone, beside": (max(alone.late_s), max(beside.late_s)),
            "greedy": beside.burst_frames * 0.02 / SECONDS,
        })  # fmt: skip
        keep_pace = max(beside.late_s) < max(alone.late_s) + MESSAGE_S
        # The greedy one costs a place in every step and its turns in the loop, in which these clients live, too.
        bounded = beside.lag_s(0.5) < 3 * alone.lag_s(0.5) + 0.02 and beside.lag_s(0.95) < 3 * alone.lag_s(0.95) + 0.05
        served = beside.burst_frames * 0.02 > SECONDS  # faster than real time, what is left of the machine
        if keep_pace and bounded and served:
            return
    pytest.fail(f"in each of {ATTEMPTS} attempts the paced clients noticed, or the greedy one starved: {seen}")
