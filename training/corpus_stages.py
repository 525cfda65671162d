"""The stages of a recipe that make the corpora: a stage for each part, then the join and the speech labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training.config import ConfigError, nearest
from training.corpora.manifest import MANIFEST_NAME, read_manifest
from training.corpora.pauses import SPEECH_NAME
from training.ledger import Command, Ledger, Stage, file_sha256
from training.recipe_config import CleanStep, JoinStep, MakeStep, Recipe
from training.stage_commands import (
    Places,
    corpus_state,
    flags,
    in_turn,
    module_command,
    require_teacher,
    teacher_command,
)

CORPORA = "training.corpora.__main__"
JOIN = "join"


def corpus_stages(recipe: Recipe, places: Places, ledger: Ledger) -> list[Stage]:
    """Return the stages up to a corpus with speech labels. All but the labels are skipped if the corpus was given.

    Raises:
        ConfigError: The command line does not give a corpus, a downloaded folder or a teacher.
    """
    manifest = places.data / MANIFEST_NAME
    given = manifest.is_file() and (recipe.join is None or not ledger.knows(JOIN))
    if recipe.join is None and not given:
        raise ConfigError(f"expected a corpus with {manifest}: see docs/training.md, or add `join` to the recipe")
    _check_downloads(recipe, places, given=given)
    stages: list[Stage] = []
    if recipe.join is not None:
        figures = places.data.with_name(f"{places.data.name}-figures")
        if not given and (places.figures is None or places.figures.absolute() != figures.absolute()):
            raise ConfigError(f"expected --figures-data {figures}, which the recipe makes, got {places.figures}")
        note = f"{manifest} exists and this recipe did not make it" if given else None
        folders = _folders(recipe, recipe.join, places)
        stages = [_part(name, recipe, places, folders, note) for name in recipe.join.parts if _made(name, recipe)]
        stages.append(_join(recipe, recipe.join, places, figures, folders, note))
    return stages + _vad(recipe, places)


def _check_downloads(recipe: Recipe, places: Places, *, given: bool) -> None:
    made = {step.part for step in recipe.corpora}
    parts = () if recipe.join is None else recipe.join.parts
    names = {step.source for step in recipe.corpora} | (set(parts) - made)
    lacking = [] if given else sorted(names - places.downloads.keys())
    if lacking:
        wanted = " ".join(f"--from {name}=FOLDER" for name in lacking)
        raise ConfigError(f"expected the downloaded corpora, add {wanted}; or give a --data with {MANIFEST_NAME}")
    unknown = [name for name in places.downloads if name not in names]
    if unknown:
        raise ConfigError("\n".join(f"--from {name}: not in the recipe, {nearest(name, names)}" for name in unknown))


def _made(name: str, recipe: Recipe) -> bool:
    """Return whether the recipe writes a folder for a part, instead of joining the given one as it is."""
    return name in {step.part for step in recipe.corpora} | {step.part for step in recipe.clean}


def _folders(recipe: Recipe, join: JoinStep, places: Places) -> dict[str, Path]:
    parts = places.data.with_name(f"{places.data.name}-parts")
    given = {name: places.downloads.get(name, Path(name)) for name in join.parts}
    return {name: parts / name if _made(name, recipe) else given[name] for name in join.parts}


def _part(name: str, recipe: Recipe, places: Places, folders: Mapping[str, Path], note: str | None) -> Stage:
    """Return the stage that makes one part from the start; a change of one part does not repeat the others."""
    folder, steps = folders[name], [step for step in recipe.corpora if step.part == name]
    clean = next((step for step in recipe.clean if step.part == name), None)
    commands = [_make(step, places, folders) for step in steps] or [_link(name, places, folder)]
    if clean is not None and recipe.vad is not None:
        commands += [teacher_command("vad", places, recipe.vad.script, [str(folder)]), _clean(clean, folder)]

    def inputs() -> dict[str, Any]:
        sources = [str(places.downloads.get(source, "")) for source in ([step.source for step in steps] or [name])]
        found: dict[str, Any] = {"steps": [step.model_dump(mode="json") for step in steps], "folders": sources}
        found["splits"] = [file_sha256(folders[step.splits_of] / MANIFEST_NAME) for step in steps if step.splits_of]
        if not steps:
            found |= corpus_state(places.downloads[name])
        if clean is not None and recipe.vad is not None:
            found |= {"clean": clean.model_dump(mode="json"), "script": file_sha256(recipe.vad.script)}
        return found

    outputs = [folder / MANIFEST_NAME] + ([] if clean is None else [folder / SPEECH_NAME])
    return Stage(f"part {name}", in_turn(commands), inputs, tuple(outputs), (folder,), lambda: note, alone=True)


def _make(step: MakeStep, places: Places, folders: Mapping[str, Path]) -> Command:
    source = places.downloads.get(step.source, Path(step.source))
    words = ["make", step.recipe, "--from", str(source), "--out", str(folders[step.part]), *step.arguments(folders)]
    return module_command(CORPORA, words)


def _link(name: str, places: Places, folder: Path) -> Command:
    source = places.downloads.get(name, Path(name))
    return module_command(CORPORA, ["link", "--from", str(source), "--out", str(folder)])


def _clean(step: CleanStep, folder: Path) -> Command:
    only = ["--beds-only"] if step.beds_only else []
    return module_command(CORPORA, ["clean", str(folder), *flags({"range": step.range}), *only])


def _join(
    recipe: Recipe, step: JoinStep, places: Places, figures: Path, folders: Mapping[str, Path], note: str | None
) -> Stage:
    words = [str(places.data), *map(str, folders.values()), *(["--commercial"] if step.commercial else [])]
    words += ["--figures", *step.figures] if step.figures else []

    def inputs() -> dict[str, Any]:
        settings = step.model_dump(mode="json") | {"folders": [str(folder) for folder in folders.values()]}
        return settings | {f"part {name}": corpus_state(folder, speech=True) for name, folder in folders.items()}

    # The speech labels in the corpus folder are no output: the next stage adds those of parts that were not cleaned.
    outputs = [places.data / MANIFEST_NAME, figures / MANIFEST_NAME] + ([figures / SPEECH_NAME] if recipe.clean else [])
    return Stage(JOIN, module_command("training.join", words), inputs, tuple(outputs), (), lambda: note)


def _vad(recipe: Recipe, places: Places) -> list[Stage]:
    if recipe.vad is None:
        return []
    script, marks = recipe.vad.script, places.data / SPEECH_NAME

    def covered() -> str | None:
        return None if missing_speech(places.data) else f"{marks} covers all speech of the manifest"

    def inputs() -> dict[str, Any]:
        return {"script": file_sha256(script), **corpus_state(places.data)}

    if not (places.data / MANIFEST_NAME).is_file() or covered() is None:
        require_teacher("vad", places)
    command = teacher_command("vad", places, script, [str(places.data)])
    return [Stage("vad", command, inputs, (marks,), (), covered)]


def missing_speech(data: Path) -> list[str]:
    """Return the paths of speech rows without speech labels; all of them if there is no such file.

    Raises:
        ConfigError: The file of labels cannot be read.
        ManifestError: The manifest cannot be used.
    """
    paths = [stem.path for stem in read_manifest(data) if stem.kind == "speech"]
    marks = data / SPEECH_NAME
    if not marks.exists():
        return paths
    try:
        with np.load(marks) as file:
            known = set(file.files)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {marks}: {error}; remove it, the teacher makes it again") from error
    return [path for path in paths if path not in known]
