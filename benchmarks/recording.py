"""Append results with machine, commit and command to `benchmarks/RESULTS.md`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import speech_qc  # noqa: F401  # first, because it disables ONNX Runtime's telemetry

# isort: split
import numpy as np
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def machine() -> str:
    """Describe the machine: processor, cores, Python and the main libraries."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    load = os.getloadavg()[0]
    return (
        f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, "
        f"NumPy {np.__version__}; load average {load:.1f} at the start"
    )


def commit() -> str:
    """Return the short commit hash, with `+` if files other than the results have changes."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/RESULTS.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def record(title: str, about: str, text: str, places: Mapping[str, str] | None = None) -> None:
    """Append an entry with the command line of this process.

    Args:
        title: What was measured.
        about: Description of the machine, taken at the start.
        text: The tables.
        places: Machine-specific arguments, such as folders, and the text to write instead.
    """
    arguments = [(places or {}).get(argument, argument) for argument in sys.argv[1:] if argument != "--record"]
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(
            f"\n## {datetime.now(UTC):%Y-%m-%d}: {title}\n\n{about}. Commit {commit()}.\n`{command}`\n\n{text}\n"
        )
