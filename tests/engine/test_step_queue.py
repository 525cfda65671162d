from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from engine_doubles import FLUSH, LANES, LIVE, UPLOAD

from speech_qc.engine.entry import Entry
from speech_qc.engine.protocols import Lane
from speech_qc.engine.queue import Batch, StepQueue
from speech_qc.errors import Overloaded


class Maker:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._session = 0

    def __call__(self, lane: Lane = LIVE, *, session: int | None = None, deadline_s: float = 30.0) -> Entry:
        self._session += 1
        number = self._session if session is None else session
        return Entry(number, 0, lane.name, np.zeros(1, np.float32), 0.0, deadline_s, self._loop.create_future())


@pytest.fixture
def entry() -> Iterator[Maker]:
    loop = asyncio.new_event_loop()
    yield Maker(loop)
    loop.close()


def make_queue(**options: int) -> StepQueue:
    return StepQueue(LANES, **{"max_batch": 4, "max_queue": 100} | options)


def collecting_queue() -> StepQueue:
    return StepQueue([replace(LIVE, collect_s=0.01), replace(FLUSH, collect_s=0.01), UPLOAD], max_batch=4, max_queue=9)


def push(queue: StepQueue, *entries: Entry) -> list[Entry]:
    for entry in entries:
        queue.push(entry)
    return list(entries)


def lane_of(batch: Batch) -> str | None:
    return None if batch.lane is None else batch.lane.name


def test_nothing_waiting_gives_an_empty_batch() -> None:
    batch = make_queue().pop(0.0)
    assert (batch.lane, batch.entries, batch.dropped) == (None, [], [])


def test_batch_is_oldest_first_and_bounded(entry: Maker) -> None:
    queue = make_queue()
    pushed = push(queue, *(entry() for _ in range(6)))
    assert queue.pop(0.0).entries == pushed[:4]
    assert queue.pop(0.0).entries == pushed[4:]
    assert len(queue) == 0


def test_batch_is_from_one_lane(entry: Maker) -> None:
    queue = make_queue()
    push(queue, entry(UPLOAD), entry(LIVE), entry(FLUSH), entry(LIVE))
    batches = [queue.pop(0.0) for _ in range(3)]
    assert [(lane_of(batch), len(batch.entries)) for batch in batches] == [("live", 2), ("flush", 1), ("upload", 1)]


def test_live_that_came_later_overtakes_upload(entry: Maker) -> None:
    queue = make_queue()
    upload, live = push(queue, entry(UPLOAD), entry(LIVE))
    assert queue.pop(0.0).entries == [live]
    assert queue.pop(0.0).entries == [upload]


def test_upload_gets_a_turn_while_live_never_pauses(entry: Maker) -> None:
    queue = make_queue(max_passes=3)
    push(queue, entry(UPLOAD))
    lanes = []
    for _ in range(5):
        push(queue, entry(LIVE))
        lanes.append(lane_of(queue.pop(0.0)))
    assert lanes == ["live", "live", "live", "upload", "live"]


def test_live_entry_waits_for_one_lower_step_at_most(entry: Maker) -> None:
    queue = make_queue(max_batch=1, max_passes=1)
    backlog = push(queue, entry(LIVE), entry(LIVE), entry(LIVE))
    push(queue, entry(UPLOAD), entry(UPLOAD))
    assert queue.pop(0.0).entries == backlog[:1]
    assert lane_of(queue.pop(0.0)) == "upload"  # overdue: overtakes the two pending ones
    assert queue.pop(0.0).entries == backlog[1:2]
    assert queue.pop(0.0).entries == backlog[2:], "an upload overtook an entry for the second time"
    assert lane_of(queue.pop(0.0)) == "upload"


def test_live_entry_that_came_during_an_upload_step_is_not_overtaken(entry: Maker) -> None:
    queue = make_queue(max_batch=1, max_passes=1)
    push(queue, *(entry(UPLOAD) for _ in range(2)))
    assert lane_of(queue.pop(0.0)) == "upload"
    during = push(queue, *(entry(LIVE) for _ in range(3)))
    assert [queue.pop(0.0).entries[0] for _ in range(3)] == during


@pytest.mark.parametrize("seed", range(5))
def test_no_wait_is_unbounded_under_random_load(entry: Maker, seed: int) -> None:
    rng = np.random.default_rng(seed)
    queue = make_queue(max_batch=2, max_queue=12, max_passes=3)
    came: dict[int, int] = {}  # session to the step during which it was pushed
    lower_steps: dict[int, int] = {}  # steps of lower lanes since an entry's arrival, including that step
    priority = {lane.name: lane.priority for lane in LANES}
    waiting: dict[int, Entry] = {}
    served_last: str | None = None
    longest = 0
    for step in range(600):
        for lane in rng.choice(np.array(LANES, object), size=rng.integers(0, 5), p=[0.2, 0.6, 0.2]):
            new = entry(lane)
            try:
                queue.push(new)
            except Overloaded:
                continue
            came[new.session], waiting[new.session] = step, new
            lower_steps[new.session] = int(served_last is not None and priority[served_last] > lane.priority)
        batch = queue.pop(0.0)
        served_last = lane_of(batch)
        for done in batch.entries:
            del waiting[done.session]
            longest = max(longest, step - came[done.session])
        for other in waiting.values():
            if served_last is not None and priority[served_last] > priority[other.lane]:
                lower_steps[other.session] += 1
    assert max(lower_steps.values()) == 1
    assert longest <= 40


