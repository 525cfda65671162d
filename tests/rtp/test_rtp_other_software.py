"""RTP that GStreamer sends, with real loss and real pauses, and figures beside those of tshark."""

from __future__ import annotations

import io
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from rtp_captures import Capture, delayed, mulaw, sent
from signals import voice, wav_bytes
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.rtp.codecs import parse_payload_types
from speech_qc.rtp.reader import CaptureReader, RtpOptions
from speech_qc.rtp.reports import StreamReport, capture_report

pytestmark = pytest.mark.slow

gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None,
    reason="GStreamer is not installed: apt-get install gstreamer1.0-tools gstreamer1.0-plugins-{base,good,bad}",
)
tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed: apt-get install tshark")


def only_stream(data: bytes, types: str | None = None) -> StreamReport:
    with PacketDecoders() as decoders:
        reader = CaptureReader(io.BytesIO(data), RtpOptions(parse_payload_types(types)), decoders)
        for _ in reader:
            pass
    (stream,) = capture_report(reader, show_digits=False).streams
    return stream


def tshark_streams(path: Path) -> list[dict[str, float]]:
    """Return packets, lost packets and jitter as tshark finds them."""
    command = ["tshark", "-r", str(path), "--enable-heuristic", "rtp_udp", "-q", "-z", "rtp,streams"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = re.compile(r"0x[0-9A-F]{8}\s+.+?\s+(\d+)\s+(-?\d+) \([^)]*\)" + r"\s+([\d.]+)" * 6)
    found = []
    for match in row.finditer(out):
        names = ("packets", "lost", "min_delta", "mean_delta", "max_delta", "min_jitter", "jitter", "max_jitter")
        found.append(dict(zip(names, map(float, match.groups()), strict=True)))
    return found


def received(tmp_path: Path, samples: np.ndarray, rate_hz: int, *pipeline: str) -> bytes:
    """Play through GStreamer in real time, and capture what arrives."""
    source = tmp_path / "source.wav"
    source.write_bytes(wav_bytes(samples, rate_hz))
    capture = Capture()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(3.0)
        here = receiver.getsockname()
        start = ["gst-launch-1.0", "-q", "filesrc", f"location={source}", "!", "wavparse", "!", "audioconvert", "!"]
        end = ["!", "udpsink", f"host={here[0]}", f"port={here[1]}"]
        player = subprocess.Popen([*start, *pipeline, *end], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started_s = time.monotonic()
        try:
            while True:
                data, sender = receiver.recvfrom(4000)
                capture.datagram(time.monotonic() - started_s, data, sender, here)
        except TimeoutError:
            pass
        finally:
            player.kill()
            player.wait()
    return capture.pcap()


@tshark
def test_tshark_finds_the_same_loss_and_jitter(tmp_path):
    rng = np.random.default_rng(5)
    packets = sent(mulaw(voice(20.0, rate_hz=8000)))
    late = delayed(packets, rng.uniform(0, 0.015, len(packets)).round(6).tolist())
    file = tmp_path / "call.pcap"
    file.write_bytes(Capture().add([one for i, one in enumerate(late) if i % 37 != 5]).pcap())
    (theirs,) = tshark_streams(file)
    ours = only_stream(file.read_bytes())
    assert (ours.packets, ours.lost) == (theirs["packets"], theirs["lost"])
    assert ours.jitter_ms == pytest.approx(theirs["jitter"], abs=0.05)
    assert ours.jitter_max_ms == pytest.approx(theirs["max_jitter"], abs=0.05)


@gstreamer
def test_pauses_of_opus_are_no_loss(tmp_path):
    quiet = np.zeros(72_000, np.float32)
    source = np.concatenate([voice(1.5, rate_hz=48_000), quiet, voice(1.5, rate_hz=48_000)])
    encoder = ["opusenc", "dtx=true", "bitrate=16000", "audio-type=voice"]
    opus = ["audioresample", "!", *encoder, "!", "rtpopuspay", "dtx=true", "pt=96"]
    found = only_stream(received(tmp_path, source, 48_000, *opus), "96=opus/48000/2")
    assert found.codecs == ("opus",) and found.damaged == 0
    assert (found.lost, found.loss.spans) == (0, 0)
    assert 0.8 < found.dtx.total_s < 2.5, "the encoder pauses in the quiet part"
    assert found.duration_s == pytest.approx(4.5, abs=0.1)


@gstreamer
def test_loss_of_a_network_is_what_is_missing(tmp_path):
    network = "audioresample ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! rtppcmupay min-ptime=20000000 "
    network += "max-ptime=20000000 ! netsim drop-probability=0.08 duplicate-probability=0.05"
    data = received(tmp_path, voice(4.0, rate_hz=8000), 8000, *network.split())
    found = only_stream(data)
    sequences, at = [], 24
    while at < len(data):
        count = int.from_bytes(data[at + 8 : at + 12], "little")
        sequences.append(int.from_bytes(data[at + 16 + 44 : at + 16 + 46], "big"))
        at += 16 + count
    expected = (max(sequences, key=lambda one: (one - sequences[0]) & 0xFFFF) - sequences[0] & 0xFFFF) + 1
    assert found.lost == expected - len(set(sequences)) > 0, "the network has lost some"
    assert found.duplicates == len(sequences) - len(set(sequences))
    assert found.loss.total_s == pytest.approx(found.lost * 0.02) and found.dtx.spans == 0
    if shutil.which("tshark") is not None:
        file = tmp_path / "lossy.pcap"
        file.write_bytes(data)
        (theirs,) = tshark_streams(file)
        assert theirs["lost"] == found.lost - found.duplicates, "tshark counts a duplicate as a packet that is there"
