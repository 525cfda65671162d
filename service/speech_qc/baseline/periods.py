"""Sums up the recordings of each group and period."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import numpy as np

from speech_qc.baseline.measures import FAIL_RATIO
from speech_qc.baseline.observations import Observation
from speech_qc.baseline.statistics import Floats, sampling_variance

PeriodLength = Literal["hour", "day", "week"]
MAX_AHEAD = timedelta(days=1)
"""Later than this after now, a time is wrong; up to it, a clock may be fast, or a local time lack its zone."""
_MAD = 1.4826
"""Standard deviation of normal values, relative to their median absolute deviation."""


def period_of(time: datetime, length: PeriodLength) -> int:
    """Number the periods: hours are UTC's; a day or week is one at the place of the call, in the time's own zone."""
    if length == "hour":
        return 24 * _EPOCH + (time - _START) // timedelta(hours=1)
    day = time.toordinal()
    return day if length == "day" else (day - 1) // 7


def start_of(period: int, length: PeriodLength) -> str:
    """Return the start of a period: `2026-01-02`, or `2026-01-02T03` for hours. Weeks start on Monday."""
    if length == "hour":
        return f"{date.fromordinal(period // 24).isoformat()}T{period % 24:02d}"
    return date.fromordinal(period if length == "day" else 7 * period + 1).isoformat()


def seconds_since_1970(period: int, length: PeriodLength) -> float:
    """Return the start of a period as a number; that of a day or week as if it were in UTC."""
    hours = {"hour": 1, "day": 24, "week": 168}[length]
    first = {"hour": 24 * _EPOCH, "day": _EPOCH, "week": (_EPOCH - 1) // 7}[length]
    start = date.fromordinal(_EPOCH) if length != "week" else date.fromordinal(7 * first + 1)
    return ((start - date.fromordinal(_EPOCH)) / timedelta(seconds=1)) + (period - first) * hours * 3600.0


_START = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH = _START.toordinal()


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
    """Collects the recordings of periods that have ended; keeps 4 bytes for each figure of each recording.

    The first recordings of a period are no sample of it: those of a day are of its night. Compared early, they would
    replace the result of the period before, and be compared again in each run until the period has ended.

    Args:
        length: Length of a period.
        min_recordings: A period with fewer recordings of a group is not used.
        now: Time, with a zone, at which periods have ended or not; None to read the clock.
    """

    def __init__(self, length: PeriodLength, min_recordings: int, now: datetime | None = None) -> None:
        self.length, self._least = length, min_recordings
        self._now = datetime.now(UTC) if now is None else now
        self._unfinished = self._wrong = 0
        self._last_wrong: datetime | None = None
        self._values: dict[tuple[str, str], dict[int, array[float]]] = defaultdict(lambda: defaultdict(_floats))
        self.recordings: dict[str, int] = defaultdict(int)
        """By group."""

    def add(self, observations: Iterable[Observation]) -> None:
        """Take recordings, in any order; those of periods that have not ended are counted only."""
        for one in observations:
            period = period_of(one.time, self.length)
            if period >= period_of(self._now.astimezone(one.time.tzinfo), self.length):
                self._leave_out(one.time)
                continue
            self.recordings[one.group] += 1
            for measure, value in one.values.items():
                self._values[one.group, measure][period].append(value)

    def _leave_out(self, time: datetime) -> None:
        if time - self._now <= MAX_AHEAD:
            self._unfinished += 1
        else:
            self._wrong += 1
            self._last_wrong = time if self._last_wrong is None else max(self._last_wrong, time)

    @property
    def left_out(self) -> dict[str, int]:
        """Recordings that were not used so far, by reason."""
        found = {}
        if self._unfinished:
            found[f"of {'an' if self.length == 'hour' else 'a'} {self.length} that has not ended"] = self._unfinished
        if self._last_wrong is not None:
            latest, got = (time.isoformat(timespec="minutes") for time in (self._now + MAX_AHEAD, self._last_wrong))
            found[f"dated in the future (expected {latest} at the latest, got up to {got})"] = self._wrong
        return found

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
