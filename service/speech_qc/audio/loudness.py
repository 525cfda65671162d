"""Loudness of one channel after EBU R 128 and ITU-R BS.1770: integrated, highest short-term, and range.

A recorded programme is often stereo; here every channel is measured as a programme of its own. Memory is constant:
blocks are counted in a histogram of 0.1 LU that also sums their energies, so only the position of the gate is rounded.

`scipy.signal` has the filter as well, but loading it takes half a second and 47 MB in every process, so the filter runs
as products of small matrices here, which NumPy computes at the same speed. Results differ by rounding only.
"""

from __future__ import annotations

import copy
import math
from array import array
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

HOP_S = 0.1
"""Blocks start every 100 ms: 400 ms blocks overlap by 75 %, short-term ones by 97 %."""

BLOCK_HOPS, SHORT_TERM_HOPS = 4, 30
"""Hops in a gating block (400 ms) and in a short-term window (3 s)."""

GATE_LUFS = -70.0
"""Absolute gate; quieter blocks never count."""

RELATIVE_GATE_LU, RANGE_GATE_LU = -10.0, -20.0
"""Gates relative to the loudness above the absolute gate, of the integrated loudness and of the range."""

RANGE_LOW, RANGE_HIGH = 0.10, 0.95
"""Percentiles between which the loudness range lies."""

BIN_LU, TOP_LUFS = 0.1, 40.0
"""Histogram of block loudness; 40 LUFS is the limit of the samples that a session accepts, 36 dB over full scale."""

BINS = round((TOP_LUFS - GATE_LUFS) / BIN_LU)
SPARE_BINS = 16
"""Bins that a histogram has beyond its lowest and highest loudness: few recordings use many of `BINS`."""

OFFSET_LU = -0.691
"""Makes the loudness of a 997 Hz sine in one channel its level in dBFS."""

_GATE = 10.0 ** ((GATE_LUFS - OFFSET_LU) / 10.0)

_BINS_PER_DECADE = 10.0 / BIN_LU
_FIRST_BIN = (OFFSET_LU - GATE_LUFS) / BIN_LU

ROW, ORDER = 32, 4
"""Samples that one row of a matrix product filters, and the order of the filter."""


@dataclass(frozen=True, slots=True)
class Loudness:
    """Loudness of one channel; None where the channel is too short or too quiet."""

    integrated_lufs: float | None
    short_term_max_lufs: float | None
    range_lu: float | None


def hop_samples(rate_hz: int) -> int:
    """Return the samples in a hop."""
    return round(rate_hz * HOP_S)


class LoudnessMeter:
    """Counts the loudness of one channel, whose samples are weighted already.

    Args:
        rate_hz: Sample rate.
    """

    def __init__(self, rate_hz: int) -> None:
        self._hop = hop_samples(rate_hz)
        self.state = np.zeros(ORDER)
        """State of the weighting after the last piece."""
        self._open = 0.0  # energy of the hop in progress
        self._position = 0  # samples in it
        self._hops: deque[float] = deque(maxlen=SHORT_TERM_HOPS)
        self._blocks, self._windows = _Histogram(sums=True), _Histogram(sums=False)
        self._short_energy = 0.0  # of the short-term windows above the absolute gate
        self._short_max = 0.0

    def copy(self) -> LoudnessMeter:
        """Return a copy, which can end while the stream continues."""
        other = copy.copy(self)
        other._hops = self._hops.copy()
        other._blocks, other._windows = self._blocks.copy(), self._windows.copy()
        return other

    def push(self, weighted: Float32) -> None:
        """Count weighted samples, float32 [n]."""
        self._divide(len(weighted), weighted)

    def push_hops(self, energies: list[float]) -> None:
        """Count hops by the sums of their squared, weighted samples; the same as `push` at the border of a hop."""
        for energy in energies:
            self._add_hop(energy / self._hop)

    def push_silence(self, count: int) -> None:
        """Count zeros; the filter has nothing to remember after them."""
        self.state = np.zeros(ORDER)
        self._divide(count, None)

    def _divide(self, count: int, weighted: Float32 | None) -> None:
        """Add weighted samples to the hops that they belong to."""
        start = 0
        while start < count:
            stop = min(count, start + self._hop - self._position)
            if weighted is not None:
                part = weighted[start:stop]
                self._open += float(part.dot(part))
            self._position += stop - start
            start = stop
            if self._position == self._hop:
                self._add_hop(self._open / self._hop)
                self._open, self._position = 0.0, 0

    def _add_hop(self, energy: float) -> None:
        """Add the mean square of 100 ms."""
        hops = self._hops
        hops.append(energy)
        known = len(hops)
        if known < BLOCK_HOPS:
            return
        block = (energy + hops[-2] + hops[-3] + hops[-4]) / BLOCK_HOPS
        if block > _GATE:
            self._blocks.add(block)
        if known == SHORT_TERM_HOPS:
            short = sum(hops) / SHORT_TERM_HOPS
            if short > self._short_max:
                self._short_max = short
            if short > _GATE:
                self._windows.add(short)
                self._short_energy += short

    def result(self) -> Loudness:
        """Return the loudness of everything so far."""
        short_max = _lufs(self._short_max) if self._short_max > 0.0 else None
        return Loudness(self._integrated(), short_max, self._range())

    def _integrated(self) -> float | None:
        blocks, energies = self._blocks, self._blocks.energies
        count = sum(blocks.counts)
        if not count:
            return None
        gate = max(0, _gate_bin(sum(energies) / count, RELATIVE_GATE_LU) - blocks.first)
        return _lufs(sum(energies[gate:]) / sum(blocks.counts[gate:]))

    def _range(self) -> float | None:
        windows = sum(self._windows.counts)
        if not windows:
            return None
        counts = np.array(self._windows.counts)
        counts[: max(0, _gate_bin(self._short_energy / windows, RANGE_GATE_LU) - self._windows.first)] = 0
        ordered = np.cumsum(counts)
        last = int(ordered[-1]) - 1
        low, high = (int(np.searchsorted(ordered, round(last * p), side="right")) for p in (RANGE_LOW, RANGE_HIGH))
        return (high - low) * BIN_LU


