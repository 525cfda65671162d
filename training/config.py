"""Training configuration: one YAML file, checked, carried whole in every checkpoint and model file."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.model import ModelConfig


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(_Checked):
    """What is mixed from what."""

    commercial_only: bool = True
    """Leave out stems whose licence is non-commercial; the shipped model is trained this way."""
    exclude_sources: tuple[str, ...] = ()
    """Sources left out altogether, for instance because their licence was not verified."""
    clip_seconds: float = Field(default=8.0, gt=0.5)
    """Length of a training mixture."""
    valid_mixtures: int = Field(default=160, ge=1)
    """Fixed mixtures of the validation split."""
    valid_clean: int = Field(default=0, ge=0)
    """Fixed clips of clean speech, half of them telephone, on which false alarms are counted."""
    valid_noise: int = Field(default=0, ge=0)
    """Fixed clips in which nobody speaks."""
    reuse: int = Field(default=1, ge=1)
    """Steps per batch of new mixtures; above 1, steps draw from the last `REUSE_BATCHES` and are jittered."""
    mos_folder: Path | None = None
    """Clips rated by a teacher (`training.mos`); needed for the opinion scores to be learnt."""
    mos_per_batch: int = Field(default=4, ge=1)
    """Rated clips added to every batch."""
    workers: int = Field(default=1, ge=0)
    """Processes that mix while the net learns."""


class TrainConfig(_Checked):
    """The whole file."""

    name: str
    version: str = "0.1.0"
    seed: int = 1
    steps: int = Field(ge=1)
    """Optimiser steps at most."""
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    final_rate: float = Field(default=0.02, ge=0, le=1)
    """Learning rate at the last step, as a share of the highest."""
    weight_decay: float = Field(default=1e-3, ge=0)
    grad_clip: float = Field(default=2.0, gt=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """Of the averaged weights, which are validated and exported."""
    valid_every: int = Field(default=150, ge=1)
    patience: int = Field(default=12, ge=1)
    """Validations without a better mean AUROC until the run stops."""
    max_minutes: float | None = None
    """Wall-clock limit; the learning rate follows whichever of steps and minutes is further on."""
    threads: int = Field(default=2, ge=1)
    """Threads of the net's arithmetic."""
    loss_weights: dict[str, float] = {}
    """Weight of a label's loss where it is not 1."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()


class ConfigError(Exception):
    """The configuration file has mistakes; all are listed."""


def read_config(path: Path) -> TrainConfig:
    """Read a configuration file.

    Raises:
        ConfigError: No such file, not YAML, or wrong values; one line each.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from error
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (came {e['input']!r})" for e in error.errors()]
        raise ConfigError(f"configuration {path}:\n  " + "\n  ".join(lines)) from error
