"""Cuts one stream into the pieces that the loss detector examines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.losses.bank import LossBank
from speech_qc.audio.losses.grid import Loss


class LossDetector:
    """Finds the losses of one channel as a stream, at its native rate; owned by one session, not thread-safe.

    Args:
        rate_hz: Sample rate of the input.

    Raises:
        InvalidAudio: The rate is not supported.
    """

    def __init__(self, rate_hz: int) -> None:
        self._bank = LossBank(rate_hz)
        self._waiting = np.zeros((1, self._bank.grid.piece), np.float32)
        self._filled = 0

    def push(self, samples: NDArray[np.float32]) -> list[Loss]:
        """Accept the next samples and return the losses that became known.

        Args:
            samples: float32 [n], finite, any n.
        """
        piece, found = self._bank.grid.piece, []
        while len(samples):
            if self._filled == 0 and len(samples) >= piece:
                found += self._bank.push(samples[None, :piece])
                samples = samples[piece:]
                continue
            count = min(piece - self._filled, len(samples))
            self._waiting[0, self._filled : self._filled + count] = samples[:count]
            self._filled += count
            samples = samples[count:]
            if self._filled == piece:
                found += self._bank.push(self._waiting)
                self._filled = 0
        return [loss for _, loss in found]

    def finish(self) -> list[Loss]:
        """End the stream and return the last losses; a gap that is still open is none."""
        self._waiting[0, self._filled :] = 0.0
        found = self._bank.push(self._waiting, lengths=np.array([self._filled]))
        self._waiting[:] = 0.0
        found += self._bank.push(self._waiting, lengths=np.array([self._filled - self._bank.grid.piece]))
        return [loss for _, loss in found]