class _Histogram:
    """Mean squares by loudness; has only the bins between the lowest and the highest so far, and a few more.

    Args:
        sums: Also sum the values of each bin.

    Attributes:
        first: The bin of the first count.
        counts: Values by bin, from `first`.
        energies: Their sums, likewise; empty without `sums`.
    """

    __slots__ = ("_sums", "counts", "energies", "first")

    def __init__(self, *, sums: bool) -> None:
        self._sums = sums
        self.first = 0
        # Not NumPy arrays, which are slower one by one, and not lists, which are larger.
        self.counts, self.energies = array("i"), array("d")

    def copy(self) -> _Histogram:
        """Return a copy."""
        other = copy.copy(self)
        other.counts, other.energies = self.counts[:], self.energies[:]
        return other

    def add(self, energy: float) -> None:
        """Count a mean square above the absolute gate."""
        place = _bin(energy)
        if not self.first <= place < self.first + len(self.counts):
            self._grow(place)
        self.counts[place - self.first] += 1
        if self._sums:
            self.energies[place - self.first] += energy

    def _grow(self, place: int) -> None:
        """Add the bins up to this one."""
        first, stop = max(0, place - SPARE_BINS), min(BINS, place + 1 + SPARE_BINS)
        if self.counts:
            first, stop = min(first, self.first), max(stop, self.first + len(self.counts))
            before, after = self.first - first, stop - self.first - len(self.counts)
        else:
            before, after = 0, stop - first
        self.counts = array("i", [0]) * before + self.counts + array("i", [0]) * after
        if self._sums:
            self.energies = array("d", [0.0]) * before + self.energies + array("d", [0.0]) * after
        self.first = first


def _lufs(energy: float) -> float:
    return OFFSET_LU + 10.0 * math.log10(energy)


def _bin(energy: float) -> int:
    """Return the histogram bin of a mean square above the absolute gate."""
    place = int(_BINS_PER_DECADE * math.log10(energy) + _FIRST_BIN)
    return place if place < BINS else BINS - 1


def _gate_bin(energy: float, relative_lu: float) -> int:
    """Return the first bin above a relative gate."""
    return max(0, round((_lufs(energy) + relative_lu - GATE_LUFS) / BIN_LU))


class _System(NamedTuple):
    """A filter: the next state is `step @ state + enter * x`, and the output is `leave @ state + through * x`."""

    step: Float64
    enter: Float64
    leave: Float64
    through: float

    def then(self, other: _System) -> _System:
        """Return this filter followed by another one."""
        none = np.zeros((len(self.step), len(other.step)))
        return _System(
            np.block([[self.step, none], [np.outer(other.enter, self.leave), other.step]]),
            np.concatenate((self.enter, other.enter * self.through)),
            np.concatenate((other.through * self.leave, other.leave)),
            self.through * other.through,
        )


