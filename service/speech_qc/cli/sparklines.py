"""Scores over time as lines of block characters, one per label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from speech_qc.contract import LABEL_CATALOG

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#@"
NO_VALUE = "·"
ASCII_NO_VALUE = "?"
MAX_COLUMNS = 120
TICK_COLUMNS = 10  # minimum distance of two times on the ruler
TICKS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
SNR_SHOWN_DB = (0.0, 40.0)
"""SNR shown as an empty and as a full block."""

_STYLES = {"speech": "cyan", "headline": "yellow", "noise": "yellow", "interference": "magenta", "impairment": "red"}


def sparkline_grid(
    frames: Mapping[str, NDArray[np.float32]], labels: Sequence[str], hop_s: float, width: int, ascii_only: bool
) -> Iterator[Text]:
    """Draw a sparkline per label, and a ruler of seconds below.

    Args:
        frames: Scores by label, float32 (M,), NaN for missing values.
        labels: Labels to draw.
        hop_s: Seconds between frames.
        width: Total number of columns; a column shows the mean of its frames.
        ascii_only: Draw without block characters.
    """
    names = {label: "snr_db 0–40" if label == "snr_db" else label for label in labels}
    margin = max((len(name) for name in names.values()), default=0) + 2
    total = len(frames[labels[0]]) if labels else 0
    columns = max(1, min(width - margin - 1, MAX_COLUMNS, total))
    if total == 0:
        return
    for label in labels:
        values = column_means(frames[label], columns)
        if label == "snr_db":
            low, high = SNR_SHOWN_DB
            values = (values - low) / (high - low)
        family = LABEL_CATALOG[label][0] if label in LABEL_CATALOG else ""  # a newer server may have more labels
        style = "magenta" if label == "interference" else _STYLES.get(family, "green")
        yield Text(names[label].ljust(margin)).append(blocks(values, ascii_only), style=style)
    yield Text(" " * margin + _ruler(columns, total * hop_s), style="dim")


def column_means(values: NDArray[np.float32], columns: int) -> NDArray[np.float64]:
    """Return the mean of the known values in each of `columns` equal intervals, float64; NaN if none is known.

    Args:
        values: float32 (M,), with M at least `columns`.
        columns: Number of intervals.
    """
    starts = (np.arange(columns) * len(values)) // columns
    known = np.isfinite(values)
    sums = np.add.reduceat(np.where(known, values, 0.0).astype(np.float64), starts)
    counts = np.add.reduceat(known.astype(np.int64), starts)
    return np.asarray(np.divide(sums, counts, out=np.full(columns, np.nan), where=counts > 0))


def blocks(values: NDArray[np.float64], ascii_only: bool = False) -> str:
    """Draw values from 0 to 1 as characters of increasing height; other values are clipped to that range."""
    heights = ASCII_BLOCKS if ascii_only else BLOCKS
    unknown = ASCII_NO_VALUE if ascii_only else NO_VALUE
    steps = np.rint(np.clip(np.nan_to_num(values), 0.0, 1.0) * (len(heights) - 1)).astype(int)
    return "".join(heights[step] if ok else unknown for step, ok in zip(steps, np.isfinite(values), strict=True))


def _ruler(columns: int, duration_s: float) -> str:
    """Return a line of times, each starting at its column."""
    per_column_s = duration_s / columns
    step_s = next((step for step in TICKS_S if step >= TICK_COLUMNS * per_column_s), TICKS_S[-1])
    line = ""
    for tick in range(int(duration_s / step_s) + 1):
        column = round(tick * step_s / per_column_s)
        text = f"{tick * step_s:g}s"
        if column < len(line) or column + len(text) > columns:
            continue
        line = line.ljust(column) + text
    return line
