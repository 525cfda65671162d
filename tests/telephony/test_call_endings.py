"""How calls end: shutdown, silence, lost connections, a full server, a setting that sends nothing."""

import asyncio
import gc
import json
import random

import httpx
import pytest
from telephony_material import keep_calls, talk_to
from test_twilio import CONNECTED, STOP, media, packets, start
from test_vendors import OPEN, cut, genesys, noise, pcm
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from live_server import open_to, serving
from signals import white_noise
from speech_qc.pipeline.session import Session
from speech_qc.telephony.call import CallSocket
from speech_qc.telephony.leg import Leg
from waiting import until

pytestmark = pytest.mark.anyio


async def test_a_shutdown_ends_every_leg_with_its_document():
    async with serving() as (url, app):
        calls = keep_calls(app)
        async with (
            connect(f"{url}/v1/telephony", compression=None) as twilio,
            connect(f"{url}/v1/telephony/genesys", compression=None) as other,
        ):
            for message in (CONNECTED, start(), *packets(white_noise(0.5, rate_hz=8_000))):
                await twilio.send(json.dumps(message))
            await other.send(json.dumps(genesys("open", 1, **OPEN)))
            assert json.loads(await other.recv())["type"] == "opened"
            await other.send(bytes(3200))
            await until(lambda: app.state.parts.streams.channels == 3, "three legs are open")
            heard = calls.named("inbound"), calls.named("agent")
            await until(lambda: all(leg.audio for leg in heard), "both have been heard")
            await until(lambda: len(calls.named("inbound").timeline()) > 7_800, "the last packet has arrived")
            await app.state.parts.streams.drain(10)
            with pytest.raises(ConnectionClosed):
                await twilio.recv()
            said = []
            with pytest.raises(ConnectionClosed):
                while True:
                    said.append(json.loads(await other.recv()))
            last = said[-1]
        assert (twilio.close_code, other.close_code) == (1012, 1012)
        assert (last["type"], last["parameters"]["reason"]) == ("disconnect", "completed")
        assert calls.named("inbound").document["duration_s"] == 0.5
        assert calls.named("agent").document["duration_s"] == 0.2


async def test_a_lost_connection_is_the_end_of_its_legs_only():
    async with serving() as (url, app):
        calls = keep_calls(app)
        async with connect(f"{url}/v1/telephony", compression=None) as socket:
            for message in (start(), *packets(white_noise(0.3, rate_hz=8_000))):
                await socket.send(json.dumps(message))
            await until(lambda: len(calls.legs) == 1, "the leg has joined")
            socket.transport.abort()
        await calls.until_ended(1)
        assert calls.named("inbound").regular is False, "it may come back"
        await until(lambda: app.state.parts.streams.channels == 0, "its place is free")
        assert not app.state.parts.metrics.registry.get_sample_value(
            "speechqc_telephony_failures_total", {"vendor": "twilio"}
        )


async def test_a_stop_message_is_the_regular_end_of_its_legs():
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony", [CONNECTED, start(tracks=("inbound", "outbound")), STOP], close=False)
        await calls.until_ended(2)
        assert [leg.regular for leg in calls.legs.values()] == [True, True]


async def test_a_socket_without_messages_is_closed():
    async with serving(telephony_idle_s=0.3) as (url, app):
        calls = keep_calls(app)
        async with connect(f"{url}/v1/telephony/twilio", compression=None) as socket:
            await socket.send(json.dumps(start()))
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), 10)
        assert socket.close_code == 1008
        await calls.until_ended(1)


async def test_a_full_server_refuses_a_second_leg_and_frees_the_first():
    async with serving(max_streams=1) as (url, app):
        keep_calls(app)
        said = [CONNECTED, start(tracks=("inbound", "outbound")), STOP]
        _, socket = await talk_to(f"{url}/v1/telephony", said, close=False)
        assert socket.close_code == 1013
        assert app.state.parts.streams.channels == 0


async def test_two_sockets_with_one_leg_name_are_refused():
    async with serving() as (url, app):
        keep_calls(app)
        async with connect(f"{url}/v1/telephony", compression=None) as first:
            await first.send(json.dumps(start()))
            await until(lambda: app.state.parts.streams.channels == 1, "the first leg is open")
            _, second = await talk_to(f"{url}/v1/telephony", [start()], close=False)
            assert second.close_code == 1008


