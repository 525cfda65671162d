"""Rates the severity of an event: minor, moderate or severe.

The rating uses rules with named constants instead of a learned score, so that operators can predict it and users can
dispute it. The effect of an event on the listener depends on its cause, and so does the rule:

The limits agree with those of the profile `default`: a disturbance that lasts through the whole recording and is
moderate would warn, a severe one would fail.

- noise, interference and the two headline labels: the talker's level relative to the event. Without a talker, the level
  of the event itself.
- clipping and dropout: the duration, because both destroy the speech that they cover.
- reverberation: the model's score, which reflects how reverberant its training material was.

The severity of an open event is based on its frames so far, so it can rise or fall until the event ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from speech_qc.contract import Family
from speech_qc.scoring.layout import MIN_SPEECH_FRAMES
from speech_qc.wire.vocabulary import Severity

MINOR_ABOVE_SNR_DB = 12.0
"""dB; noise at this distance below the talker is audible but not tiring."""
SEVERE_BELOW_SNR_DB = 6.0
"""dB; below this, listeners with normal hearing need effort and speech recognisers miss words."""

SEVERE_ABOVE_DBFS = -30.0
"""dBFS mean square; as loud as a talker at a usual recording level."""
MODERATE_ABOVE_DBFS = -45.0
"""dBFS mean square; above the background level of a usable room."""

SEVERE_DROPOUT_S = 0.2
"""Seconds; a syllable is lost."""
MODERATE_DROPOUT_S = 0.06
"""Seconds; three packets of 20 ms, more than packet loss concealment hides."""

SEVERE_CLIPPING_S = 1.0
"""Seconds; a whole phrase is overloaded, so the gain is wrong."""
MODERATE_CLIPPING_S = 0.2
"""Seconds; a syllable is overloaded."""

SEVERE_REVERBERATION_SCORE = 0.85
"""Mean score from which the room is assumed to smear words."""
MODERATE_REVERBERATION_SCORE = 0.78
"""Mean score from which the room is clearly audible."""

_LONGER_THAN: dict[str, tuple[float, float]] = {
    "dropout": (SEVERE_DROPOUT_S, MODERATE_DROPOUT_S),
    "clipping": (SEVERE_CLIPPING_S, MODERATE_CLIPPING_S),
}


@dataclass(frozen=True, slots=True)
class EventMeasures:
    """Measurements of an event at the time of rating.

    Args:
        duration_s: Seconds from onset to offset, or so far.
        score_mean: Mean of the event's own label.
        speech_frames: Frames of the event that contain speech.
        snr_db: Mean `snr_db` over those frames; None if there are none.
        level_dbfs: Mean power over all frames of the event.
    """

    duration_s: float
    score_mean: float
    speech_frames: int
    snr_db: float | None
    level_dbfs: float


def rate(label: str, family: Family, measures: EventMeasures) -> Severity:
    """Rate an event by the rule for its cause.

    Args:
        label: The event's label.
        family: The label's family.
        measures: Measurements of the event.
    """
    if family == "impairment":
        if label in _LONGER_THAN:
            severe, moderate = _LONGER_THAN[label]
            # Frame times are multiples of the hop; rounding makes 10 frames of 20 ms exactly 0.2 s.
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
