"""The Python API: the same results as from a server, for every kind of input."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

import speech_qc
from closeness import assert_close
from signals import Float32, voice, wav_bytes, white_noise
from speech_qc import Inspection, Stream, StreamUpdate, inspect
from speech_qc.app import create_app
from speech_qc.audio.g711 import encode_mulaw
from speech_qc.embedded import detector as embedded_detector
from speech_qc.embedded.detector import Detector
from speech_qc.engine import EchoRunner, OnnxRunner
from speech_qc.errors import (
    ContractError,
    InferenceError,
    InvalidAudio,
    PayloadTooLarge,
    ProtocolError,
    SettingsError,
    UnsupportedFormat,
)
from speech_qc.results import Channel
from speech_qc.settings import Settings
from stream_material import converse, cut, frames_of, of_type, pcm16

TOLERANCE = 1e-4
ROOT = Path(__file__).resolve().parent.parent

Document = dict[str, Any]


def call(seconds: float = 4.0, rate_hz: int = 16_000, seed: int = 0) -> Float32:
    """Return speech with a loud second half and a gap, so that there are events and verdicts to compare."""
    samples = voice(seconds, rate_hz=rate_hz, seed=seed) + white_noise(
        seconds, level_dbfs=-50, rate_hz=rate_hz, seed=seed
    )
    half = len(samples) // 2
    samples[half:] += white_noise(seconds, level_dbfs=-18, rate_hz=rate_hz, seed=seed + 1)[half:]
    samples[half // 2 : half // 2 + rate_hz // 10] = 0.0
    return np.asarray(samples.clip(-1, 1), np.float32)


def stereo(seconds: float = 3.0, rate_hz: int = 16_000) -> Float32:
    return np.stack([call(seconds, rate_hz, seed=1), call(seconds, rate_hz, seed=2)], axis=1)


CALL = call()
WAV = wav_bytes(CALL)
RATE_HZ = 16_000


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Use the default settings, regardless of the machine's environment."""
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("SPEECHQC_")]:
            environment.delenv(name)
        return Settings(device="cpu")


@pytest.fixture(scope="module")
def detector(settings: Settings, shipped_runner: OnnxRunner) -> Detector:
    return Detector(settings, shipped_runner)


@pytest.fixture(autouse=True)
def model_of_this_process(monkeypatch: pytest.MonkeyPatch, detector: Detector) -> None:
    """Run on the CPU, like the server with which it is compared."""
    monkeypatch.setattr(embedded_detector, "_detector", detector)


@pytest.fixture(scope="module")
def server(settings: Settings, shipped_runner: OnnxRunner) -> Iterator[TestClient]:
    """One detector for all tests, because no test changes it."""
    with TestClient(create_app(settings, shipped_runner)) as client:
        yield client


def comparable(document: Document) -> Document:
    """Return a document without the values that differ between any two runs."""
    assert set(document) >= {"request_id", "timing"}
    return {name: value for name, value in document.items() if name not in ("request_id", "timing")}


def assert_same_frames(found: Document, expected: Document) -> None:
    assert list(found) == list(expected)
    for label, column in expected.items():
        a, b = np.array(found[label], float), np.array(column, float)  # None becomes NaN
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE, err_msg=label)


def assert_same_document(found: Document, expected: Document) -> None:
    """Compare frames to the tolerance, everything else exactly; only the names of values that differ between runs."""
    assert list(found) == list(expected)
    assert list(found["timing"]) == list(expected["timing"])
    found, expected = comparable(found), comparable(expected)
    for ours, theirs in zip(found["channels"], expected["channels"], strict=True):
        assert list(ours) == list(theirs)
        if "frames" in theirs:
            assert_same_frames(ours.pop("frames"), theirs.pop("frames"))
    assert found == expected


RECORDINGS: dict[str, Callable[[], bytes]] = {
    "WAV": lambda: WAV,
    "FLAC": lambda: wav_bytes(CALL, container="FLAC"),
    "stereo WAV": lambda: wav_bytes(stereo()),
    "stereo FLAC": lambda: wav_bytes(stereo(), container="FLAC"),
    "8 kHz": lambda: wav_bytes(call(3.0, 8_000), 8_000, subtype="ULAW"),
    "44.1 kHz float": lambda: wav_bytes(2.0 * call(3.0, 44_100), 44_100, subtype="FLOAT"),
}


