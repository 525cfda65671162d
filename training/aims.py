"""Aims for the figures of the model, and whether it meets them: one table of the model card.

The aims apply to material from corpora that the model has not seen. Aims that the available material cannot test are
listed with a dash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.report import decibels, found_at, number, percent, table

Figures = Mapping[str, Any]


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


def _auroc(figure: str, bound: float, *path: str) -> Aim:
    return Aim(f"{figure}, frame AUROC", path, bound)


def _clean(key: str, line: str) -> list[Aim]:
    """Aims for clean speech over one kind of line: frames scored as disturbed, and events."""
    shares = [
        Aim(f"clean speech, {line}: {label} > 0.5", ("clean_speech", key, f"{label}_share"), 0.01, False, percent)
        for label in ("noise", "interference")
    ]
    path = ("clean_speech", key, "false_events_per_hour")
    return [*shares, Aim("… false events per hour", path, 10.0, False, lambda value: number(value, 1))]


AIMS: Sequence[Aim] = (
    _auroc("`speech`", 0.992, "labels", "speech", "auroc"),
    _auroc("… by hand labels of real recordings", 0.97, "labelled", "speech", "auroc"),
    _auroc("`noise`", 0.98, "labels", "noise", "auroc"),
    _auroc("… telephone", 0.97, "groups", "band", "telephone", "noise"),
    _auroc("`interference`", 0.965, "labels", "interference", "auroc"),
    _auroc("… a second talker", 0.95, "kinds", "talker", "interference"),
    _auroc("… babble", 0.985, "kinds", "babble", "interference"),
    _auroc("… music", 0.99, "kinds", "music", "interference"),
    _auroc("… hum", 0.995, "kinds", "hum", "interference"),
    _auroc("… DTMF", 0.995, "kinds", "dtmf", "interference"),
    _auroc("… call tones", 0.995, "kinds", "call_tone", "interference"),
    Aim("`snr_db` below 25 dB, mean error", ("snr_db", "error_below_25_db"), 4.0, at_least=False, form=decibels),
    Aim("recordings by SNR, Spearman", ("snr_db", "rank", "snr_db", "spearman"), 0.93),
    *_clean("wide", "wide band"),
    *_clean("telephone", "telephone"),
    Aim("noise alone: speech > 0.5", ("noise_alone", "speech_share"), 0.02, at_least=False, form=percent),
    _auroc("`dropout`", 0.97, "labels", "dropout", "auroc"),
    _auroc("`clipping`", 0.99, "labels", "clipping", "auroc"),
    *(
        Aim(f"same verdict after {change}", ("invariance", change, "same_verdict"), 0.95, form=percent)
        for change in ("gain +20 dB", "gain -20 dB", "8 kHz", "G.711")
    ),
    Aim("listeners' ratings, BAK, Pearson", ("ratings", "bak", "bak", "pearson"), 0.90),
    Aim("… SIG", ("ratings", "sig", "sig", "pearson"), 0.65),
    Aim("… OVRL", ("ratings", "ovrl", "ovrl", "pearson"), 0.92),
)


def aims_markdown(figures: Figures) -> str:
    """Return the table: aim, this model, the earlier model if it was measured, and whether the aim is met."""
    earlier: Figures = figures.get("earlier", {})
    rows = []
    for aim in AIMS:
        value = aim.value(figures)
        met = aim.met(value)
        rows.append(
            (
                aim.figure,
                ("≥ " if aim.at_least else "≤ ") + aim.form(aim.bound),
                aim.form(value),
                *((aim.form(aim.value(earlier)),) if earlier else ()),
                "not measured" if met is None else "yes" if met else "no",
            )
        )
    past = (f"{earlier['name']} {earlier['version']}",) if earlier else ()
    return table(("figure", "aim", "this model", *past, "met"), rows)
