"""Key files and hashes, without a server."""

from __future__ import annotations

import json
import stat

import pytest

from speech_qc.admission.quotas import Quotas
from speech_qc.cli.main import main
from speech_qc.errors import Overloaded, SettingsError, Unauthorized
from speech_qc.security.api_keys import KeyRing, make_key, read_keys, write_keys
from speech_qc.security.bind_check import check_exposure, is_loopback
from speech_qc.security.caller import Caller
from speech_qc.settings import Settings, load_settings


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.jsonl"


def ring(file, clock, *, secret=b"s" * 16):
    return KeyRing(file, token_secret=secret, token_s=60, clock=clock, wall_clock=clock)


def test_the_file_holds_no_key_and_is_its_owners_alone(file):
    text, key = make_key("front desk")
    write_keys(file, [key])
    assert text not in file.read_text()
    assert text.rpartition("_")[2] not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(file) == [key]


def test_only_the_whole_key_opens(file, clock):
    text, key = make_key("a")
    write_keys(file, [key])
    keys = ring(file, clock)
    assert keys.check(text) == key
    for wrong in ("", "x", text[:-1], text + "A", text.upper(), text[:-1] + "~", "sqc_" + key.id, make_key("b")[0]):
        with pytest.raises(Unauthorized):
            keys.check(wrong)


def test_a_removed_key_is_refused_without_a_restart(file, clock):
    (first, one), (second, other) = make_key("a"), make_key("b")
    write_keys(file, [one, other])
    keys = ring(file, clock)
    keys.check(first)
    write_keys(file, [other])
    clock.now += 2
    with pytest.raises(Unauthorized):
        keys.check(first)
    keys.check(second)


def test_a_file_that_breaks_leaves_the_keys_as_they_were(file, clock):
    text, key = make_key("a")
    write_keys(file, [key])
    keys = ring(file, clock)
    file.write_text("{")
    clock.now += 2
    assert keys.check(text) == key


def test_a_token_stands_for_its_key_until_its_time_is_over(file, clock):
    text, key = make_key("a")
    write_keys(file, [key])
    keys = ring(file, clock)
    token = keys.make_token(key)
    assert keys.check_token(token) == key
    for wrong in (token[:-1] + ("0" if token[-1] != "0" else "1"), token.replace("_1060_", "_9999_"), text, ""):
        with pytest.raises(Unauthorized):
            keys.check_token(wrong)
    with pytest.raises(Unauthorized, match="not one of this server's"):
        ring(file, clock, secret=b"t" * 16).check_token(token)
    clock.now += 61
    with pytest.raises(Unauthorized, match="expired"):
        keys.check_token(token)


def test_a_token_goes_with_its_key(file, clock):
    _, key = make_key("a")
    write_keys(file, [key])
    keys = ring(file, clock)
    token = keys.make_token(key)
    write_keys(file, [make_key("b")[1]])
    clock.now += 2
    with pytest.raises(Unauthorized):
        keys.check_token(token)


@pytest.mark.parametrize("text", ["", "{", '{"id": "1"}', "not json", '{"id":"0123456789","name":"n","sha256":"z"}'])
def test_a_file_that_cannot_be_used_stops_the_start_with_what_is_wrong(file, clock, text):
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"keys add"):
        ring(file, clock)


def test_a_missing_file_stops_the_start(file, clock):
    with pytest.raises(SettingsError, match="keys add"):
        ring(file, clock)


def test_uploads_of_a_key_are_bounded_by_the_minute(clock):
    caller = Caller(make_key("a", uploads_per_minute=3)[1])
    quotas = Quotas(Settings(), clock=clock)
    for _ in range(3):
        with quotas.upload(caller):
            pass
    with pytest.raises(Overloaded) as refused, quotas.upload(caller):
        pass
    assert refused.value.detail["retry_after_s"] == 20
    clock.now += 20
    with quotas.upload(caller):
        pass
    with pytest.raises(Overloaded), quotas.upload(caller):
        pass
    with Quotas(Settings(), clock=clock).upload(Caller(make_key("b")[1])):
        pass


def test_uploads_of_a_key_at_the_same_time_are_bounded_and_one_refused_costs_none_of_its_minute(clock):
    quotas = Quotas(Settings(key_max_uploads=1), clock=clock)
    caller, other = Caller(make_key("a", uploads_per_minute=2)[1]), Caller(make_key("b")[1])
    with quotas.upload(caller):
        for _ in range(3):
            with pytest.raises(Overloaded, match="1 uploads at a time"), quotas.upload(caller):
                pass
        with quotas.upload(other):
            pass
    with quotas.upload(caller):
        pass


def test_streams_of_a_key_are_bounded_and_its_own_bound_wins(clock):
    quotas = Quotas(Settings(key_max_streams=1), clock=clock)
    plain, large = Caller(make_key("a")[1]), Caller(make_key("b", max_streams=3)[1])
    with quotas.stream(plain, 1), quotas.stream(large, 2):
        with pytest.raises(Overloaded), quotas.stream(plain, 1):
            pass
        with pytest.raises(Overloaded), quotas.stream(large, 2):
            pass
        with quotas.stream(large, 1):
            pass
    with quotas.stream(plain, 1):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_keys(host):
    assert is_loopback(host)
    check_exposure(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.com", "localhost.example.com"])
def test_other_addresses_need_keys_or_permission(host, tmp_path):
    with pytest.raises(SettingsError, match="SPEECHQC_ALLOW_ANONYMOUS"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, allow_anonymous=True))
    check_exposure(Settings(host=host, api_keys_file=tmp_path / "keys"))


def test_serve_refuses_to_serve_strangers_before_it_loads_a_model(capsys, tmp_path):
    assert main(["serve", "--host", "0.0.0.0", "--model", str(tmp_path / "none.onnx")]) == 2
    assert "SPEECHQC_ALLOW_ANONYMOUS" in capsys.readouterr().err


def test_serve_says_which_variables_set_nothing(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("SPEECHQC_API_KEY_FILE", "keys.jsonl")  # it is KEYS
    assert main(["serve", "--host", "0.0.0.0", "--model", str(tmp_path / "none.onnx")]) == 2
    assert "SPEECHQC_API_KEY_FILE is not a setting and has no effect" in caplog.text


def test_a_secret_that_is_too_short_is_not_repeated_in_the_message(monkeypatch):
    monkeypatch.setenv("SPEECHQC_TOKEN_SECRET", "hunter2")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "SPEECHQC_TOKEN_SECRET" in raised.value.message
    assert "hunter2" not in raised.value.message


def test_the_commands_add_list_and_remove(capsys, file, monkeypatch):
    monkeypatch.setenv("SPEECHQC_API_KEYS_FILE", str(file))
    assert main(["keys", "add", "desk", "--max-streams", "2"]) == 0
    text = capsys.readouterr().out.strip()
    assert main(["keys", "add", "ops", "--admin", "--uploads-per-minute", "9"]) == 0
    assert capsys.readouterr().out.strip() != text
    KeyRing(file, token_secret=b"s", token_s=1).check(text)
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "desk, 2 streams" in listed and "ops, admin, 9 uploads a minute" in listed
    assert text not in listed
    assert main(["keys", "remove", "nobody"]) == 2
    assert main(["keys", "remove", "desk"]) == 0
    assert [json.loads(line)["name"] for line in file.read_text().splitlines()] == ["ops"]
