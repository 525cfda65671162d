"""Keep the part of the sound that evidence needs: the mel power of every 20 ms, in half precision and bounded.

The rows come from the model's own front end, one chunk at a time, so that nothing has to be decoded twice and no sample
is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.features import FrontEnd
from speech_qc.contract import FeatureSpec

Float16 = NDArray[np.float16]
Float32 = NDArray[np.float32]

MAX_FRAMES = 180_000
"""Limit per recording, all channels together: one hour, 23 MB; for a stereo recording, half an hour."""

_NEPER_DB = 10.0 / np.log(10.0)  # from the front end's natural log of power


class SpectrumKeeper:
    """Mel power of one channel; owned by one task.

    Args:
        front_end: Front end of the model's contract; may be shared.
        max_frames: Maximum number of frames kept; later ones are dropped.
    """

    def __init__(self, front_end: FrontEnd, max_frames: int = MAX_FRAMES) -> None:
        self._front_end, self._room = front_end, max_frames
        self._blocks: list[Float16] = []

    def add(self, samples: Float32) -> None:
        """Add the next chunk as cut by the session, float32 (hops * hop + overlap,); hops must be whole frames."""
        if self._room <= 0:
            return
        spec = self._front_end.spec
        rows = self._front_end(samples[None])[0, :, : spec.mel_bands]  # (T, bands), ln of power
        block = frame_power_db(rows, spec)[: self._room]
        self._blocks.append(block.astype(np.float16))  # steps of at most 0.06 dB, which are not visible
        self._room -= len(block)

    def kept(self) -> Float16:
        """Everything so far, float16 (n, bands), dB; a full-scale sine is about 0."""
        if not self._blocks:
            return np.zeros((0, self._front_end.spec.mel_bands), np.float16)
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0]


def frame_power_db(rows: Float32, spec: FeatureSpec) -> Float32:
    """Mean power of each frame's hops.

    Args:
        rows: Log-mel rows, float32 (n * hops_per_frame, bands).
        spec: Gives the hops per frame.

    Returns:
        float32 (n, bands), dB.
    """
    power = np.exp(rows).reshape(-1, spec.hops_per_frame, rows.shape[1]).mean(axis=1)
    return np.asarray(np.log(power) * _NEPER_DB, np.float32)
