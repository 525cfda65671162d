"""Finds pure tones and steady lines in one channel at the model's rate: the signal behind a `tone` event.

Runs only on frames in which the model suspects a tone, so it costs nothing otherwise. Short windows follow cadences and
telephone keys; long ones separate mains harmonics and find lines under speech. Memory is constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

Float32 = NDArray[np.float32]

RATE_HZ, FRAME = 16_000, 320
"""Sample rate, and samples in a frame."""

MARGIN = 160
"""Samples before and after a frame that its window covers."""

FFT_SIZE, LOBE_BINS, MASK_BINS = 1024, 3, 4
"""Size of the short transform; half the width of a tone in it, and the least distance to a second tone."""

PURE_SHARE = 0.8
"""Share of a frame's power in its two strongest peaks from which it is a pure tone."""

SECOND_DB = 12.0
"""Largest distance of a second tone below the first one."""

OFFSET_SHARE = 0.8
"""Share of a frame's power in its mean from which it is an offset."""

LARGE_OFFSET = 0.05
"""Mean of a frame, in units of full scale, from which it is an offset under other sounds, unless its peaks are flat."""

QUIET_DBFS = -65.0
"""Level below which a frame has no tone."""

SAME_RATIO, SAME_HZ, SAME_DB = 0.015, 12.0, 6.0
"""Largest differences in frequency and level within one run of a tone."""

LONG_FRAMES = 16
"""Frames in a long window (320 ms)."""

LINE_DB, LINE_REACH_HZ, LOWEST_HZ, LINES = 12.0, 140.0, 40.0, 16
"""Least height of a line above the median around it, its least frequency, and the number of lines kept per window."""

POOLED_FRAMES = 200
"""Frames of all channels from which those that wait are analysed."""

TOGETHER = 50
"""Frames analysed in one call: the intermediate arrays of more do not fit into the cache of a core."""

KEPT_RUNS, KEPT_WINDOWS = 512, 192
"""Runs and long windows that are remembered; a longer event is judged by its latest ones."""


@dataclass(slots=True)
class Run:
    """Consecutive frames with the same pure tones; `second_hz` is 0 for a single tone, both are 0 for an offset."""

    first: int
    frames: int
    first_hz: float
    second_hz: float
    level_dbfs: float
    twist_db: float
    purity: float
    """Mean share of the power in the tones."""

    @property
    def stop(self) -> int:
        """First frame after the run."""
        return self.first + self.frames


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a long window, strongest first: frequencies and levels."""

    first: int
    hz: tuple[float, ...]
    level_db: tuple[float, ...]


class _Tone(NamedTuple):
    """The pure tones of one frame, as in `Run`."""

    first_hz: float
    second_hz: float
    level_dbfs: float
    twist_db: float
    purity: float


class TonePool:
    """Frames of the channels of one thread that wait to be analysed in one call, in less than half the time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[ToneMeter, int, Float32]] = []
        self._frames = 0

    def add(self, meter: ToneMeter, first: int, samples: Float32) -> None:
        """Take frames of a channel, as `ToneMeter.push`; analyse what waits if it is enough."""
        self._waiting.append((meter, first, samples))
        self._frames += len(samples) // FRAME - 1
        if self._frames >= POOLED_FRAMES:
            self.analyse()

    def analyse(self) -> None:
        """Analyse what waits."""
        waiting, self._waiting, self._frames = self._waiting, [], 0
        if not waiting:
            return
        owners: list[tuple[ToneMeter, int]] = []  # of each frame, with its index
        starts: list[int] = []
        windows: list[tuple[ToneMeter, int, Float32]] = []
        offset = 0
        for meter, first, samples in waiting:
            count = len(samples) // FRAME - 1
            owners += [(meter, first + index) for index in range(count)]
            starts += range(offset, offset + count)
            offset += count + 1
            windows += [(meter, *window) for window in meter.long_windows(first, samples[MARGIN:-MARGIN])]
        halves = np.concatenate([samples for _, _, samples in waiting]).reshape(-1, FRAME)
        for start in range(0, len(starts), TOGETHER):
            begins = np.asarray(starts[start : start + TOGETHER])
            for place, tone in _frame_tones(np.concatenate((halves[begins], halves[begins + 1]), axis=1)):
                meter, frame = owners[start + place]
                meter.extend(frame, tone)
        if windows:
            found = _lines(np.stack([samples for _, _, samples in windows]))
            for (meter, first, _), (hz, level_db) in zip(windows, found, strict=True):
                meter.add_lines(Lines(first, hz, level_db))


