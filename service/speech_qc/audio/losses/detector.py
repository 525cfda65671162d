"""Cuts streams into the pieces that a bank examines, and examines those of many streams together.

One call costs little more for many streams than for one. A stream's piece waits until one of the streams that share the
bank needs its losses; then all pieces that wait are examined. What is found does not depend on which those are.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.losses.bank import LossBank
from speech_qc.audio.losses.grid import Loss

POOL_ROWS = 64
"""Streams in one bank of a pool; more in one call save little."""

Float32 = NDArray[np.float32]


class LossPool:
    """Lets streams share banks, so that their pieces are examined together; used by one thread."""

    def __init__(self) -> None:
        self._banks: dict[int, list[_SharedBank]] = {}

    def bank(self, rate_hz: int) -> _SharedBank:
        """Return a bank with a free row.

        Raises:
            InvalidAudio: The rate is not supported.
        """
        banks = self._banks.setdefault(rate_hz, [])
        for bank in banks:
            bank.reclaim()
            if bank.free:
                return bank
        banks.append(_SharedBank(rate_hz, POOL_ROWS))
        return banks[-1]


class _SharedBank:
    """A bank, and the pieces of its streams that wait to be examined."""

    def __init__(self, rate_hz: int, rows: int) -> None:
        self.bank = LossBank(rate_hz, rows)
        self.piece = self.bank.grid.piece
        self.free = list(range(rows))
        self.abandoned: deque[int] = deque()  # rows whose streams are gone; any thread may append
        self.found: dict[int, list[Loss]] = {}  # by row, not collected yet
        self.waiting: dict[int, Float32] = {}  # pieces that wait, by row
        self._alone = rows == 1

    def add(self, row: int, piece: Float32) -> None:
        """Take the next piece of a stream; it belongs to the bank from now on."""
        if row in self.waiting:
            self.examine()
        self.waiting[row] = piece

    def examine(self, lengths: NDArray[np.int64] | None = None) -> None:
        """Examine all pieces that wait; `lengths` as for `LossBank.push`."""
        rows, pieces = list(self.waiting), np.stack(list(self.waiting.values()))
        self.waiting.clear()
        for place, loss in self.bank.push(pieces, None if self._alone else np.array(rows), lengths):
            self.found.setdefault(rows[place], []).append(loss)

    def collect(self, row: int) -> list[Loss]:
        """Return what was found in a stream since the last call."""
        if row in self.waiting:
            self.examine()
        return self.found.pop(row, []) if self.found else []

    def reclaim(self) -> None:
        """Free the rows whose streams are gone."""
        while self.abandoned:
            row = self.abandoned.popleft()
            self.collect(row)
            self.bank.reset(row)
            self.free.append(row)


class LossDetector:
    """Finds the losses of one channel as a stream, at its native rate; owned by one session, not thread-safe.

    Args:
        rate_hz: Sample rate of the input.
        pool: Shares the work with other streams of the same thread; None to work alone.

    Raises:
        InvalidAudio: The rate is not supported.
    """

    def __init__(self, rate_hz: int, pool: LossPool | None = None) -> None:
        self._bank = _SharedBank(rate_hz, 1) if pool is None else pool.bank(rate_hz)
        self._row = self._bank.free.pop()
        self._piece = np.empty(self._bank.piece, np.float32)
        self._filled = 0
        self._pieces = 0
        self.known: int | None = None
        """Sample with which the piece that waits ends: whatever is found in it becomes known there."""

    def __del__(self) -> None:
        """Give the row back."""
        if hasattr(self, "_row"):  # absent if the rate was refused
            self._bank.abandoned.append(self._row)

    def push(self, samples: Float32) -> None:
        """Accept the next samples.

        Args:
            samples: float32 [n], finite, any n.
        """
        size = self._bank.piece
        while len(samples):
            count = min(size - self._filled, len(samples))
            self._piece[self._filled : self._filled + count] = samples[:count]
            self._filled += count
            samples = samples[count:]
            if self._filled == size:
                self._bank.add(self._row, self._piece)
                self._piece, self._filled = np.empty(size, np.float32), 0
                self._pieces += 1
                if self.known is None:
                    self.known = self._pieces * size

    def collect(self) -> list[Loss]:
        """Return the losses that became known since the last call."""
        self.known = None
        return self._bank.collect(self._row)

    def finish(self) -> list[Loss]:
        """End the stream and return the last losses; a gap that is still open is none."""
        found = self.collect()
        bank, rest, filled = self._bank, self._piece, self._filled
        rest[filled:] = 0.0
        for samples, length in ((rest, filled), (np.zeros_like(rest), filled - bank.piece)):
            if bank.waiting:
                bank.examine()
            bank.add(self._row, samples)
            bank.examine(np.array([length]))
            found += self.collect()
        return found
