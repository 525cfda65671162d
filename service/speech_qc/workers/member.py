"""The worker's side: its job from the parent, its reports to the parent, its requests about the other workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from speech_qc.errors import ReloadFailed, StartupError
from speech_qc.settings import Settings
from speech_qc.workers.channel import Channel, Message, encode, receive_first
from speech_qc.workers.metrics_merge import merge
from speech_qc.workers.reload import ALL_S, FAILED

logger = logging.getLogger("speech_qc.workers")

CLAIM_S = 5.0
"""Longest wait for the parent to say who owns a call."""

COLLECT_S = 3.0
"""Longest wait for the parent's reply: longer than the parent waits for a worker, shorter than a scrape may take."""


@dataclass(frozen=True, slots=True)
class Job:
    """The first message to a worker: its number, the settings and a descriptor.

    Attributes:
        worker: Number of the worker, from 0.
        workers: Number of workers.
        settings: All settings, including those from the command line.
        handover: Inherited descriptor over which connections arrive, see `fd_passing.ConnectionReceiver`.
        results_file: SQLite file that the workers share; None if the settings name a database.
    """

    worker: int
    workers: int
    settings: Settings
    handover: int
    results_file: Path | None = None

    def encode(self) -> bytes:
        """Return the job as a message."""
        return encode(
            "job",
            worker=self.worker,
            workers=self.workers,
            settings=self.settings.model_dump(mode="json") | _secrets(self.settings),
            handover=self.handover,
            results_file=None if self.results_file is None else str(self.results_file),
        )

    @staticmethod
    def receive(end: socket.socket) -> Job | None:
        """Wait for the job; None if the parent has exited."""
        job = receive_first(end)
        if job is None:
            return None
        file = None if job["results_file"] is None else Path(job["results_file"])
        return Job(job["worker"], job["workers"], Settings.model_validate(job["settings"]), job["handover"], file)


