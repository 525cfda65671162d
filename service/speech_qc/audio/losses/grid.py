"""The time grid of the loss detector: blocks of about 2.5 ms in pieces of 160 blocks, at absolute positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import check_rate_hz
from speech_qc.wire.vocabulary import LossKind

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp] | slice
"""Streams of a call: their rows of the state; a slice if they are all, or a single one."""

PIECE_BLOCKS = 160
"""Blocks per piece, 0.4 s: long enough to hide NumPy's cost per call, short enough to announce a loss soon."""

_BLOCKS_PER_S = 400
_THINNED_HZ = 8_000  # a repetition is as exact on every k-th sample, so that it need not be sought on all of them

MAX_LAG_MS = 60
"""Longest packet in use; concealment repeats the last packet."""


@dataclass(frozen=True)
class Grid:
    """Sizes at one sample rate.

    Args:
        rate_hz: The sample rate.
        unit: Shortest packet of a whole number of samples that lasts 10, 20 or 40 ms; repetitions are sought at its
            multiples.
        step: Distance of the samples that are compared when repetitions are sought; divides `unit`.
        block: Samples per block, a multiple of `step`.
        lags: Number of multiples of `unit` that are examined.
    """

    rate_hz: int
    unit: int
    step: int
    block: int
    lags: int

    @classmethod
    def of(cls, rate_hz: int) -> Grid:
        """Return the grid of a rate.

        Raises:
            InvalidAudio: The rate is not supported.
        """
        check_rate_hz(rate_hz)
        unit_ms = next((ms for ms in (10, 20, 40) if rate_hz * ms % 1000 == 0), 40)
        unit = rate_hz * unit_ms // 1000
        wanted = rate_hz / _THINNED_HZ
        step = min((k for k in range(1, unit + 1) if unit % k == 0), key=lambda k: abs(math.log(k / wanted)))
        block = step * round(rate_hz / _BLOCKS_PER_S / step)
        return cls(rate_hz, unit, step, block, MAX_LAG_MS // unit_ms)

    @cached_property
    def piece(self) -> int:
        """Samples per piece."""
        return PIECE_BLOCKS * self.block

    def samples(self, seconds: float) -> int:
        """Return a duration in samples."""
        return round(seconds * self.rate_hz)


@dataclass(frozen=True, slots=True)
class Loss:
    """A stretch of lost samples.

    Args:
        kind: What replaced them.
        start: First lost sample, counted from the start of the stream.
        stop: First sample after them.
        known: The sample at which the loss became known; the same however the samples arrived.
        sure: Whether the samples alone prove it; otherwise it takes the model to confirm it.
        tonal: Whether it may be the pause after a tone, such as a telephone key, or a tone itself; it is no loss if the
            model hears the tone.
    """

    kind: LossKind
    start: int
    stop: int
    known: int
    sure: bool = True
    tonal: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """Two consecutive pieces of some streams, the earlier one already examined.

    Args:
        grid: Sizes.
        first: Position of the first sample in each stream, int64 [R]; negative at the start of a stream.
        samples: float32 [R, 2 * piece]; of the earlier piece, only the last blocks (`bank.KEPT_BLOCKS`) count.
        spread: Difference of the extremes of each block, float32 [R, 2 * PIECE_BLOCKS].
        middle: Mean of the extremes of each block, likewise.
        reference: Level of the sound so far as a difference of extremes, likewise; falls slowly.
        ends: Length of each stream if it has ended in this view, a huge number otherwise, int64 [R].
    """

    grid: Grid
    first: NDArray[np.int64]
    samples: Float32
    spread: Float32
    middle: Float32
    reference: Float32
    ends: NDArray[np.int64]


def joined(state: Float32, rows: Rows, new: Float32) -> Float32:
    """Put what is known of the piece before each new one in front of it, and keep what is known of the last one.

    Args:
        state: What is kept of each stream, float32 [S, n], changed in place.
        rows: Streams that have a new piece, [R], or one stream with R consecutive pieces.
        new: Likewise of the new pieces, float32 [R, n].

    Returns:
        float32 [R, 2 * n], not to be written to.
    """
    last, (count, size) = state[rows], new.shape
    both: Float32
    if len(last) < count:  # each piece is there once, and two rows look at it
        flat = np.concatenate((last, new)).reshape(-1)
        both = np.ndarray((count, 2 * size), np.float32, flat, 0, (size * flat.itemsize, flat.itemsize))
    else:
        both = np.concatenate((last, new), axis=1)
    state[rows] = new[-len(last) :]
    return both
