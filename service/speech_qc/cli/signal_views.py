"""Reduces a recording to the resolution of a picture, in memory that does not grow with its length."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import DecodeLimits, RawFormat
from speech_qc.audio.decode import decode_file
from speech_qc.audio.resample import Resampler

RATE_HZ = 16_000
"""Sample rate of the model."""
WINDOW_SAMPLES = 400
FFT_SIZE = 512
HOP_SAMPLES = 160  # minimum length of a column
MAX_COLUMNS = 1_600
"""About the width of a picture in pixels."""
MAX_SPECTRA_PER_COLUMN = 24
"""Spectra averaged per column of a long recording, evenly spaced; using all would take a minute per hour of audio."""
FLOOR = 1e-12  # -120 dB
UNLIMITED = DecodeLimits(max_bytes=1 << 62, max_duration_s=float("inf"), max_channels=1 << 16)
"""No limits are needed: the recording was already inspected."""


@dataclass(frozen=True, slots=True)
class Views:
    """Drawing data of one channel.

    Attributes:
        low: float32 (K,), minimum sample of each column.
        high: float32 (K,), maximum sample of each column.
        power_db: float32 (FFT_SIZE / 2 + 1, K), a full-scale sine is about 0 dB.
        column_s: Seconds per column.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    power_db: NDArray[np.float32]
    column_s: float


def read_views(
    path: Path,
    channel: int | None,
    duration_s: float,
    *,
    raw: RawFormat | None = None,
    max_columns: int = MAX_COLUMNS,
) -> Views:
    """Decode a recording again, block by block, for its picture.

    Args:
        path: The recording.
        channel: Index of the channel; None for the mean of all.
        duration_s: Its length according to the inspection.
        raw: Format of audio without a header; None if the recording has one.
        max_columns: Maximum number of columns K.

    Raises:
        ClientError: The file has changed since it was inspected.
    """
    with decode_file(path, UNLIMITED, raw) as file:
        resampler = Resampler(file.info.sample_rate_hz, RATE_HZ)
        painter = _Painter(max(1, round(duration_s * RATE_HZ)), max_columns)
        for block in file:
            samples = block.mean(axis=1, dtype=np.float32) if channel is None else block[:, channel]
            painter.push(resampler.push(samples))
        painter.push(resampler.finish())
    return painter.finish()


class _Painter:
    """Reduces samples to columns; buffers one column and one block.

    Args:
        total: Expected number of samples; further samples are ignored.
        max_columns: Maximum number of columns.
    """

    def __init__(self, total: int, max_columns: int) -> None:
        self._size = max(HOP_SAMPLES, -(-total // max_columns))
        count = -(-total // self._size)
        self._step = max(HOP_SAMPLES, -(-self._size // MAX_SPECTRA_PER_COLUMN))
        self._low = np.zeros(count, np.float32)
        self._high = np.zeros(count, np.float32)
        self._power = np.zeros((FFT_SIZE // 2 + 1, count), np.float32)
        self._taps = (np.hanning(WINDOW_SAMPLES + 1)[:-1] * 4 / WINDOW_SAMPLES).astype(np.float32)
        self._rest = np.zeros(0, np.float32)
        self._column = 0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Add samples, float32 (n,)."""
        self._rest = np.concatenate([self._rest, samples])
        # The last window of a column extends into the next one.
        while len(self._rest) >= self._size + WINDOW_SAMPLES and self._column < len(self._low):
            self._paint(self._size)

    def finish(self) -> Views:
        """Paint the remaining columns, padded with silence."""
        while len(self._rest) and self._column < len(self._low):
            self._paint(min(self._size, len(self._rest)))
        decibels = 10.0 * np.log10(np.maximum(self._power, FLOOR))
        return Views(self._low, self._high, decibels.astype(np.float32), self._size / RATE_HZ)

    def _paint(self, own: int) -> None:
        """Reduce the first `own` samples to a column."""
        samples = self._rest[: own + WINDOW_SAMPLES - 1]
        self._low[self._column], self._high[self._column] = samples[:own].min(), samples[:own].max()
        padded = np.pad(samples, (0, own + WINDOW_SAMPLES - 1 - len(samples)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[:: self._step]
        spectra = np.fft.rfft(windows * self._taps, n=FFT_SIZE, axis=1)
        self._power[:, self._column] = np.square(np.abs(spectra)).mean(axis=0)
        self._column += 1
        self._rest = self._rest[own:]
