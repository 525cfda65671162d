"""Measure detectors: `python -m training.evaluate (--model FILE | --run RUN) MATERIAL [--compare FILE] [--baseline …]`.

The material is any of `--data` (mixtures and clean recordings of a corpus), `--labelled` (recordings with label
tracks), `--ratings` (clips with human scores) and `--mos` (clips with teachers' scores). The contenders are a model, a
run, other models and baselines. All are measured on the same frames, and the report shows them side by side, first
against the aims. `--gate` measures the small frozen set that later models must pass.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.baseline import FLOOR_WINDOW_S
from training.config import DataConfig
from training.corpora.manifest import SPLITS, ManifestError
from training.evaluation.cases import Case, MaterialError, labelled_cases, rated_cases, teacher_cases
from training.evaluation.contenders import (
    BASELINES,
    Contender,
    PeerError,
    baseline_contender,
    energy_contender,
    model_contender,
)
from training.evaluation.figures import (
    group_figures,
    label_figures,
    opinion_figures,
    psds_figures,
    rating_figures,
)
from training.evaluation.gate import GATE_PATH, GateError, gate_figures, write_gate
from training.evaluation.markdown import HAND_LABELS, report_markdown
from training.evaluation.mixtures import make_mixtures, mixture_figures
from training.evaluation.models import EvaluationError, Scorer, model_scorer, run_scorer
from training.evaluation.plots import plot_report
from training.material import EVALUATION_SEED_OFFSET

Figures = dict[str, Any]

CURVES = ("det", "reliability")  # per label; used for plots, too large for a model file


def evaluate(
    scorer: Scorer, folder: Path, *, mixtures: int, seed: int | None = None, mos: Path | None = None
) -> Figures:
    """Measure a detector and the energy baseline on the validation split; model files store these figures.

    Args:
        scorer: The detector.
        folder: Corpus folder.
        mixtures: Number of mixtures of the main material; see `make_mixtures`.
        seed: Seed of the mixtures; by default the run's seed plus an offset reserved for evaluation.
        mos: Folder of rated clips (see `training.mos`), whose split `valid` opinion scores are compared with.

    Raises:
        MaterialError: `mos` has no rated clips.
        ManifestError: The manifest cannot be used.
        ValueError: The manifest leaks between splits, or the pool cannot provide a material.
    """
    contract, data = scorer.contract, scorer.config.data
    seed = scorer.config.seed + EVALUATION_SEED_OFFSET if seed is None else seed
    material = make_mixtures(folder, data, seed, mixtures=mixtures)
    contender = model_contender(contract, scorer.score)
    figures = mixture_figures(contender, material, max(1, mixtures // 10))
    if mos is not None:
        clips = teacher_cases(mos)
        figures["opinion"] = opinion_figures(clips, contender.judge(clips))
    energy = mixture_figures(energy_contender(), material)
    for name, row in figures["labels"].items():
        row["baseline_auroc"] = energy["labels"].get(name, {}).get("auroc")
        for curve in CURVES:
            row.pop(curve, None)
    for key in ("error_db", "error_below_25_db"):
        if key in figures["snr_db"]:
            figures["snr_db"][f"baseline_{key}"] = energy["snr_db"][key]
    baseline = f"frame energy and its minimum over the last {FLOOR_WINDOW_S} s"
    return {"material": {**material.about, "baseline": baseline}, **figures}


@dataclass(frozen=True, slots=True)
class _Material:
    """One section of the report."""

    title: str
    what: str
    about: Figures
    measure: Callable[[Contender], Figures]


def labelled_figures(contender: Contender, cases: Sequence[Case]) -> Figures:
    """Measure a contender on hand labels."""
    judgements = contender.judge(cases)
    return {
        "labels": label_figures(contender, cases, judgements),
        "psds": psds_figures(cases, judgements),
        "groups": group_figures(cases, judgements),
    }


def _materials(options: argparse.Namespace, scorer: Scorer | None) -> list[_Material]:
    """Read or render all requested materials."""
    found = []
    if options.data:
        data = scorer.config.data if scorer else DataConfig()
        if options.all_licences:
            data = data.model_copy(update={"commercial_only": False})
        seed = (scorer.config.seed if scorer else 0) + EVALUATION_SEED_OFFSET if options.seed is None else options.seed
        chosen = {"mixtures": options.mixtures, "split": options.split, "sources": options.sources or ()}
        mixtures = make_mixtures(options.data, data, seed, **chosen)
        about = dict(mixtures.about)
        what = (
            f"{about['mixtures']} {about['what']}. {about['clip_seconds']:g} s each ({about['hours']:.2f} h), seed "
            f"{about['seed']}, manifest sha256 `{about['manifest_sha256'][:16]}`."
        )
        varied = max(1, options.mixtures // 10)
        found.append(_Material("Mixtures", what, about, lambda c: mixture_figures(c, mixtures, varied)))
    if options.labelled:
        cases = labelled_cases(options.labelled, options.labels)
        about = {"recordings": len(cases), "hours": round(sum(case.seconds for case in cases) / 3600, 4)}
        what = f"{about['recordings']} recordings with hand labels, {60 * about['hours']:.1f} minutes."
        found.append(_Material(HAND_LABELS, what, about, lambda c: labelled_figures(c, cases)))
    if options.ratings:
        rated = rated_cases(options.ratings)
        about = {"clips": len(rated), "hours": round(sum(case.seconds for case in rated) / 3600, 4)}
        what = f"{about['clips']} clips rated by people, {60 * about['hours']:.1f} minutes."
        found.append(_Material("Ratings", what, about, lambda c: {"ratings": rating_figures(rated, c.judge(rated))}))
    if options.mos:
        clips = teacher_cases(options.mos)
        about = {"clips": len(clips), "hours": round(sum(case.seconds for case in clips) / 3600, 4)}
        what = f"{about['clips']} held-out clips rated by the teachers, {60 * about['hours']:.1f} minutes."
        found.append(
            _Material("Teachers' scores", what, about, lambda c: {"opinion": opinion_figures(clips, c.judge(clips))})
        )
    return found


def _contenders(options: argparse.Namespace, scorer: Scorer | None) -> list[Contender]:
    """Return all requested contenders; equal names get a number."""
    scorers = ([scorer] if scorer else []) + [model_scorer(path) for path in options.compare]
    found: list[Contender] = []
    for one in scorers:
        name = f"{one.contract.name} {one.contract.version}"
        taken = sum(other.name.split(" (")[0] == name for other in found)
        found.append(model_contender(one.contract, one.score, f"{name} ({taken + 1})" if taken else name))
    return found + [baseline_contender(name, options.peer_python) for name in options.baseline]


def report_document(options: argparse.Namespace, scorer: Scorer | None, command: str) -> Figures:
    """Measure all contenders on all materials."""
    contenders = _contenders(options, scorer)
    materials = _materials(options, scorer)
    if not contenders or not materials:
        raise EvaluationError(
            "expected a contender (--model, --run, --compare or --baseline) and a material (--data, --labelled, "
            "--ratings or --mos)"
        )
    sections = [
        {
            "title": material.title,
            "what": material.what,
            "about": material.about,
            "contenders": {contender.name: material.measure(contender) for contender in contenders},
        }
        for material in materials
    ]
    return {"command": command, "contenders": [contender.name for contender in contenders], "materials": sections}


def _gate(scorer: Scorer | None, path: Path, lower: bool) -> str:
    """Measure the frozen set and write its limits."""
    if scorer is None:
        raise EvaluationError("--gate requires --model or --run")
    figures = gate_figures(model_contender(scorer.contract, scorer.score))
    return write_gate(path, f"{scorer.contract.name} {scorer.contract.version}", figures, lower=lower)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    who = parser.add_argument_group("contenders")
    source = who.add_mutually_exclusive_group()
    source.add_argument("--model", type=Path, help="exported ONNX file")
    source.add_argument("--run", type=Path, help="run folder: best checkpoint, uncalibrated, with thresholds of 0.5")
    who.add_argument("--compare", type=Path, nargs="+", default=[], metavar="FILE", help="further ONNX files")
    who.add_argument("--baseline", nargs="+", default=[], choices=BASELINES, metavar="NAME", help=", ".join(BASELINES))
    who.add_argument("--peer-python", type=Path, help="interpreter that has Silero VAD, YAMNet and DNSMOS installed")
    on = parser.add_argument_group("material")
    on.add_argument(
        "--data",
        type=Path,
        help="corpus folder with manifest.csv: mixtures and clean recordings",
    )
    on.add_argument("--split", choices=SPLITS, default="valid", help="split of the manifest (default: valid)")
    on.add_argument("--sources", nargs="+", metavar="NAME", help="use only stems of these sources, even excluded ones")
    on.add_argument("--all-licences", action="store_true", help="include stems that training excludes by licence")
    on.add_argument("--mixtures", type=int, default=400, help="mixtures of the main material (default: 400)")
    on.add_argument("--seed", type=int, help="seed of the mixtures (default: the run's seed plus an offset)")
    on.add_argument("--labelled", type=Path, help="folder of recordings, each with a label track next to it")
    on.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="labels that were annotated (default: those in the tracks)"
    )
    on.add_argument("--ratings", type=Path, help="CSV with path and any of sig, bak, ovrl")
    on.add_argument("--mos", type=Path, help="folder of training.mos; its split valid stands in for human scores")
    parser.add_argument("--out", type=Path, help="folder for report.md, figures.json and plots")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--report", type=Path, help="also write the report here")
    gate = parser.add_argument_group("regression gate")
    gate.add_argument("--gate", type=Path, nargs="?", const=GATE_PATH, help=f"write limits (default: {GATE_PATH.name})")
    gate.add_argument("--lower-gate", action="store_true", help="also accept limits that are easier to pass")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    options = _parser().parse_args(given)
    torch.set_num_threads(1)
    try:
        scorer = model_scorer(options.model) if options.model else run_scorer(options.run) if options.run else None
        if options.gate:
            print(_gate(scorer, options.gate, options.lower_gate))  # noqa: T201
            return 0
        document = report_document(options, scorer, shlex.join(["python", "-m", "training.evaluate", *given]))
    except (EvaluationError, GateError, ManifestError, MaterialError, PeerError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    text = report_markdown(document)
    print(text)  # noqa: T201
    content = json.dumps(document, indent=2) + "\n"
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        pictures = plot_report(document, options.out)
        (options.out / "figures.json").write_text(content, encoding="utf-8")
        shown = "".join(f"\n![{path.stem}]({path.name})\n" for path in pictures)
        (options.out / "report.md").write_text(text + shown, encoding="utf-8")
    if options.json:
        options.json.write_text(content, encoding="utf-8")
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
