"""Measure the time from the start of the service until it is ready, natively and in a container.

    python benchmarks/bench_start.py [--runs 5] [--other CHECKOUT] [--image speech-qc:latest] [--record]

Each run starts `speech-qc serve` on a free port and polls `/health/ready` every 10 ms until it returns 200, which
covers imports, model, warm-up and opening the port. With --image, the same is measured from the call of `docker run`,
with the restrictions of the Compose file; the image's health check is not awaited. The CPU time is that of the process
until then. Modules are compiled beforehand by an extra start that is not counted, as an installer or the image build
does. With --other, starts of another checkout alternate with those of this one.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recording import machine, markdown, record

from speech_qc.capacity.host import children_of, free_port

ROOT = Path(__file__).resolve().parent.parent
TARGET_S = 2.0
PATIENCE_S = 300.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
NAME = "speech-qc-bench-start"


@dataclass(frozen=True)
class Start:
    """One start.

    Attributes:
        ready_s: Time from the call to the first 200.
        cpu_s: CPU time of the process until then; None if it is not available.
    """

    ready_s: float
    cpu_s: float | None


def is_ready(port: int) -> bool:
    """Whether the server accepts new work."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait(port: int, alive: Callable[[], bool]) -> None:
    """Wait until the server is ready.

    Raises:
        RuntimeError: The server exited or takes too long.
    """
    deadline = time.perf_counter() + PATIENCE_S
    while not is_ready(port):
        if not alive() or time.perf_counter() > deadline:
            raise RuntimeError(f"the server on port {port} exited or was not ready after {PATIENCE_S:.0f} s")
        time.sleep(0.01)


def cpu_s(pid: int) -> float | None:
    """Return user and system time of a process and the children it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:15])) / TICKS_PER_S


def contained_cpu_s(container: str) -> float | None:
    """Return the CPU time of the service in a container; None if the container runs on a different kernel."""
    words = ["docker", "inspect", "--format={{.State.Pid}}", container]
    init = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    try:
        ours = [one for one in children_of(int(init)) if b"speech-qc" in Path(f"/proc/{one}/cmdline").read_bytes()]
    except OSError:
        return None
    return cpu_s(ours[0]) if len(ours) == 1 else None


def alone(environment: dict[str, str], checkout: Path = ROOT) -> Start:
    """Start the service of a checkout with this Python."""
    port = free_port()
    words = [sys.executable, "-m", "speech_qc", "serve", "--port", str(port)]
    environment = environment | {"PYTHONPATH": str(checkout / "service")}
    start = time.perf_counter()
    silent = subprocess.DEVNULL
    process = subprocess.Popen(words, cwd=checkout, env=environment, stdout=silent, stderr=silent)
    try:
        wait(port, lambda: process.poll() is None)
        return Start(time.perf_counter() - start, cpu_s(process.pid))
    finally:
        process.terminate()
        process.wait()


def contained(image: str) -> Start:
    """Start the service in a container."""
    port = free_port()
    subprocess.run(["docker", "rm", "--force", NAME], capture_output=True, check=False)
    words = ["docker", "run", "--detach", f"--name={NAME}", f"--network={NAME}", "--read-only", "--tmpfs=/tmp"]
    words += ["--cap-drop=ALL", "--security-opt=no-new-privileges:true", "--cpus=2", "--memory=2g", "--init"]
    words += [f"--publish=127.0.0.1:{port}:8000", "--env=SPEECHQC_ALLOW_ANONYMOUS=true", image]
    state = ["docker", "inspect", "--format={{.State.Running}}", NAME]
    # A separate network, because the engine may have no default bridge.
    subprocess.run(["docker", "network", "create", NAME], check=True, capture_output=True)
    try:
        start = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        # Querying the engine takes as long as many polls, so it is queried only if the server is not ready after 10 s.
        quiet = time.perf_counter() + 10

        def alive() -> bool:
            return time.perf_counter() < quiet or "true" in subprocess.run(state, capture_output=True, text=True).stdout

        wait(port, alive)
        return Start(time.perf_counter() - start, contained_cpu_s(NAME))
    finally:
        subprocess.run(["docker", "rm", "--force", NAME], capture_output=True, check=False)
        subprocess.run(["docker", "network", "rm", NAME], capture_output=True, check=False)


def row(way: str, starts: list[Start]) -> list[str]:
    """Return a table row."""
    ready = [one.ready_s for one in starts]
    used = [one.cpu_s for one in starts if one.cpu_s is not None]
    half = statistics.median(ready)
    cpu = [f"{min(used):.2f}", f"{statistics.median(used):.2f}"] if used else ["–", "–"]
    return [way, str(len(starts)), f"{min(ready):.2f}", f"{half:.2f}", f"{max(ready):.2f}", *cpu,
            "yes" if half <= TARGET_S else "no"]  # fmt: skip


def natively(environment: dict[str, str], other: Path | None, runs: int) -> list[list[str]]:
    """Start this checkout, and in turn with it another one, and return a table row for each."""
    checkouts = {"alone": ROOT} | ({"other checkout, alone": other.resolve()} if other else {})
    for checkout in checkouts.values():
        alone(environment, checkout)  # compiles
    starts: dict[str, list[Start]] = {name: [] for name in checkouts}
    for _ in range(runs):
        for name, checkout in checkouts.items():
            starts[name].append(alone(environment, checkout))
    return [row(name, found) for name, found in starts.items()]


def main() -> None:
    """Measure, print the table, and append it to the results with --record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--other", type=Path, help="another checkout to compare with")
    parser.add_argument("--image", help="also measure a container of this image")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    about = machine()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPEECHQC_")}
    environment["SPEECHQC_DEVICE"] = "cpu"
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as compiled:
        environment["PYTHONPYCACHEPREFIX"] = compiled
        rows = natively(environment, arguments.other, arguments.runs)
    if arguments.image:
        starts = [contained(arguments.image) for _ in range(arguments.runs)]
        rows.append(row(f"container of {arguments.image}", starts))
    seconds = ["min s", "p50 s", "max s", "min CPU s", "p50 CPU s"]
    text = markdown(["variant", "runs", *seconds, f"p50 within {TARGET_S:g} s"], rows)
    print(text)
    if arguments.record:
        record("start to ready", about, text, {str(arguments.other): "CHECKOUT"} if arguments.other else None)


if __name__ == "__main__":
    main()
