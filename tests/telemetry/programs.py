"""Optional programs: run if installed, else the test is skipped with the reason."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def program(name: str) -> str:
    """Return the path of a program, or skip the test."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian and Ubuntu: apt-get install prometheus)")
    return path


def run(name: str, *words: str) -> str:
    """Run a program; return its output, or fail the test with it."""
    done = subprocess.run([program(name), *words], capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