def test_cancelled_and_late_entries_are_dropped_with_their_reason(entry: Maker) -> None:
    queue = make_queue()
    cancelled, late, good, late_upload = push(
        queue, entry(), entry(deadline_s=5.0), entry(), entry(UPLOAD, deadline_s=5)
    )
    cancelled.reply.cancel()
    batch = queue.pop(5.0)
    assert batch.entries == [good]
    assert batch.dropped == [(cancelled, "cancelled"), (late, "deadline"), (late_upload, "deadline")]
    assert len(queue) == 0


def test_dropped_entries_take_no_place_in_the_batch(entry: Maker) -> None:
    queue = make_queue()
    pushed = push(queue, *(entry() for _ in range(6)))
    pushed[1].reply.cancel()
    pushed[3].reply.cancel()
    assert queue.pop(0.0).entries == [pushed[k] for k in (0, 2, 4, 5)]


def test_lane_of_cancelled_entries_alone_is_not_served(entry: Maker) -> None:
    queue = make_queue()
    gone, upload = push(queue, entry(LIVE), entry(UPLOAD))
    gone.reply.cancel()
    batch = queue.pop(0.0)
    assert batch.entries == [upload]
    assert batch.dropped == [(gone, "cancelled")]


def test_full_queue_refuses_and_keeps_what_it_has(entry: Maker) -> None:
    queue = make_queue(max_queue=2)
    pushed = push(queue, entry(), entry(UPLOAD))
    with pytest.raises(Overloaded, match="at most 2"):
        queue.push(entry())
    assert queue.clear() == pushed


def test_second_entry_of_a_session_is_a_programming_error(entry: Maker) -> None:
    queue = make_queue()
    push(queue, entry(session=7))
    with pytest.raises(RuntimeError, match="session 7"):
        queue.push(entry(UPLOAD, session=7))
    queue.pop(0.0)
    queue.push(entry(session=7))


def test_unknown_lane_names_the_known_ones(entry: Maker) -> None:
    with pytest.raises(ValueError, match="live, flush, upload"):
        make_queue().push(entry(Lane("batch", 2, 9)))


@pytest.mark.parametrize(
    "lanes", [[], [LIVE, Lane("live", 2, 5)], [LIVE, Lane("other", 2, LIVE.priority)]], ids=["none", "name", "priority"]
)
def test_clashing_lanes_are_refused(lanes: list[Lane]) -> None:
    with pytest.raises(ValueError, match="different names and priorities"):
        StepQueue(lanes, max_batch=1, max_queue=1)


@pytest.mark.parametrize("bound", ["max_batch", "max_queue", "max_passes"])
def test_bounds_below_one_are_refused(bound: str) -> None:
    with pytest.raises(ValueError, match=f"{bound}=0"):
        make_queue(**{bound: 0})


@pytest.mark.parametrize(("load", "wait_s"), [(0.0, 0.0), (0.06, 0.0), (0.125, 0.005), (0.2, 0.01), (1.0, 0.01)])
def test_the_wait_for_more_entries_grows_with_the_load(entry: Maker, load: float, wait_s: float) -> None:
    queue = collecting_queue()
    push(queue, entry(LIVE))
    assert queue.wait_s(0.0, load) == pytest.approx(wait_s)


def test_the_wait_counts_from_the_oldest_entry_of_any_lane(entry: Maker) -> None:
    queue = collecting_queue()
    push(queue, entry(LIVE), entry(FLUSH))
    assert queue.wait_s(0.004, 1.0) == pytest.approx(0.006)
    assert queue.wait_s(0.0095, 1.0) == 0.0  # too short for a timer
    assert queue.wait_s(0.02, 1.0) == 0.0


def test_the_wait_counts_from_an_announcement_as_from_an_entry(entry: Maker) -> None:
    queue = collecting_queue()
    assert queue.wait_s(0.004, 1.0, announced_s=0.0) == pytest.approx(0.006)
    assert queue.wait_s(0.004, 0.0, announced_s=0.0) == 0.0
    push(queue, entry(LIVE))
    assert queue.wait_s(0.005, 1.0, announced_s=0.002) == pytest.approx(0.005)


def test_nothing_waits_for_a_full_batch_or_beside_a_lane_that_does_not_collect(entry: Maker) -> None:
    queue = collecting_queue()
    assert queue.wait_s(0.0, 1.0) == 0.0
    push(queue, *(entry(LIVE) for _ in range(3)))
    assert queue.wait_s(0.0, 1.0) == pytest.approx(0.01)
    push(queue, entry(LIVE))
    assert queue.wait_s(0.0, 1.0) == 0.0
    queue.pop(0.0)
    push(queue, entry(LIVE), entry(UPLOAD))
    assert queue.wait_s(0.0, 1.0) == 0.0
    assert lane_of(queue.pop(0.0)) == "live"  # priorities are kept
    assert queue.wait_s(0.0, 1.0) == 0.0


def test_a_lane_does_not_collect_unless_told_to(entry: Maker) -> None:
    queue = make_queue()
    push(queue, entry(LIVE))
    assert queue.wait_s(0.0, 1.0) == 0.0
