"""`speech-qc archive report`: the figures of an archive on the terminal, as a page and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from speech_qc.cli.archive import explained
from speech_qc.cli.files import printable
from speech_qc.cli.tables import STATUS_STYLES, open_table, output_console
from speech_qc.exit_codes import OK

if TYPE_CHECKING:
    from speech_qc.archive.report.figures import Figures, Group, Share

LINES = 10
"""Reasons, groups and recordings that the terminal shows; the page has more."""
REPORT_FOLDER = "_report"
"""Within the results; readers of Parquet data sets ignore names that begin with an underscore."""


def report(
    archive: str, out: Path | None, by: Sequence[str], by_path: str | None, dated: str | None, *, as_json: bool
) -> int:
    """Print the report and write its page.

    Raises:
        CommandError: The results cannot be read, have no rows, or lack a column; or the page cannot be written.
    """
    with explained():
        from speech_qc.archive.dest import Destination
        from speech_qc.archive.items import ArchiveError
        from speech_qc.archive.names import is_remote, local_path
        from speech_qc.archive.report.figures import compute
        from speech_qc.archive.report.measures import read_rows
        from speech_qc.archive.report.write import write_report

        rows = read_rows(Destination(archive, writable=False))
        if not len(rows):
            raise ArchiveError(f"{archive}: expected the results of `speech-qc archive`, there are none")
        figures = compute(rows, by, by_path, dated)
        folder = out or Path("report" if is_remote(archive) else Path(local_path(archive)) / REPORT_FOLDER)
        page = write_report(figures, rows, archive, folder.absolute())
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(_plain(figures), option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        return OK
    console = output_console(sys.stdout)
    _show(console, figures)
    console.print(Text(f"Page: {page}"), soft_wrap=True)
    return OK


def _plain(figures: Figures) -> dict[str, Any]:
    plain = asdict(figures)
    for one in (*plain["kept"], *plain["distributions"]):
        one["measure"] = one["measure"]["name"]
    return plain


def _show(console: Console, figures: Figures) -> None:
    console.print(
        f"{figures.recordings:,} recordings, {figures.rows:,} channels, {figures.hours:,.1f} hours of audio\n"
    )
    tables = [_shares("verdict", [one for one in figures.statuses if one.rows])]
    for name, shares in (("reason", figures.reasons), ("error", figures.errors)):
        if shares:
            tables.append(_shares(name, shares[:LINES]))
    tables += [_distributions(figures), _limits(figures)]
    tables += [_groups(name, groups[:LINES], len(groups)) for name, groups in figures.groups.items()]
    if figures.periods:
        tables.append(_groups(figures.periods[0].by, figures.periods, len(figures.periods)))
    if figures.worst:
        tables.append(_worst(figures))
    for table in tables:
        console.print(table)
        console.print()
    if figures.redundant:
        console.print(f"{figures.redundant:,} recordings have the bytes of another one")


def _worst(figures: Figures) -> Table:
    table = open_table()
    for head in ("quality", "lowest quality first", "reasons"):
        table.add_column(head, overflow="fold")
    for row in figures.worst[:LINES]:
        table.add_row(f"{row['quality']:.0f}", Text(printable(row["uri"])), ", ".join(row["reasons"]))
    return table


def _shares(name: str, shares: Sequence[Share]) -> Table:
    table = _columns(name, "channels", "share", "hours")
    for one in shares:
        label = Text(printable(one.name), style=STATUS_STYLES.get(one.name, ""))
        table.add_row(label, f"{one.rows:,}", _percent(one.share), f"{one.hours:,.1f}")
    return table


def _distributions(figures: Figures) -> Table:
    table = _columns("measure", "known", "5 %", "25 %", "median", "75 %", "95 %")
    for one in figures.distributions:
        values = ["–"] * 5 if one.quantiles is None else [f"{value:.4g}" for value in one.quantiles]
        table.add_row(one.measure.title, f"{one.known:,}", *values)
    return table


def _limits(figures: Figures) -> Table:
    """Return what each limit keeps, a line per measure."""
    table = _columns("share kept by a limit", left=2)
    table.add_column("limit: share kept", overflow="fold")
    lines: dict[str, list[str]] = {}
    for one in figures.kept:
        sign = "≥" if one.measure.keeps == "min" else "≤"
        lines.setdefault(one.measure.title, []).append(f"{sign} {one.limit:g}: {_percent(one.share)}")
    for title, cells in lines.items():
        table.add_row(title, "   ".join(cells))
    return table


def _groups(name: str, groups: Sequence[Group], total: int) -> Table:
    shown = f"{name} ({len(groups)} of {total:,})" if len(groups) < total else name
    table = _columns(shown, "channels", "hours", "pass", "warn", "fail", "error", "quality", "SNR, dB")
    for one in groups:
        table.add_row(
            Text(printable(one.name)),
            f"{one.rows:,}",
            f"{one.hours:,.1f}",
            *(_percent(one.share(status)) for status in ("pass", "warn", "fail", "error")),
            *("–" if value is None else f"{value:.1f}" for value in (one.quality, one.snr_db)),
        )
    return table


def _columns(*heads: str, left: int = 1) -> Table:
    table = open_table()
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number < left else "right", overflow="fold")
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
