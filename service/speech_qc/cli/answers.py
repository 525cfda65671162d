"""Where an answer about a recording comes from: an engine in this process, or a server.

Both give the document of `POST /v1/inspect`, with scores as float32 arrays that hold NaN where there is no value, so
that what is written afterwards does not depend on who listened.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self
from uuid import uuid4

from service.assembly import decode_limits, make_engine, make_lanes
from service.commands.files import Source
from service.commands.options import Question
from service.commands.seams import CommandError
from service.errors import SpeechQCError
from service.inspection import InspectOptions, Inspector
from service.report import ModelIdentity, choose_labels, inspection_document
from service.scoring import load_profiles
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.engine import Runner

Document = dict[str, Any]

UNLIMITED_BYTES = 1 << 62
"""The limit on uploads protects a server's memory; a file on this machine's disk is read block by block."""


class Answerer(Protocol):
    """Answers about one recording after another, several at a time; an async context manager."""

    async def __aenter__(self) -> Self:
        """Get ready; whatever would fail for every recording fails here."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give everything back."""

    async def inspect(self, path: Path) -> Document:
        """Answer about one recording.

        Raises:
            SpeechQCError: This recording cannot be inspected.
            CommandError: Likewise.
            OSError: The file cannot be read.
        """


def local_settings(model: Path | None, device: str | None, workers: int) -> Settings:
    """Settings of an engine that serves one command: as many places as files at a time, and none for live audio.

    Raises:
        SettingsError: The environment holds a wrong value.
    """
    return load_settings(
        model_path=model,
        device=device,
        max_uploads=workers,
        max_streams=1,
        max_batch=2 * workers,  # two channels each; the rest queues for a moment. Every size costs time at the start
        max_upload_bytes=UNLIMITED_BYTES,
    )


class LocalAnswerer:
    """Runs the model in this process.

    Args:
        settings: From `local_settings`.
        runner: The loaded model.
        question: What to answer.

    Raises:
        ProtocolError: There is no such profile or label.
        SettingsError: The profiles cannot be read.
    """

    def __init__(self, settings: Settings, runner: Runner, question: Question) -> None:
        profile = load_profiles(settings.profiles_path).get(question.profile or settings.default_profile)
        self._contract = runner.contract
        self._labels = choose_labels(runner.contract, question.labels)
        self._model = ModelIdentity(runner.contract.name, runner.contract.version, runner.sha256)
        self._options = InspectOptions(
            profile, question.channels, question.frames, settings.max_events, question.explain
        )
        self._engine = make_engine(settings, runner)
        self._lanes = make_lanes(settings)
        self._limits = decode_limits(settings)

    async def __aenter__(self) -> Self:
        """Warm the model up."""
        await self._engine.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine."""
        await self._engine.stop()

    async def inspect(self, path: Path) -> Document:
        """Answer about one recording; see `Answerer.inspect`."""
        async with Inspector(self._engine, self._contract, self._lanes, self._options) as inspector:
            inspection = await inspector.inspect_file(path, self._limits)
        return inspection_document(
            inspection,
            self._contract,
            self._model,
            request_id=uuid4().hex,
            labels=self._labels,
            frames=self._options.keep_frames,
        )


async def answers_in_order(
    sources: Sequence[Source], inspect: Callable[[Path], Awaitable[Document]], workers: int
) -> AsyncGenerator[tuple[Source, Document | Exception]]:
    """Inspect several recordings side by side and give the answers in the order of the recordings.

    At most `workers` answers exist at a time, however far one recording holds up those behind it.

    Args:
        sources: The recordings.
        inspect: Answers about one.
        workers: Recordings at a time.

    Returns:
        Each source with its answer, or with the error that kept it from being inspected.
    """
    running: deque[tuple[Source, asyncio.Task[Document]]] = deque()

    async def answer(path: Path) -> Document:
        return await inspect(path)

    async def oldest() -> tuple[Source, Document | Exception]:
        source, task = running.popleft()
        try:
            return source, await task
        except (SpeechQCError, CommandError, OSError) as error:
            return source, error

    try:
        for source in sources:
            running.append((source, asyncio.create_task(answer(source.path))))
            if len(running) == workers:
                yield await oldest()
        while running:
            yield await oldest()
    finally:
        for _, task in running:
            task.cancel()
        await asyncio.gather(*(task for _, task in running), return_exceptions=True)
