"""What a key may do: send, watch, administer; and what keys of earlier versions may do."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from signals import voice, wav_bytes
from speech_qc.cli.options import KeyRight
from speech_qc.security.access_policy import PAGES
from speech_qc.security.api_keys import make_key, read_keys, write_keys
from speech_qc.wire.vocabulary import HEALTH_PATHS, METRICS_PATHS, Right

ROOT = Path(__file__).resolve().parents[2]
SOUND = wav_bytes(voice(0.5))
KINDS: dict[str, dict] = {
    "send": {"rights": ["send"]},
    "watch": {"rights": ["watch"]},
    "both": {"rights": ["send", "watch"]},
    "admin": {"rights": ["admin"]},
    "old": {},
    "old admin": {"admin": True},
}
SENDS = {"send", "both", "admin", "old", "old admin"}
WATCHES = {"watch", "both", "admin", "old admin"}
ADMINISTERS = {"admin", "old admin"}
FOR_WATCHERS = {
    ("GET", "/v1/calls"), ("GET", "/v1/calls/{call_id:path}"), ("GET", "/v1/watch"),
    ("GET", "/v1/model"), ("POST", "/v1/token"),
}  # fmt: skip


@pytest.fixture
def keyed(tmp_path, make_client):
    made = {name: make_key(name, **options) for name, options in KINDS.items()}
    write_keys(tmp_path / "keys.jsonl", [key for _, key in made.values()])
    return make_client(api_keys_file=tmp_path / "keys.jsonl"), {name: text for name, (text, _) in made.items()}


@pytest.mark.parametrize("name", KINDS)
def test_a_key_may_do_what_its_rights_say(keyed, name):
    client, keys = keyed
    headers = {"Authorization": f"Bearer {keys[name]}"}

    def allowed(method, path, **options):
        answer = client.request(method, path, headers=headers, **options)
        refused = answer.status_code == 403
        assert not refused or answer.json()["error"]["code"] == "forbidden"
        return not refused

    assert allowed("POST", "/v1/inspect", content=SOUND) == (name in SENDS)
    for path in ("/v1/calls", "/v1/calls/", "/v1/calls/a", "/v1/calls/a/b"):
        assert allowed("GET", path) == (name in WATCHES), path
    assert allowed("GET", "/v1/watch?call=1&nonsense=1") == (name in WATCHES)
    assert allowed("DELETE", "/v1/calls/a") == (name in ADMINISTERS)
    assert allowed("POST", "/v1/model/reload") == (name in ADMINISTERS)
    assert allowed("GET", "/v1/model") and allowed("POST", "/v1/token")


@pytest.mark.parametrize("name", KINDS)
def test_a_token_has_the_rights_of_its_key(keyed, name):
    client, keys = keyed
    token = client.post("/v1/token", headers={"X-API-Key": keys[name]}).json()["token"]
    answer = client.get(f"/v1/watch?nonsense=1&token={token}")  # 400 for the option: the access check has passed
    assert answer.status_code == (400 if name in WATCHES else 403)
    assert client.get(f"/v1/calls?token={token}").status_code == 401
    try:
        with client.websocket_connect(f"/v1/stream?token={token}") as socket:
            opened = socket.receive_json()["type"] == "ready"
    except Exception as error:
        opened = False
        assert name not in SENDS, error
    assert opened == (name in SENDS)


def routes_of(client):
    """Return the HTTP routes that need a key, as method and path, and the paths of WebSockets."""
    http, sockets = set(), set()
    for mounted in client.app.routes:
        nested = getattr(mounted, "original_router", None)
        for route in [mounted] if nested is None else nested.routes:
            if isinstance(route, WebSocketRoute):
                sockets.add(route.path)
            elif route.path not in PAGES | HEALTH_PATHS | METRICS_PATHS:
                http |= {(method, route.path) for method in route.methods}
    return http, sockets


def why_closed(client, path, **options):
    """Return why the server closes a socket whose only message is nonsense: the access check comes first."""
    try:
        with client.websocket_connect(path, **options) as socket:
            socket.send_text("nonsense")
            while True:
                told = socket.receive()
                if told["type"] == "websocket.close":
                    return told["reason"].partition(":")[0]
    except WebSocketDisconnect as refused:  # before the upgrade was accepted
        return "forbidden" if refused.code == 1008 else refused.code


def test_a_key_or_token_that_may_only_watch_is_refused_on_every_other_path(keyed):
    client, keys = keyed
    key = keys["watch"]
    token = client.post("/v1/token", headers={"X-API-Key": key}).json()["token"]
    basic = base64.b64encode(f"asterisk:{key}".encode()).decode()
    http, sockets = routes_of(client)
    assert http > FOR_WATCHERS and sockets > {"/v1/stream", "/v1/telephony"}
    for method, path in sorted(http - FOR_WATCHERS):
        answer = client.request(method, path, headers={"Authorization": f"Bearer {key}"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), (method, path)
    ways: dict[str, dict] = {
        "Bearer": {"headers": {"Authorization": f"Bearer {key}"}},
        "Bearer token": {"headers": {"Authorization": f"Bearer {token}"}},
        "X-API-Key": {"headers": {"X-API-Key": key}},
        "sub-protocol": {"subprotocols": ["speechqc.v1", f"speechqc.key.{key}"]},
        f"?token={token}": {},
    }
    of_calls = ways | {f"?key={key}": {}, "Basic": {"headers": {"Authorization": f"Basic {basic}"}}}
    for path in sorted(sockets):
        for way, options in (of_calls if "telephony" in path else ways).items():
            query = way if way.startswith("?") else ""
            assert why_closed(client, path.format(vendor="twilio") + query, **options) == "forbidden", (path, way)


def test_a_key_never_stands_in_a_url(keyed):
    client, keys = keyed
    answer = client.get(f"/v1/watch?token={keys['watch']}")
    assert answer.status_code == 401 and "never a key" in answer.json()["error"]["message"]


def test_the_option_knows_all_rights():
    assert [one.value for one in KeyRight] == list(get_args(Right))


def test_without_keys_everything_is_allowed(make_client):
    client = make_client()
    assert client.get("/v1/calls").status_code == 200
    assert client.delete("/v1/calls/a").status_code == 404


def test_the_command_writes_rights_and_the_file_of_an_earlier_version_is_read(tmp_path):
    file = tmp_path / "keys.jsonl"
    _, old = make_key("old")
    file.write_text(json.dumps({"id": old.id, "name": "old", "sha256": old.sha256}) + "\n")
    words = [sys.executable, "-m", "speech_qc", "keys"]
    add = ["add", "wall", "--file", str(file), "--right", "watch", "--right", "send"]
    subprocess.run([*words, *add], cwd=ROOT, check=True, capture_output=True)
    first, second = read_keys(file)
    assert first.rights is None and first.may("send") and not first.may("watch")
    assert second.rights == ("watch", "send") and not second.may("admin")
    shown = subprocess.run([*words, "list", "--file", str(file)], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "wall, may watch and send" in shown.stdout
    wrong = subprocess.run([*words, "add", "x", "--file", str(file), "--right", "fly"], cwd=ROOT, capture_output=True)
    assert wrong.returncode == 2
