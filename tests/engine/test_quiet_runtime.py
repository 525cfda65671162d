"""The runtime's telemetry, which stores an identifier in the home folder, is disabled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("package", ["speech_qc", "training"])
def test_the_runtime_reports_nothing_to_its_makers(tmp_path, package):
    unwanted = ("ORT_", "XDG_", "CI", "GITHUB_", "PYTEST_")  # with some of them the telemetry would be off anyway
    environment = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"import {package}, onnxruntime"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert list(tmp_path.rglob("*")) == []
