"""Every other vendor, by messages transcribed from its documentation or source; each is cited beside them."""

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest
from telephony_material import keep_calls, talk_to
from websockets.asyncio.client import connect

from live_server import port_of, serving
from signals import as_16_bit, white_noise
from speech_qc.audio.g711 import encode_mulaw
from speech_qc.telephony import refusal
from speech_qc.telephony.recognise import PROTOCOLS

pytestmark = pytest.mark.anyio


def pcm(samples):
    return (samples * 32768).astype("<i2").tobytes()


def noise(seconds=0.5, rate_hz=8_000, seed=1):
    return as_16_bit(white_noise(seconds, rate_hz=rate_hz, level_dbfs=-30, seed=seed))


def cut(data, size):
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("channels", [1, 2])
async def test_freeswitch_audio_stream_gets_events_as_json(channels):
    # README of mod_audio_stream: `uuid_audio_stream <uuid> start <url> stereo 16000 <metadata>`
    sides = [noise(2.0, 16_000, seed) for seed in range(1, channels + 1)]
    audio = cut(pcm(np.stack(sides, axis=1).reshape(-1)), 640 * channels)
    query = f"?sample_rate=16000&channels={channels}&call=f1"
    async with serving() as (url, app):
        calls = keep_calls(app)
        answers: list[Any] = []
        async with connect(f"{url}/v1/telephony/freeswitch{query}", compression=None) as socket:
            await socket.send('{"user": "1001"}')
            for part in audio:
                await socket.send(part)
            while sum(answer["type"] == "scores" for answer in answers) < channels:
                answers.append(json.loads(await asyncio.wait_for(socket.recv(), 10)))
        await calls.until_ended(channels)
    names = ["caller", "callee"][:channels]
    assert {leg for _, leg in calls.legs} == set(names)
    assert {answer["leg"] for answer in answers if answer["type"] == "scores"} <= set(names)
    scores = next(answer for answer in answers if answer["type"] == "scores")
    assert scores["means"]["noise"] is not None
    for name, side in zip(names, sides, strict=True):
        np.testing.assert_allclose(calls.named(name).timeline(), side, atol=1e-6)


@pytest.mark.parametrize(
    ("protocol", "first"),
    [
        # https://docs.jambonz.org/verbs/verbs/listen
        ("audio.jambonz.org", {"callSid": "j1", "sampleRate": 16000, "mixType": "mono", "from": "+15550100",
                               "metadata": {"queue": "billing"}}),
        ("audio.drachtio.org", {"callSid": "j1", "sampleRate": 16000}),
        (None, {"callSid": "j1", "sampleRate": 16000, "mixType": "mono"}),
    ],
)  # fmt: skip
async def test_jambonz_and_audio_fork(protocol, first):
    said: list[Any] = [first, *cut(pcm(noise(1.2, 16_000)), 640), '{"event":"dtmf","dtmf":"4","duration":100}']
    options: dict[str, Any] = {} if protocol is None else {"subprotocols": [protocol]}
    async with serving() as (url, app):
        calls = keep_calls(app)
        origin = url.replace("ws://", "http://").rpartition(":")[0]  # without the port, as these modules send it
        async with connect(f"{url}/v1/telephony", compression=None, origin=origin, **options) as socket:  # type: ignore[arg-type]
            for message in said:
                await socket.send(json.dumps(message) if isinstance(message, dict) else message)
            answer = json.loads(await asyncio.wait_for(socket.recv(), 10))
        await calls.until_ended(1)
    assert socket.subprotocol == protocol
    assert answer["type"] == "json"
    assert answer["data"]["type"] in ("scores", "event")
    leg = calls.legs["j1", "caller"]
    assert (leg.info.vendor, leg.info.sample_rate_hz, leg.keys) == ("jambonz", 16_000, ["*"])


