"""State of many channels as arrays with one row per channel: a step advances all of its channels in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from speech_qc.scoring.reading import ScoreBatch, ScoreBlock

NEVER = 2**62
"""A frame that no stream reaches."""

Places = npt.NDArray[np.intp]
"""Rows of the channels of a step, [B], all different."""


def alone(block: ScoreBlock) -> ScoreBatch:
    """Return a step of one channel."""
    return ScoreBatch(
        block.scores[None],
        block.shown[None],
        [block.reached],
        [block.fallen],
        [block.highest],
        block.totals[None],
        [block.made_text],
    )


def block_of(batch: ScoreBatch, place: int) -> ScoreBlock:
    """Return one channel's block of a step, without making those of the others."""
    return ScoreBlock(
        batch.scores[place],
        batch.shown[place],
        batch.reached[place],
        batch.fallen[place],
        batch.highest[place],
        batch.totals[place],
        batch.texts[place],
    )


def chosen(batch: ScoreBatch, places: Sequence[int]) -> ScoreBatch:
    """Return some channels of a step."""
    return ScoreBatch(
        batch.scores[places],
        batch.shown[places],
        [batch.reached[place] for place in places],
        [batch.fallen[place] for place in places],
        [batch.highest[place] for place in places],
        batch.totals[places],
        [batch.texts[place] for place in places],
    )


class Column(NamedTuple):
    """One array: the shape of a row, its type, and what a new channel begins with."""

    shape: tuple[int, ...]
    dtype: type[Any]
    first: float = 0


class Rows:
    """The arrays of one part of a channel's state, each as an attribute of the column's name.

    Read them anew in every call: `resize` replaces them.

    Args:
        columns: By name.
        rows: Number of rows.
    """

    def __init__(self, columns: Mapping[str, Column], rows: int) -> None:
        self._columns = columns
        for name, column in columns.items():
            setattr(self, name, _filled(column, rows))

    def clear(self, row: int) -> None:
        """Set a row to the state of a new channel."""
        for name, column in self._columns.items():
            getattr(self, name)[row] = column.first

    def resize(self, rows: int) -> None:
        """Add new rows at the end, or remove the last ones."""
        for name, column in self._columns.items():
            old, new = getattr(self, name), _filled(column, rows)
            new[: len(old)] = old[:rows]
            setattr(self, name, new)


def _filled(column: Column, rows: int) -> npt.NDArray[Any]:
    shape = (rows, *column.shape)
    # Memory of `zeros` is taken only when it is written.
    return np.full(shape, column.first, column.dtype) if column.first else np.zeros(shape, column.dtype)
