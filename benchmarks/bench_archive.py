"""Measure `speech-qc archive`: speed of both engines, memory and the time of a second run.

    python benchmarks/bench_archive.py speed [--clips 10000] [--record]     # local, against recordings of an hour
    python benchmarks/bench_archive.py ray [--clips 3000] [--record]        # both engines, on the same clips
    python benchmarks/bench_archive.py memory [--rows 100000] [--record]    # peak memory, and a run with nothing to do
    python benchmarks/bench_archive.py parts [--parts 2000] [--record]      # recordings of 2 h, cut by a manifest

Clips of 4 s are synthetic speech in noise; an hour consists of the same clips, and is inspected on every core at the
same time, before and after the clips, since cores that share a machine slow each other down. Those of `memory` are
0.1 s long, and links to a few files. For `parts`, manifests cut one recording of 2 h, or, in random order, four of
them; `files` are the same parts as files of their own. Every run is the command itself, in a new process. CPU time and
memory are those of all its processes, read from `/proc` every 100 ms; memory is the largest sum of resident sets, so
shared pages count in each. `cores busy` is CPU time by elapsed time and cores, start of the processes included; what is
neither busy nor idle worked for others. With Ray, whose processes need memory and time of their own to start, the
cluster is started by the command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from recording import machine, markdown, record

from speech_qc.capacity.host import cpu_seconds, descendants_of, resident_kib

RATE_HZ, CLIP_S = 16_000, 4
DISTINCT = 200
"""Clips that differ; more of them would only fill the disk."""
POLL_S = 0.1
HOURS = 1_000_000
LONG_H = 2
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Usage:
    """What a command used, all its processes together."""

    seconds: float
    cpu_s: float
    peak_mib: float
    idle: float
    """Share of the machine's cores that had nothing to do, for this command or for any other one."""


def clip(number: int, seconds: float = CLIP_S) -> np.ndarray:
    """Synthesise speech-like sound: a gliding buzz through formants in syllables, with noise, float32 (n,)."""
    rng = np.random.default_rng(number)
    moments = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    pitch_hz = rng.uniform(90, 220)
    phase = 2 * np.pi * np.cumsum(pitch_hz * (1 + 0.1 * np.sin(4 * moments + rng.uniform(0, 6)))) / RATE_HZ
    sound = np.zeros(len(moments))
    for harmonic in range(1, int(3800 / pitch_hz)):
        hertz = harmonic * pitch_hz
        gain = sum(np.exp(-(((hertz - at) / width) ** 2)) for at, width in ((500, 180), (1500, 250), (2500, 350)))
        sound += (gain + 0.02) / harmonic**0.5 * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * moments + rng.uniform(0, 6)) + 0.5, 0, 1)
    noise = 10 ** (rng.uniform(-70, -40) / 20) * rng.standard_normal(len(moments))
    return (0.2 * sound / np.abs(sound).max() * syllables + noise).astype(np.float32)


def write_archive(folder: Path, count: int, seconds: float = CLIP_S) -> None:
    """Write a folder of clips, most of them links."""
    folder.mkdir()
    for number in range(min(count, DISTINCT)):
        soundfile.write(folder / f"{number:06d}.wav", clip(number, seconds), RATE_HZ, subtype="PCM_16")
    for number in range(DISTINCT, count):
        os.link(folder / f"{number % DISTINCT:06d}.wav", folder / f"{number:06d}.wav")


def measured(command: list[str]) -> Usage:
    """Run a command, and add up what its processes use."""
    started_s = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    cpu_s: dict[int, float] = {}
    idle_s = idle_seconds()
    peak_mib = 0.0
    while process.poll() is None:
        memory_mib = 0.0
        for pid in (process.pid, *descendants_of(process.pid)):
            cpu_s[pid] = cpu_seconds(pid) or cpu_s.get(pid, 0.0)  # none if it has just ended
            memory_mib += (resident_kib(pid) or 0.0) / 1024
        peak_mib = max(peak_mib, memory_mib)
        time.sleep(POLL_S)
    seconds = time.monotonic() - started_s
    assert process.stderr is not None
    errors = process.stderr.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors}")
    return Usage(seconds, sum(cpu_s.values()), peak_mib, (idle_seconds() - idle_s) / seconds / CORES)


