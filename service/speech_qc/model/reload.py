"""The model in use and its predecessors: load a new model while the old one serves, then use it for all new work.

A generation is a model with its engine and its reader, which belong together. Streams and uploads keep the generation
that they started with, so that their scores do not change midway. The engine stops when the last of them has ended.
Independent of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from speech_qc.contract import ModelContract
from speech_qc.engine import DropReason, Engine, Model, RefusalReason, Runner
from speech_qc.errors import ReloadFailed, StartupError
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.documents import model_info
from speech_qc.pipeline.factory import make_engine, make_runner
from speech_qc.pipeline.inbox import Inbox
from speech_qc.pipeline.shared_channels import SharedChannels
from speech_qc.settings import Settings
from speech_qc.telemetry.metrics import Metrics
from speech_qc.wire.schemas import ModelInfo
from speech_qc.wire.vocabulary import ReloadOutcome

logger = logging.getLogger("speech_qc.model")

MAX_OLD = 2
"""Maximum number of old models that are kept while in use; each takes memory, and streams may last for days."""

Load = Callable[[Settings], Runner]


class Generation:
    """One model with its engine and reader; used from one event loop.

    Args:
        settings: Settings of the server.
        runner: The model.
        metrics: Counts the engine's steps.
    """

    def __init__(self, settings: Settings, runner: Runner, metrics: Metrics) -> None:
        self.model: Model = runner
        self.runner = runner
        self.retired = False
        self.reader = ChunkReader(runner.contract)
        self.channels = SharedChannels(runner.contract, self.reader)
        self.engine: Engine = make_engine(settings, runner, _Observer(metrics, self), self.reader)
        self.inbox = Inbox(self.engine)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def contract(self) -> ModelContract:
        """Contract of the model."""
        return self.model.contract

    @property
    def identity(self) -> ModelInfo:
        """Name, version and checksum of the model."""
        return model_info(self.model)

    @contextmanager
    def held(self) -> Iterator[Generation]:
        """Keep the engine running for one stream or upload."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def end(self) -> None:
        """Wait until it is unused, then stop its engine."""
        await self._unused.wait()
        await self.engine.stop()
        logger.info("old model stopped: %s %s (%s)", *_short(self))


