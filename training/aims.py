"""Aims for the figures of the model, and whether it meets them: one table of the model card.

The aims apply to material from corpora that the model has not seen. Aims that the available material cannot test are
listed with a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.corpora.taxonomy import DISTURBANCE
from training.report import decibels, found_at, number, percent, table

Figures = Mapping[str, Any]

CLEAN_RATE = "noise_events_per_hour"


@dataclass(frozen=True, slots=True)
class Aim:
    """One line of the table.

    Attributes:
        figure: What is measured.
        path: Its keys in the figures.
        bound: The aim.
        at_least: Whether higher is better.
        form: Formats a value.
    """

    figure: str
    path: tuple[str, ...]
    bound: float
    at_least: bool = True
    form: Callable[[float | None], str] = number

    def value(self, figures: Figures) -> float | None:
        """Return the measured figure; None if it was not measured."""
        found = found_at(figures, self.path)
        return found if isinstance(found, (int, float)) else None

    def met(self, value: float | None) -> bool | None:
        """Whether the value meets the aim; None if nothing was measured."""
        if value is None:
            return None
        return value >= self.bound if self.at_least else value <= self.bound

    def shown(self, value: float | None) -> str:
        """Return the value as text, which says if it misses the aim by less than the text shows."""
        text = self.form(value)
        if self.met(value) is False and text == self.form(self.bound):
            return f"just {'below' if self.at_least else 'above'} {text}"
        return text


def _auroc(figure: str, bound: float, *path: str) -> Aim:
    return Aim(f"{figure}, frame AUROC", path, bound)


def _clean(key: str, line: str) -> list[Aim]:
    """Aims for clean speech over one kind of line: frames scored as disturbed, and events."""
    return [
        *(
            Aim(f"clean speech, {line}: {label} > 0.5", ("clean_speech", key, f"{label}_share"), 0.01, False, percent)
            for label in ("noise", "interference")
        ),
        _rate(f"clean speech, {line}: false events per hour", 10.0, "clean_speech", key, "false_events_per_hour"),
    ]


def _rate(figure: str, bound: float, *path: str) -> Aim:
    return Aim(figure, path, bound, False, lambda value: number(value, 1))


def _at_most_db(figure: str, bound: float, *path: str) -> Aim:
    return Aim(figure, path, bound, False, decibels)


def _pearson(figure: str, bound: float, score: str) -> Aim:
    return Aim(f"{figure}, Pearson", ("opinion", score, "pearson"), bound)


AIMS: Sequence[Aim] = (
    _auroc("`speech` by hand labels of real recordings", 0.968, "labelled", "speech", "auroc"),
    _auroc("`speech`", 0.994, "labels", "speech", "auroc"),
    _auroc("`noise`", 0.982, "labels", "noise", "auroc"),
    _auroc("… telephone", 0.97, "groups", "band", "telephone", "noise"),
    _auroc("`interference`", 0.985, "labels", "interference", "auroc"),
    _auroc("disturbance", 0.988, "labels", DISTURBANCE, "auroc"),
    _auroc("`interference`, a second talker", 0.970, "kinds", "talker", "interference"),
    _auroc("… babble", 0.993, "kinds", "babble", "interference"),
    _auroc("… music", 0.997, "kinds", "music", "interference"),
    _auroc("… hum", 0.996, "kinds", "hum", "interference"),
    _auroc("… DTMF", 0.997, "kinds", "dtmf", "interference"),
    _auroc("… ring-back and other call tones", 0.996, "kinds", "call_tone", "interference"),
    Aim("steady source under a minute of speech: seconds found", ("steady", "found"), 0.97, form=percent),
    Aim("… noise that the sender gates in pauses", ("steady", "gated"), 0.97, form=percent),
    Aim("… seconds of tones also called music", ("steady", "called_music"), 0.02, at_least=False, form=percent),
    _at_most_db("`snr_db` below 25 dB, mean error", 5.5, "snr_db", "error_below_25_db"),
    _at_most_db("… median error", 3.0, "snr_db", "median_error_below_25_db"),
    _at_most_db("… steady noise alone, mean error", 3.5, "snr_db", "steady_noise", "error_below_25_db"),
    Aim("recordings by SNR, Spearman", ("snr_db", "rank", "snr_db", "spearman"), 0.96),
    _rate("clean recordings, studio: noise events per hour", 8.0, "clean_recordings", "studio", CLEAN_RATE),
    _rate("… crowd: noise events per hour", 40.0, "clean_recordings", "crowd", CLEAN_RATE),
    *_clean("wide", "wide band"),
    *_clean("telephone", "telephone"),
    Aim("noise alone called speech", ("noise_alone", "not_vocal", "speech_share"), 0.03, at_least=False, form=percent),
    _auroc("`dropout`", 0.985, "labels", "dropout", "auroc"),
    _auroc("`clipping`", 0.99, "labels", "clipping", "auroc"),
    *(
        Aim(f"same verdict after {change}", ("invariance", change, "same_verdict"), 0.95, form=percent)
        for change in ("gain +20 dB", "gain -20 dB", "8 kHz", "G.711")
    ),
    _pearson("BAK by the teachers, in place of listeners", 0.89, "bak"),
    _pearson("… SIG", 0.72, "sig"),
    _pearson("… OVRL", 0.89, "ovrl"),
)


def aims_table(by: Mapping[str, Figures], *, measured_only: bool = False) -> str:
    """Return a table of aims and figures.

    Args:
        by: Figures by the name of their column. Whether an aim is met is stated for the first one.
        measured_only: Leave out aims that no column has a figure for; without any, the table is empty.
    """
    rows = []
    for aim in AIMS:
        values = [aim.value(figures) for figures in by.values()]
        if measured_only and not any(value is not None for value in values):
            continue
        met = aim.met(values[0])
        rows.append(
            (
                aim.figure,
                ("≥ " if aim.at_least else "≤ ") + aim.form(aim.bound),
                *(aim.shown(value) for value in values),
                "not measured" if met is None else "yes" if met else "no",
            )
        )
    return table(("figure", "aim", *by, "met"), rows) if rows else ""


def aims_markdown(figures: Figures) -> str:
    """Return the table: aim, this model, the earlier model if it was measured, and whether the aim is met."""
    earlier: Figures = figures.get("earlier", {})
    past = {f"{earlier['name']} {earlier['version']}": earlier} if earlier else {}
    return aims_table({"this model": figures, **past})
