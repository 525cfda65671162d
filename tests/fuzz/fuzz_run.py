"""Send corrupted recordings and conversations to the application and count the responses."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fuzz_asgi import application, at_rest, post
from fuzz_audio import capture_seeds, media_seeds, seeds, spoiled

ANSWERS = frozenset({200, 400, 413, 415, 422})
"""Acceptable statuses for a corrupted recording; 429 and above would mean that it affected the server."""

SEEDS: dict[str, Callable[[], dict[str, bytes]]] = {
    "recordings": seeds,
    "media": media_seeds,
    "captures": capture_seeds,
}
"""Valid recordings to corrupt: those read in this process, those that FFmpeg decodes, and packet captures."""

WARM_UP = 0.2
"""Share of the inputs before memory growth is measured, because allocators and caches fill up first."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Tally:
    """Counts of the results."""

    statuses: Counter[int] = field(default_factory=Counter)
    by_format: Counter[tuple[str, int]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: int = -1
    growth_bytes: int = 0

    def lines(self) -> list[str]:
        """Return the counts as text."""
        total = sum(self.statuses.values())
        shares = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return [
            f"{total} broken recordings: {shares}",
            f"slowest: number {self.slowest}, {self.slowest_s * 1000:.0f} ms; resident memory after the first fifth: "
            f"{self.growth_bytes / 2**20:+.1f} MiB",
            *self.bad,
        ]


async def fuzz_audio(count: int, *, first: int = 0, kind: str = "recordings") -> Tally:
    """Send this number of corrupted recordings, one after another; `kind` is one of `SEEDS`."""
    tally, good = Tally(), SEEDS[kind]()
    before = 0
    async with application() as app:
        for step in range(count):
            number = first + step
            name, data = spoiled(number, good)
            started_s = time.perf_counter()
            try:
                status, content = await post(app, data)
            except TimeoutError:
                tally.bad.append(f"number {number} ({name}) hangs")
                continue
            seconds = time.perf_counter() - started_s
            if seconds > tally.slowest_s:
                tally.slowest_s, tally.slowest = seconds, number
            tally.statuses[status] += 1
            tally.by_format[name, status] += 1
            if status not in ANSWERS:
                tally.bad.append(f"number {number} ({name}) got {status}: {content[:300].decode(errors='replace')}")
            elif not isinstance(json.loads(content), dict):
                tally.bad.append(f"number {number} ({name}) got no document")
            if not at_rest(app) or decoders():
                tally.bad.append(f"number {number} ({name}) left something behind")
            if step == int(count * WARM_UP):
                before = resident_bytes()
        tally.growth_bytes = resident_bytes() - before
    return tally


def decoders() -> list[int]:
    """Return the process ids of decoders that this process has started; none if the system does not list them."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        found += [int(text) for text in path.read_text().split() if _is_decoder(int(text))]
    return found


def _is_decoder(process: int) -> bool:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        return b"media_worker" in command or b"packet_worker" in command
    except OSError:
        return False


def resident_bytes() -> int:
    """Return the memory of this process; 0 if the system does not report it."""
    gc.collect()
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * PAGE_BYTES if statm.exists() else 0


def run(count: int, *, first: int = 0, kind: str = "recordings") -> Tally:
    """Run `fuzz_audio` from outside an event loop."""
    return asyncio.run(fuzz_audio(count, first=first, kind=kind))
