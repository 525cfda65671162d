"""Figures as Markdown: for the terminal, a report file and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def figures_markdown(figures: Mapping[str, Any]) -> str:
    """Write what `training.evaluate` measured as Markdown tables.

    Args:
        figures: As returned by `training.evaluate.evaluate`.
    """
    material = figures["material"]
    parts = [
        f"Material: {material['what']}. {material['mixtures']} mixtures of {material['clip_seconds']:g} s "
        f"({material['hours']:.2f} h), seed {material['seed']}. Energy baseline: {material['baseline']}.",
        _labels(figures["labels"]),
        _snr(figures["snr_db"]),
        _clean(figures["clean_speech"]),
        _noise_alone(figures["noise_alone"]),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric_from: int = 1) -> str:
    """Make a Markdown table; columns from `numeric_from` on are aligned to the right."""
    rule = ["---" if i < numeric_from else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def number(value: float | None, digits: int = 3) -> str:
    """Write a figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share as a percentage, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _labels(labels: Mapping[str, Mapping[str, Any]]) -> str:
    head = (
        "label",
        "AUROC",
        "energy AUROC",
        "average precision",
        "positive frames",
        "calibration error",
        "enter",
        "found",
        "false",
    )
    rows = [
        (
            f"`{name}`",
            number(row["auroc"]),
            number(row["baseline_auroc"]),
            number(row["average_precision"]),
            percent(row["positive_share"]),
            number(row["calibration_error"]),
            number(row["enter"], 2),
            percent(row["true_rate"]),
            percent(row["false_rate"], 2),
        )
        for name, row in labels.items()
    ]
    return table(head, rows) + (
        "\n\nPer 20 ms frame. `found` and `false` are the true- and false-positive rates at the enter threshold."
    )


def _snr(snr: Mapping[str, Any]) -> str:
    head = ("`snr_db`, mean absolute error in speech frames", "detector", "energy, best straight line")
    rows = [
        ("all", *(_db(snr.get(key)) for key in ("error_db", "baseline_error_db"))),
        (
            "true SNR below 25 dB",
            *(_db(snr.get(key)) for key in ("error_below_25_db", "baseline_error_below_25_db")),
        ),
    ]
    return table(head, rows) + f"\n\nMean of the detector's signed error: {_db(snr.get('bias_db'))}."


def _clean(clean: Mapping[str, Mapping[str, Any]]) -> str:
    head = ("clean speech", "hours", "frames with noise > 0.5", "with interference > 0.5", "false events per hour")
    rows = [
        (
            {"wide": "wide band", "telephone": "telephone"}.get(name, name),
            number(row["hours"], 2),
            percent(row["noise_share"], 2),
            percent(row["interference_share"], 2),
            number(row["false_events_per_hour"], 1),
        )
        for name, row in clean.items()
    ]
    causes = []
    for name, row in clean.items():
        by_label = ", ".join(f"`{label}` {rate:g}" for label, rate in row["false_events_per_hour_by_label"].items())
        causes.append(f"{name}: {by_label or 'none'}")
    return table(head, rows) + f"\n\nFalse events per hour by label: {'; '.join(causes)}."


def _noise_alone(row: Mapping[str, Any]) -> str:
    return (
        f"Noise alone, nobody speaking ({row['hours']:.2f} h): {percent(row['speech_share'], 2)} of the frames have "
        "speech > 0.5."
    )


def _db(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} dB"
