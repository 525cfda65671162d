"""Finds pure tones and steady lines in one channel at the model's rate: the signal behind a `tone` event.

Runs only on frames in which the model suspects a tone, so it costs nothing otherwise. Short windows follow cadences and
telephone keys; long ones separate mains harmonics and find lines under speech. Memory is constant.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
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

LINE_DB, LINE_REACH_HZ, LINES = 12.0, 140.0, 16
"""Least height of a line above the median around it, and the number of lines kept per window."""

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


class ToneMeter:
    """Analyses one channel; frames must be pushed in order, but not all of them."""

    def __init__(self) -> None:
        self.runs: deque[Run] = deque(maxlen=KEPT_RUNS)
        self.windows: deque[Lines] = deque(maxlen=KEPT_WINDOWS)
        self._long: list[Float32] = []
        self._next = 0  # frame that would continue the long window

    def push(self, first: int, samples: Float32) -> None:
        """Analyse consecutive frames.

        Args:
            first: Index of the first frame.
            samples: float32 [n * FRAME + 2 * MARGIN], from `MARGIN` samples before the first frame.
        """
        count = (len(samples) - 2 * MARGIN) // FRAME
        views = np.lib.stride_tricks.sliding_window_view(samples, FRAME + 2 * MARGIN)[::FRAME][:count]
        for index, tone in enumerate(_frame_tones(views)):
            if tone is not None:
                self._extend(first + index, tone)
        own = samples[MARGIN : MARGIN + count * FRAME].reshape(count, FRAME)
        for index in range(count):
            frame = first + index
            if frame != self._next or frame % LONG_FRAMES == 0:
                self._long = []
            if len(self._long) == frame % LONG_FRAMES:
                self._long.append(own[index].copy())
                if len(self._long) == LONG_FRAMES:
                    self.windows.append(_lines(frame - LONG_FRAMES + 1, np.concatenate(self._long)))
            self._next = frame + 1

    def _extend(self, frame: int, tone: _Tone) -> None:
        run = self.runs[-1] if self.runs else None
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
        self.runs.append(Run(frame, 1, *tone))


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= max(SAME_HZ, SAME_RATIO * a)


_BINS = np.arange(FFT_SIZE // 2 + 1)
_WINDOW = np.hanning(FRAME + 2 * MARGIN + 1)[:-1].astype(np.float32)
_LONG_WINDOW = np.hanning(LONG_FRAMES * FRAME + 1)[:-1].astype(np.float32)


def _frame_tones(frames: Float32) -> list[_Tone | None]:
    """Return the pure tones of each frame; None if it has none."""
    means = frames.mean(axis=1, keepdims=True)
    squares = np.einsum("fs,fs->f", frames, frames) / frames.shape[1]
    levels = 10.0 * np.log10(squares + 1e-20)
    heard = levels >= QUIET_DBFS
    if not heard.any():
        return [None] * len(frames)
    spectra = rfft((frames - means) * _WINDOW, FFT_SIZE)
    tones = _two_tones(spectra.real**2 + spectra.imag**2, levels)
    offsets = means[:, 0].tolist()
    found: list[_Tone | None] = []
    for frame, tone, sounds, square, mean in zip(frames, tones, heard.tolist(), squares.tolist(), offsets, strict=True):
        is_offset = mean * mean >= OFFSET_SHARE * square
        if sounds and not is_offset and tone is None and abs(mean) >= LARGE_OFFSET:
            is_offset = not _is_flat(frame)
        if sounds and is_offset:
            tone = _Tone(0.0, 0.0, 10.0 * math.log10(square), 0.0, 1.0)
        found.append(tone if sounds else None)
    return found


def _is_flat(frame: Float32) -> bool:
    """Whether three samples in a row are at the highest or the lowest value."""
    return any(bool((at[2:] & at[1:-1] & at[:-2]).any()) for at in (frame == frame.max(), frame == frame.min()))


def _two_tones(power: Float32, levels: Float32) -> list[_Tone | None]:
    """Find the two strongest peaks of each spectrum, [frames, bins]; None where they are not most of it."""
    rows = np.arange(len(power))
    peak = power.argmax(axis=1)
    first = _lobe(power, rows, peak)
    rest = np.where(np.abs(_BINS - peak[:, None]) <= MASK_BINS, np.float32(0.0), power)
    other = rest.argmax(axis=1)
    beside = power[rows[:, None], np.clip(other[:, None] + (-1, 1), 0, power.shape[1] - 1)].max(axis=1)
    second = np.where(power[rows, other] >= beside, _lobe(rest, rows, other), 0.0)
    second[second < first * 10 ** (-SECOND_DB / 10)] = 0.0
    share = (first + second) / np.maximum(power.sum(axis=1), np.float32(1e-30))
    hz, other_hz = _refined_rows(power, rows, peak), _refined_rows(power, rows, other)
    found: list[_Tone | None] = []
    for a, b, a_hz, b_hz, level, purity in zip(
        *(values.tolist() for values in (first, second, hz, other_hz, levels, share)), strict=True
    ):
        if purity < PURE_SHARE:
            found.append(None)
        elif not b:
            found.append(_Tone(a_hz, 0.0, level, 0.0, purity))
        else:
            twist = 10.0 * math.log10(a / b)
            low, high, twist = (a_hz, b_hz, twist) if a_hz < b_hz else (b_hz, a_hz, -twist)
            found.append(_Tone(low, high, level, twist, purity))
    return found


def _lobe(power: Float32, rows: NDArray[np.intp], peak: NDArray[np.intp]) -> Float32:
    """Return the power within `LOBE_BINS` of each row's peak."""
    around = np.clip(peak[:, None] + np.arange(-LOBE_BINS, LOBE_BINS + 1), 0, power.shape[1] - 1)
    total: Float32 = power[rows[:, None], around].sum(axis=1)
    return total


