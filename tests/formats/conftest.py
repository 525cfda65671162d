from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow", reason="needs the extra `archive`: pip install 'speech-qc[archive]'")

from speech_qc.embedded import detector
from speech_qc.engine import EchoRunner
from speech_qc.settings import Settings

PROFILES = """
profiles:
  default:
    limits: {peak_dbfs: {fail_above: -9}}
  strict:
    limits: {peak_dbfs: {fail_above: -99}}
"""
"""Verdicts that depend on the peak level only, and not on a model."""


@pytest.fixture(autouse=True)
def echo_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> detector.Detector:
    """Use the echo model in this process, and keep the libraries' caches out of the home folder."""
    profiles = tmp_path / "profiles.yaml"
    profiles.write_text(PROFILES)
    chosen = detector.Detector(Settings(profiles_path=profiles), EchoRunner(2))
    monkeypatch.setattr(detector, "_detector", chosen)
    return chosen
