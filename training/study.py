"""Compare design choices: `python -m training.study STUDY.yaml --data FOLDER --out RUNS [--only NAME …]`.

Every variant trains for the same number of steps with the same seed and cached mixtures, and is measured on the same
mixtures of the validation split. Mixtures are rendered once per mixing variant and kept in RUNS. A variant that already
has a result is not run again, so a study can be stopped, resumed, and split over processes with `--only`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from tqdm import tqdm

from speech_qc.contract import LABEL_CATALOG
from training.cache import Cache, Mixing, Sizes
from training.config import ConfigError, DataConfig
from training.corpora.manifest import ManifestError
from training.evaluation.models import EvaluationError, read_run
from training.examples import Example
from training.feed import jitter
from training.material import Checks, make_checks
from training.model import FIRST_LABELS, Detector, ModelConfig
from training.report import number, percent, table
from training.train import NORMALISED, Ema, followed, loss_of, set_normalisation, source_commit, validate

WARM_UP = 30
EMA_DECAY = 0.99
WEIGHT_DECAY = 2e-3
FOLLOWED_SHARE = (
    0.5  # share of clips that start from the state at the end of another clip, unless a variant disables it
)
VALID_SECONDS = 8.0  # the clip length of the shipped model's training
COLUMNS = ("speech", "noise", "interference", "interfering_speech", "music", "tone", "clipping", "dropout")
PERCENT = ("clean_noise", "clean_interference", "noise_speech")


class Variant(BaseModel):
    """One run of a study, defined by its differences from the first one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    group: str
    """Table in which the variant appears."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Settings of the net that differ from the study's."""
    loss_weights: dict[str, float] | None = None
    """Replaces the study's weights."""
    mixing: Mixing = "all"
    followed: bool = True
    """Start some clips from the state at the end of another clip."""
    teacher: bool = False
    """Average the targets with the scores of the study's teacher."""
    seed: int | None = None


class Study(Sizes):
    """Settings shared by all variants."""

    steps: int = Field(ge=1)
    batch_size: int = Field(default=16, ge=1)
    learning_rate: float = Field(default=2.5e-3, gt=0)
    loss_weights: dict[str, float] = Field(default_factory=dict)
    model: ModelConfig = ModelConfig()
    valid_mixtures: int = Field(default=160, ge=1)
    valid_clean: int = Field(default=60, ge=2)
    valid_noise: int = Field(default=40, ge=1)
    teacher: Path | None = None
    """Run folder of the teacher."""
    variants: tuple[Variant, ...]

    def validation(self) -> DataConfig:
        """Return the specification of the validation material, the same for all variants."""
        return DataConfig(
            exclude_sources=self.exclude_sources,
            clip_seconds=VALID_SECONDS,
            valid_mixtures=self.valid_mixtures,
            valid_clean=self.valid_clean,
            valid_noise=self.valid_noise,
        )


def read_study(path: Path) -> Study:
    """Read a study's file.

    Raises:
        ConfigError: The file does not exist, is not YAML, or has invalid values.
    """
    try:
        return Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"study {path}: {error}") from error


def teach(target: Tensor, opinion: Tensor) -> Tensor:
    """Average targets with a teacher's scores; both (N, frames, C). Only probability columns are changed."""
    likely = torch.tensor([LABEL_CATALOG[name][1] == "probability" for name in FIRST_LABELS])
    return torch.where(likely, 0.5 * target + 0.5 * opinion, target)


@torch.no_grad()
def opinions(run: Path, features: Tensor, frames: int) -> Tensor:
    """Return scores of a finished run, aligned to frames and to `FIRST_LABELS`; the last score is repeated."""
    net, _ = read_run(run)
    config = net.config
    columns = [config.labels.index(name) for name in FIRST_LABELS]
    parts = [net.scores(net(part))[:, config.lookahead_frames :, columns] for part in torch.split(features, 40)]
    known = torch.cat(parts)
    return torch.cat([known, known[:, -1:].expand(-1, frames - known.shape[1], -1)], dim=1)


def build(study: Study, variant: Variant) -> Detector:
    """Build the net of a variant, with random weights from its seed."""
    torch.manual_seed(variant.seed or study.seed)
    return Detector(ModelConfig.model_validate(study.model.model_dump() | {"labels": FIRST_LABELS} | variant.model))


