"""WebDataset shards: tar files in which the files of one sample follow each other and share a name.

The recording `a/17.wav` of a shard is named `shard.tar#a/17.wav`. The sample's `.json` and `.txt` become columns.

Source: WebDataset documentation, "The WebDataset format".
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import groupby
from typing import Any, BinaryIO

import orjson

from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.names import as_text
from speech_qc.archive.sources.files import ends_with, open_binary, stamp
from speech_qc.audio.extensions import AUDIO_EXTENSIONS

AUDIO = frozenset(extension.removeprefix(".") for extension in AUDIO_EXTENSIONS)
"""Last extension of members that are recordings."""
NAME = re.compile(r"(.+?\.tar(?:\?[^#]*)?)#(.+)", re.DOTALL)
SHARDS_KEPT = 2
"""Indexes of shards that a process keeps."""


class TarShards:
    """Source: the recordings in shards; a sample with several has an item for each.

    Args:
        paths: Tar files that are not compressed, so that a worker can open one recording without reading the others.

    Raises:
        ArchiveError: A file cannot be read, or is no such tar file.
    """

    opener: str | None = "speech_qc.archive.sources.webdataset:open_member"

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        for path in paths:
            with _tar(path):
                pass

    def items(self) -> Iterator[Item]:
        """List recordings in the order of the shards and of their members.

        A shard that ends early has one more item, named as the shard itself, whose row has the error.
        """
        found = False
        for path in self._paths:
            etag = stamp(path)
            with _tar(path) as tar:
                try:
                    for key, members in groupby((one for one in tar if one.isfile()), lambda one: _split(one.name)[0]):
                        for item in _items(path, etag, tar, key, list(members)):
                            found = True
                            yield item
                    whole = _ends_properly(tar)
                except (tarfile.TarError, OSError):
                    whole = False
            if not whole:
                found = True
                yield Item(path, etag=etag)
        if not found:
            raise ArchiveError(
                f"expected recordings ({', '.join(sorted(AUDIO))}) in the shards, got none in {', '.join(self._paths)}"
            )


def open_member(uri: str) -> BinaryIO:
    """Open a recording of a shard; runs in worker processes.

    Raises:
        OSError: The shard cannot be read, or has no such recording.
    """
    match = NAME.fullmatch(uri)
    if match is None:
        raise OSError(f"expected a whole tar file, {uri} ends early: what was before its end has rows of its own")
    path, name = match.groups()
    offset, size = _index(path, stamp(path)).get(name, (0, -1))
    if size < 0:
        raise OSError(f"expected a member {name!r} in {path}, got none: the shard has been replaced")
    with open_binary(path) as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise OSError(f"expected {size} bytes of {name!r} in {path}, got {len(data)}: the shard is truncated")
    return io.BytesIO(data)


@lru_cache(SHARDS_KEPT)
def _index(path: str, _etag: str) -> dict[str, tuple[int, int]]:
    """Return position and size of every member; read once per shard and process."""
    try:
        with _tar(path) as tar:
            found = {}
            try:
                for one in tar:
                    if one.isfile():
                        found[as_text(one.name)] = (one.offset_data, one.size)
            except tarfile.TarError:  # it ends early; what was before is whole
                pass
            return found
    except ArchiveError as error:
        raise OSError(str(error)) from error


@contextmanager
def _tar(path: str) -> Iterator[tarfile.TarFile]:
    if not ends_with(path, ".tar"):
        raise ArchiveError(f"expected a shard that is not compressed (.tar), got {path}: unpack it with gunzip or such")
    with ExitStack() as stack:
        try:
            tar = stack.enter_context(tarfile.open(fileobj=stack.enter_context(open_binary(path)), mode="r:"))
        except (tarfile.TarError, OSError) as error:
            raise ArchiveError(f"expected a tar file that is not compressed, cannot read {path}: {error}") from error
        yield tar


def _ends_properly(tar: tarfile.TarFile) -> bool:
    """Whether a block of zeros follows the last member; `tarfile` takes the end of the file for the end as well."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    return tar.fileobj.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)


def _split(name: str) -> tuple[str, str]:
    """Split the name of a member into the sample's key and the extension, at the first dot of the last component."""
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return folder + slash + stem, extension.lower()


def _items(path: str, etag: str, tar: tarfile.TarFile, key: str, members: list[tarfile.TarInfo]) -> Iterator[Item]:
    columns: dict[str, Any] = {"__key__": key}
    sounds = []
    for member in members:
        extension = _split(member.name)[1]
        if extension.rpartition(".")[2] in AUDIO:
            sounds.append(member)
        elif extension in ("json", "txt"):
            columns |= _columns(_content(tar, member), extension)
    for member in sounds:
        yield Item(f"{path}#{as_text(member.name)}", manifest=columns, etag=etag)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return b"" if file is None else file.read()


def _columns(content: bytes, extension: str) -> dict[str, Any]:
    if extension == "txt":
        return {"text": content.decode("utf-8", "replace").strip()}
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return {"json_error": "the sample's .json cannot be read"}
    return value if isinstance(value, dict) else {"json": value}
