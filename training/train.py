"""Train a detector: `python -m training.train CONFIG --data FOLDER --out RUN`. Stops and resumes anywhere.

A plain loop: one device, one dataset, one optimiser need no framework, and a reader finds every line.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm import tqdm

from service.contract import LABEL_CATALOG
from training.config import ConfigError, TrainConfig, read_config
from training.corpora.manifest import ManifestError, hours_by, manifest_sha256
from training.examples import Example, MixtureExamples, clip_samples, collate, load_pool
from training.metrics import auroc
from training.model import Detector

VALID_SEED_OFFSET = 1_000_003  # validation mixtures never share a seed with training mixtures
DB_LOSS_SCALE = 10.0  # an error of 10 dB weighs as much as one nat of a probability
CHECKPOINT = "last.pt"
BEST = "best.pt"


def source_commit() -> str:
    """Commit of the working tree, with `+` when it has changes; `unknown` outside a repository."""

    def git(*args: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Ema:
    """Exponential mean of a net's weights; buffers (batch-norm statistics) are copied."""

    def __init__(self, net: Detector, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}

    def update(self, net: Detector, step: int) -> None:
        """Move towards the net's weights; faster in the first steps, when the mean still holds the start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


def loss_of(net: Detector, batch: Example, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Masked loss: cross-entropy for probabilities, Huber on dB for measures; mean over unmasked frames per label.

    Returns:
        The weighted mean over labels, and the loss per label (C,).
    """
    features, target, mask = batch
    ahead = net.config.lookahead_frames
    logits = net(features)[:, ahead:]  # output j speaks of frame j - ahead
    target, mask = target[:, : logits.shape[1]], mask[:, : logits.shape[1]]
    value = net.low + (net.high - net.low) * torch.sigmoid(logits)
    kinds = torch.tensor([LABEL_CATALOG[name][1] == "probability" for name in net.config.labels])
    entropy = functional.binary_cross_entropy_with_logits(logits, target.clamp(0, 1), reduction="none")
    huber = functional.smooth_l1_loss(value / DB_LOSS_SCALE, target / DB_LOSS_SCALE, reduction="none", beta=0.3)
    per_frame = torch.where(kinds, entropy, huber) * mask
    per_label = per_frame.sum(dim=(0, 1)) / mask.sum(dim=(0, 1)).clamp(min=1.0)
    return (per_label * weights).sum() / weights.sum(), per_label


@torch.no_grad()
def predict(net: Detector, features: Tensor, batch: int = 40) -> Tensor:
    """Logits aligned to frames: (N, T / 2 - lookahead, C)."""
    net.eval()
    parts = [net(features[i : i + batch])[:, net.config.lookahead_frames :] for i in range(0, len(features), batch)]
    return torch.cat(parts)


def validate(net: Detector, examples: Example) -> dict[str, float]:
    """Frame AUROC per probability label and mean absolute error per measure."""
    features, target, mask = examples
    logits = predict(net, features)
    values = net.scores(logits)
    frames = values.shape[1]
    figures: dict[str, float] = {}
    for column, label in enumerate(net.config.labels):
        counted = mask[:, :frames, column].numpy() > 0
        score, truth = values[..., column].numpy()[counted], target[:, :frames, column].numpy()[counted]
        if LABEL_CATALOG[label][1] == "probability":
            figure = auroc(score, truth)
            if figure is not None:
                figures[label] = figure
        elif truth.size:
            figures[label] = float(np.abs(score - truth).mean())
    aurocs = [value for label, value in figures.items() if LABEL_CATALOG[label][1] == "probability"]
    figures["mean_auroc"] = float(np.mean(aurocs))
    return figures


def fixed_examples(dataset: MixtureExamples, count: int) -> Example:
    """The first `count` mixtures of a dataset, stacked."""
    return collate([dataset[index] for index in tqdm(range(count), desc="validation mixtures", unit="mix")])