@pytest.mark.parametrize(("recording", "query", "options"), [
    ("WAV", "", {}),
    ("FLAC", "", {}),
    ("stereo WAV", "", {}),
    ("stereo WAV", "channels=mix", {"channels": "mix"}),
    ("stereo FLAC", "channels=mix&explain=true", {"channels": "mix", "explain": True}),
    ("8 kHz", "", {}),
    ("44.1 kHz float", "", {}),
    ("WAV", "explain=true", {"explain": True}),
    ("WAV", "explain=true&frames=false", {"explain": True, "frames": False}),
    ("WAV", "frames=false&labels=tone,noise", {"frames": False, "labels": ("tone", "noise")}),
    ("WAV", "labels=noise&profile=broadcast", {"labels": "noise", "profile": "broadcast"}),
])  # fmt: skip
def test_a_recording_gets_the_document_of_the_server(server, tmp_path, recording, query, options):
    content = RECORDINGS[recording]()
    answer = server.post(f"/v1/inspect?{query}", content=content)
    assert answer.status_code == 200
    path = tmp_path / "call"
    path.write_bytes(content)

    found = inspect(path, **options)

    assert_same_document(found.to_dict(), answer.json())
    if options.get("explain"):
        evidence = [event.evidence for channel in found.channels for event in channel.events]
        assert evidence and None not in evidence


def as_path(path: Path) -> Any:
    return path


def as_bytes(path: Path) -> Any:
    return path.read_bytes()


class Body(io.RawIOBase):
    """The body of a response, as urllib3 and botocore have it: it can be read once, and says how far it was read."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)

    def tell(self) -> int:
        return self._content.tell()


class Readable:
    """An object that can only be read."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


SOURCES: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "bytes": as_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "memoryview in steps": lambda path: memoryview(np.frombuffer(path.read_bytes(), np.uint8).repeat(2).data)[::2],
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "file": lambda path: path.open("rb"),
    "file without buffer": lambda path: path.open("rb", buffering=0),
    "body of a response": lambda path: Body(path.read_bytes()),
    "object with read": lambda path: Readable(path.read_bytes()),
}


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
@pytest.mark.parametrize("kind", SOURCES)
def test_all_ways_to_pass_a_recording_give_one_answer(tmp_path, container, kind):
    path = tmp_path / "call.audio"
    path.write_bytes(wav_bytes(CALL[:16_000], container=container))
    source = SOURCES[kind](path)

    found = inspect(source)

    assert comparable(found.to_dict()) == comparable(inspect(path).to_dict())
    if hasattr(source, "close"):
        assert not source.closed, "whoever opened a file closes it"
        source.close()


INTEGERS = (stereo() * 32767).astype(np.int16)
ARRAYS: dict[str, tuple[Any, Any]] = {  # an array, and the samples of the file that it must equal
    "float32": (CALL, CALL),
    "float64": (CALL.astype(np.float64), CALL),
    "int16": (INTEGERS[:, 0], INTEGERS[:, 0]),
    "one column": (CALL[:, None], CALL),
    "two columns": (INTEGERS, INTEGERS),
    "transposed": (np.ascontiguousarray(INTEGERS.T).T, INTEGERS),
    "every second sample": (np.repeat(CALL, 2)[::2], CALL),
    "backwards": (CALL[::-1], np.ascontiguousarray(CALL[::-1])),
    "read-only": (np.frombuffer(CALL.tobytes(), np.float32), CALL),
    "a subclass": (np.ma.masked_array(INTEGERS), INTEGERS),
    "beyond full scale": (3 * CALL, 3 * CALL),
    "one sample": (CALL[5000:5001], CALL[5000:5001]),
}


@pytest.mark.parametrize("mode", ["split", "mix"])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_gets_the_answer_of_its_file(name, mode):
    samples, of_file = ARRAYS[name]
    subtype = "PCM_16" if of_file.dtype == np.int16 else "FLOAT"

    found = inspect(samples, RATE_HZ, channels=mode).to_dict()
    expected = inspect(wav_bytes(of_file, subtype=subtype), channels=mode).to_dict()

    assert found["audio"].pop("encoding") == f"array/{samples.dtype.name}"
    assert expected["audio"].pop("encoding") == f"wav/{subtype}"
    assert_same_document(found, expected)


@pytest.mark.parametrize("rate", [44_100, 44_100.0, np.int64(44_100), np.uint16(44_100), np.float64(44_100)])
def test_a_sample_rate_may_be_any_whole_number(rate):
    samples = call(1.0, 44_100)
    expected = comparable(inspect(samples, 44_100).to_dict())
    assert comparable(inspect(samples, rate).to_dict()) == expected
    stream = Stream(sample_rate=rate)
    stream.push(samples)
    stream.finish()
    whole = inspect(samples, 44_100).channels[0].summary
    assert_close(stream.result.channels[0].summary.model_dump(), whole.model_dump())


