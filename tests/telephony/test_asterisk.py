"""Asterisk: chan_websocket and AudioSocket, by what Asterisk 22.10.1 said on the wire."""

import asyncio
import json
import logging
import struct
import time
from contextlib import suppress
from typing import Any

import pytest
from telephony_material import keep_calls, talk_to
from test_vendors import cut, noise, pcm
from websockets.asyncio.client import connect

from live_server import serving
from speech_qc.audio.g711 import encode_mulaw
from waiting import until

pytestmark = pytest.mark.anyio


# MEDIA_START as JSON and as plain text; `connection_id` is the section of websocket_client.conf, one for all calls.
ASTERISK_JSON: dict[str, Any] = {
    "event": "MEDIA_START", "connection_id": "speech-qc", "channel": "WebSocket/speech-qc/0x7f77b800de20",
    "channel_id": "1796006611.323", "format": "ulaw", "optimal_frame_size": 160, "ptime": 20,
    "channel_variables": {
        "DIALEDPEERNUMBER": "speech-qc/c(ulaw)f(json)d(in)", "MEDIA_WEBSOCKET_CONNECTION_ID": "speech-qc",
        "MEDIA_WEBSOCKET_OPTIMAL_FRAME_SIZE": "160",
    },
}  # fmt: skip
ASTERISK_PLAIN = (
    "MEDIA_START connection_id:speech-qc channel:WebSocket/speech-qc/0x7f77a0010120 channel_id:1796006709.330 "
    "format:slin16 optimal_frame_size:640 ptime:20"
)
INHERITED = {"__leg": "callee", "__call": "1796006611.317", "__spied": "PJSIP/bob-00000009"}

CONTROL = [
    *({"event": event, "channel_id": "1796006742.337"} for event in ("MEDIA_XOFF", "MEDIA_XON", "QUEUE_DRAINED")),
    {"event": "STATUS", "channel_id": "1796006742.337", "queue_length": 0, "xon_level": 800, "xoff_level": 900,
     "queue_full": False, "bulk_media": False, "media_paused": False},
    {"event": "MEDIA_MARK_PROCESSED", "channel_id": "1796006742.337", "correlation_id": "m1"},
    {"event": "ERROR", "channel_id": "1796006742.337", "error_text": "Unable to parse JSON command"},
    "MEDIA_XOFF", "MEDIA_XON", "QUEUE_DRAINED", "MEDIA_MARK_PROCESSED m1",
    "STATUS channel_id:1796006742.340 queue_length:0 xon_level:800 xoff_level:900 queue_full:false bulk_media:false "
    "media_paused:false",
]  # fmt: skip
"""What concerns audio that is sent to Asterisk, in both forms."""


@pytest.mark.parametrize("path", ["/v1/telephony", "/v1/telephony/asterisk"])
@pytest.mark.parametrize("plain", [False, True], ids=["json", "plain"])
async def test_asterisk(path, plain):
    rate_hz = 16_000 if plain else 8_000
    samples = noise(rate_hz=rate_hz)
    audio = cut(pcm(samples), 640) if plain else cut(encode_mulaw(samples).tobytes(), 160)
    key = {"event": "DTMF_END", "channel_id": "1796006709.330", "digit": "5"}
    said = [
        ASTERISK_PLAIN if plain else ASTERISK_JSON, *audio, *CONTROL,
        "DTMF_END digit:5 channel_id:1796006709.330" if plain else key,
    ]  # fmt: skip
    async with serving() as (url, app):
        calls = keep_calls(app)
        answers, socket = await talk_to(f"{url}{path}?call=c1&leg=agent", said, subprotocols=["media"])
        await calls.until_ended(1)
        ignored = app.state.parts.metrics.registry.get_sample_value(
            "speechqc_telephony_ignored_messages_total", {"vendor": "asterisk"}
        )
        assert ignored == 0
    assert socket.subprotocol == "media"
    assert answers == []
    leg = calls.legs["c1", "agent"]
    assert (leg.info.vendor, leg.info.sample_rate_hz, leg.keys) == ("asterisk", rate_hz, ["*"])
    assert set(leg.info.metadata.values()) == {"***"}
    assert leg.document["duration_s"] == 0.5


