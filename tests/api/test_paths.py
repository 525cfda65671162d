"""Paths with a trailing slash work; paths that do not exist get an answer that names the right one."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.testclient import WebSocketDenialResponse
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from live_server import serving, until_no_connection
from signals import voice, wav_bytes
from speech_qc.security.api_keys import make_key, write_keys
from stream_material import CLOSE, receive_all


@pytest.mark.parametrize("path", ["/health/live/", "/health/ready//", "/v1/model/", "/metrics/", "/docs/", "//"])
def test_a_trailing_slash_does_not_matter(make_client, path):
    assert make_client().get(path, follow_redirects=False).status_code == 200


def test_a_trailing_slash_does_not_matter_for_an_upload_and_a_stream(make_client):
    client = make_client()
    posted = client.post("/v1/inspect/?frames=false", content=wav_bytes(voice(0.5)), follow_redirects=False)
    assert posted.json()["audio"]["duration_s"] == 0.5
    with client.websocket_connect("/v1/stream/?sample_rate=8000") as session:
        session.send_text(CLOSE)
        messages = receive_all(session)
    assert messages[0]["sample_rate_hz"] == 8000
    assert messages[-1]["code"] == 1000
    counted = client.app.state.parts.metrics.registry
    assert counted.get_sample_value("speechqc_http_requests_total", {"route": "/v1/inspect", "status": "200"}) == 1


def test_a_trailing_slash_opens_no_way_around_the_keys(make_client, tmp_path):
    file = tmp_path / "keys.jsonl"
    write_keys(file, [make_key("a")[1]])
    client = make_client(api_keys_file=file)
    assert client.get("/v1/model/").status_code == client.get("/v1/model").status_code == 401
    assert client.get("/health/live/").status_code == 200


@pytest.mark.parametrize("path", ["/v1/streams", "/stream", "/", "/v1/inspect", "/v1/stream/x"])
def test_a_stream_at_an_unknown_path_is_refused_before_its_upgrade(make_client, path):
    with pytest.raises(WebSocketDenialResponse) as refused, make_client().websocket_connect(path):
        pass
    assert refused.value.status_code == 404
    error = json.loads(refused.value.content)["error"]
    assert error["code"] == "not_found"
    assert error["message"].startswith("expected a WebSocket to /v1/stream or /v1/telephony")
    assert f", got one to {path}: " in error["message"]


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/inspect", "did you mean /v1/inspect?"),
        ("/v1/Inspect", "did you mean /v1/inspect?"),
        ("/v1/models", "did you mean /v1/model?"),
        ("/healthz", "did you mean /health/"),
        ("/v1/stream", "open it as ws:// or wss://"),
        ("/v1/stream/", "open it as ws:// or wss://"),
        ("/nothing/like/it", "see GET /docs"),
        ("/" + "x" * 5000, "see GET /docs"),
    ],
)
def test_an_unknown_path_is_answered_with_the_nearest_one(make_client, path, hint):
    answer = make_client().get(path)
    assert answer.status_code == 404
    assert hint in answer.json()["error"]["message"]
    assert len(answer.content) < 500


def test_the_server_itself_refuses_such_a_stream_with_404():
    async def main() -> Response:
        async with serving() as (url, app):
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"{url}/v1/streams")
            await until_no_connection(app)
            return refused.value.response

    answer = asyncio.run(main())
    assert answer.status_code == 404
    assert json.loads(answer.body or b"")["error"]["code"] == "not_found"