async def test_vonage():
    # https://developer.vonage.com/en/voice/voice-api/concepts/websockets
    first = {
        "event": "websocket:connected", "content-type": "audio/l16;rate=16000", "customer_id": "ABC123",
        "uuid": "v1", "trunk": "t4",
    }  # fmt: skip
    key = {"event": "websocket:dtmf", "digit": "5", "duration": 260}
    said = [first, *cut(pcm(noise(rate_hz=16_000)), 640), key, {"event": "websocket:cleared"}]
    async with serving() as (url, app):
        calls = keep_calls(app)
        answers, _ = await talk_to(f"{url}/v1/telephony", said)
        await calls.until_ended(1)
    leg = calls.legs["v1", "caller"]
    assert (leg.info.vendor, leg.info.trunk, leg.keys, answers) == ("vonage", "t4", ["*"], [])
    assert leg.info.metadata["customer_id"] == "***"


AZURE = {
    # https://learn.microsoft.com/azure/communication-services/concepts/call-automation/audio-streaming-concept
    "kind": "AudioMetadata",
    "audioMetadata": {"subscriptionId": "a1", "encoding": "PCM", "sampleRate": 16000, "channels": 1, "length": 640},
}


def azure_audio(data, participant=None):
    body = {"data": base64.b64encode(data).decode(), "timestamp": "2026-01-05T12:00:00.1Z", "silent": False}
    return {"kind": "AudioData", "audioData": body | ({"participantRawID": participant} if participant else {})}


@pytest.mark.parametrize("mixed", [True, False])
async def test_azure_mixed_or_by_participant(mixed):
    sides = [noise(rate_hz=16_000, seed=seed) for seed in (1, 2)][: 1 if mixed else 2]
    ids = [None] if mixed else ["4:+15550100", "8:acs:x"]
    said = [AZURE]
    for parts in zip(*(cut(pcm(side), 640) for side in sides), strict=True):
        said += [azure_audio(part, one) for part, one in zip(parts, ids, strict=True)]
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony", [*said, {"kind": "DtmfData", "dtmfData": {"data": "3"}}])
        await calls.until_ended(len(sides))
    names = ["mixed"] if mixed else ["participant_1", "participant_2"]
    for name, side in zip(names, sides, strict=True):
        np.testing.assert_allclose(calls.legs["a1", name].timeline(), side, atol=1e-6)
    assert "+15550100" not in str([leg.info for leg in calls.legs.values()])


def genesys(kind, seq, **parameters):
    # https://developer.genesys.cloud/devapps/audiohook/session-walkthrough
    return {
        "version": "2", "type": kind, "seq": seq, "serverseq": 0, "id": "e160e428-53e2-487c-977d-96989bf5c99d",
        "position": "PT0S", "parameters": parameters,
    }  # fmt: skip