async def test_calls_that_dial_without_names_are_different_calls():
    other = ASTERISK_JSON | {"channel": "WebSocket/speech-qc/0x7f77b000c290", "channel_id": "1796006709.332"}
    async with serving() as (url, app):
        calls = keep_calls(app)
        async with connect(f"{url}/v1/telephony", compression=None) as first:
            await first.send(json.dumps(ASTERISK_JSON))
            await until(lambda: len(calls.legs) == 1, "the first call has begun")
            _, second = await talk_to(f"{url}/v1/telephony", [other])
            assert second.close_code == 1000
        await calls.until_ended(2)
    assert set(calls.legs) == {("1796006611.323", "caller"), ("1796006709.332", "caller")}


async def test_inherited_variables_name_a_leg():
    """They win over the query, in which Asterisk repeats that of an earlier call if a call has none."""
    variables = {"__leg": "stale", **ASTERISK_JSON["channel_variables"], **INHERITED, "_trunk": "far", "trunk": "near"}
    async with serving(telephony_show="spied") as (url, app):
        calls = keep_calls(app)
        said: list[Any] = [ASTERISK_JSON | {"channel_variables": variables}, bytes(160)]
        await talk_to(f"{url}/v1/telephony/asterisk?call=earlier&leg=caller&name=n1", said)
        await calls.until_ended(1)
    info = calls.legs["1796006611.317", "callee"].info
    assert (info.trunk, info.name, info.metadata["spied"]) == ("near", "n1", "PJSIP/bob-00000009")


@pytest.mark.parametrize("frame_ms", [20, 60])
async def test_packets_as_long_as_the_phone_sends_them(frame_ms):
    """`ptime` says 20 whatever comes."""
    sound = noise(0.6)
    async with serving() as (url, app):
        calls = keep_calls(app)
        said = [ASTERISK_JSON, *cut(encode_mulaw(sound).tobytes(), 8 * frame_ms)]
        await talk_to(f"{url}/v1/telephony/asterisk", said)
        await calls.until_ended(1)
    leg = calls.named("caller")
    assert leg.document["duration_s"] == 0.6
    assert leg.document["transport"]["missing_ms"] == 0


async def test_a_silent_asterisk_leaves_a_gap():
    audio = cut(encode_mulaw(noise(0.4)).tobytes(), 160)
    async with serving() as (url, app):
        calls = keep_calls(app)
        async with connect(f"{url}/v1/telephony/asterisk", compression=None) as socket:
            await socket.send(json.dumps(ASTERISK_JSON))
            for part in audio:
                await socket.send(part)
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.8)
            for part in audio:
                await socket.send(part)
                await asyncio.sleep(0.02)
        await calls.until_ended(1)
    leg = calls.named("caller")
    assert leg.document["transport"]["dtx_ms"] == pytest.approx(800, abs=200)
    assert leg.document["summary"]["speech_ratio"] is not None
    assert [kind for _, _, kind in leg.gaps] == ["dtx"]


async def test_asterisk_is_answered_at_once_even_if_full(caplog):
    """Asterisk does not show why a socket was closed, so the log says it."""
    caplog.set_level(logging.INFO, "speech_qc.telephony")
    async with serving(max_streams=1) as (url, app):
        calls = keep_calls(app)
        async with connect(f"{url}/v1/telephony/asterisk", compression=None) as first:
            await first.send(json.dumps(ASTERISK_JSON))
            await first.send(bytes(160))
            await until(lambda: len(calls.legs) == 1, "the first leg has joined")
            _, second = await talk_to(f"{url}/v1/telephony/asterisk", [ASTERISK_JSON], close=False)
            assert second.close_code == 1013
            assert (second.close_reason or "").startswith("overloaded")
            refused = app.state.parts.metrics.registry.get_sample_value(
                "speechqc_telephony_failures_total", {"vendor": "asterisk"}
            )
            assert refused == 1
            (line,) = [one for one in caplog.messages if one.startswith("call from asterisk: overloaded, 0 legs")]
            assert "expected room for 1 more" in line


