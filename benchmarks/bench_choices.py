"""Two hand-written parts against what would replace them: the batch histogram and the spread of connections.

    python benchmarks/bench_choices.py [--parts histogram spread restart] [--workers 2 4] [--record]

`histogram`: what a live chunk observes (its lag, its time in the queue, and its part of the step's two figures), with
`BatchHistogram` and with `prometheus_client.Histogram`. The variants alternate; a figure is a median of CPU time.

`spread`: a parent that accepts and passes descriptors to workers, as `speech-qc serve --workers` does, against one
SO_REUSEPORT socket per worker and against one listening socket that all workers inherit. Workers are real processes on
uvloop; each open connection uses some CPU every 100 ms, as a stream does. Long connections are opened at a steady pace
with a short one, like a scrape, between any two. Every connection is answered with one byte.

`restart`: half of the long connections are opened, one worker is killed and started again, and the rest is opened when
it is back. Short connections go on throughout. Clients that lose their worker do not come back.

Servers of all variants run side by side and are loaded in turn. Linux only: macOS does not balance SO_REUSEPORT.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import logging
import os
import signal
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import uvloop

# What the workers do not need is imported inside functions: a worker is this script, and must start quickly.

SERVICE = Path(__file__).resolve().parents[1] / "service" / "speech_qc"

BATCHES = (1, 8, 64, 128)
CHUNKS = 2048  # per repetition
CHUNK_US = 778.0  # server CPU per live chunk of 100 ms, all of the server's work included
WARM_UP = 3  # repetitions that are not counted

HOST = "127.0.0.1"
PACE_PER_S = 200  # long connections opened per second, and as many short ones
PERIOD_S = 0.1  # between two bursts of CPU of a connection, and between two reports of a worker, as in `WorkerServer`
BURN_US = 250.0  # CPU per burst; 400 connections use one core
BACKLOG = 2048  # as in `workers/acceptor.py` and uvicorn
SETTLE_S = 0.3  # until workers have noticed and reported that connections ended
PATIENCE_S = 15.0

PASSED, REUSEPORT, SHARED = "descriptors passed by the parent", "SO_REUSEPORT socket per worker", "one shared socket"
VARIANTS = (PASSED, REUSEPORT, SHARED)

# Estimates of code lines for the kernel's ways. Both keep `bind_all` and `_no_address` (27 lines with imports), which
# resolve the host and turn a taken port into a SettingsError; uvicorn and asyncio do the accepting.
#   SO_REUSEPORT: 1 line for the option and some 7 in the parent, which must bind without the option first, because a
#     second server of the same user could otherwise share the port unnoticed. macOS needs another way beside it.
#   Shared: some 5 lines that listen, pass the descriptors to each worker and make sockets of them there.
# Passing descriptors needs some 45 lines more in supervisor.py, member.py and server/worker.py, which are not counted.
ESTIMATED_LINES = {REUSEPORT: 35, SHARED: 32}


def code_lines(path: Path) -> tuple[int, int]:
    """All lines of a Python file, and those that hold code: no blank lines, comments or docstrings."""
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


# -- histogram --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepFigures:
    """What one step and the chunks in it observe, in seconds."""

    step_s: float
    queue_s: list[float]
    lag_s: list[float]


class Observer(Protocol):
    """Observes what the engine and the scorers do for one step."""

    def __call__(self, figures: StepFigures) -> None:
        """Count the step and each of its chunks."""


def own_observer(registry: Any) -> Observer:
    """Use `BatchHistogram` as `Metrics.on_step` and `Scorer` do."""
    from speech_qc.telemetry.histogram import BatchHistogram
    from speech_qc.telemetry.metrics import BATCH_BUCKETS, LAG_BUCKETS, SECONDS_BUCKETS

    step = BatchHistogram("step_seconds", "Step.", ["lane"], buckets=SECONDS_BUCKETS, registry=registry)
    queue = BatchHistogram("queue_seconds", "Queue.", ["lane"], buckets=SECONDS_BUCKETS, registry=registry)
    batch = BatchHistogram("batch_size", "Batch.", ["lane"], buckets=BATCH_BUCKETS, registry=registry)
    lag = BatchHistogram("lag_seconds", "Lag.", buckets=LAG_BUCKETS, registry=registry).labels()

    def observe(figures: StepFigures) -> None:
        step.labels("live").observe(figures.step_s)
        batch.labels("live").observe(len(figures.queue_s))
        queue.labels("live").observe_many(figures.queue_s)
        for value in figures.lag_s:
            lag.observe(value)

    return observe


def library_observer(registry: Any, *, keep_series: bool) -> Observer:
    """Use `prometheus_client.Histogram` in the same places.

    Args:
        registry: Where to register.
        keep_series: Look the labels up once, instead of at each step.
    """
    from prometheus_client import Histogram

    from speech_qc.telemetry.metrics import BATCH_BUCKETS, LAG_BUCKETS, SECONDS_BUCKETS

    step = Histogram("step_seconds", "Step.", ["lane"], buckets=SECONDS_BUCKETS, registry=registry)
    queue = Histogram("queue_seconds", "Queue.", ["lane"], buckets=SECONDS_BUCKETS, registry=registry)
    batch = Histogram("batch_size", "Batch.", ["lane"], buckets=BATCH_BUCKETS, registry=registry)
    lag = Histogram("lag_seconds", "Lag.", buckets=LAG_BUCKETS, registry=registry)
    kept_step, kept_batch, kept_queue = step.labels("live"), batch.labels("live"), queue.labels("live")

    def observe_kept(figures: StepFigures) -> None:
        kept_step.observe(figures.step_s)
        kept_batch.observe(len(figures.queue_s))
        for value in figures.queue_s:
            kept_queue.observe(value)
        for value in figures.lag_s:
            lag.observe(value)

    def observe(figures: StepFigures) -> None:
        step.labels("live").observe(figures.step_s)
        batch.labels("live").observe(len(figures.queue_s))
        series = queue.labels("live")
        for value in figures.queue_s:
            series.observe(value)
        for value in figures.lag_s:
            lag.observe(value)

    return observe_kept if keep_series else observe


def make_steps(batch: int) -> list[StepFigures]:
    """Make steps of `CHUNKS` chunks in total, with durations typical of a loaded server."""
    import numpy as np

    random = np.random.default_rng(batch)
    return [
        StepFigures(
            step_s=0.001 + 0.0003 * batch,
            queue_s=random.lognormal(np.log(0.004), 0.8, batch).tolist(),
            lag_s=random.lognormal(np.log(0.015), 0.8, batch).tolist(),
        )
        for _ in range(CHUNKS // batch)
    ]


def bucket_counts(registry: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return all bucket counts and totals; sums are left out, since they differ by rounding."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.endswith(("_bucket", "_count"))
    }


def histogram_table(repeats: int, chunk_us: float) -> str:
    """CPU per chunk of each variant, by batch size, in Markdown."""
    from prometheus_client import CollectorRegistry
    from recording import markdown

    registries = [CollectorRegistry() for _ in range(3)]
    observers: list[Observer] = [
        own_observer(registries[0]),
        library_observer(registries[1], keep_series=True),
        library_observer(registries[2], keep_series=False),
    ]
    rows = []
    for batch in BATCHES:
        steps = make_steps(batch)
        taken_us: list[list[float]] = [[] for _ in observers]
        for turn in range(repeats + WARM_UP):
            for place, observe in enumerate(observers):
                before_ns = time.process_time_ns()
                for figures in steps:
                    observe(figures)
                if turn >= WARM_UP:
                    taken_us[place].append((time.process_time_ns() - before_ns) / 1000 / (len(steps) * batch))
        own, kept, looked_up = map(statistics.median, taken_us)
        rows.append([
            f"{batch}", f"{own:.2f}", f"{kept:.2f}", f"{looked_up:.2f}", f"{100 * own / chunk_us:.2f} %",
            f"{100 * kept / chunk_us:.2f} %", f"{100 * looked_up / chunk_us:.2f} %", f"{kept - own:.2f}",
        ])  # fmt: skip
    own_counts, *library_counts = map(bucket_counts, registries)
    if any(counts != own_counts for counts in library_counts):
        raise SystemExit("the variants counted differently, so their times cannot be compared")
    total, code = code_lines(SERVICE / "telemetry" / "histogram.py")
    headings = [
        "chunks per step", "own, µs per chunk", "library, series kept", "library, `labels()` at each step",
        f"own, share of {chunk_us:g} µs", "library, series kept", "library, `labels()`", "saved, µs per chunk",
    ]  # fmt: skip
    return f"{markdown(headings, rows)}\n\ntelemetry/histogram.py: {total} lines, {code} of code."


# -- the server under test --------------------------------------------------------------------------------------------


class BusyConnection(asyncio.Protocol):
    """A worker's end of a connection: answers with the worker's number, then uses some CPU every 100 ms.

    Args:
        connections: Those of the worker that are open.
        number: Identifies the worker.
        burn_ns: CPU per 100 ms.
    """

    def __init__(self, connections: set[BusyConnection], number: int, burn_ns: float) -> None:
        self._connections, self._number, self._burn_ns = connections, number, burn_ns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer."""
        self._connections.add(self)
        transport.write(bytes([self._number]))  # type: ignore[attr-defined]  # uvloop's transports inherit nothing
        self._plan()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the reason does not matter
        """Stop."""
        self._connections.discard(self)
        self._next.cancel()

    def _plan(self) -> None:
        self._next = asyncio.get_running_loop().call_later(PERIOD_S, self._burn)

    def _burn(self) -> None:
        end_ns = time.thread_time_ns() + self._burn_ns
        while time.thread_time_ns() < end_ns:
            pass
        self._plan()