STEREO = {"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}
MONO = {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}
OPEN: dict[str, Any] = {
    "organizationId": "d7934305-0972-4844-938e-9060eef73d05",
    "conversationId": "090eaa2f-72fa-480a-83e0-8667ff89c0ec",
    "participant": {"id": "883efee8-3d6c-4537-b500-6d7ca4b92fa0", "ani": "+1-555-555-1234", "dnis": "+1-800-555-6789"},
    "media": [MONO, STEREO],
    "language": "en-US",
}
GENESYS_HEADERS = {
    "Audiohook-Organization-Id": OPEN["organizationId"],
    "Audiohook-Session-Id": "e160e428-53e2-487c-977d-96989bf5c99d",
    "Audiohook-Correlation-Id": "e160e428-53e2-487c-977d-96989bf5c99d",
    "X-API-KEY": "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh",
}


async def test_genesys_opens_pings_pauses_and_closes():
    customer, agent = (encode_mulaw(noise(2.0, seed=seed)) for seed in (1, 2))
    audio = cut(np.stack([customer, agent], axis=1).tobytes(), 3200)
    said = [
        genesys("open", 1, **OPEN), *audio[:5], genesys("ping", 2, rtt="PT0.1S"),
        genesys("discarded", 3, start="PT1S", discarded="PT0.4S"), *audio[5:],
        genesys("paused", 4), genesys("resumed", 5, start="PT2.4S", discarded="PT3S"), audio[0],
        genesys("dtmf", 6, digit="5"), genesys("update", 7, language="de-DE"), genesys("close", 8, reason="end"),
    ]  # fmt: skip
    async with serving() as (url, app):
        calls = keep_calls(app)
        answers, socket = await talk_to(f"{url}/v1/telephony", said, close=False, additional_headers=GENESYS_HEADERS)
        await calls.until_ended(2)
    kinds = [answer["type"] for answer in answers if answer["type"] != "event"]
    assert kinds == ["opened", "pong", "updated", "closed"]
    assert answers[0]["parameters"] == {"media": [STEREO], "startPaused": False}
    assert [answer["seq"] for answer in answers] == list(range(1, len(answers) + 1))
    assert all(answer["id"] == GENESYS_HEADERS["Audiohook-Session-Id"] for answer in answers)
    assert answers[0]["clientseq"] == 1
    events = [answer for answer in answers if answer["type"] == "event"]
    assert events
    assert events[0]["parameters"]["entities"][0]["type"] == "speech_qc"
    assert socket.close_code == 1000
    for leg in ("customer", "agent"):
        kept = calls.legs[OPEN["conversationId"], leg]
        assert [(stop - start, kind) for start, stop, kind in kept.gaps] == [(6400, "loss"), (48000, "hold")]
        assert kept.document["duration_s"] == pytest.approx(2.0 + 0.4 + 3.0 + 0.2)
        assert kept.info.metadata["ani"] == "***"
    assert calls.legs[OPEN["conversationId"], "customer"].keys == ["*"]


async def test_genesys_probe_is_answered_and_begins_no_call():
    """The reference client sends a short tone in it."""
    probe = OPEN | {"conversationId": "00000000-0000-0000-0000-000000000000"}
    async with serving() as (url, app):
        calls = keep_calls(app)
        said = [genesys("open", 1, **probe), bytes(3200), genesys("close", 2, reason="end")]
        answers, socket = await talk_to(f"{url}/v1/telephony/genesys", said, close=False)
    assert [answer["type"] for answer in answers] == ["opened", "closed"]
    assert socket.close_code == 1000
    assert not calls.legs


OTHER_ORGANIZATION = GENESYS_HEADERS | {"Audiohook-Organization-Id": "00000000-0000-0000-0000-000000000001"}


async def test_genesys_is_asked_to_disconnect_and_its_close_is_answered():
    """It closes the connection itself: a server that does so is an error to it."""
    async with serving() as (url, app):
        keep_calls(app)
        async with connect(
            f"{url}/v1/telephony/genesys", compression=None, additional_headers=OTHER_ORGANIZATION
        ) as socket:
            await socket.send(json.dumps(genesys("open", 1, **OPEN)))
            asked = json.loads(await socket.recv())
            assert (asked["type"], asked["parameters"]["reason"]) == ("disconnect", "unauthorized")
            await socket.send(json.dumps(genesys("ping", 2)))
            await socket.send(bytes(3200))
            await socket.send(json.dumps(genesys("close", 3, reason="disconnect")))
            answers = [json.loads(await socket.recv()) for _ in range(2)]
            assert [(one["type"], one["clientseq"]) for one in answers] == [("pong", 2), ("closed", 3)]
            await socket.close()
            assert socket.close_code == 1000


async def test_genesys_that_does_not_close_is_closed(monkeypatch):
    monkeypatch.setattr(refusal, "PARTING_S", 0.2)
    async with serving() as (url, app):
        keep_calls(app)
        said = [genesys("open", 1, **OPEN)]
        answers, socket = await talk_to(
            f"{url}/v1/telephony/genesys", said, close=False, additional_headers=OTHER_ORGANIZATION
        )
    assert [answer["type"] for answer in answers] == ["disconnect"]
    assert socket.close_code == 1008


async def test_an_unknown_first_message_is_refused_and_names_the_vendors():
    async with serving() as (url, app):
        keep_calls(app)
        for message in ("hello", '{"event":"hello"}', b"\x00" * 320, "[]", '{"version":"1","type":"open"}'):
            _, socket = await talk_to(f"{url}/v1/telephony", [message], close=False)
            assert socket.close_code == 1008, message
        _, socket = await talk_to(f"{url}/v1/telephony/nobody", [], close=False)
        assert socket.close_code == 1008
        failures = app.state.parts.metrics.registry.get_sample_value
        assert failures("speechqc_telephony_failures_total", {"vendor": "unknown"}) == 6
    assert len(PROTOCOLS) == 11
    assert port_of(url)
