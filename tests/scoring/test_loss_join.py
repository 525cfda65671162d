"""Losses joined with scores: which ones fall into speech, when they are said, and what the events and summary say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scoring_material import FloatArray, cut, make_contract, quiet

from speech_qc.contract import ModelContract
from speech_qc.scoring import EventTracker, EventUpdate, LossJoin, LossSpan, ScoreReader, SpeechLoss, SummaryMeter
from speech_qc.scoring.details import DropoutDetail
from speech_qc.scoring.losses import BLOCK_FRAMES, LossRows

CONTRACT = make_contract()
READER = ScoreReader(CONTRACT)
RATE_HZ = 8_000
FRAME = 160  # samples at this rate


def spoken(frames: int, *ranges: tuple[int, int]) -> FloatArray:
    """Scores with speech in these frames."""
    scores, _ = quiet(CONTRACT, frames)
    for start, stop in ranges:
        scores[start:stop, CONTRACT.index("speech")] = 0.9
    return scores


def loss(start: int, stop: int, *, known: int | None = None, sure: bool = True, kind="zeros") -> LossSpan:
    """A loss between two frames."""
    return LossSpan(kind, start * FRAME, stop * FRAME, (stop + 10 if known is None else known) * FRAME, sure)


def joined(scores: FloatArray, losses: list[LossSpan], sizes: list[int], contract: ModelContract = CONTRACT):
    """Pass losses on when they become known, and scores in blocks of these sizes, as a session does."""
    reader = ScoreReader(contract)
    rows, meter = LossRows(reader.layout, 1), SummaryMeter(contract)
    join = LossJoin(contract, reader.layout, RATE_HZ, rows=rows, row=0)
    tracker = EventTracker(contract, reader, skip=("dropout",))
    level = np.full(len(scores), -30.0, np.float32)
    waiting, updates, found = sorted(losses, key=lambda item: item.known), [], []
    for part in cut(len(scores), sizes):
        while waiting and waiting[0].known <= part.stop * FRAME:
            join.push([waiting.pop(0)])
        now = []
        for start in range(part.start, part.stop, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, part.stop)
            if rows.add(np.array([0]), scores[None, start:stop], np.array([stop]))[0]:
                now += join.due(stop)
        meter.push(scores[part], level[part])
        updates += tracker.add(reader.read_one(scores[part]), level[part], now)
        meter.add_losses(now)
        found += now
    join.push(waiting)
    last = join.finish(len(scores))
    meter.add_losses(last)
    return found + last, updates + tracker.finish(last), meter.result()


@pytest.mark.parametrize(("tonal", "tone", "count"), [(True, 0.9, 0), (True, 0.1, 1), (False, 0.9, 1)])
def test_the_gap_after_a_tone_is_no_dropout_if_the_model_hears_the_tone(tonal: bool, tone: float, count: int) -> None:
    scores = spoken(100, (20, 80))
    scores[:40, CONTRACT.index("tone")] = tone
    found, _, _ = joined(scores, [replace(loss(40, 44), tonal=tonal)], [10])
    assert len(found) == count


def test_a_loss_in_speech_is_a_dropout_with_its_exact_times() -> None:
    span = LossSpan("zeros", 40 * FRAME + 17, 43 * FRAME + 17, 60 * FRAME)
    _, updates, summary = joined(spoken(100, (20, 80)), [span], [10])
    assert [update.phase for update in updates] == ["begin", "end"]
    begin, end = (update.event for update in updates)
    assert (begin.label, begin.onset_s, begin.offset_s) == ("dropout", end.onset_s, None)
    assert end.onset_s == pytest.approx((40 * FRAME + 17) / RATE_HZ)
    assert end.offset_s == pytest.approx((43 * FRAME + 17) / RATE_HZ)
    assert (end.onset_frame, end.offset_frame) == (40, 44)
    assert isinstance(end.detail, DropoutDetail) and end.detail.kind == "zeros"
    assert end.detail.gap_ms == pytest.approx(60.0)
    assert summary.longest_loss_ms == pytest.approx(60.0)
    assert summary.losses_per_min == pytest.approx(30.0)
    assert summary.lost_ratio == pytest.approx(0.06 / 1.2)


@pytest.mark.parametrize(
    ("speech", "span", "kept"),
    [
        ((20, 80), (40, 41), True),
        ((20, 40), (40, 41), True),  # at the end of a word
        ((41, 80), (40, 41), True),  # at its beginning
        ((20, 30), (40, 41), False),
        ((50, 80), (40, 41), False),
        ((20, 40), (40, 90), True),  # outlasts the word
        ((91, 99), (40, 90), True),  # began before the word
        ((98, 99), (40, 90), False),
    ],
)
def test_only_losses_in_speech_count(speech: tuple[int, int], span: tuple[int, int], kept: bool) -> None:
    found, updates, summary = joined(spoken(120, speech), [loss(*span)], [7])
    assert len(found) == int(kept) and len(updates) == 2 * int(kept)
    assert (summary.longest_loss_ms == 0.0) is not kept


@pytest.mark.parametrize(("score", "kept"), [(0.5, False), (0.95, True)])
def test_the_model_confirms_an_unsure_loss(score: float, kept: bool) -> None:
    scores = spoken(100, (20, 80))
    scores[41, CONTRACT.index("dropout")] = score
    found, _, _ = joined(scores, [loss(40, 43, sure=False)], [10])
    assert len(found) == int(kept)


def test_the_scores_of_a_dropout_are_those_of_its_frames() -> None:
    scores = spoken(100, (20, 80))
    scores[38:44, CONTRACT.index("dropout")] = [0.9, 0.1, 0.2, 0.3, 0.4, 0.9]
    (found,), _, _ = joined(scores, [loss(40, 43)], [3])
    assert found.score_max == pytest.approx(0.4)
    assert found.score_mean == pytest.approx(0.3)


@pytest.mark.parametrize(("frames", "severity"), [(2, "minor"), (3, "moderate"), (10, "severe")])
def test_severity_follows_the_length(frames: int, severity: str) -> None:
    _, updates, _ = joined(spoken(100, (20, 80)), [loss(40, 40 + frames)], [10])
    assert updates[-1].event.severity == severity


def test_dropout_scores_alone_start_no_event() -> None:
    scores = spoken(100, (20, 80))
    scores[40:60, CONTRACT.index("dropout")] = 1.0
    assert joined(scores, [], [10])[1] == []


def test_a_model_without_dropouts_measures_losses_but_names_no_event() -> None:
    contract = make_contract(["speech", "noise", "interference", "snr_db", "stationary_noise"])
    scores, _ = quiet(contract, 100)
    scores[20:80, 0] = 0.9
    found, updates, summary = joined(scores, [loss(40, 43)], [10], contract)
    assert (len(found), updates, found[0].score_max) == (1, [], 0.0)
    assert summary.longest_loss_ms == pytest.approx(60.0)


def test_what_cannot_be_known_has_a_reason() -> None:
    _, _, silent = joined(spoken(100), [], [10])
    assert (silent.lost_ratio, silent.losses_per_min, silent.longest_loss_ms) == (None, 0.0, 0.0)
    empty = SummaryMeter(CONTRACT).result()
    assert (empty.lost_ratio, empty.losses_per_min, empty.longest_loss_ms) == (None, None, None)
    assert {"lost_ratio", "losses_per_min", "longest_loss_ms"} <= set(empty.reasons)


def test_the_lost_share_of_a_hole_counts_its_silence_as_talk() -> None:
    """The talker went on talking in the hole, whatever the model hears there."""
    _, _, summary = joined(spoken(150, (20, 40), (90, 100)), [loss(40, 90)], [10])
    assert summary.lost_ratio == pytest.approx(1.0 / 1.6)


@given(
    sizes=st.lists(st.integers(0, 130), min_size=1, max_size=4),
    places=st.lists(st.tuples(st.integers(0, 280), st.integers(1, 60), st.integers(2, 20)), max_size=6),
)
def test_blocks_change_neither_losses_nor_event_numbers(sizes: list[int], places: list[tuple[int, int, int]]) -> None:
    scores = spoken(300, (10, 120), (150, 290))
    scores[30:60, CONTRACT.index("music")] = 0.9
    scores[200:230, CONTRACT.index("tone")] = 0.9
    scores[:, CONTRACT.index("dropout")] = np.linspace(0, 1, 300, dtype=np.float32)
    losses = [loss(start, start + length, known=start + length + wait) for start, length, wait in places]
    expected = joined(scores, losses, [1])

    def said(updates: list[EventUpdate]) -> list[tuple[object, ...]]:
        return [(update.phase, update.event.event_id, update.event.label, update.event.onset_s) for update in updates]

    found, updates, summary = joined(scores, losses, sizes)
    key = lambda item: (item.known, item.onset_frame, item.offset_frame)  # noqa: E731
    assert sorted(found, key=key) == sorted(expected[0], key=key)
    assert said(updates) == said(expected[1])
    assert summary.losses_per_min == expected[2].losses_per_min
    assert summary.longest_loss_ms == expected[2].longest_loss_ms


def test_losses_keep_their_type() -> None:
    (found,), _, _ = joined(spoken(100, (20, 80)), [loss(40, 43, kind="faded")], [10])
    assert isinstance(found, SpeechLoss) and found.kind == "faded"
