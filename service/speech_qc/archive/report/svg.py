"""Plots as SVG, which a page can hold without a script or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from speech_qc.archive.report.figures import Distribution, Group

WIDTH, HEIGHT = 340, 150
LEFT, BOTTOM, TOP = 8, 22, 8


def histogram(found: Distribution) -> str:
    """Draw a distribution, with its median as a line."""
    low, high = found.measure.edges
    plot_height = HEIGHT - BOTTOM - TOP
    scale = plot_height / max(1, int(found.counts.max()))
    step = (WIDTH - 2 * LEFT) / len(found.counts)
    bars = []
    for number, count in enumerate(found.counts.tolist()):
        tall = count * scale
        first, last = found.edges[number], found.edges[number + 1]
        bars.append(
            f'<rect class="bar" x="{LEFT + number * step:.1f}" y="{TOP + plot_height - tall:.1f}" '
            f'width="{step - 1:.1f}" height="{tall:.1f}"><title>{first:.4g} to {last:.4g}: {count}</title></rect>'
        )
    if found.quantiles is not None:
        x = LEFT + (min(max(found.quantiles[2], low), high) - low) / (high - low) * (WIDTH - 2 * LEFT)
        bars.append(
            f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + plot_height}">'
            f"<title>median {found.quantiles[2]:.4g}</title></line>"
        )
    ticks = [low + (high - low) * part / 4 for part in range(5)]
    labels = [
        f'<text x="{LEFT + part / 4 * (WIDTH - 2 * LEFT):.1f}" y="{HEIGHT - 6}" text-anchor="{_anchor(part)}">'
        f"{tick:.4g}</text>"
        for part, tick in enumerate(ticks)
    ]
    return _svg(found.measure.title, [*bars, *labels])


def drift(periods: Sequence[Group], title: str, values: Sequence[float | None], top: float) -> str:
    """Draw a value of each period as a line.

    Args:
        periods: In order of time.
        title: What the values are.
        values: One for each period, 0 to `top`; None leaves a gap.
        top: Value at the upper edge.
    """
    plot_height, count = HEIGHT - BOTTOM - TOP, len(periods)
    points: list[str] = []
    path = ""
    for number, (period, value) in enumerate(zip(periods, values, strict=True)):
        if value is None:
            path += " "  # the next point begins a new line
            continue
        x = LEFT + (number / (count - 1) if count > 1 else 0.5) * (WIDTH - 2 * LEFT)
        y = TOP + plot_height * (1 - min(max(value / top, 0.0), 1.0))
        path += ("M" if not path or path.endswith(" ") else "L") + f"{x:.1f},{y:.1f}"
        points.append(
            f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(period.name)}: {value:.3g} '
            f"({period.rows} rows)</title></circle>"
        )
    ends = [(LEFT, "start", periods[0].name), (WIDTH - LEFT, "end", periods[-1].name)]
    labels = [
        f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{escape(name)}</text>' for x, anchor, name in ends
    ]
    return _svg(title, [f'<path class="line" d="{path.strip()}"/>', *points, *labels])


def _anchor(part: int) -> str:
    return "start" if part == 0 else "end" if part == 4 else "middle"


def _svg(title: str, parts: Sequence[str]) -> str:
    base = HEIGHT - BOTTOM
    axis = f'<line class="axis" x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{base}" y2="{base}"/>'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{axis}{"".join(parts)}</svg>'
