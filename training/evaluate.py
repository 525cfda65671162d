"""Measure a detector: `python -m training.evaluate --data FOLDER (--model FILE | --run RUN)`.

One function per group of figures, each from a scorer and a material to a JSON-ready dictionary, so that another corpus
or another detector is one more call. A scorer sees feature rows alone and answers for frame 0 onwards.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from service.contract import METADATA_KEY, ModelContract, parse_contract
from service.scoring import EventTracker
from training.baseline import FLOOR_WINDOW_S, energy_scores
from training.calibrate import label_specs
from training.config import TrainConfig
from training.corpora.manifest import ManifestError, manifest_sha256
from training.examples import clip_samples, load_pool
from training.material import (
    CLEAN_TELEPHONE,
    CLEAN_WIDE,
    EVALUATION_SEED_OFFSET,
    MIXED,
    NOISE_ALONE,
    Material,
    make_material,
)
from training.metrics import auroc, average_precision, calibration_error, rates_at
from training.model import Detector
from training.report import figures_markdown
from training.train import BEST, predict

Float32 = NDArray[np.float32]
Figures = dict[str, Any]
Score = Callable[[Float32], Float32]
"""features float32 (N, T, F) to scores float32 (N, T / 2 - lookahead, C), row j for frame j."""

BATCH = 40  # whole sequences at once; bounds memory, changes no figure
HARD_SNR_DB = 25.0  # above it a listener hears no noise and the exact number matters little
HEARD = 0.5  # a probability from which a frame counts as called, where no threshold is asked for


class EvaluationError(Exception):
    """The model or run cannot be measured; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Scorer:
    """A detector under test: what it declares, how it scores, and the training configuration that it came from."""

    contract: ModelContract
    score: Score
    config: TrainConfig


def read_run(run: Path) -> tuple[Detector, dict[str, Any]]:
    """Build the net of a run's best checkpoint, with its averaged weights.

    Raises:
        EvaluationError: No such checkpoint, or not one of `training.train`.
    """
    path = run / BEST
    try:
        document: dict[str, Any] = torch.load(path, weights_only=True)
        net = Detector(TrainConfig.model_validate(document["config"]).model)
        net.load_state_dict(document["ema"])
    except OSError as error:
        raise EvaluationError(f"expected a checkpoint at {path}: {error}; train one first") from error
    except (KeyError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EvaluationError(f"{path} is no checkpoint of this training code: {reason}") from error
    return net.eval(), document


def run_scorer(run: Path) -> Scorer:
    """Take a run's best checkpoint as it is: uncalibrated, with thresholds of 0.5."""
    net, document = read_run(run)
    config = TrainConfig.model_validate(document["config"])
    contract = ModelContract(
        name=config.name,
        version=config.version,
        labels=label_specs(net.config),
        lookahead_frames=net.config.lookahead_frames,
        state_size=net.state_size,
    )

    def score(features: Float32) -> Float32:
        with torch.no_grad():
            return np.asarray(net.scores(predict(net, torch.from_numpy(features), BATCH)).numpy())

    return Scorer(contract, score, config)


def model_scorer(path: Path) -> Scorer:
    """Load an exported file; its contract says which material it was trained for.

    Raises:
        EvaluationError: Not a model file with a contract and a training configuration in it.
    """
    if not path.is_file():
        raise EvaluationError(f"expected an ONNX file at {path}; export one first")
    session = onnx_session(path.read_bytes())
    document = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY, "")
    contract, wrong = parse_contract(document)
    if contract is None:
        raise EvaluationError(f"{path} has no usable contract:\n  " + "\n  ".join(wrong))
    try:
        config = TrainConfig.model_validate(contract.training["config"])
    except (KeyError, ValueError) as error:
        raise EvaluationError(f"{path}: expected a training configuration in its contract: {error}") from error
    return Scorer(contract, onnx_score(session, contract.lookahead_frames, contract.state_size), config)


