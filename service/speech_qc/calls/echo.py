"""Finds one leg's sound in the other one: an echo, its delay and its attenuation.

Each half second of a leg is correlated with the last second and a half of the other one, with all frequencies weighted
equally (generalized cross-correlation with phase transform; Knapp and Carter, "The generalized correlation method for
estimation of time delay", IEEE Trans. ASSP 24, 1976). So neither loud vowels nor hum or tones that both legs have look
like an echo: those fill few frequencies. The correlations are averaged over the last seconds in which the other party
spoke, which brings out an echo below the noise and below the leg's own talker. Memory and time are constant.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.records import BAND_RATE_HZ, FRAME_SAMPLES, RECORD_FRAMES

Float32 = NDArray[np.float32]
Complex64 = NDArray[np.complex64]

BLOCK = RECORD_FRAMES * FRAME_SAMPLES
MIN_LAG = round(0.010 * BAND_RATE_HZ)
"""Below it, the sound leaks between the channels of a recording, which is not an echo of a line."""
MAX_LAG = round(1.0 * BAND_RATE_HZ)
REACH = BLOCK + MAX_LAG
"""Samples of the other leg that a block is correlated with."""
KEEP = 0.94
"""Share of the average that stays with each block: it covers about the last 8 s of speech."""
FOUND_Z, LOST_Z = 8.5, 5.5
"""Height of the correlation's peak over its spread: of noise alone it is about 4, and 5.5 once in hours."""
MIN_BLOCKS = 2.5
"""Blocks of speech, weighted as in the average, before there is an answer."""
SAME_LAG = round(0.003 * BAND_RATE_HZ)
CLEAR_Z, CLEAR_LIKENESS = 13.0, 0.5
"""A single block with a peak this high, and so much like the other leg, is an echo and nothing else. Of two talkers the
peak is 5 to 11."""
RECENT, GONE_Z = 0.85, 1.0
"""Share of the average of single blocks at the echo's lag that stays with each block, and where the echo is gone: of
noise alone it is 0, give or take 0.3."""
MEASURED_Z = 3.0
"""Least height in a block from which the attenuation is measured."""
_SIZE = 8192
_FADE = np.linspace(0, 1, round(0.01 * BAND_RATE_HZ), dtype=np.float32)
_LOW, _HIGH = round(150 / BAND_RATE_HZ * _SIZE), round(1_800 / BAND_RATE_HZ * _SIZE)


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo that is there now.

    Args:
        lag_s: Its delay.
        loss_db: Its attenuation.
    """

    lag_s: float
    loss_db: float


class EchoMeter:
    """Looks for the sound of one leg, the far one, in another, the near one, half a second at a time."""

    def __init__(self) -> None:
        self._sum: Complex64 = np.zeros(_HIGH - _LOW, np.complex64)
        self._weight = 0.0
        self._lag = 0
        self._seen = 0  # checks in a row that found the same lag
        self._projected = self._power = 0.0
        self._recent = 0.0  # average of the last blocks' correlation at the lag of the echo
        self.echo: Echo | None = None
        """The echo, if there is one."""
        self.clear = False
        """Whether the last block holds an echo, whatever came before."""

    def push(self, far: Float32, near: Float32, *, talking: bool) -> None:
        """Take the next half second.

        Args:
            far: float32 (REACH,), the far leg up to the end of the block.
            near: float32 (BLOCK,), the near leg.
            talking: Whether the far party spoke in `far`; without that, nothing is learned.
        """
        self.clear = False
        if not talking or not near.any():
            return
        product: Complex64 = np.conj(_spectrum(far)) * _spectrum(near)
        unit: Complex64 = product / (np.abs(product) + np.float32(1e-12))
        block = _correlation(unit)
        place = int(np.abs(block).argmax())
        self.clear = float(abs(block[place])) >= CLEAR_Z and _likeness(far, near, place + MIN_LAG) >= CLEAR_LIKENESS
        self._sum = np.complex64(KEEP) * self._sum + unit
        self._weight = KEEP * self._weight + 1.0
        if self._weight >= MIN_BLOCKS or self.clear:
            self._check(far, near, block)

    def _check(self, far: Float32, near: Float32, block: Float32) -> None:
        average = _correlation(self._sum)
        place = int(np.abs(average).argmax())
        lag, z = place + MIN_LAG, float(abs(average[place]))
        if abs(lag - self._lag) > SAME_LAG:
            if self.echo is not None and z < FOUND_Z:
                z = 0.0  # what is left is not the echo
            self._seen, self._projected, self._power, self._recent = 0, 0.0, 0.0, GONE_Z * 4
        self._lag = lag
        here = float(np.copysign(block[place], block[place] * average[place]))
        self._recent = RECENT * self._recent + (1 - RECENT) * here
        if self._recent < GONE_Z and self.echo is not None:
            self._sum, self._weight, z = np.zeros_like(self._sum), 0.0, 0.0
        if z >= (LOST_Z if self.echo is not None else FOUND_Z):
            self._seen += 1
            if here >= MEASURED_Z or not self._power:
                self._measure(far, near, lag)
            if self._seen >= 2 or self.echo is not None:
                self.echo = Echo(lag / BAND_RATE_HZ, self._loss_db())
        else:
            self._seen, self.echo = 0, None

    def _measure(self, far: Float32, near: Float32, lag: int) -> None:
        """Project the near leg on the delayed far one; what the near party says is unrelated and averages out."""
        start = MAX_LAG - lag
        delayed = far[start : start + BLOCK]
        level = float(near @ near) + 1e-9
        self._projected = KEEP * self._projected + float(near @ delayed) / level
        self._power = KEEP * self._power + float(delayed @ delayed) / level

    def _loss_db(self) -> float:
        gain = abs(self._projected) / max(self._power, 1e-12)
        return -20.0 * math.log10(max(gain, 1e-6))


def _likeness(far: Float32, near: Float32, lag: int) -> float:
    """Return the correlation coefficient of the near leg and the delayed far one, without its sign."""
    delayed = far[MAX_LAG - lag :][:BLOCK]
    return abs(float(near @ delayed)) / (float(np.sqrt((near @ near) * (delayed @ delayed))) + 1e-12)


def _spectrum(samples: Float32) -> Complex64:
    """Return the band's spectrum; faded at both ends, because the edges of two pieces are alike at one lag."""
    faded = samples.copy()
    faded[: len(_FADE)] *= _FADE
    faded[-len(_FADE) :] *= _FADE[::-1]
    return np.fft.rfft(faded, _SIZE)[_LOW:_HIGH].astype(np.complex64, copy=False)


def _correlation(spectrum: Complex64) -> Float32:
    """Return the correlation at each lag from `MIN_LAG` to `MAX_LAG`, over the spread of all of them."""
    full = np.zeros(_SIZE // 2 + 1, np.complex64)
    full[_LOW:_HIGH] = spectrum
    found = np.fft.irfft(full, _SIZE)
    # `near` begins MAX_LAG after `far`, so a delay of L shows at -(MAX_LAG - L).
    lags = np.concatenate((found[_SIZE - MAX_LAG + MIN_LAG :], found[:1])).astype(np.float32, copy=False)
    return lags / np.float32(max(float(np.sqrt(np.mean(np.square(lags)))), 1e-20))
