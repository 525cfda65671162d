"""Decodes packets of codecs with a state, G.722 and Opus, for many streams in one process that can be killed.

FFmpeg's decoders are large, and packets come from anyone; see `audio.media_process`. A packet that kills the process
ends its own stream. The other streams continue in a new process; only what their decoders remember of the packets
before is lost, a few milliseconds. Nothing is concealed: a packet that was lost is the caller's gap.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.media_process import INSTALL, MEMORY_BYTES, pyav_folder, start_worker
from speech_qc.audio.packet_worker import CLOSE, DECODE, HEAD, OPEN
from speech_qc.errors import InvalidAudio, Overloaded, ProtocolError, UnsupportedFormat

Float32 = NDArray[np.float32]
PacketCodec = Literal["g722", "opus"]

MAX_STREAMS = 1000
"""Streams of one process; a decoder takes less than 100 KiB."""

MAX_PACKET_BYTES = 9000
"""Longest packet: that of a jumbo frame."""

ANSWER_S = 5.0
"""Seconds after which a process that does not answer is killed; a packet takes less than a millisecond."""

_START_S = 60.0
_CPU_S = 1 << 31  # no limit: the process lives as long as the server, and `ANSWER_S` limits each request
_BATCH_BYTES = 1 << 15  # fits into a pipe, so that writing never waits
_DAMAGED = 0xFFFFFFFF
_FAILED_STARTS = 3
_WORKER = Path(__file__).with_name("packet_worker.py")
_FORMATS: tuple[tuple[type[np.generic], float], ...] = ((np.int16, 2.0**-15),) * 2 + ((np.float32, 1.0),) * 2
_CODECS: dict[PacketCodec, tuple[int, tuple[str, ...]]] = {
    "g722": (16_000, ("g722",)),
    "opus": (48_000, ("libopus", "opus")),
}
"""Rate of the samples, and FFmpeg's decoders, the best one first."""


class _Gone(Exception):
    """The process has ended, and why.

    Args:
        reason: What it did.
        is_stuck: Whether it did not answer in time.
    """

    def __init__(self, reason: str, *, is_stuck: bool = False) -> None:
        super().__init__(reason)
        self.is_stuck = is_stuck


class PacketDecoders:
    """Decoders of many streams; any thread may use them.

    The process starts with the first stream and restarts when it has ended.

    Args:
        answer_s: Longest wait for the decoding of a few packets.
    """

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self.restarts = 0
        """Processes that ended too early."""
        self._answer_s = answer_s
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._open: set[int] = set()
        self._last = 0

    def open(self, codec: PacketCodec, rate_hz: int, channels: int = 1) -> PacketDecoder:
        """Create the decoder of one stream.

        Args:
            codec: Its codec.
            rate_hz: Rate of the decoded samples: 16000 for G.722, 48000 for Opus.
            channels: Channels of the sender, 1 or 2; two are averaged.

        Raises:
            ProtocolError: Another codec, rate or number of channels.
            UnsupportedFormat: PyAV is not installed.
            Overloaded: There are too many streams.
        """
        if codec not in _CODECS or rate_hz != _CODECS[codec][0] or channels not in (1, 2):
            raise ProtocolError(
                "expected g722 at 16000 Hz or opus at 48000 Hz with 1 or 2 channels, "
                f"got {codec} at {rate_hz} Hz with {channels}: declare what the packets contain"
            )
        if pyav_folder() is None or os.name != "posix":
            raise UnsupportedFormat(f"expected PyAV, which decodes {codec} packets, got none: {INSTALL}")
        with self._lock:
            if len(self._open) >= MAX_STREAMS:
                raise Overloaded(f"expected at most {MAX_STREAMS} streams of G.722 and Opus: retry when some end")
            self._last += 1
            self._open.add(self._last)
            return PacketDecoder(self, self._last, codec)

    def close(self) -> None:
        """End the process; idempotent. No decoder can be used afterwards."""
        with self._lock:
            self._open.clear()
            process, self._process = self._process, None
            if process is not None:
                process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        """End the process if it was not closed."""
        if getattr(self, "_process", None) is not None:
            self.close()

    def _decode(self, decoder: PacketDecoder, content: bytes) -> bytes:
        """Answer a request of a stream, which has first to be opened in a new process.

        Raises:
            InvalidAudio: The process does not answer or has ended; the stream must not be tried again.
        """
        with self._lock:
            if decoder.number not in self._open:
                raise RuntimeError("decode after close: open another decoder")
            for is_last in (False, True):
                try:
                    return self._ask(decoder, content)
                except _Gone as error:
                    self.restarts += 1
                    self._drop()
                    if is_last or error.is_stuck:  # ended once, it may have been for want of memory
                        raise InvalidAudio(
                            f"expected packets that FFmpeg decodes, its process {error}: the stream seems to be "
                            "damaged; check what its sender encodes"
                        ) from error
            raise AssertionError("the second attempt returns or raises")

    def _ask(self, decoder: PacketDecoder, content: bytes) -> bytes:
        process = self._running()
        if decoder.process is not process:
            rate_hz, codecs = _CODECS[decoder.codec]
            order = json.dumps({"codecs": codecs, "rate_hz": rate_hz}).encode()
            decoder.form = process.ask(OPEN, decoder.number, order, self._answer_s)[0]
            decoder.process = process
        return process.ask(DECODE, decoder.number, content, self._answer_s)

    def _running(self) -> _Process:
        """Return the process; start one if there is none, or if it ended while it was not in use."""
        if self._process is not None and not self._process.is_alive:
            self.restarts += 1
            self._drop()
        if self._process is None:
            folder = pyav_folder()
            assert folder is not None  # `open` has checked it
            for attempt in range(_FAILED_STARTS):
                try:
                    self._process = _Process(folder)
                    break
                except _Gone:
                    if attempt == _FAILED_STARTS - 1:
                        raise
        assert self._process is not None
        return self._process

    def _drop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _forget(self, decoder: PacketDecoder) -> None:
        with self._lock:
            if decoder.number not in self._open:
                return
            self._open.discard(decoder.number)
            if decoder.process is not None and decoder.process is self._process:
                try:
                    decoder.process.ask(CLOSE, decoder.number, b"", self._answer_s)
                except _Gone:
                    self._drop()


