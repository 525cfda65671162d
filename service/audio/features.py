"""The two views of the sound that the detector sees: a log-mel image and a waveform view, one row per 10 ms hop.

Training and service call this module and nothing else for features, so that they exist once. Stateless: a chunk of
T hops needs `T * hop + overlap` samples, and every row depends on its own samples alone. The arithmetic of a row does
not depend on how many rows are computed with it, so any chunking and any batch gives the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft

from service.contract import FeatureSpec

Float32 = NDArray[np.float32]

RAIL_LEVEL = np.float32(0.98)
"""Samples at or above this magnitude sit at a rail; µ-law full scale decodes to 0.980."""

FLAT_TOP_SHARE = np.float32(0.95)
"""Samples within 5 % of the hop's own peak are its top; a sine has 20 % of its samples there, clipped speech more."""

SILENT_PEAK = np.float32(1e-5)
"""Below this peak (-100 dBFS) a hop has no shape worth measuring."""

MAX_CREST_DB = 40.0

BLOCK_ROWS = 200
"""Rows transformed at once: bounds the memory of long chunks; smaller blocks pay NumPy's cost per call more often."""


def mel_filterbank(spec: FeatureSpec) -> Float32:
    """Triangular mel filters of unit peak.

    Returns:
        float32 (fft_size // 2 + 1, mel_bands); column m sums the power of band m.

    Source: HTK mel scale, 2595 * log10(1 + f / 700).
    """
    edges_mel = np.linspace(_hz_to_mel(spec.mel_low_hz), _hz_to_mel(spec.mel_high_hz), spec.mel_bands + 2)
    edges_hz = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    bins_hz = np.arange(spec.fft_size // 2 + 1) * spec.sample_rate_hz / spec.fft_size
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - low) / (centre - low)
    falling = (high - bins_hz[:, None]) / (high - centre)
    return np.ascontiguousarray(np.maximum(0.0, np.minimum(rising, falling)), dtype=np.float32)


def mel_centres_hz(spec: FeatureSpec) -> NDArray[np.float64]:
    """Centre frequency of each mel band, Hz, (mel_bands,)."""
    edges_mel = np.linspace(_hz_to_mel(spec.mel_low_hz), _hz_to_mel(spec.mel_high_hz), spec.mel_bands + 2)
    return np.asarray(700.0 * (10.0 ** (edges_mel[1:-1] / 2595.0) - 1.0))


def _hz_to_mel(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))


