"""Each kind of bad input gets its own error: a status, a code and a message that says what to do; never a 500."""

import struct

import numpy as np
import pytest

from signals import voice, wav_bytes, white_noise


def header(*, channels=1, rate_hz=16_000, bits=16, tag=1, data_bytes=0, riff_bytes=36) -> bytes:
    align = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, min(rate_hz * align, 2**32 - 1), align, bits)
    return (
        b"RIFF" + struct.pack("<I", riff_bytes) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", data_bytes)
    )


def rf64(data_bytes: int) -> bytes:
    ds64 = struct.pack("<QQQI", data_bytes + 72, data_bytes, data_bytes // 2, 0)
    form = struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16)
    return (
        b"RF64\xff\xff\xff\xffWAVEds64"
        + struct.pack("<I", 28)
        + ds64
        + b"fmt \x10\0\0\0"
        + form
        + b"data\xff\xff\xff\xff"
    )


SECOND = voice(1.0)
WITH_NAN = SECOND.copy()
WITH_NAN[1234] = np.nan
WITH_INFINITY = SECOND.copy()
WITH_INFINITY[4321] = -np.inf

BODIES = {
    "empty body": (b"", 422, "invalid_audio", "empty"),
    "text with a WAV name": (b"this is only text, not audio at all", 415, "unsupported_format", "text"),
    "one byte": (b"R", 415, "unsupported_format", "first bytes"),
    "a JPEG": (b"\xff\xd8\xff\xe0" + bytes(100), 415, "unsupported_format", "first bytes"),
    "truncated header": (wav_bytes(SECOND)[:30], 422, "invalid_audio", "header"),
    "header only": (header(), 422, "invalid_audio", "header only"),
    "header only, length open": (header(data_bytes=0xFFFFFFFF), 422, "invalid_audio", "header only"),
    "zero channels": (header(channels=0, data_bytes=4) + bytes(4), 422, "invalid_audio", "one channel or more"),
    "nine channels": (wav_bytes(np.zeros((99, 9), np.float32)), 413, "payload_too_large", "at most 8 channels"),
    "1 Hz": (header(rate_hz=1, data_bytes=4) + bytes(4), 422, "invalid_audio", "8000 to 192000 Hz"),
    "10 MHz": (header(rate_hz=10_000_000, data_bytes=4) + bytes(4), 422, "invalid_audio", "8000 to 192000 Hz"),
    "NaN": (wav_bytes(WITH_NAN, subtype="FLOAT"), 422, "invalid_audio", "1234"),
    "infinity": (wav_bytes(WITH_INFINITY, subtype="FLOAT"), 422, "invalid_audio", "4321"),
    "integers as floats": (wav_bytes(SECOND * 32_768, subtype="FLOAT"), 422, "invalid_audio", "divide by 32768"),
    "the largest float": (
        wav_bytes(np.full(8_000, 3e38, np.float32), subtype="FLOAT"), 422, "invalid_audio", "expected float samples",
    ),
    "broken FLAC": (wav_bytes(SECOND, container="FLAC")[:200] + bytes(5000), 422, "invalid_audio", ""),
    "unknown codec in WAV": (header(tag=0x1234, data_bytes=4) + bytes(4), 415, "unsupported_format", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def client():
    from fastapi.testclient import TestClient

    from speech_qc.app import create_app
    from speech_qc.engine import EchoRunner
    from speech_qc.settings import Settings

    with TestClient(create_app(Settings(), EchoRunner()), raise_server_exceptions=False) as client:
        yield client


def assert_error(answer, status, code, hint=""):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "detail", "request_id"}
    assert error["code"] == code
    assert hint.lower() in error["message"].lower()
    assert error["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("name", BODIES)
def test_bad_bytes_get_their_own_error(client, name):
    body, status, code, hint = BODIES[name]
    assert_error(client.post("/v1/inspect", content=body, headers={"content-type": "audio/wav"}), status, code, hint)


@pytest.mark.parametrize("name", BODIES)
def test_bad_bytes_in_a_form_get_the_same_error(client, name):
    body, status, code, hint = BODIES[name]
    assert_error(client.post("/v1/inspect", files={"file": ("a.wav", body)}), status, code, hint)


def test_5_gb_declared_by_the_request_are_refused_before_they_are_read(client):
    def body():
        yield b"RIFF"
        raise AssertionError("the server read on")

    answer = client.post("/v1/inspect", content=b"RIFF", headers={"content-length": str(5 * 10**9)})
    assert_error(answer, 413, "payload_too_large", "at most 536870912 bytes")


def test_a_body_above_the_limit_is_refused_though_it_declares_nothing(make_client):
    def body():
        yield header(data_bytes=0xFFFFFFFF)
        for _ in range(40):
            yield bytes(10_000)

    answer = make_client(max_upload_bytes=100_000).post("/v1/inspect", content=body())
    assert_error(answer, 413, "payload_too_large", "at most 100000 bytes")


def test_an_over_long_recording_is_refused(make_client):
    answer = make_client(max_duration_s=2.0).post("/v1/inspect", content=wav_bytes(white_noise(2.1)))
    assert_error(answer, 413, "payload_too_large", "at most 2 s")


def test_an_over_long_recording_of_unknown_length_is_refused(make_client):
    body = header(data_bytes=0xFFFFFFFF) + bytes(2 * 16_000 * 3)
    assert_error(make_client(max_duration_s=2.0).post("/v1/inspect", content=body), 413, "payload_too_large", "2 s")


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("format=docx", "'webvtt'"),
        ("profile=strictest", "callcenter"),
        ("labels=noise,humming", "humming"),
        ("channels=left", "split, mix"),
        ("frames=perhaps", "frames"),
    ],
)
def test_unknown_options_are_named_and_the_known_ones_listed(client, query, hint):
    answer = client.post(f"/v1/inspect?{query}", content=wav_bytes(SECOND))
    assert_error(answer, 400, "protocol_error", hint)


