"""Formats that FFmpeg decodes: what comes out, what is said about losses, and what the process may do."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from signals import voice, wav_bytes
from speech_qc.audio import AudioWarning, DecodeLimits, media_process
from speech_qc.audio.decode import Decoder, decode_file
from speech_qc.audio.media_formats import CODECS, find_media
from speech_qc.errors import ClientError, InvalidAudio, PayloadTooLarge, UnsupportedFormat

pytest.importorskip("av", reason="the extra [media] has it")

from media_files import FORMATS, Made, encoded

M4A, WEBM = FORMATS["m4a"], FORMATS["webm/opus"]
SECONDS = 2.0


@pytest.fixture(autouse=True, scope="module")
def no_process_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert children() == []


def children() -> list[int]:
    """Process ids of our decoders."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(status[1]) == os.getpid() and b"media" in line and status[0] != "Z":
            found.append(int(folder.name))
    return found


def tone(rate_hz: int, seconds: float = SECONDS) -> np.ndarray:
    return (0.3 * np.sin(np.arange(round(rate_hz * seconds)) * 2 * np.pi * 440 / rate_hz)).astype(np.float32)


def decoded(recording: bytes, limits: DecodeLimits | None = None) -> tuple[np.ndarray, Decoder]:
    decoder = Decoder(limits or DecodeLimits())
    for start in range(0, len(recording), 5000):
        assert decoder.push(recording[start : start + 5000]) == []
    return np.concatenate(list(decoder.finish())), decoder


def codes(warnings: list[AudioWarning]) -> list[str]:
    return [warning.code for warning in warnings]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_its_duration_and_level(name: str, tmp_path: Path) -> None:
    made = FORMATS[name]
    recording = encoded(tone(made.rate_hz), made)
    samples, decoder = decoded(recording)

    assert decoder.info is not None
    assert (decoder.info.encoding, decoder.info.sample_rate_hz) == (made.encoding, made.rate_hz)
    assert samples.dtype == np.float32 and samples.shape[1] == decoder.info.channels == 1
    assert decoder.frames == len(samples) == pytest.approx(SECONDS * made.rate_hz, abs=0.06 * made.rate_hz)
    level_db = 20 * np.log10(np.sqrt(np.mean(samples**2)) / (0.3 / np.sqrt(2)))
    assert abs(level_db) < made.loss_db
    assert decoder.warnings == []

    path = tmp_path / "recording"
    path.write_bytes(recording)
    with decode_file(path) as file:
        assert file.info == decoder.info
        assert np.array_equal(np.concatenate(list(file)), samples)


def test_lossless_samples_are_exact_and_channels_stay_apart() -> None:
    made = FORMATS["ogg/flac"]
    left = np.round(voice(1.0) * 32767).astype(np.float32) / 32768
    stereo = np.stack([left, left[::-1]], axis=1)
    samples, _ = decoded(encoded(stereo.astype(np.float32), made))
    assert np.abs(samples - stereo).max() < 2 / 32768


def test_blocks_are_bounded() -> None:
    made = FORMATS["wavpack"]
    decoder = Decoder(DecodeLimits())
    decoder.push(encoded(tone(48_000, 3.0), made))
    assert [len(block) for block in decoder.finish()] == [65_536, 65_536, 12_928]


def test_the_sound_of_a_video_is_read_and_further_tracks_are_named() -> None:
    recording = encoded(tone(48_000), FORMATS["matroska/flac"], tracks=2, pictures=True)
    samples, decoder = decoded(recording)
    assert len(samples) > 0
    assert codes(decoder.warnings) == ["tracks_not_read"]
    assert "got 2" in decoder.warnings[0].message


def test_a_video_without_sound_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidAudio, match="with sound, got mp4 with pictures only"):
        decoded(encoded(tone(16_000), FORMATS["mp4/fragments"], tracks=0, pictures=True))