def frame(kind, payload=b""):
    # https://docs.asterisk.org/Configuration/Channel-Drivers/AudioSocket/
    return struct.pack("!BH", kind, len(payload)) + payload


UUID = bytes.fromhex("40325ec25efd4bd3805f53576e581d13")


async def test_audiosocket():
    samples = noise()
    async with serving(audiosocket="127.0.0.1:0") as (_, app):
        calls = keep_calls(app)
        reader, writer = await asyncio.open_connection("127.0.0.1", app.state.audiosocket.port)
        writer.write(frame(1, UUID))
        for part in cut(pcm(samples), 320):
            writer.write(frame(0x10, part))
        writer.write(frame(3, b"9"))
        writer.close()  # Asterisk ends with a bare close
        await calls.until_ended(1)
    leg = calls.legs["40325ec2-5efd-4bd3-805f-53576e581d13", "caller"]
    assert (leg.info.vendor, leg.keys) == ("audiosocket", ["*"])
    assert leg.document["duration_s"] == 0.5
    assert reader is not None


async def paced(audio, frame_bytes, frame_s):
    """Send frames at their pace; return what the server has sent, the failures that it counts, and the leg."""
    async with serving(audiosocket="127.0.0.1:0") as (_, app):
        calls = keep_calls(app)
        reader, writer = await asyncio.open_connection("127.0.0.1", app.state.audiosocket.port)
        writer.write(frame(1, UUID))
        heard = asyncio.create_task(reader.read())
        began_s = time.monotonic()
        for number, part in enumerate(cut(audio, frame_bytes)):
            if not heard.done():
                writer.write(frame(0x10, part))
                await asyncio.sleep(began_s + (number + 1) * frame_s - time.monotonic())
        if not heard.done():
            writer.write_eof()
        answer = await asyncio.wait_for(heard, 10)
        writer.close()
        await calls.until_ended(1)
        failures = app.state.parts.metrics.registry.get_sample_value(
            "speechqc_telephony_failures_total", {"vendor": "audiosocket"}
        )
    return answer, failures, calls.named("caller")


async def test_a_channel_that_sends_its_own_codec_as_16_bit_is_refused():
    """Dial(AudioSocket/host:port/uuid) of a µ-law phone: 160 bytes of µ-law in each 20 ms, labelled 8 kHz, 16 bit."""
    audio = encode_mulaw(noise(0.8)).tobytes()
    answer, failures, leg = await paced(audio, 160, 0.02)
    assert (answer, failures) == (b"\x00\x00\x00", 1)
    assert leg.document["duration_s"] < 0.7


@pytest.mark.parametrize("frame_ms", [10, 20, 60])
async def test_16_bit_audio_at_its_own_pace_is_taken(frame_ms):
    sound = noise(1.8 if frame_ms == 60 else 0.6)
    answer, failures, leg = await paced(pcm(sound), 16 * frame_ms, frame_ms / 1000)
    assert (answer, failures) == (b"\x00\x00\x00", 0)
    assert leg.document["duration_s"] == len(sound) / 8000


@pytest.mark.parametrize(
    "sent",
    [frame(0x10, b"ab"), frame(1, b"short"), frame(1, UUID) * 2, frame(1, UUID) + frame(0x18, b"ab"),
     frame(1, UUID) + frame(0x10, b"ab") + frame(0x12, b"ab"), b"\x00\x00\x00", b""],
)  # fmt: skip
async def test_wrong_frames_end_in_a_hang_up(sent):
    async with serving(audiosocket="127.0.0.1:0") as (_, app):
        keep_calls(app)
        reader, writer = await asyncio.open_connection("127.0.0.1", app.state.audiosocket.port)
        writer.write(sent)
        if not sent:
            writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) in (b"\x00\x00\x00", b"")
        writer.close()
        await until(lambda: app.state.parts.streams.channels == 0, "no place is taken")


async def test_audiosocket_knows_who_may_connect():
    async with serving(audiosocket="127.0.0.1:0", audiosocket_allow="10.0.0.0/8") as (_, app):
        keep_calls(app)
        reader, writer = await asyncio.open_connection("127.0.0.1", app.state.audiosocket.port)
        writer.write(frame(1, UUID))
        with suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
