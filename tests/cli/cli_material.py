"""Recordings, profiles and a model for command-line tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from speech_qc.cli.main import main
from speech_qc.cli.seams import Seams
from speech_qc.engine import EchoRunner

RATE_HZ = 16_000
PROFILES = """
profiles:
  default:
    limits: {snr_db: {fail_below: -99}}
  warns:
    limits: {peak_dbfs: {warn_above: -199}}
  fails:
    limits: {peak_dbfs: {fail_above: -199}}
"""
"""Profiles whose verdict depends only on the presence of speech, not on a model."""


def noise(seconds: float, *, level: float = 0.2, seed: int = 1) -> NDArray[np.float32]:
    """Return white noise, which the echo model scores as speech, float32 (n,)."""
    return np.random.default_rng(seed).normal(0, level, round(seconds * RATE_HZ)).clip(-1, 1).astype(np.float32)


def write(path: Path, samples: NDArray[np.float32], rate_hz: int = RATE_HZ, kind: str | None = None) -> Path:
    """Write a recording, and create its folders; the format is that of the extension, unless it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, format=kind)
    return path


def echo_seams() -> Seams:
    """Seams with the echo model."""
    return Seams(make_runner=lambda _: EchoRunner(2))


def run(*arguments: str | Path) -> int:
    """Run a command with the echo model."""
    return main([str(argument) for argument in arguments], seams=echo_seams())
