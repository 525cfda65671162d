"""Reports as Markdown: contenders side by side, one section per material."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from training.aims import aims_table
from training.report import (
    DISTURBANCE_NOTE,
    OPINION_NOTE,
    RECORDINGS_NOTE,
    STEADY_NOTE,
    decibels,
    number,
    percent,
    table,
)

By = Mapping[str, Mapping[str, Any]]
"""Figures by contender."""

GROUP_LABELS = ("speech", "noise", "interference", "disturbance")
HAND_LABELS = "Hand labels"
"""Title of the material whose labels people wrote."""

LABEL_COLUMNS: tuple[tuple[str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("AUROC", lambda row: number(row.get("auroc"))),
    ("average precision", lambda row: number(row.get("average_precision"))),
    ("calibration error", lambda row: number(row.get("calibration_error"))),
    ("enter", lambda row: number(row.get("enter"), 2)),
    ("found", lambda row: percent(row.get("true_rate"))),
    ("false", lambda row: percent(row.get("false_rate"), 2)),
    ("event F1", lambda row: number(row.get("event", {}).get("f1"))),
    ("events", lambda row: str(row.get("event", {}).get("events", "–"))),
    ("events found", lambda row: percent(row.get("event", {}).get("found"))),
    ("delay p50", lambda row: _seconds(row.get("event", {}).get("delay_p50_s"))),
    ("delay p95", lambda row: _seconds(row.get("event", {}).get("delay_p95_s"))),
)


def report_markdown(document: Mapping[str, Any]) -> str:
    """Return a complete report.

    Args:
        document: The report data that `training.evaluate` writes as JSON.
    """
    names = document["contenders"]
    parts = [f"# {', '.join(names)}", f"`{document['command']}`", _aims(document)]
    for material in document["materials"]:
        parts += [f"## {material['title']}", material["what"]]
        parts += material_sections(material["contenders"])
    return "\n\n".join(part for part in parts if part) + "\n"


def material_sections(by: By) -> list[str]:
    """Return every table for which at least one contender has figures."""
    return [text for make in MAKERS if (text := make(by))]


def aimed_figures(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each contender's figures on all materials as one mapping, as in a model file."""
    found: dict[str, dict[str, Any]] = {name: {} for name in document["contenders"]}
    for material in document["materials"]:
        for name, figures in material["contenders"].items():
            found[name] |= {"labelled": figures["labels"]} if material["title"] == HAND_LABELS else figures
    return found


def _aims(document: Mapping[str, Any]) -> str:
    text = aims_table(aimed_figures(document), measured_only=True)
    return f"## Aims\n\n{text}" if text else ""


def _labels(by: By) -> str:
    rows = []
    labels = _keys(figures.get("labels", {}) for figures in by.values())
    for label in labels:
        for name, figures in by.items():
            row = figures.get("labels", {}).get(label)
            if row is not None:
                rows.append((f"`{label}`", name, *(write(row) for _, write in LABEL_COLUMNS)))
    if not rows:
        return ""
    return (
        "### Labels\n\n" + table(("label", "contender", *(head for head, _ in LABEL_COLUMNS)), rows, 2) + "\n\n"
        "AUROC, average precision, calibration error (15 bins), found and false (true- and false-positive rate at the "
        "enter threshold) are per 20 ms frame. Event F1: onset within 200 ms, end within 200 ms or 20 % of the length. "
        "Delay: from the onset until the score of the first frame at the threshold is available, including look-ahead."
        + (f" {DISTURBANCE_NOTE}" if "disturbance" in labels else "")
    )


def _psds(by: By) -> str:
    held = {name: figures["psds"] for name, figures in by.items() if figures.get("psds", {}).get("labels")}
    if not held:
        return ""
    labels = _keys(row["labels"] for row in held.values())
    rows = [
        (name, number(row["all"]), *(number(row["labels"].get(label)) for label in labels))
        for name, row in held.items()
    ]
    terms = next(iter(held.values()))["terms"]
    return "### PSDS\n\n" + table(("contender", "all", *(f"`{label}`" for label in labels)), rows) + f"\n\n{terms}."


