"""Ten thousand hostile messages of phone systems: none is an unexpected error, and nothing is left behind."""

import asyncio
import gc
import json
import logging
import random
import struct
from typing import Any

import pytest
from telephony_material import keep_calls, talk_to
from test_asterisk import ASTERISK_JSON, ASTERISK_PLAIN, UUID, frame
from test_twilio import CONNECTED, STOP, TELNYX, media, start
from test_vendors import AZURE, OPEN, azure_audio, genesys

from live_server import serving
from speech_qc.engine import EchoRunner
from waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

AUDIO = bytes(range(256)) * 3
TALKS = {
    "twilio": [
        CONNECTED, start(tracks=("inbound", "outbound")), *(media(AUDIO[:32], i, 20 * i) for i in range(30)), STOP,
    ],
    "telnyx": [*TELNYX, *(media(AUDIO[:32], i, 20 * i) for i in range(30)), {"event": "stop"}],
    "asterisk": [ASTERISK_JSON, *[AUDIO[:32]] * 24, {"event": "DTMF_END", "digit": "5"}],
    "": [ASTERISK_PLAIN, *[AUDIO[:64]] * 24, "DTMF_END digit:5"],
    "freeswitch": ['{"a":"b"}', *[AUDIO[:64]] * 24],
    "jambonz": [
        {"callSid": "j", "sampleRate": 8000, "mixType": "stereo"}, *[AUDIO[:64]] * 24, {"event": "dtmf", "dtmf": "1"},
    ],
    "vonage": [{"event": "websocket:connected", "content-type": "audio/l16;rate=16000"}, *[AUDIO[:64]] * 24],
    "genesys": [
        genesys("open", 1, **OPEN), *[AUDIO[:64]] * 20, genesys("ping", 2), genesys("discarded", 3, discarded="PT1S"),
        genesys("resumed", 4, discarded="PT2S"), genesys("close", 5),
    ],
    "azure": [AZURE, *(azure_audio(AUDIO[:64], str(i % 3)) for i in range(24))],
}  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 2**70, 1e308, 1.5, "", "x" * 5000, "９", [], {}, [[[[]]]], {"a": {"b": None}}, "PT9S",
    "PT999999999S", "99999999999999999999", "-5", "NaN", "==", "audio/l16;rate=99", 10**17, "86400000",
]  # fmt: skip


def mutated(value, rng):
    """Replace something somewhere in a message."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        if rng.random() < 0.15:
            return {key: one for key, one in value.items() if key != name}
        return value | {name: mutated(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], mutated(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


def hostile(talk, rng):
    """Return a conversation in which a few messages are wrong."""
    said = list(talk)
    for _ in range(rng.randint(1, 4)):
        place, kind = rng.randrange(len(said)), rng.randrange(7)
        one = said[place]
        if kind == 0 or (kind == 1 and isinstance(one, dict)):
            said[place] = mutated(one, rng)
        elif kind == 2:
            text = json.dumps(one) if isinstance(one, dict) else str(one)
            said[place] = text[: rng.randrange(len(text) + 1)]
        elif kind == 3:
            said[place] = rng.randbytes(rng.randrange(900))
        elif kind == 4:
            said.insert(place, said[rng.randrange(len(said))])
        elif kind == 5:
            said.pop(place)
            said = said or [b""]
        else:
            said[place] = "".join(chr(rng.randrange(32, 0x2FF)) for _ in range(rng.randrange(60)))
    return [json.dumps(one) if not isinstance(one, bytes | str) else one for one in said]


async def test_hostile_messages_are_no_unexpected_errors_and_leave_nothing(caplog):
    rng = random.Random(17)
    sent, memory = 0, []
    async with serving(EchoRunner(lookahead_frames=2)) as (url, app):
        calls = keep_calls(app)
        get = app.state.parts.metrics.registry.get_sample_value
        turn = 0
        with caplog.at_level(logging.ERROR, "speech_qc"):
            while sent < 10_000:
                vendor = rng.choice(sorted(TALKS))
                path = f"/v1/telephony/{vendor}" if vendor and rng.random() < 0.7 else "/v1/telephony"
                said = hostile(TALKS[vendor], rng)
                await talk_to(f"{url}{path}?call=c{turn}", said)
                sent, turn = sent + len(said), turn + 1
                if turn % 50 == 0:
                    await until(lambda: app.state.parts.streams.channels == 0, "no place is taken")
                    await until(lambda: get("speechqc_telephony_sockets_active") == 0, "every socket is closed")
                    assert all(leg.document is not None for leg in calls.legs.values()), "every leg has ended"
                    calls.legs.clear()
                    gc.collect()
                    memory.append(len(gc.get_objects()))
        await until(lambda: get("speechqc_telephony_sockets_active") == 0, "every socket is closed")
        assert get("speechqc_sessions_active") == 0
        assert len(asyncio.all_tasks()) < 20
    assert not caplog.records, caplog.text
    assert turn > 250
    assert memory[-1] - memory[0] < 2_000, memory


async def test_hostile_frames_of_audiosocket(caplog):
    rng = random.Random(18)
    with caplog.at_level(logging.ERROR):
        async with serving(audiosocket="127.0.0.1:0") as (_, app):
            keep_calls(app)
            for _ in range(200):
                reader, writer = await asyncio.open_connection("127.0.0.1", app.state.audiosocket.port)
                frames = [frame(1, UUID)] if rng.random() < 0.8 else []
                for _ in range(rng.randint(0, 8)):
                    kind = rng.choice([0, 1, 3, 0x10, 0x10, 0x12, 0x18, 0x77, 0xFF])
                    frames.append(frame(kind, rng.randbytes(rng.choice([0, 1, 16, 320, 321, 65_535]))))
                if rng.random() < 0.2:
                    frames.append(struct.pack("!BH", 0x10, 5000) + b"cut")
                writer.write(b"".join(frames))
                writer.write_eof()
                await asyncio.wait_for(_rest(reader), 10)
                writer.close()
            await until(lambda: app.state.parts.streams.channels == 0, "no place is taken")
    assert not caplog.records, caplog.text


async def _rest(reader):
    try:
        await reader.read()
    except ConnectionError:
        return