def _refined_rows(power: Float32, rows: NDArray[np.intp], peak: NDArray[np.intp]) -> Float32:
    """Return the frequency of each row's peak from the parabola through its logarithms."""
    centre = np.clip(peak, 1, power.shape[1] - 2)
    a, b, c = np.log(power[rows, centre[:, None].T + np.array([[-1], [0], [1]])] + np.float32(1e-20))
    curve = a - 2.0 * b + c
    offset = np.where(curve < 0.0, 0.5 * (a - c) / np.where(curve < 0.0, curve, np.float32(-1.0)), 0.0)
    hz: Float32 = (centre + offset) * (RATE_HZ / FFT_SIZE)
    return hz


def _refined(power: Float32, peak: int, bin_hz: float) -> float:
    """Return the frequency of a peak from the parabola through its logarithms."""
    if not 0 < peak < len(power) - 1:
        return peak * bin_hz
    a, b, c = (math.log(float(value) + 1e-20) for value in power[peak - 1 : peak + 2])
    curve = a - 2.0 * b + c
    return (peak + (0.5 * (a - c) / curve if curve < 0.0 else 0.0)) * bin_hz


def _lines(first: int, samples: Float32) -> Lines:
    """Find the lines of a long window."""
    spectrum = rfft((samples - samples.mean()) * _LONG_WINDOW)
    power = spectrum.real**2 + spectrum.imag**2
    bin_hz = RATE_HZ / len(samples)
    width = round(LINE_REACH_HZ / bin_hz)
    log = 10.0 * np.log10(power + 1e-12)
    blocks = len(log) // width
    floor = np.median(log[: blocks * width].reshape(blocks, width), axis=1)
    middles = (np.arange(blocks) + 0.5) * width
    local = (log[1:-1] >= log[:-2]) & (log[1:-1] > log[2:])
    peaks = np.flatnonzero(local) + 1
    peaks = peaks[(peaks * bin_hz >= 40.0) & (log[peaks] - np.interp(peaks, middles, floor) >= LINE_DB)]
    strongest = peaks[np.argsort(-log[peaks])][:LINES]
    found = [(_refined(power, peak, bin_hz), float(log[peak])) for peak in strongest.tolist()]
    return Lines(first, tuple(hz for hz, _ in found), tuple(level for _, level in found))
