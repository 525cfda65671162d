"""The conversation, message by message."""

import json
import re

import numpy as np
import pytest

from signals import voice, white_noise
from speech_qc.engine import EchoRunner
from stream_material import (
    CLOSE,
    FINALIZE,
    KEEP_ALIVE,
    converse,
    cut,
    frames_of,
    of_type,
    pcm16,
    receive,
    receive_all,
    receive_until,
)

SECOND = pcm16(white_noise(1.0, level_dbfs=-30))


def test_ready_comes_first_and_says_what_was_agreed_on(make_client):
    query = (
        "?encoding=mulaw&sample_rate=8000&channels=2&emit_ms=200&labels=noise,speech&profile=callcenter&session_name=a"
    )
    ready = converse(make_client(), [], query)[0]
    assert ready["type"] == "ready"
    agreed = {name: ready[name] for name in ("encoding", "sample_rate_hz", "channels", "emit_ms", "profile")}
    assert agreed == {
        "encoding": "mulaw", "sample_rate_hz": 8000, "channels": 2, "emit_ms": 200, "profile": "callcenter",
    }  # fmt: skip
    assert ready["labels"] == ["speech", "noise"]
    assert ready["session_name"] == "a"
    assert ready["frame_hop_s"] == 0.02
    assert ready["model"]["name"] == "echo"


def test_without_a_query_it_is_16_khz_linear_mono_every_100_ms(make_client):
    ready = converse(make_client(), [])[0]
    assert (ready["encoding"], ready["sample_rate_hz"], ready["channels"], ready["emit_ms"]) == (
        "linear16", 16000, 1, 100,
    )  # fmt: skip
    assert len(ready["labels"]) == 12


def test_latency_counts_the_model_the_resampler_and_the_wait_for_a_message(make_client):
    client = make_client(EchoRunner(lookahead_frames=2))
    at = {
        query: converse(client, [], query)[0]["latency_s"]
        for query in ("", "?emit_ms=20", "?emit_ms=500", "?sample_rate=8000")
    }
    assert at[""] == pytest.approx(0.04 + 0.015 + 0.08)
    assert at["?emit_ms=20"] == pytest.approx(0.04 + 0.015)
    assert at["?emit_ms=500"] == pytest.approx(0.04 + 0.015 + 0.48)
    assert at[""] + 0.01 < at["?sample_rate=8000"] < at[""] + 0.3


@pytest.mark.parametrize("emit_ms", [100, 260, 1000])
def test_scores_come_gapless_in_portions_of_the_interval(make_client, emit_ms):
    messages = converse(make_client(), cut(SECOND * 3, 3200), f"?emit_ms={emit_ms}")
    sizes = [len(m["channels"][0]["frames"]["noise"]) for m in of_type(messages, "scores")]
    assert len(frames_of(messages)["noise"]) == 150
    assert sum(sizes[:-1]) / len(sizes[:-1]) == pytest.approx(emit_ms / 20, rel=0.35)
    assert max(sizes) <= emit_ms / 20 + 4


def test_at_20_ms_every_packet_is_answered_with_one_frame(make_client):
    packets = cut(SECOND, 640)
    with make_client(EchoRunner(lookahead_frames=2)).websocket_connect("/v1/stream?emit_ms=20") as session:
        assert receive(session)["type"] == "ready"
        for packet in packets[:3]:
            session.send_bytes(packet)
        for number, packet in enumerate(packets[3:23]):  # three packets: two of look-ahead, one for the last window
            session.send_bytes(packet)
            message = receive_until(session, "scores")[-1]
            assert message["first_frame"] == number
            assert len(message["channels"][0]["frames"]["noise"]) == 1
        session.send_text(CLOSE)
        assert receive_all(session)[-1]["code"] == 1000


def test_scores_are_sent_while_the_stream_goes_on(make_client):
    with make_client().websocket_connect("/v1/stream") as session:
        assert receive(session)["type"] == "ready"
        for piece in cut(SECOND, 3200):
            session.send_bytes(piece)
        heard = 0
        while heard < 40:  # of 50 frames, without an end marker
            message = receive(session)
            if message["type"] == "scores":
                heard += len(message["channels"][0]["frames"]["noise"])
        session.send_text(CLOSE)
        assert receive_all(session)[-1]["code"] == 1000