NAN = np.where(np.arange(16_000) == 9_000, np.nan, CALL[:16_000])
REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    ("missing.wav", {}, InvalidAudio, "'missing.wav'.*No such file"),
    (ROOT / "tests", {}, InvalidAudio, "'tests'.*directory"),
    ("", {}, InvalidAudio, "readable file"),
    ("a\0b", {}, InvalidAudio, "expected a readable file.*null byte"),
    ("\ud800.wav", {}, InvalidAudio, "expected a readable file.*surrogates"),
    (ROOT / "README.md", {}, UnsupportedFormat, "text.*WAV or FLAC"),
    (WAV[:30], {}, InvalidAudio, "upload the whole file"),
    (b"", {}, InvalidAudio, "expected the bytes of a recording, got none"),
    (np.zeros((0, 2)).data, {}, InvalidAudio, "got none"),
    (CALL.tobytes(), {}, UnsupportedFormat, "first bytes"),
    (WAV, {"sample_rate": 16_000}, ProtocolError, "header says its own: leave it out"),
    (io.StringIO("text"), {}, ProtocolError, "in text mode: open it with mode 'rb'"),
    (None, {}, ProtocolError, "got NoneType: convert it"),
    (3, {}, ProtocolError, "got int: convert it"),
    ([0.1, 0.2], {"sample_rate": 16_000}, ProtocolError, "got list: convert it .samples with numpy.asarray"),
    (CALL, {}, ProtocolError, "expected sample_rate=…"),
    (np.stack([CALL, CALL]), {"sample_rate": 16_000}, InvalidAudio, r"shape \(n, channels\), got \(2, .*samples.T"),
    (CALL[None], {"sample_rate": 16_000}, InvalidAudio, "transpose the array"),
    (np.zeros((1000, 9)), {"sample_rate": 16_000}, PayloadTooLarge, "8 channels"),
    (CALL[None, :, None], {"sample_rate": 16_000}, InvalidAudio, "got .*reshape them"),
    (np.array(1.0), {"sample_rate": 16_000}, InvalidAudio, "reshape them"),
    (CALL[:0], {"sample_rate": 16_000}, InvalidAudio, "got an empty array"),
    (np.zeros((5, 0)), {"sample_rate": 16_000}, InvalidAudio, "got an empty array"),
    (NAN, {"sample_rate": 16_000}, InvalidAudio, "found NaN or infinity"),
    (np.full(100, 1e300), {"sample_rate": 16_000}, InvalidAudio, "found NaN or infinity"),
    (CALL * 32768, {"sample_rate": 16_000}, InvalidAudio, "magnitude of .*32768"),
    (np.zeros(9, np.int32), {"sample_rate": 16_000}, InvalidAudio, "got int32: convert them"),
    (np.zeros(9, ">f4"), {"sample_rate": 16_000}, InvalidAudio, "got >f4: convert them"),
    (np.array([None]), {"sample_rate": 16_000}, InvalidAudio, "got object: convert them"),
    (CALL, {"sample_rate": 7_999}, InvalidAudio, "8000 to 192000 Hz"),
    (CALL, {"sample_rate": -16_000}, InvalidAudio, "8000 to 192000 Hz"),
    (CALL, {"sample_rate": 44_100.5}, ProtocolError, "sample_rate: expected a whole number, got 44100.5"),
    (CALL, {"sample_rate": math.nan}, ProtocolError, "sample_rate: expected a whole number"),
    (CALL, {"sample_rate": "16000"}, ProtocolError, "sample_rate: expected a whole number"),
    (CALL, {"sample_rate": True}, ProtocolError, "sample_rate: expected a whole number"),
    (WAV, {"labels": "hiss"}, ProtocolError, "speech, noise, .*'hiss'|'hiss'.*speech, noise, "),
    (WAV, {"labels": ["noise", "hiss"]}, ProtocolError, "'hiss'"),
    (WAV, {"labels": []}, ProtocolError, r"got \[\]: leave it out to get all labels"),
    (WAV, {"labels": ","}, ProtocolError, "leave it out"),
    (WAV, {"labels": [5]}, ProtocolError, r"expected names of labels, got \[5\]"),
    (WAV, {"labels": 5}, ProtocolError, "expected names of labels, got 5"),
    (WAV, {"labels": b"noise"}, ProtocolError, "expected names of labels, got b'noise'"),
    (WAV, {"profile": "studio"}, ProtocolError, "default.*'studio'"),
    (WAV, {"profile": ["default"]}, ProtocolError, "expected the name of a profile"),
    (WAV, {"channels": "both"}, ProtocolError, "channels: expected split, mix, or .* got 'both'"),
    (WAV, {"channels": 2}, ProtocolError, "got 2 and no encoding: add encoding="),
]


