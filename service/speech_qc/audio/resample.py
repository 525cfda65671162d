"""Streaming resampler from any sample rate to the model's.

Wraps soxr's streaming resampler and adds the guarantees that the rest of the service relies on: the output does not
depend on how the input was chunked, output sample k is at time k / target rate, and n input samples give exactly
ceil(n · target / rate) output samples.

Telephone audio, whose rate is exactly doubled, uses the same filter without soxr's blocks: those would delay live
audio by 116 ms, while the filter itself needs 12 ms.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import soxr
from numpy.typing import NDArray

from speech_qc.audio import check_rate_hz

TARGET_RATE_HZ = 16_000
"""Rate of the model's features."""

QUALITY = "HQ"
"""soxr recipe: flat to 0.91 of the lower Nyquist frequency, images below −100 dB (20 bits)."""

REACH_SAMPLES = 92
"""Input samples on either side of an output sample that doubling uses; further out, soxr's filter is below −120 dB."""

TILE = 16
"""Input samples that are doubled in one product."""

_UNKNOWN = np.zeros(TILE, np.float32)


class Resampler:
    """Resamples one channel from its own rate to the model's; owned by one stream, not thread-safe.

    The output is delayed (`latency_samples`), and soxr emits it in bursts because it has internal blocks. The delay
    does not shift the positions of samples in time.

    Args:
        rate_hz: Sample rate of the input.
        target_hz: Sample rate of the output; if equal, samples pass through unchanged and without delay.

    Raises:
        InvalidAudio: The rate is outside what `check_rate_hz` accepts.

    Source: soxr (libsoxr), whose stream mode compensates its filters' delay.
    """

    def __init__(self, rate_hz: int, target_hz: int = TARGET_RATE_HZ) -> None:
        check_rate_hz(rate_hz)
        self.rate_hz = rate_hz
        self.target_hz = target_hz
        self.samples_in = 0
        self.samples_out = 0
        self._finished = False
        self._stream: _Doubler | _Soxr | None = None
        if rate_hz != target_hz:
            self._stream = _Doubler() if target_hz == 2 * rate_hz else _Soxr(rate_hz, target_hz)

    @property
    def latency_samples(self) -> int:
        """Maximum delay in output samples at the target rate."""
        return 0 if self._stream is None else self._stream.latency_samples

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Resample input of any length, including none; return the output that is ready.

        Args:
            samples: float32 [n] at `rate_hz`.

        Returns:
            float32 [m] at `target_hz`; empty while too few of the following samples are known.
        """
        if self._finished:
            raise RuntimeError("push after finish: a resampler serves one stream")
        self.samples_in += len(samples)
        if self._stream is None:
            self.samples_out += len(samples)
            return samples
        ready = self._stream.push(np.ascontiguousarray(samples, dtype=np.float32))
        self.samples_out += len(ready)
        return ready

    def finish(self) -> NDArray[np.float32]:
        """Flush; afterwards the output has ceil(samples_in · target / rate) samples in total.

        Returns:
            float32 [m] at `target_hz`, the remaining output.
        """
        if self._finished:
            raise RuntimeError("finish was called twice: a resampler serves one stream")
        self._finished = True
        missing = -(-self.samples_in * self.target_hz // self.rate_hz) - self.samples_out
        if self._stream is None or self.samples_in == 0:
            return np.zeros(0, np.float32)
        rest = self._stream.finish()[:missing]
        if len(rest) != missing:
            raise RuntimeError(f"expected {missing} remaining samples from {self.rate_hz} Hz, got {len(rest)}")
        self.samples_out += missing
        return rest


class _Doubler:
    """Doubles the rate: each input sample gives two output samples once all samples in the filter's reach are known.

    The outputs of `TILE` input samples are one product of a vector and a matrix. Tiles lie at absolute positions and
    have one size, so that results are bit-identical for any block size; one that is not complete yet is computed with
    zeros for its unknown samples, whose weights in the outputs that are ready are zero, and again with the next block.
    """

    latency_samples = 2 * REACH_SAMPLES

    def __init__(self) -> None:
        self._weights = _tile_weights()
        self._recent = np.zeros(REACH_SAMPLES - 1, np.float32)  # what the tile in progress needs; silence at the start
        self._done = 0  # input samples of that tile whose outputs were returned

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        done, reach = self._done, 2 * REACH_SAMPLES - 1
        ready = len(self._recent) + len(samples) - reach  # input samples, from the start of the tile
        if ready <= done:
            self._recent = np.concatenate((self._recent, samples))
            return np.zeros(0, np.float32)
        known = np.concatenate((self._recent, samples, _UNKNOWN))
        shape, step = (-(-ready // TILE), 1, TILE + reach), TILE * known.itemsize
        tiles: NDArray[np.float32] = np.ndarray(shape, np.float32, known, 0, (step, step, known.itemsize))
        doubled: NDArray[np.float32] = (tiles @ self._weights).reshape(-1)
        self._done = ready % TILE
        self._recent = known[ready - self._done : ready + reach].copy()  # a view would keep the whole input in memory
        return doubled[2 * done : 2 * ready]

    def finish(self) -> NDArray[np.float32]:
        return self.push(np.zeros(REACH_SAMPLES, np.float32))


@lru_cache(maxsize=1)
def _tile_weights() -> NDArray[np.float32]:
    """Return the matrix from the samples of a tile and its reach to its outputs.

    Returns:
        float32 (TILE + 2 * REACH_SAMPLES - 1, 2 * TILE).
    """
    taps = _doubling_taps()
    weights = np.zeros((TILE + taps.shape[1] - 1, TILE, 2), np.float32)
    for place in range(TILE):
        weights[place : place + taps.shape[1], place] = taps.T
    return weights.reshape(-1, 2 * TILE)


@lru_cache(maxsize=1)
def _doubling_taps() -> NDArray[np.float32]:
    """Return the weights of the input samples around the i-th for output samples 2 i and 2 i + 1.

    They are taken from soxr's impulse response, so that doubling here and in soxr gives the same audio.

    Returns:
        float32 (2, 2 * REACH_SAMPLES), for input samples i - REACH_SAMPLES + 1 … i + REACH_SAMPLES.
    """
    centre = 4 * REACH_SAMPLES
    impulse = np.zeros(2 * centre)
    impulse[centre] = 1.0
    response = soxr.resample(impulse, 1, 2, quality=QUALITY)
    offset = np.arange(2)[:, None] - 2 * np.arange(1 - REACH_SAMPLES, REACH_SAMPLES + 1)  # output minus input position
    taps: NDArray[np.float32] = response[2 * centre + offset].astype(np.float32)
    taps[np.abs(offset) >= 2 * REACH_SAMPLES] = 0.0  # the same reach on both sides
    return taps


class _Soxr:
    """Resamples by any ratio with soxr's stream."""

    def __init__(self, rate_hz: int, target_hz: int) -> None:
        self._rate_hz, self._target_hz = rate_hz, target_hz
        self._stream = _open(rate_hz, target_hz)

    @property
    def latency_samples(self) -> int:
        return _latency_samples(self._rate_hz, self._target_hz)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        ready: NDArray[np.float32] = self._stream.resample_chunk(samples)
        return ready

    def finish(self) -> NDArray[np.float32]:
        # soxr rounds its output length; a few zeros after the end make it long enough to be cut to the exact length.
        padding = np.zeros(2 * (self._rate_hz // self._target_hz + 1), np.float32)
        rest: NDArray[np.float32] = self._stream.resample_chunk(padding, last=True)
        return rest


def _open(rate_hz: int, target_hz: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(rate_hz, target_hz, 1, dtype="float32", quality=QUALITY)


@lru_cache(maxsize=64)
def _latency_samples(rate_hz: int, target_hz: int) -> int:
    """Measure soxr's delay with half a second of silence in steps of a millisecond; once per rate.

    Returns:
        Output samples, with one step added, because the delay may be larger between two measurements.
    """
    stream = _open(rate_hz, target_hz)
    step = np.zeros(rate_hz // 1000, np.float32)
    pushed = emitted = 0
    worst = 0.0
    for _ in range(500):
        pushed += len(step)
        emitted += len(stream.resample_chunk(step))
        worst = max(worst, pushed * target_hz / rate_hz - emitted)
    return math.ceil(worst) + target_hz // 1000
