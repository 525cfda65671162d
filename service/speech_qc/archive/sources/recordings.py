"""Recordings in folders, patterns, object stores and lists of paths."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.fs as pafs

from speech_qc.archive.items import ArchiveError, Item, ItemSource
from speech_qc.archive.names import is_remote, name_of
from speech_qc.archive.sources.files import folder_of, text_lines
from speech_qc.archive.storage import etag_of, query_of, resolve
from speech_qc.audio.extensions import AUDIO_EXTENSIONS, looks_like_recording
from speech_qc.audio.folders import files_in

LIST_EXTENSIONS = frozenset({".txt", ".lst", ".list"})


class LocalFiles:
    """Recordings in a folder, those that a pattern names, or one file.

    Args:
        argument: Folder (searched recursively), glob pattern (`**` matches subfolders), or path.
    """

    opener: str | None = None

    def __init__(self, argument: str) -> None:
        self._argument = argument

    def items(self) -> Iterator[Item]:
        """List the recordings in order of their names, then the folders that cannot be listed; see `ItemSource`."""
        problems: list[OSError] = []
        found = False
        for path in self._paths(problems):
            found = True
            yield Item(name_of(path))
        if not found:
            reason = str(problems[0]) if problems else "is it empty, not mounted, or misspelt?"
            raise ArchiveError(f"{self._argument}: expected recordings, got none: {reason}")
        for problem in problems:
            yield Item(
                name_of(problem.filename),
                problem=f"expected to list this folder, got {problem.strerror}: its recordings are not inspected: "
                "change its permissions",
            )

    def _paths(self, problems: list[OSError]) -> Iterator[str]:
        path = Path(os.path.abspath(self._argument))
        if path.exists():
            matches = [str(path)]
        elif glob.has_magic(self._argument):
            matches = sorted(glob.glob(str(path), recursive=True))
        else:
            raise ArchiveError(f"{self._argument}: no such file or folder")
        for match in matches:
            if os.path.isdir(match):
                yield from (str(file) for file in files_in(Path(match), problems.append) if looks_like_recording(file))
            else:
                yield match


class StoredFiles:
    """Recordings in an object store: all below a prefix, or one object; recognised by their extensions.

    Args:
        uri: As `s3://bucket/folder`; a trailing `**/*.wav` or `*.wav` selects by name.
    """

    opener: str | None = None

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def items(self) -> Iterator[Item]:
        """List the recordings, folder by folder; see `ItemSource`."""
        address, query = self._uri.partition("?")[0], query_of(self._uri)
        pattern = None
        if glob.has_magic(address):
            start, _, pattern = address.partition("*")
            folder, _, first = start.rpartition("/")
            pattern, address = f"{first}*{pattern}", folder
        store, root = resolve(address + query)
        scheme = address.partition("://")[0]
        try:
            info = store.get_file_info(root)
            if info.type == pafs.FileType.NotFound:
                raise ArchiveError(f"{self._uri}: nothing is stored there")
            if info.type == pafs.FileType.File:
                yield Item(self._uri, etag=etag_of(info.size, info.mtime_ns))
                return
            chosen, count = _chooser(pattern), 0
            for found in _below(store, root):
                if chosen(found.path[len(root) + 1 :]):
                    count += 1
                    yield Item(f"{scheme}://{found.path}{query}", etag=etag_of(found.size, found.mtime_ns))
        except (OSError, ValueError) as error:
            raise ArchiveError(f"{self._uri}: cannot list what is stored there: {error}") from error
        if not count:
            raise ArchiveError(f"{self._uri}: expected recordings, got none: check the name and the pattern")


def _below(store: pafs.FileSystem, folder: str) -> Iterator[pafs.FileInfo]:
    """List a folder, then its subfolders, so that only one listing is in memory."""
    entries = sorted(store.get_file_info(pafs.FileSelector(folder)), key=lambda info: info.path)
    yield from (info for info in entries if info.type == pafs.FileType.File)
    for info in entries:
        if info.type == pafs.FileType.Directory:
            yield from _below(store, info.path)


def _chooser(pattern: str | None) -> Callable[[str], bool]:
    """Return what decides by its name, relative to the folder, whether an object is to be inspected.

    In a pattern, `**` matches any folders, `*` and `?` match within a name.
    """
    if pattern is None:
        return lambda name: Path(name).suffix.lower() in AUDIO_EXTENSIONS
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expression = re.compile("".join(meaning.get(part) or re.escape(part) for part in parts))
    return lambda name: expression.fullmatch(name) is not None


class Listed:
    """Recordings in a text file, a path or URI per line; relative paths are relative to the file.

    Args:
        path: The list.
    """

    opener: str | None = None

    def __init__(self, path: str) -> None:
        self._path = path

    def items(self) -> Iterator[Item]:
        """Read the list, whose paths need not be UTF-8; see `ItemSource`."""
        folder, found = folder_of(self._path), False
        for number, name in text_lines(self._path, errors="surrogateescape"):
            if "\0" in name:
                raise ArchiveError(
                    f"{self._path}: line {number}: expected a path, got null bytes: save the list as UTF-8, not UTF-16"
                )
            found = True
            yield Item(name_of(name, folder))
        if not found:
            raise ArchiveError(f"{self._path}: expected a path per line, the list is empty")


def find_sources(arguments: Sequence[str]) -> list[ItemSource]:
    """Choose the source for each argument of the command.

    Raises:
        ArchiveError: A file does not exist.
    """
    return [_source_of(argument) for argument in arguments]


def _source_of(argument: str) -> ItemSource:
    if is_remote(argument):
        return StoredFiles(argument)
    path = Path(argument)
    if path.suffix.lower() in LIST_EXTENSIONS and path.is_file():
        return Listed(argument)
    return LocalFiles(argument)
