"""Streams and uploads are counted correctly."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from signals import voice, wav_bytes, white_noise
from speech_qc.engine import EchoRunner
from stream_material import converse, cut, pcm16, receive


def counted(client, name, **labels):
    """Return the sum of the samples with this name and these labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_an_upload_is_counted_by_stage(make_client):
    client = make_client()
    client.post("/v1/inspect", content=wav_bytes(voice(2.0)))
    for stage in ("decode", "features", "queue", "inference", "total"):
        assert counted(client, "speechqc_upload_stage_seconds_count", stage=stage) == 1
    assert counted(client, "speechqc_upload_stage_seconds_sum", stage="total") > 0


def test_noisy_frames_and_snr_of_an_upload_and_of_the_same_stream_agree(make_client, shipped_runner):
    client = make_client(shipped_runner)
    audio = voice(6.0) + white_noise(6.0, level_dbfs=-25)[: len(voice(6.0))]
    answer = client.post("/v1/inspect", content=wav_bytes(audio)).json()["channels"][0]
    converse(client, cut(pcm16(audio), 3200))
    noisy = [counted(client, "speechqc_noisy_frames_total", path=path) for path in ("upload", "live")]
    assert noisy[0] == pytest.approx(answer["summary"]["noise_ratio"] * 300, abs=1)
    assert noisy[0] > 0
    assert noisy[1] == pytest.approx(noisy[0], abs=1)
    events = [event["label"] for event in answer["events"]]
    assert counted(client, "speechqc_events_total") == pytest.approx(2 * len(events), abs=1)
    snr = [counted(client, "speechqc_snr_db_count", path=path) for path in ("upload", "live")]
    assert snr == ([1, 1] if answer["summary"]["snr_db"] is not None else [0, 0])


def test_noise_of_a_long_stream_is_seen_while_it_lasts(make_client, shipped_runner):
    client = make_client(shipped_runner)
    pieces = cut(pcm16(white_noise(8.0, level_dbfs=-25)), 3200)
    with client.websocket_connect("/v1/stream") as session:
        for piece in pieces:
            session.send_bytes(piece)
        scored = 0
        while scored < 300:
            message = receive(session)
            if message["type"] == "scores":
                scored = message["first_frame"]
        assert counted(client, "speechqc_noisy_frames_total", path="live") > 100
        assert counted(client, "speechqc_live_channels") == 1


def test_a_stream_that_finds_no_place_is_a_refusal(make_client):
    client = make_client(max_streams=1)
    converse(client, [], "?channels=2")
    assert counted(client, "speechqc_refusals_total", reason="streams") == 1
    assert counted(client, "speechqc_streams_ended_total", outcome="overloaded") == 1
    assert counted(client, "speechqc_streams_started_total") == 0


def test_an_upload_that_finds_no_place_is_a_refusal(make_client):
    client = make_client(max_uploads=1)
    client.app.state.parts.uploads.taken = 1
    assert client.post("/v1/inspect", content=wav_bytes(voice(1.0))).status_code == 429
    assert counted(client, "speechqc_refusals_total", reason="uploads") == 1


def test_limits_readiness_and_the_process_are_told(make_client):
    client = make_client(EchoRunner(), max_streams=7, max_uploads=3)
    assert counted(client, "speechqc_live_channels_limit") == 7
    assert counted(client, "speechqc_uploads_limit") == 3
    assert counted(client, "speechqc_ready") == 1
    assert counted(client, "speechqc_build_info") == 1
    assert counted(client, "process_resident_memory_bytes") > 1e6
    client.portal.call(client.app.state.parts.engine.drain, 0.0)
    assert counted(client, "speechqc_ready") == 0
