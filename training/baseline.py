"""The energy baseline: scores that a detector must beat, computed causally from the same feature rows.

It has no training and no thresholds. Each label gets one number per frame that grows with the label's likelihood, so
its AUROC compares with the detector's. Reverberation has no such number.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from speech_qc.contract import WAVEFORM_COLUMNS, FeatureSpec

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

FLOOR_WINDOW_S = 0.5  # pauses between syllables are closer than this, so the quietest frame in it is mostly background
FLOOR_LABELS = (
    "noise",
    "interference",
    "stationary_noise",
    "transient_noise",
    "interfering_speech",
    "music",
    "tone",
)
"""Labels whose baseline is the level of the background, which is what remains when the talker pauses."""


def frame_level_db(features: Float32, spec: FeatureSpec) -> Float64:
    """Return the level of each frame from the energy column, dBFS, (N, T / 2)."""
    energy = np.exp(_column(features, spec, "log_energy").astype(np.float64))
    return np.asarray(10.0 * np.log10(energy.mean(axis=2)))


def trailing_minimum(level_db: Float64, frames: int) -> Float64:
    """Return the lowest level of the last `frames` frames, the current one included; the window is shorter at first."""
    padded = np.pad(level_db, ((0, 0), (frames - 1, 0)), constant_values=np.inf)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, frames, axis=1).min(axis=2))


def energy_scores(features: Float32, spec: FeatureSpec | None = None) -> Mapping[str, Float64]:
    """Score every label for which energy is informative.

    Args:
        features: float32 (N, T, F), whole sequences from their start.
        spec: Layout of the columns.

    Returns:
        Label to (N, T / 2), without look-ahead: `speech` is the frame's level; noise, interference and their causes
        are the floor (trailing minimum of the level); `clipping` adds the shares of samples at the rails and within
        5 % of the hop's peak; `dropout` is the longest run of digital zero; `snr_db` is level minus floor.
    """
    spec = spec or FeatureSpec()
    level = frame_level_db(features, spec)
    floor = trailing_minimum(level, round(FLOOR_WINDOW_S / spec.frame_hop_s))
    rails = _column(features, spec, "rail_ratio") + _column(features, spec, "flat_top_ratio")
    scores = dict.fromkeys(FLOOR_LABELS, floor)
    scores["speech"] = level
    scores["clipping"] = rails.mean(axis=2).astype(np.float64)
    scores["dropout"] = _column(features, spec, "zero_run").max(axis=2).astype(np.float64)
    scores["snr_db"] = level - floor
    return scores


def _column(features: Float32, spec: FeatureSpec, name: str) -> Float32:
    """One waveform column by frames, (N, T / 2, hops per frame)."""
    values = features[..., spec.mel_bands + WAVEFORM_COLUMNS.index(name)]
    return values.reshape(values.shape[0], -1, spec.hops_per_frame)
