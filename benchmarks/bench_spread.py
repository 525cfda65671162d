"""Measure how evenly connections spread over workers: descriptor passing by the parent and two methods of the kernel.

    python benchmarks/bench_spread.py [--parts spread restart] [--workers 2 4] [--connections 40 200 400] [--record]

`spread` compares a parent that accepts connections and passes their descriptors to workers, like
`speech-qc serve --workers`, with one SO_REUSEPORT socket per worker and with one listening socket that all workers
inherit. Workers are real processes on uvloop, and each open connection uses some CPU every 100 ms, like a stream. Long
connections are opened at a steady rate, with a short one, like a scrape, between any two. The server answers every
connection with one byte.

`restart` opens half of the long connections, kills and restarts one worker, and opens the rest when the worker is back.
Short connections continue throughout. Clients that lose their worker do not reconnect.

The servers of all variants run in parallel and are loaded alternately. Linux only, because macOS does not balance
SO_REUSEPORT.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from recording import machine, markdown, record
from spread_server import HOST, PASSED, PERIOD_S, REUSEPORT, SETTLE_S, SHARED, VARIANTS, Server

SERVICE = Path(__file__).resolve().parents[1] / "service" / "speech_qc"

PACE_PER_S = 200  # long connections opened per second, and as many short ones
BURN_US = 250.0  # CPU per burst; 400 connections use one core
PATIENCE_S = 15.0

# Estimates of code lines for the kernel's ways. Both keep `bind_all` and `_no_address` (27 lines with imports), which
# resolve the host and turn a taken port into a SettingsError; uvicorn and asyncio do the accepting.
#   SO_REUSEPORT: 1 line for the option and about 7 in the parent, which must first bind without the option, because a
#     second server of the same user could otherwise share the port unnoticed. macOS requires a different method.
#   Shared: about 5 lines that listen, pass the descriptors to each worker and create sockets from them there.
# Passing descriptors takes about 45 more lines in supervisor.py, member.py and server/worker.py, which are not counted.
ESTIMATED_LINES = {REUSEPORT: 35, SHARED: 32}


# -- clients ------------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """A client's end of a connection.

    Args:
        stays: Keep the connection open after the answer; otherwise close it.
    """

    def __init__(self, *, stays: bool) -> None:
        self.stays = stays
        self.open = False
        self.worker: int | None = None
        self.first_byte_s: float | None = None
        self._ended = asyncio.get_running_loop().create_future()

    async def call(self, port: int) -> Client:
        """Connect and wait for the answer; `first_byte_s` stays None if there is none."""
        loop = asyncio.get_running_loop()
        self._connecting_s = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await loop.create_connection(lambda: self, HOST, port)
                await asyncio.shield(self._ended)
        except (OSError, TimeoutError):
            pass
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:
        """Record the answer."""
        self.first_byte_s = time.perf_counter() - self._connecting_s
        self.worker = data[0]
        if not self._ended.done():
            self._ended.set_result(None)
        if not self.stays:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # `first_byte_s` shows whether there was an answer
        """Mark the connection as closed."""
        self.open = False
        if not self._ended.done():
            self._ended.set_result(None)

    def close(self) -> None:
        """Close the connection if it is open."""
        if self.open:
            self._transport.close()


async def open_connections(port: int, count: int) -> list[Client]:
    """Open long connections at `PACE_PER_S`, with a short one between any two; return when all are answered."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    calls = []
    for place in range(2 * count - 1):
        await asyncio.sleep(start_s + place / (2 * PACE_PER_S) - loop.time())
        calls.append(asyncio.create_task(Client(stays=place % 2 == 0).call(port)))
    return list(await asyncio.gather(*calls))


def connections_by_worker(clients: Iterable[Client], workers: int) -> list[int]:
    """Count the open connections of each worker."""
    counts = Counter(client.worker for client in clients if client.stays and client.open)
    return [counts[worker] for worker in range(workers)]


async def close_all(clients: Iterable[Client]) -> None:
    """Close the connections and give the workers time to notice."""
    for client in clients:
        client.close()
    await asyncio.sleep(SETTLE_S)


@dataclass(frozen=True, slots=True)
class Spread:
    """Results of one measurement.

    Attributes:
        counts: Open connections at the end, by worker; worker 0 is the restarted one.
        first_byte_ms: Time from connecting to the answer, for every answered connection.
        tried: Connections opened while a worker was missing, or all connections if none was restarted.
        failed: Number of `tried` connections without an answer.
    """

    counts: list[int]
    first_byte_ms: list[float]
    tried: int
    failed: int

    def to_mean(self, count: int) -> float:
        """Return the ratio of a number of connections to the mean over the workers."""
        return count / statistics.mean(self.counts)

    def percentile(self, percent: int) -> float:
        """Return a percentile of the time to the first byte, ms; nearest rank."""
        ordered = sorted(self.first_byte_ms)
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


async def measure_spread(server: Server, count: int) -> Spread:
    """Open `count` connections and count them by worker."""
    clients = await open_connections(server.port, count)
    found = _found(server, clients, clients)
    await close_all(clients)
    return found


