"""Audio sources of a live stream: a recording, decoded block by block, or raw samples on standard input."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import AudioWarning, DecodeLimits
from speech_qc.audio.decode import FileDecoder, decode_file
from speech_qc.audio.pcm import LIVE_ENCODINGS
from speech_qc.audio.resample import Resampler
from speech_qc.cli.files import printable
from speech_qc.cli.seams import CommandError
from speech_qc.client.stream import Encoding, encode

PORTION_S = 0.1
"""Audio per message."""
MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
MAX_CHANNELS = 2
STDIN_RATE_HZ = 16_000
STDIN_PORTIONS = 16
"""Portions buffered if the server is behind; then the pipe fills up, which applies back-pressure to its writer."""
UNLIMITED = DecodeLimits(max_bytes=1 << 62, max_duration_s=float("inf"), max_channels=1 << 16)
"""No limits are needed: a local file is read block by block."""
SAMPLE_BYTES = {encoding: width for encoding, (_, width) in LIVE_ENCODINGS.items()}


@dataclass(frozen=True, slots=True)
class Wire:
    """Format of the audio that is sent.

    Args:
        encoding: Encoding of the samples.
        rate_hz: Samples per second of each channel.
        channels: Number of interleaved channels.
    """

    encoding: Encoding
    rate_hz: int
    channels: int

    @property
    def portion_bytes(self) -> int:
        """Bytes per message."""
        return round(self.rate_hz * PORTION_S) * self.channels * SAMPLE_BYTES[self.encoding]


class PlayedRecording:
    """A recording to be streamed; call `close` at the end.

    Args:
        path: Path of the recording.
        encoding: Encoding to send it in.
        rate_hz: Rate to resample it to; None for its own, clipped to the range that streams support.
        channels: Expected number of channels; None for its own.

    Raises:
        CommandError: The file does not exist, or the number of channels is wrong or not supported.
        SpeechQCError: The recording cannot be read.
    """

    def __init__(self, path: Path, encoding: Encoding, rate_hz: int | None, channels: int | None) -> None:
        if not path.is_file():
            raise CommandError(f"{printable(str(path))}: expected a recording, or - for standard input")
        self._file: FileDecoder = decode_file(path, UNLIMITED)
        info = self._file.info
        if channels is not None and channels != info.channels:
            self._file.close()
            raise CommandError(
                f"--channels {channels}: the recording has {info.channels}; omit the option for a recording"
            )
        if info.channels > MAX_CHANNELS:
            self._file.close()
            raise CommandError(f"expected at most {MAX_CHANNELS} channels, the recording has {info.channels}")
        rate = rate_hz or min(MAX_RATE_HZ, max(MIN_RATE_HZ, info.sample_rate_hz))
        self._file_rate_hz = info.sample_rate_hz
        self.wire = Wire(encoding, rate, info.channels)

    async def portions(self) -> AsyncIterator[bytes]:
        """Yield the audio, message by message."""
        wire = self.wire
        count = round(wire.rate_hz * PORTION_S)
        resamplers = [Resampler(self._file_rate_hz, wire.rate_hz) for _ in range(wire.channels)]
        rest = np.zeros((0, wire.channels), np.float32)
        blocks = iter(self._file)
        while True:
            block = await asyncio.to_thread(next, blocks, None)
            if block is None:
                parts = [resampler.finish() for resampler in resamplers]
            else:
                parts = [resampler.push(block[:, index]) for index, resampler in enumerate(resamplers)]
            rest = np.concatenate([rest, np.stack(parts, axis=1)])
            end = len(rest) if block is None else len(rest) - len(rest) % count
            for start in range(0, end, count):
                yield encode(_one_or_more(rest[start : min(start + count, end)]), wire.encoding, wire.channels)
            if block is None:
                return
            rest = rest[end:]

    @property
    def warnings(self) -> Sequence[AudioWarning]:
        """What was wrong with the recording, although it was read; complete after its last portion."""
        return self._file.warnings

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _one_or_more(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (n, 1) as (n,), the shape that the client expects for one channel; (n, 2) unchanged."""
    return samples[:, 0] if samples.shape[1] == 1 else samples


class StandardInput:
    """Raw samples from a pipe, for example from ffmpeg or arecord.

    Args:
        encoding: Encoding of the samples.
        rate_hz: Samples per second; None for 16000.
        channels: Number of interleaved channels; None for 1.
    """

    def __init__(self, encoding: Encoding, rate_hz: int | None, channels: int | None) -> None:
        self.wire = Wire(encoding, rate_hz or STDIN_RATE_HZ, channels or 1)
        self._portions: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._room = threading.Semaphore(STDIN_PORTIONS)

    async def portions(self) -> AsyncIterator[bytes]:
        """Yield the samples as soon as they arrive."""
        loop = asyncio.get_running_loop()
        # A daemon thread: a blocked read must not keep the program from exiting.
        threading.Thread(target=self._read, args=(loop,), daemon=True).start()
        while (portion := await self._portions.get()) is not None:
            self._room.release()
            yield portion

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read in a separate thread, from the descriptor, since Python's buffer stays locked during a blocked read."""
        try:
            with suppress(OSError):  # a closed descriptor is the end of the input, too
                descriptor = sys.stdin.fileno()
                while portion := os.read(descriptor, self.wire.portion_bytes):
                    self._room.acquire()
                    loop.call_soon_threadsafe(self._portions.put_nowait, portion)
        finally:
            with suppress(RuntimeError):  # the event loop is already closed
                loop.call_soon_threadsafe(self._portions.put_nowait, None)

    def close(self) -> None:
        """Do nothing: standard input stays open."""


async def in_real_time(portions: AsyncIterator[bytes], wire: Wire) -> AsyncIterator[bytes]:
    """Delay each portion until its last sample would have been spoken."""
    bytes_per_s = wire.rate_hz * wire.channels * SAMPLE_BYTES[wire.encoding]
    started_s, given = time.monotonic(), 0
    async for portion in portions:
        given += len(portion)
        await asyncio.sleep(max(0.0, started_s + given / bytes_per_s - time.monotonic()))
        yield portion
