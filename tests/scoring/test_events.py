import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_material import FloatArray, cut, make_contract, quiet

from speech_qc.contract import ModelContract
from speech_qc.errors import ContractError, InferenceError, ProtocolError
from speech_qc.scoring import Event, EventTracker, EventUpdate, ScoreBatch, ScoreReader
from speech_qc.scoring.events import EventRows
from speech_qc.scoring.layout import MIN_SPEECH_FRAMES
from speech_qc.scoring.severity import EventMeasures, rate


def track(contract: ModelContract, scores: FloatArray, level: FloatArray, sizes: list[int]) -> list[EventUpdate]:
    tracker = EventTracker(contract)
    updates: list[EventUpdate] = []
    for part in cut(len(scores), sizes):
        updates += tracker.push(scores[part], level[part])
    return updates + tracker.finish()


def closed(updates: list[EventUpdate]) -> list[Event]:
    return [update.event for update in updates if update.phase == "end"]


def one_label(
    values: list[float], *, min_s: float = 0.04, gap_s: float = 0.06, label: str = "music"
) -> list[EventUpdate]:
    overrides: dict[str, Any] = {label: {"min_duration_s": min_s, "merge_gap_s": gap_s}}
    contract = make_contract(**overrides)
    scores, level = quiet(contract, len(values))
    scores[:, contract.index(label)] = values
    scores[:, contract.index("speech")] = 0.9
    return track(contract, scores, level, [len(values)])


# --- an independent, slow statement of the rule ----------------------------------------------------------------------


def slow_events(contract: ModelContract, scores: FloatArray, level: FloatArray) -> list[tuple[int, int, str, Event]]:
    """Return all updates as (frame known, column, phase, event), found frame by frame, without event numbers."""
    hop = contract.features.frame_hop_s
    speech = scores[:, contract.index("speech")] >= np.float32(0.6)
    found = []
    for column, label in enumerate(contract.labels):
        if label.kind != "probability" or label.name == "speech":
            continue
        assert label.enter is not None and label.exit is not None
        segments: list[list[int]] = []
        running = False
        for frame, score in enumerate(scores[:, column]):
            if not running and score >= np.float32(label.enter) and (speech[frame] or label.name != "reverberation"):
                segments.append([frame, frame])
                running = True
            elif running and score < np.float32(label.exit):
                running = False
            if running:
                segments[-1][1] = frame + 1
        merged: list[list[list[int]]] = []
        for segment in segments:
            if merged and (segment[0] - merged[-1][-1][1]) * hop < label.merge_gap_s - 1e-9:
                merged[-1].append(segment)
            else:
                merged.append([segment])
        for parts in merged:
            onset, offset = parts[0][0], parts[-1][1]
            if (offset - onset) * hop < label.min_duration_s - 1e-9:
                continue
            sure = next(
                frame
                for start, stop in parts
                for frame in range(start, stop)
                if (frame + 1 - onset) * hop >= label.min_duration_s - 1e-9
            )
            final = next(
                (f for f in range(offset, len(scores)) if (f + 1 - offset) * hop >= label.merge_gap_s - 1e-9),
                len(scores),
            )
            for known, phase, stop in ((sure, "begin", sure + 1), (final, "end", offset)):
                inside = slice(onset, stop)
                talk = scores[inside, contract.index("snr_db")][speech[inside]].astype(float)
                mean = float(scores[inside, column].astype(float).mean())
                measures = EventMeasures(
                    duration_s=(stop - onset) * hop,
                    score_mean=mean,
                    speech_frames=len(talk),
                    snr_db=float(talk.mean()) if len(talk) else None,
                    level_dbfs=10 * math.log10((10 ** (level[inside].astype(float) / 10)).mean()),
                )
                event = Event(
                    event_id=-1,
                    label=label.name,
                    family=label.family,
                    onset_s=onset * 320 / 16000,
                    offset_s=offset * 320 / 16000 if phase == "end" else None,
                    score_max=float(scores[inside, column].max()),
                    score_mean=mean,
                    severity=rate(label.name, label.family, measures),
                    onset_frame=onset,
                    offset_frame=offset if phase == "end" else None,
                )
                found.append((known, column, phase, event))
    return sorted(found, key=lambda item: item[:2])


# Both thresholds, and nearby odd values whose means are not on a severity limit.
SCORE = st.sampled_from([0.0, 0.2013, 0.3917, 0.4, 0.5071, 0.6, 0.6133, 0.9519, 0.9973])


@st.composite
def material(draw: st.DrawFn) -> tuple[ModelContract, FloatArray, FloatArray]:
    rule = st.fixed_dictionaries(
        {
            "min_duration_s": st.sampled_from([0.0, 0.02, 0.06, 0.14, 0.3]),
            "merge_gap_s": st.sampled_from([0.0, 0.02, 0.04, 0.14, 0.2]),
        }
    )
    labels = ["snr_db", "noise", "dropout", "speech", "interference", "reverberation"]
    contract = make_contract(labels, **{name: draw(rule) for name in labels if name != "snr_db"})
    frames = draw(st.integers(0, 60))
    scores, level = quiet(contract, frames)
    for column in range(len(labels)):
        runs = draw(st.lists(st.tuples(SCORE, st.integers(1, 12)), max_size=20))
        values = [value for value, length in runs for _ in range(length)][:frames]
        scores[: len(values), column] = np.array(values, np.float32) * (38.3 if column == 0 else 1)
    level[:] = draw(st.lists(st.integers(-120, -1), min_size=frames, max_size=frames))
    level += np.float32(0.37)
    return contract, scores, level


