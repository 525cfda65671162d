"""Any sample rate to the model's, as a stream.

Wraps soxr's streaming resampler and adds the promises the rest of the service builds on: the output does not
depend on how the input was cut, output sample k stands for the time k / target rate, and n input samples make
exactly ceil(n · target / rate) output samples.

Telephone audio, whose rate is exactly doubled, goes through the same filter without soxr's blocks: those would hold
live audio back for 116 ms, the filter itself needs 12.
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
"""Input samples on either side of an output sample that doubling looks at; beyond, soxr's filter is below −120 dB."""


class Resampler:
    """One channel's way from its own rate to the model's; owned by one stream, not thread-safe.

    Samples come out later than they went in (`latency_samples`), in bursts where soxr works, which has internal
    blocks; their positions in time are not shifted by that.

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
        self._stream: _Doubler | _Soxr | None = None
        if rate_hz != target_hz:
            self._stream = _Doubler() if target_hz == 2 * rate_hz else _Soxr(rate_hz, target_hz)

    @property
    def latency_samples(self) -> int:
        """Output samples that may be held back at worst, at the target rate."""
        return 0 if self._stream is None else self._stream.latency_samples

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take input of any length, also none; return what is ready.

        Args:
            samples: float32 [n] at `rate_hz`.

        Returns:
            float32 [m] at `target_hz`; empty while too little of what follows is known.
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
        rest = self._stream.finish()[:missing]
        if len(rest) != missing:
            raise RuntimeError(f"{len(rest)} of {missing} last samples came out ({self.rate_hz} Hz)")
        self.samples_out += missing
        return rest


class _Doubler:
    """Exactly twice the rate: each input sample makes two output samples, as soon as the filter's reach is known."""

    latency_samples = 2 * REACH_SAMPLES

    def __init__(self) -> None:
        self._taps = _doubling_taps()
        self._recent = np.zeros(REACH_SAMPLES - 1, np.float32)  # nothing was heard before the start

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        known = np.concatenate((self._recent, samples))
        count = len(known) - 2 * REACH_SAMPLES + 1
        if count <= 0:
            self._recent = known
            return np.zeros(0, np.float32)
        self._recent = known[count:].copy()  # a view would keep all that was pushed
        ready = np.empty((count, 2), np.float32)
        # One dot product of the same length for each sample, whatever the block: that is what keeps the bits.
        ready[:, 0] = np.correlate(known, self._taps[0], "valid")
        ready[:, 1] = np.correlate(known, self._taps[1], "valid")
        return ready.reshape(-1)

    def finish(self) -> NDArray[np.float32]:
        return self.push(np.zeros(REACH_SAMPLES, np.float32))


@lru_cache(maxsize=1)
def _doubling_taps() -> NDArray[np.float32]:
    """Weights of the input samples around the i-th for output samples 2 i and 2 i + 1.

    Read off soxr's answer to an impulse, so that audio doubled here and by soxr itself is the same audio.

    Returns:
        float32 (2, 2 * REACH_SAMPLES), for input samples i - REACH_SAMPLES + 1 … i + REACH_SAMPLES.
    """
    centre = 4 * REACH_SAMPLES
    impulse = np.zeros(2 * centre)
    impulse[centre] = 1.0
    answer = soxr.resample(impulse, 1, 2, quality=QUALITY)
    offset = np.arange(2)[:, None] - 2 * np.arange(1 - REACH_SAMPLES, REACH_SAMPLES + 1)  # output less input position
    taps: NDArray[np.float32] = answer[2 * centre + offset].astype(np.float32)
    taps[np.abs(offset) >= 2 * REACH_SAMPLES] = 0.0  # as far as it reaches to the other side
    return taps


class _Soxr:
    """soxr's stream for any ratio."""

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
        # soxr rounds its total; a few zeros after the end make it long enough for the cut to the exact length.
        padding = np.zeros(2 * (self._rate_hz // self._target_hz + 1), np.float32)
        rest: NDArray[np.float32] = self._stream.resample_chunk(padding, last=True)
        return rest


def _open(rate_hz: int, target_hz: int) -> soxr.ResampleStream:
    return soxr.ResampleStream(rate_hz, target_hz, 1, dtype="float32", quality=QUALITY)


@lru_cache(maxsize=64)
def _latency_samples(rate_hz: int, target_hz: int) -> int:
    """Push half a second of silence in steps of a millisecond and see how far soxr falls behind; once per rate.

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
