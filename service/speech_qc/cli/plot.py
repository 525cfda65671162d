"""Draws one channel of an inspected recording: the signal and its scores.

Waveform, spectrogram, scores, causes, SNR and events share one time axis. Needs matplotlib (`speech-qc[plot]`), which
is imported only when a picture is drawn. Does not depend on where the inspection ran.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import RawFormat
from speech_qc.cli.seams import CommandError
from speech_qc.cli.signal_views import RATE_HZ, Views, read_views
from speech_qc.cli.sparklines import TICKS_S, column_means
from speech_qc.contract import LABEL_CATALOG

SUFFIXES = (".png", ".svg", ".pdf")
DPI = 110
WIDTH_IN = 14.0

INK, MUTED, GRID = "#22303c", "#66737f", "#dfe4e8"
COLORS: Mapping[str, str] = {
    "speech": "#1f7a8c",
    "noise": "#d9772b",
    "interference": "#7a4ea3",
    "stationary_noise": "#c98a1b",
    "transient_noise": "#b5532a",
    "interfering_speech": "#5b4bb5",
    "music": "#a2509f",
    "tone": "#3f6fb5",
    "clipping": "#c0293b",
    "dropout": "#9c1f4f",
    "reverberation": "#5f7f3a",
    "snr_db": "#2f7d4f",
}
"""One colour per label: warm for noise, violet and blue for competing sounds, red and green for impairments."""
STATUS_COLORS = {"pass": "#2e8b57", "warn": "#d08a00", "fail": "#c0293b", "unknown": "#66737f"}
SEVERITY_ALPHA = {"minor": 0.45, "moderate": 0.72, "severe": 1.0}
HEADLINES = ("speech", "noise", "interference")
CAUSES = tuple(n for n, (family, _) in LABEL_CATALOG.items() if family in ("noise", "interference", "impairment"))
SPECTRUM_RANGE_DB = 75.0
MAX_POINTS = 1_600
"""Maximum points of a curve, to which frames are averaged, and columns of the heat map."""
MAX_BARS = 2_000
"""Maximum events drawn per channel; the longest ones if there are more."""
MAX_BOXES = 200
"""Maximum bands drawn over the spectrogram; those of the longest events if there are more."""
MAX_TICKS = 12
SNR_RANGE_DB = (-12.0, 48.0)

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.parse_math": False,  # a file name may contain dollar signs
    "svg.fonttype": "none",
}


def check_available(target: Path) -> None:
    """Check before the inspection that the picture can be drawn.

    Raises:
        CommandError: matplotlib is missing, or the picture's format is not one of `SUFFIXES`.
    """
    if target.suffix.lower() not in SUFFIXES:
        raise CommandError(f"--plot: expected a name ending in {', '.join(SUFFIXES)}, got {str(target)!r}")
    if find_spec("matplotlib") is None:
        raise CommandError("--plot needs matplotlib, which is not installed: pip install 'speech-qc[plot]'")


def plot_channel(
    path: Path,
    document: Mapping[str, Any],
    position: int,
    target: Path,
    *,
    mix: bool = False,
    raw: RawFormat | None = None,
) -> None:
    """Draw one channel to a file; the suffix chooses the format.

    Args:
        path: The recording; it is decoded again, in bounded memory.
        document: Result of its inspection, with scores as arrays float32 (M,), NaN for missing values.
        position: Index of the channel in the document.
        target: File to write.
        mix: The document's channel is the mean of all channels of the recording.
        raw: Format of audio without a header; None if the recording has one.

    Raises:
        ClientError: The file has changed since it was inspected.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    channel = document["channels"][position]
    duration_s = document["audio"]["duration_s"]
    views = read_views(path, None if mix else channel["channel"], duration_s, raw=raw)
    frames: Mapping[str, NDArray[np.float32]] = channel.get("frames", {})
    heads = [label for label in HEADLINES if label in frames]
    causes = [label for label in CAUSES if label in frames]
    rows = _event_rows(channel["events"])
    panels = [("wave", 1.25), ("spectrum", 2.1)]
    panels += [(label, 0.62) for label in heads]
    panels += [("causes", 0.25 * len(causes))] if causes else []
    panels += [("snr", 0.95)] if "snr_db" in frames else []
    panels += [("events", 0.28 * max(1, len(rows)) + 0.1)]
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a file name in a script the font lacks
        height_in = sum(height for _, height in panels) + 0.13 * len(panels) + 1.25
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor="white")
        grid = figure.add_gridspec(
            len(panels),
            1,
            height_ratios=[height for _, height in panels],
            left=0.15,
            right=0.975,
            top=1 - 0.8 / height_in,
            bottom=0.5 / height_in,
            hspace=0.13 * len(panels) / sum(height for _, height in panels),
        )
        axes: dict[str, Any] = {}
        for row, (name, _) in enumerate(panels):
            axes[name] = figure.add_subplot(grid[row], sharex=axes.get("wave"))
            _dress(axes[name], last=row == len(panels) - 1)
        _draw_sound(axes["wave"], axes["spectrum"], views)
        _draw_bands(axes["spectrum"], channel["events"], duration_s)
        for label in heads:
            _draw_score(axes[label], label, frames[label], duration_s)
        if causes:
            _draw_causes(axes["causes"], causes, frames, duration_s)
        if "snr" in axes:
            _draw_snr(axes["snr"], frames["snr_db"], duration_s, channel["summary"]["snr_db"])
        _draw_events(axes["events"], rows, duration_s)
        _draw_title(figure, path.name, document, position, height_in)
        axes["wave"].set_xlim(0, max(duration_s, 1e-3))
        step_s = next((step for step in TICKS_S if duration_s / step <= MAX_TICKS), TICKS_S[-1])
        axes["events"].xaxis.set_major_locator(MultipleLocator(step_s))
        axes["events"].xaxis.set_major_formatter(lambda seconds, _: _time_text(seconds, duration_s))
        figure.savefig(target, format=target.suffix.lower().lstrip("."))


