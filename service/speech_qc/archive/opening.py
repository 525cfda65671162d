"""Opens the recording of an item, cuts parts from it, and computes the checksum of its bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from typing import Any, BinaryIO, cast

import numpy as np

from speech_qc.archive.items import ArchiveError, Opener
from speech_qc.archive.storage import is_remote, open_remote
from speech_qc.audio import AudioInfo, AudioWarning, DecodeLimits
from speech_qc.audio.decode import decode_file
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.sources import Block, BlockSource, BytesSource

HASH_BYTES = 1 << 20


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


class HashedFile(io.RawIOBase):
    """A file whose bytes are hashed as they are read.

    Args:
        file: The file, at its start; owned by this object.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and hash."""
        piece = self._file.read(size)
        self._digest.update(piece)
        return piece

    def sha256(self) -> str:
        """Read what is left, and return the digest of the whole file."""
        while self.read(HASH_BYTES):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class RecordingFile:
    """One recording of which parts are inspected; used by one thread.

    Parts in ascending order that do not overlap are cut in one pass; otherwise it is decoded again from its start.

    Args:
        uri: Path, URI, or a name for the opener.
        opener: Import path of the opener; None for a file.
        limits: Limits on the recording.
    """

    def __init__(self, uri: str, opener: str | None, limits: DecodeLimits) -> None:
        self._uri, self._opener, self._limits = uri, opener, limits
        self._is_path = opener is None and not is_remote(uri)
        self._hashed: HashedFile | None = None
        self._source: BlockSource | None = None
        self._blocks: Iterator[Block] = iter(())
        self._rest: Block | None = None
        self._position = 0  # of the first sample that was not handed out
        self._error: Exception | None = None

    @property
    def info(self) -> AudioInfo | None:
        """Properties that the header declares; known with the first block."""
        return None if self._source is None else self._source.info

    @property
    def warnings(self) -> Sequence[AudioWarning]:
        """What was wrong with the recording, as far as it was read."""
        return () if self._source is None else self._source.warnings

    def sha256(self) -> str | None:
        """Return the digest of the whole recording; None if it cannot be read."""
        try:
            if self._is_path:
                with open(self._uri, "rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            if self._hashed is None:
                self._hashed = HashedFile(self._open_bytes())
            return self._hashed.sha256()
        except Exception:  # the row says already why it cannot be read
            return None
        finally:
            self.close()

    def close(self) -> None:
        """Release the file; idempotent."""
        self._stop()
        if self._hashed is not None:
            self._hashed.close()

    def blocks_from(self, start: int) -> Iterator[Block]:
        """Decode from a sample on; hand back what is not used with `put_back`.

        Raises:
            Exception: It cannot be opened or decoded, now or in an earlier part.
        """
        if self._error is not None and start >= self._position:
            raise self._error
        if self._source is None or start < self._position:
            self._restart()
        try:
            while (block := self._next()) is not None:
                self._position += len(block)
                skipped = max(0, start - (self._position - len(block)))
                if skipped < len(block):
                    yield block[skipped:]
        except Exception as error:
            self._error = error
            raise

    def put_back(self, block: Block) -> None:
        """Return the end of the last block, which is after the part."""
        self._rest = block
        self._position -= len(block)

    def _next(self) -> Block | None:
        rest, self._rest = self._rest, None
        return next(self._blocks, None) if rest is None else rest

    def _restart(self) -> None:
        self._stop()
        self._rest, self._position, self._error = None, 0, None
        try:
            self._source = self._open()
            self._blocks = iter(self._source)
        except Exception as error:
            self._error = error
            raise

    def _stop(self) -> None:
        close: Callable[[], Any] | None = getattr(self._blocks, "close", None)
        if close is not None:
            close()
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def _open(self) -> BlockSource:
        if self._is_path:
            return decode_file(self._uri, self._limits)
        file = self._open_bytes()
        if self._hashed is not None:  # the second pass: the first one computes the checksum
            return BytesSource(file, self._limits)
        self._hashed = HashedFile(file)
        return BytesSource(cast(BinaryIO, self._hashed), self._limits)

    def _open_bytes(self) -> BinaryIO:
        return open_remote(self._uri) if self._opener is None else find_opener(self._opener)(self._uri)


class Part:
    """A part of a recording as a source of blocks; iterated once.

    Args:
        file: The recording.
        offset_s: Start, seconds; None for the start of the recording.
        length_s: Length, seconds; None for all that follows.
        channel: The only channel to inspect; None for all.
    """

    def __init__(
        self, file: RecordingFile, offset_s: float | None, length_s: float | None, channel: int | None
    ) -> None:
        self._file, self._channel = file, channel
        self._offset_s, self._length_s = offset_s or 0.0, length_s
        self.channels: int | None = None
        """Channels of the recording; known with the first block."""
        self._warnings: list[AudioWarning] = []
        self._got = 0

    @property
    def info(self) -> AudioInfo | None:
        """Properties of the part."""
        info = self._file.info
        return info if info is None or self._channel is None else replace(info, channels=1)

    @property
    def warnings(self) -> Sequence[AudioWarning]:
        """What was wrong with the recording."""
        return [*self._file.warnings, *self._warnings]

    def __iter__(self) -> Iterator[Block]:
        """Decode block by block.

        Raises:
            Exception: It cannot be opened or decoded, or the part is not in the recording.
        """
        first = next(self._file.blocks_from(0), None) if self._file.info is None else None
        if first is not None:
            self._file.put_back(first)
        info = self._file.info
        assert info is not None  # or opening would have raised
        self.channels = info.channels
        if self._channel is not None and not 0 <= self._channel < info.channels:
            raise InvalidAudio(
                f"expected a channel from 0 to {info.channels - 1}, got {self._channel}: correct the manifest"
            )
        start = round(self._offset_s * info.sample_rate_hz)
        wanted = None if self._length_s is None else round(self._length_s * info.sample_rate_hz)
        for block in self._file.blocks_from(start):
            taken = len(block) if wanted is None else min(len(block), wanted - self._got)
            self._got += taken
            if taken < len(block):
                self._file.put_back(block[taken:])
            if taken:
                yield (
                    block[:taken]
                    if self._channel is None
                    else np.ascontiguousarray(block[:taken, self._channel : self._channel + 1])
                )
            if self._got == wanted:
                return
        self._check_end(info.sample_rate_hz, wanted)

    def _check_end(self, rate_hz: int, wanted: int | None) -> None:
        if self._got == 0 and self._offset_s:
            raise InvalidAudio(
                f"expected a part from {self._offset_s:g} s on, the recording ends before: correct the manifest"
            )
        if wanted is not None and self._got < wanted - rate_hz // 100:  # lengths are often rounded to 10 ms
            message = f"expected {self._length_s:g} s, the recording ends after {self._got / rate_hz:g} s of them"
            self._warnings.append(AudioWarning("samples_missing", message))
