"""Inspects recordings with the model in this process; the interface is shared with inspection by a server.

Both return the document of `POST /v1/inspect`, with scores as float32 arrays that contain NaN for missing values, so
that the output does not depend on where the inspection ran.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from speech_qc.audio.raw_format import parse_channels, raw_format
from speech_qc.cli.files import InputFile
from speech_qc.cli.options import Question
from speech_qc.cli.seams import CommandError
from speech_qc.embedded.detector import Detector
from speech_qc.errors import SpeechQCError

Document = dict[str, Any]


class Answerer(Protocol):
    """Inspects recordings, several at a time; an async context manager."""

    async def __aenter__(self) -> Self:
        """Get ready; errors that would affect every recording are raised here."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release all resources."""

    async def inspect(self, path: Path) -> Document:
        """Inspect one recording.

        Raises:
            SpeechQCError: This recording cannot be inspected.
            CommandError: The same.
            OSError: The file cannot be read.
        """


class LocalAnswerer:
    """Runs the model in this process, each recording in its own thread.

    Args:
        detector: The loaded model.
        question: Options of the inspection.

    Raises:
        ProtocolError: The profile or a label does not exist, or the format of audio without a header is incomplete.
    """

    def __init__(self, detector: Detector, question: Question) -> None:
        detector.profile(question.profile)  # fail before minutes of work
        detector.labels(question.labels)
        raw_format(question.encoding, question.sample_rate, parse_channels(question.channels)[0])
        self._detector, self._question = detector, question
        self._stopping = threading.Event()

    async def __aenter__(self) -> Self:
        """Do nothing: the model is already loaded."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop running threads at their next step; their results are no longer needed."""
        self._stopping.set()

    async def inspect(self, path: Path) -> Document:
        """Inspect one recording; see `Answerer.inspect`."""
        return await asyncio.to_thread(self._inspect, path)

    def _inspect(self, path: Path) -> Document:
        question = self._question
        found = self._detector.inspect(
            path,
            sample_rate=question.sample_rate,
            encoding=question.encoding,
            channels=question.channels,
            profile=question.profile,
            labels=question.labels,
            frames=question.frames,
            explain=question.explain,
            legs=question.legs,
            show_digits=question.show_digits,
            on_step=self._check,
        )
        return found.document

    def _check(self) -> None:
        if self._stopping.is_set():
            raise CommandError("the command is stopping")


async def answers_in_order(
    sources: Sequence[InputFile], inspect: Callable[[Path], Awaitable[Document]], workers: int
) -> AsyncGenerator[tuple[InputFile, Document | Exception]]:
    """Inspect several recordings concurrently and yield the results in the order of the recordings.

    At most `workers` results exist at a time, even if one slow recording delays those after it.

    Args:
        sources: The recordings.
        inspect: Inspects one recording.
        workers: Recordings at a time.

    Returns:
        Each source with its document, or with the error that prevented its inspection.
    """
    running: deque[tuple[InputFile, asyncio.Task[Document]]] = deque()

    async def answer(path: Path) -> Document:
        return await inspect(path)

    async def oldest() -> tuple[InputFile, Document | Exception]:
        source, task = running.popleft()
        try:
            return source, await task
        except (SpeechQCError, CommandError, OSError) as error:
            return source, error
        finally:
            del task  # the error keeps this frame, which would keep the task, which keeps the error

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