def test_finalize_scores_all_but_what_needs_the_future_and_the_stream_goes_on(make_client):
    client = make_client(EchoRunner(lookahead_frames=2))
    with client.websocket_connect("/v1/stream?emit_ms=1000") as session:
        session.send_bytes(SECOND)
        session.send_text(FINALIZE)
        first = receive_until(session, "finalized")
        session.send_bytes(SECOND)
        session.send_text(CLOSE)
        rest = receive_all(session)
    # 50 frames were received; two are look-ahead, and the window of the next one extends beyond the end.
    assert first[-1] == {"type": "finalized", "frames": 47}
    assert len(frames_of(first)["noise"]) == 47
    assert frames_of(first + rest) == frames_of(converse(client, [SECOND + SECOND]))


def test_finalize_without_audio_is_answered(make_client):
    messages = converse(make_client(), [FINALIZE])
    assert of_type(messages, "finalized") == [{"type": "finalized", "frames": 0}]


def test_close_stream_gives_the_rest_the_summary_and_1000(make_client):
    messages = converse(make_client(), [SECOND[:-2]])
    assert [m["type"] for m in messages[-2:]] == ["summary", "close"]
    assert messages[-1]["code"] == 1000
    summary = messages[-2]
    assert summary["frames"] == len(frames_of(messages)["noise"]) == 50
    assert summary["duration_s"] == round(15_999 / 16_000, 6)
    assert summary["session_id"] == messages[0]["session_id"]
    assert summary["channels"][0]["verdict"]["status"] in ("pass", "warn", "fail")


def test_a_stream_without_audio_is_closed_with_a_summary_that_invents_nothing(make_client):
    summary = converse(make_client(), [])[-2]
    assert (summary["duration_s"], summary["frames"]) == (0, 0)
    channel = summary["channels"][0]
    assert channel["verdict"]["status"] == "unknown"
    unknown = channel["levels"].pop("unknown")
    assert set(channel["levels"].values()) == {None}
    assert set(unknown) == set(channel["levels"]) and set(unknown.values()) == {"no audio was received"}
    assert channel["summary"]["snr_db"] is None


def test_events_begin_and_end_while_the_stream_goes_on_and_are_in_the_summary(make_client):
    quiet, loud = np.zeros(16_000, np.float32), white_noise(1.0, level_dbfs=-15)
    audio = np.concatenate([quiet, loud, quiet])
    messages = converse(make_client(), cut(pcm16(audio), 3200), "?labels=noise,interference")
    news = of_type(messages, "event")
    assert news
    assert {m["label"] for m in news} <= {"noise", "interference"}
    begun = {m["event_id"]: m for m in news if m["phase"] == "begin"}
    ended = {m["event_id"]: m for m in news if m["phase"] == "end"}
    assert begun.keys() == ended.keys()
    for identity, end in ended.items():
        assert begun[identity]["offset_s"] is None
        assert begun[identity]["onset_s"] == end["onset_s"] < end["offset_s"]
    listed = messages[-2]["channels"][0]["events"]
    assert listed == [
        {k: v for k, v in ended[i].items() if k not in ("type", "phase", "channel")} for i in sorted(ended)
    ]
    assert messages.index(news[0]) < messages.index(of_type(messages, "scores")[-1])


def test_configure_changes_labels_interval_and_profile_without_a_gap(make_client):
    change = json.dumps({"type": "Configure", "labels": ["noise"], "emit_ms": 20, "profile": "broadcast"})
    messages = converse(make_client(), [SECOND, change, SECOND])
    configured = of_type(messages, "configured")[0]
    assert (configured["labels"], configured["emit_ms"], configured["profile"]) == (["noise"], 20, "broadcast")
    before = [m for m in of_type(messages, "scores") if m["first_frame"] < configured["first_frame"]]
    after = [m for m in of_type(messages, "scores") if m["first_frame"] >= configured["first_frame"]]
    assert all(len(m["channels"][0]["frames"]) == 12 for m in before)
    assert all(list(m["channels"][0]["frames"]) == ["noise"] for m in after)
    assert after[0]["first_frame"] == configured["first_frame"]
    assert len(frames_of(messages)["noise"]) == 100
    expected = converse(make_client(), [SECOND, SECOND], "?profile=broadcast")[-2]["channels"][0]["verdict"]
    assert messages[-2]["channels"][0]["verdict"] == expected


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("not json", "JSON"),
        ("[]", "object"),
        ('{"kind":"Finalize"}', "type"),
        ('{"type":"Stop"}', "CloseStream"),
        ('{"type":"Finalize","now":true}', "now"),
        ('{"type":"Configure","labels":["nois"]}', "'nois'"),
        ('{"type":"Configure","labels":[]}', "labels"),
        ('{"type":"Configure","emit_ms":30}', "multiple of 20"),
        ('{"type":"Configure","emit_ms":"fast"}', "emit_ms"),
        ('{"type":"Configure","profile":"mine"}', "mine"),
        ("x" * 5000, "audio in binary messages"),
        ('{"type":"audio","data":"AAAA"}', "audio in binary messages"),
    ],
)
def test_a_bad_text_message_is_answered_and_the_stream_goes_on(make_client, text, part):
    messages = converse(make_client(), [SECOND, text, SECOND])
    error = of_type(messages, "error")[0]["error"]
    assert error["code"] == "protocol_error"
    assert part in error["message"]
    assert len(error["message"]) < 600
    assert error["request_id"] == messages[0]["session_id"]
    assert len(frames_of(messages)["noise"]) == 100
    assert messages[-1]["code"] == 1000


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("?encoding=opus", "linear16, mulaw, alaw, float32"),
        ("?sample_rate=7999", "8000 to 48000"),
        ("?sample_rate=96000", "8000 to 48000"),
        ("?sample_rate=16k", "8000 to 48000"),
        ("?channels=3", "1 to 2"),
        ("?emit_ms=10", "20 to 1000"),
        ("?emit_ms=1020", "20 to 1000"),
        ("?emit_ms=50", "multiple of 20"),
        ("?labels=loudness", "'loudness'"),
        ("?profile=mine", "mine"),
        ("?samplerate=8000", "sample_rate"),
        ("?channels=1&channels=2", "once"),
        ("?session_name=" + "n" * 129, "128"),
    ],
)
def test_a_wrong_option_is_named_and_closes_with_1008(make_client, query, part):
    error, close = converse(make_client(), [], query, close=False)
    assert error["error"]["code"] == "protocol_error"
    assert part in error["error"]["message"]
    assert close["code"] == 1008
    assert "correct" in close["reason"]


