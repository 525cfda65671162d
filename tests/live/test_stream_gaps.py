"""Gaps on `/v1/stream`: declared by the client, or seen by arrival."""

import asyncio
import json
import time

import pytest

from live_server import serving
from signals import white_noise
from speech_qc.client.stream import StreamClient
from speech_qc.engine import EchoRunner
from stream_material import CLOSE, converse, cut, of_type, pcm16, receive, receive_all

SECOND = pcm16(white_noise(1.0, level_dbfs=-30))


def gap(ms, **fields):
    return json.dumps({"type": "Gap", "ms": ms, **fields})


def timeline(messages):
    """Return the scores of `noise` by frame; a gap message stands for its frames."""
    found = {}
    for message in messages:
        if message["type"] == "scores":
            for place, value in enumerate(message["channels"][0]["frames"]["noise"]):
                assert message["first_frame"] + place not in found
                found[message["first_frame"] + place] = value
        elif message["type"] == "gap":
            assert message["reason"] == "not_received"
            found |= {message["first_frame"] + place: None for place in range(message["frames"])}
    assert sorted(found) == list(range(len(found)))
    return [found[frame] for frame in range(len(found))]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("ms", [20, 100, 2000])
def test_frames_of_a_declared_gap_are_null(make_client, ms, channels):
    query = f"?channels={channels}"
    parts = [*cut(SECOND * channels, 1000), gap(ms), *cut(SECOND * channels, 3200)]
    messages = converse(make_client(EchoRunner(lookahead_frames=2)), parts, query)
    again = converse(
        make_client(EchoRunner(lookahead_frames=2)), [SECOND * channels, gap(ms), SECOND * channels], query
    )
    noise = timeline(messages)

    assert [frame for frame, value in enumerate(noise) if value is None] == list(range(50, 50 + ms // 20))
    assert noise == timeline(again)
    summary = of_type(messages, "summary")[0]
    assert summary["duration_s"] == 2 + ms / 1000
    assert summary["frames"] == len(noise) == 100 + ms // 20
    for channel in summary["channels"]:
        assert channel["transport"]["loss_ms"] == channel["transport"]["missing_ms"] == ms
        assert channel["transport"]["gaps"] == [{"kind": "loss", "start_s": 1.0, "stop_s": round(1.0 + ms / 1000, 4)}]
    assert of_type(messages, "warning") == [] or {w["code"] for w in of_type(messages, "warning")} == {"too_fast"}


def test_a_gap_at_the_end_counts_and_a_stream_without_one_has_no_transport(make_client):
    summary = of_type(converse(make_client(), [SECOND, gap(500, kind="hold")]), "summary")[0]
    assert summary["duration_s"] == 1.5
    assert summary["channels"][0]["transport"]["hold_ms"] == 500
    assert "transport" not in of_type(converse(make_client(), [SECOND]), "summary")[0]["channels"][0]


@pytest.mark.parametrize("field", [{"ms": 0}, {"ms": -5}, {"ms": 1e12}, {"ms": "long"}, {}, {"ms": 20, "kind": "mood"}])
def test_a_wrong_gap_gets_an_error_and_the_stream_goes_on(make_client, field):
    messages = converse(make_client(), [SECOND, json.dumps({"type": "Gap", **field}), SECOND])
    assert of_type(messages, "error")[0]["error"]["code"] == "protocol_error"
    assert of_type(messages, "summary")[0]["frames"] == 100


def test_a_day_of_gaps_costs_no_more_than_their_bridges(make_client):
    started_s = time.monotonic()
    messages = converse(make_client(), [part for _ in range(24) for part in (SECOND[:3200], gap(3_600_000))])
    assert of_type(messages, "summary")[0]["duration_s"] == pytest.approx(24 * 3600.1)
    assert len(timeline_sizes(messages)) < 200
    assert time.monotonic() - started_s < 30


def timeline_sizes(messages):
    return [message["type"] for message in messages if message["type"] in ("scores", "gap")]


def test_by_arrival_a_pause_is_a_gap(make_client):
    with make_client(EchoRunner(lookahead_frames=2)).websocket_connect("/v1/stream?position=arrival") as session:
        assert receive(session)["type"] == "ready"
        for turn in range(20):
            session.send_bytes(SECOND[turn * 640 : turn * 640 + 640])
            time.sleep(0.02)
        time.sleep(0.6)
        for turn in range(20):
            session.send_bytes(SECOND[turn * 640 : turn * 640 + 640])
            time.sleep(0.02)
        session.send_text(CLOSE)
        messages = receive_all(session)
    transport = of_type(messages, "summary")[0]["channels"][0]["transport"]
    assert transport["dtx_ms"] == pytest.approx(600, abs=120)
    assert [value for value in timeline(messages) if value is None]


def test_the_query_names_the_two_kinds_of_position(make_client):
    messages = converse(make_client(), [], "?position=guess", close=False)
    assert "samples or arrival" in messages[0]["error"]["message"]


def test_the_client_says_gaps_too():
    async def talk():
        async with serving(EchoRunner(lookahead_frames=2)) as (url, _), StreamClient.connect(url) as stream:
            await stream.send(SECOND)
            await stream.gap(5000, "hold")
            await stream.send(SECOND)
            return await stream.close()

    summary = asyncio.run(talk())
    assert summary.duration_s == 7.0
    assert summary.channels[0].transport.hold_ms == 5000
