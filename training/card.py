"""Write the generated part of a model card: `python -m training.card MODEL [--card models/README.md]`.

All of it is derived from the model file. The hand-written text outside the markers stays unchanged.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx

from speech_qc.contract import METADATA_KEY, ModelContract, parse_contract
from training.aims import aims_markdown
from training.corpora.manifest import MICROPHONES
from training.report import figures_markdown, found_at, number, table

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"


class CardError(Exception):
    """The model file or the card cannot be used."""


def card_markdown(contract: ModelContract, sha256: str, size_bytes: int) -> str:
    """Return the facts of a model file as Markdown, without the markers."""
    training = contract.training
    facts = [
        ("name", f"`{contract.name}`"),
        ("version", contract.version),
        ("file", f"{size_bytes / 1e6:.2f} MB, sha256 `{sha256}`"),
        ("weights", f"{training['parameters']:,}"),
        ("arithmetic", f"{training['mmacs_per_s']:.1f} million multiply-accumulates per second of audio"),
        (
            "latency",
            f"{1000 * contract.latency_s:.0f} ms after the end of a frame ({1000 * contract.lookahead_s:.0f} ms "
            "look-ahead plus the rest of the analysis window), excluding transport",
        ),
        ("state", f"{contract.state_size} float32 per stream"),
        (
            "training",
            f"{training['steps']} steps, {training['minutes']:g} min, seed {training['seed']}, commit "
            f"`{training['commit']}`, manifest sha256 `{training['manifest_sha256'][:16]}`",
        ),
    ]
    if training.get("blend"):
        blend = training["blend"]
        other = "the weights it started from" if blend["steps"] == 1 else f"those after a run of {blend['steps']} steps"
        facts.append(("averaged with", f"{100 * blend['share']:g} % of {other}"))
    if training.get("start"):
        start = training["start"]
        model = f"{start['model']}, " if "model" in start else ""
        facts.append(
            (
                "started from",
                f"{model}a run of {start['steps']} steps, {start['minutes']:g} min, seed {start['config']['seed']}, "
                f"commit `{start['commit']}`",
            )
        )
    parts = [
        table(("", ""), facts, numeric_from=2),
        "### Labels and event rules",
        _labels(contract),
        "### Training material",
        _data(contract),
        "### Aims",
        aims_markdown(contract.metrics),
        *_compared(contract),
        *_opinions(contract),
        "### Figures",
        figures_markdown(contract.metrics).rstrip(),
    ]
    return "\n\n".join(parts)


def _compared(contract: ModelContract) -> list[str]:
    """Compare the main figures with those of an earlier model on the same mixtures."""
    earlier = contract.metrics.get("earlier")
    if earlier is None:
        return []
    rows: list[tuple[str, str, str]] = []

    def add(name: str, *path: str, percent: bool = False, digits: int = 3) -> None:
        pair = []
        for figures in (contract.metrics, earlier):
            value = found_at(figures, path)
            pair.append(number(None if value is None else 100 * value if percent else value, 2 if percent else digits))
        if pair != [number(None, 2)] * 2:
            unit = " %" if percent else ""
            rows.append((name, pair[0] + unit, pair[1] + unit))

    for label in contract.metrics["labels"]:
        add(f"`{label}`, frame AUROC", "labels", label, "auroc")
    for label in contract.metrics["labels"]:
        add(f"`{label}`, calibration error", "labels", label, "calibration_error")
    for label in ("speech", "noise", "interference"):
        add(f"`{label}`, right after another recording, AUROC", "followed", "labels", label, "after")
    add("`snr_db` below 25 dB, mean error in dB", "snr_db", "error_below_25_db", digits=2)
    for line in ("wide", "telephone"):
        for label in ("noise", "interference"):
            add(
                f"clean speech, {line}: frames with {label} > 0.5", "clean_speech", line, f"{label}_share", percent=True
            )
        add(f"clean speech, {line}: false events per hour", "clean_speech", line, "false_events_per_hour", digits=1)
    add("`snr_db` below 25 dB, median error in dB", "snr_db", "median_error_below_25_db", digits=2)
    add("`snr_db`, steady noise alone, mean error in dB", "snr_db", "steady_noise", "error_below_25_db", digits=2)
    add("steady source under a minute of speech: seconds found", "steady", "found", percent=True)
    add("… seconds of tones also called music", "steady", "called_music", percent=True)
    for kind in MICROPHONES:
        path = ("clean_recordings", kind, "noise_events_per_hour")
        add(f"clean recordings, {kind}: noise events per hour", *path, digits=1)
    for score in ("sig", "bak", "ovrl"):
        add(f"`{score}`, Pearson with the teachers", "opinion", score, "pearson")
    add("noise alone: frames with speech > 0.5", "noise_alone", "speech_share", percent=True)
    head = ("figure", f"this model ({contract.version})", f"{earlier['name']} {earlier['version']}")
    return ["### Compared with the earlier model, on the same mixtures", table(head, rows, numeric_from=1)]


def _opinions(contract: ModelContract) -> list[str]:
    """Compare the opinion scores with their targets on rated clips that were not used in training."""
    found = contract.training.get("validation", {})
    rows = [
        (f"`{label.name}`", number(found.get(f"{label.name}_r"), 3), number(found.get(f"{label.name}_error"), 2))
        for label in contract.labels
        if label.kind == "mos" and f"{label.name}_r" in found
    ]
    if not rows:
        return []
    about = (
        "Clip means against the targets (teacher scores corrected by known facts about the clip) on clips of held-out "
        "speakers. The same clips were used to choose the checkpoint. No listeners were involved, so the figures show "
        "how well the net follows its teachers, not how well it agrees with people."
    )
    return ["### Opinion scores", about, table(("score", "Pearson", "mean error"), rows, numeric_from=1)]


def _labels(contract: ModelContract) -> str:
    head = ("label", "family", "kind", "range", "enter", "exit", "shortest event", "gap bridged")
    rows = [
        (
            f"`{label.name}`",
            label.family,
            label.kind,
            f"{label.low:g} … {label.high:g}",
            number(label.enter, 2),
            number(label.exit, 3),
            "–" if label.enter is None else f"{label.min_duration_s:.2f} s",
            "–" if label.enter is None else f"{label.merge_gap_s:.2f} s",
        )
        for label in contract.labels
    ]
    return table(head, rows, numeric_from=3)


def _data(contract: ModelContract) -> str:
    rows = [(str(r["source"]), str(r["kind"]), str(r["licence"]), f"{60 * r['hours']:.1f}") for r in contract.data]
    total = sum(r["hours"] for r in contract.data)
    return table(("source", "kind", "licence", "minutes"), rows, numeric_from=3) + (
        f"\n\n{total:.2f} hours of stems; training renders new mixtures from them in every step."
    )


def write_card(model: Path, card: Path) -> None:
    """Replace the text between the markers of a card; create the card if it does not exist.

    Raises:
        CardError: The model file has no usable contract with training facts and figures, or the card has no markers.
    """
    try:
        content = model.read_bytes()
        properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    except Exception as error:  # protobuf's decoding error has no public class
        raise CardError(f"expected an ONNX file at {model}: {error}") from error
    contract, wrong = parse_contract(properties.get(METADATA_KEY, ""))
    if contract is None:
        raise CardError(f"{model} has no usable contract:\n  " + "\n  ".join(wrong))
    try:
        made = card_markdown(contract, hashlib.sha256(content).hexdigest(), len(content))
    except KeyError as error:
        raise CardError(f"expected {error} in the contract of {model}: export it with training.export") from error
    text = card.read_text(encoding="utf-8") if card.exists() else f"# Model card\n\n{BEGIN}\n{END}\n"
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise CardError(
            f"expected one {BEGIN} followed by one {END} in {card}: add these markers where the figures belong"
        )
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    card.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.card", description=__doc__)
    parser.add_argument("model", type=Path, help="exported ONNX file")
    parser.add_argument("--card", type=Path, help="Markdown file (default: README.md next to the model)")
    options = parser.parse_args(argv)
    try:
        write_card(options.model, options.card or options.model.with_name("README.md"))
    except CardError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
