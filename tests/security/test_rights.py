"""What a key may do: send, watch, administer; and what keys of earlier versions may do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from signals import voice, wav_bytes
from speech_qc.cli.options import KeyRight
from speech_qc.security.api_keys import make_key, read_keys, write_keys
from speech_qc.wire.vocabulary import Right

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