def test_two_recordings_in_one_form_are_refused(client):
    files = [("file", ("a.wav", wav_bytes(SECOND))), ("file", ("b.wav", wav_bytes(SECOND)))]
    assert_error(client.post("/v1/inspect", files=files), 400, "protocol_error", "one recording per request")


@pytest.mark.parametrize(
    ("content_type", "body", "hint"),
    [
        ("multipart/form-data", b"x", "boundary"),
        ("multipart/form-data; boundary=b", b"no boundary here", "malformed"),
        ("multipart/form-data; boundary=b", b"", "named 'file'"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + wav_bytes(SECOND),
            "closing boundary",
        ),
    ],
)
def test_a_malformed_form_is_refused(client, content_type, body, hint):
    answer = client.post("/v1/inspect", content=body, headers={"content-type": content_type})
    assert_error(answer, 400, "protocol_error", hint)


def test_unknown_paths_and_methods_have_the_same_error_body(client):
    assert_error(client.get("/v2/inspect"), 404, "not_found", "/docs")
    wrong = client.get("/v1/inspect")
    assert_error(wrong, 405, "method_not_allowed", "POST")
    assert wrong.headers["allow"] == "POST"


def test_more_uploads_than_places_get_429_with_a_time_to_retry(make_client):
    client = make_client(max_uploads=1)
    client.app.state.parts.uploads.taken = 1  # one is in progress
    answer = client.post("/v1/inspect", content=wav_bytes(SECOND))
    assert_error(answer, 429, "overloaded", "try again")
    assert int(answer.headers["retry-after"]) > 0


def test_no_error_keeps_a_place_or_writes_a_file(client, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for body, *_ in BODIES.values():
        client.post("/v1/inspect", content=body)
        client.post("/v1/inspect", files={"file": ("a.wav", body)})
    client.post("/v1/inspect", files={"file": ("a.wav", wav_bytes(white_noise(120.0)))})  # 3.8 MB, forms spool at 1 MB

    assert list(tmp_path.iterdir()) == []
    parts = client.app.state.parts
    assert parts.uploads.taken == 0
    assert parts.engine.status.sessions == 0
