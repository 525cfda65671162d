"""Processes the scores of a step for all of its streams together.

A step scores one chunk of many streams. Thresholds, running totals and JSON need the same arithmetic for each, so they
are computed here in a few NumPy calls per step; only a few integers remain to be checked per stream. Results are
bit-identical whether a block is read alone or together with others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from speech_qc.contract import ModelContract
from speech_qc.scoring.layout import FloatArray, ScoreLayout

SCORE_ONE = 2.0**24
"""Fixed-point unit of scores; a float32 in [0.5, 1] has exactly this resolution, and int64 is enough for 300 years."""

SNR_ONE = 2.0**16
"""Fixed-point unit of dB; finer than the precision of any model."""

FRAME_DECIMALS = 5
"""Decimals of the scores sent to clients; finer than the guaranteed tolerance for the same audio (1e-4)."""


TEXT_FRAMES = 16
"""Maximum frames of a live stream's block; its JSON will be needed, so it is encoded together with the rest."""


class ScoreBlock(NamedTuple):
    """Consecutive frames of one stream, with everything that was computed from them."""

    scores: FloatArray
    """float32 [n, C], finite."""
    shown: FloatArray
    """The scores, with NaN for measures in frames without speech: there is nothing to measure."""
    reached: int
    """Bit c is set if a score of column c reaches its enter threshold."""
    fallen: int
    """Bit c is set if a score of column c is below its exit threshold."""
    highest: list[float] | None
    """Highest score of each column; None without frames."""
    totals: npt.NDArray[np.int64]
    """int64 [n, C + 2], running sums of scores, of speech frames, and of dB over speech frames; fixed point."""
    made_text: list[bytes] | None

    @property
    def frames(self) -> int:
        """Number of frames n."""
        return len(self.scores)

    def text(self) -> list[bytes]:
        """Return the frames as JSON, `0.1,0.2,null` for each column; n >= 1."""
        return _texts(self.shown[None])[0] if self.made_text is None else self.made_text


def _texts(shown: FloatArray) -> list[list[bytes]]:
    """Encode scores [B, n, C], n >= 1, as JSON: one text per column of each stream."""
    columns = np.round(np.ascontiguousarray(shown.transpose(0, 2, 1)), FRAME_DECIMALS)  # [B, C, n]
    streams = orjson.dumps(columns, option=orjson.OPT_SERIALIZE_NUMPY)[3:-3].split(b"]],[[")
    return [stream.split(b"],[") for stream in streams]


@dataclass(frozen=True, slots=True)
class ScoreBatch:
    """Blocks of scores [B, n, C] that were processed together; fields as in `ScoreBlock`."""

    scores: FloatArray
    shown: FloatArray
    reached: npt.NDArray[np.int64]
    fallen: npt.NDArray[np.int64]
    highest: FloatArray | None
    totals: npt.NDArray[np.int64]
    texts: Sequence[list[bytes] | None]

    @classmethod
    def alone(cls, block: ScoreBlock) -> ScoreBatch:
        """Return a step of one channel."""
        return cls(
            block.scores[None], block.shown[None], np.array([block.reached]), np.array([block.fallen]),
            None if block.highest is None else np.array([block.highest], np.float32), block.totals[None],
            [block.made_text],
        )  # fmt: skip

    def chosen(self, places: Sequence[int]) -> ScoreBatch:
        """Return some blocks."""
        return ScoreBatch(
            self.scores[places], self.shown[places], self.reached[places], self.fallen[places],
            None if self.highest is None else self.highest[places], self.totals[places],
            [self.texts[place] for place in places],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[ScoreBlock]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, place: int) -> ScoreBlock:
        """Return one channel's block."""
        return ScoreBlock(
            self.scores[place], self.shown[place], int(self.reached[place]), int(self.fallen[place]),
            None if self.highest is None else self.highest[place].tolist(), self.totals[place], self.texts[place],
        )  # fmt: skip


class ScoreReader:
    """Processes the scores of one model; immutable, can be shared.

    Args:
        contract: The model's contract.

    Raises:
        ContractError: A label that scoring needs is missing.
    """

    def __init__(self, contract: ModelContract) -> None:
        self.layout = layout = ScoreLayout(contract)
        self._speech_enter = layout.enter[layout.speech]
        self._is_measure = np.array([i not in layout.probability_columns for i in range(layout.width)])
        # The columns that are summed: all, those of speech, and dB; of speech there are counts.
        self._summed = np.array([*range(layout.width), layout.speech, layout.snr])
        self._ones = np.array([SCORE_ONE] * (layout.width + 1) + [SNR_ONE], np.float32)
        self._enter = layout.enter.copy()
        self._enter[layout.speech] = np.inf  # speech itself is not a fault
        # The bit of a column without a threshold must stay clear, so no score can be below its exit threshold.
        self._exit = np.where(np.isfinite(self._enter), layout.exit, -np.inf).astype(np.float32)
        self._bits = (1 << np.arange(layout.width)).astype(np.int64)

    def read(self, scores: FloatArray) -> ScoreBatch:
        """Process the scores of a step.

        Args:
            scores: float32 [B, n, C], finite.

        Returns:
            One block per stream.
        """
        batch, frames, width = scores.shape
        speech = scores[:, :, self.layout.speech] >= self._speech_enter  # [B, n]
        shown = scores.copy()
        np.copyto(shown, np.float32(np.nan), where=~speech[:, :, None] & self._is_measure)
        summed = scores.take(self._summed, axis=2)
        np.rint(np.multiply(summed, self._ones, out=summed), out=summed)  # by powers of two: the products are exact
        summed[:, :, width] = speech
        summed[:, :, width + 1] *= speech
        totals = summed.astype(np.int64)
        np.add.accumulate(totals, axis=1, out=totals)
        if not frames:
            none = np.zeros(batch, np.int64)
            return ScoreBatch(scores, shown, none, none, None, totals, [None] * batch)
        highest = np.maximum.reduce(scores, axis=1)
        crossed = np.empty((2, batch, width), np.bool_)
        np.greater_equal(highest, self._enter, out=crossed[0])
        np.less(np.minimum.reduce(scores, axis=1), self._exit, out=crossed[1])
        reached, fallen = crossed @ self._bits
        texts: Sequence[list[bytes] | None] = _texts(shown) if frames <= TEXT_FRAMES else [None] * batch
        return ScoreBatch(scores, shown, reached, fallen, highest, totals, texts)

    def read_one(self, scores: FloatArray) -> ScoreBlock:
        """Process consecutive frames of one stream.

        Args:
            scores: float32 [n, C], finite.
        """
        return self.read(scores[None])[0]
