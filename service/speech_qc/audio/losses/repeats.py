"""Finds gaps filled with earlier sound: packets that concealment replaced by copies of the last one.

A copy at the distance of a packet, scaled by any gain, is exact; the most regular vowel differs more from one period to
the next. The match must begin abruptly: sound that is periodic, such as a tone or a hum, matches before as
well. A copy is often faded, and silence may follow until the sound resumes.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from speech_qc.audio.losses.grid import PIECE_BLOCKS, Float32, Grid, Loss, Rows, View
from speech_qc.audio.losses.tones import PURE_REST, REST, rest_of_tones
from speech_qc.wire.vocabulary import LossKind

EXACT = 0.992
"""Squared correlation of a block with its source from which it is a copy (−21 dB); re-coded µ-law reaches 0.999."""

SURE = 0.998
"""Median of the same in a loss that lasts no multiple of 10 ms, or whose end is not found."""

DIFFERENT = 0.95
"""Squared correlation below which a block is no copy."""

MIN_BLOCKS = 7
"""Consecutive copied blocks of a loss; a packet of 20 ms covers 7 blocks whatever its alignment."""

MAX_BLOCKS = 50
"""Longest concealment, 125 ms; concealment falls silent after 60 to 120 ms."""

GAINS = (0.1, 1.15)
"""Least and highest gain of a copy."""

LOUD_DB = -24.0
"""Spread of a source relative to the sound so far."""

MUTE_DB = -36.0
"""Spread relative to the sound so far below which a block after a copy is muted."""

FADED_DB = -14.0
"""Level of the end of a copy relative to its start from which the sound has faded."""

_LENGTH_TOLERANCE = 0.05  # of 10 ms
_BRIDGE = 2  # blocks that a step of the gain may spoil
_EDGE_RESIDUAL = 0.1  # of a copy, relative to its level
_TINY = np.float32(1e-20)
_MEAN_WEIGHT = np.float32(0.44)  # of a new piece
_BEFORE = 2  # blocks before a copy that show its abrupt begin
_PAST = MAX_BLOCKS + _BEFORE  # blocks of the last piece whose correlation is needed again
_TESTED = np.arange(0, PIECE_BLOCKS, MIN_BLOCKS)  # blocks of a piece: one of them is in any run of `MIN_BLOCKS`
_LAST_TESTED = PIECE_BLOCKS - MAX_BLOCKS + MIN_BLOCKS - 1  # in a loss that begins early enough to be examined
_NEARLY_EXACT = np.float32(EXACT - 1e-3)  # room for rounding


class Repeats:
    """Finds concealed packets of some streams; one state per stream.

    Args:
        grid: Sizes.
        streams: Number of streams S.
    """

    def __init__(self, grid: Grid, streams: int) -> None:
        self._grid = grid
        self._mean = np.zeros((streams, 1), np.float32)
        self._hit = np.zeros(streams, np.bool_)  # whether one of the last `MAX_BLOCKS` tested blocks is copied
        self._loud_factor = np.float32(10 ** (LOUD_DB / 20))
        self._shift, self._between = divmod(grid.unit, grid.block)  # blocks from one lag to the next
        self._reach = -(-grid.lags * grid.unit // grid.block)  # blocks before a block that are sources

    def reset(self, row: int) -> None:
        """Forget a stream."""
        self._mean[row], self._hit[row] = 0.0, False

    def find(self, rows: Rows, view: View, found: list[tuple[int, Loss]]) -> None:
        """Examine copies that begin `MAX_BLOCKS` blocks before the end of the view, or earlier.

        Args:
            rows: The stream of each row of the view, [R].
            view: The samples.
            found: Takes the losses, each with its row of the view.
        """
        size, start = self._grid.block // self._grid.step, _PAST + self._reach
        thin = view.samples[:, (PIECE_BLOCKS - start) * self._grid.block :: self._grid.step].copy()
        loud = self._loud(view.spread[:, PIECE_BLOCKS:], view.reference[:, PIECE_BLOCKS:])
        before, after = self._means(rows, thin[:, start * size :].mean(axis=1, keepdims=True), loud)
        suspect = np.flatnonzero(self._test(rows, thin, after, loud))
        if not len(suspect):
            return
        was_loud = self._loud(view.spread[suspect, :PIECE_BLOCKS], view.reference[suspect, :PIECE_BLOCKS])
        match = np.empty((len(suspect), self._grid.lags, _PAST + PIECE_BLOCKS), np.float32)
        self._correlate(thin[suspect, : start * size], before[suspect], was_loud, match[:, :, :_PAST])
        self._correlate(thin[suspect, _PAST * size :], after[suspect], loud[suspect], match[:, :, _PAST:])
        exact = match[:, :, : _BEFORE + PIECE_BLOCKS + MIN_BLOCKS - 1] >= np.float32(EXACT)
        two = exact[:, :, _BEFORE:-1] & exact[:, :, _BEFORE + 1 :]
        four = two[:, :, :-2] & two[:, :, 2:]
        runs: NDArray[np.bool_] = np.logical_and(four[:, :, :-3], four[:, :, 3:])  # of `MIN_BLOCKS`, by first block
        runs &= ~exact[:, :, _BEFORE - 1 : _BEFORE - 1 + PIECE_BLOCKS]
        runs &= match[:, :, :PIECE_BLOCKS] < np.float32(DIFFERENT)
        padding = np.zeros(PIECE_BLOCKS - _PAST, np.float32)
        for place, block, lag in np.argwhere(runs.transpose(0, 2, 1)).tolist():
            own, row = np.concatenate((padding, match[place, lag])), int(suspect[place])
            loss = self._judge(view, row, lag, PIECE_BLOCKS - MAX_BLOCKS + block, own)
            if loss is not None:
                found.append((row, loss))

    def _loud(self, spread: Float32, reference: Float32) -> NDArray[np.bool_]:
        """Say which pieces contain loud sound, [R]."""
        loud: NDArray[np.bool_] = np.logical_or.reduce(spread >= reference * self._loud_factor, axis=1)
        return loud

    def _means(self, rows: Rows, level: Float32, loud: NDArray[np.bool_]) -> tuple[Float32, Float32]:
        """Return the slow mean of each row's stream before and after a piece of this mean, all [R, 1]."""
        before = self._mean[rows]
        if len(before) == len(level):
            after = np.where(loud[:, None], before + _MEAN_WEIGHT * (level - before), before)
            self._mean[rows] = after
            return before, after
        means = [before[0, 0]]  # consecutive pieces of one stream
        for value, is_loud in zip(level[:, 0], loud.tolist(), strict=True):
            means.append(means[-1] + _MEAN_WEIGHT * (value - means[-1]) if is_loud else means[-1])
        every = np.array(means, np.float32)[:, None]
        self._mean[rows] = every[-1:]
        return every[:-1], every[1:]

    def _test(self, rows: Rows, thin: Float32, mean: Float32, loud: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say in which views a loss is possible, [R]: every loss contains a tested block, which must be copied.

        Args:
            rows: The stream of each row of the view, [R].
            thin: The compared samples, up to the end of the view, [R, n].
            mean: Slow mean of each new piece, [R, 1].
            loud: Whether it contains loud sound, [R].
        """
        hits = self._hits(thin, mean)
        hits &= loud[:, None]
        suspect: NDArray[np.bool_] = np.logical_or.reduce(hits[:, _TESTED <= _LAST_TESTED], axis=1)
        there: NDArray[np.bool_] = np.logical_or.reduce(hits[:, _TESTED >= PIECE_BLOCKS - MAX_BLOCKS], axis=1)
        before = self._hit[rows]
        suspect[: len(before)] |= before
        suspect[len(before) :] |= there[: len(there) - len(before)]
        self._hit[rows] = there[-len(before) :]
        return suspect

    def _hits(self, thin: Float32, mean: Float32) -> NDArray[np.bool_]:
        """Say which of the tested blocks are copied at any lag, [R, len(_TESTED)]."""
        size, unit = self._grid.block // self._grid.step, self._grid.unit // self._grid.step
        row, item = thin.strides
        shape = len(thin), self._grid.lags + 1, len(_TESTED), size
        strides = row, -unit * item, MIN_BLOCKS * size * item, item
        # Each tested block and the sound one, two, … units before it.
        blocks = as_strided(thin[:, -PIECE_BLOCKS * size :], shape, strides) - mean[:, :, None, None]
        product = np.einsum("rbk,rlbk->rlb", blocks[:, 0], blocks[:, 1:])
        energy = np.einsum("rlbk,rlbk->rlb", blocks, blocks)
        energy += _TINY
        least = energy[:, 1:] * (energy[:, :1] * _NEARLY_EXACT)
        hits: NDArray[np.bool_] = np.logical_or.reduce(product * np.abs(product) >= least, axis=1)
        return hits

    def _correlate(self, thin: Float32, mean: Float32, loud: NDArray[np.bool_], match: Float32) -> None:
        """Compute the squared correlation of blocks with the sound at each lag.

        A block whose gain would be negative, or far from that of a copy, has 0; so has a piece without loud sound.

        Args:
            thin: The compared samples of the blocks and of those that are their sources, [R, n].
            mean: What to subtract from the samples of each row, [R, 1].
            loud: Whether the piece contains loud sound, [R].
            match: float32 [R, lags, blocks], filled.
        """
        grid, reach, blocks = self._grid, self._reach, match.shape[2]
        size, unit = grid.block // grid.step, grid.unit // grid.step
        thin = thin - mean
        row, item = thin.strides
        count, half = len(thin), reach * size
        new = thin[:, half:].reshape(count, blocks, size)
        sources = np.ndarray(  # the sound one, two, … units before each block
            (count, grid.lags, blocks, size),
            np.float32,
            thin.data,
            (half - unit) * item,
            (row, -unit * item, size * item, item),
        )
        product = np.einsum("rbk,rlbk->rlb", new, sources)
        every = thin.reshape(count, -1, size)
        energies = np.einsum("rbk,rbk->rb", every, every)
        energies += _TINY
        if self._between:  # sources lie between blocks
            source_energy = np.einsum("rlbk,rlbk->rlb", sources, sources)
            source_energy += _TINY
        else:
            row, item = energies.strides
            shift = self._shift * item
            source_energy = np.ndarray(
                match.shape, np.float32, energies.data, reach * item - shift, (row, -shift, item)
            )
        gain = product / source_energy
        np.multiply(gain, product, out=match)
        match /= energies[:, None, reach:]
        other = gain < GAINS[0]
        other |= gain > GAINS[1]
        np.copyto(match, 0.0, where=other)
        if not loud.all():
            match[~loud] = 0.0

    def _judge(self, view: View, row: int, lag_index: int, block: int, match: Float32) -> Loss | None:
        """Follow a run of copied blocks to its end and say whether it is a loss."""
        grid, lag = self._grid, self._grid.unit * (lag_index + 1)
        copied = match >= np.float32(EXACT)
        last = block + MIN_BLOCKS - 1
        limit = min(block + MAX_BLOCKS, 2 * PIECE_BLOCKS) - 1
        while last < limit and copied[last + 1 : last + 2 + _BRIDGE].any():
            last += 1
        while not copied[last]:
            last -= 1
        if last >= limit or match[last + 1 : last + 2 + _BRIDGE].min() >= DIFFERENT:
            return None  # it has no abrupt end, so it is periodic sound
        if (view.spread[row, block:last] < view.reference[row, block:last] * np.float32(10 ** (LOUD_DB / 20))).all():
            return None
        samples = view.samples[row]
        rest = rest_of_tones(samples[block * grid.block - lag : (block + MIN_BLOCKS) * grid.block - lag])
        if rest < PURE_REST:
            return None
        first = _first_copied(samples, block, lag, grid)
        stop = _first_other(samples, last, lag, grid)
        muted = view.spread[row, last + 1 :] <= view.reference[row, last + 1 :] * np.float32(10 ** (MUTE_DB / 20))
        faded = True
        if len(muted) > 1 and muted[1]:
            sounding = np.flatnonzero(~muted[1:])
            stop = (last + 2 + (int(sounding[0]) if len(sounding) else len(muted) - 1)) * grid.block
        elif float(view.spread[row, last]) >= 10 ** (FADED_DB / 20) * float(view.spread[row, block]):
            faded = False
            if not self._is_packets(stop - first) and np.median(match[block:last]) < SURE:
                return None
        offset = int(view.first[row])
        if offset + stop > view.ends[row]:
            return None
        kind: LossKind = "faded" if faded else "repeated"
        known = offset + 2 * grid.piece
        return Loss(kind, offset + first, offset + stop, known, tonal=rest < REST)

    def _is_packets(self, length: int) -> bool:
        """Say whether a gap lasts a multiple of 10 ms."""
        unit = self._grid.rate_hz / 100
        return abs(length - unit * round(length / unit)) <= _LENGTH_TOLERANCE * unit


def _gain(samples: Float32, start: int, stop: int, lag: int) -> float:
    copy, source = samples[start:stop].astype(np.float64), samples[start - lag : stop - lag].astype(np.float64)
    return float(copy.dot(source) / max(source.dot(source), 1e-12))


def _residual(samples: Float32, start: int, stop: int, lag: int, gain: float) -> NDArray[np.bool_]:
    """Say which samples differ from their scaled source."""
    copy, source = samples[start:stop], samples[start - lag : stop - lag]
    scale = float(np.sqrt(np.mean(np.square(source, dtype=np.float64)))) * gain
    other: NDArray[np.bool_] = np.abs(copy - np.float32(gain) * source) > max(_EDGE_RESIDUAL * scale, 3.0 / 32768)
    return other


def _first_copied(samples: Float32, block: int, lag: int, grid: Grid) -> int:
    """Return the first copied sample of a run whose first wholly copied block is given."""
    start, stop = block * grid.block, (block + 1) * grid.block
    gain = _gain(samples, start, stop, lag)
    others = np.flatnonzero(_residual(samples, start - 2 * grid.block, start, lag, gain))
    return start - 2 * grid.block + int(others[-1]) + 1 if len(others) else start - 2 * grid.block


def _first_other(samples: Float32, block: int, lag: int, grid: Grid) -> int:
    """Return the first sample that is not copied after the last wholly copied block."""
    start, stop = block * grid.block, (block + 1) * grid.block
    gain = _gain(samples, start, stop, lag)
    others = np.flatnonzero(_residual(samples, stop, stop + grid.block, lag, gain))
    return stop + (int(others[0]) if len(others) else min(grid.block, len(samples) - stop))
