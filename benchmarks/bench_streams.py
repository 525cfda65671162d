"""Measure how many live streams this machine can serve, and how an upload affects them.

    python benchmarks/bench_streams.py [--workers 2] [--p99-ms 150] [--messages 20 100] [--seconds 10] [--minutes 6]
    python benchmarks/bench_streams.py --uploads --streams 200 [--workers 2] [--hours 1] [--seconds 20]
    python benchmarks/bench_streams.py --collect-ms 0 2 5 10 20 --streams 25 50 100 [--seconds 10]
    python benchmarks/bench_streams.py --other OTHER/bin/speech-qc --streams 100 200 300 [--messages 100] [--seconds 8]

The first form runs `speech-qc capacity` for each message length, with server, clients and this program on one machine.
The second form runs the given number of streams on one server, first without and then with a concurrent upload of an
hour (a new one starts when one ends). The third form compares values of `SPEECHQC_COLLECT_MS`, the fourth this
checkout with another one, whose server it starts alternately. `--encoding mulaw --rate 8000` sends telephone audio,
`--rate 48000` broadcast audio. `--record` appends the tables to `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
from bench_inspect import write_audio
from recording import ROOT, machine, markdown, record
from rich.console import Console

from speech_qc.capacity.host import allow_open_files, started_server
from speech_qc.capacity.trial import Conditions, Target, run_trial
from speech_qc.cli.capacity import COLUMNS, CapacityOptions, advice, cells, measure

UPLOAD_S = 900.0  # time-out of an upload


def capacities(options: argparse.Namespace) -> str:
    """Search the capacity for each message length."""
    parts = []
    for message_ms in options.messages:
        conditions = conditions_of(options, message_ms)
        asked = CapacityOptions(options.p99_ms, conditions, options.max, 60 * options.minutes, workers=options.workers)
        found = measure(asked, Console(stderr=True))
        rows = [cells(trial, options.p99_ms) for trial in sorted(found.trials, key=lambda trial: trial.streams)]
        parts.append(
            f"{options.workers} process(es). {sound(conditions)}, scores every {options.emit_ms} ms, "
            f"{options.seconds:g} s measured per trial; "
            f"lag in ms.\n\n{markdown(COLUMNS, rows)}\n\n{advice(found, asked)}"
        )
    return "\n\n".join(parts)


class Uploads(threading.Thread):
    """Uploads a recording repeatedly.

    Args:
        url: Server.
        path: Recording.
    """

    def __init__(self, url: str, path: Path) -> None:
        super().__init__(daemon=True)
        self._url, self._path = url, path
        self._enough = threading.Event()
        self.seconds: list[float] = []
        """Duration of each upload."""

    def run(self) -> None:
        """Upload until `stop` is called."""
        while not self._enough.is_set():
            started_s = time.monotonic()
            with self._path.open("rb") as body:
                answer = httpx.post(f"{self._url}/v1/inspect?frames=false", content=body, timeout=UPLOAD_S)
            answer.raise_for_status()
            self.seconds.append(time.monotonic() - started_s)

    def stop(self) -> None:
        """Start no further upload, and wait for the current one."""
        self._enough.set()
        self.join(UPLOAD_S)


def with_windows(options: argparse.Namespace) -> str:
    """Measure the CPU per message over the longest wait of a step and the number of streams."""
    conditions, rows = conditions_of(options, options.messages[-1]), []
    for streams in options.streams:
        allow_open_files(streams + 256)
        for collect_ms in options.collect_ms:
            with started_server(streams + 16, workers=str(options.workers), collect_ms=str(collect_ms)) as host:
                trial = run_trial(Target.of(host), streams, conditions)
            message_us = 1000 * conditions.message_ms * (trial.server_cpu or math.nan) / streams
            batch = math.nan if trial.batch is None else trial.batch
            cells = f"{message_us:.0f}", f"{batch:.1f}", f"{trial.lag_ms[0]:.0f}", f"{trial.lag_ms[3]:.0f}"
            rows.append([f"{streams}", f"{collect_ms:g}", *cells, f"{trial.lost_frames}"])
    headings = ("streams", "collect_ms", "server CPU per message, µs", "mean batch", "p50 lag, ms", "p99", "lost")
    return (
        f"{options.workers} process(es). {sound(conditions)}, {options.seconds:g} s measured.\n\n"
        f"{markdown(headings, rows)}"
    )


def beside_another(options: argparse.Namespace) -> str:
    """Measure both checkouts with the same numbers of streams, alternately."""
    programs = {"other": [str(options.other)], "this": [sys.executable, "-m", "speech_qc"]}
    rows: list[tuple[str, ...]] = []
    parts = []
    for message_ms in options.messages:
        conditions = conditions_of(options, message_ms)
        rows.clear()
        for turn, streams in enumerate(options.streams):
            allow_open_files(streams + 256)
            for name in sorted(programs, reverse=bool(turn % 2)):
                workers = str(options.workers)
                with started_server(streams + 16, program=programs[name], workers=workers, device="cpu") as host:
                    trial = run_trial(Target.of(host), streams, conditions)
                message_us = 1000 * message_ms * (trial.server_cpu or math.nan) / streams
                rows.append((name, f"{message_us:.0f}", *cells(trial, options.p99_ms)))
        parts.append(
            f"{options.workers} process(es). {sound(conditions)}, {options.seconds:g} s measured; lag in ms, limit "
            f"{options.p99_ms:g}.\n\n{markdown(('checkout', 'CPU per message, µs', *COLUMNS), rows)}"
        )
    return "\n\n".join(parts)


def conditions_of(options: argparse.Namespace, message_ms: int) -> Conditions:
    """Return the conditions of the trials."""
    return Conditions(message_ms, options.emit_ms, options.seconds, options.encoding, options.rate)


def sound(conditions: Conditions) -> str:
    """Describe what the clients send."""
    return f"Messages of {conditions.message_ms} ms, {conditions.encoding} at {conditions.rate_hz} Hz"


def with_uploads(options: argparse.Namespace) -> str:
    """Measure the streams' lag without and with an upload."""
    rows, took, streams = [], "", options.streams[0]
    conditions = conditions_of(options, options.messages[-1])
    allow_open_files(streams + 256)
    with (
        tempfile.TemporaryDirectory() as folder,
        started_server(streams + 16, workers=str(options.workers)) as host,
    ):
        path = Path(folder) / "long.wav"
        write_audio(ROOT / "examples" / "sample.wav", options.hours * 3600, path)
        target = Target.of(host)
        rows.append(("none", *cells(run_trial(target, streams, conditions), options.p99_ms)))
        uploads = Uploads(host.url, path)
        uploads.start()
        rows.append((f"{options.hours:g} h", *cells(run_trial(target, streams, conditions), options.p99_ms)))
        uploads.stop()
        took = ", ".join(f"{seconds:.1f} s" for seconds in uploads.seconds) or "none finished"
    return (
        f"{options.workers} process(es). {sound(conditions)}, {options.seconds:g} s measured; "
        "lag in ms, "
        f"limit {options.p99_ms:g}.\n\n"
        f"{markdown(('upload', *COLUMNS), rows)}\n\nDuration of the uploads: {took}."
    )


