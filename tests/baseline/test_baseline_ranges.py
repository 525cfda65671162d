"""Normal ranges: the stated rate of false alarms, changes that are found, adaptation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from bench_baseline import DISTRIBUTIONS, START, detection, false_alarms, simulated

from speech_qc.baseline.measures import MEASURES
from speech_qc.baseline.observations import Observation, time_of
from speech_qc.baseline.periods import Periods, period_of, seconds_since_1970, start_of
from speech_qc.baseline.ranges import Baseline, Rules, baseline
from speech_qc.baseline.statistics import MIN_HISTORY, predicted, qn_scale, threshold


def day_series(values: list[float], group: str = "g", measure: str = "snr_db", count: int = 12) -> list[Observation]:
    """Return the same recordings on each day, spread a little around the day's value."""
    offsets = np.linspace(-1, 1, count)
    return [
        Observation(group, START + timedelta(days=day), {measure: value + offset})
        for day, value in enumerate(values)
        for offset in offsets
    ]


def compared(observations: list[Observation], rules: Rules = Rules()) -> Baseline:  # noqa: B008 - immutable
    periods = Periods("day", min_recordings=10)
    periods.add(observations)
    return baseline(periods, rules)


def usual(days: int, seed: int = 0, spread: float = 1.0) -> list[float]:
    return [25 + spread * value for value in np.random.default_rng(seed).standard_normal(days)]


class TestStatistics:
    @pytest.mark.parametrize("count", [2, 5, 10, 28, 29])
    def test_the_scale_of_normal_values_is_unbiased(self, count: int):
        values = 3 * np.random.default_rng(1).standard_normal((20_000, count))
        assert qn_scale(values).mean() == pytest.approx(3, rel=0.06)

    def test_outliers_hardly_change_the_scale(self):
        values = np.random.default_rng(1).standard_normal((2_000, 28))
        values[:, :6] = 1000
        assert qn_scale(values).mean() < 2

    @pytest.mark.slow
    @pytest.mark.parametrize("history", [MIN_HISTORY, 14, 28])
    def test_the_threshold_is_exceeded_at_most_at_its_rate(self, history: int):
        values = np.random.default_rng(history).standard_normal((20_000, history + 1))
        sampling = np.zeros_like(values[:, :-1])
        centre, scale = predicted(values[:, :-1], sampling, sampling[:, 0])
        deviation = np.abs(values[:, -1] - centre) / scale
        for rate in (0.05, 0.005):
            share = (deviation > threshold(history, rate)).mean()
            assert rate / 3 < share < 1.15 * rate, "neither too many alarms nor a threshold without use"

    def test_few_recordings_widen_the_range(self):
        history, sampling = np.random.default_rng(0).standard_normal(20), np.full(20, 0.1)
        _, few = predicted(history, sampling, np.array(2.0))
        _, many = predicted(history, sampling, np.array(0.001))
        _, same = predicted(history, sampling, np.array(0.1))
        assert few > 1.3 * same
        assert many == same, "more recordings than usual do not narrow it: days differ for other reasons"


