"""Train a detector: `python -m training.train CONFIG --data FOLDER --out RUN`. A run can be stopped and resumed.

The training loop uses no framework, because there is only one device, one dataset and one optimiser.
"""

from __future__ import annotations

import argparse
import csv
import math
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from speech_qc.contract import LABEL_CATALOG
from training.config import ConfigError, TrainConfig, read_config
from training.corpora.manifest import ManifestError, hours_by, manifest_sha256
from training.examples import Example, MixtureExamples, clip_samples, load_pool
from training.feed import batches
from training.material import Checks, make_checks
from training.metrics import auroc
from training.model import Detector
from training.mos import MosClips
from training.start import BEST, settle_norms, start_from

DB_LOSS_SCALE = 10.0  # an error of 10 dB weighs as much as one nat of a probability
SCORE_WEIGHTS = {"speech": 2.0, "noise": 2.0, "interference": 2.0, "interfering_speech": 1.5}  # 1 for all others
SCORE_PER_DB = 0.005  # a decibel of error below `HARD_SNR_DB` costs half a point of AUROC
HARD_SNR_DB = 25.0
EASY_SNR_WEIGHT = 0.4  # loss weight of frames above `HARD_SNR_DB`; 30 and 45 dB sound the same
DETECTED = 0.5
NORMALISED = 200  # number of mixtures from which mean and spread of the features are computed
CHECKPOINT = "last.pt"


def source_commit() -> str:
    """Return the commit of the working tree, with `+` if it has changes; `unknown` outside a repository."""

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
        """Move towards the net's weights; faster in the first steps, while initial values dominate the mean."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in net.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


def loss_of(
    net: Detector, batch: Example, weights: Tensor, state: Tensor | None = None, shares_weight: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masked loss: cross-entropy for probabilities, Huber for measures; mean over unmasked frames per label.

    Args:
        net: The net, in training or evaluation mode.
        batch: Features, targets, masks.
        weights: Weights of the labels, (C,).
        state: State at the start of the clips, (B, S); None for the start of a stream.
        shares_weight: Weight of the cross-entropy of the speech shares, which are the columns after the labels.

    Returns:
        The weighted mean over labels, the loss per label (C,), and the state at the end of the clips (B, S).
    """
    features, target, mask = batch
    ahead = net.config.lookahead_frames
    logits, shares, left = net.forward_parts(features, net.init_state(len(features)) if state is None else state)
    logits = logits[:, ahead:]  # output j refers to frame j - ahead
    target, mask = target[:, : logits.shape[1]], mask[:, : logits.shape[1]]
    labels, bands = len(net.config.labels), target.shape[2] - len(net.config.labels)
    (target, wanted), (mask, known) = (torch.split(part, [labels, bands], dim=2) for part in (target, mask))
    value = net.low + (net.high - net.low) * torch.sigmoid(logits)
    kinds = [LABEL_CATALOG[name][1] for name in net.config.labels]
    likely, opinion = (torch.tensor([kind == which for kind in kinds]) for which in ("probability", "mos"))
    entropy = functional.binary_cross_entropy_with_logits(logits, target.clamp(0, 1), reduction="none")
    huber = functional.smooth_l1_loss(value / DB_LOSS_SCALE, target / DB_LOSS_SCALE, reduction="none", beta=0.3)
    ratio = torch.tensor([kind == "db" for kind in kinds])
    counted = mask * torch.where(ratio & (target >= HARD_SNR_DB), EASY_SNR_WEIGHT, 1.0)
    per_frame = torch.where(likely, entropy, huber) * counted
    per_label = per_frame.sum(dim=(0, 1)) / counted.sum(dim=(0, 1)).clamp(min=1.0)
    if opinion.any():
        per_label = torch.where(opinion, _opinion_loss(value, target, mask), per_label)
    loss = (per_label * weights).sum() / weights.sum()
    if shares is not None and bands:
        missed = functional.binary_cross_entropy_with_logits(shares[:, ahead:].float(), wanted, reduction="none")
        loss = loss + shares_weight * (missed * known).sum() / known.sum().clamp(min=1.0)
    return loss, per_label, left.detach()