@pytest.mark.slow
@settings(max_examples=150)
@given(material(), st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_any_cut_into_blocks_gives_what_the_slow_statement_of_the_rule_gives(
    given_material: tuple[ModelContract, FloatArray, FloatArray], sizes: list[int]
) -> None:
    contract, scores, level = given_material
    updates = track(contract, scores, level, sizes)
    assert updates == track(contract, scores, level, [max(len(scores), 1)])  # bit for bit, order and numbers included

    expected = slow_events(contract, scores, level)
    assert [(u.phase, u.event.label) for u in updates] == [(phase, event.label) for *_, phase, event in expected]
    numbers: dict[tuple[str, int], int] = {}
    for update, (_, _, phase, event) in zip(updates, expected, strict=True):
        key = (event.label, event.onset_frame)
        if phase == "begin":
            numbers[key] = len(numbers)
        for name in Event.__slots__:
            got, want = getattr(update.event, name), getattr(event, name)
            if name == "event_id":
                want = numbers[key]
            assert got == (pytest.approx(want, abs=1e-7) if name == "score_mean" else want), name


@settings(max_examples=50)
@given(material())
def test_updates_become_known_at_the_frame_the_rule_says(
    given_material: tuple[ModelContract, FloatArray, FloatArray],
) -> None:
    contract, scores, level = given_material
    tracker = EventTracker(contract)
    known = [
        (frame, update.phase, update.event.label)
        for frame in range(len(scores))
        for update in tracker.push(scores[frame : frame + 1], level[frame : frame + 1])
    ]
    known += [(len(scores), update.phase, update.event.label) for update in tracker.finish()]
    assert known == [(frame, phase, event.label) for frame, _, phase, event in slow_events(contract, scores, level)]


def test_an_event_lasts_from_enter_to_exit() -> None:
    (event,) = closed(one_label([0.0, 0.59, 0.6, 0.5, 0.4, 0.39, 0.0, 0.0, 0.0]))
    assert (event.onset_frame, event.offset_frame) == (2, 5)
    assert (event.onset_s, event.offset_s) == (0.04, 0.1)
    assert event.score_max == pytest.approx(0.6)
    assert event.score_mean == pytest.approx(0.5)


def test_a_short_gap_is_merged_and_belongs_to_the_event() -> None:
    (event,) = closed(one_label([0.9, 0.9, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0]))
    assert (event.onset_frame, event.offset_frame) == (0, 5)
    assert event.score_mean == pytest.approx(2.7 / 5)


def test_a_gap_as_long_as_the_limit_is_not_merged() -> None:
    events = closed(one_label([0.9, 0.9, 0.0, 0.0, 0.0, 0.9, 0.9, 0.0]))
    assert [(e.onset_frame, e.offset_frame) for e in events] == [(0, 2), (5, 7)]


def test_what_is_too_short_before_merging_may_be_long_enough_after() -> None:
    (event,) = closed(one_label([0.9, 0.0, 0.9, 0.0, 0.0, 0.0, 0.9], min_s=0.06))
    assert (event.onset_frame, event.offset_frame) == (0, 3)


def test_begin_comes_with_the_frame_that_makes_it_certain() -> None:
    contract = make_contract(music={"min_duration_s": 0.06, "merge_gap_s": 0.1})
    scores, level = quiet(contract, 3)
    scores[:, contract.index("music")] = 0.9
    tracker = EventTracker(contract)
    assert tracker.push(scores[:2], level[:2]) == []
    (update,) = tracker.push(scores[2:], level[2:])
    assert update.phase == "begin"
    assert update.event.offset_s is None and update.event.offset_frame is None


def test_the_end_of_the_stream_closes_what_is_open_and_drops_what_is_short() -> None:
    contract = make_contract(music={"min_duration_s": 0.1}, tone={"min_duration_s": 0.3})
    scores, level = quiet(contract, 10)
    scores[:, [contract.index("music"), contract.index("tone")]] = 0.9
    tracker = EventTracker(contract)
    tracker.push(scores, level)
    assert [(u.phase, u.event.label, u.event.offset_frame) for u in tracker.finish()] == [("end", "music", 10)]
    assert tracker.finish() == []


def test_speech_and_measures_are_never_events() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 100)
    scores[:, contract.index("speech")] = 1.0
    assert track(contract, scores, level, [100]) == []


def test_every_other_probability_label_can_be_an_event_with_its_own_family() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 100)
    names = [label.name for label in contract.labels if label.kind == "probability" and label.name != "speech"]
    scores[10:90, [contract.index(name) for name in ("speech", *names)]] = 0.9
    events = closed(track(contract, scores, level, [7]))
    assert {(e.label, e.family) for e in events} == {(n, contract.labels[contract.index(n)].family) for n in names}
    assert sorted(e.event_id for e in events) == list(range(len(names)))


