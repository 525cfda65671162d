"""Finds gaps filled with fading copies at any distance: concealment that repeats pitch periods, as in G.711 Appendix I.

Such concealment takes its copies from anywhere in the last 60 ms, so every distance would have to be compared. That is
too much work for all sound, but these gaps end in a way of their own: the sound fades for tens of milliseconds and
resumes within a few. Only such places are examined. There, the sound of a gap is an exact copy of earlier sound whose
gain changes steadily; ordinary speech that fades is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.losses.grid import PIECE_BLOCKS, Float32, Grid, Loss, View
from speech_qc.audio.losses.tones import PURE_REST, REST, rest_of_tones

RISE = 4.0
"""Least ratio of the spread of two adjacent blocks where sound resumes."""

LOUD_DB = -26.0
"""Least spread of the sound that resumes, relative to the sound so far."""

FADED = 0.1
"""Highest spread before the sound resumes, relative to what it was 30 to 70 ms earlier."""

EXACT = 1e-4
"""Residual of a copy, as a share of its energy (−40 dB); some synthesised speech reaches −37 dB."""

MIN_COPIES = 3
"""Copied parts of 5 ms, among the last eight, of a loss."""

MAX_PARTS = 22
"""Parts of the longest loss, 110 ms; sound that matches for longer is periodic."""

_PART_BLOCKS = 2
_NEAREST_S, _FARTHEST_S = 0.0045, 0.062  # distances of copies
_FIRST = 3  # part that decides whether to go on
_AHEAD = 2  # blocks that the examination needs after the one in which the sound resumes
_NEARLY = 0.9  # of its energy that a source at a neighbouring distance, with a constant gain, explains of a copy
_TINY = 1e-12
_PAST = np.arange(-28, 0)  # blocks, 70 ms


class Fades:
    """Finds faded copies of some streams; keeps no state.

    Args:
        grid: Sizes.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._nearest, self._farthest = grid.samples(_NEAREST_S) // grid.step, grid.samples(_FARTHEST_S) // grid.step
        self._loud_factor = np.float32(10 ** (LOUD_DB / 20))

    def find(self, view: View, found: list[tuple[int, Loss]]) -> None:
        """Examine the places at which sound resumes `_AHEAD` blocks before the end of the view, or earlier.

        Args:
            view: The samples.
            found: Takes the losses, each with its row of the view.
        """
        start, stop = PIECE_BLOCKS - _AHEAD, 2 * PIECE_BLOCKS - _AHEAD
        own, later = view.spread[:, start:stop], view.spread[:, start + 1 : stop + 1]
        peak = np.maximum(own, later)
        resumes = peak >= np.float32(RISE) * view.spread[:, start - 1 : stop - 1]
        resumes &= peak >= self._loud_factor * view.reference[:, start:stop]
        if not resumes.any():
            return
        rows, blocks = resumes.nonzero()
        blocks += start
        faded = _fades(view.spread, rows, blocks)
        for row, block in zip(rows[faded].tolist(), blocks[faded].tolist(), strict=True):
            loss = self._judge(view, row, block)
            if loss is not None:
                found.append((row, loss))

    def _judge(self, view: View, row: int, block: int) -> Loss | None:
        """Examine the parts before the block in which sound resumes."""
        samples, size = view.samples[row], _PART_BLOCKS * self._grid.block
        end = (block - 1) * self._grid.block  # the last block before may hold a cross-fade

        def copied(part: int) -> bool:
            return self._is_copy(samples, end - (part + 1) * size, end - part * size)

        if not copied(_FIRST):
            return None
        beyond = [copied(MAX_PARTS), copied(MAX_PARTS + 1)]
        if all(beyond):
            return None  # periodic sound, of which every part is a copy
        parts = [copied(part) for part in range(MAX_PARTS)] + beyond
        if sum(parts[:8]) < MIN_COPIES:
            return None
        first = max(part for part in range(len(parts)) if parts[part] and any(parts[max(0, part - 3) : part]))
        if first >= MAX_PARTS:
            return None
        begin = end - (first + 1) * size
        offset, stop = int(view.first[row]), block * self._grid.block
        if offset + stop > view.ends[row]:
            return None
        rest = rest_of_tones(samples[begin : begin + 4 * size])
        if rest < PURE_REST:
            return None
        return Loss("faded", offset + begin, offset + stop, offset + 2 * self._grid.piece, tonal=rest < REST)

    def _is_copy(self, samples: Float32, start: int, stop: int) -> bool:
        """Say whether some samples are a copy of earlier ones with a steadily changing gain."""
        step = self._grid.step
        part = samples[start:stop:step].astype(np.float64)
        energy = float(part.dot(part))
        if energy <= _TINY * len(part):
            return False
        past = samples[start - self._farthest * step : stop - self._nearest * step : step].astype(np.float64)
        products = np.correlate(past, part, "valid")  # at the distance of (farthest - i) steps
        totals = np.concatenate(((0.0,), np.cumsum(past * past)))
        energies = totals[len(part) :] - totals[: -len(part)]
        match = np.maximum(products, 0.0) ** 2 / (energies + _TINY * len(part))
        highest = int(match.argmax())
        if match[highest] < _NEARLY * energy:
            return False
        best = self._farthest - highest
        return any(
            _residual(part, samples[start - lag : stop - lag : step].astype(np.float64)) < EXACT * energy
            for lag in range((best - 1) * step + 1, (best + 1) * step)
        )


def _fades(spread: Float32, rows: NDArray[np.intp], blocks: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Say whether the sound before each of these blocks has faded within the last 70 ms, but not at once."""
    past = spread[rows[:, None], blocks[:, None] + _PAST]
    full, middle, last = past[:, :16].max(axis=1), past[:, 20:24].max(axis=1), past[:, 24:27].max(axis=1)
    faded: NDArray[np.bool_] = past[:, 27] <= np.float32(FADED) * full
    faded &= (np.float32(0.05) * full <= middle) & (middle <= np.float32(0.75) * full)
    faded &= last <= np.float32(0.4) * full
    return faded


def _residual(part: NDArray[np.float64], source: NDArray[np.float64]) -> float:
    """Return the energy of a part that a source with a linearly changing gain does not explain."""
    ramp = source * np.linspace(-1.0, 1.0, len(source))
    a, b, c = float(source.dot(source)), float(source.dot(ramp)), float(ramp.dot(ramp))
    u, v = float(source.dot(part)), float(ramp.dot(part))
    determinant = a * c - b * b
    if determinant <= _TINY:
        return float(part.dot(part))
    return float(part.dot(part)) - (u * u * c - 2.0 * u * v * b + v * v * a) / determinant