class FrontEnd:
    """Computes feature rows; immutable after construction, safe to call from any thread.

    Args:
        spec: The numbers of the model's contract.
    """

    def __init__(self, spec: FeatureSpec | None = None) -> None:
        self.spec = spec = spec or FeatureSpec()
        taps = np.hanning(spec.window_samples + 1)[:-1]
        # Scaled so that a full-scale sine has a band power of about 1 (0 dB).
        self._window = (taps * (2.0 / taps.sum())).astype(np.float32)
        self._mel_steps = _mel_steps(mel_filterbank(spec))
        self._log_floor = np.float32(spec.log_floor)

    def __call__(self, samples: Float32) -> Float32:
        """Turn samples into feature rows.

        Args:
            samples: float32 (B, T * hop + overlap) at the spec's rate, in [-1, 1].

        Returns:
            float32 (B, T, F): mel columns, then waveform columns. T is 0 when there are too few samples.
        """
        spec = self.spec
        batch, length = samples.shape
        hops = max(0, (length - spec.overlap_samples) // spec.hop_samples)
        rows = np.empty((batch, hops, spec.columns), dtype=np.float32)
        if batch == 0 or hops == 0:
            return rows
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        windows = np.lib.stride_tricks.sliding_window_view(samples, spec.window_samples, axis=1)
        windows = windows[:, : hops * spec.hop_samples : spec.hop_samples]  # (B, T, window)
        few = max(1, BLOCK_ROWS // hops)
        for b in range(0, batch, few):
            for t in range(0, hops, BLOCK_ROWS):
                block = np.s_[b : b + few, t : t + BLOCK_ROWS]
                self._log_mel(windows[block], rows[block][..., : spec.mel_bands])
        hop_view = samples[:, : hops * spec.hop_samples].reshape(batch * hops, spec.hop_samples)
        rows[..., spec.mel_bands :] = waveform_view(hop_view, self._log_floor).reshape(batch, hops, -1)
        return rows

    def _log_mel(self, windows: Float32, out: Float32) -> None:
        spec = self.spec
        batch, hops, _ = windows.shape
        padded = np.zeros((batch, hops, spec.fft_size), dtype=np.float32)
        np.multiply(windows, self._window, out=padded[..., : spec.window_samples])
        # SciPy transforms several rows at once; NumPy takes several times as long (benchmarks/bench_features.py).
        spectrum = rfft(padded.reshape(batch * hops, -1), axis=-1, overwrite_x=True)  # (B * T, bins), complex64
        power = np.ascontiguousarray(np.square(spectrum.real.T))  # (bins, B * T)
        power += np.square(spectrum.imag.T)
        # A matrix product would be shorter, but BLAS picks kernels by shape and rounding follows the kernel. This adds
        # the k-th bin of every band that has one, in the same order for each row whatever the number of rows.
        mel = np.zeros((spec.mel_bands, batch * hops), dtype=np.float32)
        for bands, bins, weights in self._mel_steps:
            part = power.take(bins, axis=0)
            part *= weights
            mel[bands] += part
        mel += self._log_floor
        np.log(mel, out=mel)
        out[...] = mel.T.reshape(batch, hops, -1)


def _mel_steps(filters: Float32) -> list[tuple[slice | NDArray[np.intp], NDArray[np.intp], Float32]]:
    """Order the filterbank's non-zero weights by their rank within the band: (bands, bins, weights) per rank."""
    members = [np.flatnonzero(filters[:, band]) for band in range(filters.shape[1])]
    steps: list[tuple[slice | NDArray[np.intp], NDArray[np.intp], Float32]] = []
    for rank in range(max(len(bins) for bins in members)):
        bands = np.array([band for band, bins in enumerate(members) if len(bins) > rank])
        bins = np.array([members[band][rank] for band in bands])
        contiguous = bands[-1] - bands[0] + 1 == len(bands)  # a slice adds in place without a copy
        index = slice(int(bands[0]), int(bands[-1]) + 1) if contiguous else bands
        steps.append((index, bins, filters[bins, bands][:, None]))
    return steps


def waveform_view(hops: Float32, log_floor: np.float32) -> Float32:
    """Measure each hop's waveform; columns as in `contract.WAVEFORM_COLUMNS`.

    Args:
        hops: float32 (N, hop_samples).
        log_floor: Added to the mean square before the logarithm.

    Returns:
        float32 (N, 9): log_energy (ln of mean square), log_peak (ln), crest_db (0 … 40), zero_crossing_ratio,
        rail_ratio (share at |x| >= 0.98), flat_top_ratio (share within 5 % of the hop's peak), identical_run and
        zero_run (longest run over the hop's length), dc_offset (mean).
    """
    size = hops.shape[1]
    magnitude = np.abs(hops)
    peak = magnitude.max(axis=1)
    energy = np.square(hops).mean(axis=1)
    audible = peak > SILENT_PEAK
    negative = np.signbit(hops)
    view = np.zeros((hops.shape[0], 9), dtype=np.float32)
    view[:, 0] = np.log(energy + log_floor)
    view[:, 1] = np.log(peak + SILENT_PEAK)
    crest = 20.0 * np.log10(np.maximum(peak, SILENT_PEAK) / np.sqrt(np.maximum(energy, SILENT_PEAK**2)))
    view[:, 2] = np.where(audible, np.clip(crest, 0.0, MAX_CREST_DB), 0.0)
    view[:, 3] = np.count_nonzero(negative[:, 1:] != negative[:, :-1], axis=1) / np.float32(size - 1)
    loud = np.flatnonzero(peak >= RAIL_LEVEL)  # most hops have no sample there: measure those that do
    view[loud, 4] = np.count_nonzero(magnitude[loud] >= RAIL_LEVEL, axis=1) / np.float32(size)
    top = np.count_nonzero(magnitude >= (FLAT_TOP_SHARE * peak)[:, None], axis=1)
    view[:, 5] = np.where(audible, top / np.float32(size), 0.0)
    same = hops[:, 1:] == hops[:, :-1]
    view[:, 6] = _longest_runs(same, extra=1) / np.float32(size)
    zeros = np.flatnonzero(magnitude.min(axis=1) == 0.0)
    view[zeros, 7] = _longest_runs(hops[zeros] == 0.0, extra=0) / np.float32(size)
    view[:, 8] = hops.mean(axis=1)
    return view


def _longest_runs(marks: NDArray[np.bool_], extra: int) -> NDArray[np.int64]:
    """Longest run of True per row; `extra` is added where there is any (k equal neighbours are k + 1 samples)."""
    longest = np.zeros(marks.shape[0], dtype=np.int64)
    rows = np.flatnonzero(marks.any(axis=1))
    if rows.size == 0:
        return longest
    chosen = marks[rows]
    position = np.arange(1, chosen.shape[1] + 1)
    last_break = np.maximum.accumulate(np.where(chosen, 0, position), axis=1)
    longest[rows] = (position - last_break).max(axis=1) + extra
    return longest


def frame_count(samples: int, spec: FeatureSpec) -> int:
    """Number of output frames of a recording of `samples` samples at the spec's rate: ceil(N / 320)."""
    return -(-samples // spec.frame_samples)


def frame_levels_dbfs(samples: Float32, spec: FeatureSpec) -> Float32:
    """Mean-square level of each 20 ms frame.

    Args:
        samples: float32 (n * frame_samples,) at the spec's rate.
        spec: Gives the frame length.

    Returns:
        float32 (n,), dBFS; silence reads -120.
    """
    energy = np.square(samples.reshape(-1, spec.frame_samples)).mean(axis=1)
    return np.asarray(10.0 * np.log10(np.maximum(energy, 1e-12)), dtype=np.float32)
