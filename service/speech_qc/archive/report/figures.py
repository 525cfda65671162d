"""Computes the figures of a report from its rows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from speech_qc.archive.report.grouping import dates_of, group_names, manifests_of
from speech_qc.archive.report.measures import ERROR, MEASURES, Floats, Measure, values_of

BINS = 30
STATUSES = ("pass", "warn", "fail", "unknown", ERROR)
WORST = 100
LISTED = 200
"""Groups and sets of duplicates that a report lists; the Parquet files have all groups."""
DAYS, WEEKS = 62, 400
"""Length of a time span, days, up to which drift is shown by day and by week."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the rows.

    Attributes:
        name: Name of the part.
        rows: Number of rows.
        share: Of all rows, 0 to 1.
        hours: Hours of audio.
    """

    name: str
    rows: int
    share: float
    hours: float


@dataclass(frozen=True, slots=True)
class Distribution:
    """How a measure is distributed.

    Attributes:
        measure: The measure.
        edges: Edges of the bars, float64 (`BINS` + 1,); values beyond are in the outer bars.
        counts: Rows in each bar, int (`BINS`,).
        known: Rows with a value.
        quantiles: The 5th, 25th, 50th, 75th and 95th percentile; None without any value.
    """

    measure: Measure
    edges: Floats
    counts: NDArray[np.int64]
    known: int
    quantiles: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What a limit would keep.

    Attributes:
        measure: The measure.
        limit: The limit.
        rows: Rows that it keeps; those without a value are not kept.
        share: Of all rows, 0 to 1.
        hours: Hours of audio that it keeps.
    """

    measure: Measure
    limit: float
    rows: int
    share: float
    hours: float


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one group, or of one period.

    Attributes:
        by: Column or field, or the kind of period.
        name: Value of the column, or the first day of the period.
        rows: Number of rows.
        hours: Hours of audio.
        statuses: Rows by status.
        quality: Median; None without any value.
        snr_db: Median; None without any value.
    """

    by: str
    name: str
    rows: int
    hours: float
    statuses: dict[str, int]
    quality: float | None
    snr_db: float | None

    def share(self, status: str) -> float:
        """Share of its rows with this status, 0 to 1."""
        return self.statuses.get(status, 0) / self.rows


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that a report says.

    Attributes:
        rows: Number of rows, one per channel.
        recordings: Number of different `uri`.
        hours: Hours of audio, each channel counted.
        statuses: Shares by status, also those of no row.
        reasons: Shares by reason of a verdict; a row may have several.
        errors: Shares by code of an error.
        distributions: Of each measure.
        kept: What limits would keep.
        worst: Rows with the lowest quality first.
        failed: Some rows with an error.
        groups: By column or field, worst first.
        periods: In order of time; empty without dates.
        undated: Rows without a date.
        duplicates: Paths of the same bytes, the largest sets first.
        redundant: Recordings that have the bytes of another one.
    """

    rows: int
    recordings: int
    hours: float
    statuses: list[Share]
    reasons: list[Share]
    errors: list[Share]
    distributions: list[Distribution]
    kept: list[Kept]
    worst: list[dict[str, Any]]
    failed: list[dict[str, Any]]
    groups: dict[str, list[Group]]
    periods: list[Group]
    undated: int
    duplicates: list[list[str]]
    redundant: int


def compute(rows: pa.Table, by: Sequence[str] = (), by_path: str | None = None, dated: str | None = None) -> Figures:
    """Compute the figures.

    Args:
        rows: As from `read_rows`.
        by: Columns to group by.
        by_path: Pattern of paths whose fields to group by.
        dated: Column or field with the date; None to look for one.

    Raises:
        ArchiveError: No row has one of the columns, or the pattern matches no path.
    """
    manifests = manifests_of(rows)
    names = group_names(rows, manifests, by, by_path)
    table = _Table(rows)
    dates = dates_of(rows, manifests, names, dated)
    duplicates = _duplicates(rows)
    reasons: dict[str, list[int]] = defaultdict(list)
    for number, codes in enumerate(rows["reasons"].to_pylist()):
        for code in dict.fromkeys(codes or ()):
            reasons[code].append(number)
    errors: dict[str, list[int]] = defaultdict(list)
    for number, code in enumerate(rows["error_code"].to_pylist()):
        if code is not None:
            errors[code].append(number)
    return Figures(
        rows=len(rows),
        recordings=len(rows["uri"].unique()),
        hours=float(table.hours.sum()),
        statuses=[table.share(status, np.flatnonzero(table.status == status)) for status in STATUSES],
        reasons=table.shares(reasons),
        errors=table.shares(errors),
        distributions=[_distribution(measure, table.values[measure.name]) for measure in MEASURES],
        kept=[table.kept(measure, limit) for measure in MEASURES for limit in measure.limits],
        worst=table.worst(rows),
        failed=rows.take(np.flatnonzero(table.status == ERROR)[:WORST]).to_pylist(),
        groups={name: table.groups(name, values) for name, values in names.items()},
        periods=_periods(table, dates),
        undated=sum(1 for day in dates if day is None),
        duplicates=duplicates[:LISTED],
        redundant=sum(len(paths) - 1 for paths in duplicates),
    )


