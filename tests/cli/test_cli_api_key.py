"""Clients that send a key from a file or the environment: the Python class and the commands."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cli_material import noise, write

from live_server import serving
from speech_qc.capacity import trial as trials
from speech_qc.capacity.host import started_server
from speech_qc.cli.main import main
from speech_qc.cli.options import InspectCommand
from speech_qc.cli.stream import StreamCommand
from speech_qc.client.credentials import bearer, find_api_key
from speech_qc.client.stream import StreamClient, StreamClosed
from speech_qc.security.api_keys import make_key, write_keys
from speech_qc.settings import Settings, unknown_variables


@pytest.fixture
def place(workplace, monkeypatch):
    """Return a key; the folder has a recording, a keys file, and the key in a file."""
    monkeypatch.delenv("SPEECHQC_API_KEY", raising=False)
    write(Path("talk.wav"), noise(1.0))
    text, key = make_key("desk")
    write_keys(Path("keys.jsonl"), [key])
    Path("key").write_text(text + "\n")
    return text


def against(*words: str, url_of=str) -> int:
    """Run a command against a server with keys."""

    async def both() -> int:
        async with serving(api_keys_file=Path("keys.jsonl"), metrics_needs_key=True, health_needs_key=True) as (url, _):
            return await asyncio.to_thread(main, [*words, "--url", url_of(url)])

    return asyncio.run(both())


def http(url: str) -> str:
    return url.replace("ws://", "http://")


COMMANDS = {
    "inspect": (("inspect", "talk.wav", "-f", "jsonl", "--fail-on", "never"), http),
    "stream": (("stream", "talk.wav", "--fast", "--json", "--fail-on", "never"), str),
    "capacity": (("capacity", "--max", "2", "--seconds", "1", "--p99-ms", "5000", "--json"), http),
}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(trials, "SETTLE_S", 0.1)
    monkeypatch.setattr(trials, "CLOSE_S", 2.0)
    monkeypatch.setattr(trials, "ramp_s", lambda _: 0.1)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "capacity" else name for name in COMMANDS]
)
def test_a_command_sends_the_key_of_the_file_and_of_the_environment(place, monkeypatch, capsys, name):
    words, address = COMMANDS[name]
    assert against(*words, "--api-key-file", "key", url_of=address) == 0
    monkeypatch.setenv("SPEECHQC_API_KEY", place)
    assert against(*words, url_of=address) == 0
    captured = capsys.readouterr()
    assert place not in captured.out + captured.err


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_key_a_command_says_how_to_give_one(place, capsys, name):
    words, address = COMMANDS[name]
    assert against(*words, url_of=address) == 2
    told = capsys.readouterr().err
    assert "--api-key-file" in told and "SPEECHQC_API_KEY" in told


def test_the_file_outweighs_the_environment(place, monkeypatch):
    monkeypatch.setenv("SPEECHQC_API_KEY", "sqc_stale")
    words, address = COMMANDS["inspect"]
    assert against(*words, "--api-key-file", "key", url_of=address) == 0


def test_a_key_comes_through_a_pipe_which_can_be_read_once(place):
    reading, writing = os.pipe()

    def feed() -> None:
        os.write(writing, place.encode())
        os.close(writing)

    feeding = threading.Thread(target=feed)
    feeding.start()
    words, address = COMMANDS["inspect"]
    try:
        assert against(*words, "--api-key-file", f"/dev/fd/{reading}", url_of=address) == 0
    finally:
        feeding.join()
        os.close(reading)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read it"),
        (b" \n", "it is empty"),
        (b"sqc_1 sqc_2", "expected one key"),
        (b"sqc_1\r\nX-Evil: 1", "expected one key"),
        ("sqc_é".encode(), "expected one key"),
        (b"\xff\xfe", "a file that is not text"),
    ],
)
def test_a_file_that_holds_no_key_is_told_before_anything_is_sent(place, capsys, content, told):
    if content is not None:
        Path("wrong").write_bytes(content)
    for words, _ in COMMANDS.values():
        assert main([*words, "--url", "http://127.0.0.1:9", "--api-key-file", "wrong"]) == 2
        said = capsys.readouterr().err
        assert told in said and "wrong" in said and "sqc_" not in said


def test_a_key_without_a_server_to_send_it_to_is_an_error(place, capsys):
    for command in (["inspect", "talk.wav"], ["capacity"]):
        assert main([*command, "--api-key-file", "key"]) == 2
        assert "set one with --url" in capsys.readouterr().err


def test_the_class_opens_streams_with_a_key_and_is_told_without(place):
    async def main() -> None:
        async with serving(api_keys_file=Path("keys.jsonl")) as (url, _):
            async with StreamClient.connect(url, api_key=place) as stream:
                await stream.send(noise(0.5))
                assert (await stream.close()).frames == 25
            with pytest.raises(StreamClosed) as caught:
                await StreamClient.connect(url)
            assert caught.value.error is not None
            assert (caught.value.code, caught.value.error.error.code) == (1008, "unauthorized")

    asyncio.run(main())


def test_a_key_that_would_break_the_head_is_refused_without_being_repeated():
    for wrong in ("", "a b", "a\r\nX: y", "ключ"):
        with pytest.raises(ValueError, match="the API key") as caught:
            StreamClient.connect("ws://127.0.0.1:9", api_key=wrong)
        assert not wrong or wrong not in str(caught.value)
    assert bearer(None) == {}


@pytest.mark.slow
def test_no_option_takes_the_key_itself_and_no_process_has_it_in_its_arguments(place):
    """`capacity` passes the key to its client processes through a pipe."""

    async def main() -> list[str]:
        async with serving(api_keys_file=Path("keys.jsonl")) as (url, _):
            environment = os.environ | {
                "SPEECHQC_API_KEY": place,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            }
            words = ["capacity", "--url", http(url), "--max", "1", "--seconds", "1", "--p99-ms", "5000"]
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "speech_qc", *words, env=environment,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            seen: set[str] = set()
            while running.returncode is None:
                seen |= await asyncio.to_thread(command_lines)
                await asyncio.sleep(0.1)
            assert running.returncode == 0
            return sorted(seen)

    if not Path("/proc/self/cmdline").exists():
        pytest.skip("this system does not show the arguments of other processes")
    seen = asyncio.run(main())
    assert any("speech_qc.capacity.load" in line for line in seen), "the clients were seen"
    assert not any(place in line for line in seen)


def command_lines() -> set[str]:
    """Return the command lines of all visible processes."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has just exited
    return found


def test_the_variable_is_no_misspelt_setting_and_nothing_of_the_server(place):
    assert unknown_variables({"SPEECHQC_API_KEY": place}) == []
    assert "api_key" not in Settings.model_fields
    assert find_api_key(None, {"SPEECHQC_API_KEY": "  "}) is None


def test_commands_hold_where_a_key_is_and_not_the_key(place):
    for command in (InspectCommand(["talk.wav"], api_key_file=Path("key")), StreamCommand("-", "ws://x")):
        assert place not in repr(command)


@pytest.mark.slow
def test_the_server_that_capacity_starts_has_a_key_where_the_settings_name_keys(place, monkeypatch):
    monkeypatch.setenv("SPEECHQC_API_KEYS_FILE", str(Path("keys.jsonl").absolute()))
    monkeypatch.setenv("SPEECHQC_KEY_MAX_STREAMS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    with started_server(4, max_batch="1", device="cpu") as host:
        assert host.api_key is not None and host.model()["model"]["name"]
        host.api_key = None
        with pytest.raises(Exception, match="needs a key"):
            host.model()
