"""Programs that some machines have: run where they are there, skipped with the reason elsewhere."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def program(name: str) -> str:
    """Path of a program, or the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt-get install prometheus)")
    return path


def run(name: str, *words: str) -> str:
    """Run it; what it says, or the test fails with that."""
    done = subprocess.run([program(name), *words], capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
