"""Sums up the recordings of each group and period."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

import numpy as np

from speech_qc.baseline.measures import FAIL_RATIO
from speech_qc.baseline.observations import Observation
from speech_qc.baseline.statistics import Floats, sampling_variance

PeriodLength = Literal["hour", "day", "week"]
_MAD = 1.4826
"""Standard deviation of normal values, relative to their median absolute deviation."""


def period_of(time: datetime, length: PeriodLength) -> int:
    """Number the periods; in the time zone of the time itself, so that a day is a day at the place of the call."""
    day = time.toordinal()
    if length == "hour":
        return 24 * day + time.hour
    return day if length == "day" else (day - 1) // 7


def start_of(period: int, length: PeriodLength) -> str:
    """Return the start of a period: `2026-01-02`, or `2026-01-02T03` for hours. Weeks start on Monday."""
    if length == "hour":
        return f"{date.fromordinal(period // 24).isoformat()}T{period % 24:02d}"
    return date.fromordinal(period if length == "day" else 7 * period + 1).isoformat()


def seconds_since_1970(period: int, length: PeriodLength) -> float:
    """Return the start of a period as a number, as if it were in UTC."""
    hours = {"hour": 1, "day": 24, "week": 168}[length]
    first = {"hour": 24 * _EPOCH, "day": _EPOCH, "week": (_EPOCH - 1) // 7}[length]
    start = date.fromordinal(_EPOCH) if length != "week" else date.fromordinal(7 * first + 1)
    return ((start - date.fromordinal(_EPOCH)) / timedelta(seconds=1)) + (period - first) * hours * 3600.0


_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Series:
    """One measure of one group: a value for each period with enough recordings, in order.

    Shares of recordings are on the scale asin(√share), where their variance hardly depends on the share.

    Args:
        periods: Numbers of the periods, int64 (n,).
        values: Median of the recordings of each period, or transformed share, (n,).
        sampling: Variance of each value, because it is of so many recordings only, (n,).
        counts: Recordings in each period, int64 (n,).
    """

    periods: np.ndarray[tuple[int], np.dtype[np.int64]]
    values: Floats
    sampling: Floats
    counts: np.ndarray[tuple[int], np.dtype[np.int64]]


class Periods:
    """Collects recordings; keeps 4 bytes for each figure of each recording.

    Args:
        length: Length of a period.
        min_recordings: A period with fewer recordings of a group is not used.
    """

    def __init__(self, length: PeriodLength, min_recordings: int) -> None:
        self.length, self._least = length, min_recordings
        self._values: dict[tuple[str, str], dict[int, array[float]]] = defaultdict(lambda: defaultdict(_floats))
        self.recordings: dict[str, int] = defaultdict(int)
        """By group."""
        self.latest: int | None = None
        """The last period of all."""

    def add(self, observations: Iterable[Observation]) -> None:
        """Take recordings, in any order."""
        for one in observations:
            period = period_of(one.time, self.length)
            self.latest = period if self.latest is None else max(self.latest, period)
            self.recordings[one.group] += 1
            for measure, value in one.values.items():
                self._values[one.group, measure][period].append(value)

    def series(self) -> dict[tuple[str, str], Series]:
        """Return the series of each group and measure with at least one period, in order of the groups' names."""
        found = {}
        for key in sorted(self._values):
            by_period = self._values[key]
            used = [period for period in sorted(by_period) if len(by_period[period]) >= self._least]
            if used:
                make = _shares if key[1] == FAIL_RATIO else _medians
                samples = [np.asarray(by_period[period], np.float64) for period in used]
                counts = np.array([len(sample) for sample in samples])
                values, sampling = make(samples, counts)
                found[key] = Series(np.array(used), values, sampling, counts)
        return found


def _floats() -> array[float]:
    return array("f")


def _medians(samples: list[Floats], counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Floats, Floats]:
    centres = np.array([np.median(sample) for sample in samples])
    pairs = zip(samples, centres, strict=True)
    spreads = [_MAD * np.median(np.abs(sample - centre)) for sample, centre in pairs]
    return centres, np.asarray(sampling_variance(np.median(spreads), counts))


def _shares(samples: list[Floats], counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[Floats, Floats]:
    hits = np.array([sample.sum() for sample in samples])
    # Anscombe's transformation: variance 1 / (4 n), except near 0 and 1, where it is smaller.
    return np.arcsin(np.sqrt((hits + 0.375) / (counts + 0.75))), 1 / (4.0 * counts)


def shown(value: float, measure: str, count: int) -> float:
    """Return a value of a series in the measure's own unit.

    Args:
        value: The value.
        measure: Name of the measure.
        count: Number of recordings in the period.
    """
    if measure != FAIL_RATIO:
        return value
    share = float(np.sin(np.clip(value, 0.0, np.pi / 2)) ** 2)
    return float(np.clip((share * (count + 0.75) - 0.375) / count, 0.0, 1.0))
