"""Finds the recordings to inspect, names the result files, and writes them atomically."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from speech_qc.audio.extensions import AUDIO_EXTENSIONS, looks_like_recording
from speech_qc.audio.folders import files_in
from speech_qc.cli.seams import CommandError

KINDS_SHOWN = 6
"""Maximum kinds of skipped files that a message lists."""


STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One recording to inspect.

    Args:
        path: Its path, as the user wrote it or as it was found.
        label: Its name in results, if that is not the path.
    """

    path: Path
    label: str = ""

    @property
    def name(self) -> str:
        """The path as text that is safe in terminals and JSON documents."""
        return self.label or printable(os.fsencode(self.path).decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Found:
    """The recordings that the command's arguments refer to.

    Args:
        sources: Each file once, in the order of the arguments and by name within a folder or pattern.
        missing: One message per argument without a recording, and per folder that cannot be listed.
        skipped: Files in the folders that do not look like audio; hidden ones do not count.
        several: Whether the arguments may refer to more than one file, even if only one was found. It decides the
            format of the result, which must not depend on the number of files in a folder.
    """

    sources: Sequence[InputFile]
    missing: Sequence[str]
    several: bool
    skipped: Sequence[InputFile] = ()

    def skipped_message(self) -> str:
        """Return a line about the files that were skipped, by extension, with an example of each."""
        kinds: dict[str, list[InputFile]] = defaultdict(list)
        for file in self.skipped:
            kinds[file.path.suffix.lower()].append(file)
        largest = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
        parts = [
            f"{len(files)} {printable(suffix) or 'without extension'} ({printable(files[0].path.name)}"
            + (", …)" if len(files) > 1 else ")")
            for suffix, files in largest[:KINDS_SHOWN]
        ]
        if rest := sum(len(files) for _, files in largest[KINDS_SHOWN:]):
            parts.append(f"{rest} others")
        count = "1 file that does" if len(self.skipped) == 1 else f"{len(self.skipped)} files that do"
        return f"skipped {count} not look like audio: {', '.join(parts)}"


def printable(text: str) -> str:
    """Replace control characters, which a file name may contain and a terminal would execute."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


@contextmanager
def pipes_copied(arguments: Sequence[str]) -> Iterator[Mapping[str, Path]]:
    """Copy standard input (`-`) and named pipes to temporary files: they can be read once only, a file several times.

    Yields:
        The file for each argument that is a pipe.

    Raises:
        CommandError: A pipe cannot be read, or a file cannot be written.
    """
    pipes = [argument for argument in dict.fromkeys(arguments) if argument == STANDARD_INPUT or _is_pipe(argument)]
    if not pipes:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="speech-qc-") as folder:
        copies: dict[str, Path] = {}
        for number, argument in enumerate(pipes):
            name = "stdin" if argument == STANDARD_INPUT else Path(argument).name
            copies[argument] = Path(folder, str(number), name)
            copies[argument].parent.mkdir()
            try:
                with _opened(argument) as source, copies[argument].open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            except OSError as error:
                raise CommandError(f"{printable(argument)}: cannot be copied to a temporary file: {error}") from error
        yield copies


def _is_pipe(argument: str) -> bool:
    try:
        return Path(argument).is_fifo()
    except (OSError, ValueError):
        return False


def _opened(argument: str) -> AbstractContextManager[BinaryIO]:
    """Open a pipe; standard input stays open."""
    if argument != STANDARD_INPUT:
        return Path(argument).open("rb")
    if sys.stdin is None:
        raise CommandError("expected a recording on standard input, got none: it is closed")
    return nullcontext(sys.stdin.buffer)


def find_sources(arguments: Sequence[str], copies: Mapping[str, Path] | None = None) -> Found:
    """Resolve files, folders (searched recursively) and glob patterns (`**` matches subfolders).

    Args:
        arguments: As given on the command line.
        copies: The files to read for `-` and for named pipes.
    """
    sources: dict[str, InputFile] = {}
    skipped: dict[str, InputFile] = {}
    missing: list[str] = []
    unreadable: list[OSError] = []
    several = len(arguments) != 1
    for argument in arguments:
        if copies is not None and argument in copies:
            sources.setdefault(argument, InputFile(copies[argument], printable(argument)))
            continue
        path = Path(argument)
        if path.is_dir():
            several = True
            paths, others = _sorted_out([path], unreadable)
            problem = f"no recordings in this folder; expected files ending in {' '.join(sorted(AUDIO_EXTENSIONS))}"
        elif path.exists() or not glob.has_magic(argument):
            paths, others = [path] if path.exists() else [], []
            problem = "no such file or folder"
        else:
            several = True
            paths, others = _sorted_out(map(Path, sorted(glob.glob(argument, recursive=True))), unreadable)
            problem = "no file matches this pattern"
        if not paths:
            missing.append(f"{printable(argument)}: {problem}")
        for found in paths:
            sources.setdefault(os.path.realpath(found), InputFile(found))
        for other in others:
            skipped.setdefault(os.path.realpath(other), InputFile(other))
    missing += [f"{printable(error.filename)}: this folder cannot be listed: {error.strerror}" for error in unreadable]
    unheard = [file for name, file in skipped.items() if name not in sources]
    return Found(list(sources.values()), missing, several, unheard)


def _sorted_out(paths: Iterable[Path], unreadable: list[OSError]) -> tuple[list[Path], list[Path]]:
    """Return the recordings among these files and in these folders, then the other files in the folders."""
    recordings: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.is_dir():
            for file in files_in(path, unreadable.append):
                (recordings if looks_like_recording(file) else others).append(file)
        else:
            recordings.append(path)
    return recordings, others


def result_names(sources: Sequence[InputFile], extension: str) -> list[str]:
    """Name one result file per recording, so that all names differ, even on file systems that ignore case.

    The name is `<stem>.<extension>` if that is unique. For recordings with the same stem, their folders are added as a
    prefix (`monday__call.json`), then their own extension (`call.wav.json`), then a number.

    Args:
        sources: The recordings, in the order of the result.
        extension: Extension without the dot.
    """
    levels = [0] * len(sources)
    parents = [os.path.dirname(os.path.abspath(source.path)) for source in sources if not source.label]
    common = os.path.commonpath(parents) if len({Path(parent).anchor for parent in parents}) == 1 else None
    while True:
        names = [
            f"{_stem(source, level, common, number)}.{extension}"
            for number, (source, level) in enumerate(zip(sources, levels, strict=True), start=1)
        ]
        groups: dict[str, list[int]] = defaultdict(list)
        for position, name in enumerate(names):
            groups[name.casefold()].append(position)
        clashes = [group for group in groups.values() if len(group) > 1]
        if not clashes:
            return names
        for position in (position for group in clashes for position in group):
            levels[position] += 1


def _stem(source: InputFile, level: int, common: str | None, number: int) -> str:
    """Return the name of a recording's result without its extension, more specific with every level."""
    if level == 0:
        return source.path.stem
    if source.label:  # the folder of a copy says nothing
        return f"{source.path.stem}-{number}" + "-" * (level - 1)
    absolute = Path(os.path.abspath(source.path))
    relative = absolute.relative_to(common) if common is not None else Path(*absolute.parts[1:])
    joined = "__".join(relative.parts)
    if level == 1:
        return joined[: len(joined) - len(absolute.suffix)]
    return joined if level == 2 else f"{joined}-{number}" + "-" * (level - 3)


@contextmanager
def replaced_when_complete(target: Path) -> Iterator[Path]:
    """Provide a temporary file next to the target, and rename it to the target if no error occurred.

    Args:
        target: Final name; an existing file is replaced.

    Raises:
        OSError: The folder cannot be written to.
    """
    # Keep the extension, for libraries that choose the format by it.
    draft = target.with_name(f".{secrets.token_hex(6)}{target.suffix}")
    try:
        yield draft
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def write_file(target: Path, chunks: Iterable[bytes]) -> None:
    """Write a result file atomically."""
    with replaced_when_complete(target) as draft, draft.open("xb") as file:
        file.writelines(chunks)
