"""Figures as Markdown, for the terminal, report files and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

DISTURBANCE_NOTE = (
    "`disturbance` is the higher score of `noise` and `interference` against either; alarms, bells, dialling, machine "
    "beeps and laughter count only there."
)
RECORDINGS_NOTE = (
    "Unmixed recordings with a range of at least 45 dB between loud and quiet frames. Overlapping events of `noise` "
    "and its causes count as one. Those whose middle is in the first or last 0.3 s (clicks of the start and stop) are "
    "counted apart."
)
STEADY_NOTE = (
    "The source lasts from second 3 to 60. Found: seconds with the source in which the score of its label is above the "
    "exit threshold for at least half of the time. Also called music: `music` is above its enter threshold."
)
OPINION_NOTE = (
    "Against the teachers' scores of held-out clips. No listeners were available: the figures show how well the net "
    "follows its teachers, not how well it agrees with people."
)


def figures_markdown(figures: Mapping[str, Any]) -> str:
    """Return the figures of `training.evaluate` as Markdown tables.

    Args:
        figures: The result of `training.evaluate.evaluate`.
    """
    material = figures["material"]
    parts = [
        f"Material: {material['what']}. {material['mixtures']} mixtures of {material['clip_seconds']:g} s "
        f"({material['hours']:.2f} h), seed {material['seed']}. Energy baseline: {material['baseline']}.",
        _labels(figures["labels"]),
        _snr(figures["snr_db"]),
        _clean(figures["clean_speech"]),
        _recordings(figures.get("clean_recordings", {})),
        _steady(figures.get("steady", {})),
        _noise_alone(figures["noise_alone"]),
        _opinion(figures.get("opinion", {})),
        _events(figures["labels"], figures.get("psds", {})),
        _rank(figures["snr_db"].get("rank", {})),
        _followed(figures.get("followed", {})),
        _kinds(figures.get("kinds", {})),
        _disturbances(figures.get("groups", {}).get("disturbance", {}), figures["snr_db"].get("by", {})),
        _invariance(figures.get("invariance", {})),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric_from: int = 1) -> str:
    """Return a Markdown table; columns from `numeric_from` on are right-aligned."""
    rule = ["---" if i < numeric_from else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def found_at(figures: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the value at a path of keys; None if the path does not exist."""
    found: Any = figures
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def number(value: float | None, digits: int = 3) -> str:
    """Format a figure; a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """Format a share as a percentage; a dash if there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def decibels(value: float | None) -> str:
    """Format a level difference; a dash if there is none."""
    return "–" if value is None else f"{value:.2f} dB"


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
            number(row.get("calibration_error")),
            number(row.get("enter"), 2),
            percent(row.get("true_rate")),
            percent(row.get("false_rate"), 2),
        )
        for name, row in labels.items()
    ]
    return table(head, rows) + (
        "\n\nPer 20 ms frame. `found` and `false` are the true- and false-positive rates at the enter threshold."
        + (f" {DISTURBANCE_NOTE}" if "disturbance" in labels else "")
    )


def _snr(snr: Mapping[str, Any]) -> str:
    head = ("`snr_db`, mean absolute error in speech frames", "detector", "energy, best straight line")
    rows = [
        ("all", *(decibels(snr.get(key)) for key in ("error_db", "baseline_error_db"))),
        (
            "true SNR below 25 dB",
            *(decibels(snr.get(key)) for key in ("error_below_25_db", "baseline_error_below_25_db")),
        ),
    ]
    if "median_error_below_25_db" in snr:
        rows.append(("… median", decibels(snr["median_error_below_25_db"]), decibels(None)))
    if steady := snr.get("steady_noise"):
        rows.append(("… steady noise alone", decibels(steady.get("error_below_25_db")), decibels(None)))
    return table(head, rows) + f"\n\nMean of the detector's signed error: {decibels(snr.get('bias_db'))}."


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
    parts = [
        f"{name} {percent(row[key]['speech_share'], 2)}"
        for key, name in (("not_vocal", "without vocal sounds"), ("vocal", "coughs, cries and laughter"))
        if key in row
    ]
    return (
        f"Noise without speech ({row['hours']:.2f} h): {percent(row['speech_share'], 2)} of the frames have "
        f"speech > 0.5{' (' + ', '.join(parts) + ')' if parts else ''}."
    )