def said(value: object) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("source", "options", "kind", "message"), REFUSED, ids=said)
def test_what_cannot_be_inspected_is_refused_with_a_reason(source, options, kind, message):
    with pytest.raises(kind, match=message) as caught:
        inspect(source, **options)
    assert type(caught.value) is kind and isinstance(caught.value, speech_qc.SpeechQCError)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_file_opened_as_text_is_refused_before_it_is_read(tmp_path, encoding):
    path = tmp_path / "call.wav"
    path.write_bytes(WAV)
    with path.open(encoding=encoding) as file, pytest.raises(ProtocolError, match="mode 'rb'"):
        inspect(file)


def test_an_object_whose_read_gives_no_bytes_is_refused(tmp_path):
    path = tmp_path / "call.wav"
    path.write_bytes(WAV)
    with soundfile.SoundFile(path) as file, pytest.raises(ProtocolError, match="returned ndarray"):
        inspect(file)


def test_a_file_is_read_from_its_position_to_its_end():
    file = io.BytesIO(b"something before" + WAV)
    file.seek(len(b"something before"))
    assert inspect(file).audio.duration_s == 4.0
    with pytest.raises(InvalidAudio, match="rewind"):
        inspect(file)


@pytest.mark.parametrize("labels", ["tone, noise", ["tone", "noise"], ("noise", "tone"), {"noise", "tone"}])
def test_labels_come_in_the_order_of_the_model(labels):
    channel = inspect(WAV, labels=labels).channels[0]
    assert list(channel.frames) == ["noise", "tone"]
    assert {event.label for event in channel.events} == {"noise"}


def test_bounds_of_a_recording_hold_but_not_that_of_uploads(shipped_runner):
    small = Detector(Settings(max_upload_bytes=1024, max_duration_s=4.5), shipped_runner)
    assert small.inspect(WAV).audio.duration_s == 4.0
    for source in (wav_bytes(call(5.0)), call(5.0)):
        with pytest.raises(PayloadTooLarge, match=r"4\.5 s"):
            small.inspect(source, sample_rate=None if isinstance(source, bytes) else 16_000)


def test_a_result_has_arrays_and_a_document_of_plain_values():
    found = inspect(wav_bytes(stereo()))
    assert [channel.channel for channel in found.channels] == [0, 1]
    channel = found.channels[0]
    noise = channel.frames["noise"]
    assert noise.dtype == np.float32 and noise.shape == (found.audio.frames,) == (150,)
    assert found.frame_hop_s == 0.02
    assert np.isnan(channel.frames["snr_db"]).any(), "a measure has no value where there is no speech"
    assert channel.events and channel.events[0].offset_s is not None
    document = found.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert None in document["channels"][0]["frames"]["snr_db"]
    assert isinstance(found.document["channels"][0]["frames"]["noise"], np.ndarray)


def test_without_frames_nothing_else_changes():
    found, bare = inspect(WAV), inspect(WAV, frames=False)
    assert dict(bare.channels[0].frames) == {}
    assert "frames" not in bare.to_dict()["channels"][0]
    assert bare.channels[0].events == found.channels[0].events


def test_the_verdict_is_that_of_the_worst_channel():
    found = inspect(np.stack([white_noise(4.0, level_dbfs=-60), CALL], axis=1), RATE_HZ)
    assert [channel.verdict.status for channel in found.channels] == ["unknown", "fail"]
    assert found.verdict is found.channels[1].verdict


def test_results_can_be_pickled_and_printed_in_a_line():
    found = inspect(WAV)
    again: Inspection = pickle.loads(pickle.dumps(found))
    assert again.to_dict() == found.to_dict()
    with Stream() as stream:
        updates = stream.push(CALL)
    for thing in (found, *found.channels, stream.result, *updates):
        assert pickle.loads(pickle.dumps(thing)) is not None
        assert "\n" not in repr(thing) and len(repr(thing)) < 80
    assert isinstance(found.channels[0], Channel) and found.channels[0] != again.channels[0], "arrays have no one truth"


# Live audio.


def updates_of(stream: Stream, pieces: list[Any]) -> list[StreamUpdate]:
    updates = [update for piece in pieces for update in stream.push(piece)]
    return updates + stream.finish()