def onnx_session(model: bytes) -> Any:
    """Open a session on one CPU thread, so that figures do not depend on the machine's cores."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_score(session: Any, lookahead_frames: int, state_size: int) -> Score:
    """Score whole sequences from a zero state; the look-ahead is cut off at the front."""

    def score(features: Float32) -> Float32:
        parts = []
        for start in range(0, len(features), BATCH):
            chunk = features[start : start + BATCH]
            state = np.zeros((len(chunk), state_size), np.float32)
            parts.append(session.run(["scores"], {"features": chunk, "state": state})[0][:, lookahead_frames:])
        return np.concatenate(parts)

    return score


def label_figures(contract: ModelContract, scores: Float32, material: Material) -> Figures:
    """Per probability label: ranking, calibration, rates at the enter threshold, and the baseline's ranking."""
    base = energy_scores(material.features, contract.features)
    figures: Figures = {}
    for column, label in enumerate(contract.labels):
        if label.kind != "probability" or label.enter is None:
            continue
        counted, score, truth = _counted(scores, material, column)
        other = base.get(label.name)
        area = auroc(score, truth)
        true_rate, false_rate = rates_at(score, truth, label.enter) if area is not None else (None, None)
        figures[label.name] = {
            "frames": int(truth.size),
            "positive_share": _round(float(truth.mean()) if truth.size else None),
            "auroc": _round(area),
            "baseline_auroc": None if other is None else _round(auroc(other[:, : counted.shape[1]][counted], truth)),
            "average_precision": _round(average_precision(score, truth)),
            "calibration_error": _round(calibration_error(score, truth)),
            "enter": label.enter,
            "true_rate": _round(true_rate),
            "false_rate": _round(false_rate),
        }
    return figures


def snr_figures(contract: ModelContract, scores: Float32, material: Material) -> Figures:
    """Errors of `snr_db` in speech frames; the baseline gets its best straight line on the same frames."""
    column = contract.index("snr_db")
    counted, score, truth = _counted(scores, material, column)
    hard = truth < HARD_SNR_DB
    if not hard.any():
        return {"frames": int(truth.size)}
    base = energy_scores(material.features, contract.features)["snr_db"][:, : counted.shape[1]][counted]
    label = contract.labels[column]
    base = np.clip(_straight_line(base, truth), label.low, label.high)
    return {
        "frames": int(truth.size),
        "bias_db": _round(float((score - truth).mean())),
        "error_db": _round(float(np.abs(score - truth).mean())),
        f"error_below_{HARD_SNR_DB:.0f}_db": _round(float(np.abs(score - truth)[hard].mean())),
        "baseline_error_db": _round(float(np.abs(base - truth).mean())),
        f"baseline_error_below_{HARD_SNR_DB:.0f}_db": _round(float(np.abs(base - truth)[hard].mean())),
    }


def clean_figures(contract: ModelContract, scores: Float32, material: Material) -> Figures:
    """Speech with nothing wrong: how much of it is called noisy, and how many events it raises per hour.

    Reverberation is not counted as false, since rooms are drawn.
    """
    events: Counter[str] = Counter()
    for rows, levels in zip(scores, material.level_dbfs, strict=True):
        tracker = EventTracker(contract)
        updates = [*tracker.push(np.ascontiguousarray(rows), levels[: len(rows)]), *tracker.finish()]
        events.update(u.event.label for u in updates if u.phase == "end" and u.event.label != "reverberation")
    hours = material.seconds / 3600
    return {
        "hours": _round(hours),
        "noise_share": _round(float((scores[..., contract.index("noise")] > HEARD).mean())),
        "interference_share": _round(float((scores[..., contract.index("interference")] > HEARD).mean())),
        "false_events_per_hour": _round(sum(events.values()) / hours, 1),
        "false_events_per_hour_by_label": {name: _round(count / hours, 1) for name, count in events.most_common()},
    }


