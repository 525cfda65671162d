"""The parent of all workers: starts and restarts them, passes them connections, relays metrics, and shuts them down."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from speech_qc.errors import SettingsError, StartupError
from speech_qc.exit_codes import OK, WORKER_FAILED, of_signal
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
KILL_GRACE_S = 1.0
"""Extra time before workers are killed: they normally exit when the drain time expires, unless all threads hang."""
FIRST_DELAY_S = 0.5
MOST_DELAY_S = 30.0
HEALTHY_S = 60.0
"""A worker that ran this long failed for a new reason: its restart delay starts over."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def restart_delay_s(previous_s: float | None, lived_s: float) -> float:
    """Return the delay before a worker is restarted, seconds.

    Args:
        previous_s: The previous delay; None for the first restart.
        lived_s: How long the worker ran.
    """
    return FIRST_DELAY_S if previous_s is None or lived_s >= HEALTHY_S else min(2 * previous_s, MOST_DELAY_S)


class _Worker:
    """One worker process, and the parent's ends of its two socket pairs."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: Channel, sender: ConnectionSender, reloads_before: int
    ) -> None:
        self.process, self.channel, self.sender, self.reloads_before = process, channel, sender, reloads_before
        self.up = self.served = False
        self.failure: str | None = None

    async def read(self) -> str | None:
        """Return the worker's metrics; None if it does not answer."""
        try:
            text: str = (await self.channel.ask("read", READ_S))["text"]
        except (TimeoutError, ConnectionError):
            return None
        return text

    async def reload(self) -> Message:
        """Reload the model in this worker; `speech_qc.workers.reload` describes the result."""
        try:
            reply = await self.channel.ask("reload", RELOAD_S)
        except TimeoutError:
            return {"outcome": FAILED, "message": f"no answer within {RELOAD_S:g} s; it may still be loading"}
        except ConnectionError:
            return {"outcome": "starting", "message": "the worker exited during the reload"}
        return {name: value for name, value in reply.items() if name not in ("type", "id")}

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has exited."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


