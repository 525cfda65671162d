"""The meaning of every label, defined per frame by the energies of separate stems.

A change here changes what the product's scores mean. All energies are mean squares per 20 ms frame, full scale = 1.
A target is 1, 0, or masked where listeners would disagree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

FRAMES_PER_S = 50
SMOOTH_FRAMES = 11  # 220 ms, about the span over which loudness is integrated

SPEECH_RANGE_DB = 35.0  # a speech frame is within this of the stem's own 95th percentile …
SPEECH_FLOOR_DBFS = -65.0  # … and above this
SPEECH_GAP_FRAMES = 3  # gaps up to 60 ms (stop closures) count as speech

PRESENT_BELOW_SPEECH_DB = 28.0  # a source frame less than this below the active speech is audible …
PRESENT_DBFS = -58.0  # … if its 220 ms mean is above this, without speech or if the speech is loud …
FAINTEST_DBFS = -74.0  # … and above this in speech however soft, so that a lower gain does not hide a disturbance
ABSENT_BELOW_SPEECH_DB = 40.0  # a 220 ms mean more than this below the speech is inaudible …
ABSENT_DBFS = -68.0  # … and, without speech, one below this

SNR_LOW_DB, SNR_HIGH_DB = -15.0, 45.0

REVERBERANT_C50_DB = 4.0  # clarity below this is strongly reverberant
DRY_C50_DB = 14.0  # clarity above this is dry

CLIPPED_SHARE = 0.01  # share of a frame's samples beyond the rail that is audible
LOST_SHARE = 0.5  # share of a frame covered by a lost packet
LOSS_AUDIBLE_DBFS = -60.0  # a loss is audible only if the lost sound was louder than this …
LOSS_AUDIBLE_BELOW_SPEECH_DB = 30.0  # … and at most this far below the speech; otherwise it passes for a pause

ORDERED_TALKERS_DB = 5.0  # a talker weaker by at least this is the second one even where the first is silent
TALKER_KNOWN_FRAMES = 25  # 0.5 s of the first talker; before that, it is unknown which of two is the main one
NEW_VOICE_FRAMES = 10  # 0.2 s; a second talker who begins cannot be told from the first one sooner

SHUT_GAP_FRAMES = 50  # 1 s; whether a disturbance goes on behind a gate that is shut for so long is undecided

TEACHER_SURE = (0.3, 0.7)  # between these probabilities, the VAD teacher is unsure whether somebody speaks

ENERGY_FLOOR = 1e-12


def frame_energy(samples: NDArray[np.float32], frame_samples: int) -> Float64:
    """Return the mean square of each whole frame, (n,)."""
    count = len(samples) // frame_samples
    frames = samples[: count * frame_samples].reshape(count, frame_samples).astype(np.float64)
    return np.asarray(np.square(frames).mean(axis=1))


def to_db(energy: Float64) -> Float64:
    """Convert energy to dBFS; silence is -120."""
    return np.asarray(10.0 * np.log10(np.maximum(energy, ENERGY_FLOOR)))


def smooth(energy: Float64) -> Float64:
    """Return the centred moving mean over `SMOOTH_FRAMES` frames; the window is shorter at the edges."""
    if energy.size == 0:
        return energy
    half = SMOOTH_FRAMES // 2
    total = np.concatenate([[0.0], np.cumsum(energy)])
    index = np.arange(energy.size)
    low, high = np.maximum(0, index - half), np.minimum(energy.size, index + half + 1)
    return np.asarray((total[high] - total[low]) / (high - low))


def speech_activity(energy: Float64) -> Bool:
    """Mark the frames in which the talker of a clean stem speaks.

    Args:
        energy: Frame energies of the dry stem at its level in the mixture.
    """
    level = to_db(energy)
    sounding = level[level > SPEECH_FLOOR_DBFS]
    if sounding.size == 0:
        return np.zeros(energy.size, dtype=bool)
    top = np.percentile(sounding, 95)
    active = (level > top - SPEECH_RANGE_DB) & (level > SPEECH_FLOOR_DBFS)
    return close_gaps(active, SPEECH_GAP_FRAMES)


def taught_speech(probability: Float64) -> tuple[Bool, Bool]:
    """Return where a VAD teacher hears speech, and where it is unsure, from its probability per frame."""
    unsure = (probability > TEACHER_SURE[0]) & (probability < TEACHER_SURE[1])
    return probability >= TEACHER_SURE[1], unsure


def close_gaps(active: Bool, longest: int) -> Bool:
    """Fill inner gaps of at most `longest` frames."""
    closed = active.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], active, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    for stop, start in zip(stops[:-1], starts[1:], strict=True):
        if start - stop <= longest:
            closed[stop:start] = True
    return closed


def active_level_db(energy: Float64, active: Bool) -> float | None:
    """Return the mean level of the active frames, dBFS; None if there are none."""
    if not active.any():
        return None
    return float(to_db(np.asarray([energy[active].mean()]))[0])


def presence(energy: Float64, speech_level_db: float | None) -> tuple[Bool, Bool]:
    """Decide for each frame whether a source is audible.

    Args:
        energy: Frame energies of the source's stem in the mixture.
        speech_level_db: Active speech level of the clip; None without speech.

    Returns:
        (audible, inaudible); a frame that is neither is masked.
    """
    frame_db, mean_db = to_db(energy), to_db(smooth(energy))
    if speech_level_db is None:
        audible = (mean_db > PRESENT_DBFS) & (frame_db > ABSENT_DBFS)
        inaudible = mean_db < ABSENT_DBFS
    else:
        least_db = speech_level_db - PRESENT_BELOW_SPEECH_DB
        audible = (mean_db > min(PRESENT_DBFS, max(least_db, FAINTEST_DBFS))) & (frame_db > least_db)
        inaudible = mean_db < max(speech_level_db - ABSENT_BELOW_SPEECH_DB, FAINTEST_DBFS - 6.0)
    return audible, inaudible & ~audible


def undecided_gaps(audible: Bool, longest: int) -> Bool:
    """Mark the gaps of at most `longest` frames between audible frames: one incident with or without them."""
    return close_gaps(audible, longest) & ~audible


def beginnings(audible: Bool, frames: int) -> Bool:
    """Mark the first `frames` frames of each run of audible ones."""
    runs = np.flatnonzero(np.diff(np.concatenate([[False], audible]).astype(np.int8)) == 1)
    marked = np.zeros(audible.size, dtype=bool)
    for start in runs:
        marked[start : start + frames] = True
    return marked & audible


def known_talker(active: Bool) -> Bool:
    """Mark the frames from which a listener knows the talker well enough to distinguish another voice."""
    return np.asarray(np.cumsum(active) >= TALKER_KNOWN_FRAMES)


def snr_db(speech_energy: Float64, other_energy: Float64) -> Float64:
    """Return the ratio of 220 ms mean energies, clipped to the label's range."""
    ratio = to_db(smooth(speech_energy)) - to_db(smooth(other_energy))
    return np.asarray(np.clip(ratio, SNR_LOW_DB, SNR_HIGH_DB))


