"""Shared by all training tests: a corpus, a finished run on it, and the model file exported from the run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Small nets are slower with more threads, and with one thread the order of sums is fixed.
    pytest.importorskip("torch").set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    # A test that compares to a tolerance must not meet other numbers in every run.
    pytest.importorskip("torch").manual_seed(0)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from made_corpus import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from made_corpus import RUN_CONFIG

    from training.train import train

    out = tmp_path_factory.mktemp("runs") / "whole"
    train(RUN_CONFIG, corpus, out)
    return out


@pytest.fixture(scope="session")
def model(run: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.export import export

    out = tmp_path_factory.mktemp("models") / "made.onnx"
    export(run, corpus, out, mixtures=16, evaluation_mixtures=8)
    return out
