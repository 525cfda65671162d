"""The recipe file: what `training.recipe` does, as validated data. Paths are relative to the working directory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from speech_qc.contract import LABEL_CATALOG
from training.config import Checked, ConfigError, TrainConfig, mistakes, nearest, read_yaml
from training.corpora.__main__ import add_make
from training.corpora.recipes import RECIPES

MERGED = ("model", "data")
"""Settings of a run that replace those of `defaults` key by key; all others are replaced as a whole."""
SPLITS = ("train", "valid")

Value = str | int | float | bool | tuple[str, ...]


class MakeStep(Checked):
    """One call of `training.corpora make`."""

    recipe: str
    folder: str = Field(default="", alias="from")
    """NAME of the downloaded folder, which the command line gives as `--from NAME=FOLDER`; default: the recipe's."""
    options: dict[str, Value] = Field(default_factory=dict)
    """Further options of the command, without the dashes; true for one without a value."""

    @field_validator("recipe")
    @classmethod
    def _known_recipe(cls, name: str) -> str:
        if name not in RECIPES:
            raise ValueError(f"unknown corpus, {nearest(name, RECIPES)}")
        return name

    @field_validator("options")
    @classmethod
    def _known_options(cls, options: dict[str, Value]) -> dict[str, Value]:
        known = _make_options()
        unknown = [f"{name}: unknown option, {nearest(name, known)}" for name in options if name not in known]
        if unknown:
            raise ValueError("; ".join(unknown))
        return options

    @property
    def source(self) -> str:
        """NAME of the downloaded folder."""
        return self.folder or self.recipe

    def arguments(self) -> list[str]:
        """Return the options as on a command line."""
        words: list[str] = []
        for name, value in self.options.items():
            if value is not False:
                values = value if isinstance(value, tuple) else () if value is True else (value,)
                words += [f"--{name}", *map(str, values)]
        return words


class VadStep(Checked):
    """Speech labels of the corpus by a teacher: `SCRIPT FOLDER` writes FOLDER/speech.npz, an array per speech row."""

    script: Path = Path("training/vad_teacher.py")


class MosStep(Checked):
    """Rated clips for the opinion scores: `training.mos make`, then `SCRIPT SAMPLES SCORES`."""

    train: int = Field(default=1200, ge=1)
    """Number of clips for training."""
    valid: int = Field(default=120, ge=1)
    """Number of clips for validation."""
    folder: Path | None = None
    """Folder of the clips; default: `mos` in the output folder."""
    script: Path = Path("training/mos_teacher.py")


class RunStep(Checked):
    """One run; all other keys are settings of `TrainConfig` that differ from `defaults`."""

    model_config = ConfigDict(extra="allow")

    run: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """Short name, part of the run folder's."""
    start: Path | None = None
    """Run folder or model file to start from; default: the previous run, or random weights for the first one."""
    config: Path | None = None
    """A configuration file to use instead of `defaults`."""


class ExportStep(Checked):
    """How the last run is exported."""

    mixtures: int = Field(default=300, ge=1)
    """Calibration mixtures."""
    evaluation_mixtures: int = Field(default=400, ge=1)
    """Mixtures for the figures in the model file."""


class EvaluateStep(Checked):
    """The report, on mixtures of a corpus."""

    split: str = Field(default="valid", pattern="^(train|valid|test)$")
    mixtures: int = Field(default=400, ge=1)


class CardStep(Checked):
    """The model card."""

    file: Path | None = None
    """Card whose generated part is updated; default: README.md in the output folder."""


class Recipe(Checked):
    """The whole file."""

    earlier: Path | None = None
    """An earlier model file; measured for comparison in the model file, the report and the card."""
    corpora: tuple[MakeStep, ...] = ()
    vad: VadStep | None = None
    mos: MosStep | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Settings of `TrainConfig` shared by the runs."""
    train: tuple[RunStep, ...] = Field(min_length=1)
    export: ExportStep = ExportStep()
    evaluate: EvaluateStep | None = None
    card: CardStep | None = None

    def configs(self, mos_folder: Path | None = None) -> dict[str, TrainConfig]:
        """Return the complete configuration of each run by the name of its folder.

        Args:
            mos_folder: Folder of rated clips, for the runs that have opinion scores and name no folder.

        Raises:
            ConfigError: A setting is unknown or invalid, or two runs have one name; the message lists all mistakes.
        """
        found: dict[str, TrainConfig] = {}
        required = {"name": "", "steps": 1}
        wrong = _wrong_settings(required | self.defaults, ("defaults",))[0]
        if wrong:
            raise ConfigError("recipe:\n  " + "\n  ".join(wrong))
        names = [step.run for step in self.train]
        wrong += [f"train: two runs are named {name}" for name in sorted(set(names)) if names.count(name) > 1]
        for number, step in enumerate(self.train):
            base = self.defaults if step.config is None else read_yaml(step.config)
            more, config = _wrong_settings(_merged(base, step.model_extra or {}), ("train", number))
            wrong += more
            if config is None:
                continue
            if mos_folder is not None and config.data.mos_folder is None and _opinions(config):
                data = config.data.model_copy(update={"mos_folder": mos_folder})
                config = config.model_copy(update={"data": data})
            found[f"{number + 1}-{step.run}"] = config
        if wrong:
            raise ConfigError("recipe:\n  " + "\n  ".join(wrong))
        return found


def _wrong_settings(settings: Any, where: tuple[str | int, ...]) -> tuple[list[str], TrainConfig | None]:
    try:
        return [], TrainConfig.model_validate(settings)
    except ValidationError as error:
        return mistakes(error, TrainConfig, where), None


def _opinions(config: TrainConfig) -> bool:
    return any(LABEL_CATALOG[name][1] == "mos" for name in config.model.labels)


def _merged(base: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with changes; what is not a mapping is left for the validation to report."""
    if not isinstance(base, Mapping):
        return {**changes}
    both = [n for n in MERGED if isinstance(base.get(n), Mapping) and isinstance(changes.get(n), Mapping)]
    parts = {name: {**base[name], **changes[name]} for name in both}
    return {**base, **changes, **parts}


def _make_options() -> set[str]:
    """Return the options of `training.corpora make` that a recipe may give."""
    commands = argparse.ArgumentParser().add_subparsers()
    add_make(commands)
    actions = commands.choices["make"]._actions  # argparse has no public list of options
    return {name[2:] for action in actions for name in action.option_strings} - {"", "help", "from", "out"}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file and check all of it, including the configuration of each run.

    Raises:
        ConfigError: The file does not exist, is not YAML, or has invalid values; one line each.
    """
    document = read_yaml(path)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise ConfigError(f"recipe {path}:\n  " + "\n  ".join(mistakes(error, Recipe))) from error
    recipe.configs()
    return recipe
