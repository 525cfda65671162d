"""Fixtures of the tests of archives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra `archive`: pip install 'speech-qc[archive]'")


@pytest.fixture(autouse=True)
def openers_are_found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import openers and signals of the tests."""
    here = Path(__file__).resolve().parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