async def test_names_that_no_database_stores_are_made_plain_and_the_call_is_kept():
    said = start()
    said["start"] |= {"callSid": "CA\0one\nline", "customParameters": {"trunk": "a\0", "name": "b\r\n"}}
    async with serving(call_wait_s=0.0) as (url, app):
        await talk_to(f"{url}/v1/telephony", [said, {"event": "stop"}], close=False)
        await until(lambda: len(app.state.parts.calls) == 0, "the call has ended")
        async with httpx.AsyncClient(base_url=url.replace("ws", "http", 1)) as client:
            found: list[dict[str, object]] = []
            async with asyncio.timeout(10):
                while not found:
                    found = (await client.get("/v1/calls", params={"state": "ended"})).json()["calls"]
    (one,) = found
    assert (one["call_id"], one["trunk"], one["name"]) == ("CA\ufffdone\ufffdline", "a\ufffd", "b\ufffd\ufffd")


async def test_a_message_that_is_too_long_is_refused():
    async with serving() as (url, app):
        keep_calls(app)
        _, socket = await talk_to(f"{url}/v1/telephony", [start(), media(bytes(50_000), 1, 0)], close=False)
        assert socket.close_code == 1009


async def test_a_setting_sends_nothing_to_vendors_that_take_events():
    async with serving(telephony_events=False) as (url, app):
        calls = keep_calls(app)
        answers, _ = await talk_to(f"{url}/v1/telephony/freeswitch", ["{}", *cut(pcm(noise(2.0)), 320)])
        await calls.until_ended(1)
    assert answers == []


async def test_legs_wait_for_room_when_audio_comes_faster_than_it_is_scored():
    async with serving(stream_max_ahead_s=0.2) as (url, app):
        calls = keep_calls(app)
        sound = white_noise(20.0, rate_hz=8_000)
        await talk_to(f"{url}/v1/telephony", [start(), *packets(sound), STOP], close=False)
        await calls.until_ended(1)
    assert calls.named("inbound").document["duration_s"] == 20.0
    assert calls.named("inbound").document["transport"]["missing_ms"] == 0


async def test_a_call_that_is_over_is_freed_at_once():
    """Without waiting for the garbage collector, which rarely runs on a busy server."""
    async with serving() as (url, app):
        calls = keep_calls(app)
        gc.collect()
        gc.disable()
        try:
            said = [start(), *packets(white_noise(0.5, rate_hz=8_000)), STOP]
            for wrong in ([], [start()], ["{"], [media(bytes(50_000), 1, 0)]):  # also those that end with an error
                await talk_to(f"{url}/v1/telephony", [*said[:-1], *wrong, STOP], close=False)
            await calls.until_ended(1)
            calls.legs.clear()
            await until(lambda: app.state.parts.streams.channels == 0, "every place is free")
            kinds = (Session, Leg, CallSocket)
            await until(lambda: not any(type(one) in kinds for one in gc.get_objects()), "everything is freed")
        finally:
            gc.enable()


async def test_text_is_taken_in_order_however_it_is_cut_into_segments():
    """Twilio's messages as one stream of bytes, cut anywhere, among pings."""
    sound = white_noise(2.0, rate_hz=8_000)
    said = [json.dumps(one).encode() for one in (CONNECTED, start(), *packets(sound), STOP)]
    data = b"".join(Frame(Opcode.TEXT, one).serialize(mask=True, extensions=[]) for one in said)
    ping = Frame(Opcode.PING, b"x").serialize(mask=True, extensions=[])
    cuts = random.Random(5)
    async with serving() as (url, app):
        calls = keep_calls(app)
        for size in (len(data), 4000, 97):
            reader, writer = await open_to(url)
            writer.write(
                b"GET /v1/telephony HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert b"101" in await reader.readuntil(b"\r\n\r\n")
            at = 0
            while at < len(data):
                step = cuts.randint(1, size)
                writer.write(data[at : at + step])
                at += step
                if size == 97 and at % 50 == 0:
                    await asyncio.sleep(0)
            writer.write(ping)
            await calls.until_ended(1)
            writer.close()
            leg = calls.named("inbound")
            assert leg.document["duration_s"] == 2.0
            assert leg.document["transport"]["missing_ms"] == leg.document["transport"]["duplicates"] == 0
            calls.legs.clear()
            await until(lambda: app.state.parts.streams.channels == 0, "its place is free")