def columns_of(updates: list[StreamUpdate], channel: int = 0) -> dict[str, Float32]:
    """Return the scores of all updates by label; fail if an update does not continue the previous one."""
    columns = defaultdict(list)
    following = 0
    for update in updates:
        assert update.first_frame == following and update.start_s == round(0.02 * following, 3)
        for label, scores in update.channels[channel].items():
            columns[label].append(scores)
        following += len(next(iter(update.channels[channel].values())))
    return {label: np.concatenate(parts) for label, parts in columns.items()}


def pcm_in(encoding: str, samples: Float32) -> bytes:
    if encoding == "mulaw":
        return encode_mulaw(samples).tobytes()
    return samples.tobytes() if encoding == "float32" else pcm16(samples)


@pytest.mark.parametrize(("encoding", "rate_hz", "channels", "labels", "size"), [
    ("linear16", 16_000, 1, None, 641),
    ("linear16", 16_000, 2, "noise,tone", 3_333),
    ("mulaw", 8_000, 1, None, 160),
    ("float32", 44_100, 1, "noise,snr_db", 10_001),
])  # fmt: skip
def test_a_stream_gets_the_answer_of_the_websocket(server, encoding, rate_hz, channels, labels, size):
    samples = call(3.0, rate_hz) if channels == 1 else stereo(3.0, rate_hz)
    pieces = cut(pcm_in(encoding, samples), size)
    query = f"?encoding={encoding}&sample_rate={rate_hz}&channels={channels}" + (f"&labels={labels}" if labels else "")
    told = converse(server, pieces, query)
    summary = {**told[-2]}
    assert summary.pop("type") == "summary" and told[-1]["code"] == 1000

    stream = Stream(encoding=encoding, sample_rate=rate_hz, channels=channels, labels=labels)
    updates = updates_of(stream, pieces)

    for name in ("session_id", "session_name", "timing"):
        summary.pop(name)
    assert_close(stream.result.to_dict(), summary)
    for channel in range(channels):
        assert_same_frames(columns_of(updates, channel), frames_of(told, channel))
        news = [event for update in updates for event in update.events if event.channel == channel]
        ended = [event.model_dump(exclude_unset=True) for event in news if event.phase == "end"]
        theirs = [event for event in of_type(told, "event") if event["channel"] == channel]
        assert_close([{**event, "type": "event"} for event in ended], [e for e in theirs if e["phase"] == "end"])
        assert [(e.label, e.onset_s) for e in news if e.phase == "begin"] == [
            (e["label"], e["onset_s"]) for e in theirs if e["phase"] == "begin"
        ]
        assert ended


CUTS: dict[str, Callable[[Float32], list[Any]]] = {
    "one push": lambda samples: [pcm16(samples)],
    "odd bytes": lambda samples: cut(pcm16(samples), 999),
    "single bytes": lambda samples: [*cut(pcm16(samples)[:99], 1), pcm16(samples)[99:]],
    "bytearrays and views": lambda samples: [
        kind(piece) for kind, piece in zip(cycle([bytearray, memoryview]), cut(pcm16(samples), 7001), strict=False)
    ],
    "int16": lambda samples: [np.frombuffer(pcm16(samples), np.int16)],
    "floats": lambda samples: [
        np.frombuffer(piece, np.int16).astype(np.float64)[:, None] / 32768 for piece in cut(pcm16(samples), 1998)
    ],
    "bytes, then an array": lambda samples: [
        pcm16(samples)[:5001],
        pcm16(samples)[5001:10_000],
        np.frombuffer(pcm16(samples[5000:]), np.int16),
    ],
    "with nothing between": lambda samples: [b"", np.zeros(0, np.float32), pcm16(samples), bytearray()],
}


def summary_numbers(channel):
    """Return the numbers of a summary by name; scores of chunks and of a whole recording differ by rounding."""
    numbers = dict(vars(channel.summary))
    return numbers.pop("snr_by_kind_db") | {name: value for name, value in numbers.items() if name != "unknown"}


@pytest.mark.parametrize("way", CUTS)
def test_a_stream_gets_the_answer_of_its_recording_however_it_is_cut(way):
    samples = CALL[20_000:52_000]
    expected = inspect(np.frombuffer(pcm16(samples), np.int16), RATE_HZ)
    stream = Stream()
    updates = updates_of(stream, CUTS[way](samples))

    assert_same_frames(columns_of(updates), dict(expected.channels[0].frames))
    ours, theirs = stream.result.channels[0], expected.channels[0]
    for part in ("events", "levels", "verdict"):
        assert getattr(ours, part) == getattr(theirs, part), part
    assert summary_numbers(ours) == pytest.approx(summary_numbers(theirs), abs=1e-4)
    assert stream.result.profile == expected.profile == stream.result.to_dict()["profile"]
    assert stream.result.frames == expected.audio.frames and stream.result.duration_s == expected.audio.duration_s


