"""The detector's input features: a log-mel view and a waveform view of the sound, one row per 10 ms hop.

Training and service both use this module, so that features are implemented only once. Stateless: a chunk of T hops
needs `T * hop + overlap` samples, and every row depends only on its own samples. The arithmetic of a row does not
depend on how many rows are computed together, so results are bit-identical for any chunking and any batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.fft import rfft
from scipy.sparse import csr_array

from speech_qc.contract import FeatureSpec

Float32 = NDArray[np.float32]

RAIL_LEVEL = np.float32(0.98)
"""Samples at or above this magnitude are at a rail; µ-law full scale decodes to 0.980."""

FLAT_TOP_SHARE = np.float32(0.95)
"""Samples within 5 % of the hop's own peak are its top: 20 % of the samples of a sine, more in clipped speech."""

SILENT_PEAK = np.float32(1e-5)
"""Peak (-100 dBFS) below which the shape of a hop is not measured."""

BLOCK_ROWS = 640
"""Rows computed together, 64 live chunks: bounds memory (about 4 MB); smaller blocks need more NumPy calls."""


def mel_filterbank(spec: FeatureSpec) -> Float32:
    """Return triangular mel filters of unit peak.

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
    """Return the centre frequency of each mel band, Hz, (mel_bands,)."""
    edges_mel = np.linspace(_hz_to_mel(spec.mel_low_hz), _hz_to_mel(spec.mel_high_hz), spec.mel_bands + 2)
    return np.asarray(700.0 * (10.0 ** (edges_mel[1:-1] / 2595.0) - 1.0))


def _hz_to_mel(hz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hz / 700.0))


class FrontEnd:
    """Computes feature rows; immutable after construction, safe to call from any thread.

    Args:
        spec: Feature parameters of the model's contract.
        block_rows: Rows computed together; affects speed and memory, not the values.
    """

    def __init__(self, spec: FeatureSpec | None = None, *, block_rows: int = BLOCK_ROWS) -> None:
        self._block_rows = block_rows
        self.spec = spec = spec or FeatureSpec()
        taps = np.hanning(spec.window_samples + 1)[:-1]
        # Scaled so that a full-scale sine has a band power of about 1 (0 dB).
        self._window = (taps * (2.0 / taps.sum())).astype(np.float32)
        self._mel = csr_array(mel_filterbank(spec).T)  # (bands, bins)
        self._log_floor = np.float32(spec.log_floor)
        size = spec.hop_samples
        self._ones = np.ones(size, np.float32)
        self._size = np.float32(size)
        self._of = np.array([[size - 1], [size], [size], [size], [size]], np.float32)  # denominators of columns 3 to 7
        self._small = np.min_scalar_type(size)  # smallest type for a count of one hop's samples
        self._position = np.arange(1, size + 1, dtype=self._small)
        self._folds = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
        self._spare: list[Float32] = []  # scratch arrays of finished calls; a list's pop and append are atomic

    def __call__(self, samples: Float32) -> Float32:
        """Turn samples into feature rows.

        Args:
            samples: float32 (B, T * hop + overlap) at the spec's rate, in [-1, 1].

        Returns:
            float32 (B, T, F): mel columns, then waveform columns. T is 0 if there are too few samples.
        """
        spec = self.spec
        batch, length = samples.shape
        hops = max(0, (length - spec.overlap_samples) // spec.hop_samples)
        rows = np.empty((batch, hops, spec.columns), dtype=np.float32)
        if batch == 0 or hops == 0:
            return rows
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        width = samples.itemsize
        strides = (length * width, spec.hop_samples * width, width)  # a view, because windows overlap
        windows: Float32 = np.ndarray((batch, hops, spec.window_samples), np.float32, samples, 0, strides)
        scratch = self._take_scratch()
        few, many = max(1, self._block_rows // hops), self._block_rows
        for b in range(0, batch, few):
            for t in range(0, hops, many):
                block, out = windows[b : b + few, t : t + many], rows[b : b + few, t : t + many]
                self._log_mel(block, scratch, out[..., : spec.mel_bands])
                self._waveform(block[..., : spec.hop_samples], out[..., spec.mel_bands :])
        self._spare.append(scratch)
        return rows

    def _take_scratch(self) -> Float32:
        """Return a scratch array for one block of windows, zero beyond the window, float32 (block_rows, fft_size).

        Scratch arrays are reused, because mapping fresh memory takes longer than the multiplication that fills it.
        """
        try:
            return self._spare.pop()
        except IndexError:
            return np.zeros((self._block_rows, self.spec.fft_size), np.float32)

    def _log_mel(self, windows: Float32, scratch: Float32, out: Float32) -> None:
        """Fill `out` (b, t, bands) from `windows` (b, t, window); `scratch` needs a row for each window."""
        spec = self.spec
        batch, hops, _ = windows.shape
        padded = scratch[: batch * hops]
        np.multiply(windows, self._window, out=padded.reshape(batch, hops, -1)[..., : spec.window_samples])
        # SciPy transforms several rows together; NumPy takes several times as long (benchmarks/bench_features.py).
        # With the transpose, SciPy stores each bin's values of all rows contiguously at no extra cost.
        spectrum = rfft(padded.T, axis=0)  # (bins, N) complex64
        squares = spectrum.view(np.float32)  # (bins, 2 N): real, imaginary, real, …
        np.multiply(squares, squares, out=squares)
        # A dense product would use BLAS, which picks kernels by shape, and rounding depends on the kernel. The sparse
        # product adds the bins of a band one by one, in the same order for each row, whatever the number of rows.
        parts = self._mel @ squares  # (bands, 2 N)
        mel = parts[:, ::2] + parts[:, 1::2]
        mel += self._log_floor
        np.log(mel, out=mel)
        out[...] = mel.T.reshape(batch, hops, -1)

    def _waveform(self, hops: Float32, out: Float32) -> None:
        """Measure each hop's waveform; columns as in `contract.WAVEFORM_COLUMNS`.

        Sums run along one hop, so that their order is fixed. Values that do not depend on order (extremes, counts,
        runs) are computed from the transpose, sample by sample across all hops, which is several times as fast.

        Args:
            hops: float32 (b, t, hop_samples), the samples of a hop contiguous.
            out: float32 (b, t, 9), filled with: log_energy (ln of mean square), log_peak (ln), crest_db (0 … 22),
                zero_crossing_ratio, rail_ratio (share at |x| >= 0.98), flat_top_ratio (share within 5 % of the hop's
                peak), identical_run and zero_run (longest run over the hop's length), dc_offset (mean).
        """
        batch, count, size = hops.shape
        rows = batch * count
        samples = np.empty((size, rows), np.float32)
        samples.reshape(size, batch, count)[...] = hops.transpose(2, 0, 1)
        magnitude = np.abs(samples)
        peak = self._along_hop(np.maximum, magnitude[None])[0]
        marks = np.empty((7, size, rows), np.bool_)
        marks[:, 0] = False  # for the marks that compare a sample with the previous one
        negative = np.signbit(samples)
        np.not_equal(negative[1:], negative[:-1], out=marks[0, 1:])
        np.greater_equal(magnitude, RAIL_LEVEL, out=marks[1])
        np.greater_equal(magnitude, FLAT_TOP_SHARE * peak, out=marks[2])
        np.equal(samples[1:], samples[:-1], out=marks[3, 1:])
        np.equal(samples, 0.0, out=marks[4])
        np.logical_and(marks[3:5, 1:], marks[3:5, :-1], out=marks[5:, 1:])  # neighbouring pairs in marks 3 and 4
        counts = self._along_hop(np.add, marks.view(np.uint8), self._small)  # (7, N)
        runs = self._longest_runs(marks[3:5], counts[3:5], counts[5:])
        runs[0] += counts[3] > 0  # k equal neighbours are k + 1 samples
        counts[3:5] = runs

        view = np.empty((9, rows), np.float32)
        energy, crest = view[0], view[2]
        np.divide(np.vecdot(hops, hops).reshape(rows), self._size, out=energy)
        np.sqrt(energy, out=crest)
        np.divide(np.maximum(peak, SILENT_PEAK), np.maximum(crest, SILENT_PEAK, out=crest), out=crest)
        np.log10(np.maximum(crest, 1.0, out=crest), out=crest)  # rounding can put the peak below the root mean square
        crest *= 20.0
        energy += self._log_floor
        np.add(peak, SILENT_PEAK, out=view[1])
        np.log(view[:2], out=view[:2])
        np.divide(counts[:5], self._of, out=view[3:8])
        np.divide(np.vecdot(hops, self._ones).reshape(rows), self._size, out=view[8])
        view[5] *= peak > SILENT_PEAK
        out[...] = view.T.reshape(batch, count, 9)

    def _longest_runs(self, marks: NDArray[np.bool_], counts: NDArray[Any], pairs: NDArray[Any]) -> NDArray[Any]:
        """Return the longest run of True along the hop.

        Args:
            marks: (k, size, N).
            counts: Marks of each row, (k, N).
            pairs: Neighbouring samples of each row that are both marked, (k, N).

        Returns:
            (k, N), a new array of the type of `counts`.
        """
        # A run of n marks has n - 1 pairs, so marks minus pairs is the number of runs. This is sufficient for rows with
        # at most one run or one pair: nearly all rows of speech and of silence.
        longest: NDArray[Any] = np.minimum(counts, pairs + 1)
        which, rows = np.nonzero(np.minimum(counts - pairs, pairs) > 1)
        if rows.size:
            broken = ~marks[which, :, rows]  # (n, size)
            last_break = np.maximum.accumulate(broken * self._position, axis=1)
            longest[which, rows] = (self._position - last_break).max(axis=1)
        return longest

    def _along_hop(self, ufunc: np.ufunc, values: NDArray[Any], dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
        """Reduce (k, size, N) to (k, N) with an operation whose order does not matter.

        Works in two passes: the inner loops of the first span several rows, which is faster, above all for small N.
        """
        count, _, rows = values.shape
        folded = ufunc.reduce(values.reshape(count, self._folds, -1), axis=1, dtype=dtype)
        return np.asarray(ufunc.reduce(folded.reshape(count, -1, rows), axis=1, dtype=dtype))


def frame_count(samples: int, spec: FeatureSpec) -> int:
    """Return the number of output frames of a recording of `samples` samples at the spec's rate: ceil(N / 320)."""
    return -(-samples // spec.frame_samples)


def frame_levels_dbfs(samples: Float32, spec: FeatureSpec) -> Float32:
    """Return the mean-square level of each 20 ms frame.

    Args:
        samples: float32 (…, n * frame_samples) at the spec's rate.
        spec: Gives the frame length.

    Returns:
        float32 (…, n), dBFS; silence gives -120.
    """
    frames = samples.reshape(*samples.shape[:-1], -1, spec.frame_samples)
    levels: Float32 = np.vecdot(frames, frames)
    levels *= np.float32(1.0 / spec.frame_samples)
    np.log10(np.maximum(levels, np.float32(1e-12), out=levels), out=levels)
    levels *= np.float32(10.0)
    return levels
