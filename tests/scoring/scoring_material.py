"""Contracts and scores for the tests in this folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from speech_qc.contract import LABEL_CATALOG, LabelSpec, ModelContract

FloatArray = npt.NDArray[np.float32]


def make_contract(labels: Sequence[str] = tuple(LABEL_CATALOG), **overrides: dict[str, Any]) -> ModelContract:
    """Return a contract with these labels; by default enter 0.6, exit 0.4, at least 0.1 s, gaps under 0.2 s merged."""
    specs = []
    for name in labels:
        family, kind = LABEL_CATALOG[name]
        rule: dict[str, Any] = {
            "probability": {"enter": 0.6, "exit": 0.4},
            "db": {"low": -15.0, "high": 45.0},
            "mos": {"low": 1.0, "high": 5.0},
        }[kind]
        specs.append(LabelSpec(name=name, family=family, kind=kind, **(rule | overrides.get(name, {}))))
    return ModelContract(name="test", version="1.0.0", labels=tuple(specs), lookahead_frames=4, state_size=8)


def quiet(contract: ModelContract, frames: int, level_dbfs: float = -60.0) -> tuple[FloatArray, FloatArray]:
    """Return scores without events, and matching levels."""
    scores = np.zeros((frames, len(contract.labels)), np.float32)
    for column, label in enumerate(contract.labels):
        if label.kind != "probability":
            scores[:, column] = (label.low + label.high) / 2
    return scores, np.full(frames, level_dbfs, np.float32)


def cut(length: int, sizes: Sequence[int]) -> list[slice]:
    """Return slices that cover `length`, with these sizes repeated cyclically; a size of 0 gives an empty slice."""
    slices, start, turn = [], 0, 0
    while start < length:
        size = sizes[turn % len(sizes)] if any(sizes) else length
        slices.append(slice(start, min(start + size, length)))
        start, turn = slices[-1].stop, turn + 1
    return slices
