"""Local folders and object stores behind one interface, that of `pyarrow.fs`."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from speech_qc.archive.items import ArchiveError

WHOLE_BYTES = 8 << 20
"""Objects of up to this size are fetched in one request; of larger ones, as much at a time while they are decoded."""
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://")


def is_remote(uri: str) -> bool:
    """Whether it is a URI such as `s3://bucket/key`, not a local path."""
    return _SCHEME.match(uri) is not None


@lru_cache(maxsize=64)
def _opened(root: str, query: str) -> Any:
    """Connect to the store of `scheme://bucket`; once per process, since connections are kept."""
    if root.startswith("s3:"):  # with it, a file of less than about 10 MB is one request, so it leaves no parts
        query += ("&" if query else "?") + "allow_delayed_open=true"
    return pafs.FileSystem.from_uri(f"{root}/{query}")[0]


def resolve(uri: str) -> tuple[Any, str]:
    """Find the file system of a path or URI, and the path in it.

    S3 takes its credentials, region and endpoint from the `AWS_*` environment, or from the URI's query, as in
    `s3://bucket/folder?endpoint_override=localhost:8333&scheme=http`.

    Raises:
        ArchiveError: The store is not supported, or cannot be reached.
    """
    if not is_remote(uri):
        return local(), os.path.abspath(uri)
    address, mark, query = uri.partition("?")
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket:  # they would be in every row
        raise ArchiveError(f"{scheme}://…: expected no credentials in a URI: set AWS_ACCESS_KEY_ID and the like")
    try:
        return _opened(f"{scheme}://{bucket}", mark + query), f"{bucket}/{key}".rstrip("/")
    except (pa.ArrowInvalid, OSError, NotImplementedError) as error:
        raise ArchiveError(f"{uri}: expected a local path, or a URI of S3 or of another store: {error}") from error


@lru_cache(maxsize=1)
def local() -> Any:
    """Return the file system of this machine."""
    return pafs.LocalFileSystem()


def query_of(uri: str) -> str:
    """Return the query of a URI with its question mark; empty if there is none, or for a path."""
    return "?" + uri.partition("?")[2] if is_remote(uri) and "?" in uri else ""


def etag_of(size: int, mtime_ns: int) -> str:
    """Name the version of a file."""
    return f"{size}-{mtime_ns}"


def etags(uris: Sequence[str]) -> list[str | None]:
    """Find the versions of files, those of an object store at the same time; None for a file that cannot be found."""
    found: list[str | None] = [None] * len(uris)
    stores: dict[Any, tuple[Any, list[int], list[str]]] = {}
    for position, uri in enumerate(uris):
        if is_remote(uri):
            store, path = resolve(uri)
            _, positions, paths = stores.setdefault(id(store), (store, [], []))
            positions.append(position)
            paths.append(path)
            continue
        try:
            facts = os.stat(uri)
        except (OSError, ValueError):  # the latter for names that no file can have
            continue
        found[position] = etag_of(facts.st_size, facts.st_mtime_ns)
    for store, positions, paths in stores.values():
        for position, info in zip(positions, store.get_file_info(paths), strict=True):
            if info.type == pafs.FileType.File:
                found[position] = etag_of(info.size, info.mtime_ns)
    return found


def open_remote(uri: str) -> BinaryIO:
    """Open an object for reading from its start, with random access; no more than `WHOLE_BYTES` of it are in memory.

    Raises:
        OSError: It cannot be read.
        ArchiveError: The store is not supported.
    """
    store, path = resolve(uri)
    file = store.open_input_file(path)
    if file.size() > WHOLE_BYTES:
        return io.BufferedReader(file, WHOLE_BYTES)
    with file:
        return io.BytesIO(file.read())


def write_whole(store: Any, path: str, content: Any) -> None:
    """Write a file so that others see all of it or nothing, also if this process is killed.

    Args:
        store: File system.
        path: Its final name; an existing file is replaced.
        content: A `pyarrow.Buffer`, or bytes.

    Raises:
        OSError: It cannot be written.
    """
    if not isinstance(store, pafs.LocalFileSystem):
        with store.open_output_stream(path) as stream:  # visible when closed, as one object
            stream.write(content)
        return
    target = Path(path)
    draft = target.with_name(f".{target.name}.draft")
    with draft.open("wb") as file:
        file.write(memoryview(content))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(target)
