"""Gaps of any length in the legs of a call: they cost no more than short ones, and change no answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from call_records import LABELS, Leg
from numpy.typing import NDArray
from test_calls_registry import CONTRACT, Kept, info, made
from test_exchange import Parent, settle

from speech_qc.calls import call as call_module
from speech_qc.calls import interaction as interaction_module
from speech_qc.calls.exchange import Item
from speech_qc.calls.interaction import Interaction
from speech_qc.calls.legs import LegFeed
from speech_qc.calls.meter import LegMeter
from speech_qc.calls.records import FRAME_SAMPLES, RECORD_FRAMES, AnyRecord, Flag, GapRecord, LegRecord
from speech_qc.wire.vocabulary import GapKind

DAY_S = 86_400
KINDS: tuple[GapKind, ...] = ("loss", "dtx", "hold")
SPEECH = CONTRACT.index("speech")


def one_by_one(records: list[AnyRecord]) -> list[LegRecord]:
    """Return gaps as the records that they stand for."""
    found: list[LegRecord] = []
    for record in records:
        if isinstance(record, LegRecord):
            found.append(record)
            continue
        assert record.frames % RECORD_FRAMES == 0
        for first in range(record.first_frame, record.first_frame + record.frames, RECORD_FRAMES):
            nothing = np.zeros(RECORD_FRAMES, np.uint8)
            band = np.zeros(RECORD_FRAMES * FRAME_SAMPLES, np.int8)
            peaks, sums = np.zeros(RECORD_FRAMES, np.float32), np.zeros(LABELS, np.float32)
            counts = np.zeros(LABELS, np.uint8)
            found.append(LegRecord(first, nothing + np.uint8(record.flag), nothing, peaks, band, sums, counts))
    return found


# -- the records of a leg ----------------------------------------------------------------------------------------------


def metered(parts: list[tuple[int, GapKind | None]], sound: NDArray[np.float32], *, skip: bool) -> list[AnyRecord]:
    """Return the records of frames of sound and of gaps, whose scores are skipped, or else are NaN."""
    records: list[AnyRecord] = []
    meter = LegMeter(CONTRACT, records.append)
    frame = 0
    for frames, kind in parts:
        stop = frame + frames
        scores = np.full((frames, len(CONTRACT.labels)), 0.9, np.float32)
        if kind is None:
            meter.heard(frame * 320, sound[: frames * 320])
            meter.scored(frame, scores)
        else:
            meter.gap(frame * 320, stop * 320, kind)
            if not skip:
                meter.scored(frame, scores * np.nan)
        frame = stop
    meter.finish()
    return records


@pytest.mark.parametrize("seed", range(20))
def test_a_gap_stands_for_the_records_that_it_replaces(seed):
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal(320 * 100).astype(np.float32) * np.float32(0.1)
    parts: list[tuple[int, GapKind | None]] = [(int(rng.integers(1, 100)), None)]
    for _ in range(6):
        parts += [(int(rng.integers(1, 150)), KINDS[rng.integers(3)]) for _ in range(rng.integers(1, 3))]
        parts.append((int(rng.integers(1, 100)), None))
    short, long = metered(parts, sound, skip=True), metered(parts, sound, skip=False)

    assert any(isinstance(record, GapRecord) for record in short)
    assert not any(isinstance(record, GapRecord) for record in long)
    for one, other in zip(one_by_one(short), one_by_one(long), strict=True):
        for name in ("first_frame", "flags", "levels", "peaks", "band"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


def test_the_records_of_a_gap_are_as_few_for_a_day_as_for_a_minute():
    sound = np.zeros(320 * 60, np.float32)
    counts = [
        len(metered([(60, None), (50 * seconds + 7, "hold"), (60, None)], sound, skip=True)) for seconds in (60, DAY_S)
    ]

    assert counts[0] == counts[1] < 10


def test_gaps_that_follow_on_each_other_are_one():
    sound = np.zeros(320 * 60, np.float32)
    touching: list[tuple[int, GapKind | None]] = [(40, "loss")] * 5_000
    same = metered([(60, None), *touching, (60, None)], sound, skip=True)
    assert len(same) < 10
    changing: list[tuple[int, GapKind | None]] = [(60, "loss"), (60, "hold")]
    several = metered([(60, None), *changing * 2, (60, None)], sound, skip=True)
    assert sorted({record.flag for record in several if isinstance(record, GapRecord)}) == [Flag.LOST, Flag.HELD]
    assert len(metered([(60, None), *changing * 5_000, (60, None)], sound, skip=True)) < 100


# -- the analysis ------------------------------------------------------------------------------------------------------


def told(interaction: Interaction, updates: list[Any]) -> dict[str, Any]:
    """Return everything that an analysis tells."""
    return {
        "updates": [(update.phase, astuple(update.event)) for update in updates],
        "events": [astuple(event) for event in interaction.events_now],
        "shares": [
            (share.talk_ratio, share.silence_ratio, share.interruptions, share.responses.counts.tolist())
            for share in map(interaction.share, (0, 1))
        ],
        "late": [interaction.late_frames(leg) for leg in (0, 1)],
        "frames": interaction.frames,
    }


def random_gaps(rng: np.random.Generator, records: int) -> list[tuple[int, int]]:
    """Return where gaps begin and end, in records."""
    gaps: list[tuple[int, int]] = []
    first = int(rng.integers(4, 20))
    while first < records - 2:
        stop = min(records - 1, first + int(rng.choice([1, 2, 5, 11, 13, 14, 20, 60])))
        gaps.append((first, stop))
        first = stop + int(rng.integers(1, 30))
    return gaps


def random_leg(rng: np.random.Generator, gaps: list[tuple[int, int]], records: int) -> list[AnyRecord]:
    """A leg that talks, mostly just before and after gaps, and plays music."""
    leg = Leg(records * 0.5, noise_dbfs=-60, seed=int(rng.integers(1_000)))
    for edge in [edge for gap in gaps for edge in gap] + rng.integers(0, records, 3).tolist():
        start, length = edge * 0.5 - rng.random() * 6, rng.random() * 9
        if rng.random() < 0.6:
            flag = Flag.MUSIC if rng.random() < 0.1 else Flag.TALK
            leg.play(max(0.0, start), min(records * 0.5, max(0.0, start) + length), flag)
    found: list[AnyRecord] = []
    for first, stop in gaps:
        flag = int(rng.choice([0, Flag.LOST, Flag.SILENT, Flag.HELD]))
        leg.mark(first * 0.5, stop * 0.5, flag)
        found.append(GapRecord(first * RECORD_FRAMES, (stop - first) * RECORD_FRAMES, flag))
    missing = {place for first, stop in gaps for place in range(first, stop)}
    found += [record for place, record in enumerate(leg.records()) if place not in missing]
    return sorted(found, key=lambda record: record.first_frame)


def random_legs(rng: np.random.Generator) -> list[list[AnyRecord]]:
    """Two legs, of which often the same times are missing."""
    records = int(rng.integers(100, 300))
    both = random_gaps(rng, records)
    return [random_leg(rng, both if rng.random() < 0.7 else random_gaps(rng, records), records) for _ in range(2)]


def played(legs: list[list[AnyRecord]], offset: int, order: list[int], *, lag: int = 2**40) -> dict[str, Any]:
    """Analyse records of both legs in an order, waiting for a leg for ever, or as long as a call does."""
    interaction = Interaction()
    interaction.begin(0, 0)
    interaction.begin(1, offset)
    waiting = [iter(leg) for leg in legs]
    updates: list[Any] = []
    for leg in order:
        record = next(waiting[leg], None)
        if record is None:
            interaction.finish(leg)
            continue
        interaction.push(leg, record)
        if len(updates) == 7 and lag < 2**40:
            interaction.prove(leg)
        updates += interaction.advance(lag)
    return told(interaction, updates + interaction.close())


@pytest.mark.parametrize("seed", range(30))
def test_steps_that_are_passed_over_give_the_same_answer_as_steps_one_by_one(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    legs = random_legs(rng)
    offset = int(rng.integers(0, 3_000)) if rng.random() < 0.5 else 0
    order = rng.integers(0, 2, 2 * max(map(len, legs))).tolist()
    found = played(legs, offset, order), played(legs, offset, order, lag=400)
    one_after_the_other = [0] * (len(legs[0]) + 1) + [1] * 2 * max(map(len, legs))
    whole = played(legs, offset, one_after_the_other)
    monkeypatch.setattr(interaction_module, "SETTLED_STEPS", 2**40)

    assert found == (played(legs, offset, order), played(legs, offset, order, lag=400))
    stepped = [one_by_one(leg) for leg in legs]
    expected = played(stepped, offset, [0] * (len(stepped[0]) + 1) + [1] * (len(stepped[1]) + 1))  # type: ignore[arg-type]
    assert whole == expected


def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the steps of all analyses from now on."""
    count = [0]
    step = Interaction._step

    def counted(self: Interaction, frames: int) -> None:
        count[0] += 1
        step(self, frames)

    monkeypatch.setattr(Interaction, "_step", counted)
    return count


