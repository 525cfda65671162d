"""Compares each period of a group with its earlier ones, and says which groups left their normal range when."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from speech_qc.baseline.measures import BY_NAME, Measure
from speech_qc.baseline.periods import Periods, Series, shown
from speech_qc.baseline.statistics import MIN_HISTORY, Floats, predicted, threshold


@dataclass(frozen=True, slots=True)
class Rules:
    """How groups are compared.

    Args:
        history: Periods, before the one in question, that make up the normal range.
        false_alarm_rate: Probability that in one period any group is reported although nothing has changed; all groups
            and measures together.
    """

    history: int = 28
    false_alarm_rate: float = 0.01


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of one group in one period.

    Args:
        group: Name of the group.
        measure: Name of the measure.
        period: Number of the period.
        value: Median, or share, of its recordings in this period.
        low: Lower end of the normal range; None if only high values are worse.
        high: Upper end; None if only low values are worse.
        recordings: Number of recordings in this period.
        periods: Number of earlier periods that made up the range.
        deviation: Distance from the centre of the range, in predicted standard deviations; None if that is 0.
        out: Whether the value is outside of the range.
    """

    group: str
    measure: str
    period: int
    value: float
    low: float | None
    high: float | None
    recordings: int
    periods: int
    deviation: float | None
    out: bool


@dataclass(frozen=True, slots=True)
class Excursion:
    """Consecutive periods of a group in which a measure was out of range.

    Args:
        first: The first of them.
        last: The last of them.
        worst: The one with the greatest deviation.
        ongoing: Whether it reaches the group's last comparison, and that is current, see `Baseline`.
    """

    first: Comparison
    last: Comparison
    worst: Comparison
    ongoing: bool


@dataclass(frozen=True, slots=True)
class Baseline:
    """The result.

    A comparison is current if it is of the latest period or the one before: a group with few recordings has no value
    for every period, and is not back in its range because a busier one has.

    Args:
        comparisons: Of every group and measure that can be judged, the last one, by group and measure.
        excursions: In order of their first periods.
        not_judged: Groups without any comparison, with the reason.
        latest: The last period in which anything was compared; None if nothing was.
        compared: Number of comparisons in it; each is made at `false_alarm_rate` divided by it.
    """

    comparisons: Sequence[Comparison]
    excursions: Sequence[Excursion]
    not_judged: Mapping[str, str]
    latest: int | None
    compared: int

    @property
    def judged(self) -> list[str]:
        """Names of the groups with a current comparison."""
        return sorted({one.group for one in self.comparisons if _is_current(one, self.latest)})

    @property
    def out_of_range(self) -> list[str]:
        """Names of the groups whose current comparison is out of range."""
        return sorted({one.last.group for one in self.excursions if one.ongoing})


def _is_current(one: Comparison, latest: int | None) -> bool:
    return latest is not None and latest - one.period <= 1


def baseline(periods: Periods, rules: Rules) -> Baseline:
    """Compare every period with the earlier ones.

    Args:
        periods: The recordings.
        rules: How to compare.
    """
    series = periods.series()
    judged = {key: one for key, one in series.items() if len(one.periods) > MIN_HISTORY}
    compared: dict[int, int] = defaultdict(int)
    for one in judged.values():
        for period in one.periods[MIN_HISTORY:]:
            compared[int(period)] += 1
    latest = max(compared, default=None)
    last: list[Comparison] = []
    excursions: list[Excursion] = []
    for (group, name), one in judged.items():
        rates = [rules.false_alarm_rate / max(1, compared[int(period)]) for period in one.periods]
        found = _compare(group, BY_NAME[name], one, rates, rules.history)
        last.append(found[-1])
        excursions += _excursions(found, latest)
    excursions.sort(key=lambda one: (one.first.period, one.first.group, one.first.measure))
    names = {group for group, _ in judged}
    most: dict[str, int] = defaultdict(int)
    for (group, _), one in series.items():
        most[group] = max(most[group], len(one.periods))
    reasons = {
        group: f"{most[group]} periods with enough recordings; {MIN_HISTORY + 1} are needed"
        for group in sorted(periods.recordings)
        if group not in names
    }
    return Baseline(last, excursions, reasons, latest, 0 if latest is None else compared[latest])


