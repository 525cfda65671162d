"""Facts about a recording with two channels: how alike they are, and whether one is inverted. Memory is constant."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PIECE_SAMPLES = 4096
"""Samples that are compared in one call."""

INVERTED_BELOW = -0.5
"""Correlation below which one channel is the other one with inverted polarity: their mean cancels."""

SILENT_DBFS = -90.0
"""Level at and below which a channel has nothing to compare."""

SILENT = "a channel is silent"
NO_AUDIO = "no audio was received"


@dataclass(frozen=True, slots=True)
class Stereo:
    """Facts about two channels; `reasons` says why a value is None.

    Args:
        correlation: Correlation coefficient of the samples, -1 to 1.
        imbalance_db: Level of the first channel relative to the second.
        inverted: Whether one channel has inverted polarity.
        reasons: Reason by field name.
    """

    correlation: float | None
    imbalance_db: float | None
    inverted: bool | None
    reasons: dict[str, str] = field(default_factory=dict)


class StereoMeter:
    """Measures two channels as a stream, in pieces at absolute positions; not thread-safe."""

    def __init__(self) -> None:
        self._waiting = np.empty((2, PIECE_SAMPLES), np.float32)
        self._filled = 0
        self._sums = np.zeros(2)
        self._products = np.zeros((2, 2))
        self._samples = 0

    def push(self, first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
        """Measure the next samples of both channels, float32 [n] each."""
        start = 0
        while start < len(first):
            count = min(PIECE_SAMPLES - self._filled, len(first) - start)
            self._waiting[0, self._filled : self._filled + count] = first[start : start + count]
            self._waiting[1, self._filled : self._filled + count] = second[start : start + count]
            self._filled += count
            start += count
            if self._filled == PIECE_SAMPLES:
                self._sums, self._products, self._samples = self._with(self._filled)
                self._filled = 0

    def _with(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
        """Return the sums including this many of the waiting samples."""
        wide = self._waiting[:, :count].astype(np.float64)
        return self._sums + wide.sum(axis=1), self._products + wide @ wide.T, self._samples + count

    def result(self) -> Stereo:
        """Return the facts about everything so far; the stream may continue."""
        sums, products, samples = self._with(self._filled)
        if not samples:
            return Stereo(None, None, None, dict.fromkeys(("correlation", "imbalance_db", "inverted"), NO_AUDIO))
        means = sums / samples
        spread = products / samples - np.outer(means, means)
        power = spread.diagonal()
        if power.min() <= 10 ** (SILENT_DBFS / 10):
            return Stereo(None, None, None, dict.fromkeys(("correlation", "imbalance_db", "inverted"), SILENT))
        correlation = min(max(float(spread[0, 1]) / math.sqrt(power[0] * power[1]), -1.0), 1.0)
        imbalance_db = 10.0 * math.log10(power[0] / power[1])
        return Stereo(correlation, imbalance_db, correlation < INVERTED_BELOW)


class CancellationMeter:
    """Compares the mean of several channels with the channels; not thread-safe."""

    MOST_DB = 120.0
    """Reported for complete cancellation."""

    def __init__(self) -> None:
        self._apart = self._mixed = 0.0

    def push(self, block: NDArray[np.float32], mean: NDArray[np.float32]) -> None:
        """Measure the next samples.

        Args:
            block: float32 [n, channels].
            mean: Their mean, float32 [n].
        """
        self._apart += float(np.square(block, dtype=np.float64).sum()) / block.shape[1] ** 2
        self._mixed += float(np.square(mean, dtype=np.float64).sum())

    def result(self) -> float | None:
        """Return by how much the mean is below that of unrelated channels, dB; negative for equal ones."""
        if not self._apart:
            return None
        if self._mixed <= self._apart * 10 ** (-self.MOST_DB / 10):
            return self.MOST_DB
        return 10.0 * math.log10(self._apart / self._mixed)
