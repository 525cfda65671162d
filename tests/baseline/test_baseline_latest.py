"""Which period is the latest one, and which excursions go on: unfinished periods, wrong clocks, quiet groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from speech_qc.baseline.observations import Observation
from speech_qc.baseline.periods import MAX_AHEAD, PeriodLength, Periods, start_of
from speech_qc.baseline.ranges import Baseline, Rules, baseline

START = datetime(2026, 1, 1, 8, tzinfo=UTC)
DAYS = 30
AFTER_MIDNIGHT = datetime(2026, 1, 31, 0, 30, tzinfo=UTC)
"""Half an hour after the last day of `history`."""


def on(day: float, group: str, count: int, snr_db: float = 25.0) -> list[Observation]:
    """Return recordings of one group; day 0 is the first."""
    time = START + timedelta(days=day)
    return [Observation(group, time, {"snr_db": snr_db + n / count}) for n in range(count)]


def history(days: Mapping[str, int], faults: Iterable[int] = (27, 28, 29)) -> list[Observation]:
    """Return some days of each group; the SNR of the one named south is low on some of them."""
    rng = np.random.default_rng(0)
    return [
        one
        for group, number in days.items()
        for day in range(number)
        for one in on(day, group, 40, 25 + rng.normal() - (18 if group == "south" and day in faults else 0))
    ]


ALL = {"north": DAYS, "south": DAYS, "west": DAYS}


def compared(
    observations: Iterable[Observation], now: datetime = AFTER_MIDNIGHT, length: PeriodLength = "day"
) -> tuple[Baseline, Periods]:
    periods = Periods(length, min_recordings=10, now=now)
    periods.add(observations)
    return baseline(periods, Rules()), periods


def latest_day(found: Baseline) -> str:
    assert found.latest is not None
    return start_of(found.latest, "day")


@pytest.mark.parametrize("count", [0, 1, 12])
@pytest.mark.parametrize("group", ["west", "south"])
def test_recordings_of_the_next_day_do_not_end_an_excursion(group: str, count: int):
    early = [Observation(group, AFTER_MIDNIGHT - timedelta(minutes=n), {"snr_db": 25.0}) for n in range(1, count + 1)]
    found, periods = compared([*history(ALL), *early])

    (one,) = found.excursions
    assert one.ongoing and one.last.period == found.latest
    assert found.out_of_range == ["south"]
    assert (latest_day(found), found.compared) == ("2026-01-30", 3)
    assert sum(periods.left_out.values()) == count
    assert set(periods.left_out) <= {"of a day that has not ended"}


def test_a_day_with_too_few_recordings_to_compare_is_not_the_latest():
    found, periods = compared([*history(ALL), *on(DAYS, "west", 9), *on(DAYS, "new", 40)], START + timedelta(days=31))
    assert (latest_day(found), found.compared, found.out_of_range) == ("2026-01-30", 3, ["south"])
    assert periods.recordings["new"] == 40 and set(found.not_judged) == {"new"}


def test_recordings_of_a_wrong_clock_are_left_out_with_the_reason():
    wrong = datetime(2036, 2, 7, 6, 28, tzinfo=UTC)
    extra = [Observation("west", wrong, {"snr_db": 25.0})] * 12
    found, periods = compared([*history(ALL), *extra])
    assert (latest_day(found), found.compared, found.out_of_range) == ("2026-01-30", 3, ["south"])
    expected = "dated in the future (expected 2026-02-01T00:30+00:00 at the latest, got up to {}+00:00)"
    assert periods.left_out == {expected.format("2036-02-07T06:28"): 12}
    extra.insert(0, Observation("west", datetime.max.replace(tzinfo=UTC), {}))
    assert compared(extra)[1].left_out == {expected.format("9999-12-31T23:59"): 13}


def test_a_clock_that_is_a_little_fast_only_delays():
    fast = [Observation("west", AFTER_MIDNIGHT + MAX_AHEAD, {"snr_db": 25.0})] * 12
    assert compared(fast)[1].left_out == {"of a day that has not ended": 12}
    assert compared(fast, AFTER_MIDNIGHT + 2 * MAX_AHEAD)[1].left_out == {}


def test_a_group_with_few_recordings_is_not_back_in_its_range_because_a_busier_one_is_compared():
    days = {"north": DAYS + 2, "south": DAYS, "west": DAYS}
    few = [*on(DAYS, "south", 9), *on(DAYS + 1, "south", 9)]
    observations = [*history(days), *few]
    next_day = [one for one in observations if one.time < START + timedelta(days=DAYS + 0.5)]

    found, _ = compared(next_day, AFTER_MIDNIGHT + timedelta(days=1))
    assert (latest_day(found), found.compared) == ("2026-01-31", 1)
    assert found.out_of_range == ["south"] and found.judged == ["north", "south", "west"]
    assert [start_of(one.last.period, "day") for one in found.excursions] == ["2026-01-30"]

    found, _ = compared(observations, AFTER_MIDNIGHT + timedelta(days=2))
    assert latest_day(found) == "2026-02-01"
    assert found.out_of_range == [] and found.judged == ["north"]
    assert not found.excursions[0].ongoing


@pytest.mark.parametrize("back", [[29], [28, 29]])
def test_an_excursion_ends_where_the_group_is_back_in_its_range(back: list[int]):
    found, _ = compared(history(ALL, faults={26, 27, 28, 29} - set(back)))
    (one,) = found.excursions
    assert not one.ongoing and found.out_of_range == []
    assert start_of(one.last.period, "day") == f"2026-01-{back[0]:02d}"
    assert found.judged == ["north", "south", "west"]


def test_nothing_is_the_latest_where_nothing_is_compared():
    found, periods = compared(history({"north": 10, "south": 10}))
    assert (found.latest, found.compared, found.out_of_range, found.judged) == (None, 0, [], [])
    assert set(found.not_judged) == {"north", "south"} and periods.left_out == {}
    assert compared([])[0].latest is None


def test_the_latest_hour_is_the_same_in_every_zone():
    east, west = timezone(timedelta(hours=9)), timezone(timedelta(hours=-5))
    observations = [
        Observation(group, (START + timedelta(hours=hour)).astimezone(zone), {"snr_db": 25.0 + n / 12 - fault})
        for group, zone in (("east", east), ("west", west))
        for hour in range(DAYS)
        for n in range(12)
        for fault in [18 if group == "west" and hour == DAYS - 1 else 0]
    ]
    found, _ = compared(observations, length="hour")
    assert (found.compared, found.out_of_range) == (2, ["west"])


@pytest.mark.parametrize(("zone", "has_ended"), [("+09:00", True), ("+00:00", False), ("-05:00", False)])
def test_a_day_ends_where_the_recording_was_made(zone: str, has_ended: bool):
    one = Observation("g", datetime.fromisoformat(f"2026-01-30T20:00{zone}"), {"snr_db": 25.0})
    _, periods = compared([one], datetime(2026, 1, 30, 15, 30, tzinfo=UTC))
    assert periods.recordings == ({"g": 1} if has_ended else {})
    assert periods.left_out == ({} if has_ended else {"of a day that has not ended": 1})


@pytest.mark.parametrize(
    ("length", "ended", "reason"),
    [
        ("hour", datetime(2026, 1, 30, 23, 59, tzinfo=UTC), "of an hour that has not ended"),
        ("day", datetime(2026, 1, 30, 23, 59, tzinfo=UTC), "of a day that has not ended"),
        ("week", datetime(2026, 1, 25, 23, 59, tzinfo=UTC), "of a week that has not ended"),
    ],
)
def test_every_kind_of_period_counts_from_its_end(length: PeriodLength, ended: datetime, reason: str):
    times = [ended, ended + timedelta(minutes=1), AFTER_MIDNIGHT]
    _, periods = compared([Observation("g", time, {"snr_db": 25.0}) for time in times], length=length)
    assert periods.recordings == {"g": 1}
    assert periods.left_out == {reason: 2}
