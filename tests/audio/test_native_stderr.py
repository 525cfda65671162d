"""What C libraries print does not reach the log of a program of ours; what Python prints does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from signals import voice, wav_bytes
from speech_qc.audio.native_stderr import silenced

PROGRAM = """
import faulthandler, os, sys, threading
faulthandler.enable()
from speech_qc.audio.native_stderr import keep_stderr, silenced
keep_stderr()
keep_stderr()
os.write(2, b"native before\\n")
inside, leave = threading.Event(), threading.Event()
def other():
    with silenced():
        inside.set()
        leave.wait()
thread = threading.Thread(target=other)
with silenced():
    thread.start()
    inside.wait()
    os.write(2, b"native within\\n")
    print("python within", file=sys.stderr)
os.write(2, b"native within the other thread's\\n")
leave.set()
thread.join()
os.write(2, b"native after\\n")
with silenced():
    faulthandler._sigsegv() if len(sys.argv) > 1 else None
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)


def test_only_what_is_written_within_is_dropped():
    done = run()
    assert done.returncode == 0
    assert done.stderr.splitlines() == ["native before", "python within", "native after"]


def test_a_crash_within_is_still_reported():
    done = run("crash")
    assert done.returncode != 0
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_a_library_leaves_its_host_alone(capfd):
    import os

    with silenced():
        os.write(2, b"of the host")
    assert capfd.readouterr().err == "of the host"


@pytest.mark.slow
def test_a_broken_mp3_prints_nothing(tmp_path):
    broken = wav_bytes(voice(6.0), container="MP3", subtype="MPEG_LAYER_III")
    path = tmp_path / "broken.mp3"
    path.write_bytes(broken[: len(broken) // 3] + bytes(300) + broken[len(broken) // 3 + 500 :])
    plain = "import soundfile, sys\ntry: soundfile.read(sys.argv[1])\nexcept Exception: pass"
    raw = subprocess.run([sys.executable, "-c", plain, str(path)], capture_output=True, text=True, check=False)
    assert raw.stderr, "libmpg123 prints about this file, or the test shows nothing"
    ours = subprocess.run(
        [sys.executable, "-m", "speech_qc", "inspect", str(path)], capture_output=True, text=True, check=False
    )
    assert all(line.startswith(("error: ", "warning: ")) for line in ours.stderr.splitlines())
    pytest.importorskip("pyarrow")
    words = ["archive", str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]
    archive = subprocess.run([sys.executable, "-m", "speech_qc", *words], capture_output=True, text=True, check=False)
    assert not set(raw.stderr.splitlines()) & set(archive.stderr.splitlines())
