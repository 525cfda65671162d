"""Counts clipped samples: plateaus at the extremes of a recording, in one pass."""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import NDArray

RAIL_RUN_SAMPLES = 3
"""Consecutive identical samples at the extreme that count as clipped."""

RAIL_MIN_PEAK = 0.05
"""Extremes below −26 dBFS are not judged: at such levels even unclipped 8-bit audio has runs of equal samples."""

FLANK_STEPS = 4.0
"""Steps of the quantiser: a rounded top of three equal samples drops by fewer steps to the samples beside it."""

COARSEST_STEP = 1 / 20
"""Largest step between neighbouring µ-law or A-law codes, as a share of the peak."""

FLANK_BINS, LEAST_FLANK = 48, 2.0**-24
"""Plateaus are counted by their steeper flank, as a share of the peak, in half octaves from this value."""


class Rail:
    """Counts plateaus at the highest value of one polarity in a stream of samples.

    Clipped peaks are runs of identical samples at the recording's own extreme: at full scale, at the end of the
    µ-law range (0.98), or lower if the level was reduced after clipping. A fixed threshold would miss the lower ones
    and would flag loud, slow waves that are intact. The extreme is known only at the end, so a new extreme discards
    the count of the previous one; this avoids a second pass.

    Quantisation also causes plateaus: the top of a slow wave. But the wave is flat there, so the samples beside the
    plateau are only a few steps of the quantiser lower, whereas a clipped wave runs into its plateau at full speed. The
    step is known only at the end as well, so plateaus are counted by the height of their flanks. Peaks that a filter or
    a lossy codec rounded after clipping are not found here; the detector finds them.

    Args:
        sign: 1.0 for the highest value, -1.0 for the lowest; names and comments describe the highest.
    """

    def __init__(self, sign: float) -> None:
        self.top = -math.inf
        self._sign = sign
        self._second = -math.inf  # highest value below the top
        self._step = math.inf  # smallest step between samples where the two highest values are far apart
        self._flanks = [0] * FLANK_BINS  # samples in plateaus, by flank
        self._open = 0  # length of a run that reaches the end of the last piece
        self._open_flank = 0.0  # height of the flank before that run
        self._last = math.nan  # last sample of the previous piece

    def copy(self) -> Rail:
        """Return a copy, which can end while the stream continues."""
        other = copy.copy(self)
        other._flanks = self._flanks.copy()
        return other

    def push(self, samples: NDArray[np.float32], highest: float) -> None:
        """Count one piece; `highest` is its maximum after multiplication by `sign`, which the caller already has."""
        if highest < self.top:
            self._second = max(self._second, highest)
            if self._open:
                self._close(self._sign * float(samples[0]))
        else:
            if highest > self.top:
                self._second = max(self._second, self.top)
                self.top = highest
                self._flanks = [0] * FLANK_BINS
                self._open, self._step = 0, math.inf
            if RAIL_MIN_PEAK <= self.top <= 1.0:  # clipped_samples ignores all other plateaus
                self._count(samples if self._sign > 0 else -samples)
        self._last = self._sign * float(samples[-1])

    def _count(self, samples: NDArray[np.float32]) -> None:
        """Count the runs at the top in a piece that has at least one."""
        at_top = samples == np.float32(self.top)
        if (
            self.top - self._second > COARSEST_STEP * self.top / FLANK_STEPS
        ):  # once it is small, its size hardly matters
            self._second = max(self._second, float(np.where(at_top, np.float32(-np.inf), samples).max()))
        indices = np.flatnonzero(at_top)
        if len(indices) < RAIL_RUN_SAMPLES and indices[0] > 0 and indices[-1] < len(samples) - 1:
            self._close(float(samples[0]))  # only isolated samples, the usual case at a new extreme
            return
        self._count_runs(samples, indices)

    def _count_runs(self, samples: NDArray[np.float32], indices: NDArray[np.intp]) -> None:
        """Count the runs of consecutive `indices` that are long enough, by flank."""
        framed = np.concatenate(((-2,), indices, (len(samples) + 1,)))  # sentinels next to no index
        edges = np.flatnonzero(framed[1:] - framed[:-1] > 1)
        starts, ends = framed[edges[:-1] + 1], framed[edges[1:]] + 1
        lengths = ends - starts
        entered = self.top - samples[starts - 1].astype(np.float64)  # steps up to the plateau
        left = self.top - samples[np.minimum(ends, len(samples) - 1)].astype(np.float64)
        if starts[0] == 0:
            lengths[0] += self._open
            entered[0] = self._open_flank if self._open else self.top - self._last
        else:
            self._close(float(samples[0]))
        if ends[-1] == len(samples):
            self._open, self._open_flank = int(lengths[-1]), float(entered[-1])
            lengths = lengths[:-1]
        else:
            self._open = 0
        long = np.flatnonzero(lengths >= RAIL_RUN_SAMPLES)
        if not len(long):
            return
        if self.top - self._second > COARSEST_STEP * self.top:
            steps = np.abs(np.diff(samples))
            self._step = min(self._step, float(steps[steps > 0].min(initial=math.inf)))
        flanks = np.fmax(entered[long], left[long])  # NaN before the first sample
        places = np.log2(np.maximum(flanks / self.top, LEAST_FLANK) / LEAST_FLANK) * 2.0
        for place, length in zip(places.tolist(), lengths[long].tolist(), strict=True):
            self._flanks[min(int(place), FLANK_BINS - 1)] += length

    def _close(self, following: float) -> None:
        """End the open run; `following` is the first sample after it."""
        flank = np.fmax(self._open_flank, self.top - following)  # NaN before the first sample
        if self._open >= RAIL_RUN_SAMPLES and flank > LEAST_FLANK * self.top:
            place = int(math.log2(flank / self.top / LEAST_FLANK) * 2.0)
            self._flanks[min(place, FLANK_BINS - 1)] += self._open
        self._open = 0

    def clipped_samples(self) -> int:
        """Return the number of clipped samples so far. Ends an open run, so call it on a copy during the stream."""
        self._close(self.top)
        if not RAIL_MIN_PEAK <= self.top <= 1.0:  # samples beyond 1 are counted individually
            return 0
        if not any(self._flanks):  # a constant has no second value
            return 0
        step = min((self.top - self._second) / self.top, max(COARSEST_STEP, self._step / self.top))
        least = max(FLANK_STEPS * step, LEAST_FLANK)
        return sum(self._flanks[max(0, math.ceil(math.log2(least / LEAST_FLANK) * 2.0)) :])