def _compare(group: str, measure: Measure, series: Series, rates: Sequence[float], history: int) -> list[Comparison]:
    """Compare every period after the first `MIN_HISTORY`.

    Periods that were out of range do not count as normal later, unless more of them than `history` follow each other:
    what lasts that long is the new normal.
    """
    centres, scales = _forecasts(series, history)
    left_out: set[int] = set()
    lasting = 0
    found = []
    for position in range(MIN_HISTORY, len(series.periods)):
        centre, scale, earlier = centres[position], scales[position], min(position, history)
        if left_out:
            used = [one for one in range(position) if one not in left_out][-history:]
            earlier = len(used)
            centre, scale = predicted(series.values[used], series.sampling[used], series.sampling[position])
        one = _comparison(group, measure, series, position, (float(centre), float(scale), earlier), rates[position])
        found.append(one)
        lasting = lasting + 1 if one.out else 0
        if lasting > history:
            left_out.clear()
        elif one.out:
            left_out.add(position)
    return found


def _forecasts(series: Series, history: int) -> tuple[Floats, Floats]:
    """Predict every period after the first `MIN_HISTORY` from all of up to `history` before it.

    Returns:
        Centres and standard deviations, (n,); the first `MIN_HISTORY` are NaN.
    """
    count = len(series.periods)
    centres, scales = np.full((2, count), np.nan)
    for position in range(MIN_HISTORY, min(history, count)):  # the window still grows
        centres[position], scales[position] = predicted(
            series.values[:position], series.sampling[:position], series.sampling[position]
        )
    if count > history:
        values = sliding_window_view(series.values, history)[:-1]
        sampling = sliding_window_view(series.sampling, history)[:-1]
        centres[history:], scales[history:] = predicted(values, sampling, series.sampling[history:])
    return centres, scales


def _comparison(
    group: str, measure: Measure, series: Series, position: int, forecast: tuple[float, float, int], rate: float
) -> Comparison:
    centre, scale, earlier = forecast
    value = float(series.values[position])
    # The threshold is for both sides together; a measure that can be worse on one side only has all of the rate there.
    reach = threshold(earlier, rate if measure.worse == "both" else 2 * rate) * scale
    count = int(series.counts[position])
    middle, here = shown(centre, measure.name, count), shown(value, measure.name, count)
    low = min(shown(centre - reach, measure.name, count), middle - measure.least)
    high = max(shown(centre + reach, measure.name, count), middle + measure.least)
    is_low = measure.worse != "above" and here < low
    is_high = measure.worse != "below" and here > high
    return Comparison(
        group=group,
        measure=measure.name,
        period=int(series.periods[position]),
        value=here,
        low=None if measure.worse == "above" else low,
        high=None if measure.worse == "below" else high,
        recordings=count,
        periods=earlier,
        deviation=(value - centre) / scale if scale > 0 else None,
        out=is_low or is_high,
    )


def _excursions(found: Sequence[Comparison], latest: int | None) -> list[Excursion]:
    """Join periods that follow each other among those of the group; a period with too few recordings is none."""
    runs: list[list[Comparison]] = []
    before: Comparison | None = None
    for one in found:
        if one.out and before is not None and before.out:
            runs[-1].append(one)
        elif one.out:
            runs.append([one])
        before = one
    is_current = _is_current(found[-1], latest)
    return [
        Excursion(run[0], run[-1], max(run, key=_severity), ongoing=is_current and run[-1] is found[-1]) for run in runs
    ]


def _severity(one: Comparison) -> float:
    return float("inf") if one.deviation is None else abs(one.deviation)
