"""The same audio with the same gaps gets the same scores, whichever door it comes through."""

import json

import numpy as np
import pytest
from telephony_material import keep_calls, talk_to
from test_twilio import CONNECTED, STOP, TELNYX, media, start
from test_vendors import OPEN, genesys
from websockets.asyncio.client import connect

from live_server import serving
from signals import talk
from speech_qc.audio.g711 import encode_mulaw

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PACKET = 160
LOST = range(100, 103)
HELD_MS = 3000


async def scores_of_stream(url, codes):
    """Scores by frame from `/v1/stream`, NaN where not received."""
    found: dict[int, list[float]] = {}
    async with connect(f"{url}/v1/stream?encoding=mulaw&sample_rate=8000", compression=None) as socket:
        first, second = codes[: 100 * PACKET], codes[103 * PACKET : 200 * PACKET]
        for message in (
            first[:777], first[777:], '{"type":"Gap","ms":60}', second,
            f'{{"type":"Gap","ms":{HELD_MS},"kind":"hold"}}',
            codes[200 * PACKET :], '{"type":"CloseStream"}',
        ):  # fmt: skip
            await socket.send(message)
        async for text in socket:
            message = json.loads(text)
            if message["type"] == "scores":
                columns = message["channels"][0]["frames"]
                rows = zip(*columns.values(), strict=True)
                found |= {message["first_frame"] + place: row for place, row in enumerate(rows)}
            elif message["type"] == "summary":
                frames = message["frames"]
    width = len(next(iter(found.values())))
    return np.array([found.get(frame, [None] * width) for frame in range(frames)], dtype=np.float32)


def timed(codes):
    """Media messages without the lost packets, with the pause in their timestamps."""
    return [
        media(codes[i * PACKET : (i + 1) * PACKET], i + 1, 20 * i + (HELD_MS if i >= 200 else 0))
        for i in range(len(codes) // PACKET)
        if i not in LOST
    ]


def as_audiohook(codes):
    """Both channels of Genesys with the same sound."""
    stereo = np.repeat(np.frombuffer(codes, np.uint8), 2).tobytes()
    size = 2 * PACKET
    return [
        genesys("open", 1, **OPEN), *(stereo[i * size : (i + 10) * size] for i in range(0, 100, 10)),
        genesys("discarded", 2, start="PT2S", discarded="PT0.06S"), stereo[103 * size : 200 * size],
        genesys("paused", 3), genesys("resumed", 4, start="PT4S", discarded="PT3S"), stereo[200 * size :],
        genesys("close", 5, reason="end"),
    ]  # fmt: skip


async def test_every_door_gives_the_same_scores(shipped_runner):
    codes = encode_mulaw(talk(8_000, seconds=6.0)).tobytes()
    mulaw = json.loads(json.dumps(TELNYX))
    mulaw[1]["start"]["media_format"]["encoding"] = "PCMU"
    async with serving(shipped_runner, stream_max_ahead_s=10.0) as (url, app):
        expected = await scores_of_stream(url, codes)
        assert np.flatnonzero(np.isnan(expected[:, 0])).tolist() == [*LOST, *range(200, 350)]
        for vendor, said, leg in (
            ("twilio", [CONNECTED, start(), *timed(codes), STOP], "inbound"),
            ("telnyx", [*mulaw, *timed(codes), {"event": "stop"}], "inbound"),
            ("genesys", as_audiohook(codes), "customer"),
        ):
            calls = keep_calls(app)
            await talk_to(f"{url}/v1/telephony/{vendor}", said, close=False)
            await calls.until_ended(2 if vendor == "genesys" else 1)
            np.testing.assert_allclose(calls.named(leg).frames(), expected, atol=1e-4, err_msg=vendor)