@pytest.mark.parametrize("name", ["webm/opus", "webm/live", "mp4/fragments", "wma", "avi/mp3", "tta", "aac"])
def test_a_recording_that_is_cut_off_is_read_with_a_warning(name: str) -> None:
    recording = encoded(voice(4.0, rate_hz=FORMATS[name].rate_hz), FORMATS[name])
    samples, decoder = decoded(recording[: len(recording) * 6 // 10])
    assert 0 < len(samples) < 3.5 * FORMATS[name].rate_hz
    assert codes(decoder.warnings) == ["samples_missing"]


def test_an_mp4_whose_index_is_missing_is_truncated() -> None:
    recording = encoded(tone(16_000), M4A)
    with pytest.raises(InvalidAudio, match="truncated: the header declares"):
        decoded(recording[: len(recording) // 2])


@pytest.mark.parametrize("name", ["m4a", "aac", "mpegts/aac", "ogg/flac", "webm/opus", "mp4/fragments", "wma"])
def test_damage_in_the_middle_is_never_silent(name: str) -> None:
    made = FORMATS[name]
    recording = bytearray(encoded(voice(4.0, rate_hz=made.rate_hz), made))
    middle = len(recording) // 2
    recording[middle : middle + 1500] = np.random.default_rng(1).bytes(1500)
    samples, decoder = decoded(bytes(recording))
    assert len(samples) > 0
    assert set(codes(decoder.warnings)) & {"samples_damaged", "samples_missing", "bytes_not_read"}


def test_a_change_of_the_layout_is_converted_and_named() -> None:
    made = FORMATS["aac"]
    mono = tone(44_100)
    joined = encoded(mono, made) + encoded(np.stack([mono, mono], axis=1), made)
    samples, decoder = decoded(joined)
    assert samples.shape[1] == 1
    assert len(samples) == pytest.approx(2 * SECONDS * 44_100, rel=0.05)
    assert "layout_changed" in codes(decoder.warnings)


@pytest.mark.parametrize(
    ("recording", "named"),
    [
        (encoded(tone(16_000), FORMATS["matroska/flac"]).replace(b"A_FLAC", b"A_FLAX"), "A_FLAX"),
        (encoded(tone(44_100), FORMATS["m4a/alac"]).replace(b"alac", b"zzzz"), "FourCC 'zzzz'"),
        (encoded(tone(16_000), FORMATS["wav/g722"]).replace(b"\x8f\x02", b"\x21\x43", 1), "format tag 0x4321"),
    ],
)
def test_a_codec_that_no_library_reads_is_named(recording: bytes, named: str) -> None:
    with pytest.raises(UnsupportedFormat, match=named):
        decoded(recording)


def test_mp3_in_wav_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speech_qc.audio.media.pyav_folder", lambda: None)
    made = Made("wav", "libmp3lame", 16_000, "wav/MPEG_LAYER_III")
    samples, decoder = decoded(encoded(tone(16_000), made))
    assert decoder.info is not None and decoder.info.encoding == made.encoding
    assert len(samples) == pytest.approx(SECONDS * 16_000, abs=2400)


@pytest.mark.parametrize("recording", [encoded(tone(16_000), M4A), encoded(tone(16_000), FORMATS["wav/g722"])])
def test_without_the_extra_the_error_names_the_command(recording: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speech_qc.audio.media.pyav_folder", lambda: None)
    with pytest.raises(UnsupportedFormat, match=r"pip install 'speech-qc\[media\]'"):
        decoded(recording)


def test_the_parent_never_imports_pyav() -> None:
    program = (
        "import sys; from speech_qc.audio.decode import decode_file; list(decode_file(sys.argv[1]));"
        "sys.exit('av' in sys.modules)"
    )
    path = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"media-{os.getpid()}.m4a"
    path.write_bytes(encoded(tone(16_000), M4A))
    try:
        assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0
    finally:
        path.unlink()


# Limits.


def test_a_declared_duration_above_the_limit_is_refused_before_decoding() -> None:
    with pytest.raises(PayloadTooLarge, match="at most 1 s of audio"):
        decoded(encoded(tone(16_000), M4A), DecodeLimits(max_duration_s=1.0))


def test_a_duration_that_is_not_declared_is_counted() -> None:
    for limits, match in (
        (DecodeLimits(max_duration_s=1.0), "at most 1 s"),
        (DecodeLimits(max_samples=1000), "at most 1000 samples"),
    ):
        with pytest.raises(PayloadTooLarge, match=match):
            decoded(encoded(tone(44_100), FORMATS["aac"]), limits)


def test_too_many_channels_are_refused() -> None:
    stereo = np.stack([tone(16_000)] * 2, axis=1)
    with pytest.raises(PayloadTooLarge, match="at most 1 channels"):
        decoded(encoded(stereo, M4A), DecodeLimits(max_channels=1))


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Replace the program of the process; `worker` is the real one."""
    folder = Path(media_process.__file__).parent
    head = f"import json, os, signal, struct, sys, time\nsys.path.insert(0, {str(folder)!r})\n"
    head += "import media_worker as worker\norder = json.loads(sys.argv[1])\nworker.end_with_parent(order['parent'])\n"
    path = tmp_path / "media_stand_in.py"
    path.write_text(head + body)
    monkeypatch.setattr(media_process, "_WORKER", path)


@pytest.mark.parametrize(
    ("body", "error", "match"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", InvalidAudio, "ended with signal 11"),
        ("worker.send_facts(os.fdopen(1, 'wb'), b'H', {})", InvalidAudio, "sent something else"),
        ("os.write(1, b'H' + struct.pack('<I', 1) + b'{')", InvalidAudio, "sent something else"),
        ("sys.exit(3)", InvalidAudio, "ended with exit code 3"),
        ("time.sleep(600)", InvalidAudio, "got nothing for 0.3 s"),
        ("worker.give_up_rights(1 << 28, 1)\nwhile True: pass", PayloadTooLarge, "longer"),
        ("os.write(1, b'F' + struct.pack('<I', 1 << 31))", InvalidAudio, "message of 2147483648 bytes"),
    ],
)
def test_a_process_that_fails_costs_one_recording(
    body: str, error: type[ClientError], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, body)
    monkeypatch.setattr(media_process, "STALL_S", 0.3 if "sleep" in body else 20.0)
    with pytest.raises(error, match=match):
        decoded(encoded(tone(16_000), M4A))


def test_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_process, "MEMORY_BYTES", 1 << 20)
    with pytest.raises(ClientError, match=r"needs more|ended with|rejects"):
        decoded(encoded(tone(16_000), M4A))


def test_close_ends_a_decoder_that_hangs_in_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "time.sleep(600)")
    decoder = Decoder(DecodeLimits())
    decoder.push(encoded(tone(16_000), M4A))
    errors: list[Exception] = []

    def work() -> None:
        try:
            list(decoder.finish())
        except ClientError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not children():
        time.sleep(0.01)
    decoder.close()
    thread.join(10)
    assert not thread.is_alive() and len(errors) == 1


def test_a_decoder_closed_before_its_end_starts_nothing_that_stays() -> None:
    decoder = Decoder(DecodeLimits())
    decoder.push(encoded(tone(16_000), M4A))
    decoder.close()
    with pytest.raises(InvalidAudio, match="aborted"):
        list(decoder.finish())


def test_an_iteration_that_is_dropped_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "long.wv"
    path.write_bytes(encoded(tone(48_000, 30.0), FORMATS["wavpack"]))
    file = decode_file(path)
    blocks = iter(file)
    next(blocks)
    assert len(children()) == 1
    del file, blocks
    gc.collect()
    assert children() == []


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    folder = Path(media_process.__file__).parent
    loops = f"import sys, json; sys.path.insert(0, {str(folder)!r}); import media_worker as w\n"
    loops += "w.end_with_parent(json.loads(sys.argv[1])['parent'])\nwhile True: pass\n"
    (tmp_path / "media_loop.py").write_text(loops)
    program = (
        "import io, sys, pathlib; from speech_qc.audio import media_process as m; from speech_qc.audio.media_formats "
        "import MediaFormat; m._WORKER = pathlib.Path(sys.argv[1]); p = m.MediaProcess(m.Spool(), MediaFormat('mov', "
        "'mp4')); print(p._process.pid, flush=True); p.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "media_loop.py")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.5)
    assert Path(f"/proc/{child}").exists() or sys.platform != "linux"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# Hostile input.


@pytest.mark.parametrize(
    "text",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1/</BaseURL></MPD>",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=audio 5004 RTP/AVP 0\r\n",
    ],
)
def test_playlists_are_refused_before_any_process_starts(text: bytes) -> None:
    assert find_media(text) is None
    with pytest.raises(UnsupportedFormat):
        decoded(text)


def test_the_process_can_open_nothing_and_start_nothing() -> None:
    """The system refuses it, whatever a broken decoder is made to do."""
    folder = Path(media_process.__file__).parent
    program = f"""
import json, os, socket, subprocess, sys
sys.path.insert(0, {str(folder)!r})
import media_worker
media_worker.give_up_rights(64 << 20, 5)
refused = []
for action in (lambda: open("/etc/passwd"), lambda: socket.socket(), lambda: os.dup(0), lambda: bytearray(1 << 28),
               lambda: os.memfd_create("x")):
    try:
        action()
    except (OSError, MemoryError) as error:
        refused.append(type(error).__name__)
print(json.dumps(refused))
"""
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["OSError", "OSError", "OSError", "MemoryError", "OSError"]


def test_a_reference_to_another_file_in_an_mp4_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.m4a"
    secret.write_bytes(encoded(tone(16_000), M4A))
    recording = encoded(tone(16_000), M4A)
    at = recording.index(b"url \0\0\0\1")  # flag 1: the samples are in this file; without it, behind this address
    path = str(secret).encode() + b"\0"
    outside = recording[: at + 4] + bytes(4) + path + recording[at + 8 :]
    with pytest.raises(ClientError):
        decoded(outside)


def test_the_environment_of_the_process_holds_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHQC_TOKEN_SECRET", "0123456789abcdef")
    stand_in(tmp_path, monkeypatch, "sys.exit(7 if any('SPEECHQC' in name for name in os.environ) else 8)")
    with pytest.raises(InvalidAudio, match="exit code 8"):
        decoded(encoded(tone(16_000), M4A))


def test_every_allowed_decoder_exists_and_none_is_for_pictures() -> None:
    import av

    for name in CODECS:
        if name in av.codecs_available:
            assert av.Codec(name, "r").type == "audio"
    assert sum(name in av.codecs_available for name in CODECS) > 0.9 * len(CODECS)


def test_wav_is_still_read_here() -> None:
    decoder = Decoder(DecodeLimits())
    decoder.push(wav_bytes(voice(0.5)))
    assert decoder.info is not None and decoder.info.encoding == "wav/PCM_16"
