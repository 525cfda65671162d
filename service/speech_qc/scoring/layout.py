"""The meaning of the columns of a score block, computed once per contract and shared by events and summary.

All consumers of scores use the same float32 thresholds and reject the same malformed blocks. With separate code, a
frame could count as noisy in the summary but not in the events. Independent of how scores are computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from speech_qc.contract import REQUIRED_LABELS, Family, ModelContract
from speech_qc.errors import ContractError, InferenceError

FloatArray = npt.NDArray[np.float32]
"""Scores [n, C] or levels [n]."""

LEVEL_FLOOR_DBFS = -120.0
"""dBFS; digital silence is reported at this level, so that power is never zero."""

MIN_JUDGED_S = 0.5
"""Seconds; a shorter recording contains a word or two, too little to judge."""

MIN_SPEECH_FRAMES = 5
"""Frames (0.1 s); speech in fewer frames is as likely a false alarm as a talker, so it is not measured."""

_POWER_EXPONENT = np.float64(math.log(10.0) / 10.0)
"""exp(level · this) = 10^(level / 10); a NumPy scalar, so that float32 levels are computed in float64."""


def power_of(level_db: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Convert decibels to power ratios, in float64.

    Args:
        level_db: Any shape, dB.
    """
    power: npt.NDArray[np.float64] = np.exp(level_db * _POWER_EXPONENT)
    return power


def frames_reaching(seconds: float, hop_s: float) -> int:
    """Count the frames that together last at least `seconds`.

    Rounds before taking the ceiling: 0.14 s at 0.02 s is 7 frames, although 0.14 / 0.02 is 7.000000000000001 in
    floating point.
    """
    return math.ceil(round(seconds / hop_s, 6))


class ScoreLayout:
    """Columns, families and thresholds of one contract's scores; immutable, can be shared between streams.

    Args:
        contract: The model's contract; its labels are the columns, in order.

    Raises:
        ContractError: A label that events and summary need is missing.
    """

    __slots__ = (
        "contract",
        "enter",
        "exit",
        "families",
        "interference",
        "names",
        "noise",
        "probability_columns",
        "snr",
        "speech",
        "spoken",
        "width",
    )

    def __init__(self, contract: ModelContract) -> None:
        missing = [name for name in REQUIRED_LABELS if not contract.has(name)]
        if missing:
            raise ContractError(
                f"scoring needs the labels {', '.join(REQUIRED_LABELS)}; model {contract.name!r} lacks "
                f"{', '.join(missing)}; export it with these heads",
                missing=missing,
            )
        self.contract = contract
        self.names: Sequence[str] = contract.label_names
        self.families: Sequence[Family] = tuple(label.family for label in contract.labels)
        self.width = len(self.names)
        self.speech = contract.index("speech")
        self.noise = contract.index("noise")
        self.interference = contract.index("interference")
        self.snr = contract.index("snr_db")
        self.probability_columns = tuple(i for i, label in enumerate(contract.labels) if label.kind == "probability")
        # Heads that are not probabilities get unreachable thresholds.
        self.enter: FloatArray = np.full(self.width, np.inf, np.float32)
        self.exit: FloatArray = np.full(self.width, np.inf, np.float32)
        for column in self.probability_columns:
            self.enter[column] = contract.labels[column].enter
            self.exit[column] = contract.labels[column].exit

        # Only speech shows reverberation: what the model says of it on a silent line means nothing.
        self.spoken: Sequence[int] = (contract.index("reverberation"),) if contract.has("reverberation") else ()
        """Columns whose events begin in speech."""

    def begins(self, column: int, scores: FloatArray) -> npt.NDArray[np.bool_]:
        """Return in which frames, [...], an event of a column may begin; `scores` are float32 [..., C]."""
        up: npt.NDArray[np.bool_] = scores[..., column] >= self.enter[column]
        if column in self.spoken:
            up &= scores[..., self.speech] >= self.enter[self.speech]
        return up

    def check_block(self, scores: FloatArray, level_dbfs: FloatArray) -> int:
        """Reject a block that a model with this contract cannot produce.

        Args:
            scores: float32 [n, C], n >= 0.
            level_dbfs: float32 [n], dBFS.

        Returns:
            The number of frames n.

        Raises:
            InferenceError: Wrong shape, wrong type, or a value that is not finite.
        """
        n = len(scores)
        if scores.shape != (n, self.width) or level_dbfs.shape != (n,):
            raise InferenceError(
                f"expected scores [n, {self.width}] and level_dbfs [n], got {list(scores.shape)} and "
                f"{list(level_dbfs.shape)}; pass one column per label of the contract and one level per frame"
            )
        if scores.dtype != np.float32 or level_dbfs.dtype != np.float32:
            # A float64 score of 0.3 is below a float32 threshold of 0.3, so other types would change events.
            raise InferenceError(
                f"expected float32 scores and levels, got {scores.dtype} and {level_dbfs.dtype}; "
                "convert with astype(np.float32)"
            )
        # Checking the sum is sufficient, at a third of the cost of checking each value.
        if not (math.isfinite(scores.sum()) and math.isfinite(level_dbfs.sum())):
            raise InferenceError(
                "expected finite scores and levels, got NaN or infinity; the model or its input is broken"
            )
        return n