def followed(left: Tensor | None, count: int, share: float, rng: np.random.Generator) -> Tensor | None:
    """Return start states: a share of the clips continues from a clip of the previous batch, the others start at zero.

    A live stream can last for hours, and earlier talkers, rooms or lines must not impair later scores. A net trained
    only from zero states never learns to forget them.

    Args:
        left: States at the end of the previous batch, (B, S); None at the start of a run.
        count: Number of clips in the batch.
        share: Share of clips that follow another.
        rng: Random generator.
    """
    if left is None or share == 0.0:
        return None
    begins = left[torch.from_numpy(rng.integers(0, len(left), count))].clone()
    begins[torch.from_numpy(rng.random(count) >= share)] = 0.0
    return begins


def clip_means(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of (B, frames, C) over the unmasked frames, (B, C), and whether there are any."""
    count = mask.sum(dim=1)
    return (values * mask).sum(dim=1) / count.clamp(min=1.0), count > 0


def _opinion_loss(value: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the Huber loss per label (C,) of the mean over a clip's speech frames, because listeners rate clips."""
    mean, rated = clip_means(value, mask)
    wanted, _ = clip_means(target, mask)
    loss = functional.smooth_l1_loss(mean, wanted, reduction="none", beta=0.3) * rated
    return loss.sum(dim=0) / rated.sum(dim=0).clamp(min=1.0)


@torch.no_grad()
def predict(net: Detector, features: Tensor, batch: int = 40, *, follow: bool = False) -> Tensor:
    """Return logits aligned to frames: (N, T / 2 - lookahead, C).

    Args:
        net: The net; left in evaluation mode.
        features: (N, T, F).
        batch: Clips per batch.
        follow: Let about half of the clips follow another one in the same stream, as in mid-call.
    """
    net.eval()
    parts: list[Tensor] = []
    left: Tensor | None = None
    size = min(batch, -(-len(features) // 2)) if follow else batch
    for start in range(0, len(features), size):
        clips = features[start : start + size]
        state = net.init_state(len(clips)) if left is None else left[: len(clips)]
        logits, ends = net.forward_chunk(clips, state)
        left = ends if follow and left is None else None
        parts.append(logits[:, net.config.lookahead_frames :])
    return torch.cat(parts)


def validate(net: Detector, checks: Checks) -> dict[str, float]:
    """Return frame AUROC per probability label, errors of measures, false alarms, and the score for model selection."""
    mixed = checks.mixed
    values = net.scores(predict(net, torch.from_numpy(mixed.features), follow=True))
    frames = values.shape[1]
    figures: dict[str, float] = {}
    for column, label in enumerate(net.config.labels):
        counted = mixed.mask[:, :frames, column]
        score, truth = values[..., column].numpy()[counted], mixed.target[:, :frames, column][counted]
        if LABEL_CATALOG[label][1] == "probability":
            figure = auroc(score, truth)
            if figure is not None:
                figures[label] = figure
        elif truth.size:
            figures[label] = float(np.abs(score - truth).mean())
            if (truth < HARD_SNR_DB).any():
                figures["snr_hard"] = float(np.abs(score - truth)[truth < HARD_SNR_DB].mean())
    figures |= _alarm_figures(net, checks) | _opinion_figures(net, checks.mos)
    likely = [name for name, (_, kind) in LABEL_CATALOG.items() if kind == "probability"]
    ranked = {label: figures[label] for label in likely if label in figures}
    figures["mean_auroc"] = float(np.mean(list(ranked.values())))
    weights = [SCORE_WEIGHTS.get(label, 1.0) for label in ranked]
    figures["score"] = (
        float(np.average(list(ranked.values()), weights=weights))
        - SCORE_PER_DB * figures.get("snr_hard", 0.0)
        - figures.get("clean_noise", 0.0)
        - figures.get("clean_interference", 0.0)
        - figures.get("noise_speech", 0.0)
        - 0.03 * float(np.mean([value for name, value in figures.items() if name.endswith("_error")] or [0.0]))
    )
    return figures


def _alarm_figures(net: Detector, checks: Checks) -> dict[str, float]:
    """Return shares of frames: clean speech scored as noise or interference, noise alone scored as speech."""
    figures: dict[str, float] = {}
    if checks.clean:
        scores = torch.cat([net.scores(predict(net, torch.from_numpy(m.features), follow=True)) for m in checks.clean])
        for label in ("noise", "interference"):
            figures[f"clean_{label}"] = float((scores[..., net.config.labels.index(label)] > DETECTED).float().mean())
    if checks.noise is not None:
        scores = net.scores(predict(net, torch.from_numpy(checks.noise.features), follow=True))
        column = net.config.labels.index("speech")
        silent = checks.noise.mask[..., column] & (checks.noise.target[..., column] < 0.5)
        called = scores[..., column].numpy() > DETECTED
        figures["noise_speech"] = float(called[silent[:, : called.shape[1]]].mean())
    return figures


def _opinion_figures(net: Detector, mos: MosClips | None) -> dict[str, float]:
    """Return mean error and correlation of the clip means of each opinion score."""
    figures: dict[str, float] = {}
    if mos is None:
        return figures
    features, target, mask = mos.all()
    values = net.scores(predict(net, features))
    frames = values.shape[1]
    mean, rated = clip_means(values, mask[:, :frames])
    wanted, _ = clip_means(target[:, :frames], mask[:, :frames])
    for column, label in enumerate(net.config.labels):
        if LABEL_CATALOG[label][1] == "mos":
            found, truth = mean[rated[:, column], column].numpy(), wanted[rated[:, column], column].numpy()
            figures[f"{label}_error"] = float(np.abs(found - truth).mean())
            varied = found.std() > 0.0 and truth.std() > 0.0
            figures[f"{label}_r"] = float(np.corrcoef(found, truth)[0, 1]) if varied else 0.0
    return figures


def set_normalisation(net: Detector, features: Tensor) -> None:
    """Set the net's mean and spread of the feature columns from mixtures (N, T, F)."""
    rows = features.flatten(0, 1)
    net.mean.copy_(rows.mean(dim=0))
    net.spread.copy_(rows.std(dim=0).clamp(min=1e-2))


@dataclass
class Run:
    """All state that changes during training; saved and restored as a unit."""

    net: Detector
    ema: Ema
    optimizer: torch.optim.Optimizer
    step: int = 0
    minutes: float = 0.0
    best: float = -math.inf
    since_best: int = 0
    left: Tensor | None = None
    """States at the end of the last batch, for clips that continue from them."""

    def save(self, path: Path, context: dict[str, Any]) -> None:
        """Write a checkpoint; the old one is replaced only when the new one is complete."""
        document = {
            "net": self.net.state_dict(),
            "ema": self.ema.state,
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "minutes": self.minutes, "best": self.best, "since_best": self.since_best},
            "left": self.left,
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
        self.left = document.get("left")
        for name, value in document["progress"].items():
            setattr(self, name, value)


def learning_rate(config: TrainConfig, run: Run) -> float:
    """Return the rate: linear warm-up, then a half cosine over steps or minutes, whichever has progressed further."""
    if run.step < config.warmup_steps:
        return config.learning_rate * (run.step + 1) / config.warmup_steps
    by_time = run.minutes / config.max_minutes if config.max_minutes else 0.0
    progress = min(1.0, max(run.step / config.steps, by_time))
    low = config.final_rate
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def train(config: TrainConfig, data: Path, out: Path, start: Path | None = None) -> dict[str, float]:
    """Run or resume a training; return the figures of the best checkpoint.

    Args:
        config: Training configuration.
        data: Corpus folder.
        out: Run folder.
        start: Run folder or model file (`.onnx`) whose weights initialise a new run, instead of random weights.

    Raises:
        ConfigError: `out` or `start` contains an incompatible run or model.
    """
    torch.manual_seed(config.seed)
    torch.set_num_threads(config.threads)
    out.mkdir(parents=True, exist_ok=True)
    pool, report, stems = load_pool(data, config.data, "train")
    print("\n".join(report.lines()))  # noqa: T201
    labels = config.model.labels
    dataset = MixtureExamples(pool, labels, clip_samples(config.data), config.seed, config.model.snr_bands)
    checks = make_checks(data, config.data, labels, config.seed)
    rated = None if config.data.mos_folder is None else MosClips(config.data.mos_folder, "train", labels)

    # With channels last, the gradients of the convolutions take half the time.
    net = Detector(config.model)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs declare it only for tensors
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
        context["start"] = start_from(start, net)
        net.calibration.copy_(torch.stack([torch.ones(len(labels)), torch.zeros(len(labels))]))  # set by the export
    if (out / CHECKPOINT).exists():
        run.restore(_resumable(out / CHECKPOINT, context))
    else:
        if start is None or start.suffix == ".onnx":
            features = torch.stack([dataset[index][0] for index in range(NORMALISED)])
            (set_normalisation if start is None else settle_norms)(net, features)
        run.ema = Ema(net, config.ema_decay)
    _loop(config, run, (dataset, rated), checks, out, context)
    best = torch.load(out / BEST, weights_only=True)
    figures: dict[str, float] = best["figures"]
    return figures


def _resumable(path: Path, context: dict[str, Any]) -> dict[str, Any]:
    """Load a checkpoint; reject one made with a different configuration or manifest."""
    document: dict[str, Any] = torch.load(path, weights_only=True)
    for name in ("config", "manifest_sha256"):
        if document[name] != context[name]:
            raise ConfigError(f"{path} was made with a different {name}: choose another --out or remove that folder")
    print(f"resuming {path} at step {document['progress']['step']}")  # noqa: T201
    return document


def _loop(
    config: TrainConfig,
    run: Run,
    source: tuple[MixtureExamples, MosClips | None],
    checks: Checks,
    out: Path,
    context: dict[str, Any],
) -> None:
    weights = torch.tensor([config.loss_weights.get(name, 1.0) for name in config.model.labels])
    shadow = Detector(config.model)
    averages = torch.zeros(len(config.model.labels))
    bar = tqdm(total=config.steps, initial=run.step, desc=config.name, unit="step", dynamic_ncols=True)
    started, before = time.monotonic(), run.minutes
    for batch, continued in batches(source[0], config, run.step, source[1]):
        run.net.train()
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(config, run)
        draw = np.random.default_rng([config.seed, run.step])
        state = followed(run.left, len(batch[0]), config.followed_share, draw)
        if continued and run.left is not None:
            state = run.net.init_state(len(batch[0])) if state is None else state
            state[: config.batch_size] = run.left[: config.batch_size]
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            loss, per_label, run.left = loss_of(run.net, batch, weights, state, config.shares_weight)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {run.step}: lower the learning rate")
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
            figures = validate(shadow, checks)
            run.since_best += 1
            if figures["score"] > run.best:
                run.best, run.since_best = figures["score"], 0
                run.save(out / BEST, {**context, "figures": figures})
            run.save(out / CHECKPOINT, {**context, "figures": figures})
            if source[1] is not None:
                source[1].refresh()
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
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("config", type=Path, help="YAML file, for instance training/configs/tiny.yaml")
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="run folder; an unfinished run in it is resumed")
    parser.add_argument("--start", type=Path, help="run folder or model file (.onnx) to start a new run from")
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
