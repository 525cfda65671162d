"""Known scores give known figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from judged_cases import case, fixed, says

from speech_qc.engine import echo_contract
from training.evaluation.alone import clean_figures, noise_alone_figures
from training.evaluation.cases import followed_cases
from training.evaluation.contenders import Contender, Judgement
from training.evaluation.figures import (
    group_figures,
    kind_figures,
    label_figures,
    opinion_figures,
    rating_figures,
    snr_figures,
)
from training.evaluation.mixtures import followed_figures
from training.metrics import det_points, reliability

SPANS = ((50, 150), (250, 300))
CONTRACT = echo_contract()


def noise_rows(found, **changes):
    cases, judgements = [case(truth={"noise": SPANS}, **changes)], [says(noise=found)]
    return label_figures(fixed(judgements, noise=0.5), cases, judgements)["noise"]


def test_right_scores_get_the_best_figures() -> None:
    row = noise_rows(SPANS)
    assert row["auroc"] == row["average_precision"] == row["true_rate"] == row["event"]["f1"] == 1.0
    assert row["false_rate"] == 0.0
    assert row["calibration_error"] == pytest.approx(0.1, abs=1e-4)
    assert row["positive_share"] == pytest.approx(150 / 400)


def test_masked_frames_change_no_figure() -> None:
    assert noise_rows([*SPANS, (350, 400)])["false_rate"] == pytest.approx(50 / 250)
    masked = noise_rows([*SPANS, (350, 400)], open_={"noise": [(350, 400)]})
    assert masked["auroc"] == 1.0
    assert masked["frames"] == 350
    assert masked["false_rate"] == 0.0


def test_scores_that_only_rank_have_no_rates_and_no_calibration() -> None:
    cases, judgements = [case(truth={"noise": SPANS})], [says(noise=SPANS)]
    row = label_figures(fixed(judgements), cases, judgements)["noise"]
    assert row["auroc"] == 1.0
    assert "calibration_error" not in row
    assert "event" not in row


def test_a_label_that_one_side_does_not_know_has_no_row() -> None:
    cases, judgements = [case(truth={"noise": SPANS})], [says(noise=SPANS, tone=())]
    assert set(label_figures(fixed(judgements, noise=0.5, tone=0.5), cases, judgements)) == {"noise"}


def snr_of(said, true, **enter):
    cases = [case(values={"snr_db": np.asarray(true, np.float32)}, facts={"line": ("wide band",)})]
    judgements = [Judgement({"snr_db": np.asarray(said, np.float32)}, {})]
    return snr_figures(fixed(judgements, **enter), cases, judgements)


def test_an_offset_in_snr_is_its_bias_and_its_error() -> None:
    true = np.linspace(-14.0, 44.0, 400)
    figures = snr_of(true + 2.0, true, speech=0.5)
    assert figures["bias_db"] == figures["error_db"] == figures["error_below_25_db"] == pytest.approx(2.0, abs=1e-3)
    assert sum(row["frames"] for row in figures["by_true_snr"].values()) == 400
    assert figures["by"]["line"] == {"wide band": pytest.approx(2.0, abs=1e-3)}


def test_errors_stand_in_the_range_of_the_true_snr() -> None:
    true = np.r_[np.full(200, 2.0), np.full(200, 20.0)]
    figures = snr_of(np.r_[np.full(200, 12.0), np.full(200, 21.0)], true, speech=0.5)["by_true_snr"]
    assert {name: row["error_db"] for name, row in figures.items()} == {"0 … 5": 10.0, "15 … 25": 1.0}


def test_a_contender_without_a_scale_gets_its_best_straight_line() -> None:
    true = np.linspace(-10.0, 40.0, 400)
    assert snr_of(0.1 * true - 7.0, true)["error_db"] == pytest.approx(0.0, abs=1e-3)
    assert snr_of(0.1 * true - 7.0, true, speech=0.5)["error_db"] > 10.0


def test_whole_recordings_are_ranked_by_every_figure_that_a_contender_gives() -> None:
    cases = [case(snr_db=float(i)) for i in range(10)] + [case(snr_db=None)]
    judgements = [Judgement({}, {"snr_db": float(i**3), "bak": -float(i)}) for i in range(11)]
    ranks = snr_figures(fixed(judgements), cases, judgements)["rank"]
    assert ranks["snr_db"] == {"cases": 10, "spearman": 1.0}
    assert ranks["bak"]["spearman"] == -1.0


def test_a_group_holds_its_own_cases() -> None:
    good = case(frames=1000, truth={"noise": [(0, 500)]}, facts={"language": ("de",), "disturbance": ("fan",)})
    bad = replace(good, facts={"language": ("fr",), "disturbance": ("dog", "fan")})
    judgements = [says(1000, noise=[(0, 500)]), says(1000, noise=[(500, 1000)])]
    groups = group_figures([good, bad], judgements)
    assert groups["language"] == {"de": {"noise": 1.0}, "fr": {"noise": 0.0}}
    # The positives of all cases with a fan against the negatives of all: half right, half wrong.
    assert groups["disturbance"]["fan"]["noise"] == pytest.approx(0.5)
    assert groups["disturbance"]["dog"]["noise"] == pytest.approx(0.25)


def test_a_group_with_too_few_frames_is_left_out() -> None:
    few = case(frames=1000, truth={"noise": [(0, 100)]}, facts={"language": ("de",)})
    assert group_figures([few], [says(1000, noise=[(0, 100)])]) == {}


def of_contract(*spans) -> Contender:
    judgements = []
    for found in spans:
        frames = {name: np.zeros(400, np.float32) for name in CONTRACT.label_names}
        for label, pairs in found.items():
            for start, stop in pairs:
                frames[label][start:stop] = 0.9
        judgements.append(Judgement(frames, {}))
    enter = {label.name: label.enter for label in CONTRACT.labels if label.enter is not None}
    return Contender("made", lambda _cases: judgements, enter, CONTRACT)


def test_false_events_are_counted_per_hour_of_clean_speech() -> None:
    cases = [case() for _ in range(3)]
    contender = of_contract({"noise": [(10, 30)], "speech": [(0, 400)]}, {"tone": [(10, 30), (100, 120)]}, {})
    loud = clean_figures(contender, cases, contender.judge(cases))
    per_hour = 3600 / 24.0
    assert loud["hours"] == pytest.approx(24.0 / 3600, abs=1e-4)
    assert loud["false_events_per_hour"] == pytest.approx(3 * per_hour)
    assert loud["false_events_per_hour_by_label"] == {"tone": 2 * per_hour, "noise": per_hour}
    assert loud["noise_share"] == pytest.approx(20 / 1200, abs=1e-4)
    silent = of_contract({}, {"reverberation": [(0, 400)]}, {})
    assert clean_figures(silent, cases, silent.judge(cases))["false_events_per_hour"] == 0.0


def test_speech_in_noise_alone_is_a_share_of_the_judged_frames() -> None:
    cases = [case(truth={"speech": ()}, open_={"speech": [(0, 200)]}), case(truth={"speech": ()})]
    judgements = [says(speech=[(0, 300)]), says(speech=())]
    figures = noise_alone_figures(fixed(judgements, speech=0.5), cases, judgements)
    assert figures["speech_share"] == pytest.approx(100 / 600, abs=1e-4)


def test_coughs_and_cries_called_speech_are_counted_apart() -> None:
    cases = [case(truth={"speech": ()}, facts={"disturbance": (name,)}) for name in ("fan", "coughing", "dog")]
    judgements = [says(speech=[(0, 40)]), says(speech=[(0, 200)]), says(speech=())]
    figures = noise_alone_figures(fixed(judgements, speech=0.5), cases, judgements)
    assert figures["speech_share"] == pytest.approx(240 / 1200)
    assert figures["vocal"] == {"frames": 400, "speech_share": 0.5}
    assert figures["not_vocal"] == {"frames": 800, "speech_share": 0.05}


def test_disturbance_is_the_higher_score_of_noise_and_interference() -> None:
    cases = [case(truth={"noise": [(50, 150)], "interference": [(250, 300)], "disturbance": SPANS})]
    judgements = [says(noise=[(50, 150)], interference=[(250, 300)])]
    row = label_figures(fixed(judgements, noise=0.5, interference=0.5), cases, judgements)["disturbance"]
    assert row["auroc"] == 1.0
    assert "enter" not in row
    swapped = [says(noise=[(250, 300)], interference=[(50, 150)])]
    rows = label_figures(fixed(swapped, noise=0.5, interference=0.5), cases, swapped)
    assert rows["noise"]["auroc"] < 0.5 < rows["disturbance"]["auroc"] == 1.0
    alone = [says(noise=SPANS)]
    assert "disturbance" not in label_figures(fixed(alone, noise=0.5), cases, alone)


def test_the_median_error_of_snr_is_not_moved_by_a_few_frames() -> None:
    true = np.full(400, 10.0)
    said = np.r_[np.full(300, 11.0), np.full(100, 31.0)]
    figures = snr_of(said, true, speech=0.5)
    assert figures["median_error_below_25_db"] == 1.0
    assert figures["error_below_25_db"] == pytest.approx(6.0)


def test_opinion_scores_are_compared_with_the_score_of_their_name() -> None:
    cases = [case(ratings={"sig": 1.0 + i % 3, "bak": 1.0 + 0.3 * i}) for i in range(12)]
    judgements = [Judgement({}, {"bak": 2.0 + 0.2 * i, "snr_db": float(i)}) for i in range(12)]
    assert opinion_figures(cases, judgements) == {"bak": {"cases": 12, "pearson": 1.0, "spearman": 1.0}}


def test_ratings_are_correlated_clip_by_clip_and_by_condition() -> None:
    rng = np.random.default_rng(0)
    cases, judgements = [], []
    for i in range(90):
        rating = 1.0 + 4.0 * (i % 9) / 8
        cases.append(case(ratings={"bak": rating}, facts={"condition": (f"c{i % 9}",)}))
        judgements.append(Judgement({}, {"bak": rating + rng.normal(0.0, 1.0), "noise_ratio": 0.5}))
    figures = rating_figures(cases, judgements)
    assert set(figures) == {"bak"}
    assert set(figures["bak"]) == {"bak"}  # a constant has no correlation
    row = figures["bak"]["bak"]
    assert 0.5 < row["pearson"] < 0.95 < row["pearson_of_conditions"]
    assert (row["cases"], row["conditions"]) == (90, 9)


def test_reliability_bins_say_how_often_a_score_is_right() -> None:
    score, truth = np.repeat([0.2, 0.8], 100), np.r_[np.ones(20), np.zeros(80), np.ones(100)]
    assert reliability(score, truth) == [(0.2, 0.2, 0.5), (0.8, 1.0, 0.5)]


def test_det_points_go_from_all_missed_to_all_false() -> None:
    rng = np.random.default_rng(0)
    truth = np.r_[np.ones(500), np.zeros(500)]
    points = np.array(det_points(truth + rng.normal(0.0, 0.5, len(truth)), truth))
    assert (np.diff(points[:, 0]) >= 0).all()
    assert (np.diff(points[:, 1]) <= 0).all()
    assert points[-1, 1] == 0.0
    middle = points[np.argmin(np.abs(points[:, 0] - points[:, 1]))]
    np.testing.assert_allclose(middle, 0.159, atol=0.03)  # two normals two deviations apart


def test_a_kind_of_interference_is_told_from_all_frames_without_any() -> None:
    own = [case(frames=800, truth={"interference": [(0, 400)]})]
    others = [case(frames=800, truth={"interference": []}), case(frames=800, truth={"interference": [(0, 800)]})]
    found = [says(800, interference=[(0, 400)])]
    quiet, loud = says(800, interference=[]), says(800, interference=[(0, 800)])
    assert kind_figures(own, found, others, [quiet, loud]) == {"cases": 1, "interference": 1.0}
    # False alarms elsewhere count against it, misses elsewhere do not.
    assert kind_figures(own, found, others, [loud, quiet])["interference"] < 0.8
    assert kind_figures(own, found, others, [quiet, quiet])["interference"] == 1.0


def test_what_follows_another_recording_is_judged_alone() -> None:
    first, second = case("a", 100, truth={"noise": [(0, 100)]}), case("b", 100, truth={"noise": [(50, 100)]})
    (pair,) = followed_cases([first, second, first])
    assert pair.frames == 200
    assert pair.seconds == first.seconds + second.seconds
    assert not pair.mask[:100].any()
    assert pair.mask[100:].all()
    # A contender whose state still contains the first recording's noise scores worse here than on the second one alone.
    slow = Contender("slow", lambda cases: [says(200, noise=[(0, 130), (150, 200)]) for _ in cases], {"noise": 0.5})
    figures = followed_figures(slow, [first, second], [says(100, noise=[(0, 100)]), says(100, noise=[(50, 100)])])
    assert figures["cases"] == 1
    assert figures["labels"]["noise"]["alone"] == 1.0
    assert figures["labels"]["noise"]["after"] == pytest.approx(0.7)