class _Observer:
    """Passes the events of an engine to the metrics, but not the death of an engine that was replaced."""

    def __init__(self, metrics: Metrics, generation: Generation) -> None:
        self._metrics, self._generation = metrics, generation

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        self._metrics.on_step(lane, batch, queue_s, step_s)

    def on_drop(self, reason: DropReason) -> None:
        self._metrics.on_drop(reason)

    def on_refusal(self, reason: RefusalReason) -> None:
        self._metrics.on_refusal(reason)

    def on_death(self, message: str) -> None:
        if not self._generation.retired:
            self._metrics.on_death(message)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The result of a reload.

    Attributes:
        outcome: `unchanged` if the file contains the model in use, which keeps running.
        old: Number of earlier models that are still in use.
    """

    outcome: ReloadOutcome
    identity: ModelInfo
    old: int


class Generations:
    """The models of one server; created and used in its event loop.

    Args:
        settings: Where the model file is, and how it is run.
        runner: The first model.
        metrics: Counts reloads and steps.
        load: Reads the model file; runs in a thread.
    """

    def __init__(self, settings: Settings, runner: Runner, metrics: Metrics, load: Load = make_runner) -> None:
        self._settings, self._metrics, self._load = settings, metrics, load
        self.current = Generation(settings, runner, metrics)
        self._old: dict[Generation, asyncio.Task[None]] = {}
        self.started = self._reloading = self._draining = False
        metrics.follow_engines(self.engines)

    def renewed(self) -> Generations:
        """Return a new instance with the current model, because an instance can be started only once."""
        return Generations(self._settings, self.current.runner, self._metrics, self._load)

    def engines(self) -> list[Engine]:
        """Return the running engines, the current one first."""
        return [self.current.engine, *(generation.engine for generation in self._old)]

    async def start(self) -> None:
        """Warm up the first model; raises StartupError."""
        self.started = True
        await self.current.engine.start()
        self._note()

    def obstacle(self) -> str | None:
        """Return why a reload would fail now, whatever the file contains; None if it would not."""
        if self._reloading:
            return "another reload is in progress: wait until it ends"
        if self._draining:
            return "the server is shutting down"
        if len(self._old) >= MAX_OLD:
            return (
                f"{len(self._old)} earlier models are still used by streams, which is the maximum: wait until streams "
                "have ended, or restart"
            )
        return None

    async def reload(self) -> Reloaded:
        """Load the model file again, warm the model up, and use it for all new work.

        Raises:
            ReloadFailed: Nothing has changed; the message says why.
        """
        if (why := self.obstacle()) is not None:
            raise self._failed(why)
        self._reloading = True
        try:
            return await self._reload()
        finally:
            self._reloading = False

    async def reload_result(self) -> dict[str, Any]:
        """Reload, and return the result in the form that processes exchange; see `speech_qc.workers.reload`."""
        try:
            done = await self.reload()
        except ReloadFailed as error:
            return {
                "outcome": "failed",
                "message": error.message,
                **self.current.identity.model_dump(),
                "old": len(self._old),
            }
        return {"outcome": done.outcome, "message": "", **done.identity.model_dump(), "old": done.old}

    async def _reload(self) -> Reloaded:
        try:
            runner = await asyncio.to_thread(self._load, self._settings)
        except StartupError as error:
            raise self._failed(error.message) from error
        except Exception as error:
            logger.exception("loading the model failed")
            raise self._failed(f"loading failed: {type(error).__name__}: {error}") from error
        before = self.current
        if runner.sha256 == before.model.sha256 and before.engine.status.alive:
            self._metrics.model_reloads.labels("unchanged").inc()
            logger.info("model unchanged: the file contains the model in use, %s %s (%s)", *_short(before))
            return Reloaded("unchanged", before.identity, len(self._old))
        fresh = Generation(self._settings, runner, self._metrics)
        try:
            await fresh.engine.start()
        except BaseException as error:
            await asyncio.shield(fresh.engine.stop())
            if isinstance(error, Exception):
                reason = error.message if isinstance(error, StartupError) else f"{type(error).__name__}: {error}"
                raise self._failed(reason) from error
            raise
        if self._draining:  # shutdown began meanwhile: nothing else would stop the new engine
            await fresh.engine.stop()
            raise self._failed("the server is shutting down")
        before.retired, self.current = True, fresh
        ending = asyncio.create_task(before.end(), name="speechqc-old-model")
        self._old[before] = ending
        ending.add_done_callback(lambda _: self._old.pop(before, None))
        self._metrics.model_reloads.labels("replaced").inc()
        self._note()
        return Reloaded("replaced", fresh.identity, len(self._old))

    def _failed(self, why: str) -> ReloadFailed:
        self._metrics.model_reloads.labels("failed").inc()
        logger.error("model not replaced, %s %s (%s) stays in use: %s", *_short(self.current), why)
        return ReloadFailed(f"the model was not replaced, the current one stays in use: {why}")

    def _note(self) -> None:
        model = self.current.model
        self._metrics.describe(model)
        logger.info("ready: model %s %s (%s) on %s", *_short(self.current), model.provider)

    async def drain(self, timeout_s: float, step_s: float | None = None) -> None:
        """Let every engine finish what it has accepted, then stop it; arguments as for `Engine.drain`."""
        self._draining = True
        await asyncio.gather(*(engine.drain(timeout_s, step_s) for engine in self.engines()))
        for ending in list(self._old.values()):
            ending.cancel()
            with suppress(asyncio.CancelledError):
                await ending


def _short(generation: Generation) -> tuple[str, str, str]:
    identity = generation.identity
    return identity.name, identity.version, identity.sha256[:12]
