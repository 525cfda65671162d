"""The parent of all workers: starts them again, gives them connections, passes metrics on, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from speech_qc.errors import SettingsError, StartupError
from speech_qc.exit_codes import FOUND, OK, of_signal
from speech_qc.settings import Settings
from speech_qc.shutdown import DrainDeadline
from speech_qc.workers.acceptor import Acceptor
from speech_qc.workers.channel import Channel, Message
from speech_qc.workers.fd_passing import ConnectionSender
from speech_qc.workers.member import Job
from speech_qc.workers.reload import FAILED, RELOAD_S, Reloads

logger = logging.getLogger("speech_qc.workers")

READ_S = 2.0
"""Longest wait for the metrics of one worker."""
LATE_S = 1.0
"""Workers end by themselves when their time to drain is over, whatever hangs; but for what hangs all their threads."""
FIRST_DELAY_S = 0.5
MOST_DELAY_S = 30.0
HEALTHY_S = 60.0
"""A worker that lived this long ended for a new reason: its next start is not put off further."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def delay_s(previous_s: float | None, lived_s: float) -> float:
    """Seconds until a worker is started again.

    Args:
        previous_s: The wait before; None for the first one.
        lived_s: How long the worker has run.
    """
    return FIRST_DELAY_S if previous_s is None or lived_s >= HEALTHY_S else min(2 * previous_s, MOST_DELAY_S)


