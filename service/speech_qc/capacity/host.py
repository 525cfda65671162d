"""The server under test, started here on loopback or already running: its health, its metrics, its resource usage."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from speech_qc.client.credentials import bearer
from speech_qc.security.api_keys import make_key, write_keys
from speech_qc.settings import API_KEY_VARIABLE, load_settings

START_S = 120.0
"""Longest wait for a server to become ready."""
STOP_S = 15.0
LIVE_BATCHES = re.compile(
    r'^speechqc_batch_size_(sum|count)\{(?:[^}]*,)?lane="(?:live|flush)"(?:,[^}]*)?\} (\S+)$', re.MULTILINE
)
"""Series of the lanes for live chunks; a server of several processes has one per worker."""
PROC = Path("/proc")


class HostError(Exception):
    """The server under test cannot be started or reached, or a client process failed."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The engine's counters of its live lanes.

    Attributes:
        chunks: Chunks scored.
        steps: Steps run.
    """

    chunks: float
    steps: float


class Host:
    """One server.

    Args:
        url: Address, http or https.
        pid: Process id, if the server was started on this machine.
        api_key: Key to send; None for a server without keys.
    """

    def __init__(self, url: str, pid: int | None, api_key: str | None = None) -> None:
        self.url, self.pid, self.api_key = url.rstrip("/"), pid, api_key

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=bearer(self.api_key), timeout=10)

    def is_ready(self) -> bool:
        """Whether the server reports that it is ready."""
        try:
            return self._get("/health/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def model(self) -> dict[str, Any]:
        """Return the answer of `GET /v1/model`.

        Raises:
            HostError: The server does not answer, or needs a key.
        """
        try:
            answer = self._get("/v1/model")
            if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise HostError(f"{self.url} needs a key: set one with --api-key-file FILE or {API_KEY_VARIABLE}")
            answer.raise_for_status()
            return dict(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            raise HostError(f"expected a speech-qc server at {self.url}: {error}") from error

    def steps(self) -> Steps | None:
        """Return the counters of the live lanes; None without metrics."""
        try:
            answer = self._get("/metrics")
        except httpx.HTTPError:
            return None
        return parse_steps(answer.text) if answer.status_code == httpx.codes.OK else None

    def workers(self) -> int:
        """Return the number of processes from `GET /health/ready`; 1 if it is missing there."""
        try:
            return int(self._get("/health/ready").json()["workers"])
        except (httpx.HTTPError, ValueError, KeyError):
            return 1

    def cpu_s(self) -> float | None:
        """Return the CPU time of the server and its workers, seconds; None if unknown (it needs Linux)."""
        return self._sum(cpu_seconds)

    def memory_kib(self) -> float | None:
        """Return the resident memory of the server and its workers; None if unknown (it needs Linux)."""
        return self._sum(resident_kib)

    def _sum(self, figure: Callable[[int], float | None]) -> float | None:
        if self.pid is None:
            return None
        figures = [figure(pid) for pid in (self.pid, *children_of(self.pid))]
        return None if figures[0] is None else sum(value for value in figures if value is not None)


def parse_steps(text: str) -> Steps | None:
    """Sum the batch histograms of the live lanes over all workers, from Prometheus text; None if there are none."""
    totals = {"sum": 0.0, "count": 0.0}
    found = LIVE_BATCHES.findall(text)
    for kind, value in found:
        totals[kind] += float(value)
    return Steps(totals["sum"], totals["count"]) if found else None


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process; empty if the kernel does not report them."""
    try:
        return [int(child) for child in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:
        return []


def descendants_of(pid: int) -> list[int]:
    """Return the processes below a process, whichever of its threads started them; empty without `/proc`."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def cpu_seconds(pid: int) -> float | None:
    """Return the user and system time of a process; None if the kernel does not report it."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> float | None:
    """Return the resident memory of a process; None if the kernel does not report it."""
    try:
        lines = (PROC / str(pid) / "status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)


def allow_open_files(wanted: int) -> int:
    """Raise the limit on open files of this process and its future children, and return the resulting limit.

    Args:
        wanted: Number of open files needed.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft if soft != resource.RLIM_INFINITY else wanted
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def is_local(url: str) -> bool:
    """Whether a URL refers to this machine's loopback address."""
    return (urlsplit(url).hostname or "") in ("127.0.0.1", "localhost", "::1")


def free_port() -> int:
    """Return an unused TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started_server(
    max_streams: int, *, program: Sequence[str] = (sys.executable, "-P", "-m", "speech_qc"), **settings: str
) -> Iterator[Host]:
    """Run a server in its own process, with the settings of this environment, until the block ends.

    If the settings name a keys file, the server gets a new file with one key, since the existing file has only hashes.

    Args:
        max_streams: Places for live channels.
        program: Program to start, without its arguments; this installation by default.
        settings: Further SPEECHQC_ variables, names without the prefix.

    Raises:
        HostError: The server does not become ready; the message contains the end of its log.
        SettingsError: A setting is invalid.
    """
    port = free_port()
    given = {"MAX_STREAMS": str(max_streams)} | {name.upper(): value for name, value in settings.items()}
    command = [*program, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        api_key = None
        if load_settings().api_keys_file is not None:
            api_key, kept = make_key("capacity", max_streams=max_streams)
            write_keys(keys := Path(folder) / "keys.jsonl", [kept])
            given["API_KEYS_FILE"] = str(keys)
        environment = os.environ | {f"SPEECHQC_{name}": value for name, value in given.items()}
        running = subprocess.Popen([*command, "--log-level", "warning"], env=environment, stdout=log, stderr=log)
        try:
            host = Host(f"http://127.0.0.1:{port}", running.pid, api_key)
            if not _becomes_ready(host, running):
                log.seek(0)
                output = log.read()[-2000:].decode(errors="replace").strip() or "(no output)"
                raise HostError(f"expected the server to be ready within {START_S:g} s, it was not: {output}")
            yield host
        finally:
            running.terminate()
            try:
                running.wait(STOP_S)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def _becomes_ready(host: Host, running: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and running.poll() is None:
        if host.is_ready():
            return True
        time.sleep(0.1)
    return False