def test_memory_that_was_pushed_may_be_used_again():
    expected, stream = Stream(), Stream()
    expected.push(CALL)
    expected.finish()
    memory = np.empty(777, np.float32)
    for start in range(0, len(CALL), 777):
        piece = CALL[start : start + 777]
        memory[: len(piece)] = piece
        stream.push(memory[: len(piece)])
        memory[:] = 0.5
    stream.finish()
    assert stream.result.to_dict() == expected.result.to_dict()


def test_the_columns_of_an_array_are_channels():
    both, left = Stream(channels=2), Stream()
    samples = stereo(2.0)
    frames = columns_of(updates_of(both, [samples[:9_999], samples[9_999:]]), 0)
    assert_same_frames(frames, columns_of(updates_of(left, [samples[:, 0]])))
    assert both.result.channels[0].summary == left.result.channels[0].summary


def test_scores_come_while_the_stream_lasts():
    with Stream() as stream:
        first = stream.push(CALL[:16_000])
        assert sum(len(update.channels[0]["noise"]) for update in first) > 40, "a second has 50 frames"
        rest = stream.push(CALL[16_000:]) + stream.finish()
    assert sum(len(update.channels[0]["noise"]) for update in first + rest) == stream.result.frames == 200
    assert "begin" in {event.phase for update in first + rest for event in update.events}


def test_no_audio_at_all_gives_an_unknown_verdict(server):
    with Stream(channels=2) as stream:
        pass
    summary = converse(server, [], "?channels=2")[-2]
    assert stream.result.verdict.status == "unknown"
    assert stream.result.to_dict()["channels"] == summary["channels"]
    assert (stream.result.frames, stream.result.duration_s) == (summary["frames"], summary["duration_s"]) == (0, 0.0)


def test_a_sample_that_was_cut_off_by_the_end_is_left_out_and_logged(caplog):
    with Stream() as stream:
        stream.push(pcm16(CALL)[:-1])
    assert stream.result.duration_s == round(3.9999375, 6)
    assert "the last 1 bytes were not scored" in caplog.text


def test_an_array_cannot_follow_a_part_of_a_sample():
    stream = Stream()
    stream.push(pcm16(CALL)[:9_999])
    with pytest.raises(ProtocolError, match="push those bytes first"):
        stream.push(CALL)
    stream.push(pcm16(CALL)[9_999:10_000])
    stream.push(CALL[5_000:])
    stream.finish()
    assert stream.result.duration_s == 4.0


def test_the_order_of_calls_is_checked():
    stream = Stream()
    with pytest.raises(RuntimeError, match=r"call finish\(\)"):
        _ = stream.result
    stream.push(CALL)
    assert stream.finish()
    result = stream.result
    assert stream.finish() == [] and stream.result is result
    with pytest.raises(RuntimeError, match="make a new Stream"):
        stream.push(CALL)


def test_an_error_in_the_block_passes_and_the_stream_may_still_be_finished():
    with pytest.raises(KeyError, match="mine"), Stream() as stream:
        stream.push(CALL)
        raise KeyError("mine")
    with pytest.raises(RuntimeError, match="not finished"):
        _ = stream.result
    stream.finish()
    assert stream.result.duration_s == 4.0


STEREO_NAN = np.stack([CALL, np.full(len(CALL), np.nan, np.float32)], axis=1)
UNFIT: list[tuple[Any, type[Exception], str]] = [
    (5, ProtocolError, "got int"),
    ("text", ProtocolError, "got str"),
    ([1, 2, 3], ProtocolError, "got list"),
    (None, ProtocolError, "got NoneType"),
    (CALL, InvalidAudio, r"shape \(n, 2\), got \(64000,\): give one column per channel"),
    (np.stack([CALL, CALL]), InvalidAudio, r"got \(2, 64000\): transpose the array"),
    (np.stack([CALL, 1000 * CALL], axis=1), InvalidAudio, "magnitude of .* divide them by 32768"),
    (STEREO_NAN, InvalidAudio, "found NaN or infinity"),
    (STEREO_NAN.tobytes(), InvalidAudio, "nan"),
    (np.stack([CALL, 1000 * CALL], axis=1).tobytes(), InvalidAudio, "magnitude of "),
    (np.zeros((9, 2), np.int32), InvalidAudio, "got int32"),
]


