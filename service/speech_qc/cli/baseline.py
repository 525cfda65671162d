"""`speech-qc baseline`: the normal range of each group, and which groups left theirs when."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Group, RenderableType
from rich.text import Text

from speech_qc.cli.archive import explained
from speech_qc.cli.files import printable
from speech_qc.cli.seams import CommandError
from speech_qc.cli.tables import open_table, output_console, without_padding
from speech_qc.exit_codes import OK

if TYPE_CHECKING:
    from speech_qc.baseline.observations import ObservationSource
    from speech_qc.baseline.periods import PeriodLength, Periods
    from speech_qc.baseline.ranges import Baseline, Comparison, Excursion

SHOWN = 20
"""Rows of each table; JSON has all."""


@dataclass(frozen=True, slots=True)
class BaselineCommand:
    """The options of the command; see the help texts in `cli.archive_commands`."""

    results: str
    group: str
    time: str | None = None
    pattern: str | None = None
    period: PeriodLength = "day"
    history: int = 28
    min_recordings: int = 10
    false_alarm_rate: float = 0.01
    as_json: bool = False
    metrics: Path | None = None


def baseline(command: BaselineCommand) -> int:
    """Compare the groups, print the result, and write the metrics.

    Raises:
        CommandError: The results cannot be read, no recording can be used, or the metrics cannot be written.
    """
    with explained():
        from speech_qc.baseline.ranges import Rules
        from speech_qc.baseline.ranges import baseline as compare

        if not 0 < command.false_alarm_rate < 1:
            raise CommandError(
                f"--false-alarm-rate: expected a probability between 0 and 1, got {command.false_alarm_rate:g}"
            )
        periods, left_out = _read(command)
    found = compare(periods, Rules(command.history, command.false_alarm_rate))
    if command.metrics is not None:
        from speech_qc.baseline.textfile import write_metrics

        try:
            write_metrics(command.metrics, found, periods, command.group)
        except OSError as error:
            raise CommandError(f"--metrics: expected a file that can be written: {error}") from error
    if command.as_json:
        document = _document(command, found, left_out)
        sys.stdout.write(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _print(_page(command, found, len(periods.recordings), left_out))
    sys.stdout.flush()
    return OK


def _read(command: BaselineCommand) -> tuple[Periods, Mapping[str, int]]:
    """Read the recordings; also returns the number of those that were not used, by reason.

    Raises:
        ArchiveError: The results cannot be read.
        CommandError: No recording can be used.
    """
    from speech_qc.archive.dest import Destination
    from speech_qc.baseline.live_calls import CallObservations, is_database
    from speech_qc.baseline.observations import ArchiveObservations
    from speech_qc.baseline.periods import Periods

    periods = Periods(command.period, command.min_recordings)
    source: ObservationSource
    if is_database(command.results):
        if command.time is not None or command.pattern is not None:
            raise CommandError("--time, --by-path: expected none for calls: their time is when they began")
        source = CallObservations(command.results, command.group)
        periods.add(source.observations())
    else:
        with Destination(command.results, writable=False) as results:
            source = ArchiveObservations(results, command.group, command.time, command.pattern)
            periods.add(source.observations())
    left_out = {**source.left_out, **periods.left_out}
    if periods.recordings:
        return periods, left_out
    reasons = _listed(left_out) or "there are none"
    if is_database(command.results):
        raise CommandError(f"expected ended calls with {command.group}, got none ({reasons})")
    raise CommandError(
        f"{command.results}: expected recordings with {command.group} and {command.time or 'a time'}, got none "
        f"({reasons}): name columns of the manifest, add --by-path, or wait until the {command.period} has ended"
    )


def _document(command: BaselineCommand, found: Baseline, left_out: Mapping[str, int]) -> dict[str, Any]:
    from speech_qc.baseline.periods import start_of

    def comparison(one: Comparison) -> dict[str, Any]:
        return {**asdict(one), "period": start_of(one.period, command.period)}

    def excursion(one: Excursion) -> dict[str, Any]:
        return {
            "group": one.first.group,
            "measure": one.first.measure,
            "first": start_of(one.first.period, command.period),
            "last": start_of(one.last.period, command.period),
            "ongoing": one.ongoing,
            "worst": comparison(one.worst),
        }

    return {
        "by": command.group,
        "period": command.period,
        "history": command.history,
        "min_recordings": command.min_recordings,
        "false_alarm_rate": command.false_alarm_rate,
        "latest_period": None if found.latest is None else start_of(found.latest, command.period),
        "compared": found.compared,
        "out_of_range": found.out_of_range,
        "excursions": [excursion(one) for one in found.excursions],
        "ranges": [comparison(one) for one in found.comparisons],
        "not_judged": dict(found.not_judged),
        "left_out": dict(left_out),
    }


def _page(command: BaselineCommand, found: Baseline, groups: int, left_out: Mapping[str, int]) -> RenderableType:
    from speech_qc.baseline.periods import start_of

    parts: list[RenderableType] = [Text(_heading(command, found, groups))]
    if found.excursions:
        table = open_table()
        for heading in (command.group, "measure", "first", "last"):
            table.add_column(heading)
        for heading in ("worst", "normal range", "recordings", "deviation"):
            table.add_column(heading, justify="right")
        for one in found.excursions[-SHOWN:][::-1]:
            worst = one.worst
            table.add_row(
                Text(printable(one.first.group)),
                one.first.measure,
                start_of(one.first.period, command.period),
                "ongoing" if one.ongoing else start_of(one.last.period, command.period),
                _figure(worst.value),
                _range(worst),
                str(worst.recordings),
                "–" if worst.deviation is None else f"{worst.deviation:+.1f}",
            )
        parts += [Text(), table]
        if len(found.excursions) > SHOWN:
            parts.append(Text(f"{len(found.excursions) - SHOWN} earlier ones are in --json.", style="dim"))
    elif found.latest is not None:
        parts.append(Text("No group has left its normal range."))
    if found.not_judged:
        names = _names(list(found.not_judged))
        parts.append(Text(f"{len(found.not_judged)} groups have too few {command.period}s to judge: {names}"))
    if left_out:
        parts.append(Text(f"Recordings left out: {_listed(left_out)}"))
    if found.latest is not None:
        parts.append(
            Text(
                f"Without any change, a {command.period} with a false alarm has a probability of at most "
                f"{command.false_alarm_rate:.2%}, all {found.compared} comparisons together.",
                style="dim",
            )
        )
    return Group(*parts)


def _heading(command: BaselineCommand, found: Baseline, groups: int) -> str:
    from speech_qc.baseline.periods import start_of

    if found.latest is None:
        return f"0 of {groups} groups by {command.group} can be compared"
    out = found.out_of_range
    has_earlier = any(one.ongoing and one.last.period < found.latest for one in found.excursions)
    return (
        f"{len(out)} of {groups} groups by {command.group} are out of range in the {command.period} of "
        f"{start_of(found.latest, command.period)}"
        + (" or the one before" if has_earlier else "")
        + (f": {_names(out)}" if out else "")
    )


def _names(groups: Sequence[str]) -> str:
    return printable(", ".join(groups[:SHOWN])) + (" …" if len(groups) > SHOWN else "")


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _range(one: Comparison) -> str:
    if one.low is None and one.high is not None:
        return f"up to {_figure(one.high)}"
    if one.high is None and one.low is not None:
        return f"from {_figure(one.low)}"
    return f"{_figure(one.low or 0.0)} to {_figure(one.high or 0.0)}"


def _listed(reasons: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _print(page: RenderableType) -> None:
    console = output_console(sys.stdout)
    with console.capture() as capture:
        console.print(page)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(without_padding(capture.get()).encode(encoding, "replace").decode(encoding))
