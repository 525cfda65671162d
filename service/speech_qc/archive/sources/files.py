"""Reads manifests and containers, which are local files or objects such as `s3://bucket/key`."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO, cast

import orjson

from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.names import is_remote, local_path, name_of
from speech_qc.archive.storage import etags, query_of, resolve

PROBLEMS_SHOWN = 5
"""Lines of a manifest that a message lists."""
BUFFER_BYTES = 1 << 20
"""Read at once from an object store, where each request takes milliseconds."""


def resolved(path: str, folder: str) -> str:
    """Return where a recording named in a manifest is.

    A relative path is relative to the current folder if there is such a file, otherwise to the manifest's folder, as
    NeMo does it (`nemo.collections.common.parts.preprocessing.manifest.get_full_path`).

    Args:
        path: A path, or a URI, which is returned as it is.
        folder: Folder of the manifest; a path or a URI.

    Returns:
        Its name in results; see `names.name_of`.
    """
    if is_remote(path):
        return name_of(path)
    path = os.path.expanduser(local_path(path))
    if is_remote(folder) and not os.path.isabs(path):
        return name_of(beside(folder, path))
    return name_of(path, "" if os.path.isfile(path) else folder)


def beside(folder: str, name: str) -> str:
    """Return the path of a file in a folder, which may be a URI with a query."""
    address, mark, query = folder.partition("?") if is_remote(folder) else (folder, "", "")
    return f"{address.rstrip('/')}/{name}{mark}{query}"


def ends_with(path: str, endings: str | tuple[str, ...]) -> bool:
    """Whether the path, or that of a URI without its query, ends like this."""
    return (path.partition("?")[0] if is_remote(path) else path).endswith(endings)


def exists(path: str) -> bool:
    """Whether there is such a file.

    Raises:
        ArchiveError: The store cannot be asked.
    """
    if not is_remote(path):
        return os.path.exists(local_path(path))
    store, name = resolve(path)
    try:
        return bool(store.get_file_info(name).is_file)
    except OSError as error:
        raise ArchiveError(f"{path}: cannot ask the store whether there is such an object: {error}") from error


def folder_of(path: str) -> str:
    """Return the folder of a path or URI; the query of a URI is kept."""
    if is_remote(path):
        return path.partition("?")[0].rpartition("/")[0] + query_of(path)
    return os.path.dirname(os.path.abspath(local_path(path)))


def open_binary(path: str) -> BinaryIO:
    """Open a file for reading, with random access.

    Raises:
        OSError: It cannot be opened.
    """
    if not is_remote(path):
        try:
            return open(local_path(path), "rb")
        except ValueError as error:
            raise OSError(f"expected the name of a file, got {path!r}: {error}") from error
    return io.BufferedReader(cast(io.RawIOBase, native_file(path)), BUFFER_BYTES)


def native_file(path: str) -> Any:
    """Open a file as Arrow's libraries take it; it is closed when it is no longer referenced.

    Raises:
        OSError: It cannot be opened.
    """
    try:
        store, name = resolve(path)
    except ArchiveError as error:
        raise OSError(str(error)) from error
    return store.open_input_file(name if is_remote(path) else os.fsencode(name))


def stamp(path: str) -> str:
    """Return the etag of a file, as `storage.etags` does.

    Raises:
        OSError: There is no such file.
    """
    (found,) = etags([path])
    if found is None:
        raise FileNotFoundError(f"no such file: {path}")
    return found


def json_lines(path: str) -> Iterator[tuple[int, Any]]:
    """Read a file of JSON lines, compressed if its name ends in `.gz`.

    Yields:
        The number of the line, from 1, and its value; a ValueError in place of a value that is no JSON.

    Raises:
        ArchiveError: The file cannot be read.
    """
    for number, line in text_lines(path):
        try:
            yield number, _parsed(line)
        except (ValueError, RecursionError) as error:
            yield number, ValueError(f"expected JSON, got {line[:40]!r} ({error})")


def _parsed(line: str) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        return json.loads(line)  # Python writes NaN and Infinity, which are no JSON


def text_lines(path: str, *, errors: str = "strict") -> Iterator[tuple[int, str]]:
    """Read the lines of a file that are not empty, without white space around them, nor a byte order mark.

    Args:
        path: The file, compressed if its name ends in `.gz`.
        errors: What to do with bytes that are not UTF-8, as in `bytes.decode`.

    Yields:
        The number of the line, from 1, and the line.

    Raises:
        ArchiveError: The file cannot be read, or is no text in UTF-8.
    """
    try:
        with open_binary(path) as file:
            plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if ends_with(path, ".gz") else file
            for number, line in enumerate(plain, start=1):
                if text := line.decode("utf-8-sig" if number == 1 else "utf-8", errors).strip():
                    yield number, text
    except (OSError, EOFError) as error:
        raise ArchiveError(f"expected a text file, cannot read {path}: {error}") from error
    except UnicodeDecodeError as error:
        raise ArchiveError(f"expected a manifest in UTF-8, got other bytes in {path}: {error}") from error


def checked_items(
    path: str, lines: Callable[[], Iterable[tuple[int, Any]]], items_of: Callable[[Any], list[Item]]
) -> Iterator[Item]:
    """Read a manifest twice, first only to check it, so that a wrong line does not stop a run after hours.

    Args:
        path: Name of the manifest, for messages.
        lines: Returns the lines with their numbers.
        items_of: Returns the items of a line; raises ValueError if the line is wrong.

    Raises:
        ArchiveError: A line is wrong; the message lists the first ones. Or there are no items.
    """
    problems: list[str] = []
    wrong = found = 0
    for number, line in lines():
        try:
            found += len(_items(line, items_of))
        except ValueError as error:
            wrong += 1
            if len(problems) < PROBLEMS_SHOWN:
                problems.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {wrong - len(problems)} more" if wrong > len(problems) else ""
        raise ArchiveError(f"{path}: {'; '.join(problems)}{more}: correct or remove these lines")
    if not found:
        raise ArchiveError(f"{path}: expected recordings, got none: check that this is the right manifest")
    for _, line in lines():
        yield from _items(line, items_of)


class JsonManifest:
    """Source: the entries of a manifest of JSON lines, in their order.

    Args:
        path: The manifest, which may be compressed (`.gz`).
        items_of: Returns the items of an entry, of which relative paths are relative to the folder that it is given;
            raises ValueError if the entry is wrong.
    """

    opener: str | None = None

    def __init__(self, path: str, items_of: Callable[[dict[str, Any], str], list[Item]]) -> None:
        self._path, self._items_of = path, items_of

    def items(self) -> Iterator[Item]:
        """List the recordings; see `ItemSource`."""
        folder = folder_of(self._path)

        def items_of(entry: Any) -> list[Item]:
            if not isinstance(entry, dict):
                raise ValueError(f"expected a JSON object, got {type(entry).__name__}")
            return self._items_of(entry, folder)

        return checked_items(self._path, partial(json_lines, self._path), items_of)


def _items(line: Any, items_of: Callable[[Any], list[Item]]) -> list[Item]:
    if isinstance(line, ValueError):
        raise line
    return items_of(line)


def seconds(value: Any, name: str) -> float | None:
    """Read a position or length in seconds.

    Raises:
        ValueError: It is no number, or negative.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"expected {name} in seconds, got {value!r}")
    return float(value)
