"""Options of `POST /v1/inspect`, in the query and in form fields: none is ignored, whatever its name and place."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from fastapi.testclient import TestClient

from live_server import open_to, serving
from signals import voice, wav_bytes
from speech_qc.api.inspect_options import NAMES
from speech_qc.app import create_app
from speech_qc.engine import EchoRunner
from speech_qc.live.options import KNOWN
from speech_qc.settings import Settings
from speech_qc.wire.option_names import nearest_name
from stream_material import converse

RECORDING = wav_bytes(voice(0.6))
FILE = ("file", RECORDING, "a.wav")
Part = tuple[str, str | bytes] | tuple[str, bytes, str]


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(Settings(), EchoRunner()), raise_server_exceptions=False) as client:
        yield client


def form(*parts: Part) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a form with these parts in this order: name, content and perhaps a file name."""
    body = b""
    for name, content, *file in parts:
        mark = f'; filename="{file[0]}"' if file else ""
        data = content.encode() if isinstance(content, str) else content
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"{mark}\r\n\r\n'.encode() + data + b"\r\n"
    return body + b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}


def post(client: TestClient, *parts: Part, query: str = ""):
    body, headers = form(*parts)
    return client.post(f"/v1/inspect{query}", content=body, headers=headers)


def message(answer) -> str:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "protocol_error"
    return error["message"]


@pytest.mark.parametrize(
    ("query", "hint"),
    [
        ("profil=dataset", "did you mean 'profile'?"),
        ("Profile=dataset", "did you mean 'profile'?"),
        ("channel=mix", "did you mean 'channels'?"),
        ("profile=dataset&lables=noise", "'lables': did you mean 'labels'?"),
        ("xyz=1", "'xyz': correct it, or leave it out"),
        ("=1", "''"),
        ("profile=dataset&profile=dataset", "profile more than once"),
        ("labels=noise&labels=music", "labels more than once"),
        ("a" * 500 + "=1", "'" + "a" * 64 + "'"),
    ],
)
def test_an_unknown_or_repeated_option_of_the_query_gets_400(client, query, hint):
    assert hint in message(client.post(f"/v1/inspect?{query}", content=RECORDING))


def test_all_unknown_names_and_their_nearest_ones_are_in_the_detail(client):
    error = client.post("/v1/inspect?profil=a&fromat=b&q=c", content=RECORDING).json()["error"]
    assert error["detail"] == {
        "unknown": ["fromat", "profil", "q"],
        "known": list(NAMES),
        "nearest": {"fromat": "format", "profil": "profile"},
    }
    assert "did you mean 'format' and 'profile'?" in error["message"]


def test_a_stream_refuses_them_in_the_same_words(client):
    error, close = converse(client, [], "?profil=dataset", close=False)
    assert "did you mean 'profile'?" in error["error"]["message"]
    assert close["code"] == 1008
    assert nearest_name("rate", KNOWN) == nearest_name("sampleRate", KNOWN) == "sample_rate"


def test_options_may_be_form_fields_before_the_file(client):
    for order in itertools.permutations([("profile", "dataset"), ("frames", "false"), ("labels", "speech,noise")]):
        body = post(client, *order, FILE).json()
        assert body["profile"] == "dataset"
        assert "frames" not in body["channels"][0]
    track = post(client, ("format", "csv"), FILE)
    assert track.text.startswith("channel,event_id")


def test_every_option_may_be_a_form_field(client):
    by_query = client.post("/v1/inspect?channels=mix&explain=true&labels=speech", content=RECORDING).json()
    by_form = post(client, ("channels", "mix"), ("explain", "true"), ("labels", "speech"), FILE).json()
    for answer in (by_query, by_form):
        del answer["request_id"], answer["timing"]
    assert by_form == by_query
    document = client.get("/openapi.json").json()
    operation = document["paths"]["/v1/inspect"]["post"]
    assert [one["name"] for one in operation["parameters"]] == list(NAMES)
    assert all(one["description"] and one["required"] is False for one in operation["parameters"])
    fields = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert set(fields) == {*NAMES, "file"}


@pytest.mark.parametrize(
    ("parts", "query", "hint"),
    [
        ([("profil", "dataset"), FILE], "", "'profil': did you mean 'profile'?"),
        ([("flie", "x")], "", "did you mean 'file'?"),
        ([("profile", "dataset"), ("profile", "dataset"), FILE], "", "profile more than once"),
        ([("profile", "strictest"), FILE], "", "expected profile to be one of"),
        ([("frames", "perhaps"), FILE], "", "frames: input should be a valid boolean"),
        ([FILE, ("profile", "dataset")], "", "expected 'profile' before the part 'file'"),
        ([FILE, ("profil", "dataset")], "", "did you mean 'profile'?"),
        ([("profile", "dataset"), FILE], "?profile=default", "got 'default' in the query and 'dataset' in the form"),
        ([("labels", "x" * 5000), FILE], "", "at most 4096 bytes"),
        ([("profile", b"dataset", "profile.txt"), FILE], "", "got a file named 'profile'"),
        ([("profile", "dataset")], "", "got 'profile': add it"),
        ([], "", "got none: add it"),
    ],
)
def test_a_form_field_that_cannot_be_used_gets_400(client, parts, query, hint):
    assert hint in message(post(client, *parts, query=query))


def test_an_option_may_be_in_both_places_with_one_value(client):
    assert post(client, ("profile", "dataset"), FILE, query="?profile=dataset").json()["profile"] == "dataset"


@pytest.mark.parametrize("size", [100, 60_000, 70_000, 3_000_000])
def test_a_recording_in_another_part_is_refused_at_any_size(client, size):
    said = message(post(client, ("audio", RECORDING + bytes(size), "a.wav")))
    assert "in a part named 'file'" in said
    assert "got a file named 'audio'" in said
    assert "'audio'" in message(post(client, ("audio", RECORDING + bytes(size))))  # without a file name


def test_a_recording_in_another_part_is_refused_before_it_has_arrived():
    head = b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="audio"; filename="a.wav"\r\n\r\nRIFF'

    async def main() -> bytes:
        async with serving() as (url, _), asyncio.timeout(5):
            reader, writer = await open_to(url)
            writer.write(head + part)
            answer = await reader.readuntil(b"rename that part")
            writer.close()
            return answer

    assert asyncio.run(main()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("query", "profile"), [("", "default"), ("?profile=", "default"), ("?profile=dataset", "dataset")]
)
def test_the_answer_names_the_profile_that_judged(client, query, profile):
    assert client.post(f"/v1/inspect{query}", content=RECORDING).json()["profile"] == profile
    assert converse(client, [], query)[-2]["profile"] == profile


def test_the_summary_names_the_profile_that_was_configured_last(client):
    summary = converse(client, ['{"type":"Configure","profile":"broadcast"}'], "?profile=dataset")[-2]
    assert summary["type"] == "summary"
    assert summary["profile"] == "broadcast"
