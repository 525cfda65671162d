"""Measure how fast the RTP streams of a capture are read, decoded and scored.

    python benchmarks/bench_rtp.py [--streams 100] [--seconds 60] [--codec PCMU|G722|opus] [--loss 0.01] [--no-scores]
        [--record]

Writes a capture whose streams begin together, as those of a busy trunk, with a packet every 20 ms and lost packets at
random, then reads it in a process of its own: first alone (packets found, put in order and decoded), then with scores.
Times real time is seconds of sound, all streams together, per second of that process and its decoder. The peak of
memory is that of the process, without its decoder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from recording import machine, markdown, record

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from rtp_captures import encoded_packets
from signals import talk
from speech_qc.audio.g711 import encode_mulaw
from speech_qc.audio.packet_decoders import PacketDecoders
from speech_qc.embedded.detector import Detector
from speech_qc.rtp.codecs import parse_payload_types
from speech_qc.rtp.reader import CaptureReader, RtpOptions
from speech_qc.settings import load_settings

CODECS = {"PCMU": (0, 8000, 160), "G722": (9, 16_000, 160), "opus": (96, 48_000, 960)}
"""Payload type, rate of the sound, ticks of a packet."""
TYPES = "96=opus/48000/2"
MATERIAL_S = 10


def payloads(codec: str) -> list[bytes]:
    """Encode speech in packets of 20 ms."""
    rate_hz = CODECS[codec][1]
    samples: NDArray[np.float32] = talk(rate_hz, seconds=MATERIAL_S)
    if codec == "PCMU":
        data = encode_mulaw(samples).tobytes()
        return [data[at : at + 160] for at in range(0, len(data), 160)]
    return encoded_packets("g722" if codec == "G722" else "libopus", samples, rate_hz)


def write_capture(path: Path, codec: str, streams: int, seconds: int, loss: float) -> int:
    """Write the capture; return its packets."""
    kind, _, ticks = CODECS[codec]
    sounds = payloads(codec)
    keep = np.random.default_rng(1).random((seconds * 50, streams)) >= loss
    count = 0
    with path.open("wb") as file:
        file.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 16, 1))
        for i in range(seconds * 50):
            second, fraction = divmod(i * 20_000, 1_000_000)
            for stream in range(streams):
                if not keep[i, stream]:
                    continue
                sound = sounds[(i + 7 * stream) % len(sounds)]
                rtp = struct.pack(">BBHII", 0x80, kind, i & 0xFFFF, i * ticks, stream + 1) + sound
                udp = struct.pack(">HHHH", 10_000 + 2 * stream, 20_000, 8 + len(rtp), 0) + rtp
                head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\n\0\0\1", b"\n\0\0\2")
                frame = bytes(12) + b"\x08\x00" + head + udp
                file.write(struct.pack("<IIII", second, fraction, len(frame), len(frame)) + frame)
                count += 1
    return count


def read_alone(path: Path) -> float:
    """Read and decode; return seconds of sound."""
    options = RtpOptions(parse_payload_types(TYPES))
    with path.open("rb") as file, PacketDecoders() as decoders:
        reader = CaptureReader(file, options, decoders)
        for _ in reader:
            pass
    return sum(stream.position / stream.rate_hz for stream in reader.streams)


def score(path: Path) -> float:
    """Read, decode and score without keeping frames; return seconds of sound."""
    found = Detector(load_settings()).inspect(path, frames=False, payload_types=TYPES)
    assert found.capture is not None
    return sum(stream.duration_s for stream in found.capture.streams)


def measured(path: Path, with_scores: bool) -> tuple[float, float, float]:
    """Return seconds of sound, seconds taken, and the peak of memory in MiB; for a process of its own."""
    started_s = time.perf_counter()
    sound_s = (score if with_scores else read_alone)(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return sound_s, time.perf_counter() - started_s, peak


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--streams", type=int, default=100)
    options.add_argument("--seconds", type=int, default=60)
    options.add_argument("--codec", choices=tuple(CODECS), action="append")
    options.add_argument("--loss", type=float, default=0.01)
    options.add_argument("--no-scores", action="store_true")
    options.add_argument("--record", action="store_true")
    chosen = options.parse_args()
    about = machine()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for codec in chosen.codec or CODECS:
            path = Path(folder, "capture.pcap")
            packets = write_capture(path, codec, chosen.streams, chosen.seconds, chosen.loss)
            for with_scores in (False,) if chosen.no_scores else (False, True):
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    sound_s, seconds, peak = pool.apply(measured, (path, with_scores))
                rows.append(
                    [
                        codec,
                        "read, decode, score" if with_scores else "read, decode",
                        f"{packets}",
                        f"{sound_s / seconds:.0f}",
                        f"{seconds / packets * 1e6:.1f}",
                        f"{peak:.0f}",
                    ]
                )
    table = markdown(["codec", "work", "packets", "× real time", "µs a packet", "peak MiB"], rows)
    print(table)
    if chosen.record:
        record(f"RTP: a capture of {chosen.streams} streams of {chosen.seconds} s", about, table)


if __name__ == "__main__":
    main()