def test_bytes_that_are_no_float_samples_close_with_1007(make_client):
    broken = np.array([0.1, np.nan], "<f4").tobytes()
    *_, error, close = converse(make_client(), [broken], "?encoding=float32", close=False)
    assert error["error"]["code"] == "invalid_audio"
    assert close["code"] == 1007
    scaled = np.full(1600, 12_000.0, "<f4").tobytes()
    *_, error, close = converse(make_client(), [scaled], "?encoding=float32", close=False)
    assert (error["error"]["code"], close["code"]) == ("invalid_audio", 1007)


def test_too_large_a_message_closes_with_1009(make_client):
    client = make_client(stream_max_message_bytes=4096)
    *_, error, close = converse(client, [bytes(4097)], close=False)
    assert (error["error"]["code"], close["code"]) == ("payload_too_large", 1009)
    *_, error, close = converse(client, ["x" * 70_000], close=False)
    assert (error["error"]["code"], close["code"]) == ("payload_too_large", 1009)


def test_half_a_sample_at_the_end_is_reported(make_client):
    messages = converse(make_client(), [SECOND + b"\x01"])
    assert of_type(messages, "warning")[0]["code"] == "incomplete_sample"
    assert messages[-2]["frames"] == 50


def test_keep_alive_is_not_answered(make_client):
    assert [m["type"] for m in converse(make_client(), [KEEP_ALIVE])] == ["ready", "summary", "close"]


def test_audio_faster_than_real_time_is_scored_and_said(make_client):
    messages = converse(make_client(), cut(SECOND * 10, 3200))
    warnings = of_type(messages, "warning")
    assert [w["code"] for w in warnings] == ["too_fast"]
    assert messages[-2]["frames"] == 500


def test_two_channels_advance_together(make_client):
    left, right = white_noise(1.0, seed=1), voice(1.0)
    audio = pcm16(np.stack([left, right], axis=1))
    messages = converse(make_client(), cut(audio, 1111), "?channels=2")
    for message in of_type(messages, "scores"):
        assert [channel["channel"] for channel in message["channels"]] == [0, 1]
        assert len({len(c) for channel in message["channels"] for c in channel["frames"].values()}) == 1
    assert [channel["channel"] for channel in messages[-2]["channels"]] == [0, 1]


def test_the_metrics_count_streams_and_their_endings(make_client):
    client = make_client()
    converse(client, [SECOND])
    converse(client, [], "?channels=9", close=False)
    text = client.get("/metrics").text
    assert "speechqc_streams_started_total 1.0" in text
    assert 'speechqc_streams_ended_total{outcome="ok"} 1.0' in text
    assert 'speechqc_streams_ended_total{outcome="protocol_error"} 1.0' in text
    assert "speechqc_streams_active 0.0" in text
    assert "speechqc_frames_scored_total 50.0" in text
    live_s = re.search(r'speechqc_audio_seconds_total\{path="live"\} (\S+)', text)
    assert live_s is not None and float(live_s[1]) == pytest.approx(1.0)
    assert "speechqc_stream_lag_seconds_count" in text
