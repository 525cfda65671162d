"""Finds the recordings that are joined in one file: chained Ogg, MP3 files one behind the other.

libsndfile reads the first link of a chained Ogg file, and an MP3 only as far as the tag in its first frame counts. The
rest would be silently unheard, so each part is read as a file of its own.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import BinaryIO

from speech_qc.errors import InvalidAudio

_SCAN_BYTES = 1 << 20
_OVERLAP_BYTES = 64  # longer than any pattern that is searched for
_PAGE_HEAD_BYTES = 27
_OPUS_RATE_HZ = 48_000
_PROBED_FRAMES = 200
_KBIT_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBIT_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_RATES_V1 = (44_100, 48_000, 32_000)  # Hz; half of it for MPEG-2, a quarter for MPEG-2.5
_MOST_SEGMENTS = 10_000  # a year of hourly recordings; each takes memory and time before it is known to be sound
_MOST_TRACKS = 100
_OGG_SOUND = re.compile(rb"\x01vorbis|OpusHead|\x7fFLAC|fLaC|Speex   ")
_MOST_TAGS = 100  # in a row
_LEAST_MP3_BYTES = 512  # a shorter rest contains no audible sound


@dataclass(frozen=True, slots=True)
class Segment:
    """One recording within a file.

    Args:
        start: Position of its first byte.
        end: Position after its last byte.
        patch: Bytes that replace those at its start.
    """

    start: int
    end: int
    patch: bytes = b""


class PositionedFile(io.RawIOBase):
    """A file for reading with random access that keeps its own position."""

    _position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position


class Window(PositionedFile):
    """A segment of a file as a file of its own; reading it moves the position of the file.

    A seek to an invalid position is ignored: libsndfile detects the failure by the unchanged position, and an exception
    would only be printed, because it cannot propagate through C.
    """

    def __init__(self, file: BinaryIO | Window, segment: Segment) -> None:
        super().__init__()
        self._file, self._segment = file, segment

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move within the segment."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence, self._segment.end - self._segment.start)
        if 0 <= base + offset < 1 << 62:
            self._position = base + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """Read up to `size` bytes."""
        segment = self._segment
        left = max(0, segment.end - segment.start - self._position)
        self._file.seek(segment.start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        if self._position < len(segment.patch):
            patch = segment.patch[self._position : self._position + len(data)]
            data = patch + data[len(patch) :]
        self._position += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has a private type
        """Read into a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def find_segments(file: BinaryIO | Window, total_bytes: int) -> list[Segment]:
    """Find the recordings in a file; a single one for all but Ogg and MP3. Leaves the position undefined.

    Args:
        file: The complete file.
        total_bytes: Its length.

    Raises:
        InvalidAudio: There are too many.
    """
    head = _read_at(file, 0, 4)
    if head == b"OggS":
        found = _ogg_links(file)
    elif re.match(rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xfd]", head):
        found = _mp3_parts(file, total_bytes)
    else:
        found = iter(())
    starts = list(islice(found, _MOST_SEGMENTS + 1))
    if len(starts) > _MOST_SEGMENTS:
        raise InvalidAudio(
            f"expected at most {_MOST_SEGMENTS} recordings joined in one file, got more: split the file, or convert it "
            "to WAV or FLAC"
        )
    bounds = [0, *(start for start in sorted(set(starts)) if start > 0), total_bytes]
    return [Segment(start, end) for start, end in pairwise(bounds)]


def _read_at(file: BinaryIO | Window, position: int, size: int) -> bytes:
    file.seek(max(0, position))
    return file.read(size)


def _occurrences(file: BinaryIO | Window, pattern: bytes) -> Iterator[int]:
    """Yield the positions of a pattern (a regular expression of a fixed, short length)."""
    position, tail = 0, b""
    while True:
        data = _read_at(file, position, _SCAN_BYTES)
        if not data:
            return
        piece = tail + data
        first = position - len(tail)
        for match in re.finditer(pattern, piece, re.DOTALL):
            if match.end() > len(tail):  # otherwise it was found in the last piece
                yield first + match.start()
        position += len(data)
        tail = piece[-_OVERLAP_BYTES:]


def _ogg_links(file: BinaryIO | Window) -> Iterator[int]:
    """Yield the starts of the links: a first page that does not directly follow another first page.

    Source: RFC 3533, sections 4 and 6: chaining is sequential, grouping puts all first pages at the start of a link.
    """
    group_end = -1
    for position in _occurrences(file, rb"OggS\x00\x02"):
        if position != group_end:
            yield position
        group_end = position + _page_bytes(file, position)


def count_ogg_tracks(file: BinaryIO | Window, segment: Segment) -> int:
    """Count the sound tracks that are grouped in a link of an Ogg file; 0 if it is no Ogg file."""
    count, position = 0, segment.start
    for _ in range(_MOST_TRACKS):
        page = _read_at(file, position, _page_bytes(file, position))
        if page[:6] != b"OggS\0\x02":
            break
        count += _OGG_SOUND.match(page, _PAGE_HEAD_BYTES + page[26]) is not None
        position += len(page)
    return count