def test_a_leg_that_begins_a_day_later_costs_no_more_than_one_that_begins_a_minute_later(monkeypatch):
    count = steps(monkeypatch)
    counts = []
    for other_is_open in (False, True):
        for seconds in (60, DAY_S):
            count[0] = 0
            interaction = Interaction()
            interaction.begin(0, 0)
            for record in Leg(2).records():
                interaction.push(0, record)
            if not other_is_open:
                interaction.finish(0)
            interaction.advance()
            interaction.begin(1, 50 * seconds)
            interaction.advance(25)
            for record in Leg(2).say(0, 1).records():
                interaction.push(1, record)
            interaction.close()
            assert interaction.frames == 50 * (seconds + 2)
            counts.append(count[0])
    assert counts[0] == counts[1] < 60
    assert counts[2] == counts[3] < 60


def test_a_leg_that_comes_back_within_a_declared_gap_ends_it_and_leaves_nothing_behind():
    interaction = Interaction()
    interaction.begin(0, 0)
    interaction.push(0, GapRecord(0, 50 * DAY_S, Flag.HELD))
    interaction.finish(0)
    interaction.begin(0, 500)
    for record in Leg(60).records():
        interaction.push(0, record)
    interaction.begin(1, 0)
    for record in Leg(70).records():
        interaction.push(1, record)
    interaction.advance()

    assert interaction.frames == 3_500
    assert not interaction._tracks[0]._records
    assert interaction.share(0).silence_ratio == 1.0


