"""Finds out whether the end of a media file is missing, from the size fields of its container.

FFmpeg reads a file that was cut off without an error, up to where it ends.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_BOX_NAME = re.compile(rb"[ -~\xa9]{4}\Z")
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEAD_BYTES = 1 << 16
_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675  # identifiers of Matroska elements that contain others
_MOST_ELEMENTS = 4_000_000  # limits the time for a file of tiny elements


@dataclass(frozen=True, slots=True)
class ContainerEnd:
    """What the size fields of a container say about its end.

    Args:
        declared: Length of the recording in bytes, if it is more than the file has; else None.
        fault: Position of the first byte from which the container cannot be followed; None if there is none.
    """

    declared: int | None = None
    fault: int | None = None


def find_end(file: BinaryIO, total_bytes: int, demuxer: str) -> ContainerEnd:
    """Follow the size fields of a container.

    Args:
        file: The recording; its position is moved.
        total_bytes: Its length.
        demuxer: FFmpeg's name of the container.
    """
    find = _FINDERS.get(demuxer)
    end = ContainerEnd() if find is None else find(file, total_bytes)
    return end if end.declared is None or end.declared > total_bytes else ContainerEnd(fault=end.fault)


def _box_end(file: BinaryIO, total_bytes: int) -> ContainerEnd:
    """Walk through the boxes of an MP4, MOV or 3GP file."""
    end = 0
    for _ in range(_MOST_ELEMENTS):
        file.seek(end)
        head = file.read(16)
        if not head.strip(b"\0"):  # padding
            return ContainerEnd()
        if len(head) < 8 or not _BOX_NAME.match(head[4:8]):
            return ContainerEnd(fault=end)
        size: int = struct.unpack_from(">I", head)[0]
        if size == 1 and len(head) == 16:
            size = struct.unpack_from(">Q", head, 8)[0]
        if size == 0:  # to the end of the file
            return ContainerEnd()
        if size < 8:
            return ContainerEnd(fault=end)
        end += size
        if end >= total_bytes:
            return ContainerEnd(end)
    return ContainerEnd()


def _matroska_end(file: BinaryIO, total_bytes: int) -> ContainerEnd:
    """Walk through the elements of a WebM or Matroska file.

    A live recorder does not know the sizes of the segment and its clusters, so their contents are walked through, too.
    """
    position = 0
    for _ in range(_MOST_ELEMENTS):
        file.seek(position)
        head = file.read(12)
        if not head:
            return ContainerEnd()
        id_bytes = 9 - head[0].bit_length()
        if id_bytes > 4 or len(head) <= id_bytes:
            return ContainerEnd()
        identity, first = int.from_bytes(head[:id_bytes], "big"), head[id_bytes]
        size_bytes = 9 - first.bit_length()
        field = head[id_bytes : id_bytes + size_bytes]
        if size_bytes > 8 or len(field) < size_bytes:
            return ContainerEnd()
        most = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(field, "big") & most
        position += id_bytes + size_bytes
        if size == most:  # unknown
            if identity not in (_SEGMENT, _CLUSTER):
                return ContainerEnd()
            continue
        position += size
        if position >= total_bytes:
            return ContainerEnd(position)
    return ContainerEnd()


def _asf_end(file: BinaryIO, _: int) -> ContainerEnd:
    """Read the file properties of a WMA file; a broadcast has no length."""
    file.seek(0)
    head = file.read(_ASF_HEAD_BYTES)
    at = head.find(_ASF_FILE_PROPERTIES)
    if at < 0 or len(head) < at + 92:
        return ContainerEnd()
    is_broadcast = head[at + 88] & 1
    size: int = struct.unpack_from("<Q", head, at + 40)[0]
    return ContainerEnd(None if is_broadcast else size)


def _riff_end(file: BinaryIO, _: int) -> ContainerEnd:
    """Read the size of the RIFF form; recorders that could not go back leave 0 or almost 2^32."""
    file.seek(4)
    field = file.read(4)
    size = int.from_bytes(field, "little")
    return ContainerEnd(None if len(field) < 4 or size >= 0xFFFFFF00 else size + 8)


def _caf_end(file: BinaryIO, total_bytes: int) -> ContainerEnd:
    """Walk through the chunks of a CAF file."""
    position = 8
    for _ in range(_MOST_ELEMENTS):
        file.seek(position)
        head = file.read(12)
        if len(head) < 12:
            return ContainerEnd()
        size: int = struct.unpack_from(">q", head, 4)[0]
        if size < 0:  # to the end of the file
            return ContainerEnd()
        position += 12 + size
        if position > total_bytes:
            return ContainerEnd(position)
    return ContainerEnd()


_FINDERS: dict[str, Callable[[BinaryIO, int], ContainerEnd]] = {
    "mov": _box_end,
    "matroska": _matroska_end,
    "asf": _asf_end,
    "caf": _caf_end,
    "avi": _riff_end,
    "qcp": _riff_end,
}