@pytest.mark.parametrize(("audio", "kind", "message"), UNFIT, ids=said)
def test_a_push_that_is_refused_takes_nothing_and_harms_nothing(audio, kind, message):
    samples, expected, stream = stereo(2.0), Stream(channels=2), Stream(channels=2, encoding="float32")
    expected.push(samples)
    expected.finish()
    stream.push(samples[:10_000].tobytes())
    with pytest.raises(kind, match=message):
        stream.push(audio)
    stream.push(samples[10_000:].tobytes())
    stream.finish()
    assert stream.result.to_dict() == expected.result.to_dict()


@pytest.mark.parametrize("pending", [1, 2, 3])
@pytest.mark.parametrize("trailing", [0, 1, 3])
def test_a_refused_push_keeps_the_bytes_of_a_sample_that_was_cut(pending, trailing):
    samples, expected, stream = voice(1.0), Stream(), Stream(encoding="float32")
    expected.push(samples)
    expected.finish()
    stored, at = samples.tobytes(), 4 * 5_000 + pending
    stream.push(stored[:at])
    unfit = stored[at : at + 4 - pending] + (1000 * CALL).tobytes()
    with pytest.raises(InvalidAudio, match="magnitude"):
        stream.push(unfit + unfit[:trailing])
    stream.push(stored[at:])
    stream.finish()
    assert stream.result.to_dict() == expected.result.to_dict()


@pytest.mark.parametrize(("options", "kind", "message"), [
    ({"sample_rate": 0}, InvalidAudio, "8000 to 192000"),
    ({"sample_rate": None}, ProtocolError, "sample_rate: expected a whole number"),
    ({"sample_rate": "16000"}, ProtocolError, "sample_rate: expected a whole number"),
    ({"channels": 0}, ProtocolError, "expected 1 to 64, got 0"),
    ({"channels": 65}, ProtocolError, "expected 1 to 64, got 65"),
    ({"channels": "2"}, ProtocolError, "channels: expected a whole number"),
    ({"encoding": "pcm"}, ProtocolError, "linear16, mulaw, alaw, float32, got 'pcm'"),
    ({"encoding": ["linear16"]}, ProtocolError, "linear16"),
    ({"labels": "hiss"}, ProtocolError, "'hiss'"),
    ({"profile": "studio"}, ProtocolError, "'studio'"),
])  # fmt: skip
def test_a_stream_with_an_impossible_option_is_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        Stream(**options)


class FailingRunner(EchoRunner):
    """A runner that fails at the n-th step."""

    def __init__(self, step: int) -> None:
        super().__init__(lookahead_frames=2)
        self.step = step

    def run(self, features: Float32, state: Float32) -> tuple[Float32, Float32]:
        self.step -= 1
        if self.step == 0:
            raise InferenceError("the device is gone")
        return super().run(features, state)


def test_a_stream_whose_model_failed_is_over():
    stream = Stream(detector=Detector(Settings(), FailingRunner(step=3)))
    with stream, pytest.raises(InferenceError, match="device is gone"):
        stream.push(CALL)
    for use in (lambda: stream.push(CALL), stream.finish, lambda: stream.result):
        with pytest.raises(RuntimeError, match="has failed before"):
            use()


def test_a_failure_of_the_model_ends_an_inspection():
    failing = Detector(Settings(), FailingRunner(step=1))
    with pytest.raises(InferenceError, match="device is gone"):
        failing.inspect(WAV)
    assert failing.inspect(WAV).audio.duration_s == 4.0, "the next one is a new one"


# Threads, processes, event loops.


def streamed(samples: Float32) -> Document:
    with Stream() as stream:
        for start in range(0, len(samples), 1601):
            stream.push(samples[start : start + 1601])
    return stream.result.to_dict()


@pytest.mark.slow
def test_ten_threads_get_the_answers_of_one():
    signals = [call(2.0, seed=seed) for seed in range(10)]
    expected = [(comparable(inspect(signal, RATE_HZ).to_dict()), streamed(signal)) for signal in signals]
    at_once = Barrier(10)

    def work(signal: Float32) -> list[tuple[Document, Document]]:
        at_once.wait(10)
        return [(comparable(inspect(signal, RATE_HZ).to_dict()), streamed(signal)) for _ in range(2)]

    with ThreadPoolExecutor(10) as pool:
        for found, right in zip(pool.map(work, signals), expected, strict=True):
            assert found == [right, right]


