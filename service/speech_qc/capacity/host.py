"""The server that is measured: started here on loopback, or one that runs already; what it uses, what it counts."""

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
"""Longest wait for a server to warm up."""
STOP_S = 15.0
LIVE_BATCHES = re.compile(
    r'^speechqc_batch_size_(sum|count)\{(?:[^}]*,)?lane="(?:live|flush)"(?:,[^}]*)?\} (\S+)$', re.MULTILINE
)
"""Of the lanes that live chunks go through; a server of several processes has a series for each worker."""
PROC = Path("/proc")


class HostError(Exception):
    """The server to be measured cannot be started or reached, or a process of clients broke off."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What the engine has counted so far in its live lanes.

    Attributes:
        chunks: Scored.
        steps: Run.
    """

    chunks: float
    steps: float


class Host:
    """One server.

    Args:
        url: Its address, http or https.
        pid: Of its process when it runs on this machine.
        api_key: To send along; None where it has no keys.
    """

    def __init__(self, url: str, pid: int | None, api_key: str | None = None) -> None:
        self.url, self.pid, self.api_key = url.rstrip("/"), pid, api_key

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=bearer(self.api_key), timeout=10)

    def is_ready(self) -> bool:
        """Whether it says so."""
        try:
            return self._get("/health/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def model(self) -> dict[str, Any]:
        """What `GET /v1/model` says.

        Raises:
            HostError: It says nothing.
        """
        try:
            answer = self._get("/v1/model")
            if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise HostError(f"{self.url} wants a key: give one with --api-key-file FILE or {API_KEY_VARIABLE}")
            answer.raise_for_status()
            return dict(answer.json())
        except (httpx.HTTPError, ValueError) as error:
            raise HostError(f"expected a speech-qc server at {self.url}: {error}") from error

    def steps(self) -> Steps | None:
        """Counters of the live lanes; None without metrics."""
        try:
            answer = self._get("/metrics")
        except httpx.HTTPError:
            return None
        return parse_steps(answer.text) if answer.status_code == httpx.codes.OK else None

    def workers(self) -> int:
        """Processes that share the streams, as `GET /health/ready` says; 1 when it does not."""
        try:
            return int(self._get("/health/ready").json()["workers"])
        except (httpx.HTTPError, ValueError, KeyError):
            return 1

    def cpu_s(self) -> float | None:
        """User and system seconds of the server, its workers included; None where that cannot be seen (Linux only)."""
        return self._sum(cpu_seconds)

    def memory_kib(self) -> float | None:
        """Resident memory; likewise."""
        return self._sum(resident_kib)

    def _sum(self, figure: Callable[[int], float | None]) -> float | None:
        if self.pid is None:
            return None
        figures = [figure(pid) for pid in (self.pid, *children_of(self.pid))]
        return None if figures[0] is None else sum(value for value in figures if value is not None)


def parse_steps(text: str) -> Steps | None:
    """Read the live lanes' batch histogram, of all workers, from Prometheus' text format; None when it has none."""
    totals = {"sum": 0.0, "count": 0.0}
    found = LIVE_BATCHES.findall(text)
    for kind, value in found:
        totals[kind] += float(value)
    return Steps(totals["sum"], totals["count"]) if found else None


def children_of(pid: int) -> list[int]:
    """Processes that a process has started; none where the kernel does not tell."""
    try:
        return [int(child) for child in (PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except OSError:
        return []


def cpu_seconds(pid: int) -> float | None:
    """User and system time of a process so far; None where the kernel does not tell."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> float | None:
    """Resident memory of a process; None where the kernel does not tell."""
    try:
        lines = (PROC / str(pid) / "status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith("VmRSS:")), None)


def allow_open_files(wanted: int) -> int:
    """Raise this process's limit on open files, which those it starts inherit; returns what it is then.

    Args:
        wanted: Sockets and some more.
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
    """Whether an address is this machine's loopback."""
    return (urlsplit(url).hostname or "") in ("127.0.0.1", "localhost", "::1")


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def started_server(
    max_streams: int, *, program: Sequence[str] = (sys.executable, "-m", "speech_qc"), **settings: str
) -> Iterator[Host]:
    """A server of its own process with the settings of this environment, until the block ends.

    Where the settings name keys it has one of its own: theirs are known by their hashes alone.

    Args:
        max_streams: Places for live channels.
        program: What is started, without its arguments; this installation by default.
        settings: Further SPEECHQC_ variables, names without the prefix.

    Raises:
        HostError: It does not become ready; the message holds the end of its log.
        SettingsError: A setting is wrong.
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
                said = log.read()[-2000:].decode(errors="replace").strip() or "(it said nothing)"
                raise HostError(f"expected a server that becomes ready within {START_S:g} s, it did not: {said}")
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
