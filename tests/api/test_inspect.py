import json
from math import ceil

import numpy as np
import pytest
from jsonschema import validate

from signals import voice, wav_bytes, white_noise
from speech_qc.engine import OnnxRunner

LABEL_TRACKS = {
    "csv": ("text/csv", "channel,event_id,label"),
    "audacity": ("text/plain", "0."),
    "textgrid": ("text/plain", 'File type = "ooTextFile"'),
    "rttm": ("text/plain", "SPEAKER recording 1 "),
    "webvtt": ("text/vtt", "WEBVTT"),
}


@pytest.mark.parametrize("count", [1, 319, 320, 321, 16_000, 100_001])
def test_every_started_20_ms_gets_a_frame(make_client, count):
    answer = make_client().post("/v1/inspect", content=wav_bytes(white_noise(count / 16_000)))

    body = answer.json()
    assert answer.status_code == 200
    assert body["audio"]["frames"] == ceil(count / 320)
    assert {len(column) for column in body["channels"][0]["frames"].values()} == {ceil(count / 320)}


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_frames_are_20_ms_at_every_sample_rate(make_client, rate_hz):
    samples = white_noise(1.2345, rate_hz=rate_hz)
    body = make_client().post("/v1/inspect", content=wav_bytes(samples, rate_hz)).json()

    at_model_rate = ceil(len(samples) * 16_000 / rate_hz)
    assert body["audio"]["sample_rate_hz"] == rate_hz
    assert body["audio"]["frames"] == ceil(at_model_rate / 320)


def test_the_answer_is_what_openapi_declares(make_client):
    client = make_client()
    document = client.get("/openapi.json").json()
    body = client.post("/v1/inspect", content=wav_bytes(voice(2.0))).json()

    validate(body, {"$ref": "#/components/schemas/InspectAnswer", **document})


def test_frames_carry_the_scores_that_the_model_gave_for_them(make_client):
    """The echo model writes its input into each row, so a shift by one frame would be visible."""
    from speech_qc.audio.features import FrontEnd
    from speech_qc.engine import EchoRunner

    runner = EchoRunner(lookahead_frames=2)
    samples = white_noise(3.0, level_dbfs=-30)
    decoded = (np.round(samples * 32768).clip(-32768, 32767) / 32768).astype(np.float32)
    body = make_client(runner).post("/v1/inspect", content=wav_bytes(decoded)).json()

    features = FrontEnd()(decoded[None])[0]
    expected = runner.expected(features[: len(features) // 2 * 2])
    whole = len(expected) - 1
    noise = np.array(body["channels"][0]["frames"]["noise"][:whole])
    column = runner.contract.index("noise")
    assert np.abs(noise - expected[:whole, column]).max() < 1e-4


def test_each_channel_is_its_own_stream(make_client):
    client = make_client()
    left, right = white_noise(1.0, seed=1), voice(1.0)
    stereo = client.post("/v1/inspect", content=wav_bytes(np.stack([left, right], axis=1))).json()
    monos = [client.post("/v1/inspect", content=wav_bytes(side)).json() for side in (left, right)]

    assert [channel["channel"] for channel in stereo["channels"]] == [0, 1]
    for channel, mono in zip(stereo["channels"], monos, strict=True):
        assert channel["frames"] == mono["channels"][0]["frames"]
        assert channel["events"] == mono["channels"][0]["events"]
        assert channel["levels"] == mono["channels"][0]["levels"]


def test_mix_judges_the_mean_of_the_channels(make_client):
    client = make_client()
    tone = voice(1.0)
    cancelled = client.post(
        "/v1/inspect?channels=mix", content=wav_bytes(np.stack([tone, -tone], axis=1), subtype="FLOAT")
    ).json()

    assert len(cancelled["channels"]) == 1
    assert cancelled["channels"][0]["levels"]["digital_silence_ratio"] == 1.0


def test_frames_can_be_left_out(make_client):
    body = make_client().post("/v1/inspect?frames=false", content=wav_bytes(voice(1.0))).json()
    assert "frames" not in body["channels"][0]
    assert body["audio"]["frames"] == 50


def test_only_the_labels_asked_for_are_sent(make_client):
    body = make_client().post("/v1/inspect?labels=noise, tone", content=wav_bytes(voice(2.0))).json()
    channel = body["channels"][0]
    assert list(channel["frames"]) == ["noise", "tone"]
    assert {event["label"] for event in channel["events"]} <= {"noise", "tone"}


@pytest.mark.parametrize("name", LABEL_TRACKS)
def test_events_come_as_label_tracks(make_client, name):
    media_type, beginning = LABEL_TRACKS[name]
    answer = make_client().post(f"/v1/inspect?format={name}", content=wav_bytes(white_noise(2.0)))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.text.startswith(beginning)


def test_a_multipart_file_gets_the_answer_of_the_raw_body(make_client):
    client = make_client()
    audio = wav_bytes(voice(1.5))
    raw = client.post("/v1/inspect", content=audio).json()
    form = client.post("/v1/inspect", files={"file": ("call.wav", audio, "audio/wav")}).json()
    assert form["channels"] == raw["channels"]


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64"])
def test_containers_are_read_by_their_bytes(make_client, container):
    body = wav_bytes(voice(1.0), container=container, subtype=None)
    answer = make_client().post("/v1/inspect", content=body, headers={"content-type": "application/octet-stream"})
    assert answer.status_code == 200
    assert answer.json()["audio"]["encoding"].startswith(container.lower())


def test_uploads_share_steps_and_do_not_change_each_other(make_client):
    from concurrent.futures import ThreadPoolExecutor

    client = make_client()
    bodies = [wav_bytes(white_noise(1.0 + 0.3 * i, seed=i)) for i in range(6)]
    alone = [client.post("/v1/inspect", content=body).json()["channels"] for body in bodies]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda body: client.post("/v1/inspect", content=body).json()["channels"], bodies))
    assert together == alone