class Supervisor:
    """Runs the workers until a signal.

    A worker that exits before it was ever ready ends the whole server: a restart would fail the same way, and the
    deployment should notice. A worker that exits later is restarted after a delay that doubles.

    Args:
        settings: Settings of every worker; `workers` is their number.
        command: Command that starts a worker; the descriptor of its channel and its number are appended.
    """

    def __init__(self, settings: Settings, command: Sequence[str]) -> None:
        self._settings, self._command = settings, tuple(command)
        self._workers: dict[int, _Worker] = {}
        self._served: set[int] = set()
        self._restarts = dict.fromkeys(range(settings.workers), 0)
        self._answers: set[asyncio.Task[object]] = set()
        self._reloads = Reloads(self._reload_one, self._up, range(settings.workers))
        self._owners: dict[str, int] = {}  # the worker that owns each call
        self._stopping = asyncio.Event()
        self._failure: SettingsError | None = None
        self._code = OK
        self._results_file: Path | None = None

    def run(self) -> int:
        """Serve until a signal; a second one kills the remaining workers.

        Returns:
            The exit code: 0 if all workers drained, 1 if one did not in time, otherwise 128 plus the second signal.

        Raises:
            StartupError: The port cannot be bound, or a worker did not start; all workers have been stopped.
        """
        if os.name != "posix":
            raise SettingsError("several workers need Linux or macOS: set SPEECHQC_WORKERS=1, or omit --workers")
        acceptor = Acceptor(self._settings.host, self._settings.port)
        if self._settings.results_url is not None:
            return asyncio.run(self._run(acceptor))
        from speech_qc.workers.private_folder import private_folder  # for systems that have it: see above

        with private_folder() as folder:
            self._results_file = folder / "calls.db"
            return asyncio.run(self._run(acceptor))

    async def _run(self, acceptor: Acceptor) -> int:
        self._acceptor = acceptor
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._start_task(self._reloads.run()))
        tasks = [loop.create_task(self._keep(worker)) for worker in range(self._settings.workers)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            self._stop()  # stop the others if one has failed
            await asyncio.wait(tasks)
        finally:
            acceptor.close()
            self._send(signal.SIGKILL)
        errors = [error for task in tasks if (error := task.exception()) is not None]
        if errors or self._failure:
            raise self._failure or errors[0]
        return self._code

    async def _keep(self, number: int) -> None:
        """Keep one worker running until the server stops."""
        wait_s: float | None = None
        while not self._stopping.is_set():
            started_s = time.monotonic()
            why = await self._run_once(number)
            if self._stopping.is_set():
                return
            if number not in self._served:
                raise StartupError(why)
            wait_s = restart_delay_s(wait_s, time.monotonic() - started_s)
            logger.error("%s; restarting it in %g s", why, wait_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            self._restarts[number] += 1

    async def _run_once(self, number: int) -> str:
        """Run one process of a worker until it exits; return how it ended."""
        try:
            worker = await self._start(number)
        except OSError as error:
            return f"worker {number} could not be started: {error}"
        try:
            await self._listen(number, worker)
            code = await worker.process.wait()
        finally:
            del self._workers[number]
            self._acceptor.remove(worker.sender)
        if self._stopping.is_set() and code not in (0, -signal.SIGTERM):
            self._code = self._code or WORKER_FAILED
        name = f"worker {number} (process {worker.process.pid})"
        if worker.failure is not None:
            return f"{name} failed to start: {worker.failure}"
        return f"{name} {describe_exit(code)}{'' if worker.served else ' before it was ready; see the log above'}"

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
                start_new_session=True,  # Ctrl-C in a terminal reaches only the parent, which shuts the workers down
            )  # fmt: skip
        except OSError:
            ours.close()
            giving.close()
            raise
        finally:
            theirs.close()
            taking.close()
        job = Job(number, self._settings.workers, self._settings, descriptor, self._results_file)
        with suppress(OSError):  # the process has already exited, which `_keep` notices
            ours.sendall(job.encode())
        worker = _Worker(
            process, await Channel.over(ours, f"worker {number}"), ConnectionSender(giving), reloads_before
        )
        self._workers[number] = worker
        if self._stopping.is_set():
            worker.send(signal.SIGTERM)
        return worker

    async def _listen(self, number: int, worker: _Worker) -> None:
        """Process the messages of a worker until it closes its end."""
        while (message := await worker.channel.receive()) is not None:
            try:
                self._process(number, worker, message)
            except Exception:  # what one worker says must not end the others
                logger.exception("a message of worker %d could not be processed", number)
        worker.up = False
        self._acceptor.remove(worker.sender)
        worker.channel.close()
        self._owners = {call: owner for call, owner in self._owners.items() if owner != number}
        for other in self._workers.values():
            if other is not worker:
                other.channel.send("gone", worker=number)

    def _process(self, number: int, worker: _Worker, message: Message) -> None:
        match message["type"]:
            case "up":
                worker.up = worker.served = True
                self._note_up(number, worker)
            case "load":
                worker.sender.note(message["taken"], message["open"], message["fit"])
                self._acceptor.update()
            case "leaving":
                self._acceptor.remove(worker.sender)
            case "failed":
                worker.failure = message["message"]
            case "text" | "reloaded":
                worker.channel.resolve(message)
            case "reload_all":
                self._start_task(self._reload_for(number, worker, message["id"]))
            case "collect":
                self._start_task(self._answer(worker, message["id"]))
            case "claim":
                owner = self._owners.setdefault(message["call"], number)
                worker.channel.send("owner", id=message["id"], worker=owner)
            case "release":
                if self._owners.get(message["call"]) == number:
                    del self._owners[message["call"]]
            case "legs":
                if (to := self._workers.get(message["to"])) is not None:
                    to.channel.send("legs", sender=number, items=message["items"])

    def _note_up(self, number: int, worker: _Worker) -> None:
        try:
            self._acceptor.add(worker.sender)
        except SettingsError as error:
            self._failure = error
            self._stop()
            return
        logger.info("worker %d (process %d) is ready", number, worker.process.pid)
        if worker.reloads_before < self._reloads.done:  # it may have read the file before the reload
            self._start_task(worker.reload())
        before = len(self._served)
        self._served.add(number)
        if len(self._served) == self._settings.workers > before:
            where = self._settings.host, self._settings.port
            logger.info("%d workers listen on %s, port %d", self._settings.workers, *where)

    async def _answer(self, asker: _Worker, identity: int) -> None:
        """Send one worker the metrics of all others."""
        others = {number: one for number, one in self._workers.items() if one is not asker and one.up}
        texts = await asyncio.gather(*(one.read() for one in others.values()))
        found = dict(zip(others, texts, strict=True))
        asker.channel.send("series", id=identity, texts=found, restarts=self._restarts)

    def _start_task(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a coroutine in the background, so that the message loop can continue."""
        task = asyncio.create_task(work)
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def _up(self) -> list[int]:
        return [number for number, worker in self._workers.items() if worker.up]

    async def _reload_one(self, number: int) -> Message:
        worker = self._workers.get(number)
        if worker is None:
            return {"outcome": "starting", "message": "the worker exited during the reload"}
        return await worker.reload()

    async def _reload_for(self, number: int, asker: _Worker, identity: int) -> None:
        asker.channel.send("reloads", id=identity, workers=await self._reloads.run(number))

    def _on_signal(self, number: signal.Signals) -> None:
        if not self._stopping.is_set():
            logger.info("%s received: draining the workers for up to %g s", number.name, self._settings.drain_s)
            self._stop()
        else:
            logger.warning("%s received again: aborting the remaining work", number.name)
            self._code = of_signal(number)
            self._send(signal.SIGKILL)

    def _stop(self) -> None:
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._acceptor.close()
        self._send(signal.SIGTERM)
        asyncio.get_running_loop().call_later(
            DrainDeadline(self._settings.drain_s).remaining_s + KILL_GRACE_S, self._kill_all
        )

    def _kill_all(self) -> None:
        logger.error("workers %s did not exit in time: killing them", sorted(self._workers))
        self._code = self._code or WORKER_FAILED
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.send(number)


def describe_exit(code: int) -> str:
    """Describe how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was terminated by {signal.Signals(-code).name}"
    return f"was terminated by signal {-code}"