def test_reverberation_begins_in_speech_and_may_outlast_it() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 200)
    scores[20:180, contract.index("reverberation")] = 0.9
    assert track(contract, scores, level, [7]) == []
    scores[50:60, contract.index("speech")] = 0.9
    (event,) = closed(track(contract, scores, level, [7]))
    assert (event.label, event.onset_frame, event.offset_frame) == ("reverberation", 50, 180)


def test_a_silent_line_that_the_model_calls_reverberant_needs_no_scan() -> None:
    contract = make_contract()
    reader = ScoreReader(contract)
    rows, row = EventRows(reader.layout, 1), np.array([0])
    EventTracker(contract, reader, rows=rows, row=0)
    scores, level = quiet(contract, 5)
    scores[:, contract.index("reverberation")] = 0.9
    assert not rows.add(row, ScoreBatch.alone(reader.read_one(scores)), level[None])[0]
    scores[3, contract.index("speech")] = 0.9
    assert rows.add(row, ScoreBatch.alone(reader.read_one(scores)), level[None])[0]


def test_memory_and_time_do_not_grow_with_a_stream_that_never_rests() -> None:
    contract = make_contract(noise={"merge_gap_s": 0.2})
    scores, level = quiet(contract, 5000)
    scores[::4, contract.index("noise")] = 0.9  # merged without end
    tracker = EventTracker(contract)
    assert [u.phase for u in tracker.push(scores, level)] == ["begin"]
    assert len(tracker._tracks) == 1
    (update,) = tracker.finish()
    assert update.event.score_mean == pytest.approx(0.9 / 4, rel=1e-3)


def test_speech_frames_and_their_snr_decide_how_bad_noise_is() -> None:
    contract = make_contract()
    for snr_db, level_dbfs, speech_frames, expected in (
        (5.9, -60.0, 50, "severe"),
        (6.0, -60.0, 50, "moderate"),
        (12.0, -60.0, 50, "moderate"),
        (12.1, -60.0, 50, "minor"),
        (0.0, -60.0, MIN_SPEECH_FRAMES - 1, "minor"),  # too little speech: the level decides
        (0.0, -60.0, MIN_SPEECH_FRAMES, "severe"),
        (45.0, -29.0, 0, "severe"),
        (45.0, -44.0, 0, "moderate"),
        (45.0, -46.0, 0, "minor"),
    ):
        scores, level = quiet(contract, 60, level_dbfs)
        scores[:50, contract.index("noise")] = 0.9
        scores[:speech_frames, contract.index("speech")] = 0.9
        scores[:, contract.index("snr_db")] = snr_db
        (event,) = closed(track(contract, scores, level, [60]))
        assert event.severity == expected, (snr_db, level_dbfs, speech_frames)


@pytest.mark.parametrize(
    ("label", "frames", "score", "expected"),
    [
        ("dropout", 2, 1.0, "minor"),
        ("dropout", 3, 1.0, "moderate"),
        ("dropout", 10, 1.0, "severe"),
        ("clipping", 9, 1.0, "minor"),
        ("clipping", 10, 1.0, "moderate"),
        ("clipping", 50, 1.0, "severe"),
        ("reverberation", 50, 0.64, "minor"),
        ("reverberation", 50, 0.8, "moderate"),
        ("reverberation", 50, 0.9, "severe"),
    ],
)
def test_impairments_are_rated_by_duration_or_score(label: str, frames: int, score: float, expected: str) -> None:
    updates = one_label([score] * frames + [0.0] * 20, label=label, min_s=0.02)
    assert closed(updates)[0].severity == expected


def test_severity_at_begin_is_what_is_known_so_far() -> None:
    updates = one_label([1.0] * 10 + [0.0] * 20, label="dropout", min_s=0.02)
    assert [(u.phase, u.event.severity) for u in updates] == [("begin", "minor"), ("end", "severe")]


def test_malformed_blocks_are_refused_with_what_was_expected() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 5)
    tracker = EventTracker(contract)
    for wrong_scores, wrong_level, words in (
        (scores[:, :-1], level, rf"\[n, {len(contract.labels)}\]"),
        (scores, level[:-1], "one level per frame"),
        (scores.ravel(), level, "expected scores"),
        (scores.astype(np.float64), level, "astype"),
        (scores * np.float32(np.nan), level, "finite"),
        (scores, level * np.float32(np.inf), "finite"),
    ):
        with pytest.raises(InferenceError, match=words):
            tracker.push(cast(Any, wrong_scores), wrong_level)
    assert tracker.push(scores, level) == []


def test_a_finished_tracker_takes_no_more() -> None:
    contract = make_contract()
    tracker = EventTracker(contract)
    tracker.finish()
    with pytest.raises(ProtocolError, match="finish"):
        tracker.push(*quiet(contract, 1))


def test_a_model_without_a_required_head_is_refused_by_name() -> None:
    with pytest.raises(ContractError, match="lacks snr_db"):
        EventTracker(make_contract(["speech", "noise", "interference"]))