class ToneMeter:
    """Analyses one channel; frames must be pushed in order, but not all of them.

    Args:
        pool: Analyses frames of many channels together; None to analyse alone.
    """

    def __init__(self, pool: TonePool | None = None) -> None:
        self._pool = pool or TonePool()
        self._runs: list[Run] = []  # not deques, which take 0.7 KiB each when they are empty
        self._windows: list[Lines] = []
        self._long = np.zeros(0, np.float32)  # what is known of the current long window
        self._next = 0  # frame that would continue it

    def push(self, first: int, samples: Float32) -> None:
        """Take consecutive frames.

        Args:
            first: Index of the first frame.
            samples: float32 [n * FRAME + 2 * MARGIN], from `MARGIN` samples before the first frame; must not change.
        """
        self._pool.add(self, first, samples)

    @property
    def runs(self) -> list[Run]:
        """The latest runs."""
        self._pool.analyse()
        return self._runs

    @property
    def windows(self) -> list[Lines]:
        """The latest long windows."""
        self._pool.analyse()
        return self._windows

    def long_windows(self, first: int, samples: Float32) -> list[tuple[int, Float32]]:
        """Return the long windows that frames complete, with their first frames; none that has a gap."""
        if first == self._next and len(self._long):
            samples = np.concatenate((self._long, samples))
            first -= len(self._long) // FRAME
        stop = first + len(samples) // FRAME
        begins = range(-(-first // LONG_FRAMES) * LONG_FRAMES, stop - LONG_FRAMES + 1, LONG_FRAMES)
        rest = begins[-1] + LONG_FRAMES if begins else begins.start
        self._long = samples[(rest - first) * FRAME :].copy()
        self._next = stop
        return [(begin, samples[(begin - first) * FRAME :][: LONG_FRAMES * FRAME]) for begin in begins]

    def add_lines(self, lines: Lines) -> None:
        """Note what is in a long window."""
        self._windows.append(lines)
        del self._windows[:-KEPT_WINDOWS]

    def extend(self, frame: int, tone: _Tone) -> None:
        """Note the tones of a frame."""
        run = self._runs[-1] if self._runs else None
        if (
            run is not None
            and run.stop == frame
            and _same(run.first_hz, tone.first_hz)
            and _same(run.second_hz, tone.second_hz)
            and abs(run.level_dbfs - tone.level_dbfs) <= SAME_DB
        ):
            if tone.level_dbfs > run.level_dbfs:
                run.first_hz, run.second_hz, run.level_dbfs, run.twist_db, _ = tone
            run.purity = (run.purity * run.frames + tone.purity) / (run.frames + 1)
            run.frames += 1
            return
        self._runs.append(Run(frame, 1, *tone))
        del self._runs[:-KEPT_RUNS]


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= max(SAME_HZ, SAME_RATIO * a)


_NEIGHBOURS = np.array([-1, 0, 1])
_WINDOW = np.hanning(FRAME + 2 * MARGIN + 1)[:-1].astype(np.float32)
_LONG_WINDOW = np.hanning(LONG_FRAMES * FRAME + 1)[:-1].astype(np.float32)
_LONG_BIN_HZ = RATE_HZ / (LONG_FRAMES * FRAME)
_LOWEST_BIN = math.ceil(LOWEST_HZ / _LONG_BIN_HZ)
_FLOOR_BINS = round(LINE_REACH_HZ / _LONG_BIN_HZ)
_FLOOR_BLOCKS = (LONG_FRAMES * FRAME // 2 + 1) // _FLOOR_BINS


def _frame_tones(frames: Float32) -> Iterator[tuple[int, _Tone]]:
    """Yield the index and the pure tones of each frame that has any."""
    means = frames.mean(axis=1, keepdims=True)
    squares = np.einsum("fs,fs->f", frames, frames) / frames.shape[1]
    levels = 10.0 * np.log10(squares + 1e-20)
    heard = levels >= QUIET_DBFS
    if not heard.any():
        return
    tones = _two_tones(_power((frames - means) * _WINDOW, FFT_SIZE), levels)
    offset = np.abs(means[:, 0])
    is_offset = offset * offset >= OFFSET_SHARE * squares
    maybe_offset = offset >= LARGE_OFFSET
    for index in np.flatnonzero(heard).tolist():
        tone = tones.get(index)
        if is_offset[index] or (tone is None and maybe_offset[index] and not _is_flat(frames[index])):
            tone = _Tone(0.0, 0.0, 10.0 * math.log10(squares[index]), 0.0, 1.0)
        if tone is not None:
            yield index, tone


def _power(samples: Float32, size: int) -> Float32:
    """Return the power spectrum of each row of samples, padded to `size`, [rows, bins]."""
    squares = rfft(samples, size).view(np.float32)  # of each bin, the real part and the imaginary one
    np.multiply(squares, squares, out=squares)
    return np.asarray(squares[:, ::2] + squares[:, 1::2])


def _is_flat(frame: Float32) -> bool:
    """Whether three samples in a row are at the highest or the lowest value."""
    return any(bool((at[2:] & at[1:-1] & at[:-2]).any()) for at in (frame == frame.max(), frame == frame.min()))


def _two_tones(power: Float32, levels: Float32) -> dict[int, _Tone]:
    """Find the two strongest peaks of each spectrum, [frames, bins], where they are most of it."""
    rows = np.arange(len(power))
    peak = power.argmax(axis=1)
    first = _lobe(power, rows, peak)
    rest = power.copy()
    rest[rows[:, None], _around(peak, MASK_BINS)] = 0.0
    other = rest.argmax(axis=1)
    second = np.where(
        power[rows, other] >= power[rows[:, None], _around(other, 1)].max(axis=1), _lobe(rest, rows, other), 0.0
    )
    second[second < first * 10 ** (-SECOND_DB / 10)] = 0.0
    share = (first + second) / np.maximum(power.sum(axis=1), np.float32(1e-30))
    pure = np.flatnonzero(share >= PURE_SHARE)
    if not pure.size:
        return {}
    hz = _peak_hz(power, np.stack((pure, pure)), np.stack((peak[pure], other[pure])), RATE_HZ / FFT_SIZE)
    columns = (pure, first[pure], second[pure], *hz, levels[pure], share[pure])
    found: dict[int, _Tone] = {}
    for index, a, b, a_hz, b_hz, level, purity in zip(*(values.tolist() for values in columns), strict=True):
        if not b:
            found[index] = _Tone(a_hz, 0.0, level, 0.0, purity)
        else:
            twist = 10.0 * math.log10(a / b)
            low, high, twist = (a_hz, b_hz, twist) if a_hz < b_hz else (b_hz, a_hz, -twist)
            found[index] = _Tone(low, high, level, twist, purity)
    return found


def _around(peak: NDArray[np.intp], bins: int) -> NDArray[np.intp]:
    """Return the bins within a distance of each row's peak, [rows, 2 * bins + 1]; at the edges, some twice."""
    return np.asarray(np.clip(peak[:, None] + np.arange(-bins, bins + 1), 0, FFT_SIZE // 2))


def _lobe(power: Float32, rows: NDArray[np.intp], peak: NDArray[np.intp]) -> Float32:
    """Return the power within `LOBE_BINS` of each row's peak."""
    total: Float32 = power[rows[:, None], _around(peak, LOBE_BINS)].sum(axis=1)
    return total


def _peak_hz(power: Float32, rows: NDArray[np.intp], peaks: NDArray[np.intp], bin_hz: float) -> NDArray[np.float64]:
    """Return the frequencies of peaks of spectra, [frames, bins], from the parabola through their logarithms."""
    centre = np.clip(peaks, 1, power.shape[1] - 2)
    a, b, c = np.log(power[rows, centre + _NEIGHBOURS.reshape(3, *[1] * peaks.ndim)] + 1e-20)
    curve = a - 2.0 * b + c
    offset = np.where(curve < 0.0, 0.5 * (a - c) / np.where(curve < 0.0, curve, -1.0), 0.0)
    return np.asarray((centre + offset) * bin_hz)


def _lines(windows: Float32) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Yield the frequencies and levels of the lines of each long window, [windows, samples]."""
    power = _power((windows - windows.mean(axis=1, keepdims=True)) * _LONG_WINDOW, LONG_FRAMES * FRAME)
    log = 10.0 * np.log10(power + 1e-12)
    blocks = log[:, : _FLOOR_BLOCKS * _FLOOR_BINS].reshape(len(log), _FLOOR_BLOCKS, _FLOOR_BINS)
    floor = np.sort(blocks, axis=2)[:, :, _FLOOR_BINS // 2]
    maybe = (log[:, 1:-1] >= log[:, :-2]) & (log[:, 1:-1] > log[:, 2:])
    maybe[:, : _LOWEST_BIN - 1] = False
    # The floor at a bin is not below the lowest of three blocks, which is known for many bins at once.
    around = np.pad(floor, ((0, 0), (1, 1)), mode="edge")
    lowest = np.minimum(np.minimum(around[:, :-2], around[:, 2:]), floor)
    maybe[:, : blocks[0].size - 1] &= (blocks >= lowest[:, :, None] + LINE_DB).reshape(len(log), -1)[:, 1:]
    rows, peaks = np.nonzero(maybe)
    peaks += 1
    height = log[rows, peaks] - _floor_at(floor, rows, peaks)
    high = np.flatnonzero(height >= LINE_DB)
    rows, peaks = rows[high], peaks[high]
    hz, level = _peak_hz(power, rows, peaks, _LONG_BIN_HZ), log[rows, peaks]
    edges = np.searchsorted(rows, np.arange(len(log) + 1)).tolist()
    for start, stop in pairwise(edges):
        strongest = np.argsort(-level[start:stop])[:LINES] + start
        yield tuple(hz[strongest].tolist()), tuple(level[strongest].tolist())


def _floor_at(floor: Float32, rows: NDArray[np.intp], bins: NDArray[np.intp]) -> NDArray[np.float64]:
    """Interpolate between the medians of blocks, which hold for the middles of the blocks; [windows, blocks]."""
    place = np.clip(bins / _FLOOR_BINS - 0.5, 0.0, _FLOOR_BLOCKS - 1.0)
    below = np.minimum(place.astype(np.intp), _FLOOR_BLOCKS - 2)
    low, high = floor[rows, below], floor[rows, below + 1]
    return np.asarray(low + (place - below) * (high - low))
