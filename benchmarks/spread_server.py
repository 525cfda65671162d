"""The servers that `bench_spread.py` compares: a parent, its workers, and three ways to distribute connections.

Only `bench_spread.py` starts it, as `python spread_server.py parent …` and `python spread_server.py worker …`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import uvloop

# Workers run this script too and must start quickly, so modules that they do not need are imported inside functions.

HOST = "127.0.0.1"
PERIOD_S = 0.1  # between CPU bursts of a connection, and between reports of a worker as in `WorkerServer`
BACKLOG = 2048  # as in `workers/acceptor.py` and uvicorn
SETTLE_S = 0.3  # time for workers to notice and report closed connections
PASSED, REUSEPORT, SHARED = "descriptors passed by the parent", "SO_REUSEPORT socket per worker", "one shared socket"
VARIANTS = (PASSED, REUSEPORT, SHARED)


class BusyConnection(asyncio.Protocol):
    """A worker's end of a connection: answers with the worker's number, then uses some CPU every 100 ms.

    Args:
        connections: The worker's open connections.
        number: Number of the worker.
        burn_ns: CPU time per 100 ms.
    """

    def __init__(self, connections: set[BusyConnection], number: int, burn_ns: float) -> None:
        self._connections, self._number, self._burn_ns = connections, number, burn_ns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the worker's number and schedule the first burst."""
        self._connections.add(self)
        transport.write(bytes([self._number]))  # type: ignore[attr-defined]  # uvloop's transports inherit nothing
        self._plan()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # the reason does not matter
        """Remove the connection and stop the bursts."""
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
    """Serve until killed; write a line to standard output when ready.

    Args:
        variant: One of `VARIANTS`.
        burn_us: CPU time of a connection per 100 ms.
        source: Descriptor of the channel to the parent or of the shared socket; with SO_REUSEPORT the port.
        number: Number of the worker.
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
    """Return a bound socket that does not listen yet."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    listener.setblocking(False)
    return listener


def run_parent(variant: str, workers: int, port: int, burn_us: float) -> None:
    """Run the workers until SIGTERM and restart those that exit, with our supervisor or with a minimal one."""
    from speech_qc.settings import Settings
    from speech_qc.workers import Supervisor, supervisor

    command = [sys.executable, __file__, "worker", variant, str(burn_us)]
    if variant == PASSED:
        logging.disable()  # the supervisor would log every killed worker
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
    """A parent process with its workers.

    Args:
        variant: One of `VARIANTS`.
        workers: Number of workers.
        burn_us: CPU time of a connection per 100 ms.
    """

    def __init__(self, variant: str, workers: int, burn_us: float) -> None:
        self.variant, self.workers, self._burn_us = variant, workers, burn_us
        self._pids: dict[int, int] = {}

    async def start(self) -> None:
        """Start the processes; return when all workers are ready."""
        from speech_qc.capacity.host import free_port

        self.port = free_port()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "parent", self.variant, str(self.workers), str(self.port), str(self._burn_us),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        for _ in range(self.workers):
            await self._next_ready()

    async def restart_worker(self, number: int) -> None:
        """Kill one worker; return when its successor is ready."""
        os.kill(self._pids[number], signal.SIGKILL)
        await self._next_ready()
        await asyncio.sleep(SETTLE_S)  # until the supervisor has noticed it, too

    async def stop(self) -> None:
        """Stop all processes."""
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    async def _next_ready(self) -> None:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 60)
        if not line:
            raise SystemExit(f"the server ({self.variant}) exited; its messages are above")
        number, pid = map(int, line.split())
        self._pids[number] = pid


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["parent", variant, workers, port, burn_us]:
            run_parent(variant, int(workers), int(port), float(burn_us))
        case ["worker", variant, burn_us, source, number]:
            uvloop.run(run_worker(variant, float(burn_us), int(source), int(number)))
