"""Studies: the same mixtures and steps for every variant, stored results, tables of the measurements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from made_corpus import SMALL_NET

from training.cache import without
from training.config import ConfigError
from training.corpora.taxonomy import SYNTHETIC_NOISE
from training.mixing.channel import ChannelPlan
from training.mixing.plan import MixPlan, RoomPlan, SourcePlan
from training.model import FIRST_LABELS
from training.study import build, main, read_study, teach

pytestmark = pytest.mark.slow

SIZES = {"seed": 3, "steps": 3, "batch_size": 4, "mixtures": 16, "clip_seconds": 2.0}
CHECKED = {"valid_mixtures": 3, "valid_clean": 2, "valid_noise": 1}
VARIANTS = [
    {"name": "base", "group": "Chance"},
    {"name": "no-wave", "group": "Fusion", "model": {"fusion": "none"}},
    {"name": "pcen", "group": "Front end", "model": {"pcen": True}},
    {"name": "dry", "group": "Augmentation", "mixing": "no_rooms"},
]


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    net = SMALL_NET.model_dump(mode="json", exclude={"labels"})
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**SIZES, **CHECKED, "model": net, "variants": VARIANTS}))
    return path


def test_every_variant_is_run_once_and_stands_beside_the_first(
    study_file: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    command = [str(study_file), "--data", str(corpus), "--out", str(out)]
    assert main([*command, "--only", "base", "no-wave"]) == 0
    assert {path.name for path in out.iterdir()} == {"all.npz", "base.json", "no-wave.json"}
    before = (out / "base.json").read_bytes()
    capsys.readouterr()
    assert main(command) == 0
    assert (out / "base.json").read_bytes() == before
    assert (out / "no_rooms.npz").is_file()
    text = capsys.readouterr().out
    for group, name in (("Fusion", "no-wave"), ("Front end", "pcen"), ("Augmentation", "dry")):
        section = text.split(f"### {group}\n")[1].split("###")[0]
        figures = json.loads((out / f"{name}.json").read_text())["figures"]
        assert "| base |" in section
        assert f"| {name} |" in section
        assert f"| {figures['mean_auroc']:.3f} |" in section


def test_a_run_of_the_same_seed_gives_the_same_net(study_file: Path, corpus: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        main([str(study_file), "--data", str(corpus), "--out", str(tmp_path / out), "--only", "base"])
    one, two = (json.loads((tmp_path / out / "base.json").read_text()) for out in ("one", "two"))
    assert one["figures"] == two["figures"]


def test_mistakes_are_named(study_file: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(study_file), "--data", str(corpus), "--out", str(tmp_path / "runs")]
    assert main([*command, "--only", "nobody"]) == 2
    assert "no such variant: nobody; the study has base, no-wave" in capsys.readouterr().err
    (tmp_path / "runs").mkdir(exist_ok=True)
    np.savez(tmp_path / "runs" / "all.npz", features=np.zeros((2, 4, 73), np.float32))
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "expected 16 mixtures in" in message
    assert "got 2: remove the file" in message
    with pytest.raises(ConfigError, match="No such file"):
        read_study(tmp_path / "none.yaml")


def test_a_group_of_augmentations_is_taken_out_and_nothing_else() -> None:
    source = SourcePlan("synth", SYNTHETIC_NOISE, -10.0, (0, 100), 0, 1, synth="hiss", room=RoomPlan(0, 1.0))
    plan = MixPlan(1, 100, (), -20.0, None, RoomPlan(0, 1.0), (source,), ChannelPlan(narrow=True))
    assert without("all", plan) == plan
    assert without("no_line", plan).channel == ChannelPlan()
    assert without("no_made_sounds", plan).sources == ()
    dry = without("no_rooms", plan)
    assert dry.room is None
    assert dry.sources[0].room is None
    assert dry.channel == plan.channel


def test_a_teacher_speaks_of_probabilities_only() -> None:
    target, opinion = torch.zeros(1, 2, len(FIRST_LABELS)), torch.ones(1, 2, len(FIRST_LABELS))
    mixed = teach(target, opinion)
    assert mixed[..., FIRST_LABELS.index("speech")].eq(0.5).all()
    assert mixed[..., FIRST_LABELS.index("snr_db")].eq(0.0).all()


def test_the_shipped_study_builds_every_net() -> None:
    study = read_study(Path("training/studies/choices.yaml"))
    nets = {variant.name: build(study, variant) for variant in study.variants}
    assert len(nets) == len(study.variants)
    assert nets["fusion-none"].parameter_count() < nets["as-shipped"].parameter_count()
    assert nets["pcen-beside"].state_size > nets["as-shipped"].state_size


def test_a_teacher_is_a_finished_run_and_changes_what_is_learnt(
    study_file: Path, corpus: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = yaml.safe_load(study_file.read_text())
    document["variants"] = [{"name": "base", "group": "Chance"}, {"name": "taught", "group": "Chance", "teacher": True}]
    study_file.write_text(yaml.safe_dump(document))
    command = [str(study_file), "--data", str(corpus), "--out", str(tmp_path / "runs")]
    assert main(command) == 2
    assert "requires a teacher: set `teacher` in the study" in capsys.readouterr().err
    study_file.write_text(yaml.safe_dump(document | {"teacher": str(tmp_path)}))
    assert main(command) == 2
    assert "expected a checkpoint" in capsys.readouterr().err
    study_file.write_text(yaml.safe_dump(document | {"teacher": str(run)}))
    assert main(command) == 0
    base, taught = (json.loads((tmp_path / "runs" / f"{n}.json").read_text())["figures"] for n in ("base", "taught"))
    assert base != taught