async def measure_restart(server: Server, count: int) -> Spread:
    """Open half of the connections, kill worker 0, and open the others when it is back."""
    clients = await open_connections(server.port, count // 2)
    calls: list[asyncio.Task[Client]] = []

    async def scrape() -> None:
        while True:
            calls.append(asyncio.create_task(Client(stays=False).call(server.port)))
            await asyncio.sleep(1 / PACE_PER_S)

    scraping = asyncio.create_task(scrape())
    await asyncio.sleep(PERIOD_S)
    await server.restart_worker(0)
    scraping.cancel()
    meanwhile = await asyncio.gather(*calls)
    clients += await open_connections(server.port, count - count // 2)
    found = _found(server, clients, meanwhile)
    await close_all(clients)
    return found


def _found(server: Server, clients: Iterable[Client], timed: Sequence[Client]) -> Spread:
    waits_ms = [1000 * client.first_byte_s for client in timed if client.first_byte_s is not None]
    return Spread(connections_by_worker(clients, server.workers), waits_ms, len(timed), len(timed) - len(waits_ms))


Measure = Callable[[Server, int], Coroutine[Any, Any, Spread]]
Found = dict[tuple[int, str], list[Spread]]


async def measure_in_turn(measure: Measure, workers: int, options: argparse.Namespace) -> Found:
    """Measure all variants alternately, `options.turns` times; by number of connections and variant."""
    servers = [Server(variant, workers, options.burn_us) for variant in VARIANTS]
    found: Found = {(count, variant): [] for count in options.connections for variant in VARIANTS}
    started: list[Server] = []
    try:
        for server in servers:
            await server.start()
            started.append(server)
        for _ in range(options.turns):
            for count in options.connections:
                for server in servers:
                    found[count, server.variant].append(await measure(server, count))
    finally:
        for server in started:
            await server.stop()
    return found


# -- tables -----------------------------------------------------------------------------------------------------------


def with_worst(values: Iterable[float], digits: int = 2, *, least: bool = False) -> str:
    """Format the median and, in brackets, the worst value: the largest, or with `least` the smallest."""
    taken = list(values)
    worst = min(taken) if least else max(taken)
    return f"{statistics.median(taken):.{digits}f} ({worst:.{digits}f})"


def spread_table(by_workers: dict[int, Found]) -> str:
    """Return the distribution of the connections and the response times, as Markdown."""
    rows = [
        [
            f"{workers}", f"{count}", variant,
            with_worst((max(one.counts) for one in turns), 0),
            with_worst((min(one.counts) for one in turns), 0, least=True),
            with_worst(one.to_mean(max(one.counts)) for one in turns),
            with_worst(one.percentile(50) for one in turns),
            with_worst(one.percentile(99) for one in turns),
            f"{sum(one.failed for one in turns)} of {sum(one.tried for one in turns)}",
        ]
        for workers, found in by_workers.items()
        for (count, variant), turns in found.items()
    ]  # fmt: skip
    headings = [
        "workers", "connections", "variant", "fullest worker", "emptiest", "fullest to mean", "first byte p50, ms",
        "p99, ms", "unanswered",
    ]  # fmt: skip
    return f"Medians of the repetitions, worst in brackets.\n\n{markdown(headings, rows)}"


def restart_table(by_workers: dict[int, Found]) -> str:
    """Return the number of connections of the restarted worker at the end, as Markdown."""
    rows = [
        [
            f"{workers}", f"{count}", variant,
            with_worst((one.counts[0] for one in turns), 0, least=True),
            with_worst((one.to_mean(one.counts[0]) for one in turns), least=True),
            with_worst(one.to_mean(max(one.counts)) for one in turns),
            with_worst(one.percentile(99) for one in turns),
            f"{sum(one.failed for one in turns)} of {sum(one.tried for one in turns)}",
        ]
        for workers, found in by_workers.items()
        for (count, variant), turns in found.items()
    ]  # fmt: skip
    headings = [
        "workers", "connections", "variant", "new worker has", "new worker to mean", "fullest to mean",
        "first byte p99 during the restart, ms", "unanswered during the restart",
    ]  # fmt: skip
    return f"Medians of the repetitions, worst in brackets.\n\n{markdown(headings, rows)}"


def code_lines(path: Path) -> tuple[int, int]:
    """Count all lines of a Python file, and those with code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    documented = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = text.splitlines()
    kept = [
        line
        for number, line in enumerate(lines, 1)
        if number not in documented and line.strip() and not line.lstrip().startswith("#")
    ]
    return len(lines), len(kept)


def lines_table() -> str:
    """Return the lines of our code that each variant requires, as Markdown."""
    files = [code_lines(SERVICE / "workers" / name) for name in ("acceptor.py", "fd_passing.py")]
    own = f"{sum(code for _, code in files)} ({sum(total for total, _ in files)} with comments and blank lines)"
    rows = [[PASSED, own], *([variant, f"about {lines}"] for variant, lines in ESTIMATED_LINES.items())]
    return markdown(["variant", "lines of our code"], rows)


def main() -> None:
    """Run the requested measurements and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("spread", "restart")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--connections", type=int, nargs="+", default=[40, 200, 400])
    parser.add_argument("--turns", type=int, default=3, help="repetitions of `spread` and `restart`")
    parser.add_argument("--burn-us", type=float, default=BURN_US, help="CPU time of an open connection per 100 ms, µs")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    about = machine()
    tables = []
    measures: list[tuple[str, Measure, Callable[[dict[int, Found]], str]]] = [
        ("spread", measure_spread, spread_table),
        ("restart", measure_restart, restart_table),
    ]
    for part, measure, table in measures:
        if part in options.parts:
            tables.append(table({w: uvloop.run(measure_in_turn(measure, w, options)) for w in options.workers}))
    text = "\n\n".join([*tables, lines_table()])
    print(text)
    if options.record:
        record("spread of connections over workers", about, text)


if __name__ == "__main__":
    main()
