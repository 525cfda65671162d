"""The constants, commands and configurations in the training guide match the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from training.config import TrainConfig
from training.evaluation.models import model_scorer
from training.mixing import targets
from training.recipe_config import read_recipe

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([A-Z0-9_]+)` \| ([−\d.]+) \|", GUIDE, re.MULTILINE)
NOT_MEANINGS = {"FRAMES_PER_S", "ENERGY_FLOOR"}


def test_every_constant_of_the_targets_is_documented() -> None:
    constants = {name for name, value in vars(targets).items() if name.isupper() and isinstance(value, (int, float))}
    assert {name for name, _ in ROWS} == constants - NOT_MEANINGS


@pytest.mark.parametrize(("name", "value"), ROWS)
def test_a_documented_constant_has_the_value_of_the_code(name: str, value: str) -> None:
    assert float(value.replace("−", "-")) == getattr(targets, name)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (training\.\w+)", GUIDE))))
def test_a_documented_command_exists(module: str) -> None:
    path = ROOT.joinpath(*module.split("."))
    entry = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert 'if __name__ == "__main__":' in entry.read_text(encoding="utf-8")


def test_every_configuration_is_documented_and_no_other() -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "training").rglob("*.yaml")}
    assert set(re.findall(r"training/(?:configs|recipes|studies)/\S+\.yaml", GUIDE)) == files


def test_the_runs_of_the_recipe_made_the_shipped_model() -> None:
    made = model_scorer(ROOT / "models" / "speech-qc-base.onnx").contract
    recipe = read_recipe(ROOT / "training" / "recipes" / f"base-{made.version}.yaml")
    configs = [config.model_dump(mode="json") for config in recipe.configs().values()]
    written = (made.training["blend"]["config"], made.training["config"])  # later settings have defaults
    assert [TrainConfig.model_validate(config).model_dump(mode="json") for config in written] == configs[-2:]


def test_every_run_of_the_recipe_is_documented() -> None:
    runs = read_recipe(ROOT / "training" / "recipes" / "base-0.4.0.yaml").configs()
    assert re.findall(r"^\| (\d) \| `([a-z-]+)` \|", GUIDE, re.MULTILINE) == [
        tuple(name.split("-", 1)) for name in runs
    ]
