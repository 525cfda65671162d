"""Reads the samples of a WAV file as its bytes arrive, to the very end of the file.

The header's size field is a hint, not the truth: samples are read as far as there are any, further data chunks and
further recordings of the same format are read as well, and anything that is not read is counted and reported.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import AudioWarning, is_integer
from speech_qc.audio.pcm import BLOCK_FRAMES, CONVERTERS, check_finite
from speech_qc.audio.wav import LONG_FORMS, PADDED_24, WavHeader, WavHeaderParser, is_endless, is_placeholder
from speech_qc.errors import InvalidAudio

Block = NDArray[np.float32]

_PROBE_SAMPLES = 4096
"""Frames of a `PADDED_24` file that are examined together."""

_HEADER_PIECE = 1024
"""Bytes of a further header that are parsed at once."""

_PROBE_SOUNDING = 16
"""Samples that are not zero, in which the lowest byte cannot be zero by chance."""


class WavSamples:
    """Converts the bytes of samples to blocks of frames; owned by one decoder.

    A push may end in the middle of a frame; less than one frame is kept between pushes, except at the start of a file
    with `PADDED_24`.
    """

    def __init__(self, header: WavHeader) -> None:
        if header.subtype is None:
            raise ValueError("expected a header with a known subtype, got one that only libsndfile reads")
        self.frames = 0
        self.header = header
        self._convert = None if header.subtype == PADDED_24 else CONVERTERS[header.subtype]
        self._is_integer = is_integer(header.subtype)
        self._least_bytes = header.frame_bytes if self._convert else _PROBE_SAMPLES * header.frame_bytes
        self._rest = b""  # of an incomplete frame

    def push(self, data: bytes | memoryview) -> list[Block]:
        """Convert all frames that are now complete.

        Returns:
            Blocks of at most `BLOCK_FRAMES` frames, each float32 [n, channels], C-contiguous, a new array.

        Raises:
            InvalidAudio: A float sample is NaN or infinite.
        """
        view, frame_bytes = memoryview(data), self.header.frame_bytes
        blocks: list[Block] = []
        if self._rest:
            missing = min(self._least_bytes - len(self._rest), len(view))
            self._rest += view[:missing]
            view = view[missing:]
            if len(self._rest) < self._least_bytes:
                return blocks
            blocks.append(self._block(self._rest))
        if self._convert is None and len(view) < self._least_bytes:
            self._rest = bytes(view)
            return blocks
        whole = len(view) - len(view) % frame_bytes
        for start in range(0, whole, BLOCK_FRAMES * frame_bytes):
            blocks.append(self._block(view[start : min(start + BLOCK_FRAMES * frame_bytes, whole)]))
        self._rest = bytes(view[whole:])
        return blocks

    def skip(self, frames: int, room: int) -> int:
        """Take frames as read; see `WavReader.skip`."""
        if self._convert is None:
            return 0
        held, size = len(self._rest), self.header.frame_bytes
        count = min(frames, (held + room) // size)
        if count * size <= held:
            return 0
        self._rest = b""
        self.frames += count
        return count * size - held

    def drop_incomplete(self) -> None:
        """Drop an incomplete frame: what follows begins with a whole one."""
        self._rest = self._rest[: len(self._rest) - len(self._rest) % self.header.frame_bytes]

    def finish(self) -> list[Block]:
        """Convert what is left; an incomplete frame at the end is dropped."""
        self.drop_incomplete()
        rest, self._rest = self._rest, b""
        return [self._block(rest)] if rest else []

    def _block(self, data: bytes | memoryview) -> Block:
        """Convert whole frames and count them."""
        if self._convert is None:
            self._decide(data)
        convert = self._convert or CONVERTERS["PCM_32"]  # still undecided: silence
        block = convert(data).reshape(-1, self.header.channels)
        if not self._is_integer:
            check_finite(block, self.frames, self.header.sample_rate_hz)
        self.frames += len(block)
        return block

    def _decide(self, data: bytes | memoryview) -> None:
        """Find out where in their four bytes 24-bit samples are: if the lowest byte is in use, in the lower three."""
        columns = np.frombuffer(data, np.uint8).reshape(-1, 4)
        if columns[:, 0].any():
            self._convert = CONVERTERS["PCM_24_LOW"]
        elif np.count_nonzero(columns.any(axis=1)) >= _PROBE_SOUNDING:
            self._convert = CONVERTERS["PCM_32"]
        if self._convert is not None:
            self._least_bytes = self.header.frame_bytes


class ChunkWalker:
    """Walks through the chunks after the samples, to find further samples; owned by one reader.

    `found` has the head of a chunk with further samples, its name and size, once it is complete. `unread_bytes` counts
    the bytes that are no chunk, unless all of them are zero, which is padding.
    """

    def __init__(self, odd: bool) -> None:
        self.found = b""
        self.unread_bytes = 0
        self._pad = odd  # chunks are padded to even sizes, but some writers forget it
        self._head = b""
        self._skip = self._chunk_bytes = 0  # of the current chunk: bytes to come, bytes so far
        self._name = b""
        self._lost = False
        self._lost_bytes, self._is_zero = 0, True

    def push(self, view: memoryview) -> memoryview:
        """Take more bytes, until something is found; return those that follow it."""
        while view and not self.found:
            if self._lost:
                self._lose(view)
                return view[len(view) :]
            if self._skip:
                count = min(self._skip, len(view))
                self._skip -= count
                self._chunk_bytes += count
                view = view[count:]
                continue
            if self._pad:
                self._pad = False
                if view[0] == 0:
                    view = view[1:]
                    continue
            missing = 8 - len(self._head)
            self._head += bytes(view[:missing])
            view = view[missing:]
            if len(self._head) == 8:
                self._take_head()
        return view

    def finish(self) -> None:
        """Count what is left."""
        if self._head and not self.found:
            self._lose(memoryview(self._head))
        if self._skip and not _is_metadata(self._name):
            # Its size exceeds the file, so these bytes are not the chunk that they seem to be.
            self._lost_bytes, self._is_zero = self._lost_bytes + self._chunk_bytes, False
        if not self._is_zero:
            self.unread_bytes = self._lost_bytes

    def _take_head(self) -> None:
        head, self._head = self._head, b""
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name in (b"data", b"RIFF", *LONG_FORMS):
            self.found = head
        elif all(0x20 <= byte < 0x7F for byte in name):
            self._name, self._skip, self._chunk_bytes = name, size + (size & 1), len(head)
        else:
            self._lost = True
            self._lose(memoryview(head))

    def _lose(self, view: memoryview) -> None:
        self._lost_bytes += len(view)
        self._is_zero = self._is_zero and not np.frombuffer(view, np.uint8).any()


def _is_metadata(name: bytes) -> bool:
    return name in (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"fact", b"PEAK", b"JUNK", b"junk", b"axml")


class WavReader:
    """Reads one WAV file as its bytes arrive, in constant memory; owned by one decoder.

    Args:
        total_bytes: Length of the file; None if unknown.
        header: Header of audio that has none in its bytes; None to parse it.
        check: Called with this reader once the header is complete, before any sample is read; raises to refuse it.
    """

    def __init__(
        self,
        total_bytes: int | None = None,
        header: WavHeader | None = None,
        check: Callable[[WavReader], object] = lambda _: None,
    ) -> None:
        self.header = header
        """Header of the first recording in the file, once it is complete."""
        self.warnings: list[AudioWarning] = []
        """What could not be read as declared; complete after `finish`."""
        self.frames = 0
        """Frames read so far."""
        self._total_bytes, self._check = total_bytes, check
        self._parser: WavHeaderParser | None = None if header else WavHeaderParser()
        self._samples = WavSamples(header) if header else None
        self._left: int | None = None  # bytes of the data chunk still to read; None: to the end of the file
        self._declared = self._received = 0  # bytes of the current data chunk
        self._walker: ChunkWalker | None = None
        self._recordings = 1
        self._stopped = ""  # why the rest is not read
        self._unread_bytes = 0

    @property
    def is_foreign(self) -> bool:
        """Whether only libsndfile reads the encoding; the bytes so far are then in `raw`."""
        return self.header is not None and self.header.subtype is None

    @property
    def raw(self) -> bytearray:
        """All bytes so far of a file with a foreign encoding."""
        assert self._parser is not None
        return self._parser.raw

    @property
    def expected_bytes(self) -> int | None:
        """Size of the samples, as far as header and length of the file agree; None if unknown."""
        header = self.header
        if header is None:
            return None
        room = None if self._total_bytes is None else max(0, self._total_bytes - header.data_start)
        declared = header.data_bytes
        if declared is None or (room is None and is_endless(declared)):
            return room
        return declared if room is None else min(room, declared)

    @property
    def expected_frames(self) -> int | None:
        """Length of the recording, as far as header and length of the file agree; None if unknown."""
        expected = self.expected_bytes
        if self.header is None or not self.header.subtype or not self.header.channels or expected is None:
            return None
        return expected // self.header.frame_bytes

    def push(self, data: bytes | memoryview) -> list[Block]:
        """Read more bytes.

        Returns:
            The blocks that are now complete, each float32 [n, channels].

        Raises:
            InvalidAudio: The header or a sample is invalid.
        """
        blocks: list[Block] = []
        view = memoryview(data)
        while view:
            if self._stopped:
                self._unread_bytes += len(view)
                break
            if self._parser is not None:
                view = self._push_header(self._parser, view)
            elif self._walker is not None:
                view = self._push_walker(self._walker, view)
            else:
                view = self._push_samples(view, blocks)
        return blocks

    def skip(self, frames: int, room: int) -> int:
        """Take the next frames as read, as far as they are in the current data chunk.

        Args:
            frames: Frames that are not needed.
            room: Bytes of the file that were not pushed yet.

        Returns:
            Bytes of the file to leave out before the next push.
        """
        if self._samples is None or self._parser is not None or self._walker is not None or self._stopped:
            return 0
        before = self._samples.frames
        size = self._samples.skip(frames, room if self._left is None else min(room, self._left - 1))
        self.frames += self._samples.frames - before
        self._received += size
        if self._left is not None:
            self._left -= size
        return size

    def finish(self) -> list[Block]:
        """End the file; fills in `warnings`.

        Raises:
            InvalidAudio: There are no samples.
        """
        if self.header is None or self._samples is None:
            raise InvalidAudio(
                "expected a WAV header and samples, got a header only, cut off before the samples: upload the whole "
                "file"
            )
        blocks = self._samples.finish()
        self.frames += sum(map(len, blocks))
        if self._walker is not None:
            self._walker.finish()
            self._unread_bytes += self._walker.unread_bytes
        elif self._parser is not None:  # a further header that is not complete
            self._unread_bytes += len(self._parser.raw)
        elif self._left:
            self._warn_missing(self.header)
        if self._recordings > 1:
            self.warnings.append(joined_warning(self._recordings))
        if self._unread_bytes >= self.header.frame_bytes:
            seconds = self.header.seconds(self._unread_bytes)
            self.warnings.append(unread_warning(self._unread_bytes, seconds, self._stopped))
        return blocks

    def _push_header(self, parser: WavHeaderParser, view: memoryview) -> memoryview:
        """Parse the header of the first recording, or of a further one; return the bytes of its samples."""
        is_first = self.header is None
        # The parser keeps what it is given, and there may be many short recordings.
        piece, after = (view, view[len(view) :]) if is_first else (view[:_HEADER_PIECE], view[_HEADER_PIECE:])
        try:
            parser.push(piece)
        except InvalidAudio:
            if is_first:
                raise
            self._stop("what follows is not a complete recording", len(parser.raw))
            return after
        header = parser.header
        if header is None:
            return after
        if is_first:
            self.header = header
            self.warnings += header.warnings
            self._check(self)
            if header.subtype is None:
                return after
            self._samples = WavSamples(header)
        elif self.header is not None and header.layout != self.header.layout:
            self._stop(
                f"they are a recording in another format ({header.sample_rate_hz} Hz, {header.channels} channel(s))",
                len(parser.raw),
            )
            return after
        else:
            self._recordings += 1
        self._parser = None
        self._begin(header.data_bytes)
        return view[len(piece) - (len(parser.raw) - header.data_start) :]

    def _begin(self, data_bytes: int | None) -> None:
        """Begin a data chunk; it begins with a whole frame, wherever the one before it ended."""
        assert self._samples is not None
        self._samples.drop_incomplete()
        self._left = data_bytes
        self._declared, self._received = data_bytes or 0, 0
        if data_bytes == 0:
            self._walker = ChunkWalker(odd=False)

    def _push_samples(self, view: memoryview, blocks: list[Block]) -> memoryview:
        """Convert the samples of the current data chunk; return the bytes after it."""
        assert self._samples is not None
        own = view if self._left is None else view[: self._left]
        new = self._samples.push(own)
        self.frames += sum(map(len, new))
        blocks += new
        self._received += len(own)
        if self._left is not None:
            self._left -= len(own)
            if self._left == 0:
                self._walker = ChunkWalker(odd=bool(self._declared & 1))
        return view[len(own) :]

    def _push_walker(self, walker: ChunkWalker, view: memoryview) -> memoryview:
        """Look for further samples; return the bytes from there on."""
        after = walker.push(view)
        if not walker.found:
            return after
        self._walker = None
        if walker.found[:4] != b"data":
            self._parser = WavHeaderParser()
            self._parser.push(walker.found)
            return after
        size: int = struct.unpack_from("<I", walker.found, 4)[0]
        self._begin(None if is_placeholder(size) else size)
        return after

    def _stop(self, reason: str, unread_bytes: int) -> None:
        self._stopped, self._unread_bytes = reason, self._unread_bytes + unread_bytes
        self._parser = None

    def _warn_missing(self, header: WavHeader) -> None:
        if not is_endless(self._declared):
            missing = header.seconds(self._declared - self._received)
            self.warnings.append(missing_warning(self._declared, self._received, missing))


def missing_warning(declared: int, received: int, seconds: float | None = None) -> AudioWarning:
    """Describe bytes that the header declares and the file does not have; `seconds` is their duration, if known."""
    duration = "" if seconds is None else f" (about {seconds:.3f} s)"
    return AudioWarning(
        "samples_missing",
        f"expected {declared} bytes, as the header declares, got {received}: {declared - received} bytes"
        f"{duration} are missing; if the recording should be longer, upload the whole file",
    )


def unread_warning(unread_bytes: int, seconds: float, reason: str = "") -> AudioWarning:
    """Describe bytes that were not read; `seconds` is their approximate duration."""
    return AudioWarning(
        "bytes_not_read",
        f"expected the samples to end with the file, got {unread_bytes} more bytes (about {seconds:.1f} s), which were "
        f"not read{', because ' * bool(reason)}{reason}: export the recording again, or inspect the parts separately",
    )


def joined_warning(recordings: int) -> AudioWarning:
    """Describe recordings that follow one another in one file."""
    return AudioWarning(
        "joined",
        f"expected one recording, got {recordings} of the same format in one file: they were read as one",
    )


def tracks_warning(tracks: int) -> AudioWarning:
    """Describe a recording with several sound tracks."""
    return AudioWarning(
        "tracks_not_read", f"expected one sound track, got {tracks}: only the default one was inspected"
    )
