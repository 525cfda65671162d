"""Event figures on ground truth for which the expected result can be counted."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from speech_qc.contract import ModelContract
from speech_qc.engine import echo_contract
from speech_qc.scoring import EventTracker
from training.evaluation.events import event_figures, psds, psds_curve
from training.event_rules import EVENT_RULES, GAP_FRAMES, EventRule, detect, merged, runs, timeline

TONE = EVENT_RULES["tone"]
SPANS = ((50, 150), (250, 300))


def line(found, truth=SPANS, open_=(), frames=400):
    """Return a timeline of one case of `tone`: scores of 0.9 in `found`, truth in `truth`, masked spans in `open_`."""
    score, true, mask = np.full(frames, 0.1), np.zeros(frames), np.ones(frames, bool)
    for start, stop in found:
        score[start:stop] = 0.9
    for start, stop in truth:
        true[start:stop] = 1.0
    for start, stop in open_:
        mask[start:stop] = False
    return timeline([score], [true], [mask])


def figures(found, **changes):
    return event_figures(line(found, **changes), "tone", 0.5, 0.35, latency_s=0.055)


def test_events_found_as_they_are_give_the_best_figures() -> None:
    result = figures(SPANS)
    assert (result["events"], result["precision"], result["recall"], result["f1"]) == (2, 1.0, 1.0, 1.0)
    assert result["delay_p50_s"] == pytest.approx(0.02 + 0.055)


@pytest.mark.parametrize("label", EVENT_RULES)
def test_who_is_right_wherever_the_truth_is_known_is_right(label: str) -> None:
    rng = np.random.default_rng(len(label))
    rule = EVENT_RULES[label]
    lasts, pauses = (round(50 * max(s, 0.1)) for s in (rule.min_duration_s, rule.merge_gap_s))
    lines = []
    for _ in range(30):
        lengths = rng.integers(100, 300, 21) + np.where(np.arange(21) % 2, lasts, pauses)
        truth = np.repeat(np.arange(21) % 2, lengths).astype(float)
        mask = np.repeat(rng.random(len(truth) // 60 + 1) > 0.2, 60)[: len(truth)]  # longer than any gap bridged
        heard = truth[np.maximum.accumulate(np.where(mask, np.arange(len(truth)), 0))]  # goes on where it is unknown
        lines.append((np.where(heard > 0.5, 0.9, 0.1), truth, mask))
    result = event_figures(timeline(*zip(*lines, strict=True)), label, 0.5, 0.5, latency_s=0.055)
    assert result["f1"] > 0.85, "masked frames count neither for nor against a detector"
    assert result["found"] > 0.97


def test_an_onset_counts_within_200_ms_and_not_beyond() -> None:
    assert figures([(60, 150), (250, 300)])["f1"] == 1.0
    late = figures([(61, 150), (250, 300)])
    assert late["recall"] == late["precision"] == 0.5
    assert late["found"] == 1.0


def test_an_end_may_be_off_by_a_fifth_of_the_length() -> None:
    assert figures([(50, 130), (250, 300)])["f1"] == 1.0
    assert figures([(50, 129), (250, 300)])["recall"] == 0.5


def test_a_missed_and_an_invented_event_count_once_each() -> None:
    result = figures([(50, 150), (340, 360)])
    assert (result["precision"], result["recall"], result["f1"]) == (0.5, 0.5, 0.5)
    assert result["found"] == 0.5


def test_two_detections_of_one_event_are_one_right_and_one_wrong() -> None:
    truth, found = ((0, 300),), ((0, 290), (345, 390))  # more than the second that is bridged
    assert figures(found, truth=truth)["precision"] == 0.5


def test_what_was_left_open_counts_neither_way() -> None:
    invented = [*SPANS, (360, 390)]
    assert figures(invented)["precision"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures(invented, open_=[(330, 400)])["precision"] == 1.0
    early = [(20, 150), (250, 300)]
    assert figures(early)["recall"] == 0.5
    assert figures(early, open_=[(15, 50)])["recall"] == 1.0  # the masked span before the onset widens the collar


def test_delay_is_the_time_to_the_first_frame_at_the_threshold() -> None:
    result = figures([(57, 150), (250, 300)])
    assert result["delay_p50_s"] == pytest.approx((0.16 + 0.02) / 2 + 0.055)
    assert result["delay_p95_s"] > 0.2


def test_nothing_bridges_two_cases() -> None:
    score = np.r_[np.zeros(100), np.full(100, 0.9)]
    joined = timeline([score, score[::-1]], [score > 0.5, score[::-1] > 0.5], [np.ones(200, bool)] * 2)
    assert detect(joined.score, 0.5, 0.35, TONE).tolist() == [[100, 200], [200 + GAP_FRAMES, 300 + GAP_FRAMES]]
    assert max(rule.merge_gap_s for rule in EVENT_RULES.values()) < GAP_FRAMES * 0.02
    assert joined.judged_hours == pytest.approx(400 * 0.02 / 3600)


def test_events_are_the_ones_that_the_service_reports() -> None:
    contract: ModelContract = echo_contract()
    scores = np.random.default_rng(1).random((4000, len(contract.labels))).astype(np.float32)
    scores = np.apply_along_axis(lambda row: np.convolve(row, np.ones(9) / 9, "same"), 0, scores).astype(np.float32)
    scores[:, contract.index("speech")] = 1.0  # reverberation begins in speech only
    tracker = EventTracker(contract)
    updates = [*tracker.push(scores, np.full(4000, -30, np.float32)), *tracker.finish()]
    for column, label in enumerate(contract.labels):
        if label.enter is None or label.exit is None or label.name == "speech":
            continue
        served = [
            [update.event.onset_frame, update.event.offset_frame]
            for update in updates
            if update.phase == "end" and update.event.label == label.name
        ]
        rule = EventRule(label.min_duration_s, label.merge_gap_s, 0.0)
        assert detect(scores[:, column], label.enter, label.exit, rule).tolist() == served, label.name


def test_gaps_are_bridged_before_what_is_short_is_dropped() -> None:
    active = np.zeros(200, bool)
    active[10:13] = active[20:24] = active[100:103] = True
    assert merged(runs(active), EventRule(0.1, 0.2, 0.0)).tolist() == [[10, 24]]


def test_psds_is_one_for_the_truth_and_near_nothing_for_chance() -> None:
    rng = np.random.default_rng(0)
    truths = [np.zeros(1500) for _ in range(20)]
    for truth in truths:
        truth[(start := int(rng.integers(100, 900))) : start + 300] = 1.0
    masks = [np.ones(1500, bool)] * 20
    perfect = psds_curve(timeline([t * 0.8 + 0.1 for t in truths], truths, masks), "music")
    chance = psds_curve(timeline([rng.random(1500) for _ in truths], truths, masks), "music")
    assert psds({"music": perfect}) == pytest.approx(1.0)
    of_chance, of_both = psds({"music": chance}), psds({"music": perfect, "tone": chance})
    assert of_chance is not None and of_chance < 0.3
    assert of_both is not None and of_both < 0.5  # the spread over labels lowers the result
    assert psds({}) is None


def test_a_detection_that_covers_too_little_of_an_event_does_not_count_in_psds() -> None:
    truth = ((0, 200),)
    enough, short = (psds({"tone": psds_curve(line([(0, stop)], truth=truth), "tone")}) for stop in (150, 130))
    assert enough == 1.0
    assert short == 0.0
