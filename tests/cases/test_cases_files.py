"""Files that other programs write and read: broken headers, joined files, and what phones and browsers record."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import case_files as files
import numpy as np
import pytest
from case_files import PCM, SECONDS, SPEECH, chunk, wav
from case_kinds import kinds
from fastapi.testclient import TestClient


def posted(client: TestClient, body: bytes) -> dict[str, Any]:
    answer = client.post("/v1/inspect", content=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def warned(document: dict[str, Any]) -> dict[str, str]:
    """Return the messages of the warnings by their code."""
    return {warning["code"]: warning["message"] for warning in document.get("warnings") or []}


LOST = len(PCM) // 2  # bytes


@kinds(
    ("data_0x80000000", wav(data_bytes=0x80000000), None),  # arecord -t wav - | …
    ("data_0x7fffffff", wav(data_bytes=0x7FFFFFFF), None),
    ("data_2e9", wav(data_bytes=2_000_000_000), None),  # other programs that write to a pipe
    ("data_0x7ffff000", wav(data_bytes=0x7FFFF000), None),  # SoX
    ("byte_rate_of_stereo", wav(byte_rate=64_000), "header_field_ignored"),  # Recorder.js and its descendants
    ("byte_rate_0", wav(byte_rate=0), "header_field_ignored"),
    ("byte_rate_in_kbit", wav(byte_rate=256), "header_field_ignored"),
    ("block_align_0", wav(align=0), "header_field_ignored"),  # recorder libraries for telephones
    ("block_align_of_stereo", wav(align=4), "header_field_ignored"),
    ("24_bits_in_4_bytes", files.in_four_bytes(), None),  # arecord -f S24_LE
    *(
        (f"data_plus_{more}", wav(data_bytes=len(PCM) + more), "samples_missing")  # counts its header, or guesses
        for more in (1, 8, 16, 36, 44)
    ),
    ("data_twice", wav(data_bytes=2 * len(PCM)), "samples_missing"),
)
def test_a_wav_header_that_other_programs_read_is_read(client: TestClient, case: tuple[bytes, str | None]) -> None:
    """Sizes that stand for "unknown", and fields that contradict the samples; see the comments for their writers."""
    body, code = case
    document = posted(client, body)

    assert document["audio"]["duration_s"] == pytest.approx(SECONDS, abs=0.01)
    peak_dbfs = 20 * np.log10(np.max(np.abs(SPEECH)))
    assert document["channels"][0]["levels"]["peak_dbfs"] == pytest.approx(peak_dbfs, abs=0.1)
    if code is not None:
        assert code in warned(document)


HALF = len(PCM) // 2


@kinds(
    ("two_wavs", wav(after=wav()), 2 * SECONDS, len(wav())),  # `cat a.wav b.wav`; recorders that restart
    ("second_data_chunk", wav(after=chunk(b"data", PCM)), 2 * SECONDS, len(PCM)),
    ("data_too_small", wav(data_bytes=HALF), SECONDS, HALF),  # recorders that never correct the size
    ("data_0", wav(data_bytes=0), SECONDS, len(PCM)),  # recorders that crashed or were cut off
    ("two_mp3", files.mp3() + files.mp3(), 2 * SECONDS, len(files.mp3())),  # text-to-speech services join sentences
    ("chained_ogg", files.encoded("OGG", "VORBIS") * 2, 2 * SECONDS, len(files.encoded("OGG", "VORBIS"))),  # radio
)
def test_sound_behind_the_end_is_read_or_named(client: TestClient, case: tuple[bytes, float, int]) -> None:
    """Nothing is silently unheard: all is read, or a warning says how many bytes were left."""
    body, seconds, left = case
    document = posted(client, body)

    if document["audio"]["duration_s"] == pytest.approx(seconds, abs=0.3):
        return
    message = warned(document)["bytes_not_read"]
    digits = int("".join(c for c in message if c.isdigit() or c == " ").split()[0])
    assert digits == pytest.approx(left, abs=64), message


Maker = Callable[[], bytes]


@kinds(
    ("mp3_in_wav", lambda: files.mp3_in_wav("CONSTANT"), 16_000),  # dictation devices, call recorders
    ("vbr_mp3_in_wav", lambda: files.mp3_in_wav("VARIABLE"), 16_000),  # its first frame does not tell its length
    ("opus_rate_0", files.opus_without_rate, 48_000),  # encoders that do not say what they were given
)
def test_a_codec_that_libsndfile_knows_is_read_right(client: TestClient, case: tuple[Maker, int]) -> None:
    make, rate_hz = case
    document = posted(client, make())

    assert document["audio"]["sample_rate_hz"] == rate_hz
    assert document["audio"]["duration_s"] == pytest.approx(SECONDS, abs=0.15)  # MP3 has a delay and padding


@kinds(
    ("ogg_flac", lambda: files.by_ffmpeg("ogg", "flac"), 16_000),  # archives, Liquidsoap
    ("g722_in_wav", lambda: files.by_ffmpeg("wav", "g722"), 16_000),  # wide-band telephone recorders
    ("g726_in_wav", lambda: files.by_ffmpeg("wav", "g726", 8_000, bit_rate=32_000), 8_000),  # answering machines
    ("webm_opus", lambda: files.by_ffmpeg("webm", "libopus", 48_000), 48_000),  # MediaRecorder of Chrome and Firefox
    ("m4a_aac", lambda: files.by_ffmpeg("ipod", "aac", 44_100), 44_100),  # telephones, Safari
    ("3gp_aac", lambda: files.by_ffmpeg("3gp", "aac", 16_000), 16_000),  # older telephones
    ("wma", lambda: files.by_ffmpeg("asf", "wmav2", 44_100, bit_rate=64_000), 44_100),  # archives of Windows dictation
    ("video_mp4", lambda: files.by_ffmpeg("mp4", "aac", 48_000, video=True), 48_000),  # meetings
)
def test_what_browsers_and_telephones_record_is_read(client: TestClient, case: tuple[Maker, int]) -> None:
    pytest.importorskip("av", reason="the extra `media` is not installed")
    make, rate_hz = case
    document = posted(client, make())

    assert document["audio"]["sample_rate_hz"] == rate_hz
    assert document["audio"]["duration_s"] == pytest.approx(SECONDS, abs=0.15)  # encoders add up to a frame or two


def test_a_broken_mp3_writes_nothing_to_standard_error(tmp_path: Path) -> None:
    """Decoders write their own lines between the log lines, without the name of the recording."""
    whole = files.mp3()
    recording = tmp_path / "broken.mp3"
    recording.write_bytes(whole[: len(whole) // 3] + b"\xff" * 700 + whole[len(whole) // 3 : -999])
    command = [sys.executable, "-m", "speech_qc", "inspect", str(recording)]
    written = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr

    assert not [line for line in written.splitlines() if not line.startswith(("error: ", "warning: "))], written
