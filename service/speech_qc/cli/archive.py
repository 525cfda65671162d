"""`speech-qc archive`: inspect an archive, and show how far that is."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from speech_qc.cli.seams import CommandError
from speech_qc.exit_codes import OK
from speech_qc.wire.vocabulary import Device

if TYPE_CHECKING:
    from speech_qc.archive.items import ItemSource
    from speech_qc.archive.run import Engine, Progress

NOTE_S = 30.0
"""Time between two lines of progress where standard error is no terminal."""
TERMINATED = 143


@dataclass(frozen=True, slots=True)
class ArchiveCommand:
    """The options of the command; see the help texts in `cli.archive_commands`."""

    sources: Sequence[str]
    out: str
    engine: str = "local"
    profile: str | None = None
    frames: bool = False
    workers: int | None = None
    gpus: float = 0.0
    keep_old: bool = False
    retry_errors: bool = False
    write_every_s: float = 30.0
    model: Path | None = None
    device: Device | None = None
    column: str = "audio"


@contextmanager
def explained() -> Iterator[None]:
    """Turn what goes wrong with an archive into the command's error.

    Raises:
        CommandError: The work cannot begin or go on, or a library is missing.
    """
    try:
        from speech_qc.archive.items import ArchiveError
    except ImportError as error:
        raise _not_installed(error) from error
    try:
        yield
    except ArchiveError as error:
        raise CommandError(str(error)) from error
    except ImportError as error:
        raise _not_installed(error) from error


def _not_installed(error: ImportError) -> CommandError:
    extra = "ray" if (error.name or "").startswith("ray") else "archive"
    return CommandError(f"{error}: install it with pip install 'speech-qc[{extra}]'")


def archive(command: ArchiveCommand) -> int:
    """Inspect what is missing, and print a summary to standard error.

    Raises:
        CommandError: The work cannot begin or go on; rows so far are kept.
    """
    with explained():
        from speech_qc.archive.dest import Destination
        from speech_qc.archive.run import run
        from speech_qc.archive.sources.find import archive_sources

        sources = archive_sources(command.sources, column=command.column, out=command.out)
        notes = _Notes(Console(stderr=True), sources)
        with (
            Destination(command.out, write_every_s=command.write_every_s) as destination,
            _engine(command) as engine,
            _ended_by_sigterm(),
        ):
            try:
                done = run(
                    sources,
                    destination,
                    engine,
                    keep_old=command.keep_old,
                    retry_errors=command.retry_errors,
                    on_progress=notes.show,
                )
            except (KeyboardInterrupt, SystemExit):
                notes.end(f"stopped; {destination.rows_written} rows were written: run it again to go on")
                raise
        notes.end(_summary(done, command.out))
    return OK


def _engine(command: ArchiveCommand) -> Engine:
    from speech_qc.archive.asked import Asked

    settings: dict[str, Any] = {"model_path": command.model and str(command.model), "device": command.device}
    asked = Asked(command.profile, command.frames, {name: value for name, value in settings.items() if value})
    if command.engine == "ray":
        from speech_qc.archive.ray_engine import RayEngine

        return RayEngine(asked, command.workers, gpus=command.gpus)
    if command.gpus:
        raise CommandError("--gpus is for --engine ray: with the local engine, use --device cuda")
    from speech_qc.archive.local import LocalEngine

    return LocalEngine(asked, command.workers)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does, so that finished rows are written."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _summary(done: Progress, out: str) -> str:
    total_s = max(done.seconds, 1e-9)
    verdicts = ", ".join(f"{count} {status}" for status, count in sorted(done.statuses.items()))
    parts = [
        f"{done.finished} inspected",
        f"{done.done_before} done before",
        f"{done.errors} with an error",
    ]
    if done.twice:
        parts.append(f"{done.twice} named twice")
    if done.old_rows:
        parts.append(f"{done.old_rows} old rows replaced")
    lines = [f"{out}: {', '.join(parts)}"]
    if done.finished:
        lines.append(
            f"{duration(done.audio_s)} of audio in {duration(done.seconds)}, {done.audio_s / total_s:.0f} × real time"
            + (f"; verdicts: {verdicts}" if verdicts else "")
        )
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """Write a duration for people: `12 s`, `5 min`, `3.2 h`."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


@dataclass
class _Notes:
    """Progress on standard error: a line that changes on a terminal, else a line from time to time."""

    console: Console
    sources: Sequence[ItemSource]
    total: int | None = None
    """Items of all sources, once they are counted."""
    _shown_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        """Count the items in the background, so that the time that is left can be estimated."""
        try:
            self.total = sum(1 for source in self.sources for _ in source.items())
        except Exception:  # the run itself reports what is wrong with a source
            return

    def show(self, progress: Progress) -> None:
        """Show how far the run is."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.5 if self.console.is_terminal else NOTE_S):
            return
        self._shown_s = now_s
        line = self._line(progress)
        if self.console.is_terminal:
            sys.stderr.write(f"\r\x1b[K{line[: self.console.width - 1]}")
            sys.stderr.flush()
        else:
            self.console.print(Text(line), soft_wrap=True)

    def end(self, text: str) -> None:
        """Print the last lines."""
        if self.console.is_terminal:
            sys.stderr.write("\r\x1b[K")
        self.console.print(Text(text), soft_wrap=True)

    def _line(self, progress: Progress) -> str:
        seconds = max(progress.seconds, 1e-9)
        total = progress.listed if progress.is_listed else self.total
        done = progress.done_before + progress.twice + progress.finished
        rate = progress.finished / seconds
        left = "" if total is None or not rate else f", {duration((total - done) / rate)} left"
        return (
            f"{done:,} of {'…' if total is None else format(total, ',')} recordings, {rate:.1f} a second, "
            f"{progress.audio_s / seconds:.0f} × real time, {progress.errors} errors{left}"
        )
