"""Twilio Media Streams, as `streamdouble` sends them, and its relatives by messages of their documentation."""

import asyncio
import base64
import json
import sys
from typing import Any

import numpy as np
import pytest
from telephony_material import keep_calls, talk_to
from websockets.asyncio.client import connect

from live_server import serving
from rtp_captures import encoded_packets
from signals import as_16_bit, talk, wav_bytes, white_noise
from speech_qc.audio import packet_decoders
from speech_qc.audio.g711 import decode_mulaw, encode_mulaw
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.calls.interaction import Interaction
from speech_qc.pipeline.channel_meter import ChannelMeter
from waiting import until

pytestmark = pytest.mark.anyio

PACKET = 160


def as_mulaw(samples):
    return encode_mulaw(samples).tobytes()


async def streamdouble(url, folder, *options):
    """Place one simulated call; return its exit code and its output."""
    inbound, outbound = folder / "in.wav", folder / "out.wav"
    inbound.write_bytes(wav_bytes(talk(8_000, seconds=2.0), 8_000))
    outbound.write_bytes(wav_bytes(talk(8_000, seconds=2.0, seed=3), 8_000))
    program = "import sys; from streamdouble.cli import main; sys.exit(main())"
    arguments = ["call", "--fork", "--track", "both", "--audio", str(inbound), "--agent-audio", str(outbound), *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/telephony", "/v1/telephony/twilio"])
async def test_a_strict_fork_gives_two_legs_of_one_call(tmp_path, path):
    async with serving() as (url, app):
        calls = keep_calls(app)
        code, output = await streamdouble(url + path, tmp_path, "--strict-fork", "--param", "trunk=a1")
        assert code == 0, output
        await calls.until_ended(2)

    assert {leg for _, leg in calls.legs} == {"inbound", "outbound"}
    assert len({call for call, _ in calls.legs}) == 1
    for leg in calls.legs.values():
        assert leg.info.vendor == "twilio"
        assert leg.info.trunk == "a1"
        assert leg.document["duration_s"] == pytest.approx(2.0, abs=0.05)
        assert leg.document["transport"]["missing_ms"] == 0
        assert not np.isnan(leg.timeline()).any()


@pytest.mark.slow
async def test_lost_packets_are_gaps_at_their_places(tmp_path):
    async with serving() as (url, app):
        calls = keep_calls(app)
        options = ("--packet-loss", "0.1", "--jitter", "15", "--chaos-seed", "4")
        code, output = await streamdouble(f"{url}/v1/telephony", tmp_path, *options)
        assert code == 0, output
        await calls.until_ended(2)

    leg = calls.named("inbound")
    transport = leg.document["transport"]
    assert transport["loss_ms"] > 0
    assert transport["loss_ms"] % 20 == 0
    assert sum(stop - start for start, stop, _ in leg.gaps) == transport["loss_ms"] * 16
    frames = leg.frames()[:, 1]
    for start, stop, kind in leg.gaps:
        assert kind == "loss"
        assert np.isnan(frames[start // 320 : stop // 320]).all()
    assert int(np.isnan(frames).sum()) == transport["loss_ms"] // 20
    assert not [event for event in leg.document["events"] if event["label"] == "dropout"]


def start(call_id="CA1", tracks=("inbound",), **more):
    media = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
    return {
        "event": "start", "sequenceNumber": "1", "streamSid": "MZ1",
        "start": {"accountSid": "AC1", "streamSid": "MZ1", "callSid": call_id, "tracks": list(tracks),
                  "mediaFormat": media, "customParameters": more},
    }  # fmt: skip


CONNECTED = {"event": "connected", "protocol": "Call", "version": "1.0.0"}
STOP = {"event": "stop", "sequenceNumber": "9", "streamSid": "MZ1", "stop": {"accountSid": "AC1", "callSid": "CA1"}}


def media(codes, chunk, timestamp_ms, track="inbound"):
    payload = base64.b64encode(codes).decode()
    return {
        "event": "media", "sequenceNumber": str(chunk + 1), "streamSid": "MZ1",
        "media": {"track": track, "chunk": str(chunk), "timestamp": str(timestamp_ms), "payload": payload},
    }  # fmt: skip


def packets(samples, *, first_ms=0):
    codes = as_mulaw(samples)
    return [media(codes[at : at + PACKET], at // PACKET + 1, first_ms + at // 8) for at in range(0, len(codes), PACKET)]


async def test_a_leg_gets_the_scores_of_its_recording():
    samples = as_16_bit(white_noise(1.0, rate_hz=8_000, level_dbfs=-30))
    async with serving() as (url, app):
        calls = keep_calls(app)
        _, socket = await talk_to(f"{url}/v1/telephony", [CONNECTED, start(), *packets(samples), STOP], close=False)
        await calls.until_ended(1)
        scored = calls.named("inbound").frames()
        async with connect(f"{url}/v1/stream?encoding=mulaw&sample_rate=8000", compression=None) as stream:
            codes = as_mulaw(samples)
            await stream.send(codes[:1000])
            await stream.send(codes[1000:])
            await stream.send('{"type":"CloseStream"}')
            noise = [
                value
                async for text in stream
                if (message := json.loads(text))["type"] == "scores"
                for value in message["channels"][0]["frames"]["noise"]
            ]
    assert socket.close_code == 1000
    np.testing.assert_allclose(scored[:, 1], noise, atol=1e-4)


async def test_tracks_that_jump_by_an_hour_cost_no_more_than_by_a_minute(monkeypatch):
    steps, step = [0], Interaction._step

    def counted(self, frames):
        steps[0] += 1
        step(self, frames)

    monkeypatch.setattr(Interaction, "_step", counted)
    tracks, costs = ("inbound", "outbound"), []
    for seconds in (60, 3_600):
        steps[0] = 0
        said = [CONNECTED, start(tracks=tracks)]
        for first_ms in (0, 2_000 + 1_000 * seconds):
            legs = [packets(white_noise(2.0, rate_hz=8_000, seed=seed), first_ms=first_ms) for seed in (1, 2)]
            for place, both in enumerate(zip(*legs, strict=True)):
                for track, packet in zip(tracks, both, strict=True):
                    chunk = str(place + 1 + (100 if first_ms else 0))
                    said.append(packet | {"media": packet["media"] | {"track": track, "chunk": chunk}})
        async with serving() as (url, app):
            sink = app.state.parts.results
            told: list[Any] = []
            monkeypatch.setattr(sink, "publish", told.append)
            await talk_to(f"{url}/v1/telephony", [*said, STOP], close=False)
            await until(lambda: len(app.state.parts.calls) == 0, "the call has ended")
        document = told[-1].data
        assert [leg["transport"]["missing_ms"] for leg in document["legs"]] == [1_000 * seconds] * 2
        assert [leg["late_s"] for leg in document["legs"]] == [0.0, 0.0]
        costs.append((steps[0], sum(event.kind == "scores" for event in told)))
    assert costs[0][0] == pytest.approx(costs[1][0], abs=2)
    assert costs[1][0] < 40
    assert costs[0][1] == pytest.approx(costs[1][1], abs=2)
    assert costs[1][1] < 8


async def test_nothing_is_ever_sent_and_keys_are_masked():
    keys = {"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": "7"}}
    async with serving() as (url, app):
        calls = keep_calls(app)
        parameters = {"customer": "+15550100", "queue": "billing"}
        said = [CONNECTED, start(**parameters), *packets(white_noise(0.4, rate_hz=8_000)), keys, STOP]
        answers, _ = await talk_to(f"{url}/v1/telephony", said, close=False)
        await calls.until_ended(1)
    assert answers == []
    leg = calls.named("inbound")
    assert leg.keys == ["*"]
    assert leg.info.metadata["customer"] == leg.info.metadata["queue"] == "***"


async def test_settings_choose_what_is_shown():
    keys = {"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": "7"}}
    async with serving(show_digits=True, telephony_show="queue") as (url, app):
        calls = keep_calls(app)
        other = {"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": "<b>"}}
        said = [start(customer="+15550100", queue="billing"), keys, other, STOP]
        await talk_to(f"{url}/v1/telephony", said, close=False)
        await calls.until_ended(1)
    leg = calls.named("inbound")
    assert leg.keys == ["7"]
    assert dict(leg.info.metadata) == {"accountSid": "***", "customer": "***", "queue": "billing"}


async def test_the_url_names_call_leg_and_trunk():
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony/twilio?call=c7&leg=agent&trunk=t1&name=Line", [CONNECTED, start(), STOP])
        await calls.until_ended(1)
    info = calls.legs["c7", "agent"].info
    assert (info.trunk, info.name, info.vendor, info.sample_rate_hz) == ("t1", "Line", "twilio", 8000)


# Messages of https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming, shortened.
TELNYX: list[Any] = [
    {"event": "connected", "version": "1.0.0"},
    {"event": "start", "sequence_number": "1", "stream_id": "s1", "start": {
        "user_id": "u1", "call_control_id": "v3:x", "call_session_id": "session-1",
        "from": "+15550100", "to": "+15550199",
        "media_format": {"encoding": "PCMA", "sample_rate": 8000, "channels": 1}}},
]  # fmt: skip


async def test_telnyx_packets_are_put_into_order():
    codes = np.random.default_rng(1).integers(0, 256, 100 * PACKET, dtype=np.uint8).tobytes()
    said = [
        {"event": "media", "sequence_number": str(i + 2), "stream_id": "s1", "media": {
            "track": "inbound", "chunk": str(i + 1), "timestamp": str(20 * i),
            "payload": base64.b64encode(codes[i * PACKET : (i + 1) * PACKET]).decode()}}
        for i in range(100) if i not in (40, 41)
    ]  # fmt: skip
    mixed = [*said[:10], said[11], said[10], *said[12:20], said[23], said[21], said[22], said[20], *said[24:]]
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony", [*TELNYX, *said, {"event": "stop"}], close=False)
        await calls.until_ended(1)
        straight = calls.named("inbound")
        calls.legs.clear()
        await talk_to(f"{url}/v1/telephony/telnyx", [*TELNYX, *mixed, {"event": "stop"}], close=False)
        await calls.until_ended(1)
        turned = calls.named("inbound")
    assert straight.info.vendor == turned.info.vendor == "telnyx"
    assert turned.info.call_id == "session-1"
    assert turned.document["transport"]["reordered"] == 4
    assert straight.gaps == turned.gaps == [(40 * 320, 42 * 320, "loss")]
    np.testing.assert_array_equal(straight.timeline(), turned.timeline())
    np.testing.assert_allclose(straight.frames(), turned.frames(), atol=1e-4)


@pytest.mark.parametrize(("codec", "rate_hz"), [("G722", 16_000), ("OPUS", 48_000)])
async def test_telnyx_packets_of_codecs_with_a_state_are_decoded_in_order(codec, rate_hz):
    """The same in order and out of order; a packet that is missing or damaged is a gap, and nothing is concealed."""
    pytest.importorskip("av", reason="the extra [media] has it")
    payloads = encoded_packets("g722" if codec == "G722" else "libopus", talk(rate_hz, seconds=2.0), rate_hz)
    payloads[60] = b"\xf1abc" if codec == "OPUS" else payloads[60]
    given = json.loads(json.dumps(TELNYX))
    given[1]["start"]["media_format"] |= {"encoding": codec, "sample_rate": 16_000}
    said = [
        {"event": "media", "sequence_number": str(i + 2), "stream_id": "s1", "media": {
            "track": "inbound", "chunk": str(i + 1), "timestamp": str(20 * i),
            "payload": base64.b64encode(payload).decode()}}
        for i, payload in enumerate(payloads) if i not in (40, 41)
    ]  # fmt: skip
    mixed = [*said[:10], said[11], said[10], *said[12:20], said[23], said[21], said[22], said[20], *said[24:]]
    heard = []
    async with serving() as (url, app):
        calls = keep_calls(app)
        for messages in (said, mixed):
            calls.legs.clear()
            await talk_to(f"{url}/v1/telephony", [*given, *messages, {"event": "stop"}], close=False)
            await calls.until_ended(1)
            heard.append(calls.named("inbound"))
    straight, turned = heard
    damaged = [(60 * 320, 61 * 320, "loss")] if codec == "OPUS" else []
    assert straight.gaps == turned.gaps == [(40 * 320, 42 * 320, "loss"), *damaged]
    assert turned.document["transport"]["reordered"] == 4
    np.testing.assert_array_equal(straight.timeline(), turned.timeline())
    with PacketDecoders() as decoders:
        decoder = decoders.open("g722", 16_000) if codec == "G722" else decoders.open("opus", 48_000)
        alone = np.concatenate(
            [decoder.decode(payload) for i, payload in enumerate(payloads[:60]) if i not in (40, 41)]
        )
    here = straight.timeline()[: 30 * 320]
    expected = alone[: 30 * rate_hz // 50 : rate_hz // 16_000]
    assert np.corrcoef(here, expected)[0, 1] > 0.98, "the sound is that of the packets"


async def test_packets_that_decode_to_floats_are_measured_as_they_are(monkeypatch):
    """FFmpeg's own decoder of Opus, which serves where libopus is missing, has no 16-bit samples, and reaches 1.0."""
    pytest.importorskip("av", reason="the extra [media] has it")
    monkeypatch.setitem(packet_decoders._CODECS, "opus", (48_000, ("opus",)))
    square = np.sign(np.sin(2 * np.pi * 200 * np.arange(48_000) / 48_000)).astype(np.float32)
    payloads = encoded_packets("libopus", square, 48_000)
    with PacketDecoders() as decoders:
        decoder = decoders.open("opus", 48_000)
        decoded = np.concatenate([decoder.decode(payload) for payload in payloads])
    assert (decoded == 1.0).mean() > 0.1, "the decoder overshoots"
    meter = ChannelMeter(48_000)
    meter.push(decoded)
    expected = meter.result()
    given = json.loads(json.dumps(TELNYX))
    given[1]["start"]["media_format"] |= {"encoding": "OPUS", "sample_rate": 16_000}
    said = [
        {"event": "media", "sequence_number": str(i + 2), "stream_id": "s1", "media": {
            "track": "inbound", "chunk": str(i + 1), "timestamp": str(20 * i),
            "payload": base64.b64encode(payload).decode()}}
        for i, payload in enumerate(payloads)
    ]  # fmt: skip
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony", [*given, *said, {"event": "stop"}], close=False)
        await calls.until_ended(1)
        levels = calls.named("inbound").document["levels"]
    for name in ("rms_dbfs", "peak_dbfs", "true_peak_dbtp", "dc_offset", "clipped_ratio"):
        assert levels[name] == pytest.approx(getattr(expected, name), abs=0.01), name


@pytest.mark.parametrize(
    ("vendor", "said", "rate_hz"),
    [
        # https://www.plivo.com/docs/voice/xml/stream
        ("plivo", {"event": "start", "sequenceNumber": 0, "start": {
            "callId": "p1", "streamId": "s1", "accountId": "1", "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-l16", "sampleRate": 16000}}}, 16_000),
        # https://developer.exotel.com/api/product-voice-version-3 (stream applet)
        ("exotel", {"event": "start", "sequence_number": 1, "stream_sid": "s1", "start": {
            "stream_sid": "s1", "call_sid": "e1", "account_sid": "x", "from": "1", "to": "2",
            "custom_parameters": {}, "media_format": {"encoding": "base64", "sample_rate": "8000", "bit_rate": "128"}}},
         8_000),
        # https://developer.signalwire.com/compatibility-api/xml/stream
        ("signalwire", {"event": "start", "sequenceNumber": "1", "streamSid": "s1", "start": {
            "streamSid": "s1", "accountSid": "6bfbbe86-a901", "callSid": "w1", "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-l16;rate=24000", "sampleRate": 24000, "channels": 1}}}, 24_000),
    ],
)  # fmt: skip
async def test_dialects_are_told_by_their_start(vendor, said, rate_hz):
    samples = as_16_bit(white_noise(0.5, rate_hz=rate_hz))
    data = (samples * 32768).astype("<i2").tobytes()
    step = rate_hz // 10 * 2
    sent = [media(data[at : at + step], at // step + 1, 50 * at // step) for at in range(0, len(data), step)]
    for index, one in enumerate(sent):
        one["media"]["timestamp"] = str(100 * index)
        del one["media"]["track"]
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony", [said, *sent, {"event": "stop"}], close=False)
        await calls.until_ended(1)
    leg = calls.named("inbound")
    assert (leg.info.vendor, leg.info.sample_rate_hz) == (vendor, rate_hz)
    assert leg.document["duration_s"] == pytest.approx(0.5)
    assert leg.document["transport"]["missing_ms"] == 0


async def test_a_codec_that_cannot_be_scored_is_refused_with_the_remedy(caplog):
    said = json.loads(json.dumps(TELNYX))
    said[1]["start"]["media_format"]["encoding"] = "AMR-WB"
    async with serving() as (url, app):
        keep_calls(app)
        _, socket = await talk_to(f"{url}/v1/telephony", said, close=False)
    assert socket.close_code == 1003
    assert (socket.close_reason or "").startswith("unsupported_format")


async def test_a_call_of_hours_by_its_timestamps_costs_what_was_heard():
    """Six hours, sent at once: speech at the start of each hour, nothing in between."""
    piece = as_16_bit(white_noise(1.0, rate_hz=8_000, level_dbfs=-30))
    said = [packet for hour in range(6) for packet in packets(piece, first_ms=hour * 3_600_000)]
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony", [CONNECTED, start(), *said, STOP], close=False)
        await calls.until_ended(1)
    leg = calls.named("inbound")
    assert leg.document["duration_s"] == 5 * 3600 + 1
    assert leg.document["transport"]["missing_ms"] == 1000 * (5 * 3600 - 5)
    frames = leg.frames()
    heard = np.flatnonzero(~np.isnan(frames[:, 1]))
    assert heard.tolist() == [hour * 180_000 + frame for hour in range(6) for frame in range(50)]
    np.testing.assert_allclose(decode_mulaw(as_mulaw(piece)), piece, atol=0.05)


async def test_a_long_message_that_overtakes_another_keeps_its_place():
    """Messages of 300 ms, which are taken in pieces, in the wrong order."""
    samples = as_16_bit(white_noise(3.0, rate_hz=8_000, level_dbfs=-30))
    codes, size = as_mulaw(samples), 2400
    said = [media(codes[at : at + size], at // size + 1, at // 8) for at in range(0, len(codes), size)]
    mixed = [said[0], said[2], said[1], *said[3:]]
    telnyx = json.loads(json.dumps(TELNYX))
    telnyx[1]["start"]["media_format"]["encoding"] = "PCMU"
    async with serving() as (url, app):
        calls = keep_calls(app)
        await talk_to(f"{url}/v1/telephony", [*telnyx, *said, {"event": "stop"}], close=False)
        await calls.until_ended(1)
        straight = calls.named("inbound").timeline()
        calls.legs.clear()
        await talk_to(f"{url}/v1/telephony", [*telnyx, *mixed, {"event": "stop"}], close=False)
        await calls.until_ended(1)
    leg = calls.named("inbound")
    assert leg.document["duration_s"] == pytest.approx(3.0)
    line = leg.timeline()
    assert np.flatnonzero(np.isnan(line)).tolist() == list(range(4800, 9600))  # more than 0.2 s is not awaited
    np.testing.assert_array_equal(line[11_000:], straight[11_000:])
