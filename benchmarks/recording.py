"""Where the figures go: a table with machine, commit and command at the end of `benchmarks/RESULTS.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench_inspect import ROOT, commit

RESULTS = ROOT / "benchmarks" / "RESULTS.md"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def record(title: str, about: str, text: str) -> None:
    """Append an entry; the command is that of this process.

    Args:
        title: What was measured.
        about: Of the machine, taken at the start.
        text: The tables.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--record"]
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments])
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(
            f"\n## {datetime.now(UTC):%Y-%m-%d}: {title}\n\n{about}. Commit {commit()}.\n`{command}`\n\n{text}\n"
        )