def idle_seconds() -> float:
    """Return the time that the cores of this machine were idle, or waited for disks, all together."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def archive(source: Path, out: Path, *options: str) -> Usage:
    """Run `speech-qc archive`."""
    return measured([sys.executable, "-m", "speech_qc", "archive", str(source), "--out", str(out), *options])


def inspect_hour(folder: Path) -> Usage:
    """Run `speech_qc.inspect` on a recording of an hour, without frames, once on each core at the same time."""
    hour = folder / "hour.wav"
    if not hour.exists():
        clips = [clip(number) for number in range(DISTINCT)]
        with soundfile.SoundFile(hour, "w", RATE_HZ, 1, subtype="PCM_16") as file:
            for number in range(3600 // CLIP_S):
                file.write(clips[number % DISTINCT])
    code = f"import speech_qc; speech_qc.inspect({str(hour)!r}, frames=False)"
    many = (
        f"import subprocess, sys\nrun = [subprocess.Popen([sys.executable, '-c', {code!r}]) for _ in range({CORES})]\n"
    )
    return measured([sys.executable, "-c", many + "sys.exit(any([one.wait() for one in run]))"])


def row(name: str, audio_s: float, used: Usage) -> list[str]:
    """Return a row of the table of speed."""
    busy = used.cpu_s / used.seconds / CORES
    rates = [f"{audio_s / used.cpu_s:.0f}", f"{audio_s / used.seconds:.0f}"]
    return [name, *rates, f"{busy:.0%}", f"{used.idle:.0%}", f"{used.peak_mib:.0f}"]


HEADS = ["way", "x real time, CPU of one core", "x real time, wall", "cores busy", "cores idle", "peak memory, MiB"]


def speed(folder: Path, count: int, engines: Sequence[str]) -> str:
    """Compare clips with recordings of an hour, which are inspected before and after them."""
    write_archive(folder / "in", count)
    audio_s, hours_s = count * CLIP_S, CORES * 3600
    before = inspect_hour(folder)
    used = {engine: archive(folder / "in", folder / engine, "--engine", engine) for engine in engines}
    after = inspect_hour(folder)
    rows = [row(f"{CORES} × speech_qc.inspect, 1 h, before", hours_s, before)]
    rows += [row(f"{engine}, {count:,} clips of {CLIP_S} s", audio_s, one) for engine, one in used.items()]
    rows.append(row(f"{CORES} × speech_qc.inspect, 1 h, after", hours_s, after))
    per_core = hours_s / ((before.cpu_s + after.cpu_s) / 2)
    shares = ", ".join(f"{engine} {audio_s / one.cpu_s / per_core:.0%}" for engine, one in used.items())
    rate = audio_s / used["local"].cpu_s
    sizes = (2, 16, 64, 256)
    cost = [[f"{size:,}", f"{HOURS / rate / size:,.0f}", f"{HOURS / rate / size / 24:,.1f}"] for size in sizes]
    return (
        markdown(HEADS, rows)
        + f"\n\nSpeed of the clips per core, start of the processes included, against the hours: {shares}.\n\n"
        + f"{HOURS:,} hours in such clips take {HOURS / rate:,.0f} core hours with the local engine:\n\n"
        + markdown(["cores", "hours", "days"], cost)
    )


def memory(folder: Path, most: int) -> str:
    """Measure peak memory at 1 000 and at many rows, and a second run that has nothing to do."""
    rows = []
    for count in (1_000, most):
        source, out = folder / f"in-{count}", folder / f"out-{count}"
        write_archive(source, count, 0.1)
        first, second = archive(source, out), archive(source, out)
        size = sum(path.stat().st_size for path in out.glob("*.parquet"))
        report = measured([sys.executable, "-m", "speech_qc", "archive", "report", str(out)])
        rows.append([
            f"{count:,}", f"{first.peak_mib:.0f}", f"{first.seconds:.0f}", f"{second.seconds:.1f}",
            f"{second.peak_mib:.0f}", f"{size / count:.0f}", f"{report.seconds:.1f}", f"{report.peak_mib:.0f}",
        ])  # fmt: skip
    heads = [
        "rows", "peak memory, MiB", "first run, s", "second run, s", "its peak memory, MiB", "bytes per row",
        "report, s", "its peak memory, MiB",
    ]  # fmt: skip
    return markdown(heads, rows)


def write_parts(folder: Path, count: int) -> dict[str, Path]:
    """Write recordings of 2 h, manifests that cut them, and the parts as files; return the sources by name."""
    size = LONG_H * 3600 * RATE_HZ // count
    sound = np.concatenate([clip(number) for number in range(DISTINCT)])
    whole = np.tile(sound, -(-size * count // len(sound)))[: size * count]
    (folder / "files").mkdir()
    for number, piece in enumerate(whole.reshape(count, size)):
        soundfile.write(folder / "files" / f"{number:06d}.wav", piece, RATE_HZ, subtype="PCM_16")
    sources = {"files": folder / "files"}
    order = np.random.default_rng(0).permutation(count).tolist()
    for kind in ("wav", "flac"):
        soundfile.write(folder / f"0.{kind}", whole, RATE_HZ, subtype="PCM_16")
        for number in (1, 2, 3):
            os.link(folder / f"0.{kind}", folder / f"{number}.{kind}")
        for way, numbers, files in (("one, in order", range(count), 1), ("four, in random order", order, 4)):
            lines = [
                {"audio_filepath": f"{n % files}.{kind}", "offset": n * size / RATE_HZ, "duration": size / RATE_HZ}
                for n in numbers
            ]
            manifest = folder / f"{files}-{kind}.jsonl"
            manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
            sources[f"{kind.upper()} of {LONG_H} h, {way}"] = manifest
    return sources


def parts(folder: Path, count: int) -> str:
    """Compare parts of long recordings with the same parts as files."""
    rows = []
    for number, (way, source) in enumerate(write_parts(folder, count).items()):
        used = archive(source, folder / f"out-{number}")
        rows.append(row(f"{count:,} parts of {LONG_H * 3600 / count:.3g} s: {way}", LONG_H * 3600, used))
    return markdown(HEADS, rows)


def main() -> None:
    """Measure and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("speed", "ray", "memory", "parts"))
    parser.add_argument("--clips", type=int, help="clips of 4 s (10000, for ray 3000)")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the larger run of memory")
    parser.add_argument("--parts", type=int, default=2_000, help="parts of 2 h")
    parser.add_argument("--record", action="store_true", help="append the result to RESULTS.md")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # or anything else on the machine would slow Ray down
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.part == "speed":
            text = speed(Path(folder), arguments.clips or 10_000, ["local"])
        elif arguments.part == "ray":
            text = speed(Path(folder), arguments.clips or 3_000, ["local", "ray"])
        elif arguments.part == "parts":
            text = parts(Path(folder), arguments.parts)
        else:
            text = memory(Path(folder), arguments.rows)
    print(text)
    if arguments.record:
        record(f"archives, {arguments.part}", about, text)


if __name__ == "__main__":
    main()
