"""How many live streams this machine carries, and what an upload does to them.

    python benchmarks/bench_streams.py [--workers 2] [--p99-ms 150] [--messages 20 100] [--seconds 10] [--minutes 6]
    python benchmarks/bench_streams.py --uploads --streams 200 [--workers 2] [--hours 1] [--seconds 20]

The first form is `speech-qc capacity` for each message length, the server, the clients and this program on one
machine. The second runs so many streams without and with an upload of an hour going on (another begins when one ends),
in turn, against one server. `--record` appends the tables to `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
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

UPLOAD_S = 900.0  # longest wait for the answer


def capacities(options: argparse.Namespace) -> str:
    """The search, for each message length."""
    parts = []
    for message_ms in options.messages:
        conditions = Conditions(message_ms, options.emit_ms, options.seconds)
        asked = CapacityOptions(options.p99_ms, conditions, options.max, 60 * options.minutes, workers=options.workers)
        found = measure(asked, Console(stderr=True))
        rows = [cells(trial, options.p99_ms) for trial in sorted(found.trials, key=lambda trial: trial.streams)]
        parts.append(
            f"{options.workers} process(es). Messages of {message_ms} ms, scores every {options.emit_ms} ms, "
            f"{options.seconds:g} s timed per trial; "
            f"lag in ms.\n\n{markdown(COLUMNS, rows)}\n\n{advice(found, asked)}"
        )
    return "\n\n".join(parts)


class Uploads(threading.Thread):
    """Uploads a recording again and again.

    Args:
        url: Server.
        path: Recording.
    """

    def __init__(self, url: str, path: Path) -> None:
        super().__init__(daemon=True)
        self._url, self._path = url, path
        self._enough = threading.Event()
        self.seconds: list[float] = []
        """That each took."""

    def run(self) -> None:
        """Until told to stop."""
        while not self._enough.is_set():
            started_s = time.monotonic()
            with self._path.open("rb") as body:
                answer = httpx.post(f"{self._url}/v1/inspect?frames=false", content=body, timeout=UPLOAD_S)
            answer.raise_for_status()
            self.seconds.append(time.monotonic() - started_s)

    def stop(self) -> None:
        """Begin no further one, wait for the last."""
        self._enough.set()
        self.join(UPLOAD_S)


def with_uploads(options: argparse.Namespace) -> str:
    """The streams' lag without and with an upload."""
    rows, took = [], ""
    conditions = Conditions(options.messages[-1], options.emit_ms, options.seconds)
    allow_open_files(options.streams + 256)
    with (
        tempfile.TemporaryDirectory() as folder,
        started_server(options.streams + 16, workers=str(options.workers)) as host,
    ):
        path = Path(folder) / "long.wav"
        write_audio(ROOT / "examples" / "sample.wav", options.hours * 3600, path)
        target = Target.of(host)
        rows.append(("none", *cells(run_trial(target, options.streams, conditions), options.p99_ms)))
        uploads = Uploads(host.url, path)
        uploads.start()
        rows.append((f"{options.hours:g} h", *cells(run_trial(target, options.streams, conditions), options.p99_ms)))
        uploads.stop()
        took = ", ".join(f"{seconds:.1f} s" for seconds in uploads.seconds) or "none was finished"
    return (
        f"{options.workers} process(es). Messages of {conditions.message_ms} ms, {options.seconds:g} s timed; "
        "lag in ms, "
        f"limit {options.p99_ms:g}.\n\n"
        f"{markdown(('upload', *COLUMNS), rows)}\n\nThe uploads took {took}."
    )


def main() -> None:
    """Run one form and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--p99-ms", type=float, default=150.0, help="limit of the lag's 99th percentile")
    parser.add_argument("--messages", type=int, nargs="+", default=[20, 100], help="audio in one message, ms")
    parser.add_argument("--emit-ms", type=int, default=100, help="audio between two score messages")
    parser.add_argument("--seconds", type=float, default=10.0, help="timed per trial")
    parser.add_argument("--minutes", type=float, default=6.0, help="longest search")
    parser.add_argument("--max", type=int, default=2000, help="most streams tried")
    parser.add_argument("--uploads", action="store_true", help="streams beside an upload, instead of the search")
    parser.add_argument("--streams", type=int, default=200, help="with --uploads: how many")
    parser.add_argument("--hours", type=float, default=1.0, help="with --uploads: length of the recording")
    parser.add_argument("--workers", type=int, default=1, help="processes of the server")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    text = with_uploads(options) if options.uploads else capacities(options)
    print(text)
    if options.record:
        record("live streams beside an upload" if options.uploads else "live streams", about, text)


if __name__ == "__main__":
    main()
