"""True peak of one channel: the highest value of the continuous waveform between the samples.

The samples are interpolated to at least 192 kHz, but only next to samples that are near enough to the peak so far for a
value beside them to exceed it. Memory is constant.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

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

MAX_WINDOWS = 4096
"""Places interpolated together; bounds the memory."""


class _Phases(NamedTuple):
    coarse: Float32
    """Filters of the positions 1/4, 1/2 and 3/4 between two samples, [2 * REACH, 3]."""
    fine: Float32
    """Filters of all positions at the interpolated rate, [2 * REACH, n]."""


class TruePeak:
    """The true peak of one channel so far."""

    __slots__ = ("highest", "peak", "tail", "top")

    def __init__(self) -> None:
        self.peak = 0.0
        self.top = 0.0
        """Largest absolute sample."""
        self.highest = 0.0
        """Largest absolute sample of the last piece, which contains the tail."""
        self.tail = np.zeros(2 * REACH - 1, np.float32)

    def copy(self) -> TruePeak:
        """Return a copy, which can end while the stream continues."""
        return copy.copy(self)  # the tail is replaced, never changed


class TruePeakMeter:
    """Measures the next pieces of several channels; keeps no state of theirs.

    Args:
        rate_hz: Sample rate.
    """

    def __init__(self, rate_hz: int) -> None:
        self._phases = _phases(math.ceil(TARGET_HZ / rate_hz))

    def add(self, channels: Sequence[TruePeak], pieces: Float32, highest: Sequence[float]) -> None:
        """Measure one piece of each channel.

        Args:
            channels: R channels, all different, or R times the same one with consecutive pieces.
            pieces: float32 [R, n]; n >= 2 * `REACH`, except in the last piece of a recording.
            highest: The largest absolute value of each piece.
        """
        high, last = np.array(highest), 1 - 2 * REACH
        if len(channels) > 1 and channels[0] is channels[1]:
            channels, owners = channels[:1], np.zeros(len(pieces), np.intp)
            top = np.maximum.accumulate(np.maximum(high, channels[0].top))
            before = np.concatenate(([channels[0].highest], high[:-1]))
            tails = np.concatenate((channels[0].tail[None], pieces[:-1, last:]))
        else:
            owners = np.arange(len(channels))
            top = np.maximum(high, [channel.top for channel in channels])
            before = np.array([channel.highest for channel in channels])
            tails = np.stack([channel.tail for channel in channels])
        near = np.flatnonzero((np.maximum(high, before) >= NEAR * top) & (top > 0.0))
        peaks = np.array([channel.peak for channel in channels])
        np.maximum.at(peaks, owners, top)
        if len(near):
            self._raise(peaks, owners[near], np.concatenate((tails[near], pieces[near]), axis=1), NEAR * top[near])
        ends = slice(len(pieces) - len(channels), None)
        for channel, *facts in zip(channels, peaks.tolist(), top[ends].tolist(), high[ends].tolist(), strict=True):
            channel.peak, channel.top, channel.highest = facts
        for channel, tail in zip(channels, pieces[ends, last:], strict=True):
            channel.tail = tail.copy()

    def _raise(self, peaks: Float64, owners: NDArray[np.intp], samples: Float32, least: Float64) -> None:
        """Raise peaks to the values between samples.

        Args:
            peaks: Peak of each channel so far, changed in place.
            owners: Channel of each row, [R].
            samples: float32 [R, n], contiguous.
            least: Absolute value of the samples of each row beside which values are sought, [R].
        """
        width = samples.shape[1]
        # In one dimension, NumPy finds the marks ten times as fast.
        high = (np.abs(samples) >= least.astype(np.float32)[:, None]).reshape(-1)
        near = np.empty_like(high)  # the gaps between a sample and the next one
        np.logical_or(high[1:], high[:-1], out=near[:-1])
        apart = near.reshape(-1, width)
        apart[:, : REACH - 1] = apart[:, width - REACH :] = False  # too close to an end
        gaps = np.flatnonzero(near)
        of = owners[gaps // width]
        gaps -= REACH - 1
        between = _between(samples, gaps, self._phases.coarse)
        np.maximum.at(peaks, of, between)
        close = np.flatnonzero(between >= COARSE * peaks[of])
        np.maximum.at(peaks, of[close], _between(samples, gaps[close], self._phases.fine))

    def finished(self, channel: TruePeak) -> float:
        """Return the peak as if the recording ended here; the channel can continue."""
        end = channel.copy()
        self.add([end], np.zeros((1, 2 * REACH), np.float32), [0.0])
        return end.peak


def _between(samples: Float32, firsts: NDArray[np.intp], filters: Float32) -> Float32:
    """Return the largest absolute value at the positions of `filters` in some gaps between samples.

    Args:
        samples: Contiguous; `firsts` count through all of its rows.
        firsts: The first of the 2 * `REACH` samples around each gap.
        filters: [2 * REACH, positions].
    """
    width = samples.itemsize
    windows: Float32 = np.ndarray((samples.size - 2 * REACH + 1, 2 * REACH), np.float32, samples, 0, (width, width))
    found = np.empty(len(firsts), np.float32)
    for start in range(0, len(firsts), MAX_WINDOWS):
        own = slice(start, start + MAX_WINDOWS)
        found[own] = np.abs(windows[firsts[own]] @ filters).max(axis=1)
    return found


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
