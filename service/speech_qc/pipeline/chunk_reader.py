"""Reads what the engine computed of a step's chunks, before sessions take it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.features import frame_levels_dbfs
from speech_qc.contract import ModelContract
from speech_qc.scoring import ScoreBatch, ScoreBlock, ScoreReader

Float32 = NDArray[np.float32]


class ChunkReading(NamedTuple):
    """The readings of one chunk and its scores."""

    block: ScoreBlock
    level_dbfs: Float32
    """Levels of the chunk's own frames (n,), without those of the look-ahead before them."""


@dataclass(frozen=True, slots=True)
class ChunkReadings:
    """The readings of the chunks of a step; iterates over the chunks."""

    blocks: ScoreBatch
    levels_dbfs: Float32
    """(B, n)."""

    def __iter__(self) -> Iterator[ChunkReading]:
        return map(ChunkReading, self.blocks, self.levels_dbfs)


class ChunkReader:
    """Reads the chunks of a step, all streams in one call; serves as the engine's `read_out`.

    Args:
        contract: Contract of the engine's model.
    """

    def __init__(self, contract: ModelContract) -> None:
        self.scores = ScoreReader(contract)
        self._spec = contract.features

    def __call__(self, samples: Float32, scores: Float32) -> ChunkReadings:
        """Read the chunks of a step.

        Args:
            samples: float32 (B, hops * hop + overlap), finite.
            scores: float32 (B, hops / 2, C), finite.
        """
        own = scores.shape[1] * self._spec.frame_samples
        return ChunkReadings(self.scores.read(scores), frame_levels_dbfs(samples[:, :own], self._spec))
