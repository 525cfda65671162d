"""Where an answer about a recording comes from: the model in this process, or a server.

Both give the document of `POST /v1/inspect`, with scores as float32 arrays that hold NaN where there is no value, so
that what is written afterwards does not depend on who listened.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from speech_qc.cli.files import Source
from speech_qc.cli.options import Question
from speech_qc.cli.seams import CommandError
from speech_qc.embedded import Detector
from speech_qc.errors import SpeechQCError

Document = dict[str, Any]


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


class LocalAnswerer:
    """Runs the model in this process, each recording in a thread of its own.

    Args:
        detector: The loaded model.
        question: What to answer.

    Raises:
        ProtocolError: There is no such profile or label.
    """

    def __init__(self, detector: Detector, question: Question) -> None:
        detector.profiles.get(question.profile or detector.settings.default_profile)  # before minutes of work
        detector.labels(question.labels)
        self._detector, self._question = detector, question
        self._stopping = threading.Event()

    async def __aenter__(self) -> Self:
        """Nothing to get ready: the model is loaded."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have threads that are still at work end at their next step; nobody waits for their answers."""
        self._stopping.set()

    async def inspect(self, path: Path) -> Document:
        """Answer about one recording; see `Answerer.inspect`."""
        return await asyncio.to_thread(self._inspect, path)

    def _inspect(self, path: Path) -> Document:
        question = self._question
        found = self._detector.inspect(
            path,
            channels=question.channels,
            profile=question.profile,
            labels=question.labels,
            frames=question.frames,
            explain=question.explain,
            on_step=self._check,
        )
        return found.document

    def _check(self) -> None:
        if self._stopping.is_set():
            raise CommandError("the command is ending")


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
