"""`speech-qc serve --workers` as users start it: a parent process on a free port, with its log in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from server_process import PATIENCE_S, ServerProcess
from speech_qc.capacity.host import free_port
from waiting import block_until

ROOT = Path(__file__).resolve().parents[1]
FEW_SHAPES = {"DEVICE": "cpu", "MAX_BATCH": "1", "UPLOAD_CHUNK_HOPS": "40", "STREAM_IDLE_S": "60"}

Series = dict[tuple[str, str | None], float]


class WorkersServer(ServerProcess):
    """A parent with its workers, which share one log."""

    def pids(self) -> dict[int, int]:
        """Return the last process ID of each worker."""
        return {int(w): int(p) for w, p in re.findall(r"worker (\d+) \(process (\d+)\) is ready", self.log())}

    def get(self, path: str) -> httpx.Response:
        """Send a request over a new connection, so that any worker may respond; retry if the worker has just exited."""
        answers: list[httpx.Response] = []

        def answered() -> bool:
            with suppress(httpx.TransportError):
                answers.append(httpx.get(self.url + path, timeout=10))
            return bool(answers)

        block_until(answered, f"{path} is answered", details=self.log)
        return answers[0]

    def series(self) -> Series:
        """Return values by metric and worker; series with further labels are summed."""
        found: Series = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                key = sample.name, sample.labels.get("worker")
                found[key] = found.get(key, 0.0) + sample.value
        return found


@contextmanager
def started(
    folder: Path, *, workers: int = 2, port: int | None = None, ready: bool = True, **settings: str
) -> Iterator[WorkersServer]:
    """Start a server; with `ready`, wait until all of its workers serve."""
    port = port or free_port()
    environment = os.environ | {f"SPEECHQC_{name}": value for name, value in (FEW_SHAPES | settings).items()}
    words = ["serve", "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    program = f"import sys; from speech_qc.cli.main import main; sys.exit(main({words!r}))"
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=out, stderr=out)
    server = WorkersServer(process, port, log)
    try:
        if ready:
            server.until(lambda: process.poll() is not None or f"{workers} workers listen" in server.log(), "start")
            assert process.poll() is None, server.log()
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