# -- calls -------------------------------------------------------------------------------------------------------------


def hear(feed: LegFeed, first: int, seconds: float, seed: int = 0) -> None:
    """Send speech, half a second at a time."""
    leg = Leg(seconds, seed=seed).say(0, seconds)
    for place in range(0, leg.frames, RECORD_FRAMES):
        frames = min(RECORD_FRAMES, leg.frames - place)
        feed.heard((first + place) * 320, np.repeat(leg.sound[place * 80 : (place + frames) * 80], 4))
        scores = np.zeros((frames, len(CONTRACT.labels)), np.float32)
        scores[:, SPEECH] = 0.9
        feed.scored(first + place, scores, [])


@pytest.mark.parametrize("legs", [1, 2])
def test_a_day_on_hold_costs_a_call_no_more_steps_and_events_than_a_minute(legs, monkeypatch):
    count = steps(monkeypatch)

    async def run(seconds: int) -> tuple[int, int]:
        sink = Kept()
        calls = made(sink)
        feeds = [calls.join(info(leg=name)) for name in ("agent", "customer")[:legs]]
        for feed in feeds:
            hear(feed, 0, 2)
        before, count[0] = len(sink.of("scores")), 0
        for feed in feeds:
            feed.gap(32_000, 32_000 + seconds * 16_000, "hold")
            hear(feed, 100 + 50 * seconds, 0.5)
        found = len(sink.of("scores")) - before, count[0]
        calls.close()
        return found

    minute, day = asyncio.run(run(60)), asyncio.run(run(DAY_S))
    assert minute == day
    assert day[0] == 1
    assert day[1] <= 25


def test_legs_that_come_back_from_a_hold_one_after_the_other_are_both_analysed(monkeypatch):
    now_s = [1_000.0]
    monkeypatch.setattr(call_module.Call, "clock_s", lambda _: now_s[0])

    async def run() -> dict[str, Any]:
        sink = Kept()
        calls = made(sink)
        feeds = [calls.join(info(leg=name)) for name in ("agent", "customer")]
        for seed, feed in enumerate(feeds):
            hear(feed, 0, 2, seed)
        (call,) = calls._calls.values()
        now_s[0] += 3_600
        for seed, feed in enumerate(feeds):
            call.tick()
            feed.gap(32_000, 32_000 + 3_600 * 16_000, "hold")
            hear(feed, 100 + 50 * 3_600, 4, seed + 2)
            now_s[0] += 3.0
        for feed in feeds:
            feed.ended({})
        calls.close()
        return dict(sink.events[-1].data)

    document = asyncio.run(run())
    assert [leg["late_s"] for leg in document["legs"]] == [0.0, 0.0]
    assert [leg["talk_ratio"] for leg in document["interaction"]["legs"]] == [1.0, 1.0]


def test_a_day_is_one_item_on_the_way_to_another_worker():
    async def run(seconds: int) -> tuple[int, int, float]:
        sink, parent = Kept(), Parent()
        workers = [parent.worker(sink), parent.worker(Kept())]
        feeds = [workers[0].join(info()), workers[1].join(info(leg="customer"))]
        await settle()
        sent: list[str] = []
        send = parent.posts[1].send_legs

        def counted(worker: int, items: list[Item]) -> None:
            sent.extend(map(json.dumps, items))
            send(worker, items)

        parent.posts[1].send_legs = counted  # type: ignore[method-assign]
        for feed in feeds:
            hear(feed, 0, 1)
            feed.gap(16_000, 16_000 + seconds * 16_000, "hold")
            hear(feed, 50 + 50 * seconds, 1)
            feed.ended({})
        await settle()
        for worker in workers:
            worker.close()
        return len(sent), sum(map(len, sent)), sink.events[-1].data["interaction"]["duration_s"]

    minute, day = asyncio.run(run(60)), asyncio.run(run(DAY_S))
    assert day[0] == minute[0]
    assert day[1] == pytest.approx(minute[1], abs=100)
    assert day[2] == pytest.approx(DAY_S + 2)