def test_a_wav_of_unknown_length_is_read_to_its_end(make_client):
    whole = wav_bytes(voice(1.0))
    open_ended = whole[:4] + b"\xff\xff\xff\xff" + whole[8:40] + b"\xff\xff\xff\xff" + whole[44:]
    client = make_client()
    assert (
        client.post("/v1/inspect", content=open_ended).json()["channels"]
        == client.post("/v1/inspect", content=whole).json()["channels"]
    )


def test_silence_has_no_invented_figures(make_client, shipped_runner: OnnxRunner):
    body = make_client(shipped_runner).post("/v1/inspect", content=wav_bytes(np.zeros(32_000, np.float32))).json()
    channel = body["channels"][0]
    assert channel["summary"]["speech_ratio"] == 0.0
    for name in ("snr_db", "sig", "bak", "ovrl"):
        assert channel["summary"][name] is None
        assert channel["summary"]["unknown"][name]
    assert set(channel["frames"]["snr_db"]) == {None}
    assert channel["verdict"]["status"] in ("unknown", "fail")


def test_less_than_half_a_second_is_not_judged(make_client):
    body = make_client().post("/v1/inspect", content=wav_bytes(voice(0.49))).json()
    verdict = body["channels"][0]["verdict"]
    assert verdict["status"] == "unknown"
    assert verdict["reasons"][0]["code"] == "too_short"


def test_a_request_id_of_the_caller_is_kept_when_it_is_harmless(make_client):
    client = make_client()
    audio = wav_bytes(voice(0.5))
    kept = client.post("/v1/inspect", content=audio, headers={"x-request-id": "trace-7.a"})
    assert kept.headers["x-request-id"] == kept.json()["request_id"] == "trace-7.a"
    made = client.post("/v1/inspect", content=audio, headers={"x-request-id": "a b{}"})
    assert made.json()["request_id"] != "a b{}"


def test_json_has_no_nan(make_client):
    text = make_client().post("/v1/inspect", content=wav_bytes(np.zeros(16_000, np.float32))).text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
