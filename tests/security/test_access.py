"""Access control: keys, tokens, origins, lengths; over HTTP and WebSocket."""

from __future__ import annotations

import pytest
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from signals import voice, wav_bytes
from speech_qc.errors import SettingsError
from speech_qc.security.api_keys import make_key, write_keys
from stream_material import CLOSE, converse, of_type, receive, receive_all

SOUND = wav_bytes(voice(0.5))


@pytest.fixture
def keyed(tmp_path, make_client):
    """Return a function that creates a server with keys: the server, a plain key, an admin key."""

    def make(plain=None, **settings):
        file = tmp_path / "keys.jsonl"
        (text, key), (admin_text, admin) = make_key("plain", **(plain or {})), make_key("admin", admin=True)
        write_keys(file, [key, admin])
        return make_client(api_keys_file=file, **settings), text, admin_text

    return make


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def code_of(answer):
    return answer.status_code, answer.json()["error"]["code"]


def test_without_a_key_nothing_but_pages_health_and_metrics_is_served(keyed):
    client, _, _ = keyed()
    for route in client.get("/openapi.json").json()["paths"].items():
        path, methods = route
        for method in methods:
            answer = client.request(method, path, content=b"" if method == "post" else None)
            if path in ("/health/live", "/health/ready", "/metrics"):
                assert answer.status_code == 200, path
            else:
                assert code_of(answer) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    assert client.get("/").status_code == client.get("/docs").status_code == 200
    assert client.get("/no/such/path").status_code == 401
    for disguise in ("/health/../v1/model", "//v1/model", "/v1/model/", "/metrics/../v1/model", "/%2e/v1/model"):
        assert client.get(disguise).status_code in (401, 404), disguise


def test_health_and_metrics_are_closed_by_setting(keyed):
    client, key, _ = keyed(health_needs_key=True, metrics_needs_key=True)
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers=bearer(key)).status_code == 200


def test_a_key_opens_by_either_header(keyed):
    client, key, _ = keyed()
    assert client.post("/v1/inspect", content=SOUND, headers=bearer(key)).status_code == 200
    assert client.post("/v1/inspect", content=SOUND, headers={"X-API-Key": key}).status_code == 200
    assert client.get("/v1/model", headers={"Authorization": f"bearer  {key}"}).status_code == 200
    for wrong in ({"Authorization": f"Basic {key}"}, bearer(key[:-1]), {"X-API-Key": "é"}, bearer("")):
        encoded = {name: value.encode() for name, value in wrong.items()}
        assert client.get("/v1/model", headers=encoded).status_code == 401


def test_a_key_in_the_query_is_refused(keyed):
    client, key, _ = keyed()
    assert client.get(f"/v1/model?token={key}").status_code == 401
    error, close = converse(client, [], f"?token={key}", close=False)
    assert (error["error"]["code"], close["code"]) == ("unauthorized", 1008)
    assert "URLs are logged" in error["error"]["message"]
    assert key not in str(error)


def test_a_stream_without_a_key_is_told_and_closed_with_1008(keyed):
    client, _, _ = keyed()
    error, close = converse(client, [], close=False)
    assert (error["type"], error["error"]["code"], close["code"]) == ("error", "unauthorized", 1008)
    assert close["reason"] == "unauthorized: send a valid key"


def test_a_stream_opens_by_header_sub_protocol_or_token(keyed):
    client, key, _ = keyed()
    token = client.post("/v1/token", headers=bearer(key)).json()["token"]
    ways = [
        ({"headers": bearer(key)}, "", None),
        ({"headers": {"X-API-Key": key}}, "", None),
        ({"subprotocols": ["speechqc.v1", f"speechqc.key.{key}"]}, "", "speechqc.v1"),
        ({"subprotocols": [f"speechqc.key.{key}"]}, "", f"speechqc.key.{key}"),
        ({"subprotocols": ["speechqc.v1", f"speechqc.key.{token}"]}, "", "speechqc.v1"),
        ({}, f"?token={token}&session_name=%C3%A9%E2%82%AC", None),
    ]
    for options, query, protocol in ways:
        with client.websocket_connect(f"/v1/stream{query}", **options) as session:
            assert session.accepted_subprotocol == protocol
            ready = receive(session)
            assert ready["type"] == "ready"
            assert ready["session_name"] == ("é€" if query else None)
            session.send_text(CLOSE)
            assert receive_all(session)[-1]["code"] == 1000


def test_a_token_is_good_for_streams_and_nothing_else(keyed):
    client, key, admin = keyed()
    answer = client.post("/v1/token", headers=bearer(key))
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()["token"]
    admins = client.post("/v1/token", headers=bearer(admin)).json()["token"]
    for method, path, one in (
        ("GET", "/v1/model", token), ("POST", "/v1/inspect", token), ("POST", "/v1/token", token),
        ("POST", "/v1/model/reload", admins),
    ):  # fmt: skip
        assert code_of(client.request(method, path, headers=bearer(one))) == (401, "unauthorized"), path