def test_one_stream_may_be_fed_from_several_threads():
    stream = Stream()
    with ThreadPoolExecutor(4) as pool:
        updates = [update for found in pool.map(stream.push, [CALL[:16_000]] * 8) for update in found]
    updates = sorted(updates + stream.finish(), key=lambda update: update.first_frame)
    assert sum(len(update.channels[0]["noise"]) for update in updates) == stream.result.frames == 400


def test_threads_that_come_first_at_the_same_time_load_one_model(monkeypatch, shipped_runner):
    loaded = []

    def load(settings: Settings) -> OnnxRunner:
        loaded.append(settings)
        return shipped_runner

    monkeypatch.setattr(embedded_detector, "_detector", None)
    monkeypatch.setattr(embedded_detector, "make_runner", load)
    at_once = Barrier(10)

    def work(_: int) -> float:
        at_once.wait(10)
        return inspect(CALL[:8_000], RATE_HZ).audio.duration_s

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(work, range(10))) == {0.5}
    assert len(loaded) == 1


def test_a_wrong_setting_is_named_and_the_next_call_tries_again(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded_detector, "_detector", None)
    monkeypatch.setenv("SPEECHQC_DEVICE", "cpu")
    monkeypatch.setenv("SPEECHQC_DEFAULT_PROFILE", "studio")
    with pytest.raises(SettingsError, match="SPEECHQC_DEFAULT_PROFILE='studio'"):
        inspect(WAV)
    monkeypatch.delenv("SPEECHQC_DEFAULT_PROFILE")
    monkeypatch.setenv("SPEECHQC_MODEL_PATH", str(tmp_path / "none.onnx"))
    with pytest.raises(ContractError, match="SPEECHQC_MODEL_PATH"):
        Stream()
    monkeypatch.delenv("SPEECHQC_MODEL_PATH")
    assert inspect(WAV).audio.duration_s == 4.0


def test_it_works_inside_a_running_event_loop():
    async def main() -> tuple[Inspection, Inspection]:
        return inspect(WAV), await asyncio.to_thread(inspect, WAV)

    here, in_thread = asyncio.run(main())
    assert comparable(here.to_dict()) == comparable(in_thread.to_dict())


def run_program(program: str, *arguments: object) -> str:
    """Run Python code in a separate process."""
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT / "service", capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout


USE = """
import sys, speech_qc
speech_qc.inspect(sys.argv[1], explain=True).to_dict()
with speech_qc.Stream() as stream:
    stream.push(bytes(32000))
stream.result.to_dict()
"""


@pytest.mark.slow
def test_using_it_loads_no_web_framework_and_starts_no_thread(sample_path):
    program = USE + "import threading; print(threading.active_count(), *sys.modules)"
    threads, *modules = run_program(program, sample_path).split()
    unwanted = {"fastapi", "starlette", "uvicorn", "websockets", "httpx", "prometheus_client", "typer", "torch"}
    assert threads == "1" and not unwanted & set(modules)


FORK = """
import multiprocessing, os, sys, threading, speech_qc
from speech_qc.embedded import detector
def noise(_):
    found = speech_qc.inspect(sys.argv[1])
    return os.getpid(), float(found.channels[0].frames["noise"].sum())
here = noise(0)[1]
detector._loading.acquire()  # as if another thread were loading at the moment of the fork
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(noise, range(4), chunksize=1).get(30)
detector._loading.release()
assert {value for _, value in found} == {here}, found
assert os.getpid() not in {process for process, _ in found}
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_loads_its_own_model(sample_path, monkeypatch):
    monkeypatch.setenv("SPEECHQC_DEVICE", "cpu")
    run_program(FORK, sample_path)


# The package.


def test_every_public_name_is_there_and_nothing_else_is_promised():
    assert dir(speech_qc) == sorted(speech_qc.__all__)
    for name in speech_qc.__all__:
        assert getattr(speech_qc, name) is not None
    assert speech_qc.errors.InvalidAudio is InvalidAudio
    with pytest.raises(AttributeError, match="no attribute 'inspector'"):
        _ = speech_qc.inspector


def test_every_public_callable_says_what_it_takes_gives_and_raises():
    assert all(word in str(inspect.__doc__) for word in ("Args:", "Returns:", "Raises:", "Example:"))
    assert all(word in str(Stream.__doc__) for word in ("Args:", "Raises:", "Example:"))
    for name in ("Channel", "Inspection", "StreamResult", "StreamUpdate"):
        assert "Attributes:" in getattr(speech_qc, name).__doc__
    assert (Path(speech_qc.__file__).parent / "py.typed").exists()
