"""Plots of figures: reliability, detection-error trade-off, SNR error by true SNR. Requires matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 4
DET_LIMITS = (5e-4, 0.6)


def plot_report(document: Mapping[str, Any], out: Path) -> list[Path]:
    """Draw a report's figures, one set of PNG files per material.

    Args:
        document: The report data that `training.evaluate` writes as JSON.
        out: Existing folder.

    Returns:
        The files written.
    """
    from matplotlib.figure import Figure  # draws without a display, and without pyplot's global state

    written = []
    for number, material in enumerate(document["materials"], start=1):
        by_name = material["contenders"]
        labels = list(dict.fromkeys(label for figures in by_name.values() for label in figures.get("labels", {})))
        for kind, draw in (("det", _det), ("reliability", _reliability)):
            held = [
                label for label in labels if any(f.get("labels", {}).get(label, {}).get(kind) for f in by_name.values())
            ]
            if held:
                rows = -(-len(held) // COLUMNS)
                figure = Figure(figsize=(3.2 * COLUMNS, 3.0 * rows))
                edge = 0.5 / rows  # a constrained layout would draw everything several times to determine the margins
                figure.subplots_adjust(0.06, 0.35 * edge, 0.99, 1.0 - 0.2 * edge, wspace=0.3, hspace=0.4)
                axes = np.atleast_1d(figure.subplots(rows, COLUMNS)).ravel()
                for axis in axes[len(held) :]:
                    axis.set_axis_off()
                for axis, label in zip(axes, held, strict=False):
                    axis.set_title(label, fontsize=9)
                    draw(axis, {name: f["labels"].get(label, {}) for name, f in by_name.items() if "labels" in f})
                axes[0].legend(fontsize=7)
                written.append(_save(figure, out / f"{kind}-{number}.png"))
        errors = {n: f["snr_db"]["by_true_snr"] for n, f in by_name.items() if f.get("snr_db", {}).get("by_true_snr")}
        if errors:
            figure = Figure(figsize=(6.0, 3.5), layout="constrained")
            _snr(figure.subplots(), errors)
            written.append(_save(figure, out / f"snr-{number}.png"))
    return written


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path, dpi=110)
    return path


def _det(axis: Any, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Plot miss rate over false-positive rate, both logarithmic."""
    for colour, (name, row) in enumerate(rows.items()):
        points = np.array(row.get("det") or np.zeros((0, 2)))
        if len(points):
            axis.plot(*np.maximum(points, DET_LIMITS[0]).T, f"C{colour}", label=name, linewidth=1.2)
    axis.set(xscale="log", yscale="log", xlim=DET_LIMITS, ylim=DET_LIMITS)
    axis.set_xlabel("false positives", fontsize=8)
    axis.set_ylabel("misses", fontsize=8)
    axis.grid(alpha=0.3)


def _reliability(axis: Any, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Plot the share of positives over the mean score; the area of a marker is the share of frames."""
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=1.0)
    for colour, (name, row) in enumerate(rows.items()):
        bins = np.array(row.get("reliability") or np.zeros((0, 3)))
        if len(bins):
            axis.plot(bins[:, 0], bins[:, 1], f"C{colour}", label=name, linewidth=1.0)
            axis.scatter(bins[:, 0], bins[:, 1], s=4 + 150 * bins[:, 2], color=f"C{colour}")
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.set_xlabel("score", fontsize=8)
    axis.set_ylabel("share of positives", fontsize=8)


def _snr(axis: Any, errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Plot the mean absolute error in each range of the true SNR."""
    ranges = list(dict.fromkeys(name for row in errors.values() for name in row))
    for name, row in errors.items():
        held = [i for i, key in enumerate(ranges) if key in row]
        axis.plot(held, [row[ranges[i]]["error_db"] for i in held], marker="o", label=name)
    axis.set_xticks(range(len(ranges)), ranges, fontsize=8)
    axis.set_xlabel("true SNR, dB")
    axis.set_ylabel("mean absolute error, dB")
    axis.set_ylim(bottom=0.0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