def test_a_server_without_keys_has_no_tokens(make_client):
    assert code_of(make_client().post("/v1/token")) == (403, "forbidden")


def test_uploads_of_a_key_are_bounded_with_the_time_to_wait(keyed):
    client, key, admin = keyed({"uploads_per_minute": 2})
    answers = [client.post("/v1/inspect", content=SOUND, headers=bearer(key)) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert client.post("/v1/inspect", content=SOUND, headers=bearer(admin)).status_code == 200


def test_streams_of_a_key_are_bounded_and_come_back(keyed):
    client, key, _ = keyed({"max_streams": 1})
    with client.websocket_connect("/v1/stream", headers=bearer(key)) as session:
        assert receive(session)["type"] == "ready"
        with client.websocket_connect("/v1/stream", headers=bearer(key)) as second:
            error, close = receive_all(second)
        assert (error["error"]["code"], close["code"]) == ("overloaded", 1013)
        session.send_text(CLOSE)
        receive_all(session)
    with client.websocket_connect("/v1/stream", headers=bearer(key)) as session:
        assert receive(session)["type"] == "ready"
        session.send_text(CLOSE)
        receive_all(session)


def test_pages_of_strangers_can_neither_post_nor_open_sockets(make_client):
    client = make_client()
    evil = {"Origin": "https://evil.example"}
    assert code_of(client.post("/v1/inspect", content=SOUND, headers=evil)) == (403, "forbidden")
    assert code_of(client.post("/v1/inspect", content=SOUND, headers={"Origin": "null"})) == (403, "forbidden")
    assert client.get("/v1/model", headers=evil).status_code == 200  # the browser hides the response from the page
    assert "access-control-allow-origin" not in client.get("/v1/model", headers=evil).headers
    with (
        pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)),
        client.websocket_connect("/v1/stream", headers=evil),
    ):
        pass


def test_the_servers_own_pages_may_call(make_client):
    own = {"Origin": "http://testserver"}
    client = make_client()
    assert client.post("/v1/inspect", content=SOUND, headers=own).status_code == 200
    with client.websocket_connect("/v1/stream", headers=own) as session:
        assert receive(session)["type"] == "ready"
        session.send_text(CLOSE)
        receive_all(session)


def test_allowed_origins_may_call_and_read(keyed):
    client, key, _ = keyed(allowed_origins="https://app.example, https://b.example:8443/")
    origin = {"Origin": "https://app.example"}
    preflight = client.options("/v1/inspect", headers=origin | {
        "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"})  # fmt: skip
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    answer = client.post("/v1/inspect", content=SOUND, headers=origin | bearer(key))
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    refused = client.post("/v1/inspect", content=SOUND, headers=origin)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    other = {"Origin": "https://app.example.evil"}
    assert client.post("/v1/inspect", content=SOUND, headers=other | bearer(key)).status_code == 403


def test_a_wrong_origin_stops_the_start(make_client):
    with pytest.raises(SettingsError, match=r"ALLOWED_ORIGINS.*app\.example"):
        make_client(allowed_origins="app.example")


def test_a_long_query_is_refused(make_client):
    client = make_client(max_query_bytes=300)
    assert code_of(client.get("/v1/model?" + "a" * 301)) == (400, "protocol_error")
    error, close = converse(client, [], "?session_name=" + "a" * 300, close=False)
    assert (error["error"]["code"], close["code"]) == ("protocol_error", 1008)


def test_refusals_are_counted_and_no_key_is_in_the_log(keyed, caplog):
    client, key, _ = keyed()
    client.get("/v1/model", headers=bearer(key + "x"))
    client.get("/v1/model", headers=bearer(key))
    assert "unauthorized from testclient" in caplog.text, "who guesses keys can be found"
    assert 'speechqc_access_refusals_total{reason="unauthorized"} 1.0' in client.get("/metrics").text
    assert key not in caplog.text
    assert of_type([], "error") == []


def test_an_origin_that_is_no_address_is_refused(make_client):
    client = make_client()
    answer = client.post("/v1/inspect", content=b"", headers={"Origin": "http://[::1"})
    assert code_of(answer) == (403, "forbidden")


def test_what_a_key_may_have_no_more_of_is_counted(keyed):
    client, key, _ = keyed({"uploads_per_minute": 1, "max_streams": 1})
    sound = wav_bytes(voice(0.2))
    answers = [client.post("/v1/inspect", content=sound, headers=bearer(key)).status_code for _ in range(2)]
    assert answers == [200, 429]
    with client.websocket_connect("/v1/stream?channels=2", headers=bearer(key)) as session:
        error, close = receive_all(session)
    assert (error["error"]["code"], close["code"]) == ("overloaded", 1013)
    told = client.get("/metrics").text
    assert 'speechqc_refusals_total{reason="key"} 2.0' in told
    assert 'speechqc_uploads_total{outcome="overloaded"} 1.0' in told
    assert 'speechqc_streams_ended_total{outcome="overloaded"} 1.0' in told
