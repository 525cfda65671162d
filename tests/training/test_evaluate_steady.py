"""A source that lasts for a minute must be found in every second of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("torch")

from made_corpus import made_pool

from training.evaluation.cases import Case
from training.evaluation.contenders import Contender, Judgement
from training.evaluation.steady import KINDS, ONSET_S, SECONDS, choose_talkers, steady_cases, steady_figures

ENTER = {"tone": 0.8, "music": 0.8, "stationary_noise": 0.8, "interference": 0.8}
ONSET = int(ONSET_S * 50)


@pytest.fixture(scope="module")
def cases() -> dict[str, list[Case]]:
    return steady_cases(made_pool(), seed=4, talkers=1)


def hears(until_s: float = SECONDS, **levels: float) -> Contender:
    """Return a contender that gives every label its true value until a time, then 0; `levels` add constant scores."""

    def judge(cases: Sequence[Case]) -> list[Judgement]:
        found = []
        for case in cases:
            frames = {name: case.target[:, case.labels.index(name)] * 0.9 for name in ENTER}
            for scores in frames.values():
                scores[int(until_s * 50) :] = 0.0
            found.append(Judgement(frames | {name: np.full(case.frames, v, np.float32) for name, v in levels.items()}))
        return found

    return Contender("made", judge, ENTER)


def test_each_kind_is_a_minute_with_its_source_from_the_third_second(cases: dict[str, list[Case]]) -> None:
    assert list(cases) == [kind.name for kind in KINDS]
    for kind in KINDS:
        (case,) = cases[kind.name]
        assert case.seconds == SECONDS
        target = case.target[:, case.labels.index(kind.label)]
        assert not target[: ONSET - 5].any(), kind.name
        assert target[ONSET + 10 :].any(), kind.name
        while_on_db = case.snr_db + 10.0 * np.log10(target.mean())  # the ratio of the whole case includes the pauses
        assert while_on_db == pytest.approx(kind.snr_db, abs=1.0), kind.name
        assert case.target[:, case.labels.index("speech")].mean() > 0.3, kind.name


def test_ring_back_pauses_and_hum_does_not(cases: dict[str, list[Case]]) -> None:
    share = {}
    for name in ("hum, 10 dB", "ring-back, 10 dB"):
        (case,) = cases[name]
        share[name] = case.target[ONSET + 10 :, case.labels.index("tone")].mean()
    assert share["hum, 10 dB"] == 1.0
    assert 0.1 < share["ring-back, 10 dB"] < 0.6


def test_the_same_seed_gives_the_same_minutes(cases: dict[str, list[Case]]) -> None:
    again = steady_cases(made_pool(), seed=4, talkers=1)
    other = steady_cases(made_pool(), seed=5, talkers=1)
    for name, (case,) in cases.items():
        np.testing.assert_array_equal(case.samples, again[name][0].samples)
        assert not np.array_equal(case.samples, other[name][0].samples)


def test_a_source_that_is_heard_throughout_is_found_in_all_seconds(cases: dict[str, list[Case]]) -> None:
    figures = steady_figures(hears(), cases)
    assert figures["found"] == 1.0
    assert figures["called_music"] == 0.0
    assert figures["kinds"]["hum, 20 dB"] == {"talkers": 1, "seconds": 57, "found": 1.0, "called_music": 0.0}
    assert "called_music" not in figures["kinds"]["music, 10 dB"]
    assert figures["kinds"]["ring-back, 10 dB"]["seconds"] < 40  # only where the tone is on


def test_a_source_that_is_forgotten_is_missed_from_then_on(cases: dict[str, list[Case]]) -> None:
    figures = steady_figures(hears(until_s=30.0), cases)
    assert figures["kinds"]["hum, 10 dB"]["found"] == pytest.approx(27 / 57, abs=0.001)
    assert 0.3 < figures["found"] < 0.7


def test_a_tone_that_is_also_called_music_is_counted(cases: dict[str, list[Case]]) -> None:
    assert steady_figures(hears(music=0.79), cases)["called_music"] == 0.0  # below the enter threshold
    assert steady_figures(hears(music=0.81), cases)["called_music"] == 1.0


def test_a_contender_without_a_label_has_no_figure_for_its_kinds(cases: dict[str, list[Case]]) -> None:
    whole = hears()
    deaf = Contender("deaf", whole.judge, {"stationary_noise": 0.8})
    assert list(steady_figures(deaf, cases)["kinds"]) == ["steady noise, 10 dB"]
    assert steady_figures(Contender("ranks", whole.judge), cases) == {}


def test_talkers_with_much_speech_come_first() -> None:
    pool = made_pool()
    ann, bob = pool.by_speaker
    pool.by_speaker[bob] = pool.by_speaker[bob] * 10  # 20 s
    assert choose_talkers(pool, np.random.default_rng(0), 1) == [bob]
    assert sorted(choose_talkers(pool, np.random.default_rng(0), 5)) == [ann, bob]
