"""Shared fixtures: a clean environment, a server with any settings, the shipped model."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import settings

from speech_qc.app import create_app
from speech_qc.engine import EchoRunner, OnnxRunner, Runner
from speech_qc.settings import Settings, default_model_path

settings.register_profile("speech-qc", deadline=None)  # a busy machine is no failure
settings.load_profile("speech-qc")

ClientFactory = Callable[..., TestClient]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate tests from the settings of the machine."""
    for name in list(os.environ):
        if name.startswith("SPEECHQC_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def untouched_logging() -> Iterator[None]:
    """Reset the log configuration of a command before the next test."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)


@pytest.fixture
def make_client() -> Iterator[ClientFactory]:
    """Return a client of a server with these settings; its lifespan runs until the test ends."""
    with ExitStack() as stack:

        def make(runner: Runner | None = None, **settings: Any) -> TestClient:
            app = create_app(Settings(**settings), runner or EchoRunner(lookahead_frames=2))
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield make


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The shipped model."""
    path = default_model_path()
    assert path.is_file(), f"the shipped model is missing at {path}"
    return path


@pytest.fixture(scope="session")
def shipped_runner(model_path: Path) -> OnnxRunner:
    """The shipped model on the CPU, loaded once."""
    return OnnxRunner(model_path, "cpu")


@pytest.fixture(scope="session")
def sample_path() -> Path:
    """The bundled recording."""
    return Path(__file__).resolve().parent.parent / "examples" / "sample.wav"
