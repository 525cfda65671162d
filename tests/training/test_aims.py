"""Aims: measured figures are compared strictly with the aims."""

from __future__ import annotations

import numpy as np

from training.aims import AIMS, Aim, aims_markdown, aims_table
from training.evaluation.cases import Case
from training.evaluation.contenders import Judgement
from training.evaluation.figures import opinion_figures


def test_an_aim_is_met_at_its_bound_and_not_beyond() -> None:
    more, less = Aim("a", ("x",), 0.9), Aim("b", ("x",), 0.02, at_least=False)
    assert more.met(0.9) is True
    assert more.met(0.8999) is False
    assert less.met(0.02) is True
    assert less.met(0.0201) is False
    assert more.met(None) is None


def test_a_value_that_rounds_to_the_bound_says_that_it_misses() -> None:
    aim = Aim("AUROC", ("auroc",), 0.99)
    assert (aim.shown(0.9896), aim.shown(0.99), aim.shown(0.98), aim.shown(None)) == (
        "just below 0.990", "0.990", "0.980", aim.form(None),
    )  # fmt: skip
    assert Aim("errors", ("rate",), 0.01, at_least=False).shown(0.0104) == "just above 0.010"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    text = aims_markdown({"labels": {"speech": {"auroc": 0.995}, "dropout": {"auroc": 0.8}}})
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()[2:]}
    assert len(lines) == len(text.splitlines()) - 2 == len(AIMS)
    assert "| ≥ 0.994 | 0.995 | yes |" in lines["`speech`, frame AUROC"]
    assert "| ≥ 0.985 | 0.800 | no |" in lines["`dropout`, frame AUROC"]
    assert "| – | not measured |" in lines["`noise`, frame AUROC"]
    assert "| – | not measured |" in lines["… SIG, Pearson"]
    assert "| – | not measured |" in lines["steady source under a minute of speech: seconds found"]


def test_the_earlier_model_stands_beside_it() -> None:
    earlier = {"name": "net", "version": "0.1.0", "noise_alone": {"not_vocal": {"speech_share": 0.05}}}
    text = aims_markdown({"noise_alone": {"not_vocal": {"speech_share": 0.013}}, "earlier": earlier})
    assert "| net 0.1.0 |" in text.splitlines()[0]
    assert "| noise alone called speech | ≤ 3.0 % | 1.3 % | 5.0 % | yes |" in text


def test_a_report_shows_only_aims_that_a_contender_was_measured_for() -> None:
    assert aims_table({"new": {}, "old": {}}, measured_only=True) == ""
    text = aims_table({"new": {}, "old": {"steady": {"found": 0.98}}}, measured_only=True)
    assert text.splitlines()[0] == "| figure | aim | new | old | met |"
    assert text.splitlines()[2:] == [
        "| steady source under a minute of speech: seconds found | ≥ 97.0 % | – | 98.0 % | not measured |"
    ]


def test_teachers_scores_are_found_where_evaluation_puts_them() -> None:
    silence = np.zeros(320, np.float32)
    cases = [Case(f"clip {i}", silence, ratings={"bak": 1.0 + 0.3 * i}) for i in range(12)]
    judged = [Judgement({}, {"bak": 2.0 + 0.2 * i}) for i in range(12)]
    text = aims_markdown({"opinion": opinion_figures(cases, judged)})
    assert "| BAK by the teachers, in place of listeners, Pearson | ≥ 0.890 | 1.000 | yes |" in text
    assert "| … SIG, Pearson | ≥ 0.720 | – | not measured |" in text


def test_every_aim_has_a_name_and_a_bound() -> None:
    assert all(aim.figure and aim.bound > 0.0 and aim.path for aim in AIMS)
