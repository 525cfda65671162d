"""A configuration is completely validated before anything is read or mixed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from training.config import ConfigError, TrainConfig, read_config

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").rglob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_of_the_repository_are_valid(path: Path) -> None:
    config = read_config(path)
    assert config.name in ("speech-qc-base", "speech-qc-tiny")  # several runs and versions lead to one model
    assert config.data.commercial_only
    assert set(config.loss_weights) <= set(config.model.labels)


def test_every_mistake_is_listed_with_what_came(tmp_path: Path) -> None:
    text = "name: x\nsteps: 0\nlearning_rate: fast\nbatches: 3\nmodel: {fusion: both}\ndata: {clip_seconds: 0.1}\n"
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, text))
    lines = str(caught.value).splitlines()[1:]
    said = {line.strip().split(":")[0] for line in lines}
    assert said == {"steps", "learning_rate", "batches", "model.fusion", "data.clip_seconds"}
    assert any("got 'fast'" in line for line in lines)


def test_what_has_no_default_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps: Field required"):
        read_config(written(tmp_path, "name: x\n"))


@pytest.mark.parametrize("text", ["name: [", "- a list\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_config(written(tmp_path, text))


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read configuration .*nowhere\.yaml"):
        read_config(tmp_path / "nowhere.yaml")


def test_a_configuration_survives_the_checkpoint(tmp_path: Path) -> None:
    config = read_config(CONFIGS[0])
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
