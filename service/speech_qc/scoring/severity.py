"""How bad an event is: minor, moderate or severe.

A rule with named constants rather than a learned score, so that an operator can predict it and a user can argue
with it. What an event costs the listener depends on its cause:

- noise, interference and the two headline labels: how far the talker stands above it. With no talker to compare with,
  how loud it is.
- clipping and dropout: how long it lasts, for either destroys what is under it.
- reverberation: how sure the model is, which follows how reverberant its training material was.

While an event is open its severity is what the frames so far say, so it can rise or fall until the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from speech_qc.contract import Family
from speech_qc.scoring.layout import MIN_SPEECH_FRAMES
from speech_qc.wire.vocabulary import Severity

MINOR_ABOVE_SNR_DB = 20.0
"""dB; noise this far below the talker is heard but does not tire."""
SEVERE_BELOW_SNR_DB = 10.0
"""dB; from here down listeners with normal hearing need effort and recognisers lose words."""

SEVERE_ABOVE_DBFS = -30.0
"""dBFS mean square; as loud as a talker at a usual recording level."""
MODERATE_ABOVE_DBFS = -45.0
"""dBFS mean square; above the rest level of a usable room."""

SEVERE_DROPOUT_S = 0.2
"""Seconds; a syllable is gone."""
MODERATE_DROPOUT_S = 0.06
"""Seconds; three packets of 20 ms, more than concealment hides."""

SEVERE_CLIPPING_S = 1.0
"""Seconds; a whole phrase is overloaded, the gain is set wrong."""
MODERATE_CLIPPING_S = 0.2
"""Seconds; a syllable is overloaded."""

SEVERE_REVERBERATION_SCORE = 0.85
"""Mean score from which the room is taken to smear words."""
MODERATE_REVERBERATION_SCORE = 0.65
"""Mean score from which the room is clearly heard."""

_LONGER_THAN: dict[str, tuple[float, float]] = {
    "dropout": (SEVERE_DROPOUT_S, MODERATE_DROPOUT_S),
    "clipping": (SEVERE_CLIPPING_S, MODERATE_CLIPPING_S),
}


@dataclass(frozen=True, slots=True)
class EventMeasures:
    """What is known of an event when it is rated.

    Args:
        duration_s: Seconds from onset to offset, or so far.
        score_mean: Mean of the event's own label.
        speech_frames: Frames of the event that hold speech.
        snr_db: Mean `snr_db` over those frames; None when there are none.
        level_dbfs: Mean power over all frames of the event.
    """

    duration_s: float
    score_mean: float
    speech_frames: int
    snr_db: float | None
    level_dbfs: float


def rate(label: str, family: Family, measures: EventMeasures) -> Severity:
    """Rate an event by the rule of its cause.

    Args:
        label: The event's label.
        family: The label's family.
        measures: What is known of the event.
    """
    if family == "impairment":
        if label in _LONGER_THAN:
            severe, moderate = _LONGER_THAN[label]
            # Frame times are multiples of the hop: rounding keeps 10 frames of 20 ms at 0.2 s, not 0.2 minus one bit.
            return _at_least(round(measures.duration_s, 6), severe, moderate)
        return _at_least(measures.score_mean, SEVERE_REVERBERATION_SCORE, MODERATE_REVERBERATION_SCORE)
    if measures.snr_db is not None and measures.speech_frames >= MIN_SPEECH_FRAMES:
        if measures.snr_db < SEVERE_BELOW_SNR_DB:
            return "severe"
        return "minor" if measures.snr_db > MINOR_ABOVE_SNR_DB else "moderate"
    if measures.level_dbfs > SEVERE_ABOVE_DBFS:
        return "severe"
    return "moderate" if measures.level_dbfs > MODERATE_ABOVE_DBFS else "minor"


def _at_least(value: float, severe: float, moderate: float) -> Severity:
    if value >= severe:
        return "severe"
    return "moderate" if value >= moderate else "minor"