def _section(b: Float64, a: Float64) -> _System:
    """Return a second-order section in coordinates in which all numbers are of the order of 1.

    They are s1 and (s1 + s2) / e, where s1 and s2 are the state of transposed direct form II. At a high rate the poles
    are so close to 1 that powers of the matrix of that form, and more so of a whole filter in it, lose all precision.

    Args:
        b: Numerator, 3 coefficients.
        a: Denominator, the first one is 1.
    """
    e = math.sqrt(a.sum())
    enter = b[1:] - a[1:] * b[0]
    step = np.array([[-1.0 - a[1], e], [-e, 1.0]])
    return _System(step, np.array([enter[0], enter.sum() / e]), np.array([1.0, 0.0]), float(b[0]))


class Weighting:
    """A recursive filter as products of matrices: rows of samples first, then the state between rows and groups.

    Args:
        system: The filter.
        rows: Rows of `ROW` samples in a piece.
    """

    def __init__(self, system: _System, rows: int) -> None:
        step, enter, leave, through = system
        self._group = group = min((n for n in range(1, rows + 1) if rows % n == 0), key=lambda n: abs(n - rows**0.5))
        powers = [np.linalg.matrix_power(step, n) for n in range(ROW + 1)]
        impulse = np.array([through, *(leave @ powers[n] @ enter for n in range(ROW - 1))])
        row = [[impulse[j - i] if j >= i else 0.0 for j in range(ROW)] for i in range(ROW)]
        into = [powers[ROW - 1 - i] @ enter for i in range(ROW)]
        self._row = np.concatenate((row, into), axis=1).astype(np.float32)  # [ROW, ROW + ORDER]
        self._out = np.array([leave @ powers[j] for j in range(ROW)], np.float32).T.copy()  # [ORDER, ROW]
        scan = _scan(powers[ROW], group)
        self._from_start, self._within = scan[:ORDER, :-ORDER].copy(), scan[ORDER:].copy()
        self._groups = _scan(np.linalg.matrix_power(powers[ROW], group), rows // group)

    def run(self, pieces: Float32, states: Float64) -> tuple[Float32, Float64]:
        """Filter one piece of each of R channels.

        Args:
            pieces: float32 [R, n].
            states: [R, ORDER].

        Returns:
            The weighted samples, float32 [R, n], and the states after them.
        """
        count, group = len(pieces), self._group
        both = pieces.reshape(-1, ROW) @ self._row
        inputs = both[:, ROW:].astype(np.float64).reshape(-1, group * ORDER)
        within = inputs @ self._within  # states in each group, from zero at its start
        starts = np.concatenate((states, within[:, -ORDER:].reshape(count, -1)), axis=1) @ self._groups
        rows = within[:, :-ORDER] + starts[:, :-ORDER].reshape(-1, ORDER) @ self._from_start
        filtered: Float32 = both[:, :ROW] + rows.astype(np.float32).reshape(-1, ORDER) @ self._out
        return filtered.reshape(pieces.shape), starts[:, -ORDER:]


def _scan(step: Float64, count: int) -> Float64:
    """Return the matrix that turns [first state, inputs 0 … count − 1] into states 0 … count, `ORDER` values each."""
    matrix = np.zeros(((count + 1) * ORDER, (count + 1) * ORDER))
    for source in range(count + 1):
        power = np.eye(ORDER)
        for target in range(source, count + 1):
            matrix[source * ORDER : (source + 1) * ORDER, target * ORDER : (target + 1) * ORDER] = power.T
            power = step @ power
    return matrix


@lru_cache(maxsize=16)
def k_weighting(rate_hz: int, piece_samples: int) -> Weighting:
    """Return the K weighting of BS.1770: a high shelf for the head, then a high-pass.

    Args:
        rate_hz: Sample rate.
        piece_samples: Samples in a piece, a multiple of `ROW`.
    """
    head, low = math.tan(math.pi * 1681.974450955533 / rate_hz), math.tan(math.pi * 38.13547087602444 / rate_hz)
    high = 10.0 ** (3.999843853973347 / 20.0)
    band = high**0.4996667741545416
    q = 0.7071752369554196
    norm = 1.0 + head / q + head * head
    shelf_b = np.array([high + band * head / q + head**2, 2.0 * (head**2 - high), high - band * head / q + head**2])
    shelf_a = np.array([norm, 2.0 * (head**2 - 1.0), 1.0 - head / q + head**2])
    q = 0.5003270373238773
    pass_a = np.array([1.0 + low / q + low**2, 2.0 * (low**2 - 1.0), 1.0 - low / q + low**2])
    low_cut = _section(np.array([1.0, -2.0, 1.0]), pass_a / pass_a[0])
    return Weighting(_section(shelf_b / norm, shelf_a / norm).then(low_cut), piece_samples // ROW)