class PacketDecoder:
    """The decoder of one stream, made by `PacketDecoders.open`; pass packets in the order of their sequence numbers.

    Attributes:
        codec: Its codec.
        number: Number of the stream.
    """

    def __init__(self, decoders: PacketDecoders, number: int, codec: PacketCodec) -> None:
        self.codec, self.number = codec, number
        self.rate_hz = _CODECS[codec][0]
        """Rate of the samples."""
        self.process: _Process | None = None  # in which it is open
        self.form = 0
        self._decoders = decoders
        self._fault: InvalidAudio | None = None

    def decode(self, payload: bytes) -> Float32:
        """Decode one packet; takes about 0.1 ms.

        Returns:
            float32 (n,), the mean of the channels.

        Raises:
            InvalidAudio: The packet is damaged; later ones can be decoded. Or it has ended the process, or one before
                it has: then every call raises.
        """
        samples = self.decode_all([payload])[0]
        if samples is None:
            raise InvalidAudio(
                f"expected a packet of {self.codec}, got {len(payload)} bytes that cannot be decoded: treat it as lost"
            )
        return samples

    def decode_all(self, payloads: Sequence[bytes]) -> list[Float32 | None]:
        """Decode packets, several in one request.

        Returns:
            float32 (n,) for each packet; None for a damaged one.

        Raises:
            InvalidAudio: A packet has ended the process, now or before.
        """
        found: list[Float32 | None] = []
        batch: list[bytes] = []
        count = 0
        for payload in payloads:
            if not 0 < len(payload) <= MAX_PACKET_BYTES:
                found += self._decode_batch(batch)
                batch, count = [], 0
                found.append(None)
                continue
            if count + len(payload) + 4 > _BATCH_BYTES:
                found += self._decode_batch(batch)
                batch, count = [], 0
            batch.append(payload)
            count += len(payload) + 4
        return found + self._decode_batch(batch)

    def close(self) -> None:
        """Free the decoder; idempotent."""
        self._decoders._forget(self)

    def _decode_batch(self, payloads: list[bytes]) -> list[Float32 | None]:
        if not payloads:
            return []
        if self._fault is not None:
            raise self._fault
        content = b"".join(struct.pack("<I", len(payload)) + payload for payload in payloads)
        try:
            answer = self._decoders._decode(self, content)
            return self._samples(answer, len(payloads))
        except InvalidAudio as error:
            self._fault = error
            raise

    def _samples(self, answer: bytes, count: int) -> list[Float32 | None]:
        """Read the answer; what the process says is checked like any other input."""
        kind, factor = _FORMATS[self.form % len(_FORMATS)]
        found: list[Float32 | None] = []
        at = 0
        try:
            for _ in range(count):
                (size,) = struct.unpack_from("<I", answer, at)
                at += 4
                if size == _DAMAGED:
                    found.append(None)
                    continue
                data = answer[at : at + size]
                at += size
                samples = np.frombuffer(data, kind).astype(np.float32) * np.float32(factor)
                found.append(np.clip(samples, -1.0, 1.0) if np.isfinite(samples).all() else None)
        except (struct.error, ValueError) as error:
            raise InvalidAudio(f"FFmpeg's process sent something else than samples ({error}): report this") from error
        return found


class _Process:
    """One process, from its start to its end; used under the lock of `PacketDecoders`."""

    def __init__(self, folder: str) -> None:
        order: dict[str, object] = {"memory_bytes": MEMORY_BYTES, "cpu_s": _CPU_S}
        self._process, self._life = start_worker(_WORKER, order, folder, subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._is_closed = False
        try:
            self.ask(CLOSE, 0, b"", _START_S)  # wait until it has started
        except _Gone:
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, kind: int, number: int, content: bytes, limit_s: float) -> bytes:
        """Send a request and wait for its answer."""
        deadline = time.monotonic() + limit_s
        try:
            self._in.write(HEAD.pack(kind, number, len(content)) + content)
        except OSError as error:
            raise _Gone(f"ended ({error.strerror})") from error
        head = HEAD.unpack(self._take(HEAD.size, deadline))
        if head[:2] != (kind, number) or head[2] > 1 << 26:
            raise _Gone("sent an answer to another request")
        return self._take(head[2], deadline)

    def _take(self, count: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise _Gone("did not answer in time and was ended", is_stuck=True)
            data = os.read(self._out.fileno(), min(count - len(parts), 1 << 20))
            if not data:
                raise _Gone(f"ended with status {self._process.wait()}")
            parts += data
        return bytes(parts)

    def close(self) -> None:
        """Kill it; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        os.close(self._life)
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()