def noise_alone_figures(contract: ModelContract, scores: Float32, material: Material) -> Figures:
    """Nobody speaks: how much of it is called speech, ambience with distant voices left out."""
    _, score, truth = _counted(scores, material, contract.index("speech"))
    silent = truth < 0.5
    share = float((score[silent] > HEARD).mean()) if silent.any() else None
    return {"hours": _round(material.seconds / 3600), "frames": int(silent.sum()), "speech_share": _round(share)}


def evaluate(scorer: Scorer, folder: Path, *, mixtures: int = 400, seed: int | None = None) -> Figures:
    """Measure a detector on the validation split.

    Args:
        scorer: The detector.
        folder: Corpus folder.
        mixtures: Mixtures of the main material; a quarter of it each for clean speech and noise alone.
        seed: Of the mixtures; by default the run's seed plus an offset that nothing else uses.

    Raises:
        ManifestError: The manifest cannot be used.
        ValueError: It leaks between splits, or the pool cannot make a material.
    """
    contract, data = scorer.contract, scorer.config.data
    seed = scorer.config.seed + EVALUATION_SEED_OFFSET if seed is None else seed
    pool, _, stems = load_pool(folder, data, "valid")
    labels, samples = contract.label_names, clip_samples(data)

    def measured(figures: Callable[[ModelContract, Float32, Material], Figures], *args: Any) -> Figures:
        material = make_material(pool, labels, samples, seed, *args)
        return figures(contract, scorer.score(material.features), material)

    quarter = max(1, mixtures // 4)
    mixed = make_material(pool, labels, samples, seed, mixtures, MIXED)
    scores = scorer.score(mixed.features)
    return {
        "material": {
            "what": "mixtures of the validation split: speakers and recordings unseen in training, same corpora",
            "mixtures": mixtures,
            "clip_seconds": data.clip_seconds,
            "hours": _round(mixed.seconds / 3600),
            "stems": len(stems),
            "seed": seed,
            "manifest_sha256": manifest_sha256(folder),
            "baseline": f"frame energy and its minimum over the last {FLOOR_WINDOW_S} s",
        },
        "labels": label_figures(contract, scores, mixed),
        "snr_db": snr_figures(contract, scores, mixed),
        "clean_speech": {
            "wide": measured(clean_figures, quarter, CLEAN_WIDE),
            "telephone": measured(clean_figures, quarter, CLEAN_TELEPHONE),
        },
        "noise_alone": measured(noise_alone_figures, quarter, NOISE_ALONE),
    }


def _counted(scores: Float32, material: Material, column: int) -> tuple[NDArray[np.bool_], Float32, Float32]:
    """Mask (N, frames), and the scores and targets under it."""
    frames = scores.shape[1]
    counted = material.mask[:, :frames, column]
    return counted, scores[..., column][counted], material.target[:, :frames, column][counted]


def _straight_line(value: NDArray[np.float64], truth: Float32) -> NDArray[np.float64]:
    """Least-squares line through (value, truth), at each value."""
    spread = value - value.mean()
    power = float(np.mean(spread**2))
    slope = float(np.mean(spread * truth)) / power if power > 0.0 else 0.0
    return np.asarray(truth.mean() + slope * spread)


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with manifest.csv")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="exported ONNX file")
    source.add_argument("--run", type=Path, help="run folder: its best checkpoint, uncalibrated, thresholds of 0.5")
    parser.add_argument("--mixtures", type=int, default=400, help="mixtures of the main material (default 400)")
    parser.add_argument("--seed", type=int, help="seed of the mixtures (default: the run's own plus an offset)")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--report", type=Path, help="also write them as Markdown here")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    try:
        scorer = model_scorer(options.model) if options.model else run_scorer(options.run)
        figures = evaluate(scorer, options.data, mixtures=options.mixtures, seed=options.seed)
    except (EvaluationError, ManifestError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    text = figures_markdown(figures)
    print(text)  # noqa: T201
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if options.report:
        title = f"# {scorer.contract.name} {scorer.contract.version}\n\n"
        options.report.write_text(title + text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
