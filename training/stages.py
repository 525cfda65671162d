"""The stages of a recipe: which command each one runs, what it depends on, and when it need not be run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from training.config import ConfigError, TrainConfig, nearest
from training.corpus_stages import corpus_stages
from training.export import golden_path
from training.ledger import Ledger, Stage, file_sha256
from training.recipe_config import SPLITS, MosStep, Recipe
from training.stage_commands import Places, corpus_state, flags, module_command, require_teacher, teacher_command
from training.start import BEST


def make_stages(recipe: Recipe, places: Places, ledger: Ledger) -> list[Stage]:
    """Return the stages of a recipe in order, and write the configuration of each run to `OUT/configs`.

    Raises:
        ConfigError: The recipe requires something that the command line does not give, or a file does not exist.
    """
    mos = None if recipe.mos is None else recipe.mos.folder or places.out / "mos"
    configs = recipe.configs(mos)
    folder = places.out / "configs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, config in configs.items():
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    stages = corpus_stages(recipe, places, ledger)
    if recipe.mos is not None and mos is not None:
        stages += _mos(recipe.mos, places, ledger, mos, configs)
    stages += _runs(recipe, places, configs)
    return stages + _results(recipe, places, configs)


def _mos(
    step: MosStep, places: Places, ledger: Ledger, folder: Path, configs: Mapping[str, TrainConfig]
) -> list[Stage]:
    rated = [name for name, config in configs.items() if config.data.mos_folder == folder]
    if not rated:
        raise ConfigError(f"`mos`: expected a run with the labels sig, bak, ovrl and no mos_folder other than {folder}")
    script, config = step.script, configs[rated[0]]
    making, rating = [], []
    for split, count in zip(SPLITS, (step.train, step.valid), strict=True):
        files = [folder / f"{split}{ending}" for ending in (".npz", ".samples.npy", ".scores.npy")]
        names = f"mos make {split}", f"mos rate {split}"
        given = not any(map(ledger.knows, names)) and _rated(files)
        if not given and not ledger.knows(names[1]):
            require_teacher("mos", places)
        note = f"{folder} has rated clips that this recipe did not make" if given else None
        settings = {"data": config.data.model_dump(mode="json"), "count": count}
        words = ["make", str(folder), "--data", str(places.data), "--config", str(_config_path(places, rated[0]))]
        words += ["--split", split, "--count", str(count)]

        def make_inputs(settings: dict[str, Any] = settings) -> dict[str, Any]:
            return settings | corpus_state(places.data)

        def rate_inputs(samples: Path = files[1]) -> dict[str, Any]:
            return {"script": file_sha256(script), "clips": file_sha256(samples)}

        def unneeded(note: str | None = note) -> str | None:
            return note

        made = tuple(files[:2])
        making.append(Stage(names[0], module_command("training.mos", words), make_inputs, made, tuple(files), unneeded))
        rate = teacher_command("mos", places, script, [str(path) for path in files[1:]])
        rating.append(Stage(names[1], rate, rate_inputs, (files[2],), (files[2],), unneeded))
    return making + rating


def _rated(files: Sequence[Path]) -> bool:
    """Return whether there are rated clips, all of them rated; files: clips, samples, scores.

    Raises:
        ConfigError: There are clips without ratings, which the recipe would overwrite.
    """
    present = [path for path in files if path.exists()]
    if not present:
        return False
    if len(present) == len(files):
        clips, ratings = (len(np.load(path, mmap_mode="r")) for path in files[1:])
        if clips == ratings:
            return True
    raise ConfigError(
        f"{files[0].parent} has clips that this recipe did not make, and not all are rated: rate all of "
        f"{files[1].name} with the teacher, or name another folder in `mos`"
    )


def _runs(recipe: Recipe, places: Places, configs: Mapping[str, TrainConfig]) -> list[Stage]:
    stages = []
    before: Path | None = None
    for step, (name, config) in zip(recipe.train, configs.items(), strict=True):
        start, out = step.start or before, places.out / name
        if step.start is not None and not step.start.exists():
            raise ConfigError(f"{name}: expected a run folder or a model file at {step.start}, found none")
        words = [str(_config_path(places, name)), "--data", str(places.data), "--out", str(out)]
        words += [] if start is None else ["--start", str(start)]

        def inputs(config: TrainConfig = config, start: Path | None = start) -> dict[str, Any]:
            clips = config.data.mos_folder
            ratings = [] if clips is None else [file_sha256(clips / f"{split}.scores.npy") for split in SPLITS]
            weights = None if start is None else file_sha256(start if start.suffix == ".onnx" else start / BEST)
            return {
                "configuration": config.model_dump(mode="json"),
                "start": weights,
                "ratings": ratings,
                **corpus_state(places.data, speech=recipe.vad is not None),
            }

        stages.append(Stage(f"train {name}", module_command("training.train", words), inputs, (out / BEST,), (out,)))
        before = out
    return stages


def _results(recipe: Recipe, places: Places, configs: Mapping[str, TrainConfig]) -> list[Stage]:
    if recipe.earlier is not None and not recipe.earlier.is_file():
        raise ConfigError(f"`earlier`: expected a model file at {recipe.earlier}, found none")
    last, config = list(configs.items())[-1]
    run, model, figures = places.out / last, places.out / f"{config.name}.onnx", places.figures or places.data
    words = [str(run), "--data", str(places.data), "--out", str(model)]
    given = recipe.export.model_dump(exclude={"blend", "blend_share"})
    words += flags(given) + flags({"figures-data": places.figures, "earlier": recipe.earlier})
    other = _blended(recipe, places, configs)
    if other is not None:
        words += flags({"blend": other, "blend-share": recipe.export.blend_share})
    if config.data.mos_folder is not None:
        words += flags({"mos": config.data.mos_folder})

    def corpora() -> dict[str, Any]:
        earlier = None if recipe.earlier is None else file_sha256(recipe.earlier)
        return {"figures": corpus_state(figures), "earlier": earlier}

    def export_inputs() -> dict[str, Any]:
        options = recipe.export.model_dump(mode="json")
        weights = [file_sha256(folder / BEST) for folder in (run, other) if folder is not None]
        return {"runs": weights, "options": options, **corpus_state(places.data), **corpora()}

    outputs = (model, golden_path(model))
    stages = [Stage("export", module_command("training.export", words), export_inputs, outputs)]
    if recipe.evaluate is not None:
        step, report = recipe.evaluate, places.out / "report"
        words = ["--model", str(model), "--data", str(figures), *flags(step.model_dump()), "--out", str(report)]
        words += flags({"compare": recipe.earlier})

        def report_inputs() -> dict[str, Any]:
            return {"model": file_sha256(model), "options": step.model_dump(mode="json"), **corpora()}

        made = (report / "report.md", report / "figures.json")
        stages.append(Stage("evaluate", module_command("training.evaluate", words), report_inputs, made))
    if recipe.card is not None:
        card = recipe.card.file or places.out / "README.md"
        command = module_command("training.card", [str(model), "--card", str(card)])
        stages.append(Stage("card", command, lambda: {"model": file_sha256(model)}, (card,)))
    return stages


def _blended(recipe: Recipe, places: Places, configs: Mapping[str, TrainConfig]) -> Path | None:
    """Return the folder of the run that `export.blend` names."""
    if recipe.export.blend is None:
        return None
    names = [step.run for step in recipe.train]
    if recipe.export.blend not in names:
        raise ConfigError(f"export.blend: {recipe.export.blend} is no run, {nearest(recipe.export.blend, names)}")
    return places.out / list(configs)[names.index(recipe.export.blend)]


def _config_path(places: Places, name: str) -> Path:
    return places.out / "configs" / f"{name}.yaml"