class _Table:
    """The rows as arrays (n,)."""

    def __init__(self, rows: pa.Table) -> None:
        self.count = len(rows)
        self.status = np.asarray(rows["status"].to_pylist(), object)
        self.values = {measure.name: values_of(rows, measure.name) for measure in MEASURES}
        self.hours = np.nan_to_num(self.values["duration_s"]) / 3600

    def share(self, name: str, numbers: NDArray[np.int64] | Sequence[int]) -> Share:
        return Share(name, len(numbers), len(numbers) / max(1, self.count), float(self.hours[numbers].sum()))

    def shares(self, found: dict[str, list[int]]) -> list[Share]:
        return sorted((self.share(name, numbers) for name, numbers in found.items()), key=lambda one: -one.rows)

    def kept(self, measure: Measure, limit: float) -> Kept:
        values = self.values[measure.name]
        good = values >= limit if measure.keeps == "min" else values <= limit  # false for NaN
        good &= self.status != ERROR
        rows = int(good.sum())
        return Kept(measure, limit, rows, rows / max(1, self.count), float(self.hours[good].sum()))

    def worst(self, rows: pa.Table) -> list[dict[str, Any]]:
        quality = self.values["quality"]
        judged = np.flatnonzero(np.isfinite(quality) & np.isin(self.status, ("warn", "fail")))
        order = judged[np.argsort(quality[judged], kind="stable")][:WORST]
        found: list[dict[str, Any]] = rows.take(order).to_pylist()
        return found

    def groups(self, by: str, names: Sequence[str | None]) -> list[Group]:
        """Return the groups, those with the largest share of failures first."""
        members: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(names):
            members["(none)" if name is None else name].append(number)
        found = [self.group(by, name, numbers) for name, numbers in members.items()]
        return sorted(found, key=lambda one: (-one.share("fail") - one.share(ERROR), one.quality or 0.0, one.name))

    def group(self, by: str, name: str, numbers: Sequence[int]) -> Group:
        statuses = dict(Counter(self.status[numbers].tolist()))
        medians = [_median(self.values[measure][numbers]) for measure in ("quality", "snr_db")]
        return Group(by, name, len(numbers), float(self.hours[numbers].sum()), statuses, *medians)


def _median(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _distribution(measure: Measure, values: Floats) -> Distribution:
    known = values[np.isfinite(values)]
    edges = np.linspace(*measure.edges, BINS + 1)
    counts, _ = np.histogram(np.clip(known, *measure.edges), edges)
    quantiles = tuple(float(one) for one in np.quantile(known, (0.05, 0.25, 0.5, 0.75, 0.95))) if len(known) else None
    return Distribution(measure, edges, counts, len(known), quantiles)


def _periods(table: _Table, dates: Sequence[date | None]) -> list[Group]:
    """Group by day, week or month, so that there are enough rows in a period and few enough periods to look at."""
    known = [day for day in dates if day is not None]
    if not known:
        return []
    span = (max(known) - min(known)).days
    kind = "day" if span <= DAYS else "week" if span <= WEEKS else "month"
    members: dict[date, list[int]] = defaultdict(list)
    for number, day in enumerate(dates):
        if day is not None:
            members[_start_of(kind, day)].append(number)
    return [table.group(kind, start.isoformat(), members[start]) for start in sorted(members)]


def _start_of(kind: str, day: date) -> date:
    if kind == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if kind == "month" else day


def _duplicates(rows: pa.Table) -> list[list[str]]:
    """Return sets of recordings with the same bytes, the largest first."""
    paths: dict[str, dict[str, None]] = defaultdict(dict)
    for digest, uri in zip(rows["content_sha256"].to_pylist(), rows["uri"].to_pylist(), strict=True):
        if digest is not None:
            paths[digest][uri] = None
    return sorted(
        (list(found) for found in paths.values() if len(found) > 1), key=lambda found: (-len(found), found[0])
    )