class _Worker:
    """One process and the parent's ends of what leads to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel, giver: ConnectionSender, reloads_before: int
    ) -> None:
        self.process, self.channel, self.giver, self.reloads_before = process, channel, giver, reloads_before
        self.up = self.served = False
        self.failure: str | None = None

    async def read(self) -> str | None:
        """Its metrics; None when it does not answer."""
        try:
            text: str = (await self.channel.ask("read", READ_S))["text"]
        except (TimeoutError, ConnectionError):
            return None
        return text

    async def reload(self) -> Message:
        """Have it load the model file anew; how that went, as `speech_qc.workers.reload` has it."""
        try:
            said = await self.channel.ask("reload", RELOAD_S)
        except TimeoutError:
            return {"outcome": FAILED, "message": f"it did not answer within {RELOAD_S:g} s and may still be loading"}
        except ConnectionError:
            return {"outcome": "starting", "message": "it ended meanwhile"}
        return {name: value for name, value in said.items() if name not in ("type", "id")}

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is still a process to get it."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Runs the workers until a signal.

    A worker that ends before it has ever served ends all: the next one would fail the same way, and a deployment should
    see it. One that ends later is started again, after a wait that doubles.

    Args:
        settings: Settings of every worker; `workers` says how many.
        command: Starts a worker; the descriptor of its channel and its number are added.
    """

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self._settings, self._command = settings, tuple(command)
        self._workers: dict[int, _Worker] = {}
        self._served: set[int] = set()
        self._restarts = dict.fromkeys(range(settings.workers), 0)
        self._answers: set[asyncio.Task[object]] = set()
        self._reloads = Reloads(self._reload_one, self._up, range(settings.workers))
        self._stopping = asyncio.Event()
        self._failure: SettingsError | None = None
        self._code = OK

    def run(self) -> int:
        """Serve until a signal; a second one kills what is still at work.

        Returns:
            The exit code: 0 when all workers drained, 1 when one did not in time, else 128 and the second signal.

        Raises:
            StartupError: The port cannot be had, or a worker did not start; none runs any more.
        """
        if os.name != "posix":
            raise SettingsError("several workers need Linux or macOS; set SPEECHQC_WORKERS=1 or leave --workers out")
        return asyncio.run(self._run(Acceptor(self._settings.host, self._settings.port)))

    async def _run(self, door: Acceptor) -> int:
        self._door = door
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._do(self._reloads.run()))
        keepers = [loop.create_task(self._keep(worker)) for worker in range(self._settings.workers)]
        try:
            await asyncio.wait(keepers, return_when=asyncio.FIRST_EXCEPTION)
            self._stop()  # for the others, when one of them has failed
            await asyncio.wait(keepers)
        finally:
            door.close()
            self._send(signal.SIGKILL)
        errors = [error for keeper in keepers if (error := keeper.exception()) is not None]
        if errors or self._failure:
            raise self._failure or errors[0]
        return self._code

    async def _keep(self, number: int) -> None:
        """Have one worker running until the end."""
        wait_s: float | None = None
        while not self._stopping.is_set():
            started_s = time.monotonic()
            why = await self._run_once(number)
            if self._stopping.is_set():
                return
            if number not in self._served:
                raise StartupError(why)
            wait_s = delay_s(wait_s, time.monotonic() - started_s)
            logger.error("%s; it is started again in %g s", why, wait_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            self._restarts[number] += 1

    async def _run_once(self, number: int) -> str:
        """Have one process of a worker from its start to its end; returns how that came."""
        try:
            worker = await self._start(number)
        except OSError as error:
            return f"worker {number} could not be started: {error}"
        try:
            await self._listen(number, worker)
            code = await worker.process.wait()
        finally:
            del self._workers[number]
            self._door.remove(worker.giver)
        if self._stopping.is_set() and code not in (0, -signal.SIGTERM):
            self._code = self._code or FOUND
        name = f"worker {number} (process {worker.process.pid})"
        if worker.failure is not None:
            return f"{name} does not start: {worker.failure}"
        return f"{name} {ended(code)}{'' if worker.served else ' before it served; the log above may say why'}"

    async def _start(self, number: int) -> _Worker:
        reloads_before = self._reloads.done
        ours, theirs = socket.socketpair()
        giving, taking = socket.socketpair()
        descriptor = taking.fileno()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, str(theirs.fileno()), str(number),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), descriptor],
                start_new_session=True,  # Ctrl-C in a terminal goes to the parent alone, which ends all in order
            )  # fmt: skip
        except OSError:
            ours.close()
            giving.close()
            raise
        finally:
            theirs.close()
            taking.close()
        job = Job(number, self._settings.workers, self._settings, descriptor)
        with suppress(OSError):  # it has ended already, which its keeper will see
            ours.sendall(job.encode())
        worker = _Worker(process, await Channel.over(ours), ConnectionSender(giving), reloads_before)
        self._workers[number] = worker
        if self._stopping.is_set():
            worker.send(signal.SIGTERM)
        return worker

    async def _listen(self, number: int, worker: _Worker) -> None:
        """Take what a worker says, until it hangs up."""
        while (message := await worker.channel.hear()) is not None:
            match message["type"]:
                case "up":
                    worker.up = worker.served = True
                    self._note_up(number, worker)
                case "load":
                    worker.giver.note(message["taken"], message["open"], message["fit"])
                    self._door.update()
                case "leaving":
                    self._door.remove(worker.giver)
                case "failed":
                    worker.failure = message["message"]
                case "text" | "reloaded":
                    worker.channel.settle(message)
                case "reload_all":
                    self._do(self._reload_for(number, worker, message["id"]))
                case "collect":
                    self._do(self._answer(worker, message["id"]))
        worker.up = False
        self._door.remove(worker.giver)
        worker.channel.close()

    def _note_up(self, number: int, worker: _Worker) -> None:
        try:
            self._door.add(worker.giver)
        except SettingsError as error:
            self._failure = error
            self._stop()
            return
        logger.info("worker %d (process %d) serves", number, worker.process.pid)
        if worker.reloads_before < self._reloads.done:  # it may have read the file before the reload
            self._do(worker.reload())
        before = len(self._served)
        self._served.add(number)
        if len(self._served) == self._settings.workers > before:
            where = self._settings.host, self._settings.port
            logger.info("%d workers listen on %s, port %d", self._settings.workers, *where)

    async def _answer(self, asker: _Worker, identity: int) -> None:
        """Give one worker the metrics of all others."""
        others = {number: one for number, one in self._workers.items() if one is not asker and one.up}
        texts = await asyncio.gather(*(one.read() for one in others.values()))
        found = dict(zip(others, texts, strict=True))
        asker.channel.say("series", id=identity, texts=found, restarts=self._restarts)

    def _do(self, work: Coroutine[Any, Any, object]) -> None:
        """Begin something that the loop has to go on beside."""
        task = asyncio.create_task(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def _up(self) -> list[int]:
        return [number for number, worker in self._workers.items() if worker.up]

    async def _reload_one(self, number: int) -> Message:
        worker = self._workers.get(number)
        return {"outcome": "starting", "message": "it ended meanwhile"} if worker is None else await worker.reload()

    async def _reload_for(self, number: int, asker: _Worker, identity: int) -> None:
        asker.channel.say("reloads", id=identity, workers=await self._reloads.run(number))

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            logger.info("%s: the workers drain, for up to %g s", number.name, self._settings.drain_s)
            self._stop()
        else:
            logger.warning("%s again: what is still at work is broken off", number.name)
            self._code = of_signal(number)
            self._send(signal.SIGKILL)

    def _stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._door.close()
        self._send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(DrainDeadline(self._settings.drain_s).left_s + LATE_S, self._give_up)

    def _give_up(self) -> None:
        logger.error("workers %s did not end in time; they are killed", sorted(self._workers))
        self._code = self._code or FOUND
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.send(number)


def ended(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
