"""The command measures the given contenders on the given materials and writes the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from made_corpus import made_pool, rush, talk, write_sound

from training.config import DataConfig
from training.evaluate import main
from training.evaluation.markdown import report_markdown
from training.model import FIRST_LABELS
from training.mos import write
from training.mos_targets import TEACHER_COLUMNS

pytestmark = pytest.mark.slow


def labelled(folder: Path) -> Path:
    """Write two synthetic calls: a talker, then a talker in noise."""
    for i in range(2):
        write_sound(folder / f"call{i}.wav", np.r_[talk(2.0, 130.0 + i, i), talk(2.0, 130.0 + i, i) + rush(2.0, i)])
        (folder / f"call{i}.txt").write_text("0.0\t4.0\tspeech\n2.0\t4.0\tnoise\n", encoding="utf-8")
    return folder


def rated(folder: Path) -> Path:
    lines = ["path,bak"]
    for i in range(9):
        write_sound(folder / f"clip{i}.wav", talk(1.0, 140.0, i) + rush(1.0, i, 0.002 * 1.6**i))
        lines.append(f"clip{i}.wav,{5 - 0.4 * i}")
    path = folder / "ratings.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_all_materials_and_contenders_stand_in_one_report(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    material = ["--data", str(corpus), "--mixtures", "8", "--labelled", str(labelled(tmp_path / "calls"))]
    material += ["--ratings", str(rated(tmp_path / "clips"))]
    write(tmp_path / "mos", "valid", made_pool(), DataConfig(clip_seconds=3.0), FIRST_LABELS, 2)
    np.save(tmp_path / "mos" / "valid.scores.npy", np.full((2, TEACHER_COLUMNS), 3.0, np.float32))
    material += ["--mos", str(tmp_path / "mos")]
    contenders = ["--model", str(model), "--compare", str(model), "--baseline", "energy", "wada"]
    assert main([*contenders, *material, "--out", str(out)]) == 0
    document = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    names = ["speech-qc-made 0.1.0", "speech-qc-made 0.1.0 (2)", "energy", "wada"]
    assert document["contenders"] == names
    assert [section["title"] for section in document["materials"]] == [
        "Mixtures",
        "Hand labels",
        "Ratings",
        "Teachers' scores",
    ]
    mixtures, hand, ratings, teachers = (section["contenders"] for section in document["materials"])
    assert teachers == {name: {"opinion": {}} for name in names}  # two clips have no correlation
    assert mixtures[names[0]] == mixtures[names[1]]  # the same model, measured on the same frames
    measured = {"labels", "psds", "snr_db", "groups", "kinds", "followed", "clean_speech", "noise_alone", "invariance"}
    assert measured | {"steady", "clean_recordings"} == set(mixtures[names[0]])
    assert "error_below_25_db" in mixtures["energy"]["snr_db"]["steady_noise"]
    assert not {"steady", "clean_recordings"} & set(mixtures["energy"])
    assert "clean_speech" not in mixtures["energy"]
    assert mixtures["energy"]["labels"]["disturbance"]["auroc"] > 0.5
    assert hand["energy"]["labels"]["noise"]["auroc"] > 0.8
    assert ratings["wada"]["ratings"]["bak"]["snr_db"]["spearman"] > 0.9
    report = (out / "report.md").read_text(encoding="utf-8")
    assert report_markdown(document) in report
    assert "`python -m training.evaluate --model" in report
    for head in ("## Aims", "### Steady sources under speech", "### Clean recordings, unmixed"):
        assert head in report
    assert report_markdown(document) in capsys.readouterr().out
    for picture in ("det-1.png", "reliability-1.png", "snr-1.png", "det-2.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
        assert f"({picture})" in report


def test_a_run_is_measured_and_another_seed_gives_other_mixtures(run: Path, corpus: Path, tmp_path: Path) -> None:
    made = []
    for seed in ("1", "2", "1"):
        path = tmp_path / "figures.json"
        options = ["--run", str(run), "--data", str(corpus), "--seed", seed, "--mixtures", "4", "--json", str(path)]
        assert main(options) == 0
        made.append(json.loads(path.read_text(encoding="utf-8"))["materials"][0])
    assert made[0] == made[2]
    assert made[0]["contenders"] != made[1]["contenders"]


def test_a_split_or_sources_can_be_chosen(model: Path, corpus: Path, tmp_path: Path, capsys) -> None:
    options = ["--model", str(model), "--data", str(corpus), "--mixtures", "4", "--report", str(tmp_path / "r.md")]
    assert main([*options, "--split", "train", "--sources", "made"]) == 0
    assert "mixtures of the training split, sources made only" in (tmp_path / "r.md").read_text(encoding="utf-8")
    assert main([*options, "--sources", "elsewhere"]) == 2
    assert "does not list elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baseline", "energy"], "expected a contender (--model, --run, --compare or --baseline) and a material"),
        (["--baseline", "energy", "--labelled", "nowhere"], "expected recordings with label tracks"),
        (["--baseline", "energy", "--ratings", "nowhere.csv"], "cannot read nowhere.csv"),
        (["--gate"], "--gate requires --model or --run"),
    ],
)
def test_what_is_missing_is_named(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options) == 2
    assert message in capsys.readouterr().err