def learn(study: Study, variant: Variant, cached: Example) -> Detector:
    """Train a variant; return the net with its averaged weights."""
    features, target, mask = cached
    net = build(study, variant)
    set_normalisation(net, features[:NORMALISED])
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the stubs declare it only for tensors
    optimizer = torch.optim.AdamW(net.parameters(), lr=study.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, study.learning_rate, total_steps=study.steps, pct_start=min(0.3, WARM_UP / study.steps)
    )
    named = study.loss_weights if variant.loss_weights is None else variant.loss_weights
    weights = torch.tensor([named.get(name, 1.0) for name in FIRST_LABELS])
    ema, seed = Ema(net, EMA_DECAY), variant.seed or study.seed
    order = np.random.default_rng(seed)
    left: Tensor | None = None
    for step in tqdm(range(study.steps), desc=variant.name, unit="step"):
        rows = torch.from_numpy(order.choice(len(features), study.batch_size, replace=False))
        batch: Example = features[rows], target[rows], mask[rows]
        batch = jitter(batch, np.random.default_rng([seed, step]), net.spec)
        net.train()
        share = FOLLOWED_SHARE if variant.followed else 0.0
        state = followed(left, len(batch[0]), share, np.random.default_rng([seed, step, 1]))
        loss, _, left = loss_of(net, batch, weights, state)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        ema.update(net, step)
    net.load_state_dict(ema.state)
    return net


def run_study(study: Study, data: Path, out: Path, only: Sequence[str]) -> None:
    """Run the variants that have no result yet.

    Args:
        study: The study.
        data: Corpus folder.
        out: Folder of cached mixtures and results.
        only: Names of the variants to run; empty for all.

    Raises:
        ConfigError: `only` names a variant that the study does not have, or the study lacks the teacher of a variant.
    """
    names = [variant.name for variant in study.variants]
    if unknown := set(only) - set(names):
        raise ConfigError(f"no such variant: {', '.join(sorted(unknown))}; the study has {', '.join(names)}")
    out.mkdir(parents=True, exist_ok=True)
    cache = Cache(out, study, data)
    checks: Checks | None = None
    for variant in study.variants:
        path = out / f"{variant.name}.json"
        if path.is_file() or (only and variant.name not in only):
            continue
        features, target, mask = cache.training(variant.mixing)
        if variant.teacher:
            if study.teacher is None:
                raise ConfigError(f"variant {variant.name!r} requires a teacher: set `teacher` in the study")
            target = teach(target, opinions(study.teacher, features, target.shape[1]))
        started = time.monotonic()
        net = learn(study, variant, (features, target, mask))
        minutes = (time.monotonic() - started) / 60
        checks = checks or make_checks(data, study.validation(), FIRST_LABELS, study.seed)
        result = {
            "variant": variant.model_dump(),
            "weights": net.parameter_count(),
            "mmacs_per_s": net.macs_per_second() / 1e6,
            "minutes": round(minutes, 2),
            "commit": source_commit(),
            "figures": validate(net, checks),
        }
        path.write_text(json.dumps(result, indent=1), encoding="utf-8")


def report(study: Study, out: Path) -> str:
    """Return Markdown tables of all results, one per group."""
    found: dict[str, dict[str, Any]] = {}
    for variant in study.variants:
        path = out / f"{variant.name}.json"
        if path.is_file():
            found[variant.name] = json.loads(path.read_text(encoding="utf-8"))
    groups = list(dict.fromkeys(variant.group for variant in study.variants))
    first = study.variants[0]
    parts = []
    for group in groups:
        members = [v.name for v in study.variants if v.group == group and v.name in found]
        if group != first.group and first.name in found:
            members = [first.name, *members]
        if len(members) > 1 or (members and group == first.group):
            parts.append(f"### {group}\n\n" + table(_HEAD, [_row(name, found[name]) for name in members]))
    return "\n\n".join(parts)


_HEAD = (
    "variant",
    "M MAC/s",
    "mean AUROC",
    *COLUMNS,
    "SNR < 25 dB",
    "clean: noise",
    "clean: interf.",
    "noise: speech",
)


def _row(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    figures = result["figures"]
    hard = figures.get("snr_hard")
    return (
        name,
        number(result["mmacs_per_s"], 1),
        number(figures["mean_auroc"]),
        *(number(figures.get(column)) for column in COLUMNS),
        "–" if hard is None else f"{hard:.1f} dB",
        *(percent(figures.get(column)) for column in PERCENT),
    )


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.study", description=__doc__)
    parser.add_argument("study", type=Path, help="YAML file, for instance training/studies/choices.yaml")
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with manifest.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of cached mixtures and results")
    parser.add_argument("--only", nargs="+", default=(), help="names of the variants to run (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of PyTorch (default: 1)")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        study = read_study(options.study)
        run_study(study, options.data, options.out, options.only)
        print(report(study, options.out))  # noqa: T201
    except (ConfigError, EvaluationError, ManifestError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
