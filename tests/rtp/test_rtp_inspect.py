"""Packet captures through the application, the Python API and the command line: one answer, gaps not received."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from closeness import assert_close
from rtp_captures import A, B, Capture, alaw, delayed, mulaw, sent
from signals import talk, voice, wav_bytes
from speech_qc.audio.g711 import decode_mulaw, encode_mulaw
from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.embedded.detector import Detector
from speech_qc.engine import EchoRunner
from speech_qc.errors import InvalidAudio, PayloadTooLarge, ProtocolError
from speech_qc.settings import Settings

TALK = talk(8000, seconds=6.0)
PACKETS = sent(mulaw(TALK))
GONE = {100, 101, 102, 200}
GAPPED = [one for i, one in enumerate(PACKETS) if i not in GONE]
BACK = sent(alaw(voice(4.0, rate_hz=8000)), payload_type=8, ssrc=7, source=B, target=A)


@pytest.fixture(params=["echo", pytest.param("shipped", marks=pytest.mark.slow)])
def runner(request):
    return request.getfixturevalue("shipped_runner") if request.param == "shipped" else EchoRunner(2)


def findings(channel: dict) -> dict:
    return {name: value for name, value in channel.items() if name not in ("channel", "transport")}


def posted(client, data: bytes, **query):
    return client.post("/v1/inspect", content=data, params=query)


def test_a_capture_without_loss_has_the_scores_of_a_recording(make_client, runner):
    client = make_client(runner)
    heard = decode_mulaw(encode_mulaw(TALK))
    recording = posted(client, wav_bytes(heard, 8000, subtype="FLOAT")).json()
    for data in (Capture().add(PACKETS).pcap(), Capture().add(PACKETS).add(BACK).pcapng()):
        answer = posted(client, data).json()
        assert_close(findings(answer["channels"][0]), findings(recording["channels"][0]))
        assert answer["channels"][0]["transport"]["gaps"] == []
    assert answer["audio"]["channels"] == 2 and answer["audio"]["encoding"] == "pcap/PCMU+PCMA"
    assert answer["audio"]["duration_s"] == 6.0 and answer["audio"]["frames"] == 300
    assert len(answer["channels"][1]["frames"]["speech"]) == 200, "each leg has its own length"


def test_frames_that_were_not_received_are_null_and_no_dropout(make_client, runner):
    answer = posted(make_client(runner), Capture().add(GAPPED).pcap()).json()
    (channel,), (stream,) = answer["channels"], answer["capture"]["streams"]
    assert {i for i, value in enumerate(channel["frames"]["speech"]) if value is None} == GONE
    assert [event for event in channel["events"] if event["label"] == "dropout"] == []
    assert [(gap["kind"], gap["start_s"], gap["stop_s"]) for gap in channel["transport"]["gaps"]] == [
        ("loss", 2.0, 2.06),
        ("loss", 4.0, 4.02),
    ]
    assert channel["transport"]["missing_ms"] == channel["transport"]["loss_ms"] == 80.0
    assert (stream["lost"], stream["channel"], stream["loss"]["longest_ms"]) == (4, 0, 60.0)
    assert answer["audio"]["duration_s"] == 6.0


def test_server_and_program_answer_the_same(make_client, runner, tmp_path):
    data = Capture().add(GAPPED).add(BACK).pcap()
    file = tmp_path / "call.pcap"
    file.write_bytes(data)
    served = posted(make_client(runner), data).json()
    detector = Detector(Settings(), runner)
    for source in (data, file, str(file), io.BytesIO(data)):
        found = detector.inspect(source).to_dict()
        for name in ("request_id", "timing"):
            served.pop(name, None)
            found.pop(name)
        assert_close(found, served)
    capture = detector.inspect(data).capture
    assert capture is not None and capture.streams[1].ssrc == "0x00000007"


def test_transport_says_how_packets_arrived(make_client):
    late = [0.0] * len(PACKETS)
    late[20], late[60] = 0.05, 1.0
    answer = posted(make_client(), Capture().add([*delayed(PACKETS, late), PACKETS[30]]).pcap()).json()
    transport = answer["channels"][0]["transport"]
    assert (transport["late"], transport["duplicates"], transport["reordered"], transport["restarts"]) == (1, 1, 1, 0)


def test_hours_of_gaps_in_a_small_capture_are_refused_before_they_take_memory(make_client):
    hour = 3600
    far = [
        replace(one, at_s=one.at_s + 3 * hour, timestamp=one.timestamp + 3 * hour * 8000, sequence=one.sequence)
        for one in PACKETS[100:]
    ]
    data = Capture().add(PACKETS[:100] + far).pcap()
    assert posted(make_client(), data, frames="false").status_code == 200
    answer = posted(make_client(max_held_bytes=64 << 20, max_upload_bytes=16 << 20), data)
    assert answer.status_code in (413, 429), answer.text


def test_a_form_may_hold_a_capture_and_a_label_track_may_be_wanted(make_client):
    data = Capture().add(GAPPED).pcap()
    client = make_client()
    answer = client.post("/v1/inspect", files={"file": ("call.pcap", data)}, data={"frames": "false"})
    assert answer.status_code == 200 and "frames" not in answer.json()["channels"][0]
    assert posted(client, data, format="csv").text.startswith("channel,")
    assert posted(client, data, frames="false", labels="noise").status_code == 200


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ({"channels": "mix"}, 400, "got a packet capture"),
        ({"explain": "true"}, 400, "got a packet capture"),
        ({"payload_types": "96=foo/1"}, 400, "payload_types: expected"),
        ({"encoding": "mulaw", "payload_types": "96=opus/48000/2"}, 400, "expected a packet capture"),
    ],
)
def test_options_that_do_not_fit_are_refused(make_client, query, status, text):
    answer = posted(make_client(), Capture().add(PACKETS).pcap(), **query)
    assert answer.status_code == status and text in answer.json()["error"]["message"], answer.text


def test_payload_types_with_a_recording_are_refused(make_client):
    answer = posted(make_client(), wav_bytes(voice(1.0)), payload_types="96=opus/48000/2")
    assert answer.status_code == 400 and "expected a packet capture" in answer.json()["error"]["message"]
    with pytest.raises(ProtocolError, match="expected a packet capture"):
        Detector(Settings(), EchoRunner(2)).inspect(wav_bytes(voice(1.0)), payload_types="96=opus/48000/2")


def test_a_capture_without_rtp_says_what_it_has(make_client):
    data = Capture().datagram(0.0, b"hello").pcap()
    answer = posted(make_client(), data)
    assert answer.status_code == 422
    assert "got none in 1 packets" in answer.json()["error"]["message"]
    with pytest.raises(InvalidAudio, match="got none in 1 packets"):
        Detector(Settings(), EchoRunner(2)).inspect(data)


def test_streams_count_as_channels(make_client):
    data = Capture().add([one for ssrc in range(5) for one in sent(mulaw(TALK)[:20], ssrc=ssrc)]).pcap()
    assert posted(make_client(max_channels=5), data).status_code == 200
    answer = posted(make_client(max_channels=4), data)
    assert answer.status_code == 413 and answer.json()["error"]["detail"] == {"max_streams": 4}


def test_a_leg_may_not_be_longer_than_a_recording(make_client):
    answer = posted(make_client(max_duration_s=2.0), Capture().add(PACKETS).pcap())
    assert answer.status_code == 200
    assert [warning["code"] for warning in answer.json()["warnings"]] == ["leg_cut"]
    assert answer.json()["audio"]["duration_s"] == 2.0


def test_the_deadline_ends_a_capture(make_client):
    class Slow(EchoRunner):
        def run(self, features, state):
            time.sleep(0.3)
            return super().run(features, state)

    data = Capture().add(PACKETS).add(BACK).pcap()
    assert posted(make_client(Slow(2), upload_deadline_s=0.2), data).status_code == 504


def test_nothing_is_left_when_the_memory_does_not_suffice(make_client):
    client = make_client(max_upload_bytes=20_000)
    assert posted(client, Capture().add(PACKETS).pcap()).status_code == 413
    assert posted(client, Capture().add(PACKETS[:50]).pcap()).status_code == 200


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments], seams=Seams(make_runner=lambda _: EchoRunner(2)))


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    file = tmp_path / "call.pcap"
    file.write_bytes(Capture().add(GAPPED).add(BACK).pcap())
    return file


def test_the_table_has_a_row_for_each_stream(call, capsys):
    assert run("rtp", call, "--fail-on", "never") == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line[:2] in (" 0", " 1")}
    assert (
        rows["0"][1:8] == ["192.0.2.1:16384", "1234abcd", "PCMU", "0.00", "6.00", "s", "296"] and rows["0"][8] == "1.3"
    )
    assert rows["1"][3] == "PCMA" and rows["1"][8] == "0.0"
    assert "496 packets, 0 of them in no RTP stream; judged by" in out


def test_json_is_the_document_of_the_server(call, capsys, make_client):
    assert run("rtp", call, "--json", "--frames", "--fail-on", "never") == 0
    printed = json.loads(capsys.readouterr().out)
    served = posted(make_client(), call.read_bytes()).json()
    assert printed.pop("file") == str(call)
    for name in ("request_id", "timing"):
        del printed[name], served[name]
    assert_close(printed, served)
    assert run("rtp", call, "--json", "--fail-on", "never") == 0
    assert "frames" not in json.loads(capsys.readouterr().out)["channels"][0]


def test_wav_files_have_zeros_for_what_was_not_received(call, tmp_path, capsys):
    assert run("rtp", call, "--no-scores", "--out", tmp_path / "legs") == 0
    samples, rate_hz = soundfile.read(tmp_path / "legs" / "leg-0.wav", dtype="float32")
    expected = decode_mulaw(encode_mulaw(TALK))
    for i in GONE:
        expected[160 * i : 160 * i + 160] = 0.0
    assert rate_hz == 8000
    np.testing.assert_allclose(samples, expected, atol=2**-15)
    assert sorted(file.name for file in (tmp_path / "legs").iterdir()) == ["leg-0.wav", "leg-1.wav"]
    assert "–" in capsys.readouterr().out, "no verdict without scores"


def test_the_transport_can_be_measured_alone(call, capsys):
    assert run("rtp", call, "--no-scores", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"file", "warnings", "capture"}
    assert [stream["lost"] for stream in document["capture"]["streams"]] == [4, 0]


def test_exit_codes_of_rtp(call, tmp_path, capsys):
    recording = tmp_path / "talk.wav"
    recording.write_bytes(wav_bytes(voice(1.0)))
    assert run("rtp", tmp_path / "none.pcap") == 2
    assert run("rtp", recording) == 2 and "use speech-qc inspect" in capsys.readouterr().err
    assert run("rtp", call, "--frames") == 2
    profiles = tmp_path / "profiles.yaml"
    profiles.write_text("profiles:\n  default:\n    limits: {peak_dbfs: {fail_above: -199}}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHQC_PROFILES_PATH", str(profiles))
        assert run("rtp", call) == 1


def test_inspect_reads_a_capture_too(call, capsys):
    assert run("inspect", call, "--fail-on", "never", "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)["capture"]["streams"]) == 2


def test_too_many_streams_are_refused_by_programs_as_well(monkeypatch):
    monkeypatch.setattr("speech_qc.embedded.detector.MAX_STREAMS", 1)
    data = Capture().add([one for ssrc in range(3) for one in sent(mulaw(TALK)[:20], ssrc=ssrc)]).pcap()
    with pytest.raises(PayloadTooLarge, match="at most 2 RTP streams"):
        Detector(Settings(max_channels=2), EchoRunner(2)).inspect(data)