class Member:
    """This worker's connection to the parent; used from the event loop of its server.

    Args:
        end: This worker's end of the socket pair.
        worker: Number of this worker.
        workers: Number of workers.
        on_orphaned: Called if the parent exits; by default this process drains and exits.
        results_file: SQLite file that the workers share; None if the settings name a database.
    """

    def __init__(
        self,
        end: socket.socket,
        worker: int,
        workers: int,
        on_orphaned: Callable[[], None] | None = None,
        results_file: Path | None = None,
    ) -> None:
        self._end, self.worker, self.workers = end, worker, workers
        self._on_orphaned = on_orphaned or _terminate
        self.results_file = results_file
        self._read: Callable[[], str] = str
        self._reload: Callable[[], Awaitable[Message]] | None = None
        self._reloads: set[asyncio.Task[None]] = set()
        self._take_legs: Callable[[int, list[Message]], None] = _ignore
        self._gone: Callable[[int], None] = _ignore
        self._channel: Channel | None = None
        self._listener: asyncio.Task[None] | None = None
        self._load: tuple[int, int, bool] | None = None

    def offer(self, read: Callable[[], str]) -> None:
        """Set the function that reads this worker's own metrics."""
        self._read = read

    def offer_reload(self, reload: Callable[[], Awaitable[Message]]) -> None:
        """Set the function that reloads the model in this worker; `speech_qc.workers.reload` describes its result."""
        self._reload = reload

    def offer_calls(self, take: Callable[[int, list[Message]], None], gone: Callable[[int], None]) -> None:
        """Set what takes other workers' messages about legs, and what is told that a worker has exited."""
        self._take_legs, self._gone = take, gone

    async def claim_call(self, call_id: str) -> int:
        """Return the worker that owns a call: this one, if none does yet.

        Raises:
            TimeoutError: The parent did not answer.
            ConnectionError: The parent has exited.
        """
        if self._channel is None:
            raise ConnectionError("this worker has not joined")
        owner: int = (await self._channel.ask("claim", CLAIM_S, call=call_id))["worker"]
        return owner

    def release_call(self, call_id: str) -> None:
        """Say that a call of this worker has ended."""
        if self._channel is not None:
            self._channel.send("release", call=call_id)

    def send_legs(self, worker: int, items: list[Message]) -> None:
        """Send messages about legs to another worker."""
        if self._channel is not None:
            self._channel.send("legs", to=worker, items=items)

    def fail(self, error: StartupError) -> None:
        """Tell the parent why this worker cannot start; call it before `join`."""
        with suppress(OSError):  # the parent has exited and does not need the reason
            self._end.sendall(encode("failed", message=error.message))

    async def join(self) -> None:
        """Report that this worker is ready, and start answering the parent's requests."""
        self._channel = await Channel.over(self._end, "the parent process")
        self._listener = asyncio.create_task(self._listen(self._channel))
        self._channel.send("up")

    def report(self, taken: int, still_open: int, fit: bool) -> None:
        """Report this worker's load to the parent if it has changed; see `ConnectionSender.note`."""
        load = (taken, still_open, fit)
        if self._channel is not None and load != self._load:
            self._load = load
            self._channel.send("load", taken=taken, open=still_open, fit=fit)

    def leave(self) -> None:
        """Ask the parent to send no more connections; those in transit still arrive."""
        if self._channel is not None:
            self._channel.send("leaving")

    async def reload_all(self) -> dict[int, Message]:
        """Reload the model in all workers, this one first; return the outcome of each worker.

        Raises:
            ReloadFailed: The parent does not answer.
        """
        why = "the parent process has exited"
        if self._channel is not None:
            try:
                reply = await self._channel.ask("reload_all", ALL_S)
                return {int(worker): found for worker, found in reply["workers"].items()}
            except TimeoutError:
                why = f"the parent process did not answer within {ALL_S:g} s"
            except ConnectionError:
                pass
        raise ReloadFailed(f"{why}, so it is unknown which workers have the new model: restart the server")

    def close(self) -> None:
        """Close the connection to the parent; idempotent, and allowed without `join`."""
        if self._listener is not None:
            self._listener.cancel()
        if self._channel is not None:
            self._channel.close()

    async def scrape(self) -> str:
        """Return the metrics of all workers; those that do not answer count as not up."""
        texts: dict[int, str | None] = dict.fromkeys(range(self.workers))
        reply = await self._collect()
        texts.update({int(worker): text for worker, text in reply.get("texts", {}).items()})
        texts[self.worker] = self._read()
        return merge(texts, {int(worker): times for worker, times in reply.get("restarts", {}).items()})

    async def _collect(self) -> Message:
        if self._channel is None:
            return {}
        try:
            return await self._channel.ask("collect", COLLECT_S)
        except TimeoutError:
            logger.warning("the parent did not answer within %g s: returning the metrics of one worker", COLLECT_S)
            return {}

    async def _listen(self, channel: Channel) -> None:
        while (message := await channel.receive()) is not None:
            try:
                self._process(channel, message)
            except Exception:  # without this listener, the worker would serve on unseen, and outlive its parent
                logger.exception("a message of the parent process could not be processed")
        logger.error("the parent process has exited: this worker drains and exits")
        self._on_orphaned()

    def _process(self, channel: Channel, message: Message) -> None:
        if message["type"] == "read":
            channel.send("text", id=message["id"], text=self._read())
        elif message["type"] in ("series", "reloads", "owner"):
            channel.resolve(message)
        elif message["type"] == "legs":
            self._take_legs(message["sender"], message["items"])
        elif message["type"] == "gone":
            self._gone(message["worker"])
        elif message["type"] == "reload":
            reloading = asyncio.create_task(self._reload_here(channel, message["id"]))
            self._reloads.add(reloading)
            reloading.add_done_callback(self._reloads.discard)

    async def _reload_here(self, channel: Channel, identity: int) -> None:
        """Reload the model and reply to the parent, whatever happens."""
        reply: Message = {"outcome": FAILED, "message": "the worker has no model yet"}
        try:
            if self._reload is not None:
                reply = await self._reload()
        except Exception as error:
            logger.exception("the reload failed")
            reply = {"outcome": FAILED, "message": f"{type(error).__name__}: {error}"}
        channel.send("reloaded", id=identity, **reply)


def _secrets(settings: Settings) -> dict[str, str]:
    """Return the secrets that a dump of the settings hides; only the parent and this worker can read the channel."""
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    return {name: value.get_secret_value() for name, value in values.items() if isinstance(value, SecretStr)}


def _ignore(*_: object) -> None:
    """Do nothing: this worker has no calls yet."""


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
