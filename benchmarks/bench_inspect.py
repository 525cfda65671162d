"""Measure the speed and memory of inspecting a recording.

    python benchmarks/bench_inspect.py [--audio FILE] [--model MODEL.onnx] [--repeats 5] [--hours 1]

Measures bare features, the bare model, the Python API, and HTTP on loopback on the same audio. They alternate within
one run, so that changes of the machine's speed affect all. `x real time` is seconds of audio per CPU second of the
working process (one core), and per wall-clock second. Peak memory is the kernel's figure for the whole process. The
table is printed as Markdown; `--record` appends it to `benchmarks/RESULTS.md` with machine, commit and command.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import soundfile
from recording import ROOT, machine, record

from speech_qc.audio.features import FrontEnd
from speech_qc.capacity.host import cpu_seconds, started_server
from speech_qc.embedded.detector import Detector
from speech_qc.pipeline.factory import make_runner
from speech_qc.settings import Settings
from speech_qc.wire.encode import to_json

RATE_HZ = 16_000


def write_audio(source: Path, seconds: float, target: Path) -> None:
    """Repeat a recording up to a length, block by block."""
    samples, rate = soundfile.read(source, dtype="int16")
    if rate != RATE_HZ or samples.ndim != 1:
        raise SystemExit(f"expected {RATE_HZ} Hz mono, got {rate} Hz with shape {samples.shape}: {source}")
    left = int(seconds * RATE_HZ)
    with soundfile.SoundFile(target, "w", RATE_HZ, 1, "PCM_16") as file:
        while left > 0:
            file.write(samples[:left])
            left -= len(samples)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return CPU and wall-clock seconds of a call in this process."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a running process (Linux)."""
    seconds = cpu_seconds(pid)
    if seconds is None:
        raise SystemExit("the CPU time of a process is available only on Linux")
    return seconds


def measure(path: Path, settings: Settings, repeats: int, url: str, pid: int) -> dict[str, tuple[float, float]]:
    """Return the median (CPU, wall) seconds of each variant; the variants alternate."""
    runner = make_runner(settings)
    front_end = FrontEnd(runner.contract.features)
    hops = settings.upload_chunk_hops
    samples, _ = soundfile.read(path, dtype="float32")
    step = hops * 160
    chunks = [samples[i : i + step + 240][None] for i in range(0, len(samples) - step - 240, step)]
    features = [front_end(chunk) for chunk in chunks[:16]]

    def bare_features() -> None:
        for chunk in chunks:
            front_end(chunk)

    def bare_model() -> None:
        state = np.zeros((1, runner.contract.state_size), np.float32)
        for i in range(len(chunks)):
            _, state = runner.run(features[i % len(features)], state)

    detector = Detector(settings, runner)

    def inspect() -> None:
        to_json(detector.inspect(path).document)

    def over_http() -> tuple[float, float]:
        cpu, wall = cpu_of(pid), time.perf_counter()
        with path.open("rb") as body:
            httpx.post(f"{url}/v1/inspect", content=body, timeout=600).raise_for_status()
        return cpu_of(pid) - cpu, time.perf_counter() - wall

    def four_over_http() -> tuple[float, float]:
        cpu, wall = cpu_of(pid), time.perf_counter()
        body = path.read_bytes()
        with ThreadPoolExecutor(4) as pool:
            for answer in pool.map(lambda _: httpx.post(f"{url}/v1/inspect", content=body, timeout=600), range(4)):
                answer.raise_for_status()
        return (cpu_of(pid) - cpu) / 4, (time.perf_counter() - wall) / 4

    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "bare features": lambda: timed(bare_features),
        "bare model": lambda: timed(bare_model),
        "Python API": lambda: timed(inspect),
        "HTTP": over_http,
    }
    if path.stat().st_size < 10_000_000:  # four long files at the same time would need too much memory
        ways["HTTP, 4 concurrent uploads, each"] = four_over_http
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            result = way()
            if turn:  # the first repetition is warm-up
                taken[name].append(result)
    return {
        name: (statistics.median(c for c, _ in results), statistics.median(w for _, w in results))
        for name, results in taken.items()
    }


def peak_mib(path: Path, settings: Settings) -> float:
    """Return the peak resident memory of a process that inspects a file and writes its JSON, MiB."""
    command = [sys.executable, "-m", "speech_qc", "inspect", str(path), "--format", "json", "--device", "cpu"]
    command += ["--model", str(settings.model_path), "--fail-on", "fail"]
    # The kernel's peak of a process includes the process it was forked from, so a small launcher forks it.
    launcher = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", launcher, *command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"inspect failed: {done.stderr}")
    return int(done.stdout) / 1024


def rss_peak_of(pid: int) -> float:
    """Return the peak resident memory of a running process, MiB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    """Run all measurements and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=ROOT / "examples" / "sample.wav", help="16 kHz mono; repeated")
    parser.add_argument("--model", type=Path, help="model file (default: the shipped one)")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions for the 60 s file; the long file gets one")
    parser.add_argument("--hours", type=float, default=1.0, help="length of the long file")
    parser.add_argument("--record", action="store_true", help="append the table to benchmarks/RESULTS.md")
    options = parser.parse_args()
    chosen = {"model_path": options.model} if options.model else {}
    settings = Settings(device="cpu", **chosen)
    about = machine()
    lines = ["| audio | variant | x real time, CPU of one core | x real time, wall | ms of CPU per second of audio |"]
    lines.append("|---|---|---|---|---|")
    with (
        tempfile.TemporaryDirectory() as folder,
        started_server(settings.max_streams, model_path=str(settings.model_path), device="cpu") as host,
    ):
        url, pid = host.url, host.pid
        assert pid is not None, "a server started here has a process ID"
        minute, long = Path(folder) / "minute.wav", Path(folder) / "long.wav"
        write_audio(options.audio, 60, minute)
        write_audio(options.audio, options.hours * 3600, long)
        for path, seconds, repeats in ((minute, 60.0, options.repeats), (long, options.hours * 3600, 1)):
            for name, (cpu, wall) in measure(path, settings, repeats, url, pid).items():
                lines.append(
                    f"| {seconds:.0f} s | {name} | {seconds / cpu:.0f} | {seconds / wall:.0f} "
                    f"| {cpu / seconds * 1000:.3f} |"
                )
        twice = Path(folder) / "twice.wav"
        write_audio(options.audio, 2 * options.hours * 3600, twice)
        small, large = peak_mib(minute, settings), peak_mib(twice, settings)
        before = rss_peak_of(pid)
        with twice.open("rb") as body:
            httpx.post(f"{url}/v1/inspect?frames=false", content=body, timeout=600).raise_for_status()
        after = rss_peak_of(pid)
    lines += [
        "",
        "| peak memory | MiB |",
        "|---|---|",
        f"| `speech-qc inspect`, 60 s file | {small:.0f} |",
        f"| `speech-qc inspect`, {2 * options.hours:g} h file | {large:.0f} |",
        f"| difference | {large - small:.0f} |",
        f"| server, after the files above | {before:.0f} |",
        f"| server, after an additional {2 * options.hours:g} h WAV without frames | {after:.0f} |",
    ]
    table = "\n".join(lines)
    print(table)
    if options.record:
        record("inspection", about, table)


if __name__ == "__main__":
    main()
