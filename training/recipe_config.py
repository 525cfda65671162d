"""The recipe file: what `training.recipe` does, as validated data. Paths are relative to the working directory."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, field_validator

from speech_qc.contract import LABEL_CATALOG
from training.config import Checked, ConfigError, TrainConfig, mistakes, nearest, read_yaml
from training.corpora.__main__ import add_make
from training.corpora.recipes import RECIPES

MERGED = ("model", "data")
"""Settings of a run that replace those of `defaults` key by key; all others are replaced as a whole."""
SPLITS = ("train", "valid")

SPLITS_OF = "splits-of"
"""Option of `make` whose value is a part here, and a folder on the command line."""

Value = str | int | float | bool | tuple[str, ...]
PartName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class MakeStep(Checked):
    """One call of `training.corpora make`."""

    part: PartName
    """Corpus folder to write into, one of `join.parts`; several steps may share it."""
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

    @property
    def splits_of(self) -> str:
        """The part whose speakers keep their split; empty if there is none."""
        return str(self.options.get(SPLITS_OF, ""))

    def arguments(self, folders: Mapping[str, Path]) -> list[str]:
        """Return the options as on a command line, with the folders of the parts."""
        words: list[str] = []
        for name, given in self.options.items():
            value = str(folders[self.splits_of]) if name == SPLITS_OF else given
            if value is not False:
                values = value if isinstance(value, tuple) else () if value is True else (value,)
                words += [f"--{name}", *map(str, values)]
        return words


class CleanStep(Checked):
    """One call of `training.corpora clean`."""

    part: PartName
    range: float | None = None
    """dB that clean speech lies above its pauses; default: that of the command."""
    beds_only: bool = False
    """Cut room tone, leave out nothing."""


class JoinStep(Checked):
    """The call of `training.join` that makes the two corpus folders."""

    parts: tuple[PartName, ...] = Field(min_length=1)
    """In this order. One that no step of `corpora` makes is a corpus folder, given as `--from NAME=FOLDER`."""
    figures: tuple[str, ...] = ()
    """What is only for figures."""
    commercial: bool = False
    """Leave out what forbids commercial use."""


class VadStep(Checked):
    """Speech labels of a corpus by a teacher: `SCRIPT FOLDER` writes FOLDER/speech.npz, an array per speech row."""

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
    blend: str | None = None
    """An earlier run of the recipe whose weights are averaged with the last run's."""
    blend_share: float = Field(default=0.5, ge=0, le=1)
    """Share of its weights."""


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
    clean: tuple[CleanStep, ...] = ()
    join: JoinStep | None = None
    vad: VadStep | None = None
    mos: MosStep | None = None
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Settings of `TrainConfig` shared by the runs."""
    train: tuple[RunStep, ...] = Field(min_length=1)
    export: ExportStep = ExportStep()
    evaluate: EvaluateStep | None = None
    card: CardStep | None = None

    def wrong_parts(self) -> list[str]:
        """Return what does not fit together in `corpora`, `clean` and `join`."""
        parts = () if self.join is None else self.join.parts
        named = [("corpora", step.part) for step in self.corpora] + [("clean", step.part) for step in self.clean]
        wrong = [
            f"{key}: expected the part {name} in join.parts" + (f", {nearest(name, parts)}" if parts else "")
            for key, name in named
            if name not in parts
        ]
        for key, names in (("join.parts", parts), ("clean", [step.part for step in self.clean])):
            wrong += [f"{key}: {name} is listed twice" for name in sorted(set(names)) if list(names).count(name) > 1]
        for step in self.corpora:
            before = parts[: parts.index(step.part)] if step.part in parts else parts
            if step.splits_of and step.splits_of not in before:
                wrong.append(f"{SPLITS_OF}: expected a part before {step.part} in join.parts, got {step.splits_of}")
        if self.clean and self.vad is None:
            wrong.append("clean: expected `vad`, too, because the teacher finds the pauses; add `vad: {}`")
        return wrong

    def configs(self, mos_folder: Path | None = None) -> dict[str, TrainConfig]:
        """Return the complete configuration of each run by the name of its folder.

        Args:
            mos_folder: Folder of rated clips, for the runs that have opinion scores and name no folder, not even null.

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
            if mos_folder is not None and "mos_folder" not in config.data.model_fields_set and _opinions(config):
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
    wrong = recipe.wrong_parts()
    if wrong:
        raise ConfigError(f"recipe {path}:\n  " + "\n  ".join(wrong))
    recipe.configs()
    return recipe
