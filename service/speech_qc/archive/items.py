"""What a source of recordings provides: items, and a way to open them where they are not plain files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol


class ArchiveError(Exception):
    """The work cannot begin or go on; a recording that cannot be inspected is no such error, but a row.

    Not part of the error tree of `speech_qc.errors`: the service never sends it to a client.
    """


@dataclass(frozen=True, slots=True)
class Item:
    """One recording to inspect, or a part of one.

    Args:
        uri: A local path, a URI such as `s3://bucket/key`, or a name that the source's opener understands. It is the
            first part of the key, so a source must name the same recording the same way in every run.
        offset_s: Start of the part, seconds; None for the start of the recording.
        length_s: Length of the part, seconds; None for all that follows.
        channel: Index of the only channel to inspect; None for every channel.
        manifest: The source's own columns; values must be serialisable as JSON.
        etag: Changes whenever the recording does; None if the size and the time of modification of the file `uri` say
            so, whatever opens it. A member of a container, which is no file of its own, has that of the container.
        problem: Why it cannot be inspected, if the source knows that already, such as a folder that cannot be listed;
            the message of its row's error.
    """

    uri: str
    offset_s: float | None = None
    length_s: float | None = None
    channel: int | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)
    etag: str | None = None
    problem: str | None = None


class ItemSource(Protocol):
    """Lists recordings, always in the same order; the list may be longer than fits into memory."""

    @property
    def opener(self) -> str | None:
        """Import path `module:function` of an `Opener` for this source's items; None if each `uri` is a file."""

    def items(self) -> Iterator[Item]:
        """List the items; called again to count them, so that a run can say how long it will take.

        Raises:
            ArchiveError: The source cannot be read.
        """


class Opener(Protocol):
    """Opens recordings that are not files of their own, such as members of a tar file; runs in worker processes."""

    def __call__(self, uri: str) -> BinaryIO:
        """Open a recording for reading from its start, with random access.

        Raises:
            OSError: It cannot be read; this becomes the error of the item's row.
        """
