"""Measures channels at their own rate: levels and lost samples, many live channels in one call.

A channel's samples are cut into pieces at absolute positions. One call for the pieces of many channels costs little
more than for one, so a piece waits until one of the channels that share a bank needs its losses, or has no room for
more samples; then all pieces that wait are measured. What is found does not depend on which those are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.levels import ChannelLevels, LevelMeter, Levels
from speech_qc.audio.losses import Loss, LossBank
from speech_qc.audio.losses.bank import KEPT_BLOCKS

POOL_ROWS = 64
"""Channels in one bank of a pool; more in one call save little."""

SPARE = 4
"""One part in so many of a piece is the room for samples that follow a piece that waits."""

TOGETHER = 16
"""Pieces measured in one call: the intermediate arrays of more do not fit into the cache of a core."""

RUN, RUN_SAMPLES = 10, 65_536
"""Pieces of a channel alone, as of a recording, that are measured in one call, and most samples in them. A chunk of 4 s
completes 10 or 11 pieces; more samples do not fit into the cache of a core."""

_STEPS = np.float32(2**15)
"""Steps of 16-bit samples within full scale."""

_NOBODY = ChannelLevels(8_000)
"""Stands in the rows without a channel; never measured."""

Float32 = NDArray[np.float32]
OnPiece = Callable[[Float32, float], None]
"""Called with every full piece of a channel, float32 [n], valid only during the call, and its mean square."""


class MeterPool:
    """Lets channels share banks, so that their pieces are measured together; used by one thread."""

    def __init__(self) -> None:
        self._banks: dict[tuple[int, int, bool], list[_Bank]] = {}

    def bank(self, rate_hz: int, history: int, *, is_16_bit: bool) -> _Bank:
        """Return a bank with a free row.

        Args:
            rate_hz: Sample rate.
            history: See `_Bank`.
            is_16_bit: See `_Bank`.

        Raises:
            InvalidAudio: The rate is not supported.
        """
        banks = self._banks.setdefault((rate_hz, history, is_16_bit), [])
        for bank in banks:
            bank.reclaim()
        free = [bank for bank in banks if bank.free]
        for bank in free[1:]:
            if len(bank.free) == POOL_ROWS:
                banks.remove(bank)  # gives back the memory of a busy hour
        if not free:
            free.append(_Bank(rate_hz, POOL_ROWS, history, is_16_bit=is_16_bit))
            banks.append(free[0])
        return free[0]


class _Bank:
    """Pieces of several channels at one rate, and what measures them.

    Args:
        rate_hz: Sample rate.
        rows: Number of channels.
        history: Samples of each that are kept after they were measured.
        is_16_bit: All samples are multiples of 1/32768, which need half of the memory.
    """

    def __init__(self, rate_hz: int, rows: int, history: int, *, is_16_bit: bool = False) -> None:
        self.losses = LossBank(rate_hz, rows)
        self.piece = self.losses.grid.piece
        self.meter = LevelMeter(rate_hz, self.piece)
        self.run = max(1, min(RUN, RUN_SAMPLES // self.piece)) if rows == 1 else 1
        pieces = self.run + 2 if rows == 1 else 1  # so that no chunk completes more than there is room for
        self.room = pieces * self.piece + self.piece // SPARE
        self.history = history
        self._kept = KEPT_BLOCKS * self.losses.grid.block  # samples before a piece that the search for losses needs
        # Of a channel alone, the whole piece before is kept, so that nothing is copied to put it before the next one.
        self._before = max(history, self.piece if rows == 1 else self._kept)
        self._memory = np.zeros((rows, self._before + self.room), np.int16 if is_16_bit else np.float32)
        self._samples = self._memory[:, self._before :]
        self._is_16_bit = is_16_bit
        self.filled = [0] * rows
        """Samples of each row; those after pieces that wait follow them."""
        self.levels = [_NOBODY] * rows
        self.on_piece: list[OnPiece | None] = [None] * rows
        self.free = list(range(rows))
        self.abandoned: deque[int] = deque()  # rows whose channels are gone; any thread may append
        self.found: dict[int, list[Loss]] = {}  # by row, not collected yet
        self.waiting: list[int] = []  # rows with a full piece
        self.examined = 0  # pieces of a channel alone whose losses were sought, but whose levels are not measured yet

    def measure(self) -> None:
        """Measure all pieces that wait; of a channel alone, the levels wait until its run is complete."""
        rows, self.waiting = self.waiting, []
        if len(self._samples) == 1:
            self._examine()
            if self.examined >= self.run:
                self.level()
            return
        for start in range(0, len(rows), TOGETHER):
            self._measure(rows[start : start + TOGETHER])

    def _measure(self, rows: list[int]) -> None:
        samples = self._with_past(rows)
        for place, loss in self.losses.push(samples, np.array(rows)):
            self.found.setdefault(rows[place], []).append(loss)
        self._level(rows, samples[:, self.piece :])
        for row in rows:
            self._drop(row, self.piece)

    def put(self, row: int, start: int, samples: Float32, *, bridge: bool) -> None:
        """Keep samples of a row; of 16 bits, those of a bridge are rounded, and no other ones need it."""
        own = self._samples[row, start : start + len(samples)]
        if not self._is_16_bit:
            own[...] = samples
        elif bridge:
            own[...] = np.clip(np.rint(samples * _STEPS), -_STEPS, _STEPS - 1)
        else:
            np.multiply(samples, _STEPS, out=own, casting="unsafe")

    def first(self, row: int, count: int) -> Float32:
        """Return the first samples of a row that are not measured, float32 [count]; valid until more are pushed."""
        return self._floats(self._samples[row, :count])

    def _floats(self, kept: NDArray[np.int16] | Float32) -> Float32:
        return np.asarray(kept / _STEPS if self._is_16_bit else kept, np.float32)

    def _with_past(self, rows: list[int]) -> Float32:
        """Return the pieces that wait behind what is kept of those before them, float32 [R, 2 * piece]; a copy."""
        samples = np.zeros((len(rows), 2 * self.piece), np.float32)
        own = samples[:, self.piece - self._kept :]
        for place, row in enumerate(rows):
            own[place] = self._memory[row, self._before - self._kept : self._before + self.piece]
        if self._is_16_bit:
            own *= 1 / _STEPS
        return samples

    def _drop(self, row: int, count: int) -> None:
        """Drop the first samples of a row, but for its history."""
        rest = self.filled[row] = self.filled[row] - count
        kept = self._before + rest
        self._memory[row, :kept] = self._memory[row, count : count + kept]

    def _run(self, start: int, stop: int) -> Float32:
        """Return some pieces of a channel alone, float32 [stop - start, piece]."""
        return self._samples[0, start * self.piece : stop * self.piece].reshape(-1, self.piece)

    def _examine(self) -> None:
        """Seek losses in the new pieces of a channel alone."""
        full = self.filled[0] // self.piece
        if self.examined < full:
            width = self._memory.itemsize
            behind = (self._before + (self.examined - 1) * self.piece) * width
            shape, strides = (full - self.examined, 2 * self.piece), (self.piece * width, width)
            samples: Float32 = np.ndarray(shape, np.float32, self._memory, behind, strides)
            self.examined = full
            for _, loss in self.losses.push(samples):
                self.found.setdefault(0, []).append(loss)

    def level(self) -> None:
        """Measure the levels of a channel alone up to its last full piece."""
        if len(self._samples) > 1:
            return
        self._examine()
        count, self.examined = self.examined, 0
        if count:
            self._level([0] * count, self._run(0, count))
            self._drop(0, count * self.piece)

    def _level(self, rows: list[int], pieces: Float32) -> None:
        squares = self.meter.add([self.levels[row] for row in rows], pieces, self.piece)
        for row, piece, square in zip(rows, pieces, squares, strict=True):
            if (on_piece := self.on_piece[row]) is not None:
                on_piece(piece, square)

    def last(self, row: int, count: int) -> Float32:
        """Return the last samples of a channel, at most `history` of them; valid until more are pushed."""
        stop = self._before + self.filled[row]
        return self._floats(self._memory[row, stop - count : stop])

    def finish(self, rows: list[int]) -> None:
        """Measure the last pieces of some channels, which are not full."""
        if not set(rows).isdisjoint(self.waiting):
            self.measure()
        self.level()
        for start in range(0, len(rows), TOGETHER):
            self._finish(rows[start : start + TOGETHER])

    def _finish(self, rows: list[int]) -> None:
        lengths = np.array([self.filled[row] for row in rows])
        samples = self._with_past(rows)
        pieces = samples[:, self.piece :]
        pieces[np.arange(self.piece) >= lengths[:, None]] = 0.0
        for length in set(lengths.tolist()) - {0}:
            alike = np.flatnonzero(lengths == length)
            self.meter.add([self.levels[rows[place]] for place in alike], pieces[alike], length)
        after = np.concatenate((pieces, np.zeros_like(pieces)), axis=1)
        for last, ends in ((samples, lengths), (after, lengths - self.piece)):
            for place, loss in self.losses.push(last, np.array(rows), ends):
                self.found.setdefault(rows[place], []).append(loss)
        for row in rows:
            self.filled[row] = 0

    def reclaim(self) -> None:
        """Free the rows whose channels are gone."""
        while self.abandoned:
            row = self.abandoned.popleft()
            if row in self.waiting:
                self.waiting.remove(row)
            self.found.pop(row, None)
            self.levels[row], self.on_piece[row], self.filled[row] = _NOBODY, None, 0
            self._memory[row] = 0
            self.losses.reset(row)
            self.free.append(row)


class _LevelsApart:
    """The levels of a channel whose losses are sought in more than its received sound; alone, so at a higher cost."""

    def __init__(self, bank: _Bank, levels: ChannelLevels, on_piece: OnPiece | None, samples: Float32) -> None:
        self._meter, self.levels, self._on_piece = bank.meter, levels, on_piece
        self.piece = np.zeros((1, bank.piece), np.float32)
        self.filled = len(samples)
        self.piece[0, : self.filled] = samples

    def push(self, samples: Float32) -> None:
        """Accept the next received samples."""
        size = self.piece.shape[1]
        while len(samples):
            stop = min(size, self.filled + len(samples))
            self.piece[0, self.filled : stop] = samples[: stop - self.filled]
            samples, self.filled = samples[stop - self.filled :], stop
            if self.filled == size:
                self.filled = 0
                squares = self._meter.add([self.levels], self.piece, size)
                if self._on_piece is not None:
                    self._on_piece(self.piece[0], squares[0])


class ChannelMeter:
    """Measures one channel as a stream, at its own rate; owned by one session, not thread-safe.

    Args:
        rate_hz: Sample rate.
        on_piece: Called with every full piece.
        pool: Shares the work with other channels of the same thread; None to work alone.
        history: Samples to keep for `last`.
        is_16_bit: All samples but bridges are multiples of 1/32768 within full scale; halves the memory in a pool.

    Raises:
        InvalidAudio: The rate is not supported.
    """

    def __init__(
        self,
        rate_hz: int,
        on_piece: OnPiece | None = None,
        pool: MeterPool | None = None,
        history: int = 0,
        *,
        is_16_bit: bool = False,
    ) -> None:
        self._rate_hz = rate_hz
        self._bank = bank = (
            _Bank(rate_hz, 1, history) if pool is None else pool.bank(rate_hz, history, is_16_bit=is_16_bit)
        )
        self._row = bank.free.pop()
        self._levels = bank.levels[self._row] = ChannelLevels(rate_hz)
        bank.on_piece[self._row] = on_piece
        self._apart: _LevelsApart | None = None
        self._pieces = 0
        self._ended = False
        self.samples = 0
        """Samples so far."""
        self.known: int | None = None
        """Sample with which the piece that waits ends: whatever is found in it becomes known there."""

    def __del__(self) -> None:
        """Give the row back."""
        if hasattr(self, "_row"):  # absent if the rate was refused
            self._bank.abandoned.append(self._row)

    def push(self, samples: Float32, *, bridge: bool = False) -> None:
        """Accept the next samples.

        Args:
            samples: float32 [n], finite, any n.
            bridge: They fill a gap: nothing is lost where they begin and end, and they are in no level.
        """
        bank, row = self._bank, self._row
        if bridge and self._apart is None:
            self._apart = self._take_levels()
        elif self._apart is not None and not bridge:
            self._apart.push(samples)
        self.samples += len(samples)
        while len(samples):
            if bank.filled[row] == bank.room:
                bank.measure()
            filled = bank.filled[row]
            stop = bank.filled[row] = min(bank.room, filled + len(samples))
            bank.put(row, filled, samples[: stop - filled], bridge=bridge)
            samples = samples[stop - filled :]
            full = stop // bank.piece - filled // bank.piece
            if full:
                if self.known is None:
                    self.known = (self._pieces + 1) * bank.piece
                self._pieces += full
                bank.waiting.append(row)

    @property
    def piece_samples(self) -> int:
        """Samples of a piece."""
        return self._bank.piece

    def last(self, count: int) -> Float32:
        """Return the last samples, at most `count` and `history`; valid until the next `push`."""
        return self._bank.last(self._row, min(count, self.samples, self._bank.history))

    def collect(self) -> list[Loss]:
        """Return the losses that became known since the last call."""
        self.known = None
        self._measure()
        return self._bank.found.pop(self._row, []) if self._bank.found else []

    def finish(self) -> list[Loss]:
        """End the stream and return the last losses; a gap that is still open is none."""
        if not self._ended:
            measure_ends([self])
        return self.collect()

    def result(self) -> Levels:
        """Return the levels of everything pushed so far; the stream may continue."""
        self._measure()
        self._bank.level()
        meter, levels, filled = self._bank.meter, self._levels, self._bank.filled[self._row]
        samples = self._bank.first(self._row, filled)
        if self._apart is not None:
            filled, samples = self._apart.filled, self._apart.piece[0]
        if filled:
            levels, rest = levels.copy(), np.zeros((1, self._bank.piece), np.float32)
            rest[0, :filled] = samples[:filled]
            meter.add([levels], rest, filled)
        return meter.result(levels)

    def _take_levels(self) -> _LevelsApart:
        """Measure the levels apart from now on; the row goes on with levels that nobody asks for."""
        self._measure()
        bank, row = self._bank, self._row
        bank.level()
        on_piece, bank.on_piece[row] = bank.on_piece[row], None
        bank.levels[row] = ChannelLevels(self._rate_hz)
        return _LevelsApart(bank, self._levels, on_piece, bank.first(row, bank.filled[row]))

    def _measure(self) -> None:
        """Measure the pieces that wait, if there are any, together with all others, and find all losses so far."""
        if self._row in self._bank.waiting:
            self._bank.measure()


def measure_ends(meters: Iterable[ChannelMeter]) -> None:
    """Measure the last samples of channels, those of a pool together; nothing but their `finish` may follow."""
    banks: dict[_Bank, list[int]] = {}
    for meter in meters:
        banks.setdefault(meter._bank, []).append(meter._row)
        meter._ended = True
    for bank, rows in banks.items():
        bank.finish(rows)
