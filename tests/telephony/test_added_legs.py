"""Participants who join a call on an open socket: if there is no room for one, the others are scored all the same."""

import asyncio
import json

import pytest
from telephony_material import keep_calls, talk_to
from test_twilio import STOP, start
from test_vendors import AZURE, azure_audio, cut, noise, pcm
from websockets.asyncio.client import connect

from live_server import serving
from speech_qc.security.api_keys import make_key, write_keys
from speech_qc.telephony import call
from speech_qc.telephony.azure import MAX_PARTICIPANTS, AzureProtocol
from speech_qc.telephony.messages import Asked, Ignored
from waiting import until

pytestmark = pytest.mark.anyio

PIECE = cut(pcm(noise(0.02, rate_hz=16_000)), 640)[0]


def said_by(*participants):
    return [azure_audio(PIECE, f"8:acs:{one}") for one in participants]


async def send(socket, messages):
    for message in messages:
        await socket.send(json.dumps(message))


def value(app, name):
    return app.state.parts.metrics.registry.get_sample_value(name, {"vendor": "azure"})


async def test_the_ninth_participant_is_refused_alone(caplog):
    async with serving() as (url, app):
        calls = keep_calls(app)
        everyone = said_by(*range(9))
        _, socket = await talk_to(f"{url}/v1/telephony/azure", [AZURE, *everyone * 10])
        await calls.until_ended(8)
        await until(lambda: app.state.parts.streams.channels == 0, "all places are free")
        assert socket.close_code == 1000
        assert value(app, "speechqc_telephony_ignored_messages_total") == 10
        assert value(app, "speechqc_telephony_legs_total") == 8
        assert not value(app, "speechqc_telephony_failures_total")
    assert {leg for _, leg in calls.legs} == {f"participant_{number + 1}" for number in range(8)}
    assert all(leg.document["duration_s"] == 0.2 for leg in calls.legs.values())
    (warning,) = [one.getMessage() for one in caplog.records if one.name == "speech_qc.telephony"]
    assert "leg participant_9 is not scored" in warning and "at most 8 legs" in warning


async def test_a_participant_without_a_free_place_is_scored_from_when_there_is_one(monkeypatch, caplog):
    monkeypatch.setattr(call, "RETRY_S", 0.1)
    async with serving(max_streams=2) as (url, app):
        calls, streams = keep_calls(app), app.state.parts.streams
        async with (
            connect(f"{url}/v1/telephony/azure", compression=None) as conference,
            connect(f"{url}/v1/telephony/twilio", compression=None) as other,
        ):
            await send(other, [start()])
            await until(lambda: streams.channels == 1, "the other call is there")
            await send(conference, [AZURE, *said_by("a", "b") * 5])
            await until(lambda: value(app, "speechqc_telephony_ignored_messages_total") == 5, "the second is refused")
            await asyncio.sleep(0.15)
            await send(conference, said_by("a", "b"))
            await until(lambda: value(app, "speechqc_telephony_ignored_messages_total") == 6, "there is no place yet")
            assert streams.channels == 2
            await send(other, [STOP])
            await until(lambda: streams.channels == 1, "the other call has ended")
            await asyncio.sleep(0.15)
            await send(conference, said_by("a", "b") * 5)
        await calls.until_ended(3)
        await until(lambda: streams.channels == 0, "all places are free")
    assert calls.named("participant_1").document["duration_s"] >= 0.22
    assert 0.0 < calls.named("participant_2").document["duration_s"] <= 0.1
    assert caplog.text.count("leg participant_2 is not scored") == 1


async def test_a_refused_participant_holds_no_place_of_the_key(tmp_path):
    file = tmp_path / "keys.jsonl"
    key, entry = make_key("conference", max_streams=2)
    write_keys(file, [entry])
    async with serving(api_keys_file=file) as (url, app):
        calls = keep_calls(app)
        one_name = f"{url}/v1/telephony/azure?key={key}&leg=all"  # so that the call takes the first one only
        async with connect(one_name, compression=None) as conference:
            await send(conference, [AZURE, *said_by("a", "b", "a", "b")])
            await until(lambda: value(app, "speechqc_telephony_ignored_messages_total") == 2, "the second is refused")
            several = f"{url}/v1/telephony/azure?key={key}&call=2"
            _, second = await talk_to(several, [AZURE, *said_by("c", "d") * 5])
            assert second.close_code == 1000
            await calls.until_ended(1)
            assert {leg for _, leg in calls.legs} == {"all", "participant_1"}, "a key may have two"
        await calls.until_ended(2)
        await until(lambda: app.state.parts.streams.channels == 0, "all places are free")
        assert not value(app, "speechqc_telephony_failures_total")


async def test_a_call_that_begins_without_a_free_place_is_refused():
    async with serving(max_streams=1) as (url, app):
        calls = keep_calls(app)
        async with connect(f"{url}/v1/telephony/twilio", compression=None) as other:
            await send(other, [start()])
            await until(lambda: app.state.parts.streams.channels == 1, "the other call is there")
            _, socket = await talk_to(f"{url}/v1/telephony/azure", [AZURE, *said_by("a")], close=False)
            assert socket.close_code == 1013
        await calls.until_ended(1)


async def test_the_participants_that_are_told_apart_are_bounded():
    protocol = AzureProtocol(Asked("s"))
    protocol.text(json.dumps(AZURE).encode())
    for number in range(MAX_PARTICIPANTS):
        assert len(protocol.text(json.dumps(said_by(number)[0]).encode())) == 2
    assert protocol.text(json.dumps(said_by("one more")[0]).encode()) == [Ignored()]
    assert len(protocol.text(json.dumps(said_by(0)[0]).encode())) == 1
