"""Level measures of one channel at its native rate; they need no model and no resampling.

They are taken before resampling, because clipping, digital zeros and bandwidth do not survive it. Samples are measured
in pieces of a fixed size at absolute positions, so the results do not depend on how the samples arrived. Memory is
constant.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import check_rate_hz

PIECE_SAMPLES = 4096
"""Samples per piece; large enough to hide NumPy's cost per call, small enough to buffer for each stream."""

SPECTRUM_SAMPLES = 2048
"""Window of the long-term spectrum, taken from the start of a piece; it covers only part of the recording."""

DENSE_PIECES, DENSE_EVERY, SPARSE_EVERY = 32, 2, 8
"""Every second of the first pieces contributes a window, so that a short recording has enough; later every eighth."""

MAX_POWER = 1e30
"""Upper limit of a window's power, far beyond full scale; needed because windows are summed in float32."""

SILENCE_RUN_S = 0.01
"""Seconds; exact zeros of at least this length are a mute, a gap or a gate, shorter runs are quiet 16-bit audio."""

RAIL_RUN_SAMPLES = 3
"""Consecutive identical samples at the extreme that count as clipped; `Rail._count_lengths` relies on this value."""

RAIL_MIN_PEAK = 0.05
"""Extremes below −26 dBFS are not judged: at such levels even unclipped 8-bit audio has runs of equal samples."""

RAIL_STEEP = 1 / 10
"""Step into or out of a plateau, as a share of the peak; larger than between neighbouring µ-law or A-law codes."""

RAIL_FINE = 1 / 256
"""Step between the two highest values, as a share of the peak, below which quantisation cannot cause a plateau."""

BANDWIDTH_DROP_DB = 65.0
"""Below the spectrum's peak; the upper octave of speech from a good microphone is within this range."""

BANDWIDTH_SMOOTH_HZ = 100.0
"""Width of the spectral average, so that one noisy bin does not determine the bandwidth."""

BANDWIDTH_LOWEST_HZ = 80.0
"""Lowest frequency considered, so that DC offset and mains hum do not determine the peak."""

SIGNAL_FLOOR = 1e-7
"""Mean square (−70 dBFS) below which a window is not used for the bandwidth."""

SPECTRUM_FLOOR = 5e-10
"""Mean square (−93 dBFS) of dithered 16-bit rounding noise plus 3 dB; below it there is no signal."""


@dataclass(frozen=True)
class Levels:
    """Measurements of one channel; None where there was nothing to measure.

    Args:
        rms_dbfs: Root mean square, DC offset included; 0 dBFS is a full-scale square wave, a full-scale sine has −3.
        peak_dbfs: Largest absolute sample; above 0 is possible in float recordings.
        clipped_ratio: Share of samples clipped at the recording's own extremes, or beyond ±1; see `Rail`.
        dc_offset: Mean, in units of full scale.
        digital_silence_ratio: Share of samples in runs of exact zeros of at least `SILENCE_RUN_S`.
        bandwidth_hz: Highest frequency with signal; None below `SPECTRUM_SAMPLES` samples or without signal.
    """

    rms_dbfs: float | None
    peak_dbfs: float | None
    clipped_ratio: float | None
    dc_offset: float | None
    digital_silence_ratio: float | None
    bandwidth_hz: float | None


OnPiece = Callable[[NDArray[np.float32], float], None]
"""Samples of a piece, float32 [n], and their mean square."""