def _dress(axis: Any, *, last: bool) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.grid(True, axis="x", color=GRID, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.tick_params(length=3, labelbottom=last, bottom=last)


def _name(axis: Any, text: str, color: str = INK) -> None:
    """Write a panel's name to its left, in one column for all panels."""
    axis.text(
        -0.168, 0.5, text, transform=axis.transAxes, ha="left", va="center", color=color, fontsize=10, fontweight="bold"
    )


def _draw_sound(wave: Any, spectrum: Any, views: Views) -> None:
    times_s = (np.arange(len(views.low)) + 0.5) * views.column_s
    peak = max(float(np.abs(views.low).max()), float(views.high.max()), 1e-4)
    wave.fill_between(times_s, views.low, views.high, color=INK, linewidth=0.3, step="mid")
    wave.set_ylim(-1.08 * peak, 1.08 * peak)
    wave.set_yticks([-peak, 0, peak], [f"−{peak:.2g}", "0", f"{peak:.2g}"])
    _name(wave, "waveform")
    top_db = float(views.power_db.max())
    spectrum.imshow(
        views.power_db,
        origin="lower",
        aspect="auto",
        extent=(0, len(views.low) * views.column_s, 0, RATE_HZ / 2000),
        cmap="magma",
        vmin=top_db - SPECTRUM_RANGE_DB,
        vmax=top_db,
        interpolation="nearest",
    )
    spectrum.grid(False)
    spectrum.set_yticks([0, 2, 4, 6, 8])
    spectrum.set_ylabel("kHz", fontsize=9, color=MUTED)
    _name(spectrum, "spectrogram")


def _draw_bands(axis: Any, events: Sequence[Mapping[str, Any]], duration_s: float) -> None:
    """Draw a rectangle around the band of each event, if the result contains evidence."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, withStroke

    boxes = []
    for event in events:
        band = (event.get("evidence") or {}).get("band")
        if band is not None:
            end_s = duration_s if event["offset_s"] is None else event["offset_s"]
            boxes.append((end_s - event["onset_s"], event, band))
    boxes.sort(key=lambda box: -box[0])
    for length_s, event, band in boxes[:MAX_BOXES]:
        low_khz, high_khz = band["low_hz"] / 1000, min(band["high_hz"], RATE_HZ / 2) / 1000
        axis.add_patch(
            Rectangle(
                (event["onset_s"], low_khz),
                length_s,
                high_khz - low_khz,
                fill=False,
                edgecolor=COLORS.get(event["label"], INK),
                linewidth=1.4,
                linestyle="-" if band["against"] == "floor" else (0, (4, 2)),
                # Visible on dark and bright backgrounds, whatever the label's colour.
                path_effects=[withStroke(linewidth=2.4, foreground="white"), Normal()],
            )
        )


def _draw_score(axis: Any, label: str, values: NDArray[np.float32], duration_s: float) -> None:
    """Draw a filled line of mean scores and, behind it, the maximum of the frames averaged into each point."""
    times_s, means, highest = _points(values, duration_s)
    color = COLORS[label]
    axis.fill_between(times_s, 0, highest, color=color, alpha=0.18, linewidth=0, step="mid")
    axis.fill_between(times_s, 0, means, color=color, alpha=0.45, linewidth=0, step="mid")
    axis.step(times_s, means, color=color, linewidth=1.0, where="mid")
    axis.set_ylim(0, 1.05)
    axis.set_yticks([0, 1])
    _name(axis, label, color)


def _draw_causes(
    axis: Any, causes: Sequence[str], frames: Mapping[str, NDArray[np.float32]], duration_s: float
) -> None:
    """Draw a heat map with a row per cause; each column shows its maximum score, so that clicks stay visible."""
    from matplotlib.colors import to_rgb

    rows = []
    for label in causes:
        scores = np.clip(_points(frames[label], duration_s)[2], 0.0, 1.0)[:, None]  # (K, 1)
        rows.append(1.0 - scores * (1.0 - np.array(to_rgb(COLORS[label]))))
    count = len(causes)
    extent = (0, duration_s, count - 0.5, -0.5)
    axis.imshow(np.stack(rows), aspect="auto", extent=extent, interpolation="nearest", origin="upper")
    axis.set_yticks(range(count), causes)
    axis.tick_params(axis="y", length=0)
    for tick, label in zip(axis.get_yticklabels(), causes, strict=True):
        tick.set_color(COLORS[label])
    axis.set_yticks(np.arange(count - 1) + 0.5, minor=True)
    axis.grid(True, axis="y", which="minor", color=GRID, linewidth=0.6)
    axis.tick_params(axis="y", which="minor", length=0)
    _name(axis, "causes")


def _draw_snr(axis: Any, values: NDArray[np.float32], duration_s: float, overall_db: float | None) -> None:
    times_s, means, _ = _points(values, duration_s)
    color = COLORS["snr_db"]
    axis.step(times_s, means, color=color, linewidth=1.4, where="mid")
    if overall_db is not None:
        axis.axhline(overall_db, color=color, linewidth=0.9, linestyle=(0, (5, 3)), alpha=0.8)
        inside = SNR_RANGE_DB[0] + 4 < overall_db < SNR_RANGE_DB[1] - 12
        axis.annotate(
            f"overall {overall_db:.1f} dB",
            (0.995, overall_db),
            xycoords=axis.get_yaxis_transform(),
            xytext=(0, 3 if inside else -3),
            textcoords="offset points",
            ha="right",
            va="bottom" if inside else "top",
            fontsize=8.5,
            color=color,
            annotation_clip=False,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )
    axis.set_ylim(*SNR_RANGE_DB)
    axis.set_yticks([0, 20, 40], ["0", "20", "40 dB"])
    axis.grid(True, axis="y", color=GRID, linewidth=0.6)
    _name(axis, "SNR", color)


def _event_rows(events: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Group events by label, in the order of the catalogue; keep the longest if there are too many to draw."""
    if len(events) > MAX_BARS:
        events = sorted(events, key=lambda event: (event["offset_s"] or 0.0) - event["onset_s"])[-MAX_BARS:]
    found = {event["label"] for event in events}
    labels = [label for label in LABEL_CATALOG if label in found] + sorted(found - set(LABEL_CATALOG))
    return {label: [event for event in events if event["label"] == label] for label in labels}


def _draw_events(axis: Any, rows: Mapping[str, Sequence[Mapping[str, Any]]], duration_s: float) -> None:
    axis.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.tick_params(axis="y", length=0)
    for row, (label, events) in enumerate(rows.items()):
        color = COLORS.get(label, INK)
        axis.get_yticklabels()[row].set_color(color)
        ends_s = [duration_s if event["offset_s"] is None else event["offset_s"] for event in events]
        spans = [(event["onset_s"], end_s - event["onset_s"]) for event, end_s in zip(events, ends_s, strict=True)]
        alphas = [SEVERITY_ALPHA.get(event["severity"], 1.0) for event in events]
        axis.broken_barh(spans, (row - 0.36, 0.72), facecolors=[(color, alpha) for alpha in alphas], edgecolor="none")
        for event, (onset_s, length_s) in zip(events, spans, strict=True):
            text = f"{event['severity']} {event['score_mean']:.2f}"
            if length_s > 0.0062 * len(text) * duration_s:  # the share of the width that the text needs, plus margin
                dark = event["severity"] == "minor"
                axis.text(
                    onset_s + length_s / 2,
                    row,
                    text,
                    ha="center",
                    va="center_baseline",
                    fontsize=8,
                    color=INK if dark else "white",
                )
    _name(axis, "events")
    if not rows:
        axis.text(0.5, 0.5, "no events", transform=axis.transAxes, ha="center", va="center", color=MUTED)


def _draw_title(figure: Any, name: str, document: Mapping[str, Any], position: int, height_in: float) -> None:
    channel, audio = document["channels"][position], document["audio"]
    status, quality = channel["verdict"]["status"], channel["summary"]["quality"]
    top = 1 - 0.3 / height_in
    shown = name if len(name) <= 80 else name[:50] + "…" + name[-29:]
    if len(document["channels"]) > 1:
        shown += f", channel {channel['channel']}"
    figure.text(0.011, top, shown, fontsize=14, fontweight="bold", ha="left", va="center")
    figure.text(
        0.975,
        top,
        status.upper() if quality is None else f"{status.upper()} · {quality:.0f}",
        fontsize=12,
        fontweight="bold",
        color="white",
        ha="right",
        va="center",
        bbox={"boxstyle": "round,pad=0.4", "facecolor": STATUS_COLORS.get(status, MUTED), "edgecolor": "none"},
    )
    facts = [f"{audio['sample_rate_hz'] / 1000:g} kHz", _time_text(audio["duration_s"], audio["duration_s"])]
    facts += [reason["message"].rstrip(".") for reason in channel["verdict"]["reasons"][:2]]
    figure.text(0.011, 1 - 0.6 / height_in, "  ·  ".join(facts), fontsize=9.5, color=MUTED, ha="left", va="center")


def _points(
    values: NDArray[np.float32], duration_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Reduce frames to at most `MAX_POINTS` points: centre time, mean and maximum of the known values, float64 (K,)."""
    count = min(len(values), MAX_POINTS)
    if count == 0:
        return np.zeros(0), np.zeros(0), np.zeros(0)
    starts = (np.arange(count) * len(values)) // count
    means = column_means(values, count)
    known = np.isfinite(values)
    highest = np.maximum.reduceat(np.where(known, values, -np.inf).astype(np.float64), starts)
    return (np.arange(count) + 0.5) * duration_s / count, means, np.where(np.isfinite(highest), highest, np.nan)


def _time_text(seconds: float, duration_s: float) -> str:
    """Format a time for an axis of this length: `2.5 s`, `1:05`, `1:05:00`."""
    if duration_s < 120:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if duration_s >= 3600 else f"{minutes}:{rest:02d}"
