"""Packets of G.722 and Opus, decoded in one process for many streams: faults end only the streams concerned."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rtp_captures import encoded_packets
from signals import voice
from speech_qc.audio import packet_decoders
from speech_qc.audio.packet_decoders import MAX_PACKET_BYTES, PacketDecoders
from speech_qc.errors import InvalidAudio, Overloaded, ProtocolError, UnsupportedFormat

pytest.importorskip("av", reason="the extra [media] has it")

OPUS = encoded_packets("libopus", voice(2.0, rate_hz=48_000), 48_000)
G722 = encoded_packets("g722", voice(2.0), 16_000)


@pytest.fixture
def decoders():
    with PacketDecoders() as made:
        yield made


def workers() -> list[int]:
    """Process ids of decoders that this process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and b"packet_worker" in command and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize(
    ("codec", "rate_hz", "payloads", "tolerance"), [("g722", 16_000, G722, 0.05), ("opus", 48_000, OPUS, 0.1)]
)
def test_a_stream_sounds_as_its_source(decoders, codec, rate_hz, payloads, tolerance):
    decoder = decoders.open(codec, rate_hz)
    heard = np.concatenate([decoder.decode(payload) for payload in payloads])
    source = voice(2.0, rate_hz=rate_hz)
    assert heard.dtype == np.float32 and len(heard) == len(payloads) * rate_hz // 50
    assert np.std(heard) == pytest.approx(np.std(source[: len(heard)]), rel=tolerance)
    spectrum, wanted = (np.abs(np.fft.rfft(one[: rate_hz // 2])) for one in (heard, source))
    assert np.corrcoef(spectrum, wanted)[0, 1] > 0.9


def test_streams_in_turns_do_not_disturb_each_other(decoders):
    alone = np.concatenate(decoders.open("g722", 16_000).decode_all(G722))
    pair = [decoders.open("g722", 16_000), decoders.open("g722", 16_000), decoders.open("opus", 48_000)]
    heard: list[list] = [[], [], []]
    for first, second, third in zip(G722, reversed(G722), OPUS, strict=False):
        for kept, decoder, payload in zip(heard, pair, (first, second, third), strict=True):
            kept.append(decoder.decode(payload))
    np.testing.assert_array_equal(np.concatenate(heard[0]), alone[: len(heard[0]) * 320])
    assert len(workers()) == 1


def test_both_channels_of_stereo_are_averaged(decoders):
    av = pytest.importorskip("av")
    context = av.CodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = 48_000, "stereo", "s16"
    context.open()
    tone = (0.5 * 32767 * np.sin(np.arange(96_000) * 2 * np.pi * 440 / 48_000)).astype(np.int16)
    payloads = []
    for start in range(0, 96_000, 960):
        both = np.stack([tone[start : start + 960], np.zeros(960, np.int16)], axis=1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, start
        payloads += [bytes(packet) for packet in context.encode(frame)]
    heard = np.concatenate(decoders.open("opus", 48_000, 2).decode_all(payloads))
    assert np.abs(heard[20_000:]).max() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("payload", [b"\xff" * 3, b"", bytes(MAX_PACKET_BYTES + 1)])
def test_a_damaged_packet_costs_itself(decoders, payload):
    decoder = decoders.open("opus", 48_000)
    assert len(decoder.decode(OPUS[0])) == 960
    with pytest.raises(InvalidAudio, match="treat it as lost"):
        decoder.decode(payload)
    assert [one is None for one in decoder.decode_all([OPUS[1], payload, OPUS[2]])] == [False, True, False]
    assert decoders.restarts == 0


def test_a_process_that_was_killed_is_replaced(decoders):
    first, second = decoders.open("g722", 16_000), decoders.open("opus", 48_000)
    first.decode(G722[0])
    second.decode(OPUS[0])
    (before,) = workers()
    os.kill(before, signal.SIGKILL)
    assert len(second.decode(OPUS[1])) == 960 and len(first.decode(G722[1])) == 320
    assert decoders.restarts == 1 and workers() != [before]


FRAIL = """
import sys, time, importlib
sys.path.append({folder!r})
worker = importlib.import_module("packet_worker")
decode = worker.Streams.decode
def frail(self, number, content):
    if b"CRASH" in content:
        import os, signal
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG!" in content:
        time.sleep(600)
    return decode(self, number, content)
worker.Streams.decode = frail
worker.main()
"""


@pytest.mark.parametrize("poison", [b"CRASH", b"HANG!"])
def test_a_packet_that_ends_the_process_ends_its_own_stream(tmp_path, monkeypatch, poison):
    program = tmp_path / "packet_worker_frail.py"
    program.write_text(FRAIL.format(folder=str(packet_decoders._WORKER.parent)))
    monkeypatch.setattr(packet_decoders, "_WORKER", program)
    with PacketDecoders(answer_s=1.0) as decoders:
        guilty, other = decoders.open("opus", 48_000), decoders.open("opus", 48_000)
        assert len(guilty.decode(OPUS[0])) == len(other.decode(OPUS[0])) == 960
        started_s = time.monotonic()
        with pytest.raises(InvalidAudio, match="its process"):
            guilty.decode(poison)
        assert time.monotonic() - started_s < 5
        with pytest.raises(InvalidAudio, match="its process"):
            guilty.decode(OPUS[1])
        for payload in OPUS[1:20]:
            assert len(other.decode(payload)) == 960
        assert len(workers()) == 1


def test_the_process_has_no_rights(decoders):
    decoders.open("g722", 16_000).decode(G722[0])
    (process,) = workers()
    limits = Path(f"/proc/{process}/limits").read_text()
    for name in ("Max open files", "Max processes", "Max file size"):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[0] == "0"
    assert set(Path(f"/proc/{process}/environ").read_bytes().split(b"\0")) <= {b""}


def test_it_ends_with_its_owner_and_not_before():
    decoders = PacketDecoders()
    decoder = decoders.open("g722", 16_000)
    decoder.decode(G722[0])
    decoder.close()
    decoder.close()
    assert len(workers()) == 1
    with pytest.raises(RuntimeError):
        decoder.decode(G722[0])
    decoders.close()
    decoders.close()
    assert workers() == []


def test_threads_share_it(decoders):
    alone = np.concatenate(decoders.open("opus", 48_000).decode_all(OPUS))

    def decode(_: int) -> np.ndarray:
        decoder = decoders.open("opus", 48_000)
        return np.concatenate([decoder.decode(payload) for payload in OPUS])

    with ThreadPoolExecutor(4) as pool:
        for heard in pool.map(decode, range(8)):
            np.testing.assert_array_equal(heard, alone)


@pytest.mark.parametrize(("codec", "rate_hz", "channels"), [("g729", 8000, 1), ("g722", 8000, 1), ("opus", 48_000, 3)])
def test_what_is_not_decoded_is_refused(decoders, codec, rate_hz, channels):
    with pytest.raises(ProtocolError, match="expected g722 at 16000 Hz or opus at 48000 Hz"):
        decoders.open(codec, rate_hz, channels)


def test_too_many_streams_and_a_missing_library_are_named(monkeypatch):
    monkeypatch.setattr(packet_decoders, "MAX_STREAMS", 2)
    decoders = PacketDecoders()
    first, _ = decoders.open("opus", 48_000), decoders.open("opus", 48_000)
    with pytest.raises(Overloaded, match="at most 2 streams"):
        decoders.open("opus", 48_000)
    first.close()
    decoders.open("opus", 48_000)
    monkeypatch.setattr(packet_decoders, "pyav_folder", lambda: None)
    with pytest.raises(UnsupportedFormat, match="speech-qc\\[media\\]"):
        decoders.open("opus", 48_000)
