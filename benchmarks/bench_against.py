"""Compare this checkout with another one: the CPU cost of a live chunk and of a one-hour upload.

    python benchmarks/bench_against.py --other OTHER/.venv/bin/speech-qc [--pairs 5] [--streams 200] [--speech]

Each pair starts both servers one after the other, in alternating order, so that changes of the machine's speed affect
both. The clients of this checkout load both servers. Compare only medians of the same run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import soundfile
from bench_inspect import write_audio
from numpy.typing import NDArray
from recording import ROOT, machine, markdown, record

from speech_qc.capacity.host import Host, allow_open_files, started_server
from speech_qc.capacity.trial import Conditions, Target, run_trial

SHORT_UPLOADS = 20  # of one minute each
UPLOAD_S = 900.0  # time-out of an upload
CLEAN_S = 3.4  # of the sample


@dataclass(frozen=True, slots=True)
class Cost:
    """Measurements of one start of one server.

    Attributes:
        chunk_us: Microseconds of server CPU per stream message.
        p99_ms: 99th percentile of the lag.
        lost: Frames that were expected but not received.
        times_real_time: Seconds of audio per second of server CPU, for the long upload.
        short_times_real_time: The same for short uploads with frames in the answer.
    """

    chunk_us: float
    p99_ms: float
    lost: int
    times_real_time: float

    short_times_real_time: float

    def cells(self) -> list[str]:
        """As a row of the table."""
        return [
            f"{self.chunk_us:.0f}", f"{self.p99_ms:.0f}", str(self.lost), f"{self.times_real_time:.0f}",
            f"{self.short_times_real_time:.0f}",
        ]  # fmt: skip


def measure(program: Sequence[str], options: argparse.Namespace, recording: Path, minute: Path) -> Cost:
    """Start one server, run streams and uploads, and stop it."""
    conditions = Conditions(options.message_ms, 100, options.seconds)
    with started_server(options.streams + 16, program=program, device="cpu") as host:
        audio = speech().tobytes() * 8 if options.speech else None
        trial = run_trial(Target.of(host), options.streams, conditions, audio=audio)
        if trial.server_cpu is None:
            raise SystemExit("the CPU time of the server is not available on this machine: run this on Linux")
        long_s = uploads_cpu_s(host, recording, 1, frames=False)
        uploads_cpu_s(host, minute, 1, frames=True)  # the first one fills caches
        short_s = uploads_cpu_s(host, minute, SHORT_UPLOADS, frames=True)
    messages_per_s = options.streams * 1000 / options.message_ms
    return Cost(
        chunk_us=trial.server_cpu / messages_per_s * 1e6,
        p99_ms=trial.lag_ms[3],
        lost=trial.lost_frames,
        times_real_time=options.hours * 3600 / long_s,
        short_times_real_time=60 * SHORT_UPLOADS / short_s,
    )


def speech() -> NDArray[np.int16]:
    """Return the clean beginning of the sample."""
    samples, rate = soundfile.read(ROOT / "examples" / "sample.wav", dtype="int16")
    return np.asarray(samples[: int(CLEAN_S * rate)], np.int16)


def uploads_cpu_s(host: Host, recording: Path, count: int, *, frames: bool) -> float:
    """Upload a recording several times, one after the other; returns seconds of server CPU."""
    before = host.cpu_s() or 0.0
    for _ in range(count):
        with recording.open("rb") as body:
            url = f"{host.url}/v1/inspect?frames={str(frames).lower()}"
            httpx.post(url, content=body, timeout=UPLOAD_S).raise_for_status()
    return (host.cpu_s() or 0.0) - before


def main() -> None:
    """Run all pairs and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="`speech-qc` of the other checkout's environment")
    parser.add_argument("--pairs", type=int, default=5, help="number of starts of each server")
    parser.add_argument("--streams", type=int, default=200, help="number of live streams")
    parser.add_argument("--message-ms", type=int, default=100, help="audio per message, ms")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured time per start")
    parser.add_argument("--speech", action="store_true", help="send clean speech instead of noise bursts with a tone")
    parser.add_argument("--hours", type=float, default=1.0, help="length of the upload")
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    allow_open_files(options.streams + 256)
    programs = {"other": [str(options.other)], "this": [sys.executable, "-m", "speech_qc"]}
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recording, minute = Path(folder) / "long.wav", Path(folder) / "minute.wav"
        source = Path(folder) / "source.wav" if options.speech else ROOT / "examples" / "sample.wav"
        if options.speech:
            soundfile.write(source, speech(), 16_000)
        write_audio(source, options.hours * 3600, recording)
        write_audio(source, 60, minute)
        for pair in range(options.pairs):
            for name in sorted(programs, reverse=bool(pair % 2)):
                cost = measure(programs[name], options, recording, minute)
                costs[name].append(cost)
                rows.append([str(pair + 1), name, *cost.cells()])
                print(*rows[-1], file=sys.stderr)
    middle = {
        name: (
            statistics.median(cost.chunk_us for cost in found),
            statistics.median(cost.times_real_time for cost in found),
            statistics.median(cost.short_times_real_time for cost in found),
        )
        for name, found in costs.items()
    }
    ratios = [this / other for this, other in zip(middle["this"], middle["other"], strict=True)]
    for name, (chunk_us, long, short) in middle.items():
        rows.append(["median", name, f"{chunk_us:.0f}", "", "", f"{long:.0f}", f"{short:.0f}"])
    headings = [
        "pair", "checkout", "server CPU per message, µs", "p99 lag, ms", "lost", "long upload, x real time",
        "short uploads",
    ]  # fmt: skip
    text = (
        f"{options.streams} streams, messages of {options.message_ms} ms, {options.seconds:g} s measured, one process; "
        f"then an upload of {options.hours:g} h without frames, then {SHORT_UPLOADS} of one minute with frames.\n\n"
        f"{markdown(headings, rows)}\n\nRatio of the medians, this to other: {ratios[0]:.3f} CPU per message, "
        f"{ratios[1]:.3f} speed of the long upload, {ratios[2]:.3f} of the short ones."
    )
    print(text)
    if options.record:
        record("comparison with another checkout", about, text, {str(options.other): "OTHER/bin/speech-qc"})


if __name__ == "__main__":
    main()