async def run_worker(variant: str, burn_us: float, source: int, number: int) -> None:
    """Serve until killed; says on standard output that it is ready.

    Args:
        variant: One of `VARIANTS`.
        burn_us: CPU of a connection per 100 ms.
        source: Descriptor of the channel to the parent or of the shared socket; with SO_REUSEPORT the port.
        number: Identifies the worker.
    """
    from speech_qc.workers import ConnectionReceiver, Job, Member

    loop = asyncio.get_running_loop()
    connections: set[BusyConnection] = set()
    serve_one = partial(BusyConnection, connections, number, burn_us * 1000)
    report: Callable[[], None] | None = None
    if variant == PASSED:
        channel = socket.socket(fileno=source)
        job = Job.receive(channel)
        if job is None:
            return
        member = Member(channel, number, job.workers)
        receiver = ConnectionReceiver(socket.socket(fileno=job.handover))

        async def adopt(connection: socket.socket) -> None:
            await loop.connect_accepted_socket(serve_one, connection)

        def report_load() -> None:
            member.report(receiver.taken, len(connections), True)

        await member.join()
        receiver.start(adopt, report_load)
        report = report_load
    else:
        listener = socket.socket(fileno=source) if variant == SHARED else bound_socket(source, reuse_port=True)
        await loop.create_server(serve_one, sock=listener, backlog=BACKLOG)
    os.write(1, f"{number} {os.getpid()}\n".encode())
    while True:
        await asyncio.sleep(PERIOD_S)
        if report is not None:
            report()


