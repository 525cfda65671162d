"""Compare this checkout with another one: the CPU cost of a live chunk and of a one-hour upload.

    python benchmarks/bench_against.py --other ../older/.venv/bin/speech-qc [--pairs 5] [--streams 200] [--hours 1]

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
from bench_inspect import write_audio
from recording import ROOT, machine, markdown, record

from speech_qc.capacity.host import allow_open_files, started_server
from speech_qc.capacity.trial import Conditions, Target, run_trial

UPLOAD_S = 900.0  # time-out of an upload


@dataclass(frozen=True, slots=True)
class Cost:
    """Measurements of one start of one server.

    Attributes:
        chunk_us: Microseconds of server CPU per stream message.
        p99_ms: 99th percentile of the lag.
        lost: Frames that were expected but not received.
        times_real_time: Seconds of audio per second of server CPU, for the upload.
    """

    chunk_us: float
    p99_ms: float
    lost: int
    times_real_time: float

    def cells(self) -> list[str]:
        """Return the values as a table row."""
        return [f"{self.chunk_us:.0f}", f"{self.p99_ms:.0f}", str(self.lost), f"{self.times_real_time:.0f}"]


def measure(program: Sequence[str], options: argparse.Namespace, recording: Path) -> Cost:
    """Start one server, run streams and an upload, and stop it."""
    conditions = Conditions(options.message_ms, 100, options.seconds)
    with started_server(options.streams + 16, program=program, device="cpu") as host:
        trial = run_trial(Target.of(host), options.streams, conditions)
        if trial.server_cpu is None:
            raise SystemExit("the CPU time of the server is not available on this machine: run this on Linux")
        before = host.cpu_s() or 0.0
        with recording.open("rb") as body:
            answer = httpx.post(f"{host.url}/v1/inspect?frames=false", content=body, timeout=UPLOAD_S)
        answer.raise_for_status()
        upload_s = (host.cpu_s() or 0.0) - before
    messages_per_s = options.streams * 1000 / options.message_ms
    return Cost(
        chunk_us=trial.server_cpu / messages_per_s * 1e6,
        p99_ms=trial.lag_ms[3],
        lost=trial.lost_frames,
        times_real_time=options.hours * 3600 / upload_s,
    )


def main() -> None:
    """Run all pairs and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True, help="`speech-qc` of the other checkout's environment")
    parser.add_argument("--pairs", type=int, default=5, help="number of starts of each server")
    parser.add_argument("--streams", type=int, default=200, help="number of live streams")
    parser.add_argument("--message-ms", type=int, default=100, help="audio per message, ms")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured time per start")
    parser.add_argument("--hours", type=float, default=1.0, help="length of the upload")
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    allow_open_files(options.streams + 256)
    programs = {"other": [str(options.other)], "this": [sys.executable, "-m", "speech_qc"]}
    costs: dict[str, list[Cost]] = {name: [] for name in programs}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "long.wav"
        write_audio(ROOT / "examples" / "sample.wav", options.hours * 3600, recording)
        for pair in range(options.pairs):
            for name in sorted(programs, reverse=bool(pair % 2)):
                cost = measure(programs[name], options, recording)
                costs[name].append(cost)
                rows.append([str(pair + 1), name, *cost.cells()])
                print(*rows[-1], file=sys.stderr)
    middle = {
        name: [
            statistics.median(values) for values in zip(*((c.chunk_us, c.times_real_time) for c in found), strict=True)
        ]
        for name, found in costs.items()
    }
    ratios = [this / other for this, other in zip(middle["this"], middle["other"], strict=True)]
    for name, (chunk_us, times) in middle.items():
        rows.append(["median", name, f"{chunk_us:.0f}", "", "", f"{times:.0f}"])
    text = (
        f"{options.streams} streams, messages of {options.message_ms} ms, {options.seconds:g} s measured, one process; "
        f"then an upload of {options.hours:g} h without frames.\n\n"
        + markdown(
            ["pair", "checkout", "server CPU per message, µs", "p99 lag, ms", "lost", "upload, x real time"], rows
        )
        + f"\n\nRatio of the medians, this to other: {ratios[0]:.3f} CPU per message, {ratios[1]:.3f} upload speed."
    )
    print(text)
    if options.record:
        record("comparison with another checkout", about, text, {str(options.other): "OTHER/bin/speech-qc"})


if __name__ == "__main__":
    main()
