"""Aims: measured figures are compared strictly with the aims."""

from __future__ import annotations

import numpy as np

from training.aims import AIMS, Aim, aims_markdown
from training.evaluation.cases import Case
from training.evaluation.contenders import Judgement
from training.evaluation.figures import rating_figures


def test_an_aim_is_met_at_its_bound_and_not_beyond() -> None:
    more, less = Aim("a", ("x",), 0.9), Aim("b", ("x",), 0.02, at_least=False)
    assert more.met(0.9) is True
    assert more.met(0.8999) is False
    assert less.met(0.02) is True
    assert less.met(0.0201) is False
    assert more.met(None) is None


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    text = aims_markdown({"labels": {"speech": {"auroc": 0.995}, "dropout": {"auroc": 0.8}}})
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()[2:]}
    assert len(lines) == len(text.splitlines()) - 2 - 1  # the false events of both lines have the same name
    assert "| ≥ 0.992 | 0.995 | yes |" in lines["`speech`, frame AUROC"]
    assert "| ≥ 0.970 | 0.800 | no |" in lines["`dropout`, frame AUROC"]
    assert "| – | not measured |" in lines["`noise`, frame AUROC"]
    assert "| – | not measured |" in lines["… SIG"]


def test_the_earlier_model_stands_beside_it() -> None:
    earlier = {"name": "net", "version": "0.1.0", "noise_alone": {"speech_share": 0.05}}
    text = aims_markdown({"noise_alone": {"speech_share": 0.013}, "earlier": earlier})
    assert "| net 0.1.0 |" in text.splitlines()[0]
    assert "| noise alone: speech > 0.5 | ≤ 2.0 % | 1.3 % | 5.0 % | yes |" in text


def test_listeners_ratings_are_found_where_evaluation_puts_them() -> None:
    silence = np.zeros(320, np.float32)
    cases = [Case(f"clip {i}", silence, ratings={"bak": 1.0 + 0.3 * i}) for i in range(12)]
    judged = [Judgement({}, {"bak": 2.0 + 0.2 * i}) for i in range(12)]
    text = aims_markdown({"ratings": rating_figures(cases, judged)})
    assert "| listeners' ratings, BAK, Pearson | ≥ 0.900 | 1.000 | yes |" in text
    assert "| … SIG | ≥ 0.650 | – | not measured |" in text


def test_every_aim_has_a_name_and_a_bound() -> None:
    assert all(aim.figure and aim.bound > 0.0 and aim.path for aim in AIMS)
