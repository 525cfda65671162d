"""True peak of one channel: the highest value of the continuous waveform between the samples.

The samples are interpolated to at least 192 kHz, but only next to samples that are near enough to the peak so far for a
value beside them to exceed it. Memory is constant.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

TARGET_HZ = 192_000
"""Interpolated rate; at this rate, a sample is within 0.1 dB of any peak up to 9 kHz and 0.4 dB up to 18 kHz."""

REACH = 16
"""Samples on each side that determine an interpolated value."""

KAISER_BETA = 7.0

NEAR = 0.6
"""Share of the peak that a sample needs for a higher value beside it. At a quarter of the sample rate, the sample next
to a peak has at least 0.71 of it; the peaks of higher frequencies soon meet samples closer to them."""

COARSE = math.cos(math.pi / 8.0) - 0.02
"""Of four values per sample, one has at least this share of the peak between them; less the ripple of the filter."""


_OFFSETS = np.arange(2 * REACH)


class _Phases(NamedTuple):
    coarse: Float32
    """Filters of the positions 1/4, 1/2 and 3/4 between two samples, [2 * REACH, 3]."""
    fine: Float32
    """Filters of all positions at the interpolated rate, [2 * REACH, n]."""


class TruePeakMeter:
    """Measures one channel in pieces.

    Args:
        rate_hz: Sample rate.
    """

    def __init__(self, rate_hz: int) -> None:
        self._phases = _phases(math.ceil(TARGET_HZ / rate_hz))
        self._tail = np.zeros(2 * REACH - 1, np.float32)
        self._highest = 0.0  # of the previous piece, which contains the tail
        self.peak = 0.0

    def push(self, piece: Float32, highest: float) -> None:
        """Measure a piece.

        Args:
            piece: float32 [n]; n >= 2 * `REACH`, except in the last piece.
            highest: Its largest absolute value.
        """
        tail, self._tail = self._tail, piece[1 - 2 * REACH :].copy()
        self.peak = max(self.peak, highest)
        least = NEAR * self.peak
        if max(highest, self._highest) < least or self.peak == 0.0:
            self._highest = highest
            return
        self._highest = highest
        samples = np.concatenate((tail, piece))
        high = np.abs(samples[REACH - 1 : len(samples) - REACH + 1]) >= least
        gaps = (high[1:] | high[:-1]).nonzero()[0]
        if not len(gaps):
            return
        windows = samples[gaps[:, None] + _OFFSETS]
        between = np.abs(windows @ self._phases.coarse).max(axis=1)
        self.peak = max(self.peak, float(between.max()))
        close = between >= COARSE * self.peak
        self.peak = max(self.peak, float(np.abs(windows[close] @ self._phases.fine).max(initial=0.0)))

    def finished(self) -> float:
        """Return the peak as if the recording ended here; the meter can continue."""
        end = copy.copy(self)
        end.push(np.zeros(2 * REACH, np.float32), 0.0)
        return end.peak


@lru_cache(maxsize=16)
def _phases(factor: int) -> _Phases:
    fine = _interpolators(np.arange(1, factor) / factor if factor > 1 else np.array([0.5]))
    return _Phases(_interpolators(np.array([0.25, 0.5, 0.75])), fine)


def _interpolators(positions: NDArray[np.float64]) -> Float32:
    """Return windowed sinc filters for positions between the two middle samples, [2 * REACH, positions]."""
    distance = np.arange(2 * REACH)[:, None] - (REACH - 1) - positions
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(1.0 - (distance / REACH) ** 2, 0.0))) / np.i0(KAISER_BETA)
    taps = np.sinc(distance) * window
    return np.asarray(taps / taps.sum(axis=0), np.float32)
