"""Measure the server's memory for an upload: per frame with and without scores, and for a buffered recording.

    python benchmarks/bench_held.py [--minutes 60] [--record]

Each row uses a new server, and the recording is sent twice. Peak memory is the maximum of the process above that of the
warm server. `FRAME_BYTES` and `BARE_FRAME_BYTES` in `service/speech_qc/pipeline/inspector.py`, which enforce
`SPEECHQC_MAX_HELD_BYTES`, are the bytes per frame of WAV rounded up. The last column is the memory that they account
for.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import httpx
import soundfile
from recording import machine, markdown, record
from soak import RATE_HZ, audio, wav

from speech_qc.capacity.host import started_server
from speech_qc.pipeline.inspector import BARE_FRAME_BYTES, FRAME_BYTES

MIB = 2**20
FRAME_S = 0.02


def flac(samples: bytes) -> bytes:
    """Encode 16-bit samples as a FLAC file."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE_HZ, 1, "PCM_16", format="FLAC") as sound:
        sound.buffer_write(samples, "int16")
    return file.getvalue()


def peak_bytes(pid: int) -> int:
    """Return the peak resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measure(recording: bytes, query: str) -> tuple[int, int]:
    """Return the peak memory above that of the warm server, and the size of the response."""
    with started_server(1) as host, httpx.Client(timeout=1800) as web:
        assert host.pid is not None
        before = peak_bytes(host.pid)
        for _ in range(2):
            answer = web.post(f"{host.url}/v1/inspect?{query}", content=recording).raise_for_status()
        return peak_bytes(host.pid) - before, len(answer.content)


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    samples = audio(60 * options.minutes, 1)
    frames = 60 * options.minutes / FRAME_S
    compressed = flac(samples)
    rows = []
    for name, recording, query, counted in (
        ("WAV, scores of all frames", wav(samples), "frames=true", frames * FRAME_BYTES),
        ("WAV, frames=false", wav(samples), "frames=false", frames * BARE_FRAME_BYTES),
        ("FLAC, frames=false", compressed, "frames=false", frames * BARE_FRAME_BYTES + len(compressed)),
    ):
        held, answered = measure(recording, query)
        rows.append([
            name, f"{len(recording) / MIB:.1f}", f"{answered / MIB:.2f}", f"{held / MIB:.1f}", f"{held / frames:.0f}",
            f"{counted / MIB:.1f}",
        ])  # fmt: skip
    table = markdown(
        ["recording", "MiB", "response, MiB", "peak memory, MiB", "bytes per frame", "accounted for, MiB"], rows
    )
    sys.stdout.write(table + "\n")
    if options.record:
        record(f"memory of an upload of {options.minutes:g} min", about, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
