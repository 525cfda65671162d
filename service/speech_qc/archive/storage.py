"""Local folders and object stores behind one interface, that of `pyarrow.fs`."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from speech_qc.archive.items import ArchiveError
from speech_qc.archive.names import is_remote, local_path

WHOLE_BYTES = 8 << 20
"""Objects of up to this size are fetched in one request; of larger ones, as much at a time while they are decoded."""
AT_ONCE = 64
"""Objects that are asked for one by one at the same time, after an object store has refused to name them together."""


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
        return local(), os.path.abspath(local_path(uri))
    address, mark, query = uri.partition("?")
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    if "@" in bucket:  # they would be in every row
        raise ArchiveError(f"{scheme}://…: expected no credentials in a URI: set AWS_ACCESS_KEY_ID and the like")
    try:
        return _opened(f"{scheme}://{bucket}", mark + query), f"{bucket}/{key}".rstrip("/")
    except (pa.ArrowInvalid, OSError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ArchiveError(
            f"{uri}: expected a local path, or a URI of S3 or of another store: {reason}: download the recordings, or "
            "copy them to such a store"
        ) from error


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
    """Find the versions of files, those of an object store at the same time.

    Returns:
        For each, None if it cannot be found or asked for; whoever opens it learns the reason.
    """
    found: list[str | None] = [None] * len(uris)
    buckets: dict[tuple[str, str], list[int]] = {}
    for position, uri in enumerate(uris):
        if is_remote(uri):
            root = "/".join(uri.partition("?")[0].split("/")[:3])
            buckets.setdefault((root, query_of(uri)), []).append(position)
            continue
        try:
            facts = os.stat(local_path(uri))
        except (OSError, ValueError):  # the latter for names that no file can have
            continue
        found[position] = etag_of(facts.st_size, facts.st_mtime_ns)
    for positions in buckets.values():
        try:
            store = resolve(uris[positions[0]])[0]
            paths = [resolve(uris[position])[1] for position in positions]
        except ArchiveError:
            continue
        for position, info in zip(positions, _infos(store, paths), strict=True):
            if info is not None and info.type == pafs.FileType.File:
                found[position] = etag_of(info.size, info.mtime_ns)
    return found


def _infos(store: Any, paths: Sequence[str]) -> list[Any]:
    """Ask for several objects; None for one that may not be asked for."""
    try:
        return list(store.get_file_info(list(paths)))
    except (OSError, ValueError):  # the latter for names that no object can have
        if len(paths) == 1:
            return [None]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(partial(_info, store), paths))


def _info(store: Any, path: str) -> Any:
    try:
        return store.get_file_info(path)
    except (OSError, ValueError):
        return None


def open_remote(uri: str) -> BinaryIO:
    """Open an object for reading from its start, with random access; no more than `WHOLE_BYTES` of it are in memory.

    Raises:
        OSError: It cannot be read.
        ArchiveError: The store is not supported.
    """
    store, path = resolve(uri)
    try:
        file = store.open_input_file(path)
    except ValueError as error:
        raise OSError(f"{uri}: expected the name of an object: {error}") from error
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