def speech_shares(speech: Float64, other: Float64) -> tuple[Float64, Bool]:
    """Return the share of speech in the power of each band, and where there is any sound to share.

    Args:
        speech: Band powers of the speech per frame, (n, bands).
        other: Those of everything else.

    Returns:
        Shares of 220 ms means, as in `snr_db`, (n, bands) each.
    """
    of_speech, of_all = (np.stack([smooth(band) for band in power.T], axis=1) for power in (speech, speech + other))
    return of_speech / np.maximum(of_all, ENERGY_FLOOR), of_all > ENERGY_FLOOR


@dataclass(frozen=True, slots=True)
class FrameTarget:
    """Target of one label: value (n,), and mask (n,), True where the loss counts."""

    value: Float64
    mask: Bool


def ternary(yes: Bool, no: Bool) -> FrameTarget:
    """Return a target that is 1 where `yes`, else 0 where `no`, and masked elsewhere."""
    return FrameTarget(yes.astype(np.float64), yes | no)


def share_target(share: Float64, threshold: float) -> FrameTarget:
    """Return 1 where the affected share of a frame reaches the threshold, 0 where it is zero, masked in between."""
    return ternary(share >= threshold, share <= 0.0)


def reverberation(active: Bool, c50_db: float | None) -> FrameTarget:
    """Return the target of strong reverberation in speech frames, from the clarity of the room's impulse response."""
    wet = c50_db is not None and c50_db < REVERBERANT_C50_DB
    dry = c50_db is None or c50_db > DRY_C50_DB
    return FrameTarget(np.full(active.size, float(wet)), active & (wet or dry))


def clarity_c50_db(response: NDArray[np.float32], rate_hz: int) -> float:
    """Return the clarity C50: energy of the first 50 ms of an impulse response over the rest, dB (ISO 3382-1)."""
    energy = np.square(response.astype(np.float64))
    start = int(np.argmax(energy))
    split = start + int(0.05 * rate_hz)
    early, late = energy[:split].sum(), energy[split:].sum()
    return float(10.0 * np.log10(max(early, ENERGY_FLOOR) / max(late, ENERGY_FLOOR)))
