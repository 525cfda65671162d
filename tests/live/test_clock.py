"""Clocks of legs: gaps, order, duplicates, drift; always without a real clock."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_qc.errors import ProtocolError
from speech_qc.live.clock import ArrivalClock, Missing, PositionClock

RATE = 8_000
PACKET = 160


def packet(index):
    """One packet whose samples are their positions."""
    return np.arange(index * PACKET, (index + 1) * PACKET, dtype=np.float32)


def timeline(items):
    """Return the position of each sample that was passed on, by counting, beside the value that it has."""
    at = 0
    places: list[int] = []
    values: list[float] = []
    for item in items:
        if isinstance(item, Missing):
            at += item.samples
            continue
        places += range(at, at + len(item))
        values += item.tolist()
        at += len(item)
    return places, values


def feed(clock, indices, *, interval_s=0.02, sequences=None):
    items = []
    for turn, index in enumerate(indices):
        sequence = None if sequences is None else sequences[turn]
        items += clock.take(packet(index), turn * interval_s, index * PACKET, sequence)
    return items + clock.finish()


def gaps(items):
    return [(item.samples, item.kind) for item in items if isinstance(item, Missing)]


def test_a_missing_packet_is_a_gap_at_its_place():
    items = feed(PositionClock(RATE, ordered=True), [0, 1, 3, 4, 8])
    places, values = timeline(items)
    assert places == values
    assert gaps(items) == [(160, "loss"), (480, "loss")]


def test_a_jump_without_a_missing_packet_is_no_loss():
    items = feed(PositionClock(RATE, ordered=False), [0, 1, 50, 51], sequences=[1, 2, 3, 4])
    assert gaps(items) == [(48 * 160, "dtx")]
    lost = feed(PositionClock(RATE, ordered=False), [0, 1, 3, *range(4, 30)], sequences=[1, 2, 4, *range(5, 31)])
    assert gaps(lost) == [(160, "loss")]


@given(seed=st.integers(0, 10_000), lost=st.sets(st.integers(1, 98), max_size=8))
@settings(max_examples=60)
def test_any_order_within_the_window_gives_the_same_as_the_right_order(seed, lost):
    indices = [index for index in range(100) if index not in lost]
    shuffled = [indices[0], *sorted(indices[1:], key=lambda i: i + random.Random(seed * 1000 + i).uniform(0, 4))]
    straight = feed(PositionClock(RATE, ordered=True), indices)
    clock: PositionClock[Any] = PositionClock(RATE, ordered=False)
    items = feed(clock, shuffled)

    assert timeline(items) == timeline(straight)
    assert gaps(items) == gaps(straight)
    assert clock.arrivals.late == clock.arrivals.duplicates == 0


def test_a_packet_that_comes_twice_is_dropped_and_one_that_comes_too_late_is_counted():
    clock: PositionClock[Any] = PositionClock(RATE, ordered=True)
    items = feed(clock, [0, 1, 1, 3, 2, 4])
    assert timeline(items)[0] == timeline(items)[1]
    assert gaps(items) == [(160, "loss")]
    assert (clock.arrivals.duplicates, clock.arrivals.late) == (1, 1)


def test_a_part_that_was_received_already_is_cut_off():
    clock: PositionClock[Any] = PositionClock(RATE, ordered=True)
    items = clock.take(packet(0), 0.0, 1000) + clock.take(np.arange(60, 240, dtype=np.float32), 0.02, 1060)
    assert timeline(items)[1] == list(range(240))


def test_rounded_timestamps_are_no_gaps():
    clock: PositionClock[Any] = PositionClock(RATE, ordered=True)
    rng = random.Random(1)
    items = [
        item
        for index in range(200)
        for item in clock.take(packet(index), index * 0.02, index * PACKET + rng.randint(-40, 40))
    ]
    assert not gaps(items)


def test_an_overtaken_packet_is_awaited_for_a_bounded_time():
    clock: PositionClock[Any] = PositionClock(RATE, ordered=False)
    clock.take(packet(0), 0.0, 0)
    assert clock.due_s is None
    assert clock.take(packet(2), 0.02, 2 * PACKET) == []
    assert clock.due_s == pytest.approx(0.22)
    assert clock.expire(0.2) == []
    assert gaps(clock.expire(0.23)) == [(160, "loss")]


def test_positions_that_begin_anew_lose_a_second_at_most():
    clock: PositionClock[Any] = PositionClock(RATE, ordered=True)
    feed(clock, range(500))
    items = [item for index in range(200) for item in clock.take(packet(index), 10 + index * 0.02, index * PACKET)]
    assert clock.arrivals.restarts == 1
    assert sum(len(item) for item in items if not isinstance(item, Missing)) >= 150 * PACKET


def test_a_jump_of_more_than_a_day_is_refused():
    clock: PositionClock[Any] = PositionClock(RATE, ordered=True)
    clock.take(packet(0), 0.0, 0)
    with pytest.raises(ProtocolError, match="jump"):
        clock.take(packet(1), 0.02, 2**53)


def test_memory_is_bounded_whatever_the_positions():
    clock: PositionClock[Any] = PositionClock(RATE, ordered=False)
    rng = random.Random(3)
    for turn in range(5_000):
        clock.take(packet(0), turn * 1e-4, rng.randrange(RATE * 3600))
        assert len(clock._held) <= 70


def arrive(clock, times_s):
    return [item for index, at_s in enumerate(times_s) for item in clock.take(packet(index), PACKET, at_s)] + list(
        clock.finish()
    )


def test_a_silent_source_is_a_gap_by_arrival():
    items = arrive(ArrivalClock(RATE), [0.02 * i + (1.0 if i >= 50 else 0.0) for i in range(100)])
    assert gaps(items) == [(8_000, "dtx")]


def test_jitter_and_a_stall_that_is_made_up_are_no_gaps():
    rng = random.Random(4)
    jitter = sorted(0.02 * i + rng.uniform(0, 0.1) for i in range(200))
    assert not gaps(arrive(ArrivalClock(RATE), jitter))
    stall = [max(0.02 * i, 1.5 + 0.0005 * i) if 40 <= i < 75 else 0.02 * i for i in range(150)]
    assert not gaps(arrive(ArrivalClock(RATE), stall))


def test_a_short_pause_after_a_single_packet_is_decided_by_time():
    clock: Any = ArrivalClock(RATE)
    arrive_first = [clock.take(packet(i), PACKET, 0.02 * i) for i in range(10)]
    assert all(arrive_first)
    assert clock.take(packet(10), PACKET, 0.9) == []
    assert clock.expire(clock.due_s - 0.01) == []
    missing, audio = clock.expire(clock.due_s)
    assert missing.samples == pytest.approx(0.7 * RATE, abs=2)
    assert audio[0] == 10 * PACKET


@pytest.mark.parametrize("ppm", [-200, 0, 200])
def test_drift_is_measured_and_makes_no_gap(ppm):
    pace = 0.02 / (1 + ppm * 1e-6)
    clock: ArrivalClock[int] = ArrivalClock(RATE)
    positions: PositionClock[Any] = PositionClock(RATE, ordered=True)
    found = []
    for index in range(90_000):  # half an hour
        at_s = pace * index
        found += [item for item in clock.take(0, PACKET, at_s) if isinstance(item, Missing)]
        if index % 10 == 0:
            positions.take(np.zeros(10 * PACKET, np.float32), at_s, index * PACKET)
    assert not found
    assert clock.drift_ppm == pytest.approx(ppm, abs=2)
    assert positions.drift_ppm == pytest.approx(ppm, abs=2)
