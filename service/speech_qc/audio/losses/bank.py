"""Finds lost samples in many streams of one sample rate with a few NumPy calls per piece.

State is kept in arrays with one row per stream; memory is constant. Pieces lie at absolute positions, so what is found
does not depend on how the samples arrived, and no row depends on another one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.losses.fades import Fades
from speech_qc.audio.losses.grid import PIECE_BLOCKS, Float32, Grid, Loss, Rows, View, joined
from speech_qc.audio.losses.holes import SILENT_BLOCKS, Holes, Pauses
from speech_qc.audio.losses.repeats import Repeats

QUIETEST_REFERENCE = 0.1
"""Spread; sound that never exceeds it (a sine of −26 dBFS) is no speech, or so faint that its losses do not matter."""

REFERENCE_FALL_DB_PER_S = 4.0
"""Fall of the reference in a pause; it outlasts a sentence and follows a softer talker within seconds."""

KEPT_BLOCKS = 80
"""Blocks of the piece before that count, 0.2 s: a faded copy begins up to 48 blocks before the sound resumes, and its
source lies 62 ms before it."""

_QUIETEST, _HALF = np.float32(QUIETEST_REFERENCE), np.float32(0.5)
_NO_END = 2**62
_TRANSPOSED = 80  # samples; up to here, a transpose and extremes across all blocks take half as long as block by block
_PAIR = np.dtype(np.complex64)  # two samples, which are transposed together


class LossBank:
    """Finds the losses of several streams at one sample rate. Not thread-safe.

    Args:
        rate_hz: Sample rate of all streams.
        streams: Number of streams S.

    Raises:
        InvalidAudio: The rate is not supported.
    """

    def __init__(self, rate_hz: int, streams: int = 1) -> None:
        self.grid = grid = Grid.of(rate_hz)
        self._streams = np.arange(streams)
        self._pieces = np.zeros(streams, np.int64)
        self._spread = np.zeros((streams, PIECE_BLOCKS), np.float32)
        self._middle = np.zeros((streams, PIECE_BLOCKS), np.float32)
        self._reference = np.full((streams, PIECE_BLOCKS), QUIETEST_REFERENCE, np.float32)
        self._pauses = Pauses(streams)
        self._holes = Holes(grid, streams, self._pauses)
        self._constants = Holes(grid, streams, self._pauses, constant=True)
        self._repeats = Repeats(grid, streams)
        self._fades = Fades(grid)
        self._until = np.zeros(streams, np.int64)  # end of the last loss
        self._starts = np.arange(0, grid.piece, grid.block)
        fall_db = REFERENCE_FALL_DB_PER_S * grid.block / grid.rate_hz
        self._rise = (10 ** (fall_db * np.arange(1, PIECE_BLOCKS + 1) / 20)).astype(np.float32)

    def push(
        self, samples: Float32, rows: NDArray[np.intp] | None = None, lengths: NDArray[np.int64] | None = None
    ) -> list[tuple[int, Loss]]:
        """Examine the next piece of some streams.

        Args:
            samples: Each piece behind the one before it, float32 [R, 2 * piece], finite. A last piece is padded with
                zeros; of the one before, only the last `KEPT_BLOCKS` blocks count, zeros before the first piece.
            rows: Streams that have a piece, each once, [R]; None for all of them, in order, without copying state. In a
                bank of one stream, these are any number of its consecutive pieces.
            lengths: Samples of each last piece before the padding, [R]; None if no piece is the last one.

        Returns:
            Losses that became known, each with its row of `samples`; ordered by row, then onset.

        Raises:
            ValueError: The number of pieces is not that of the streams.
        """
        chosen = slice(None) if rows is None else rows
        streams = self._streams[chosen]
        if len(streams) not in (1, len(samples)):
            raise ValueError(f"expected a piece of each of {len(streams)} streams, got {len(samples)}")
        view = self._view(chosen, samples, lengths)
        found: list[tuple[int, Loss]] = []
        self._find_holes(streams, view, found)
        self._repeats.find(chosen, view, found)
        self._fades.find(view, found)
        return self._new(streams, _disjoint(found)) if found else found

    def _find_holes(self, streams: NDArray[np.intp], view: View, found: list[tuple[int, Loss]]) -> None:
        """Find gaps, piece by piece: what a gap is depends on those before it."""
        holes = self._holes.survey(view)
        if holes is None:  # then nothing is constant either
            return
        constants = self._constants.survey(view)
        busy = holes.has_change
        if constants is not None:
            silent = np.count_nonzero(view.spread[:, PIECE_BLOCKS:] == 0.0, axis=1) >= SILENT_BLOCKS
            busy = busy | constants.has_change | silent
        for row in np.flatnonzero(busy).tolist():
            stream = int(streams[min(row, len(streams) - 1)])
            if constants is not None:
                self._pauses.silent[stream] |= silent[row]
                self._constants.find(stream, row, view, constants, found)
            self._holes.find(stream, row, view, holes, found)

    def reset(self, row: int) -> None:
        """Forget a stream, so that its row can serve another one."""
        self._pieces[row] = 0
        self._spread[row] = self._middle[row] = 0.0
        self._reference[row] = QUIETEST_REFERENCE
        self._pauses.reset(row)
        self._until[row] = 0
        self._holes.reset(row)
        self._constants.reset(row)
        self._repeats.reset(row)

    def _new(self, streams: NDArray[np.intp], found: list[tuple[int, Loss]]) -> list[tuple[int, Loss]]:
        """Drop what overlaps a loss that was returned before."""
        new = []
        for row, loss in found:
            stream = streams[min(row, len(streams) - 1)]
            if loss.start >= self._until[stream]:
                self._until[stream] = loss.stop
                new.append((row, loss))
        return new

    def _view(self, chosen: Rows, samples: Float32, lengths: NDArray[np.int64] | None) -> View:
        """Measure the blocks of each piece, join them to those before, and keep them for the next call."""
        grid, count = self.grid, len(samples)
        high, low = self._extremes(samples[:, grid.piece :])
        spread = high - low
        done = self._pieces[chosen]
        first = (done - 1 + (np.arange(count) if len(done) < count else 0)) * grid.piece
        self._pieces[chosen] += 1 + count - len(done)
        ends = np.full(count, _NO_END, np.int64) if lengths is None else first + grid.piece + lengths
        return View(
            grid=grid,
            first=first,
            samples=samples,
            spread=joined(self._spread, chosen, spread),
            middle=joined(self._middle, chosen, (high + low) * _HALF),
            reference=joined(self._reference, chosen, self._references(chosen, spread)),
            ends=ends,
        )

    def _references(self, chosen: Rows, spread: Float32) -> Float32:
        """Return the level of the sound up to each block, float32 [R, PIECE_BLOCKS]."""
        risen = np.empty((len(spread), PIECE_BLOCKS + 1), np.float32)
        np.multiply(spread, self._rise, out=risen[:, 1:])
        last = self._reference[chosen, -1]
        risen[: len(last), 0] = last
        if len(last) < len(spread):  # consecutive pieces of one stream
            level = last[0]
            for row, highest in enumerate(risen[:-1, 1:].max(axis=1), 1):
                risen[row, 0] = level = max(max(level, highest) / self._rise[-1], _QUIETEST)
        np.maximum.accumulate(risen, axis=1, out=risen)
        reference: Float32 = np.maximum(risen[:, 1:] / self._rise, _QUIETEST)
        return reference

    def _extremes(self, pieces: Float32) -> tuple[Float32, Float32]:
        """Return the highest and the lowest sample of each block, both float32 [R, PIECE_BLOCKS]."""
        block = self.grid.block
        if block > _TRANSPOSED:
            return np.maximum.reduceat(pieces, self._starts, axis=1), np.minimum.reduceat(pieces, self._starts, axis=1)
        blocks = pieces.reshape(len(pieces), PIECE_BLOCKS, block)
        if block % 2:
            samples = np.ascontiguousarray(blocks.transpose(2, 0, 1))
            return samples.max(axis=0), samples.min(axis=0)
        samples = np.ascontiguousarray(blocks.view(_PAIR).transpose(2, 0, 1)).view(np.float32)
        high, low = np.maximum.reduce(samples, axis=0), np.minimum.reduce(samples, axis=0)
        return np.maximum(high[:, ::2], high[:, 1::2]), np.minimum(low[:, ::2], low[:, 1::2])


def _disjoint(found: list[tuple[int, Loss]]) -> list[tuple[int, Loss]]:
    """Sort losses; of those that overlap keep one that is no tone, or the longer one."""
    kept: list[tuple[int, Loss]] = []
    for row, loss in sorted(found, key=lambda item: (item[0], item[1].start, -item[1].stop)):
        if kept and kept[-1][0] == row and loss.start < kept[-1][1].stop:
            last = kept[-1][1]
            if (not loss.tonal, loss.stop - loss.start) > (not last.tonal, last.stop - last.start):
                kept[-1] = (row, loss)
            continue
        kept.append((row, loss))
    return kept
