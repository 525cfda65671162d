"""The engine for one machine: a worker process for each core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from multiprocessing.connection import Connection, wait
from typing import Any

import orjson
import pyarrow as pa

from speech_qc.archive.asked import Asked
from speech_qc.archive.items import ArchiveError
from speech_qc.archive.rows import WORKER_DIED, Identity, Row, as_table, failed_row
from speech_qc.archive.transfer import from_bytes, to_bytes
from speech_qc.archive.worker import THREADS

IN_FLIGHT = 2
"""Batches of a worker: one that it inspects, and one that it begins without waiting for this process."""
MAX_DEATHS = 3
"""Workers that an item may end before it becomes a row with an error: among others, with the parts of its recording,
alone; twice alone if it is a whole recording."""
MAX_FATAL_PARTS = 3
"""Neighbouring parts of one recording that end their workers for good; the other parts are not tried again."""
NOT_TRIED = (
    f"it was not tried alone, because {MAX_FATAL_PARTS} other parts of the recording ended their worker processes: "
    "the recording crashes a decoder"
)
MAX_FAILURES = 10
"""Recordings in a row that end their workers; then the machine is at fault, not the recordings."""
STOP_S = 10.0


@dataclass(slots=True, eq=False)
class _Batch:
    items: pa.Table
    deaths: int = 0
    """Workers that have died on it; a batch with any has one recording, and its worker no other batch."""

    def divided(self) -> Iterator[_Batch]:
        """Divide it by recordings after the first death, by items after the second."""
        rows = self.items.select(("uri", "opener")).to_pylist()
        starts = [n for n, row in enumerate(rows) if n == 0 or self.deaths or row != rows[n - 1]]
        for start, stop in pairwise([*starts, len(rows)]):
            yield _Batch(self.items.slice(start, stop - start), self.deaths + 1)


@dataclass(slots=True, eq=False)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    batches: deque[_Batch] = field(default_factory=deque)


class LocalEngine:
    """Worker processes that inspect batches; close it, or use it in a `with` statement.

    Args:
        asked: What is asked of every recording.
        workers: Number of processes; None for one on each core.

    Raises:
        ArchiveError: A worker cannot start; the message says why.
    """

    def __init__(self, asked: Asked, workers: int | None = None) -> None:
        self._asked = asked
        self._count = workers or _cores()
        self._workers: list[_Worker] = []
        self._retries: deque[_Batch] = deque()
        self._fatal: Counter[str] = Counter()
        """Items that have ended their workers for good since the last batch that was done, by recording."""
        self.deaths = 0
        """Workers that have died so far."""
        try:
            for _ in range(self._count):
                self._workers.append(self._start())
            for worker in self._workers:
                self.identity = self._greet(worker)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all workers; idempotent."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait(STOP_S)
        self._workers = []

    def run(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Inspect batches of items.

        Args:
            batches: Each with the columns of `schema.ITEMS`; asked for only when a worker can take one.

        Yields:
            The rows of whole items, in the order in which batches are done.

        Raises:
            ArchiveError: Workers cannot be started, or die whatever they inspect.
        """
        more = True
        while True:
            more = self._hand_out(batches, more)
            busy = [worker for worker in self._workers if worker.batches]
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                rows = self._receive(worker)
                if rows is not None:
                    yield rows

    def _hand_out(self, batches: Iterator[pa.Table], more: bool) -> bool:
        """Give every worker what it can take, first batches for all, then one in reserve; return if there is more."""
        for depth in range(IN_FLIGHT):
            for worker in list(self._workers):
                if len(worker.batches) > depth or any(batch.deaths for batch in worker.batches):
                    continue
                if self._retries and depth:
                    continue  # a retry needs a worker of its own
                if self._retries and not worker.batches:
                    self._send(worker, self._retries.popleft())
                elif more:
                    items = next(batches, None)
                    more = items is not None
                    if items is not None:
                        self._send(worker, _Batch(items))
        return more

    def _send(self, worker: _Worker, batch: _Batch) -> None:
        worker.batches.append(batch)
        with suppress(OSError):  # if it has died, `wait` reports that, and what it had is given to others
            worker.connection.send_bytes(to_bytes(batch.items))

    def _receive(self, worker: _Worker) -> pa.Table | None:
        try:
            rows = from_bytes(worker.connection.recv_bytes())
        except (EOFError, OSError):
            return self._bury(worker)
        worker.batches.popleft()
        self._fatal.clear()
        return rows

    def _bury(self, worker: _Worker) -> pa.Table | None:
        """Replace a worker that has died, and see to its batches; return a row if one of them is at fault."""
        worker.connection.close()
        code = worker.process.wait()
        self.deaths += 1
        self._workers.remove(worker)
        replacement = self._start()
        self._workers.append(replacement)
        if self._greet(replacement) != self.identity:
            raise ArchiveError("the model or the settings have changed during the run: start it again")
        suspect, *others = worker.batches
        self._retries.extend(others)  # it had not begun them
        if suspect.deaths + 1 < MAX_DEATHS:
            self._retries.extend(suspect.divided())
            return None
        failed = suspect.items.to_pylist()
        self._fatal[failed[0]["uri"]] += 1
        if len(self._fatal) >= MAX_FAILURES:
            raise ArchiveError(
                f"{len(self._fatal)} recordings in a row ended their worker processes, the last one {_reason(code)}: "
                "check the memory of this machine, and its system log"
            )
        rows = [failed_row(item, WORKER_DIED, _message(code), self.identity) for item in failed]
        if self._fatal[failed[0]["uri"]] >= MAX_FATAL_PARTS:
            given_up = self._drop_retries(failed[0]["uri"])
            rows += [failed_row(item, WORKER_DIED, NOT_TRIED, self.identity) for item in given_up]
        return as_table(rows)

    def _drop_retries(self, uri: str) -> list[Row]:
        """Give up the parts of a recording that wait to be tried again; return them."""
        given_up = [batch for batch in self._retries if batch.deaths and batch.items["uri"][0].as_py() == uri]
        self._retries = deque(batch for batch in self._retries if batch not in given_up)
        return [item for batch in given_up for item in batch.items.to_pylist()]

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-m", "speech_qc.archive.worker", str(theirs.fileno())]
            try:
                process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=_environment()
                )
            except OSError as error:
                raise ArchiveError(f"a worker process cannot be started: {error}") from error
            connection = Connection(ours.detach())
        connection.send_bytes(orjson.dumps(asdict(self._asked)))
        return _Worker(process, connection)

    def _greet(self, worker: _Worker) -> Identity:
        """Wait until a worker has loaded the model."""
        try:
            answer: dict[str, Any] = orjson.loads(worker.connection.recv_bytes())
        except (EOFError, OSError) as error:
            reason = _reason(worker.process.wait())
            raise ArchiveError(f"a worker process ended {reason} while it loaded the model") from error
        if "error" in answer:
            raise ArchiveError(answer["error"])
        return Identity(**answer)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _environment() -> dict[str, str]:
    """Return the environment of a worker, which imports this package from where this process has it."""
    ours = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths = [ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | THREADS | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _reason(code: int) -> str:
    return f"by signal {-code}" if code < 0 else f"with code {code}"


def _message(code: int) -> str:
    return (
        f"its inspection ended the worker process {MAX_DEATHS} times, the last time alone and {_reason(code)}: "
        "the recording needs more memory than there is, or crashes a decoder"
    )