def set_normalisation(net: Detector, dataset: MixtureExamples, count: int = 200) -> None:
    """Take mean and spread of the feature columns from `count` training mixtures."""
    rows = torch.cat([dataset[index][0] for index in range(count)])
    net.mean.copy_(rows.mean(dim=0))
    net.spread.copy_(rows.std(dim=0).clamp(min=1e-2))


@dataclass
class Run:
    """All that changes while training; saved whole, loaded whole."""

    net: Detector
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    minutes: float = 0.0
    best: float = -math.inf
    since_best: int = 0

    def save(self, path: Path, context: dict[str, Any]) -> None:
        """Write a checkpoint; the old one is replaced only when the new one is whole."""
        document = {
            "net": self.net.state_dict(),
            "ema": self.ema.state,
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "minutes": self.minutes, "best": self.best, "since_best": self.since_best},
            **context,
        }
        partial = path.with_suffix(".partial")
        torch.save(document, partial)
        partial.replace(path)

    def restore(self, document: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.net.load_state_dict(document["net"])
        self.ema.state = document["ema"]
        self.optimizer.load_state_dict(document["optimizer"])
        for name, value in document["progress"].items():
            setattr(self, name, value)


def learning_rate(config: TrainConfig, run: Run) -> float:
    """Linear warm-up, then a half cosine over steps or minutes, whichever is further on."""
    if run.step < config.warmup_steps:
        return config.learning_rate * (run.step + 1) / config.warmup_steps
    by_time = run.minutes / config.max_minutes if config.max_minutes else 0.0
    progress = min(1.0, max(run.step / config.steps, by_time))
    low = config.final_rate
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def batches(dataset: MixtureExamples, config: TrainConfig, first_step: int) -> Iterator[Example]:
    """Batches from a step on; example numbers depend on the step alone, so a resume continues the sequence."""
    indices = range(first_step * config.batch_size, config.steps * config.batch_size)
    loader: DataLoader[Example] = DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=indices,
        num_workers=config.data.workers,
        collate_fn=collate,
        prefetch_factor=4 if config.data.workers else None,
    )
    yield from loader