def bound_socket(port: int, *, reuse_port: bool) -> socket.socket:
    """A socket that does not listen yet."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    listener.setblocking(False)
    return listener


def run_parent(variant: str, workers: int, port: int, burn_us: float) -> None:
    """Run the workers until SIGTERM and restart those that end, with our supervisor or with a minimal one."""
    from speech_qc.settings import Settings
    from speech_qc.workers import Supervisor, supervisor

    command = [sys.executable, __file__, "worker", variant, str(burn_us)]
    if variant == PASSED:
        logging.disable()  # the supervisor would log every worker that is killed here
        supervisor.HEALTHY_S = 0.0  # so that every restart has the same delay
        Supervisor(Settings(host=HOST, port=port, workers=workers), command).run()
        return
    shared = bound_socket(port, reuse_port=False) if variant == SHARED else None
    source = port if shared is None else shared.fileno()

    async def keep(number: int) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                *command, str(source), str(number), pass_fds=[] if shared is None else [source]
            )
            try:
                await process.wait()
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            await asyncio.sleep(supervisor.FIRST_DELAY_S)

    async def keep_all() -> None:
        keepers = asyncio.gather(*map(keep, range(workers)))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, keepers.cancel)
        with suppress(asyncio.CancelledError):
            await keepers

    asyncio.run(keep_all())


class Server:
    """A parent with its workers, started and stopped here.

    Args:
        variant: How connections reach the workers.
        workers: How many.
        burn_us: CPU of a connection per 100 ms.
    """

    def __init__(self, variant: str, workers: int, burn_us: float) -> None:
        self.variant, self.workers, self._burn_us = variant, workers, burn_us
        self._pids: dict[int, int] = {}

    async def start(self) -> None:
        """Return when all workers are ready."""
        from speech_qc.capacity.host import free_port

        self.port = free_port()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "parent", self.variant, str(self.workers), str(self.port), str(self._burn_us),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        for _ in range(self.workers):
            await self._next_ready()

    async def restart_worker(self, number: int) -> None:
        """Kill one worker; returns when its successor is ready."""
        os.kill(self._pids[number], signal.SIGKILL)
        await self._next_ready()
        await asyncio.sleep(SETTLE_S)  # the supervisor learns of it at about the same time

    async def stop(self) -> None:
        """End all processes."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    async def _next_ready(self) -> None:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        if not line:
            raise SystemExit(f"the server ({self.variant}) ended; its messages are above")
        number, pid = map(int, line.split())
        self._pids[number] = pid


# -- the clients ------------------------------------------------------------------------------------------------------


class Client(asyncio.Protocol):
    """A client's end of a connection.

    Args:
        stays: Keep the connection open; otherwise close it once it is answered.
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
        """Take the answer."""
        self.first_byte_s = time.perf_counter() - self._connecting_s
        self.worker = data[0]
        if not self._ended.done():
            self._ended.set_result(None)
        if not self.stays:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # `first_byte_s` tells success
        """Note that the connection is gone."""
        self.open = False
        if not self._ended.done():
            self._ended.set_result(None)

    def close(self) -> None:
        """Close what is open."""
        if self.open:
            self._transport.close()


async def open_connections(port: int, count: int) -> list[Client]:
    """Open long connections at `PACE_PER_S`, with a short one between any two; returns all when they are answered."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    calls = []
    for place in range(2 * count - 1):
        await asyncio.sleep(start_s + place / (2 * PACE_PER_S) - loop.time())
        calls.append(asyncio.create_task(Client(stays=place % 2 == 0).call(port)))
    return list(await asyncio.gather(*calls))


