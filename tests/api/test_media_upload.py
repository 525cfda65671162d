"""Uploads that FFmpeg decodes, through the whole application."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from signals import voice
from speech_qc.audio import media_process

pytest.importorskip("av", reason="the extra [media] has it")

from media_files import FORMATS, encoded


def decoders() -> list[int]:
    """Process ids of decoders that this process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and b"media" in command and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(("name", "encoding"), [("m4a", "mp4/aac"), ("webm/live", "webm/opus"), ("wav/g722", None)])
def test_an_upload_is_decoded_and_scored(make_client, name, encoding):
    made = FORMATS[name]
    recording = encoded(voice(3.0, rate_hz=made.rate_hz), made)
    answer = make_client().post("/v1/inspect", content=recording, headers={"Content-Type": "audio/mp4"})

    body = answer.json()
    assert answer.status_code == 200, body
    assert body["audio"]["duration_s"] == pytest.approx(3.0, abs=0.06)
    assert body["audio"]["encoding"] == (encoding or made.encoding)
    assert decoders() == []


def test_a_form_may_hold_it_too(make_client):
    recording = encoded(voice(1.0, rate_hz=16_000), FORMATS["m4a"])
    answer = make_client().post("/v1/inspect", files={"file": ("memo.m4a", recording)})
    assert answer.status_code == 200


def test_a_decoder_that_hangs_is_killed_at_the_deadline(make_client, tmp_path, monkeypatch):
    program = tmp_path / "media_hang.py"
    program.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(media_process, "_WORKER", program)
    started_s = time.monotonic()
    answer = make_client(upload_deadline_s=0.5).post(
        "/v1/inspect", content=encoded(voice(1.0, rate_hz=16_000), FORMATS["m4a"])
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert time.monotonic() - started_s < 20
    assert decoders() == []


@pytest.mark.skipif(sys.platform != "linux", reason="counts the descriptors in /proc")
def test_uploads_leave_no_descriptor_behind(make_client):
    client = make_client()
    good = encoded(voice(1.0, rate_hz=16_000), FORMATS["m4a"])
    client.post("/v1/inspect", content=good)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(6):
        client.post("/v1/inspect", content=good if number % 2 else good[: len(good) // 2])
    assert len(os.listdir("/proc/self/fd")) <= before
