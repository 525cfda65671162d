"""A full disk: the service writes nothing that it receives, so it keeps serving; commands report the error."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import httpx
import numpy as np
import pytest

from live_server import serving
from signals import voice, wav_bytes, white_noise
from speech_qc.capacity.host import free_port
from speech_qc.cli.main import main
from speech_qc.client.stream import StreamClient
from speech_qc.security.api_keys import read_keys
from waiting import block_until, until

LONG = white_noise(60.0)
"""About 2 MB as 16 bit: more than form parsers keep in memory."""
PATIENCE_S = 200.0
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
PATH = os.pathsep.join(path or os.getcwd() for path in sys.path)


class Watched:
    """Records files opened for writing in this process. Audit hooks cannot be removed, so all tests share one."""

    opened: list[str] | None = None

    @classmethod
    def hook(cls, event: str, details: tuple) -> None:
        if event != "open" or cls.opened is None:
            return
        path, _, flags = details
        if isinstance(path, str | bytes) and isinstance(flags, int) and flags & WRITES:
            cls.opened.append(os.fsdecode(path))


sys.addaudithook(Watched.hook)


def open_files() -> int:
    return len(os.listdir("/dev/fd")) if os.path.exists("/dev/fd") else 0


async def upload(url: str, form: str) -> None:
    async with httpx.AsyncClient(base_url=url.replace("ws://", "http://"), timeout=PATIENCE_S) as client:
        sound = wav_bytes(LONG) if form in ("wav", "form") else wav_bytes(LONG, container=form.upper(), subtype=None)
        options = {"files": {"file": ("a.wav", sound)}} if form == "form" else {"content": sound}
        answer = await client.post("/v1/inspect?frames=false", **options)
        assert answer.status_code == 200, answer.text
        assert answer.json()["audio"]["duration_s"] == pytest.approx(60.0)


async def converse(url: str) -> None:
    async with StreamClient.connect(url) as stream:
        await stream.send(np.asarray(voice(1.0)))
        assert (await stream.close()).frames == 50


FORMS = ("wav", "form", "flac", "ogg")


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_is_sent_is_written_anywhere(form, monkeypatch):
    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp", "_TemporaryFileArgs"):
        monkeypatch.setattr(tempfile, name, no_room, raising=False)

    async def scenario() -> None:
        async with serving() as (url, app):
            before = open_files()
            Watched.opened = []
            await upload(url, form)
            await converse(url)
            assert app.state.parts.uploads.taken == app.state.parts.engine.status.sessions == 0
            # Closed connections end in the next iterations of the event loop.
            await until(lambda: open_files() <= before, "no file is open that was not open before")

    try:
        asyncio.run(scenario())
        assert Watched.opened == []
    finally:
        Watched.opened = None


def test_the_hook_sees_a_file_that_is_written(tmp_path):
    Watched.opened = []
    try:
        (tmp_path / "a").write_bytes(b"1")
        (tmp_path / "a").read_bytes()
        assert Watched.opened == [str(tmp_path / "a")]
    finally:
        Watched.opened = None


NO_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # whatever any library writes to a file fails, as on a full disk
from speech_qc.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.slow
def test_a_server_on_a_full_disk_serves_on_although_its_log_is_lost():
    """This includes decoders written in C, and a log that cannot be written."""
    port = free_port()
    environment = os.environ | {"PYTHONPATH": PATH, "SPEECHQC_DEVICE": "cpu", "SPEECHQC_MAX_BATCH": "1"}
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-c", NO_FILES, "serve", "--port", str(port)], env=environment, stdout=full, stderr=full
        )
    url = f"ws://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, "the server has ended"
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=5).status_code == 200
        return False

    try:
        block_until(ready, "the server is ready", patience_s=PATIENCE_S, every_s=0.1)
        for form in FORMS:
            asyncio.run(upload(url, form))
        asyncio.run(converse(url))
        assert (
            httpx.post(f"http://127.0.0.1:{port}/v1/inspect", content=b"no sound", timeout=PATIENCE_S).status_code
            == 415
        )
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).text
        assert f'speechqc_uploads_total{{outcome="ok"}} {len(FORMS)}.0' in text
        assert "speechqc_uploads_active 0.0" in text
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


class FullDisk:
    """A file that can be opened but not written."""

    def __init__(self, descriptor: int, *_: object, **__: object) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_key_that_cannot_be_kept_is_not_shown_and_the_file_stays_as_it_was(tmp_path, monkeypatch, capsys):
    file = tmp_path / "keys.jsonl"
    assert main(["keys", "add", "desk", "--file", str(file)]) == 0
    before = file.read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("speech_qc.security.api_keys.os.fdopen", FullDisk)
        assert main(["keys", "add", "late", "--file", str(file)]) == 2
        assert main(["keys", "remove", "desk", "--file", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "No space left on device; it is unchanged" in captured.err
    assert file.read_bytes() == before and [key.name for key in read_keys(file)] == ["desk"]
    assert list(tmp_path.iterdir()) == [file], "nothing is left of the attempts"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
@pytest.mark.slow
def test_results_that_cannot_be_written_are_an_error_with_its_exit_code(tmp_path):
    sound = tmp_path / "a.wav"
    sound.write_bytes(wav_bytes(voice(1.0)))
    environment = os.environ | {"PYTHONPATH": PATH, "SPEECHQC_DEVICE": "cpu", "SPEECHQC_MAX_BATCH": "1"}

    def run(*words: str, out: IO[bytes] | int) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", NO_FILES, "inspect", str(sound), "--fail-on", "never", *words],
            env=environment, stdout=out, stderr=subprocess.PIPE, timeout=PATIENCE_S,
        )  # fmt: skip
        return done.returncode, done.stderr.decode()

    with open("/dev/full", "wb") as full:
        code, told = run("-f", "json", out=full)
    assert "cannot write a result" in told and "No space left" in told
    assert code == 2, told
    results = Path(tmp_path / "results")
    code, told = run("-f", "json", "--out", str(results), out=subprocess.DEVNULL)
    assert (code, "cannot write a result" in told) == (2, True), told
    assert list(results.iterdir()) == [], "no half of a result is left"