def _recordings(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate clean recordings, unmixed, by kind of microphone; empty for model files without these figures."""
    head = ("clean recordings", "recordings", "hours", "noise events per hour", "… at the edges")
    rows = [
        (
            kind,
            str(row["recordings"]),
            number(row["hours"], 2),
            number(row["noise_events_per_hour"], 1),
            number(row["edge_noise_events_per_hour"], 1),
        )
        for kind, row in kinds.items()
    ]
    return table(head, rows) + f"\n\n{RECORDINGS_NOTE}" if rows else ""


def _steady(steady: Mapping[str, Any]) -> str:
    """Tabulate sources that last for a minute; empty for model files without these figures."""
    rows = [
        (kind, str(row["talkers"]), str(row["seconds"]), percent(row["found"]), percent(row.get("called_music")))
        for kind, row in steady.get("kinds", {}).items()
    ]
    if not rows:
        return ""
    rows.append(("all", "", "", percent(steady["found"]), percent(steady.get("called_music"))))
    head = ("a minute of speech with", "talkers", "seconds with the source", "found", "also called music")
    return table(head, rows) + f"\n\n{STEADY_NOTE}"


def _opinion(opinion: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(f"`{name}`", str(row["cases"]), number(row["pearson"])) for name, row in opinion.items()]
    return table(("opinion score", "clips", "Pearson"), rows) + f"\n\n{OPINION_NOTE}" if rows else ""


def _events(labels: Mapping[str, Mapping[str, Any]], psds: Mapping[str, Any]) -> str:
    """Return the event figures; empty for model files from before event figures existed."""
    rows = [
        (
            f"`{name}`",
            str(event["events"]),
            number(event["f1"]),
            percent(event["found"]),
            _seconds(event["delay_p50_s"]),
            _seconds(event["delay_p95_s"]),
            number(psds.get("labels", {}).get(name)),
        )
        for name, row in labels.items()
        if (event := row.get("event"))
    ]
    if not rows:
        return ""
    return (
        table(("events of", "events", "F1", "found", "delay p50", "delay p95", "PSDS"), rows)
        + "\n\nF1: onset within 200 ms, end within 200 ms or 20 % of the length. Delay: from the onset until the score "
        "of the first frame at the threshold is available. PSDS of all labels together: "
        f"{number(psds.get('all'))}. {psds.get('terms', '')}."
    )


def _rank(rank: Mapping[str, Mapping[str, Any]]) -> str:
    if "snr_db" not in rank:
        return ""
    row = rank["snr_db"]
    return f"Whole recordings by SNR: Spearman correlation {number(row['spearman'])} over {row['cases']} mixtures."


def _followed(followed: Mapping[str, Any]) -> str:
    """Compare the same recordings alone and mid-stream."""
    rows = [
        (f"`{label}`, AUROC", number(row["alone"]), number(row["after"]))
        for label, row in followed.get("labels", {}).items()
    ]
    if not rows:
        return ""
    if error := followed.get("snr_error_below_25_db"):
        rows.append(("`snr_db` below 25 dB, mean error", decibels(error["alone"]), decibels(error["after"])))
    return (
        f"{followed['cases']} of the mixtures, alone and right after another one in the same stream, which has other "
        "talkers, rooms and lines:\n\n" + table(("figure", "alone", "after another"), rows)
    )


def _kinds(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate speech with one kind of interference: how well its frames are separated from all others."""
    rows = [
        (kind, str(row["cases"]), number(row.get("interference")), decibels(row.get("snr_error_below_25_db")))
        for kind, row in kinds.items()
    ]
    head = ("speech with", "mixtures", "AUROC of `interference`", "SNR error below 25 dB")
    return table(head, rows) if rows else ""


def _disturbances(groups: Mapping[str, Mapping[str, float]], errors: Mapping[str, Mapping[str, float]]) -> str:
    """Tabulate disturbances: AUROC of the headline labels and the SNR error."""
    by = errors.get("disturbance", {})
    rows = [
        (
            name,
            *(number(groups.get(name, {}).get(label)) for label in ("noise", "interference")),
            decibels(by.get(name)),
        )
        for name in sorted({*groups, *by})
    ]
    head = ("disturbance", "AUROC of `noise`", "of `interference`", "SNR error below 25 dB")
    return table(head, rows) if rows else ""


def _invariance(changes: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (
            name,
            str(row["cases"]),
            percent(row["same_verdict"]),
            *(number(row[key]) for key in ("noise_ratio", "interference_ratio")),
            decibels(row["snr_db"]),
        )
        for name, row in changes.items()
    ]
    head = ("change", "mixtures", "same verdict", "change of noise ratio", "of interference ratio", "of SNR")
    return table(head, rows) if rows else ""


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"
