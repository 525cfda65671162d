"""Opinion scores by DistillMOS, kept in a folder so that each clip is scored once.

Requires the packages `distillmos` and `xls-r-sqa` and PyTorch for clips that the folder does not have.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.mos_teacher import distillmos_model


class DistillMosScores:
    """Scores clips of up to 7.68 s at 16 kHz.

    Args:
        folder: Folder of the stored scores; created if it does not exist.
        bfloat16: Compute in bfloat16: several times as fast on processors with AMX, and up to 0.02 off.
    """

    def __init__(self, folder: Path, *, bfloat16: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "distillmos.csv"
        self._scores: dict[str, float] = {}
        if self._path.exists():
            rows = (line.split(",") for line in self._path.read_text(encoding="ascii").splitlines())
            self._scores = {row[0]: float(row[1]) for row in rows if len(row) == 2}
        self._model: Any = None
        self._bfloat16 = bfloat16

    def score(self, samples: NDArray[np.float32]) -> float:
        """Return the score of a clip, 1 to 5."""
        key = hashlib.sha256(np.ascontiguousarray(samples, np.float32).tobytes()).hexdigest()[:24]
        if key not in self._scores:
            self._scores[key] = self._ask(samples)
            with self._path.open("a", encoding="ascii") as file:
                file.write(f"{key},{self._scores[key]:.4f}\n")
        return self._scores[key]

    def _ask(self, samples: NDArray[np.float32]) -> float:
        import torch

        if self._model is None:
            torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
            self._model = distillmos_model()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bfloat16):
            return float(self._model(torch.from_numpy(np.asarray(samples, np.float32)[None])))