def _snr(by: By) -> str:
    held = {name: figures["snr_db"] for name, figures in by.items() if "error_db" in figures.get("snr_db", {})}
    if not held:
        return ""
    ranges = _keys(row["by_true_snr"] for row in held.values())
    head = (
        "contender",
        "all",
        "below 25 dB",
        "… median",
        "… steady noise alone",
        "bias",
        *(f"{name} dB" for name in ranges),
    )
    rows = [
        (
            name,
            *(decibels(row[key]) for key in ("error_db", "error_below_25_db", "median_error_below_25_db")),
            decibels(row.get("steady_noise", {}).get("error_below_25_db")),
            decibels(row["bias_db"]),
            *(decibels(row["by_true_snr"].get(key, {}).get("error_db")) for key in ranges),
        )
        for name, row in held.items()
    ]
    parts = ["### SNR per speech frame: mean absolute error", table(head, rows)]
    for fact in _keys(row["by"] for row in held.values()):
        values = _keys(row["by"].get(fact, {}) for row in held.values())
        cells = [(value, *(decibels(row["by"].get(fact, {}).get(value)) for row in held.values())) for value in values]
        if cells:
            parts.append(table((f"true SNR below 25 dB, by {fact}", *held), cells))
    return "\n\n".join(parts)


def _rank(by: By) -> str:
    rows = [
        (name, f"`{figure}`", str(row["cases"]), number(row["spearman"]))
        for name, figures in by.items()
        for figure, row in figures.get("snr_db", {}).get("rank", {}).items()
    ]
    if not rows:
        return ""
    head = ("contender", "whole-recording figure", "cases", "Spearman with the true SNR")
    return "### Rank of whole recordings by SNR\n\n" + table(head, rows, 2)


def _groups(by: By) -> str:
    parts = []
    for fact in _keys(figures.get("groups", {}) for figures in by.values()):
        rows = []
        for value in _keys(figures.get("groups", {}).get(fact, {}) for figures in by.values()):
            for name, figures in by.items():
                row = figures.get("groups", {}).get(fact, {}).get(value)
                if row:
                    rows.append((value, name, *(number(row.get(label)) for label in GROUP_LABELS)))
        if rows:
            parts.append(table((fact, "contender", *(f"`{label}`" for label in GROUP_LABELS)), rows, 2))
    return "\n\n".join(["### AUROC by group", *parts]) if parts else ""


def _followed(by: By) -> str:
    held = {name: figures["followed"] for name, figures in by.items() if figures.get("followed", {}).get("labels")}
    rows = [
        (f"`{label}`", name, number(row["labels"][label]["alone"]), number(row["labels"][label]["after"]))
        for label in _keys(row["labels"] for row in held.values())
        for name, row in held.items()
        if label in row["labels"]
    ]
    if not rows:
        return ""
    head = ("label", "contender", "AUROC alone", "right after another recording")
    return "### Mid-stream\n\n" + table(head, rows, 2)


def _kinds(by: By) -> str:
    kinds = _keys(figures.get("kinds", {}) for figures in by.values())
    rows = [
        (kind, name, str(row["cases"]), number(row.get("interference")), decibels(row.get("snr_error_below_25_db")))
        for kind in kinds
        for name, figures in by.items()
        if (row := figures.get("kinds", {}).get(kind))
    ]
    if not rows:
        return ""
    head = ("speech with", "contender", "mixtures", "AUROC of `interference`", "SNR error below 25 dB")
    return "### Interference by kind\n\n" + table(head, rows, 2)


def _clean(by: By) -> str:
    rows = [
        (kind, name, number(row["hours"], 2), percent(row.get("noise_share"), 2),
         percent(row.get("interference_share"), 2), number(row.get("false_events_per_hour"), 1),
         ", ".join(f"`{k}` {v:g}" for k, v in row.get("false_events_per_hour_by_label", {}).items()) or "–")
        for name, figures in by.items()
        for kind, row in figures.get("clean_speech", {}).items()
        if len(row) > 1
    ]  # fmt: skip
    head = (
        "clean speech",
        "contender",
        "hours",
        "noise > 0.5",
        "interference > 0.5",
        "false events per hour",
        "labels",
    )
    return "### Clean speech\n\n" + table(head, sorted(rows), 2) if rows else ""


def _noise_alone(by: By) -> str:
    rows = [
        (
            name,
            number(row["hours"], 2),
            percent(row.get("speech_share"), 2),
            *(percent(row.get(part, {}).get("speech_share"), 2) for part in ("not_vocal", "vocal")),
        )
        for name, figures in by.items()
        if "speech_share" in (row := figures.get("noise_alone", {}))
    ]
    head = ("contender", "hours", "frames with speech > 0.5", "… without vocal sounds", "… coughs, cries, laughter")
    return "### Noise alone\n\n" + table(head, rows) if rows else ""