class TestRanges:
    @pytest.mark.slow
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_false_alarms_stay_below_the_stated_rate(self, name: str):
        alarmed, judged = false_alarms(7, 3, 20, 50, DISTRIBUTIONS[name], 0.2)
        # At exactly the stated rate, more than this would have a probability of 1 in 1000.
        assert alarmed <= 0.2 * judged + 3.1 * np.sqrt(0.2 * 0.8 * judged)
        assert judged == 3 * 40

    @pytest.mark.slow
    def test_a_large_change_is_found_on_its_first_day_and_then_becomes_normal(self):
        found, lasted = detection(3, 3, 20, -16.0, history=20)
        assert found == 3
        assert lasted == pytest.approx(21, abs=2)

    def test_one_bad_day_is_named_with_its_range(self):
        values = usual(40)
        values[30] = 5.0
        found = compared([*day_series(values), *day_series(usual(40, seed=2), "other")])

        (one,) = found.excursions
        assert (one.first.group, one.first.measure) == ("g", "snr_db")
        assert start_of(one.first.period, "day") == (START + timedelta(days=30)).date().isoformat()
        assert one.first == one.last == one.worst and not one.ongoing
        assert one.worst.value == pytest.approx(5.0)
        assert one.worst.low is not None and 15 < one.worst.low < 23
        assert one.worst.high is None, "a better SNR is never out of range"
        assert one.worst.deviation is not None and one.worst.deviation < -10
        assert found.out_of_range == []
        assert found.compared == 2

    def test_a_lasting_fault_is_one_excursion_and_the_days_of_it_are_not_normal(self):
        values = usual(50)
        values[30:] = [value - 15 for value in values[30:]]
        found = compared(day_series(values))

        (one,) = found.excursions
        assert one.ongoing and one.last.period - one.first.period == 19
        assert found.out_of_range == ["g"]
        assert found.comparisons[0].low is not None and found.comparisons[0].low > 15, "still that of the good days"

    def test_after_as_long_as_the_history_the_change_is_normal(self):
        values = usual(80)
        values[30:] = [value - 15 for value in values[30:]]
        found = compared(day_series(values), Rules(history=20))
        assert [one.last.period - one.first.period + 1 for one in found.excursions] == [21]
        assert found.out_of_range == []

    def test_only_the_worse_side_counts(self):
        values = usual(40)
        values[35] = 60.0
        assert not compared(day_series(values)).excursions
        assert [one.first.measure for one in compared(day_series(values, measure="loudness_lufs")).excursions] == [
            "loudness_lufs"
        ]

    @pytest.mark.parametrize("measure", [one for one in MEASURES if one.name != "fail_ratio"], ids=lambda one: one.name)
    def test_a_change_too_small_to_matter_is_not_reported(self, measure):
        sign = 1 if measure.worse == "above" else -1
        for factor, expected in ((0.9, 0), (1.1, 1)):
            steady = [10.0] * 30 + [10.0 + sign * factor * measure.least]
            found = compared(
                [
                    Observation("g", START + timedelta(days=day), {measure.name: value})
                    for day, value in enumerate(steady)
                    for _ in range(10)
                ]
            )
            assert len(found.excursions) == expected, factor

    def test_the_share_of_failures(self):
        def day(number: int, fails: int) -> list[Observation]:
            time = START + timedelta(days=number)
            return [Observation("g", time, {"fail_ratio": float(call < fails)}) for call in range(40)]

        fails = np.random.default_rng(0).binomial(40, 0.05, 30)
        quiet = [one for number, count in enumerate(fails) for one in day(number, int(count))]
        assert not compared(quiet).excursions
        (one,) = compared([*quiet, *day(30, 20)]).excursions
        assert one.worst.value == pytest.approx(0.5)
        assert one.worst.high is not None and 0.05 < one.worst.high < 0.4
        assert one.ongoing

    def test_more_groups_need_a_greater_deviation(self):
        def low(groups: int) -> float:
            found = compared([one for g in range(groups) for one in day_series(usual(30, seed=5), f"g{g:02d}")])
            assert found.comparisons[0].low is not None
            return found.comparisons[0].low

        assert low(1) > low(10) + 0.5 > low(50) + 0.6

    def test_groups_with_too_little_are_named(self):
        found = compared(
            [
                *day_series(usual(MIN_HISTORY), "short"),
                *day_series(usual(30), "few", count=9),
                *day_series(usual(MIN_HISTORY + 1), "enough"),
            ]
        )
        assert {one.group for one in found.comparisons} == {"enough"}
        assert found.not_judged["short"].startswith("10 periods")
        assert found.not_judged["few"].startswith("0 periods")

    def test_a_group_without_recent_recordings_is_not_out_of_range_now(self):
        values = usual(30)
        values[29] = -20.0
        found = compared([*day_series(values), *day_series(usual(40, seed=4), "other")])
        assert [one.first.group for one in found.excursions] == ["g"]
        assert found.out_of_range == []

    def test_the_order_of_recordings_does_not_matter(self):
        observations = list(simulated(np.random.default_rng(0), 3, 20, DISTRIBUTIONS["normal"]))
        shuffled = [observations[i] for i in np.random.default_rng(1).permutation(len(observations))]
        assert compared(observations) == compared(shuffled)


class TestTimes:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            ("20260102", datetime(2026, 1, 2, tzinfo=UTC)),
            ("20260102T0304", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
            ("2026-01-02 03:04", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
            (1767323045, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            ("1767323045", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            (1767323045000, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            ("1767323045000", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
            ("yesterday", None),
            ("20261302", None),
            (float("nan"), None),
            (1e300, None),
            (True, None),
            (None, None),
        ],
    )
    def test_forms_of_times(self, value: object, expected: datetime | None):
        assert time_of(value) == expected

    def test_a_day_is_that_of_the_time_zone_and_an_hour_is_everywhere_the_same(self):
        late = datetime.fromisoformat("2026-01-02T00:30+09:00")
        assert start_of(period_of(late, "day"), "day") == "2026-01-02"
        assert start_of(period_of(late, "hour"), "hour") == "2026-01-01T15"
        assert period_of(late, "hour") == period_of(late.astimezone(UTC), "hour")

    @pytest.mark.parametrize("length", ["hour", "day", "week"])
    def test_the_first_and_last_times_of_all_have_a_period(self, length):
        zones = [timezone(timedelta(hours=hours)) for hours in (-12, 0, 14)]
        first, last = (
            [period_of(time.replace(tzinfo=zone), length) for zone in zones] for time in (datetime.min, datetime.max)
        )
        assert max(first) < min(last)

    @pytest.mark.parametrize(
        ("length", "start", "seconds"),
        [("hour", "2026-01-07T15", 1767798000), ("day", "2026-01-07", 1767744000), ("week", "2026-01-05", 1767571200)],
    )
    def test_starts_of_periods(self, length, start: str, seconds: float):
        period = period_of(datetime(2026, 1, 7, 15, 59, tzinfo=UTC), length)
        assert start_of(period, length) == start
        assert seconds_since_1970(period, length) == seconds
