"""The report as one HTML page: no script, no network, everything that comes from recordings escaped."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from speech_qc.archive.names import is_remote, local_path
from speech_qc.archive.report.figures import LISTED, STATUSES, WORST, Distribution, Figures, Group, Share
from speech_qc.archive.report.svg import drift, histogram

_STYLE = """
:root { --ink: #1c2733; --soft: #5b6b7b; --line: #d9e0e7; --pass: #1a7f4b; --warn: #b26a00; --fail: #b3261e; }
body { margin: 0 auto; max-width: 1100px; padding: 24px; font: 15px/1.45 system-ui, sans-serif; color: var(--ink); }
h1 { font-size: 22px; } h2 { font-size: 17px; margin-top: 36px; } .soft { color: var(--soft); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; } td.path { overflow-wrap: anywhere; }
.pass { color: var(--pass); } .warn { color: var(--warn); } .fail, .error { color: var(--fail); }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(330px, 1fr)); gap: 18px; }
.plots figure { margin: 0; } svg { width: 100%; } svg text { font-size: 11px; fill: #5b6b7b; }
.bar { fill: #4a90d9; } .median { stroke: #b3261e; stroke-width: 1.5; } .axis { stroke: #9fb0c0; }
.line { fill: none; stroke: #4a90d9; stroke-width: 2; } .point { fill: #4a90d9; } audio { height: 30px; width: 260px; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src * file:"

Cell = str
"""HTML: text in it is escaped already."""


def page(figures: Figures, archive: str, folder: Path) -> str:
    """Write the page.

    Args:
        figures: What to say.
        archive: Name of the archive.
        folder: Folder in which the page will be, from which recordings are linked.
    """
    return "".join(_parts(figures, archive, folder))


def _parts(figures: Figures, archive: str, folder: Path) -> Iterator[str]:
    title = escape(f"Archive {archive}")
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{_STYLE}</style></head><body>'
        f"<h1>{title}</h1><p>{figures.recordings:,} recordings, {figures.rows:,} channels, {figures.hours:,.1f} hours "
        "of audio, each channel counted.</p>\n"
    )
    yield "<h2>Verdicts</h2>" + _shares(figures.statuses, coloured=True)
    if figures.reasons:
        yield "<h2>Reasons</h2><p class=soft>A channel can have several.</p>" + _shares(figures.reasons)
    if figures.errors:
        yield "<h2>Errors</h2>" + _shares(figures.errors)
    yield "<h2>Distributions</h2><p class=soft>The red line is the median; values beyond the axis are in its outer "
    yield 'bars.</p><div class="plots">' + "".join(map(_figure, figures.distributions)) + "</div>\n"
    yield "<h2>What a limit would keep</h2>" + _kept(figures)
    for name, groups in figures.groups.items():
        more = f" ({LISTED} of {len(groups):,} are shown)" if len(groups) > LISTED else ""
        yield f"<h2>By {escape(name)}{more}</h2>" + _groups(groups[:LISTED], name)
    if figures.periods:
        yield _drift(figures)
    if figures.worst:
        yield f"<h2>Lowest quality first</h2><p class=soft>Up to {WORST} channels that do not pass.</p>"
        yield _recordings(figures.worst, folder)
    if figures.failed:
        yield f"<h2>Recordings with an error</h2><p class=soft>Up to {WORST}.</p>" + _failed(figures.failed)
    if figures.duplicates:
        yield f"<h2>Duplicates</h2><p>{figures.redundant:,} recordings have the bytes of another one.</p>"
        rows = [
            [_number(len(paths)), "<br>".join(map(escape, paths[:5])) + _more(paths)] for paths in figures.duplicates
        ]
        yield _table(["copies", "recordings"], rows, numbers={0})
    yield "</body></html>\n"


def _more(paths: Sequence[str]) -> str:
    return f"<br>and {len(paths) - 5:,} more" if len(paths) > 5 else ""


def _shares(shares: Iterable[Share], *, coloured: bool = False) -> str:
    rows = [
        [
            f'<span class="{escape(one.name)}">{escape(one.name)}</span>' if coloured else escape(one.name),
            _number(one.rows),
            _percent(one.share),
            f"{one.hours:,.1f}",
        ]
        for one in shares
    ]
    return _table(["", "channels", "share", "hours"], rows, numbers={1, 2, 3})


def _figure(found: Distribution) -> str:
    if found.quantiles is None:
        return f"<figure><b>{escape(found.measure.title)}</b><p class=soft>no values</p></figure>"
    low, _, median, _, high = found.quantiles
    return (
        f"<figure><b>{escape(found.measure.title)}</b> <span class=soft>median {median:.4g}, 5 to 95 %: {low:.4g} to "
        f"{high:.4g}</span>{histogram(found)}</figure>"
    )


def _kept(figures: Figures) -> str:
    rows = [
        [
            escape(one.measure.title),
            f"{'at least' if one.measure.keeps == 'min' else 'at most'} {one.limit:g}",
            _number(one.rows),
            _percent(one.share),
            f"{one.hours:,.1f}",
        ]
        for one in figures.kept
    ]
    return _table(["measure", "limit", "channels", "share", "hours"], rows, numbers={2, 3, 4})


def _groups(groups: Sequence[Group], name: str) -> str:
    rows = [
        [
            escape(one.name),
            _number(one.rows),
            f"{one.hours:,.1f}",
            *(_percent(one.share(status)) for status in STATUSES),
            _value(one.quality),
            _value(one.snr_db),
        ]
        for one in groups
    ]
    heads = [name, "channels", "hours", *STATUSES, "quality", "SNR, dB"]
    return _table(heads, rows, numbers=set(range(1, len(heads))))


def _drift(figures: Figures) -> str:
    periods = figures.periods
    undated = f" {figures.undated:,} channels have no date." if figures.undated else ""
    plots: list[tuple[str, list[float | None], float]] = [
        ("Share that passes", [one.share("pass") for one in periods], 1.0),
        ("Quality, median", [one.quality for one in periods], 100.0),
        ("Signal to noise, dB, median", [one.snr_db for one in periods], 45.0),
    ]
    drawn = "".join(
        f"<figure><b>{name}</b> <span class=soft>0 to {top:g}</span>{drift(periods, name, values, top)}</figure>"
        for name, values, top in plots
    )
    kind = periods[0].by
    table = _groups(periods, kind)
    return (
        f'<h2>Over time</h2><p class=soft>By {kind}.{undated}</p><div class="plots">{drawn}</div>'
        f"<details><summary>Table</summary>{table}</details>"
    )


def _recordings(rows: Iterable[dict[str, Any]], folder: Path) -> str:
    cells = [
        [
            _value(row["quality"]),
            f'<span class="{escape(row["status"])}">{escape(row["status"])}</span>',
            escape(", ".join(row["reasons"])),
            escape(_name(row)),
            _audio(row, folder),
        ]
        for row in rows
    ]
    return _table(["quality", "verdict", "reasons", "recording", ""], cells, numbers={0}, path=3)


def _failed(rows: Iterable[dict[str, Any]]) -> str:
    cells = [[escape(row["error_code"]), escape(_name(row)), escape(row["error_message"])] for row in rows]
    return _table(["error", "recording", "message"], cells, path=1)


def _name(row: dict[str, Any]) -> str:
    """Name a row: the recording, its part and its channel."""
    name: str = row["uri"]
    if row["offset_s"] is not None or row["length_s"] is not None:
        start = row["offset_s"] or 0.0
        name += f" from {start:g} s" + ("" if row["length_s"] is None else f", {row['length_s']:g} s long")
    return name + (f", channel {row['channel']}" if row["channel"] else "")


def _audio(row: dict[str, Any], folder: Path) -> Cell:
    """Return an audio element if a browser can reach the recording from the page."""
    uri: str = row["uri"]
    if uri.startswith(("http://", "https://")):
        address = uri
    elif not is_remote(uri) and os.path.isfile(local_path(uri)):
        address = quote(os.fsencode(os.path.relpath(local_path(uri), folder)))
    else:
        return ""
    start = row["offset_s"] or 0.0
    part = f"#t={start:g}" + ("" if row["length_s"] is None else f",{start + row['length_s']:g}")
    source = escape(address + (part if start or row["length_s"] is not None else ""))
    return f'<audio controls preload="none" src="{source}"></audio>'


def _table(
    heads: Sequence[str], rows: Iterable[Sequence[Cell]], numbers: Collection[int] = (), path: int | None = None
) -> str:
    columns = range(len(heads))
    kinds = ["number" if column in numbers else "path" if column == path else "" for column in columns]
    head = "".join(f'<th class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, heads, strict=True))
    body = "".join(
        "<tr>" + "".join(f'<td class="{kind}">{cell}</td>' for kind, cell in zip(kinds, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>\n"


def _number(value: int) -> Cell:
    return f"{value:,}"


def _percent(share: float) -> Cell:
    return f"{100 * share:.1f} %"


def _value(value: float | None) -> Cell:
    return "–" if value is None else f"{value:.1f}"
