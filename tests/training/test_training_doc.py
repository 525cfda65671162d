"""The training guide's table of constants is the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")

from training.mixing import targets

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
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
    path = Path(__file__).parents[2].joinpath(*module.split("."))
    entry = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    assert 'if __name__ == "__main__":' in entry.read_text(encoding="utf-8")
