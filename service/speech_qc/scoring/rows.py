"""State of many channels as arrays with one row per channel: a step advances all of its channels in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

NEVER = 2**62
"""A frame that no stream reaches."""

Places = npt.NDArray[np.intp]
"""Rows of the channels of a step, [B], all different."""


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
