"""Spectral facts of one channel: how far up its speech reaches, and what sounds above 8 kHz, where the model is deaf.

Windows are sorted by level. Their band powers are summed for each level class, so the quiet windows (pauses) can be
compared with the louder ones (speech) at the end, although no window is kept: a hiss has the same spectrum in both,
speech has not. Interpolation from a lower rate leaves images: copies of the spectrum, mirrored at half that rate. They
follow the speech, but they also follow every detail of the mirrored band, which speech does not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

WINDOW_S = 0.064
"""Longest window; it is rounded down to a power of two."""

DENSE_PIECES, SPARSE_EVERY = 25, 16
"""Every one of the first pieces is analysed, so that a short recording has enough windows; later every sixteenth."""

PIECE_WINDOWS = 6
"""Most windows of one piece: all of them up to 16 kHz."""

CLASS_DB, LOWEST_DBFS = 3.0, -100.0
"""Width of the level classes, and the level below which windows are not analysed."""

CLASSES = round((20.0 - LOWEST_DBFS) / CLASS_DB)
_PLACES = np.arange(CLASSES)[:, None]

BAND_HZ = 125.0
"""Width of the bands whose power is kept."""

LOWEST_HZ = 80.0
"""Lowest frequency considered, so that a DC offset and hum determine neither the level nor the peak."""

QUIET_SHARE = 0.1
"""Share of the windows that are the pauses."""

PAUSE_DB = 12.0
"""Least distance of the pauses to the loud windows; if they are closer, the recording has no pauses."""

OVER_PAUSE_DB = 6.0
"""Level of a band relative to the pauses from which it is part of the speech."""

DROP_DB = 65.0
"""Below the strongest band; the upper octave of speech from a good microphone is within this range."""

SIGNAL_FLOOR_DBFS = -70.0
"""Level below which windows do not count, unless all are quieter."""

ROUNDING_FLOOR = 5e-10
"""Power density (−93 dBFS over the whole band) of dithered 16-bit rounding noise plus 3 dB."""

RATES_HZ = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)
"""Rates from which recordings are resampled; half of each is a mirror."""

ZONE_HZ, ZONES, GUARD_HZ = 500.0, 3, 60.0
"""Each mirror is examined in zones above it; next to the mirror itself, any sound is symmetric."""

IMAGE_OVER_DB = 8.0
"""Level of a zone relative to pauses and rounding noise from which its details can be compared."""

IMAGE_CORRELATION, CHANCE = 0.18, 0.6
"""Mean correlation of mirrored details, in log power without slope, from which a zone is an image: the first value plus
the second, divided by the square root of the number of windows. That of speech varies around 0 by a quarter of it."""

IMAGE_WINDOWS = 4
"""Windows needed to call a zone an image."""

HIGH_HZ = 8000.0
"""The model hears nothing above half of its rate."""

TONE_DB, TONE_REACH_HZ = 15.0, 500.0
"""Least height of a tone above the median of the spectrum around it."""

MAX_SAMPLE = 100.0
"""Pieces with larger samples are not audio, and their powers would overflow."""


@dataclass(frozen=True, slots=True)
class Spectral:
    """Spectral facts; None where there is nothing to measure.

    Args:
        bandwidth_hz: Highest frequency of the speech, or of the whole sound if it has no pauses.
        high_band_dbfs: Level of steady sound above 8 kHz: in the pauses, or in the whole sound without pauses.
        high_tone_hz: Frequency of a tone above 8 kHz.
    """

    bandwidth_hz: float | None = None
    high_band_dbfs: float | None = None
    high_tone_hz: float | None = None


@dataclass(frozen=True, slots=True)
class _Mirror:
    """One zone above a mirror: its bins, those of its image, and the bands that it covers."""

    mirror_hz: float
    zone: int
    bands: slice


@dataclass(frozen=True, slots=True)
class _Layout:
    """Everything that depends only on the rate and the size of the pieces; shared by all meters."""

    window: Float32  # [n]
    norm: float  # sum of the squared window
    bin_hz: float
    audible: int  # bands below `HIGH_HZ`, which determine the level of a window
    starts: NDArray[np.intp]  # first bin of each band
    sizes: Float64  # bins in each band
    mirrors: tuple[_Mirror, ...]
    mirrored: NDArray[np.intp]  # bins of all zones, then those of their mirrored bands, [2 * mirrors, bins]
    detrend: Float32  # [bins, bins]


class Spectrum:
    """Spectra of one channel so far, summed by level class.

    Args:
        rate_hz: Sample rate.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._layout = layout = _layout(rate_hz)
        self._pieces = 0
        self._counts = np.zeros(CLASSES, np.int32)
        self._lowest = 0  # the class of the first row of the next two, which have rows for the classes so far
        self._powers = np.zeros((0, len(layout.starts)), np.float32)
        self._alike = np.zeros((0, len(layout.mirrors)), np.float32)
        self._fine = np.zeros(len(layout.window) // 2 + 1 if rate_hz > 2 * HIGH_HZ else 0, np.float32)

    def copy(self) -> Spectrum:
        """Return a copy, which can end while the stream continues."""
        other = copy.copy(self)
        for name in ("_counts", "_powers", "_alike", "_fine"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def is_due(self) -> bool:
        """Count a piece and return whether it should be analysed."""
        self._pieces += 1
        return self._pieces <= DENSE_PIECES or self._pieces % SPARSE_EVERY == 0

    def add(
        self, counts: NDArray[np.int32], bands: Float32, alike: Float32, power: Float32, heard: NDArray[np.bool_]
    ) -> None:
        """Add windows.

        Args:
            counts: Number of windows in each level class, [CLASSES].
            bands: Their powers by class and band, summed.
            alike: The correlations of their mirrors by class and mirror, summed.
            power: Power of the bins of each window.
            heard: Whether each window is in a class.
        """
        self._counts += counts
        own = self._rows(counts)
        self._powers += bands[own]
        self._alike += alike[own]
        if len(self._fine):
            self._fine += power[heard].sum(axis=0)

    def _rows(self, counts: NDArray[np.int32]) -> slice:
        """Return the classes that have rows, after adding those of some windows."""
        first, stop = self._lowest, self._lowest + len(self._powers)
        heard = counts.nonzero()[0].tolist()
        if heard:
            low, high = heard[0], 1 + heard[-1]
            if first == stop:  # no rows yet
                first = stop = low
            low, high = min(first, low), max(stop, high)
            if (low, high) != (first, stop):
                around = ((first - low, high - stop), (0, 0))
                self._powers, self._alike = np.pad(self._powers, around), np.pad(self._alike, around)
                self._lowest, first, stop = low, low, high
        return slice(first, stop)

    def _of_all(self, rows: Float32) -> Float32:
        """Return rows for all classes."""
        every = np.zeros((CLASSES, rows.shape[1]), np.float32)
        every[self._lowest : self._lowest + len(rows)] = rows
        return every

    def result(self) -> Spectral:
        """Return the facts about everything so far."""
        counts = self._counts.astype(np.float64)
        if not counts.any():
            return Spectral()
        layout = self._layout
        density = self._of_all(self._powers) / (layout.sizes * layout.norm)  # [classes, bands], summed over the windows
        pause = _pause_classes(counts)
        quiet = None if pause is None else density[:pause].sum(axis=0) / counts[:pause].sum()
        high_dbfs, tone_hz = self._high(density.sum(axis=0) / counts.sum() if quiet is None else quiet)
        return Spectral(self._bandwidth_hz(density, counts, quiet, pause or 0), high_dbfs, tone_hz)

    def _bandwidth_hz(self, density: Float64, counts: Float64, quiet: Float64 | None, pause: int) -> float | None:
        loud = counts.copy()
        loud[: max(pause, math.ceil((SIGNAL_FLOOR_DBFS - LOWEST_DBFS) / CLASS_DB))] = 0.0
        if not loud.any():
            return None
        if quiet is None:
            speech = density[loud > 0].sum(axis=0) / loud.sum()
            floor = np.full_like(speech, ROUNDING_FLOOR)
        else:
            speech = np.max(list(_means(density, loud)), axis=0)
            floor = np.maximum(quiet * 10 ** (OVER_PAUSE_DB / 10), ROUNDING_FLOOR)
        edges = np.append(self._layout.starts, self._layout.starts[-1] + self._layout.sizes[-1])
        heard = speech >= np.maximum(floor, speech.max() * 10 ** (-DROP_DB / 10))
        heard[1:-1] &= heard[:-2] | heard[2:]  # a single band may exceed the floor by chance
        heard = np.flatnonzero(heard)
        if not len(heard):
            return None
        width_hz = float(edges[heard[-1] + 1] - 1) * self._layout.bin_hz
        base = np.full_like(speech, ROUNDING_FLOOR) if quiet is None else np.maximum(quiet, ROUNDING_FLOOR)
        return self._without_images(width_hz, density, loud, base)

    def _without_images(self, width_hz: float, density: Float64, loud: Float64, floor: Float64) -> float:
        """Return the mirror above which there are only images, or the width if there is none."""
        natural: set[float] = set()
        alikes = self._of_all(self._alike)
        for place, mirror in enumerate(self._layout.mirrors):
            if mirror.mirror_hz >= width_hz or mirror.mirror_hz in natural:
                continue
            zone = density[:, mirror.bands].mean(axis=1)
            least = floor[mirror.bands].mean() * 10 ** (IMAGE_OVER_DB / 10)
            clear = (loud > 0) & (zone >= least * loud)
            windows = float(loud[clear].sum())
            if windows < IMAGE_WINDOWS:
                continue
            alike = float(alikes[clear, place].sum())
            if alike / windows >= IMAGE_CORRELATION + CHANCE / math.sqrt(windows):
                return mirror.mirror_hz
            natural.add(mirror.mirror_hz)
        return width_hz

    def _high(self, steady: Float64) -> tuple[float | None, float | None]:
        """Return the level above 8 kHz and the frequency of a tone there."""
        layout = self._layout
        lowest = math.ceil(HIGH_HZ / layout.bin_hz)
        if len(self._fine) - 4 <= lowest:  # the sample rate is 16 kHz, lower, or only a little higher
            return None, None
        first = int(np.searchsorted(layout.starts, HIGH_HZ / layout.bin_hz))
        power = float((steady * layout.sizes)[first:].sum()) * 2.0 / len(layout.window)
        level = 10.0 * math.log10(power) if power > 0.0 else None
        high = self._fine[lowest:-4].astype(np.float64)
        peak = int(high.argmax())
        reach = round(TONE_REACH_HZ / layout.bin_hz)
        around = high[max(0, peak - reach) : peak + reach + 1]
        mean = self._fine / max(1, int(self._counts.sum())) / layout.norm
        if high[peak] < 10 ** (TONE_DB / 10) * np.median(around) or mean[lowest + peak] < ROUNDING_FLOOR:
            return level, None
        near = high[max(0, peak - 2) : peak + 3]
        centre = float((np.arange(len(near)) * near).sum() / near.sum()) + max(0, peak - 2)
        return level, (lowest + centre) * layout.bin_hz


class SpectrumMeter:
    """Analyses the next pieces of several channels; keeps no state of theirs.

    Args:
        rate_hz: Sample rate.
    """

    def __init__(self, rate_hz: int) -> None:
        self._layout = _layout(rate_hz)

    def add(self, channels: Sequence[Spectrum], pieces: Float32) -> None:
        """Analyse one piece of each channel.

        Args:
            channels: R channels.
            pieces: float32 [R, n], at most `MAX_SAMPLE`, not silent; only whole windows count.
        """
        layout = self._layout
        size = len(layout.window)
        due = [row for row, channel in enumerate(channels) if channel.is_due()]
        count = min(pieces.shape[1] // size, PIECE_WINDOWS)
        if not due or not count:
            return
        windows = pieces[due, : count * size].reshape(-1, size) * layout.window
        squares = rfft(windows, overwrite_x=True).view(np.float32)  # of each bin, the real part and the imaginary one
        np.multiply(squares, squares, out=squares)
        power = squares[:, ::2] + squares[:, 1::2]  # [R * count, bins]
        bands = np.add.reduceat(power, layout.starts, axis=1)
        levels = 10.0 * np.log10(bands[:, : layout.audible].sum(axis=1) * (2.0 / layout.norm / size) + 1e-20)
        places = np.minimum(np.floor((levels - LOWEST_DBFS) / CLASS_DB).astype(np.intp), CLASSES - 1)
        alike = self._compare(power) if len(layout.mirrors) else np.zeros((len(power), 0), np.float32)
        places = places.reshape(len(due), 1, count)
        member = (places == _PLACES).astype(np.float32)  # [R, CLASSES, count]
        counts = np.count_nonzero(member, axis=2).astype(np.int32)
        # Products of all classes: BLAS chooses its kernel, and with it the rounding, by shape.
        sums = member @ bands.reshape(len(due), count, -1), member @ alike.reshape(len(due), count, len(layout.mirrors))
        power = power.reshape(len(due), count, -1)
        for index, row in enumerate(due):
            channels[row].add(counts[index], sums[0][index], sums[1][index], power[index], places[index, 0] >= 0)

    def _compare(self, power: Float32) -> Float32:
        """Correlate the details of each zone with those of its mirrored band, [windows, mirrors]."""
        layout = self._layout
        bins = layout.mirrored.shape[1]
        log = np.log(power.take(layout.mirrored, axis=1) + np.float32(1e-20))
        details = (log.reshape(-1, bins) @ layout.detrend).reshape(len(power), 2, -1, bins)
        size = np.vecdot(details, details)
        alike: Float32 = np.vecdot(details[:, 0], details[:, 1]) / np.sqrt(size[:, 0] * size[:, 1] + np.float32(1e-12))
        return alike


def _pause_classes(counts: Float64) -> int | None:
    """Return the number of the lowest level classes that hold the pauses; None if there are no pauses."""
    running = np.cumsum(counts)
    quiet = int(np.searchsorted(running, max(2.0, QUIET_SHARE * running[-1])))
    loud = int(np.searchsorted(running, 0.75 * running[-1]))
    return quiet + 1 if (loud - quiet) * CLASS_DB >= PAUSE_DB else None


def _means(density: Float64, counts: Float64) -> Iterator[Float64]:
    """Yield mean spectra of neighbouring level classes with at least four windows together, and of all classes."""
    total, windows = np.zeros(density.shape[1]), 0.0
    yield density[counts > 0].sum(axis=0) / counts.sum()
    for place in np.flatnonzero(counts)[::-1]:
        total = total + density[place]
        windows += counts[place]
        if windows >= 4:
            yield total / windows
            total, windows = np.zeros(density.shape[1]), 0.0


@lru_cache(maxsize=16)
def _layout(rate_hz: int) -> _Layout:
    size = 2 ** math.floor(math.log2(rate_hz * WINDOW_S))
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    bin_hz = rate_hz / size
    first = math.ceil(LOWEST_HZ / bin_hz)
    starts = np.arange(first, size // 2, max(1, round(BAND_HZ / bin_hz)))
    sizes = np.diff(np.append(starts, size // 2 + 1)).astype(np.float64)
    bins = round(ZONE_HZ / bin_hz)
    mirrors, upper, lower = [], [], []
    for mirror_hz in (rate / 2 for rate in RATES_HZ if rate < rate_hz):
        for zone in range(ZONES):
            offset_hz = GUARD_HZ + zone * ZONE_HZ
            if mirror_hz + offset_hz + ZONE_HZ > rate_hz / 2 or mirror_hz < offset_hz + ZONE_HZ:
                break
            offsets = offset_hz / bin_hz + np.arange(bins)
            upper.append(np.round(mirror_hz / bin_hz + offsets))
            lower.append(np.round(mirror_hz / bin_hz - offsets))
            low, high = np.searchsorted(starts, (upper[-1][0], upper[-1][-1]))
            mirrors.append(_Mirror(mirror_hz, zone, slice(int(low), int(high))))
    basis, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, bins), 2))
    return _Layout(
        window=window,
        norm=float(np.sum(window.astype(np.float64) ** 2)),
        bin_hz=bin_hz,
        audible=int(np.searchsorted(starts, HIGH_HZ / bin_hz)),
        starts=starts,
        sizes=sizes,
        mirrors=tuple(mirrors),
        mirrored=np.array(upper + lower, np.intp).reshape(-1, bins),
        detrend=np.asarray(np.eye(bins) - basis @ basis.T, np.float32),
    )
