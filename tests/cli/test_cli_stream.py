from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_material import noise, run, write

from live_server import serving
from speech_qc.cli.live_view import HISTORY_S, History, TerminalView
from speech_qc.cli.playback import PlayedRecording
from speech_qc.wire.server_messages import SERVER
from waiting import until


def play(*arguments: str | Path, **settings: Any) -> int:
    """Run `speech-qc stream` against a server of this process."""

    async def both() -> int:
        async with serving(**settings) as (url, _):
            return await asyncio.to_thread(run, "stream", *arguments, "--url", url)

    return asyncio.run(both())


def messages(text: str) -> list[dict]:
    for line in text.splitlines():
        SERVER.validate_json(line)
    return [json.loads(line) for line in text.splitlines()]


def test_a_recording_is_streamed_and_summed_up_as_inspect_shows_it(talk, capsys):
    assert play(talk, "--fast") == 0
    out = capsys.readouterr().out
    assert "talk.wav" in out and "2.00 s" in out and "pass" in out
    assert "speech  " in out and "linear16, 16 kHz, 1 channel; judged by echo 0.0.0, profile default" in out


def test_json_prints_every_message_of_the_server_as_a_line(talk, capsys):
    assert play(talk, "--fast", "--json", "--labels", "speech,noise", "--emit-ms", "200") == 0
    said = messages(capsys.readouterr().out)
    assert said[0]["type"] == "ready" and said[0]["labels"] == ["speech", "noise"] and said[0]["emit_ms"] == 200
    assert said[-1]["type"] == "summary" and said[-1]["frames"] == 100
    scores = [message for message in said if message["type"] == "scores"]
    assert sum(len(message["channels"][0]["frames"]["speech"]) for message in scores) == 100


def test_a_verdict_at_or_above_fail_on_makes_the_exit_code_1(talk):
    assert play(talk, "--fast", "--profile", "fails") == 1
    assert play(talk, "--fast", "--profile", "warns") == 0
    assert play(talk, "--fast", "--profile", "warns", "--fail-on", "warn") == 1


def test_two_channels_at_another_rate_and_encoding_keep_their_length(workplace, capsys):
    both = np.stack([noise(1.0), noise(1.0, seed=2)], axis=1)
    path = write(Path("both.wav"), both, 44_100)
    assert play(path, "--fast", "--json", "--encoding", "mulaw", "--rate", "8000") == 0
    said = messages(capsys.readouterr().out)
    assert (said[0]["encoding"], said[0]["sample_rate_hz"], said[0]["channels"]) == ("mulaw", 8000, 2)
    assert said[-1]["duration_s"] == pytest.approx(16_000 / 44_100, abs=0.001)


def test_realtime_takes_as_long_as_the_recording(workplace, capsys):
    path = write(Path("short.wav"), noise(0.5))
    assert play(path, "--json") == 0
    assert messages(capsys.readouterr().out)[-1]["timing"]["total_s"] >= 0.49


def test_raw_samples_come_from_standard_input():
    async def both() -> tuple[bytes, int | None]:
        async with serving() as (url, _):
            command = [sys.executable, "-m", "speech_qc", "stream", "-", "--url", url, "--rate", "8000", "--json"]
            path = os.pathsep.join(path for path in sys.path if path)
            running = await asyncio.create_subprocess_exec(
                *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
            )
            out, _ = await running.communicate((noise(1.0)[:8001] * 32767).astype("<i2").tobytes())
            return out, running.returncode

    out, code = asyncio.run(both())
    said = messages(out.decode())
    assert code == 0
    assert said[0]["sample_rate_hz"] == 8000
    assert said[-1]["duration_s"] == pytest.approx(8001 / 8000, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("talk.wav", "--url", "ws://127.0.0.1:9"), "cannot connect"),
        (("talk.wav", "--url", "ftp://127.0.0.1"), "expected an address that begins with ws"),
        (("nothing.wav",), "nothing.wav: expected a recording"),
        (("talk.wav", "--rate", "4000"), "--rate: expected 8000 to 48000"),
        (("talk.wav", "--channels", "2"), "the recording has 1"),
    ],
)
def test_what_cannot_be_streamed_is_said_in_one_line_with_exit_code_2(talk, capsys, arguments, said):
    assert run("stream", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err and captured.err.count("\n") == 1


def test_a_refusal_of_the_server_is_told_as_it_was_said(talk, capsys):
    assert play(talk, "--fast", "--profile", "nono") == 2
    assert "expected profile to be one of default, warns, fails" in capsys.readouterr().err


def test_a_recording_that_breaks_off_is_an_error_after_its_summary(talk, capsys):
    samples = noise(18.0)
    samples[-100] = np.nan  # in the second block that is decoded
    soundfile.write(talk, samples, 16_000, subtype="FLOAT")
    assert play(talk, "--fast", "--json") == 2
    captured = capsys.readouterr()
    assert '"type":"summary"' in captured.out
    assert captured.err.startswith("error: ")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_summary_is_called_partial_if_the_server_shuts_down(workplace, capsys, form):
    path = write(Path("long.wav"), noise(20.0))

    async def both() -> int:
        async with serving() as (url, app):
            running = asyncio.create_task(asyncio.to_thread(run, "stream", path, "--url", url, *form))
            await until(lambda: len(app.state.parts.streams) == 1, "the stream has begun")
            await asyncio.sleep(0.5)
            await app.state.parts.streams.drain(5.0)
            return await running

    assert asyncio.run(both()) == 2
    captured = capsys.readouterr()
    assert "error: the summary is partial: the stream was closed with 1012: the server is shutting down" in captured.err
    assert "covers the first" in captured.err
    assert ('"type":"summary"' if form else "long.wav") in captured.out


def test_portions_hold_every_sample_once(workplace):
    path = write(Path("long.wav"), noise(0.7734))
    recording = PlayedRecording(path, "float32", None, None)

    async def collect() -> list[bytes]:
        return [portion async for portion in recording.portions()]

    portions = asyncio.run(collect())
    recording.close()
    assert {len(portion) for portion in portions[:-1]} == {recording.wire.portion_bytes}
    heard = np.frombuffer(b"".join(portions), np.float32)
    np.testing.assert_allclose(heard, noise(0.7734), atol=2**-15)


def test_history_forgets_the_oldest_and_says_that_it_is_not_complete():
    history = History(["speech"], 0.02)
    history.add({"speech": [0.1, None]})
    assert history.last("speech", 1).size == 1
    assert history.complete() is not None
    for _ in range(round(HISTORY_S / 0.02 / 1000) + 1):
        history.add({"speech": [0.5] * 1000})
    assert history.complete() is None
    assert history.last("speech", 10**9).size <= HISTORY_S / 0.02


def test_lanes_and_events_are_drawn_as_they_come(monkeypatch, talk, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich treats this as a terminal
    monkeypatch.setenv("TERM", "xterm-256color")
    pictures: list[str] = []
    drawn = TerminalView.picture

    def keep(view: TerminalView):
        picture = drawn(view)
        with view._console.capture() as capture:
            view._console.print(picture)
        pictures.append(capture.get())
        return picture

    monkeypatch.setattr(TerminalView, "picture", keep)
    monkeypatch.setattr("speech_qc.cli.live_view.DRAW_S", 0.0)
    assert play(talk, "--fast") == 0
    assert pictures and "speech" in pictures[-1] and "▆▆▆▆▆▆▆▆" in pictures[-1]