class Rail:
    """Counts plateaus at the highest value of one polarity in a stream of samples.

    Clipped peaks are runs of identical samples at the recording's own extreme: at full scale, at the end of the
    µ-law range (0.98), or lower if the level was reduced after clipping. A fixed threshold would miss the lower ones
    and would flag loud, slow waves that are intact. The extreme is known only at the end, so a new extreme discards
    the count of the previous one; this avoids a second pass.

    Coarse quantisation also causes plateaus (the top of a slow wave in µ-law), but the samples next to these have a
    neighbouring code. So if the two highest values are far apart, only plateaus with a steep flank count. Peaks that
    a filter or a lossy codec rounded after clipping are not found here; the detector finds them.

    Args:
        sign: 1.0 for the highest value, -1.0 for the lowest; names and comments describe the highest.
    """

    def __init__(self, sign: float) -> None:
        self.top = -math.inf
        self._sign = sign
        self._second = -math.inf  # highest value below the top
        self._all = 0  # samples in plateaus
        self._steep = 0  # samples in plateaus with a steep flank
        self._open = 0  # length of a run that reaches the end of the last piece
        self._open_step = 0.0  # step into that run
        self._last = math.nan  # last sample of the previous piece

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
                self._all = self._steep = self._open = 0
            if RAIL_MIN_PEAK <= self.top <= 1.0:  # clipped_samples ignores all other plateaus
                self._count(samples if self._sign > 0 else -samples)
        self._last = self._sign * float(samples[-1])

    def _count(self, samples: NDArray[np.float32]) -> None:
        """Count the runs at the top in a piece that has at least one."""
        at_top = samples == np.float32(self.top)
        if not self._is_fine():  # once the gap is small enough, its exact size does not matter
            self._second = max(self._second, float(np.where(at_top, np.float32(-np.inf), samples).max()))
        if self._is_fine():
            self._count_lengths(at_top)
        else:
            self._count_flanks(samples, np.flatnonzero(at_top))

    def _count_lengths(self, at_top: NDArray[np.bool_]) -> None:
        """Add all runs of True that are long enough, whatever their flanks; the fast path for fine quantisation."""
        count = len(at_top)
        if np.count_nonzero(at_top) == count:
            self._open += count
            return
        lead, trail = int(at_top.argmin()), int(at_top[::-1].argmin())
        self._open += lead
        self._close(0.0)  # flanks no longer matter
        inner = at_top[lead : count - trail]
        triples = inner[2:] & inner[1:-1] & inner[:-2]
        fours = triples[1:] & triples[:-1]
        # A run of n >= 3 contains n - 2 triples and n - 3 fours, and 3 * (n - 2) - 2 * (n - 3) = n.
        self._all += 3 * int(np.count_nonzero(triples)) - 2 * int(np.count_nonzero(fours))
        self._open = trail

    def _count_flanks(self, samples: NDArray[np.float32], indices: NDArray[np.intp]) -> None:
        """Add the runs of consecutive `indices` that are long enough; count those with a steep flank separately too."""
        if len(indices) < RAIL_RUN_SAMPLES and indices[0] > 0 and indices[-1] < len(samples) - 1:
            self._close(float(samples[0]))  # only isolated samples, the usual case at a new extreme
            return
        framed = np.concatenate(((-2,), indices, (len(samples) + 1,)))  # sentinels next to no index
        edges = np.flatnonzero(framed[1:] - framed[:-1] > 1)
        starts, ends = framed[edges[:-1] + 1], framed[edges[1:]] + 1
        lengths = ends - starts
        entered = self.top - samples[starts - 1].astype(np.float64)  # steps up to the plateau
        left = self.top - samples[np.minimum(ends, len(samples) - 1)].astype(np.float64)
        if starts[0] == 0:
            lengths[0] += self._open
            entered[0] = self._open_step if self._open else self.top - self._last
        else:
            self._close(float(samples[0]))
        if ends[-1] == len(samples):
            self._open, self._open_step = int(lengths[-1]), float(entered[-1])
            lengths = lengths[:-1]
        else:
            self._open = 0
        long = lengths >= RAIL_RUN_SAMPLES
        steep = np.fmax(entered, left)[: len(lengths)] > RAIL_STEEP * self.top  # NaN before the first sample
        self._all += int(lengths.dot(long))
        self._steep += int(lengths.dot(long & steep))

    def _close(self, following: float) -> None:
        """End the open run; `following` is the first sample after it."""
        if self._open >= RAIL_RUN_SAMPLES:
            self._all += self._open
            if np.fmax(self._open_step, self.top - following) > RAIL_STEEP * self.top:
                self._steep += self._open
        self._open = 0

    def clipped_samples(self) -> int:
        """Return the number of clipped samples so far. Ends an open run, so call it on a copy during the stream."""
        self._close(self.top)
        if not RAIL_MIN_PEAK <= self.top <= 1.0:  # samples beyond 1 are counted individually
            return 0
        return self._all if self._is_fine() else self._steep

    def _is_fine(self) -> bool:
        """Whether quantisation at the top is too fine to cause plateaus."""
        return self.top - self._second <= RAIL_FINE * self.top


