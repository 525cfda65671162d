"""Opens the recording of an item, and computes the checksum of its bytes."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from importlib import import_module
from typing import Any, BinaryIO, cast

from speech_qc.archive.items import ArchiveError, Opener
from speech_qc.archive.names import is_remote, local_path
from speech_qc.archive.storage import open_remote
from speech_qc.audio import AudioInfo, AudioWarning, DecodeLimits
from speech_qc.audio.decode import Block, FileDecoder, decode_file
from speech_qc.audio.segments import PositionedFile

HASH_BYTES = 1 << 20
KEPT_SAMPLES = 1 << 20
"""Samples of a recording, all channels counted, that are kept for parts that overlap: a minute at 16 kHz."""
CHECKSUMS_KEPT = 4096


@lru_cache(maxsize=64)
def find_opener(path: str) -> Opener:
    """Import the opener of a source.

    Args:
        path: `module:function`.

    Raises:
        ArchiveError: There is no such function.
    """
    module, _, name = path.partition(":")
    try:
        return cast(Opener, getattr(import_module(module), name))
    except (ImportError, AttributeError) as error:
        raise ArchiveError(f"opener {path!r}: expected module:function: {error}") from error


class HashedFile(PositionedFile):
    """A file whose bytes are hashed as they are read, those that are skipped at the end.

    Closing it changes nothing, so that a decoder can be given it more than once; `release` closes the file.

    Args:
        file: The file, at its start, with random access; owned by this object.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self._hashed = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move."""
        self._position = self._file.seek(offset, whence)
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read and hash."""
        piece = self._file.read(size)
        start, self._position = self._position, self._position + len(piece)
        if start <= self._hashed < self._position:
            self._digest.update(memoryview(piece)[self._hashed - start :])
            self._hashed = self._position
        return piece

    def sha256(self) -> str:
        """Read what is left, and return the digest of the whole file."""
        self.seek(self._hashed)
        while self.read(HASH_BYTES):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Close the file."""
        self._file.close()


class RecordingFile:
    """One recording of which parts are inspected; used by one thread.

    Parts in ascending order are cut in one pass, also if they overlap by less than `KEPT_SAMPLES`; otherwise it is
    decoded again from its start.

    Args:
        uri: Path, URI, or a name for the opener.
        opener: Import path of the opener; None for a file.
        limits: Limits on the recording.
        several: Whether it has several parts.
    """

    def __init__(self, uri: str, opener: str | None, limits: DecodeLimits, *, several: bool = False) -> None:
        self._uri, self._opener, self._limits = uri, opener, limits
        self._kept_samples = KEPT_SAMPLES if several else 0
        self._path = local_path(uri) if opener is None and not is_remote(uri) else None
        self._fetched: Future[BinaryIO] | None = None
        self._hashed: HashedFile | None = None
        self._source: FileDecoder | None = None
        self._blocks: Iterator[Block] = iter(())
        self._position = 0  # of the first sample that is not decoded
        self._recent: deque[tuple[int, Block]] = deque()  # blocks that follow one another, and where they begin
        self._error: Exception | None = None

    def fetch(self, threads: ThreadPoolExecutor) -> None:
        """Begin to open it, if it is an object in a store, where each request takes milliseconds; idempotent."""
        if self._opener is None and self._path is None and self._fetched is None:
            self._fetched = threads.submit(open_remote, self._uri)

    @property
    def warnings(self) -> Sequence[AudioWarning]:
        """What was wrong with the recording, as far as it was read."""
        return () if self._source is None else self._source.warnings

    def info(self) -> AudioInfo:
        """Open it, if it is not open, and return the properties that the header declares.

        Raises:
            Exception: It cannot be opened.
        """
        if self._source is None:
            if self._error is not None:
                raise self._error
            self._restart()
        assert self._source is not None
        return self._source.info

    def sha256(self) -> str | None:
        """Return the digest of the whole recording; None if it cannot be read."""
        try:
            if self._path is not None:
                with open(self._path, "rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            return self._open_hashed().sha256()
        except Exception:  # the row says already why it cannot be read
            return None

    def close(self) -> None:
        """Release the file and what was decoded; idempotent."""
        self._recent.clear()
        self._blocks, self._fetched = iter(()), None
        if self._source is not None:
            self._source.close()
        if self._hashed is not None:
            self._hashed.release()

    def blocks_from(self, start: int) -> Iterator[Block]:
        """Decode from a sample on.

        Raises:
            Exception: It cannot be opened or decoded, now or in an earlier part.
        """
        self.info()
        if start < (self._recent[0][0] if self._recent else self._position):
            self._restart()
        position = start
        for at, block in tuple(self._recent):
            if at + len(block) > position:
                yield block[position - at :]
                position = at + len(block)
        while (decoded := self._decode(position)) is not None:
            if self._position > position:
                yield decoded[max(0, position - self._position + len(decoded)) :]
                position = self._position

    def _decode(self, needed: int) -> Block | None:
        """Decode the next block, without what is before a sample where that is possible."""
        if self._error is not None:
            raise self._error
        assert self._source is not None
        try:
            self._source.skip_to(needed)
            block = next(self._blocks, None)
        except Exception as error:
            self._error = error
            raise
        if block is not None:
            self._keep(block, self._source.frames)
        return block

    def _keep(self, block: Block, end: int) -> None:
        recent = self._recent
        if end - len(block) > self._position:  # something was skipped
            recent.clear()
        recent.append((end - len(block), block))
        self._position = end
        while len(recent) > 1 and (end - recent[1][0]) * block.shape[1] >= self._kept_samples:
            recent.popleft()

    def _restart(self) -> None:
        self._recent.clear()
        self._position, self._error = 0, None
        try:
            self._source = self._open()
            self._blocks = iter(self._source)
        except Exception as error:
            self._error = error
            raise

    def _open(self) -> FileDecoder:
        if self._source is not None:
            self._source.close()
        if self._path is not None:
            return decode_file(self._path, self._limits)
        file = self._open_hashed()
        total_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        return FileDecoder(cast(BinaryIO, file), total_bytes, self._limits)

    def _open_hashed(self) -> HashedFile:
        if self._hashed is None:
            if self._fetched is not None:
                file = self._fetched.result()
            else:
                file = (open_remote if self._opener is None else find_opener(self._opener))(self._uri)
            self._hashed = HashedFile(file)
        return self._hashed


class Checksums:
    """Digests of recordings that are cut into parts, since any batch may have parts of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], str] = {}

    def of(self, file: RecordingFile, item: Mapping[str, Any]) -> str | None:
        """Return the digest of a whole recording; None if it cannot be read.

        Args:
            file: The recording.
            item: A row of `schema.ITEMS` that is about it.
        """
        key = (item["uri"], item["opener"], item["etag"])
        found = self._known.get(key) or file.sha256()
        if item["length_s"] is not None and item["etag"] is not None and found is not None:
            self._known[key] = found
            if len(self._known) > CHECKSUMS_KEPT:
                del self._known[next(iter(self._known))]
        return found