def main() -> None:
    """Run one of the forms and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--p99-ms", type=float, default=150.0, help="limit of the lag's 99th percentile")
    parser.add_argument("--messages", type=int, nargs="+", default=[20, 100], help="audio per message, ms")
    parser.add_argument("--emit-ms", type=int, default=100, help="audio between two score messages, ms")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured time per trial")
    parser.add_argument("--minutes", type=float, default=6.0, help="maximum duration of the search")
    parser.add_argument("--max", type=int, default=2000, help="maximum number of streams to try")
    parser.add_argument("--uploads", action="store_true", help="measure streams with a concurrent upload, no search")
    parser.add_argument("--collect-ms", type=float, nargs="+", help="compare these values, no search")
    parser.add_argument("--streams", type=int, nargs="+", default=[200], help="numbers of streams without a search")
    parser.add_argument("--encoding", choices=("linear16", "mulaw"), default="linear16", help="encoding of the audio")
    parser.add_argument("--rate", type=int, default=16_000, help="sample rate of the audio, Hz")
    parser.add_argument("--other", type=Path, help="compare with the `speech-qc` of another checkout's environment")
    parser.add_argument("--hours", type=float, default=1.0, help="with --uploads: length of the recording")
    parser.add_argument("--workers", type=int, default=1, help="number of server processes")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    if options.uploads:
        title, text = "live streams with a concurrent upload", with_uploads(options)
    elif options.other:
        title, text = "live streams beside another checkout", beside_another(options)
    elif options.collect_ms:
        title, text = "live streams over the longest wait of a step", with_windows(options)
    else:
        title, text = "live streams", capacities(options)
    print(text)
    if options.record:
        record(title, about, text, {str(options.other): "OTHER/bin/speech-qc"} if options.other else None)


if __name__ == "__main__":
    main()
