"""The evidence for an event, in figures that a person can check by ear and on a spectrogram.

Band and level come from the sound, kind and SNR from the scores. A value that cannot be determined is None, with the
reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_qc.contract import ModelContract
from speech_qc.pipeline.explain.band import Band, BandFinder
from speech_qc.scoring import Event

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MAX_EVENTS = 2_000
"""Maximum number of events explained per channel; each costs about a millisecond."""
MAX_INSIDE_FRAMES = 1_500
"""A longer event is represented by at most this many of its frames, evenly spaced."""
QUIET_SCORE = 0.1
"""The floor around an event is measured where both its label and its headline score less than this."""
MIN_FLOOR_FRAMES = 15
SUDDEN_FRAMES = 10
"""Events shorter than 0.2 s contain no pause of the speech, so they are measured as sudden ones."""
SILENCE_DB = -97.0
"""A mel band this quiet contains digital silence: the front end adds -100 dB."""

REASONS = {
    "impairment": "an impairment of the line has no band",
    "late": "beyond the part of the recording that is kept for evidence",
    "many": f"only the first {MAX_EVENTS} events of a channel are explained",
    "no_floor": "no audio without the event is near enough for a comparison",
    "silence": "the surrounding sound is digital silence, which is not a floor",
    "no_speech": "the event contains no speech",
    "no_kind": "this model has no labels for kinds of this event",
}


@dataclass(frozen=True, slots=True)
class _View:
    """How to reduce an event and the floor around it to one spectrum each."""

    reach_frames: int
    guard_frames: int
    inside_percentile: float
    floor_percentile: float


# Lasting sounds are measured in the pauses of the speech: low percentiles exclude speech, inside and around.
_LASTING = _View(300, 10, 10.0, 15.0)
# A knock ends before the next pause: compare its louder frames with the median of nearby ones.
_SUDDEN = _View(50, 2, 75.0, 50.0)
# Losses and overload affect the speech, so they are measured with it.
_IMPAIRMENT = _View(50, 2, 50.0, 50.0)


@dataclass(frozen=True, slots=True)
class Evidence:
    """The evidence for one event.

    Attributes:
        band: Its frequencies.
        over_floor_db: Level in that band relative to the surrounding floor; over all bands for impairments.
        snr_db: Mean over its speech frames.
        kind: The closest kind of sound. For a headline, it is the cause of its family with the highest mean score; for
            other events, their own label.
        kind_score: Mean score of the kind.
        unknown: The reason for each value that is None.
    """

    band: Band | None
    over_floor_db: float | None
    snr_db: float | None
    kind: str | None
    kind_score: float | None
    unknown: dict[str, str] = field(default_factory=dict)


class Explainer:
    """Explains the events of recordings; immutable, safe to share.

    Args:
        contract: Contract of the model that found the events.
    """

    def __init__(self, contract: ModelContract) -> None:
        self._contract = contract
        self._finder = BandFinder(contract.features)
        self._snr = contract.index("snr_db")

    def explain(self, events: Sequence[Event], frames: Float32, power_db: NDArray[Any]) -> list[Evidence]:
        """Return the evidence for each event of a channel that has ended.

        Args:
            events: Closed events.
            frames: Scores of the channel, float32 (M, C), measures are NaN where there is nothing to measure.
            power_db: What a `SpectrumKeeper` kept of the channel, (n, bands); n may be less than M, or slightly more.
        """
        return [
            self._evidence(event, frames, power_db[: len(frames)], explained=number < MAX_EVENTS)
            for number, event in enumerate(events)
        ]

    def _evidence(self, event: Event, frames: Float32, power_db: NDArray[Any], *, explained: bool) -> Evidence:
        onset, offset = event.onset_frame, len(frames) if event.offset_frame is None else event.offset_frame
        unknown: dict[str, str] = {}
        band, over_floor_db = None, None
        if not explained or offset > len(power_db):
            unknown |= dict.fromkeys(("band", "over_floor_db"), REASONS["late" if explained else "many"])
        else:
            band, over_floor_db = self._sound(event, onset, offset, frames, power_db, unknown)
        snr = frames[onset:offset, self._snr]
        known = snr[np.isfinite(snr)]
        if not known.size:
            unknown["snr_db"] = REASONS["no_speech"]
        kind, kind_score = self._kind(event, frames[onset:offset])
        if kind is None:
            unknown |= dict.fromkeys(("kind", "kind_score"), REASONS["no_kind"])
        snr_db = float(known.mean(dtype=np.float64)) if known.size else None
        return Evidence(band, over_floor_db, snr_db, kind, kind_score, unknown)

    def _sound(
        self, event: Event, onset: int, offset: int, frames: Float32, power_db: NDArray[Any], unknown: dict[str, str]
    ) -> tuple[Band | None, float | None]:
        """Return band and level; if one is missing, add the reason to `unknown`."""
        impaired = event.family == "impairment"
        view = _IMPAIRMENT if impaired else _SUDDEN if offset - onset < SUDDEN_FRAMES else _LASTING
        step = -(-(offset - onset) // MAX_INSIDE_FRAMES)
        inside_db = _percentile(power_db[onset:offset:step], view.inside_percentile)
        around = self._around(event, onset, offset, frames[: len(power_db)], view)
        floor_db = _percentile(power_db[around], view.floor_percentile) if len(around) >= MIN_FLOOR_FRAMES else None
        if impaired:
            unknown["band"] = REASONS["impairment"]
            band, bands = None, slice(None)
        else:
            band, bands = self._finder.find(inside_db, floor_db)
            if band.against == "itself":
                floor_db = None
        if floor_db is None:
            unknown["over_floor_db"] = REASONS["no_floor"]
            return band, None
        if floor_db[bands].max() <= SILENCE_DB:
            unknown["over_floor_db"] = REASONS["silence"]
            return band, None
        return band, _level_db(inside_db[bands]) - _level_db(floor_db[bands])

    def _around(self, event: Event, onset: int, offset: int, frames: Float32, view: _View) -> NDArray[np.intp]:
        """Return the frames near the event in which neither its label nor its headline was detected."""
        columns = [self._contract.index(event.label)]
        if event.family in ("noise", "interference"):  # the headline has the name of the family
            columns.append(self._contract.index(event.family))
        before = np.arange(max(0, onset - view.reach_frames), max(0, onset - view.guard_frames))
        after = np.arange(min(len(frames), offset + view.guard_frames), min(len(frames), offset + view.reach_frames))
        near = np.concatenate([before, after])
        return np.asarray(near[(frames[near][:, columns] < QUIET_SCORE).all(axis=1)])

    def _kind(self, event: Event, inside: Float32) -> tuple[str | None, float | None]:
        if event.family != "headline":
            return event.label, event.score_mean
        kinds = [c for c, label in enumerate(self._contract.labels) if label.family == event.label]
        if not kinds:
            return None, None
        means = inside[:, kinds].mean(axis=0, dtype=np.float64)
        best = int(means.argmax())
        return self._contract.label_names[kinds[best]], float(means[best])


def _percentile(power_db: NDArray[Any], percentile: float) -> Float64:
    """Percentile over time of each band, (bands,)."""
    return np.asarray(np.percentile(power_db.astype(np.float32), percentile, axis=0), np.float64)


def _level_db(spectrum_db: Float64) -> float:
    """Total power of several mel bands, dB."""
    return float(10.0 * np.log10(np.sum(10.0 ** (spectrum_db / 10.0))))