def connections_by_worker(clients: Iterable[Client], workers: int) -> list[int]:
    """How many of the connections that are open each worker has."""
    counts = Counter(client.worker for client in clients if client.stays and client.open)
    return [counts[worker] for worker in range(workers)]


async def close_all(clients: Iterable[Client]) -> None:
    """Close the connections and give the workers time to notice."""
    for client in clients:
        client.close()
    await asyncio.sleep(SETTLE_S)


@dataclass(frozen=True, slots=True)
class Spread:
    """What one measurement found.

    Attributes:
        counts: Connections that are open at the end, by worker; worker 0 is the one that was restarted.
        first_byte_ms: Time from connecting to the answer, of every connection that was answered.
        tried: Connections opened while a worker was missing, or at all where none was restarted.
        failed: Those without an answer.
    """

    counts: list[int]
    first_byte_ms: list[float]
    tried: int
    failed: int

    def to_mean(self, count: int) -> float:
        """A number of connections to the mean of the workers."""
        return count / statistics.mean(self.counts)

    def percentile(self, percent: int) -> float:
        """Percentile of the time to the first byte, ms; nearest rank."""
        ordered = sorted(self.first_byte_ms)
        return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


async def measure_spread(server: Server, count: int) -> Spread:
    """Open `count` connections and see who has them."""
    clients = await open_connections(server.port, count)
    found = _found(server, clients, clients)
    await close_all(clients)
    return found


async def measure_restart(server: Server, count: int) -> Spread:
    """Open half of the connections, kill worker 0, open the others when it is back."""
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
    """Measure all variants `options.turns` times, in turn; by number of connections and variant."""
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
    """Median and, in brackets, the worst value: the largest, or the smallest."""
    taken = list(values)
    worst = min(taken) if least else max(taken)
    return f"{statistics.median(taken):.{digits}f} ({worst:.{digits}f})"


def spread_table(by_workers: dict[int, Found]) -> str:
    """Who has the connections, and how long an answer takes, in Markdown."""
    from recording import markdown

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
    """How full a restarted worker is in the end, in Markdown."""
    from recording import markdown

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


def lines_table() -> str:
    """Lines of our code that each variant needs, in Markdown."""
    from recording import markdown

    files = [code_lines(SERVICE / "workers" / name) for name in ("acceptor.py", "fd_passing.py")]
    own = f"{sum(code for _, code in files)} ({sum(total for total, _ in files)} with comments and blank lines)"
    rows = [[PASSED, own], *([variant, f"about {lines}"] for variant, lines in ESTIMATED_LINES.items())]
    return markdown(["variant", "lines of code of ours"], rows)


def main() -> None:
    """Measure what was asked for and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("histogram", "spread", "restart")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--repeats", type=int, default=40, help="repetitions of `histogram`")
    parser.add_argument("--chunk-us", type=float, default=CHUNK_US, help="server CPU per live chunk, µs")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--connections", type=int, nargs="+", default=[40, 200, 400])
    parser.add_argument("--turns", type=int, default=3, help="repetitions of `spread` and `restart`")
    parser.add_argument("--burn-us", type=float, default=BURN_US, help="CPU of an open connection per 100 ms, µs")
    parser.add_argument("--record", action="store_true", help="append the tables to benchmarks/RESULTS.md")
    options = parser.parse_args()
    from recording import machine, record

    about = machine()
    tables = []
    if "histogram" in options.parts:
        tables.append(histogram_table(options.repeats, options.chunk_us))
    parts_of_spread: list[tuple[str, Measure, Callable[[dict[int, Found]], str]]] = [
        ("spread", measure_spread, spread_table),
        ("restart", measure_restart, restart_table),
    ]
    for part, measure, table in parts_of_spread:
        if part in options.parts:
            tables.append(table({w: uvloop.run(measure_in_turn(measure, w, options)) for w in options.workers}))
    if len(tables) > ("histogram" in options.parts):
        tables.append(lines_table())
    text = "\n\n".join(tables)
    print(text)
    if options.record:
        record("hand-written parts and their replacements", about, text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["parent", variant, workers, port, burn_us]:
            run_parent(variant, int(workers), int(port), float(burn_us))
        case ["worker", variant, burn_us, source, number]:
            uvloop.run(run_worker(variant, float(burn_us), int(source), int(number)))
        case _:
            main()