class LevelMeter:
    """Measures one channel as a stream; owned by one session, not thread-safe.

    Args:
        rate_hz: Sample rate of the input.
        on_piece: Called with every full piece: its samples float32 [n], valid only during the call, and their mean
            square.

    Raises:
        InvalidAudio: The rate is outside what `check_rate_hz` accepts.
    """

    def __init__(self, rate_hz: int, on_piece: OnPiece | None = None) -> None:
        check_rate_hz(rate_hz)
        self._on_piece = on_piece
        self.samples = 0
        self._rate_hz = rate_hz
        self._waiting = np.empty(PIECE_SAMPLES, np.float32)
        self._filled = 0
        self._sum = 0.0
        self._squares = 0.0
        self._peak = 0.0
        self._over = 0  # samples beyond ±1
        self._upper, self._lower = Rail(1.0), Rail(-1.0)
        self._silence_run = math.ceil(rate_hz * SILENCE_RUN_S)
        self._silent = 0  # samples in finished runs that were long enough
        self._zeros = 0  # length of the run that reaches the end of the last piece
        self._window, self._ones = _constants()
        self._power = np.zeros(SPECTRUM_SAMPLES // 2 + 1, np.float32)
        self._windows = 0
        self._pieces = 0

    def push(self, samples: NDArray[np.float32]) -> None:
        """Measure the next samples, any number of them.

        Args:
            samples: float32 [n], finite.
        """
        self.samples += len(samples)
        while len(samples):
            if self._filled == 0 and len(samples) >= PIECE_SAMPLES:
                self._full(np.ascontiguousarray(samples[:PIECE_SAMPLES]))
                samples = samples[PIECE_SAMPLES:]
                continue
            count = min(PIECE_SAMPLES - self._filled, len(samples))
            self._waiting[self._filled : self._filled + count] = samples[:count]
            self._filled += count
            samples = samples[count:]
            if self._filled == PIECE_SAMPLES:
                self._full(self._waiting)
                self._filled = 0

    def _full(self, piece: NDArray[np.float32]) -> None:
        squares = self._squares
        self._measure(piece)
        if self._on_piece is not None:
            self._on_piece(piece, (self._squares - squares) / len(piece))

    def result(self) -> Levels:
        """Return the measurements of everything pushed so far; the stream may continue."""
        if self.samples == 0:
            return Levels(None, None, None, None, None, None)
        end = copy.copy(self)
        end._upper, end._lower, end._power = copy.copy(self._upper), copy.copy(self._lower), self._power.copy()
        if end._filled:
            end._measure(end._waiting[: end._filled])
        silent = end._silent + (end._zeros if end._zeros >= end._silence_run else 0)
        clipped = end._over + end._upper.clipped_samples() + end._lower.clipped_samples()
        return Levels(
            rms_dbfs=10 * math.log10(end._squares / end.samples) if end._squares else None,
            peak_dbfs=20 * math.log10(end._peak) if end._peak else None,
            clipped_ratio=clipped / end.samples,
            dc_offset=end._sum / end.samples,
            digital_silence_ratio=silent / end.samples,
            bandwidth_hz=end._bandwidth_hz(),
        )

    def _measure(self, piece: NDArray[np.float32]) -> None:
        """Add one piece; all but the last have `PIECE_SAMPLES`."""
        ordinal, self._pieces = self._pieces, self._pieces + 1
        wide = piece.astype(np.float64)
        squares = float(wide.dot(wide))
        if squares == 0.0:  # digital silence is common and needs no further work
            self._zeros += len(piece)
            self._upper.push(piece, 0.0)
            self._lower.push(piece, 0.0)
            return
        self._sum += float(wide.dot(self._ones[: len(wide)]))  # half the time of sum()
        self._squares += squares
        highest, lowest = float(piece[piece.argmax()]), float(piece[piece.argmin()])  # half the time of max(), min()
        self._peak = max(self._peak, highest, -lowest)
        if highest > 1.0 or lowest < -1.0:
            self._over += int(np.count_nonzero(np.abs(piece) > 1.0))
        self._upper.push(piece, highest)
        self._lower.push(piece, -lowest)
        self._count_silence(piece)
        if ordinal % (DENSE_EVERY if ordinal < DENSE_PIECES else SPARSE_EVERY) == 0 and len(piece) >= SPECTRUM_SAMPLES:
            self._add_spectrum(wide[:SPECTRUM_SAMPLES])

    def _add_spectrum(self, window: NDArray[np.float64]) -> None:
        if float(window.dot(window)) > SIGNAL_FLOOR * SPECTRUM_SAMPLES:
            spectrum = np.fft.rfft(window * self._window)
            power = spectrum.real**2 + spectrum.imag**2
            self._power += np.minimum(power, MAX_POWER, out=power)
            self._windows += 1

    def _count_silence(self, piece: NDArray[np.float32]) -> None:
        """Count runs of zeros in a piece that is not all zero."""
        if not self._may_hold_silence(piece):
            if piece[0] == 0.0:
                self._zeros += int(np.flatnonzero(piece[: self._silence_run])[0])
            self._end_silence()
            if piece[-1] == 0.0:
                tail = piece[-self._silence_run :]
                self._zeros = len(tail) - 1 - int(np.flatnonzero(tail)[-1])
            return
        sounding = np.flatnonzero(piece)
        self._zeros += int(sounding[0])
        self._end_silence()
        gaps = np.diff(sounding) - 1
        self._silent += int(gaps[gaps >= self._silence_run].sum())
        self._zeros = len(piece) - 1 - int(sounding[-1])

    def _may_hold_silence(self, piece: NDArray[np.float32]) -> bool:
        """Whether the piece may contain a long enough run of zeros: it covers 2 and 16 points of the two grids."""
        zeros = piece[:: self._silence_run // 2] == 0.0
        if np.count_nonzero(zeros) < 2 or not np.count_nonzero(zeros[1:] & zeros[:-1]):
            return False
        zeros = piece[:: self._silence_run // 16] == 0.0
        for shift in (1, 2, 4, 8):
            zeros = zeros[shift:] & zeros[:-shift]  # 2 * shift in a row
        return bool(np.count_nonzero(zeros))

    def _end_silence(self) -> None:
        if self._zeros >= self._silence_run:
            self._silent += self._zeros
        self._zeros = 0

    def _bandwidth_hz(self) -> float | None:
        """Return the highest frequency whose smoothed power is close enough to the peak and above rounding noise."""
        if self._windows == 0:
            return None
        bin_hz = self._rate_hz / SPECTRUM_SAMPLES
        width = max(1, round(BANDWIDTH_SMOOTH_HZ / bin_hz)) | 1  # odd, so that it is centred
        density = self._power / self._windows / float(np.sum(self._window**2))  # mean square over the whole band
        first = math.ceil(BANDWIDTH_LOWEST_HZ / bin_hz)
        density[:first] = 0.0  # before smoothing, which would spread hum above this limit
        smooth = np.convolve(density, np.ones(width) / width, mode="same")
        limit = max(float(smooth[first:].max()) * 10 ** (-BANDWIDTH_DROP_DB / 10), SPECTRUM_FLOOR)
        above = np.flatnonzero(smooth[first:] >= limit)
        return float((first + above[-1]) * bin_hz) if len(above) else None


@lru_cache(maxsize=1)
def _constants() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a periodic Hann window and ones; all meters share them, as they would be most of a stream's memory."""
    return np.hanning(SPECTRUM_SAMPLES + 1)[:-1], np.ones(PIECE_SAMPLES)
