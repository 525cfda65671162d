"""Training configuration: one validated YAML file, stored in every checkpoint and model file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.model import ModelConfig


class Checked(BaseModel):
    """An immutable part of a configuration file, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Checked):
    """Which stems are mixed, and how."""

    commercial_only: bool = True
    """Exclude stems whose licence is non-commercial, as for the shipped model."""
    exclude_sources: tuple[str, ...] = ()
    """Sources to exclude, for instance because their licence was not verified."""
    clip_seconds: float = Field(default=8.0, gt=0.5)
    """Length of a training mixture."""
    long_seconds: float = Field(default=0.0, ge=0.0)
    """Length of the mixtures in every `long_every`-th batch, which teach what lasts; 0: none. A multiple of
    `clip_seconds`."""
    long_every: int = Field(default=9, ge=1)
    valid_mixtures: int = Field(default=160, ge=1)
    """Number of fixed mixtures of the validation split."""
    valid_clean: int = Field(default=0, ge=0)
    """Number of fixed clips of clean speech, half of them telephone, on which false alarms are counted."""
    valid_noise: int = Field(default=0, ge=0)
    """Number of fixed clips without speech."""
    reuse: int = Field(default=1, ge=1)
    """Steps per batch of new mixtures; above 1, steps draw from the last `REUSE_BATCHES` batches, with jitter."""
    jitter: bool = False
    """Also vary level and spectral colour in the features of some new mixtures."""
    mos_folder: Path | None = None
    """Folder of clips rated by a teacher (`training.mos`); required to train the opinion scores."""
    mos_per_batch: int = Field(default=4, ge=1)
    """Rated clips added to every batch."""
    workers: int = Field(default=1, ge=0)
    """Processes that render mixtures while the net trains."""

    @model_validator(mode="after")
    def _long_is_whole(self) -> Self:
        if self.long_seconds % self.clip_seconds:
            raise ValueError(
                f"long_seconds must be a multiple of clip_seconds, {self.clip_seconds:g}, got {self.long_seconds:g}"
            )
        return self


class TrainConfig(Checked):
    """The whole file."""

    name: str
    version: str = "0.1.0"
    seed: int = 1
    steps: int = Field(ge=1)
    """Maximum number of optimiser steps."""
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    final_rate: float = Field(default=0.02, ge=0, le=1)
    """Learning rate at the last step, as a fraction of `learning_rate`."""
    weight_decay: float = Field(default=1e-3, ge=0)
    grad_clip: float = Field(default=2.0, gt=0)
    followed_share: float = Field(default=0.0, ge=0, le=1)
    """Share of clips that start from the net's state at the end of another clip, as in mid-stream."""
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """Decay of the weight average, which is validated and exported."""
    valid_every: int = Field(default=150, ge=1)
    patience: int = Field(default=12, ge=1)
    """Number of validations without improvement after which the run stops."""
    max_minutes: float | None = None
    """Time limit; the learning rate follows steps or minutes, whichever has progressed further."""
    threads: int = Field(default=2, ge=1)
    """CPU threads of PyTorch."""
    bfloat16: bool = False
    """Train with bfloat16 arithmetic; faster only on processors that have it (AVX512-BF16, AMX)."""
    shares_weight: float = Field(default=0.0, ge=0)
    """Loss weight of the speech shares of `snr_bands`, relative to the weights of all labels together."""
    loss_weights: dict[str, float] = {}
    """Loss weight by label; 1 by default."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()


class ConfigError(Exception):
    """The configuration is invalid; the message lists all errors."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: The file cannot be read or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read configuration {path}: {error}") from error


def read_config(path: Path) -> TrainConfig:
    """Read a configuration file.

    Raises:
        ConfigError: The file does not exist, is not YAML, or has invalid values; one line each.
    """
    document = read_yaml(path)
    try:
        return TrainConfig.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"configuration {path}:\n  " + "\n  ".join(mistakes(error, TrainConfig))) from error


def mistakes(error: ValidationError, model: type[BaseModel], within: Sequence[str | int] = ()) -> list[str]:
    """Return one line per mistake; for an unknown key, with the nearest known one.

    Args:
        error: Raised when a document was validated.
        model: The class it was validated against.
        within: Where in its file the document stands.
    """
    lines = []
    for entry in error.errors():
        where = ".".join(map(str, (*within, *entry["loc"])))
        if entry["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key, {nearest(str(entry['loc'][-1]), _keys(model, entry['loc'][:-1]))}")
        else:
            lines.append(f"{where}: {entry['msg']} (got {entry['input']!r})")
    return lines


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint: the most similar known name, or all of them if none is similar."""
    names = sorted(known)
    similar = difflib.get_close_matches(name, names, 1)
    return f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(names)}"


def _keys(model: type[BaseModel], path: Iterable[str | int]) -> list[str]:
    """Return the keys of the model that stands at a path within a model."""
    for part in path:
        if isinstance(part, str):
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            model = _model_in(fields[part].annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
