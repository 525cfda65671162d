"""A runner whose scores encode its input, to test routing, order and state without a model file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speech_qc.contract import LABEL_CATALOG, FeatureSpec, LabelSpec, ModelContract
from speech_qc.engine.protocols import FloatArray

SNR_LOW_DB, SNR_HIGH_DB = -15.0, 45.0  # the range in which snr_db is defined
POSITION_CYCLE_FRAMES = 100  # two seconds; long enough that a lost or repeated chunk is always visible


def echo_contract(lookahead_frames: int = 0, *, version: str = "0.0.0") -> ModelContract:
    """Build the contract of `EchoRunner`: every label except the MOS heads, in catalogue order.

    Args:
        lookahead_frames: Frames by which scores are delayed, as in a model with look-ahead.
        version: Semantic version to declare.
    """
    labels = []
    for name, (family, kind) in LABEL_CATALOG.items():
        if kind == "probability":
            labels.append(LabelSpec(name=name, family=family, kind=kind, enter=0.5, exit=0.35))
        elif kind == "db":
            labels.append(LabelSpec(name=name, family=family, kind=kind, low=SNR_LOW_DB, high=SNR_HIGH_DB))
    return ModelContract(
        name="echo",
        version=version,
        labels=tuple(labels),
        lookahead_frames=lookahead_frames,
        state_size=1 + lookahead_frames * len(labels),
    )


class EchoRunner:
    """A small but real `Runner` in NumPy; stateless apart from the list of warmed shapes.

    The scores of frame k of a stream are as follows. `mean(c)` is the mean of feature column c over the frame's hops,
    and `squash(x) = 1 / (1 + exp(-(x + 10) / 4))` maps log energies to (0, 1).

    - `speech`: squash of the mean of all columns. Loud audio is near 1, digital silence near 0.
    - `tone`: k modulo 100, divided by 100: the position in the stream, counted in the state.
    - `snr_db`: as `speech`, scaled to -15 … 45 dB.
    - any other label in column c: squash(mean(c)), which shows that no two columns were swapped.

    With a look-ahead of L frames, the scores of frame k are returned with frame k + L. The first L outputs of a stream
    are zeros, because a real model's first outputs are unusable. The state is [hops so far, scores of the last L
    frames].

    Args:
        lookahead_frames: L.
        fixed_shapes: Value to declare, to test the engine's padding.
    """

    provider = "EchoProvider"
    provider_fallback = False
    sha256 = "0" * 64

    def __init__(self, lookahead_frames: int = 0, *, fixed_shapes: bool = False) -> None:
        self.contract = echo_contract(lookahead_frames)
        self.fixed_shapes = fixed_shapes
        self.warmed: list[tuple[int, int]] = []
        """(B, T) of every warm-up, in order."""

    def run(self, features: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Echo features float32 [B, T, F] and state float32 [B, S] as scores [B, T / 2, C] and new state."""
        batch, hops, _ = features.shape
        delay = self.contract.lookahead_frames
        late = state[:, 1:].reshape(batch, delay, len(self.contract.labels))  # [B, L, C]
        fresh = self._frame_scores(features, state[:, 0])  # [B, T / 2, C]
        line = np.concatenate([late, fresh], axis=1)  # [B, L + T / 2, C]
        frames = fresh.shape[1]
        kept = line[:, frames:].reshape(batch, -1)  # [B, L * C]
        return line[:, :frames].copy(), np.concatenate([state[:, :1] + np.float32(hops), kept], axis=1)

    def warm_up(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Record the shapes."""
        self.warmed += shapes

    def expected(self, features: FloatArray) -> FloatArray:
        """Score a whole stream [T, F] in one call and without the look-ahead delay, as reference for its chunks."""
        scores: FloatArray = self._frame_scores(features[np.newaxis], np.zeros(1, np.float32))[0]
        return scores

    def _frame_scores(self, features: FloatArray, hops_before: FloatArray) -> FloatArray:
        """Return scores [B, T / 2, C] of the frames in `features`, which begin after `hops_before` [B] hops."""
        spec: FeatureSpec = self.contract.features
        batch, hops, columns = features.shape
        frames = features.reshape(batch, hops // spec.hops_per_frame, spec.hops_per_frame, columns).mean(axis=2)
        scores: FloatArray = _squash(frames[:, :, : len(self.contract.labels)])  # [B, T / 2, C]
        level = _squash(frames.mean(axis=2))  # [B, T / 2]
        position = hops_before[:, np.newaxis] / spec.hops_per_frame + np.arange(frames.shape[1])
        scores[:, :, self.contract.index("speech")] = level
        scores[:, :, self.contract.index("snr_db")] = SNR_LOW_DB + (SNR_HIGH_DB - SNR_LOW_DB) * level
        scores[:, :, self.contract.index("tone")] = position % POSITION_CYCLE_FRAMES / POSITION_CYCLE_FRAMES
        return scores


def _squash(values: FloatArray) -> FloatArray:
    exponent = np.clip((values + 10.0) / -4.0, -80.0, 80.0)  # exp of a float32 overflows at 88
    return np.asarray(1.0 / (1.0 + np.exp(exponent)), np.float32)