def train(config: TrainConfig, data: Path, out: Path, start: Path | None = None) -> dict[str, float]:
    """Run or resume a training; returns the figures of the best checkpoint.

    Args:
        config: What to do.
        data: Corpus folder.
        out: Run folder.
        start: Run folder whose best weights a new run starts from, instead of random ones.

    Raises:
        ConfigError: `out` or `start` holds a run that does not fit.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    out.mkdir(parents=True, exist_ok=True)
    pool, report, stems = load_pool(data, config.data, "train")
    valid_pool, _, _ = load_pool(data, config.data, "valid")
    print("\n".join(report.lines()))  # noqa: T201
    labels, length = config.model.labels, clip_samples(config.data)
    dataset = MixtureExamples(pool, labels, length, config.seed)
    valid_set = MixtureExamples(valid_pool, labels, length, config.seed + VALID_SEED_OFFSET)
    examples = fixed_examples(valid_set, config.data.valid_mixtures)

    net = Detector(config.model)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    run = Run(net, Ema(net, config.ema_decay), optimizer)
    context = {
        "config": config.model_dump(mode="json"),
        "commit": source_commit(),
        "manifest_sha256": manifest_sha256(data),
        "data": [
            {"source": source, "kind": kind, "licence": licence, "hours": round(hours, 4)}
            for (source, kind, licence), hours in hours_by(stems, "source", "kind", "licence").items()
        ],
        "preprocessing": report.lines(),
    }
    if start is not None:
        context["start"] = _start_from(start / BEST, net)
    if (out / CHECKPOINT).exists():
        run.restore(_resumable(out / CHECKPOINT, context))
    else:
        if start is None:
            set_normalisation(net, dataset)
        run.ema = Ema(net, config.ema_decay)
    _loop(config, run, dataset, examples, out, context)
    best = torch.load(out / BEST, weights_only=True)
    figures: dict[str, float] = best["figures"]
    return figures


def _start_from(path: Path, net: Detector) -> dict[str, Any]:
    """Take the averaged weights of an earlier run, normalisation included; returns what made them."""
    if not path.is_file():
        raise ConfigError(f"expected a finished run with {path}; train it first")
    document = torch.load(path, weights_only=True)
    try:
        net.load_state_dict(document["ema"])
    except RuntimeError as error:
        raise ConfigError(f"{path} has a net of another shape: {error}") from error
    made = {name: document[name] for name in ("commit", "manifest_sha256", "config")}
    return made | {"steps": document["progress"]["step"], "minutes": round(document["progress"]["minutes"], 1)}


def _resumable(path: Path, context: dict[str, Any]) -> dict[str, Any]:
    """Load a checkpoint; refuse one made from another configuration or other material."""
    document: dict[str, Any] = torch.load(path, weights_only=True)
    for name in ("config", "manifest_sha256"):
        if document[name] != context[name]:
            raise ConfigError(f"{path} was made with another {name}; choose another --out or remove that folder")
    print(f"resuming {path} at step {document['progress']['step']}")  # noqa: T201
    return document


def _loop(
    config: TrainConfig, run: Run, dataset: MixtureExamples, examples: Example, out: Path, context: dict[str, Any]
) -> None:
    weights = torch.tensor([config.loss_weights.get(name, 1.0) for name in config.model.labels])
    shadow = Detector(config.model)
    averages = torch.zeros(len(config.model.labels))
    bar = tqdm(total=config.steps, initial=run.step, desc=config.name, unit="step", dynamic_ncols=True)
    started, before = time.monotonic(), run.minutes
    for batch in batches(dataset, config, run.step):
        run.net.train()
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(config, run)
        loss, per_label = loss_of(run.net, batch, weights)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {run.step}; lower the learning rate")
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.net.parameters(), config.grad_clip)
        run.optimizer.step()
        run.ema.update(run.net, run.step)
        run.step += 1
        averages.lerp_(per_label.detach(), 0.05)
        run.minutes = before + (time.monotonic() - started) / 60
        bar.update()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        done = run.step >= config.steps or (config.max_minutes is not None and run.minutes >= config.max_minutes)
        if run.step % config.valid_every == 0 or done:
            shadow.load_state_dict(run.ema.state)
            figures = validate(shadow, examples)
            run.since_best += 1
            if figures["mean_auroc"] > run.best:
                run.best, run.since_best = figures["mean_auroc"], 0
                run.save(out / BEST, {**context, "figures": figures})
            run.save(out / CHECKPOINT, {**context, "figures": figures})
            _log(out / "log.csv", run, averages, figures, config)
            tqdm.write(f"step {run.step}: " + " ".join(f"{name} {value:.3f}" for name, value in figures.items()))
            done = done or run.since_best >= config.patience
        if done:
            break
    bar.close()


def _log(path: Path, run: Run, losses: Tensor, figures: dict[str, float], config: TrainConfig) -> None:
    row = {"step": run.step, "minutes": round(run.minutes, 2), "rate": learning_rate(config, run)}
    row |= {f"loss_{name}": round(float(x), 5) for name, x in zip(config.model.labels, losses, strict=True)}
    row |= {f"valid_{name}": round(value, 5) for name, value in figures.items()}
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file, for instance training/configs/tiny.yaml")
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an unfinished run in it is resumed")
    parser.add_argument("--start", type=Path, help="run folder whose best weights a new run starts from")
    options = parser.parse_args(argv)
    try:
        figures = train(read_config(options.config), options.data, options.out, options.start)
    except (ConfigError, ManifestError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print("best: " + " ".join(f"{name} {value:.3f}" for name, value in figures.items()))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
