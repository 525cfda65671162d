"""Any sample rate to the model's, as a stream.

Wraps soxr's streaming resampler and adds the promises the rest of the service builds on: the output does not
depend on how the input was cut, output sample k stands for the time k / target rate, and n input samples make
exactly ceil(n · target / rate) output samples.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import soxr
from numpy.typing import NDArray

from service.audio import check_rate_hz

TARGET_RATE_HZ = 16_000
"""Rate of the model's features."""

QUALITY = "HQ"
"""soxr recipe: flat to 0.91 of the lower Nyquist frequency, images below −100 dB (20 bits)."""


class Resampler:
    """One channel's way from its own rate to the model's; owned by one stream, not thread-safe.

    soxr works in internal blocks, so samples come out in bursts, later than they went in (`latency_samples`);
    their positions in time are not shifted by that.

    Args:
        rate_hz: Rate of what is pushed.
        target_hz: Rate of what comes out; when equal, samples pass through untouched and at once.

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
        self._stream = None if rate_hz == target_hz else _open(rate_hz, target_hz)

    @property
    def latency_samples(self) -> int:
        """Output samples that may be held back at worst, at the target rate; measured once per rate."""
        return 0 if self._stream is None else _latency_samples(self.rate_hz, self.target_hz)

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take input of any length, also none; return what is ready.

        Args:
            samples: float32 [n] at `rate_hz`.

        Returns:
            float32 [m] at `target_hz`; empty while soxr's block fills.
        """
        if self._finished:
            raise RuntimeError("push after finish: a resampler serves one stream")
        self.samples_in += len(samples)
        if self._stream is None:
            self.samples_out += len(samples)
            return samples
        samples = np.ascontiguousarray(samples, dtype=np.float32)
        ready: NDArray[np.float32] = self._stream.resample_chunk(samples)
        self.samples_out += len(ready)
        return ready

    def finish(self) -> NDArray[np.float32]:
        """Flush; with this the output has ceil(samples_in · target / rate) samples in all.

        Returns:
            float32 [m] at `target_hz`, what was still held back.
        """
        if self._finished:
            raise RuntimeError("finish was called twice: a resampler serves one stream")
        self._finished = True
        missing = -(-self.samples_in * self.target_hz // self.rate_hz) - self.samples_out
        if self._stream is None or self.samples_in == 0:
            return np.zeros(0, np.float32)
        # soxr rounds its total; a few zeros after the end make it long enough for the cut to the exact length.
        padding = np.zeros(2 * (self.rate_hz // self.target_hz + 1), np.float32)
        rest: NDArray[np.float32] = self._stream.resample_chunk(padding, last=True)[:missing]
        if len(rest) != missing:
            raise RuntimeError(f"soxr returned {len(rest)} of {missing} last samples ({self.rate_hz} Hz)")
        self.samples_out += missing
        return rest


def _open(rate_hz: int, target_hz: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(rate_hz, target_hz, 1, dtype="float32", quality=QUALITY)


@lru_cache(maxsize=64)
def _latency_samples(rate_hz: int, target_hz: int) -> int:
    """Push half a second of silence in steps of a millisecond and see how far the output falls behind.

    Returns:
        Output samples, with one step added: between two looks it may have been so much more.
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