def _recordings(by: By) -> str:
    rows = [
        (kind, name, str(row["recordings"]), number(row["hours"], 2), number(row["noise_events_per_hour"], 1),
         number(row["edge_noise_events_per_hour"], 1),
         ", ".join(f"`{k}` {v:g}" for k, v in row["events_per_hour_by_label"].items()) or "–")
        for name, figures in by.items()
        for kind, row in figures.get("clean_recordings", {}).items()
    ]  # fmt: skip
    head = ("microphone", "contender", "recordings", "hours", "noise events per hour", "… at the edges", "by label")
    if not rows:
        return ""
    return "### Clean recordings, unmixed\n\n" + table(head, sorted(rows), 2) + f"\n\n{RECORDINGS_NOTE}"


def _steady(by: By) -> str:
    held = {name: figures["steady"] for name, figures in by.items() if "steady" in figures}
    rows = [
        (kind, name, str(row["talkers"]), str(row["seconds"]), percent(row["found"]), percent(row.get("called_music")))
        for kind in _keys(steady["kinds"] for steady in held.values())
        for name, steady in held.items()
        if (row := steady["kinds"].get(kind))
    ]
    if not rows:
        return ""
    rows += [
        ("all without gates", name, "", "", percent(steady["found"]), percent(steady.get("called_music")))
        for name, steady in held.items()
    ]
    rows += [
        ("all behind gates", name, "", "", percent(steady.get("gated")), percent(None)) for name, steady in held.items()
    ]
    head = ("a minute of speech with", "contender", "talkers", "seconds", "found", "also called music")
    return "### Steady sources under speech\n\n" + table(head, rows, 2) + f"\n\n{STEADY_NOTE}"


def _opinion(by: By) -> str:
    rows = [
        (f"`{score}`", name, str(row["cases"]), number(row["pearson"]), number(row["spearman"]))
        for name, figures in by.items()
        for score, row in figures.get("opinion", {}).items()
    ]
    head = ("score", "contender", "clips", "Pearson", "Spearman")
    return "### Opinion scores\n\n" + table(head, sorted(rows), 2) + f"\n\n{OPINION_NOTE}" if rows else ""


def _ratings(by: By) -> str:
    parts = []
    for rating in _keys(figures.get("ratings", {}) for figures in by.values()):
        rows = [
            (name, f"`{figure}`", str(row["cases"]), number(row["pearson"]), number(row["spearman"]),
             number(row.get("pearson_of_conditions")), number(row.get("spearman_of_conditions")))
            for name, figures in by.items()
            for figure, row in figures.get("ratings", {}).get(rating, {}).items()
        ]  # fmt: skip
        head = (
            f"human {rating.upper()}",
            "figure",
            "clips",
            "Pearson",
            "Spearman",
            "Pearson, conditions",
            "Spearman, conditions",
        )
        parts.append(table(head, rows, 2))
    return "\n\n".join(["### Human ratings", *parts]) if parts else ""


def _invariance(by: By) -> str:
    rows = [
        (change, name, str(row["cases"]), percent(row["same_verdict"]),
         ", ".join(f"{k} {v}" for k, v in row["changed"].items()) or "–",
         *(number(row[f"{key}_ratio"], 3) for key in ("speech", "noise", "interference")), decibels(row["snr_db"]))
        for name, figures in by.items()
        for change, row in figures.get("invariance", {}).items()
    ]  # fmt: skip
    head = ("change", "contender", "cases", "same verdict", "changed", "Δ speech", "Δ noise", "Δ interference", "Δ SNR")
    return "### Verdict invariance\n\n" + table(head, rows, 2) if rows else ""


MAKERS: Sequence[Callable[[By], str]] = (
    _labels,
    _psds,
    _snr,
    _rank,
    _followed,
    _groups,
    _kinds,
    _clean,
    _recordings,
    _steady,
    _noise_alone,
    _opinion,
    _ratings,
    _invariance,
)


def _keys(rows: Iterable[Mapping[str, Any]]) -> Sequence[str]:
    """Return the keys of all mappings in order of first appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