def _page_bytes(file: BinaryIO | Window, position: int) -> int:
    """Return the length of the Ogg page at a position."""
    head = _read_at(file, position, _PAGE_HEAD_BYTES + 255)
    count = head[26] if len(head) > 26 else 0
    return _PAGE_HEAD_BYTES + count + sum(head[_PAGE_HEAD_BYTES : _PAGE_HEAD_BYTES + count])


def with_opus_rate(file: BinaryIO | Window, segment: Segment) -> Segment:
    """Fill in the rate of an Opus stream that does not declare one; libsndfile would take it for 8 kHz.

    Source: RFC 7845, section 5.1: the rate of the original input is informative, and 0 means unspecified.
    """
    page = bytearray(_read_at(file, segment.start, _page_bytes(file, segment.start)))
    head = page.find(b"OpusHead")
    if page[:4] != b"OggS" or head < 0 or len(page) < head + 16 or struct.unpack_from("<I", page, head + 12)[0]:
        return segment
    struct.pack_into("<I", page, head + 12, _OPUS_RATE_HZ)
    struct.pack_into("<I", page, 22, 0)
    struct.pack_into("<I", page, 22, _ogg_checksum(page))
    return Segment(segment.start, segment.end, bytes(page))


def _ogg_checksum(page: bytes | bytearray) -> int:
    """Return the CRC-32 of a page whose checksum field is zero: polynomial 0x04C11DB7, not reflected."""
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        crc &= 0xFFFFFFFF
    return crc


def _mp3_parts(file: BinaryIO | Window, total_bytes: int) -> Iterator[int]:
    """Yield where a tagged recording starts, and where one ends according to its tag while more frames follow."""
    last = 0
    for position in _occurrences(file, rb"Xing|Info"):
        frame = _tagged_frame(file, position)
        if frame is None:
            continue
        first = _after_id3(file, last)
        if last < frame < first:  # a recording within a tag
            continue
        if frame != first:
            yield frame
            last = max(last, frame)
        tag = _read_at(file, position + 4, 12)
        flags = struct.unpack_from(">I", tag)[0] if len(tag) == 12 else 0
        if flags & 2:  # the number of bytes follows, after the number of frames if that is there
            end = frame + struct.unpack_from(">I", tag, 8 if flags & 1 else 4)[0]
            end += 128 * (_read_at(file, end, 3) == b"TAG")  # ID3v1, which ends a recording; ID3v2 begins the next one
            after = _after_id3(file, end)
            if total_bytes - after > _LEAST_MP3_BYTES and _is_layer3(_read_at(file, after, 4)):
                yield end
                last = end


def _tagged_frame(file: BinaryIO | Window, position: int) -> int | None:
    """Return the start of the frame whose tag is at a position; None if these bytes are no tag."""
    before = (
        _read_at(file, position - 36, 36)
        if position >= 36
        else b"".rjust(36 - position, b"\0") + _read_at(file, 0, position)
    )
    for distance in (36, 21, 13):
        frame = before[36 - distance : 40 - distance]
        if _is_layer3(frame) and _tag_distance(frame) == distance:
            return position - distance
    return None


def _tag_distance(frame: bytes) -> int:
    """Return the distance of the tag from the start of its frame: the header and the side information."""
    is_version1, is_mono = frame[1] & 0x18 == 0x18, frame[3] >> 6 == 3
    return 4 + ((17 if is_mono else 32) if is_version1 else (9 if is_mono else 17))


def _is_layer3(frame: bytes) -> bool:
    """Whether the bytes are the header of an MPEG audio frame of layer III with a valid bit rate and sample rate."""
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return False
    return frame[1] & 0x18 != 0x08 and frame[2] >> 4 not in (0, 15) and frame[2] >> 2 & 3 != 3


def has_variable_bit_rate(file: Window) -> bool:
    """Whether an MP3 changes its bit rate within its first frames; restores the position.

    Without a tag, libsndfile extrapolates the length from the first frame, and reads no further.
    """
    before, position, seen = file.tell(), _after_id3(file, 0), set()
    for _ in range(_PROBED_FRAMES):
        frame = _read_at(file, position, 4)
        if not _is_layer3(frame):
            break
        is_version1 = frame[1] & 0x18 == 0x18
        kbit = (_KBIT_V1 if is_version1 else _KBIT_V2)[frame[2] >> 4]
        rate_hz = _RATES_V1[frame[2] >> 2 & 3] // {0x18: 1, 0x10: 2}.get(frame[1] & 0x18, 4)
        seen.add(kbit)
        position += (144 if is_version1 else 72) * 1000 * kbit // rate_hz + (frame[2] >> 1 & 1)
    file.seek(before)
    return len(seen) > 1


def _after_id3(file: BinaryIO | Window, position: int) -> int:
    """Skip ID3v2 tags and an ID3v1 tag."""
    for _ in range(_MOST_TAGS):
        head = _read_at(file, position, 10)
        if head[:3] == b"ID3" and len(head) == 10:
            position += 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])  # seven bits per byte
        elif head[:3] == b"TAG":
            position += 128
        else:
            break
    return position
