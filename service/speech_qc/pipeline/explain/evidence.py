"""What speaks for an event, in figures that a person can check with an ear and a spectrogram.

Band and level come from the sound, kind and SNR from the scores. What cannot be told is None, with the reason.
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
"""Events explained per channel; each costs about a millisecond."""
MAX_INSIDE_FRAMES = 1_500
"""A longer event is represented by so many of its frames, evenly spread."""
QUIET_SCORE = 0.1
"""The floor around an event is taken where neither its label nor its headline scores more than this."""
MIN_FLOOR_FRAMES = 15
SUDDEN_FRAMES = 10
"""Events shorter than 0.2 s, which no pause of the speech falls into, are measured as sudden ones."""
SILENCE_DB = -97.0
"""A mel band this quiet holds digital silence: the front end adds -100 dB."""

REASONS = {
    "impairment": "an impairment of the line has no band of its own",
    "late": "beyond the part of the recording that is kept for evidence",
    "many": f"only the first {MAX_EVENTS} events of a channel are explained",
    "no_floor": "no stretch without it is near enough to compare with",
    "silence": "the sound around it is digital silence, which is no floor",
    "no_speech": "nobody speaks in it",
    "no_kind": "this model has no label for kinds of it",
}


@dataclass(frozen=True, slots=True)
class _View:
    """How an event and the floor around it are reduced to one spectrum each."""

    reach_frames: int
    guard_frames: int
    inside_percentile: float
    floor_percentile: float


# What lasts is seen in the pauses of the speech: low percentiles leave the speech out, inside and around.
_LASTING = _View(300, 10, 10.0, 15.0)
# A knock is over before the next pause: its louder frames against the middle of what is close by.
_SUDDEN = _View(50, 2, 75.0, 50.0)
# Losses and overload are measured with the speech, for that is what they happen to.
_IMPAIRMENT = _View(50, 2, 50.0, 50.0)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for one event.

    Attributes:
        band: Frequencies that it is made of.
        over_floor_db: Level in that band against the floor around; over all bands for impairments.
        snr_db: Mean of the speech frames in it.
        kind: The nearest kind of sound: for a headline the cause of its family with the highest mean score in it, else
            the event's own label.
        kind_score: That mean score.
        unknown: Of each of these that is None, why.
    """

    band: Band | None
    over_floor_db: float | None
    snr_db: float | None
    kind: str | None
    kind_score: float | None
    unknown: dict[str, str] = field(default_factory=dict)


class Explainer:
    """Explains the events of recordings; immutable, free to share.

    Args:
        contract: Of the model that found them.
    """

    def __init__(self, contract: ModelContract) -> None:
        self._contract = contract
        self._finder = BandFinder(contract.features)
        self._snr = contract.index("snr_db")

    def explain(self, events: Sequence[Event], frames: Float32, power_db: NDArray[Any]) -> list[Evidence]:
        """Give the evidence for each event of a channel that has ended.

        Args:
            events: Closed ones.
            frames: Scores of the channel, float32 (M, C), measures NaN where there is nothing to measure.
            power_db: What a `SpectrumKeeper` kept of it, (n, bands); n may be less than M, or a little more.
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
        """Band and level; fills in why one of them is missing."""
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
        """Frames near the event in which neither its label nor its headline was heard."""
        columns = [self._contract.index(event.label)]
        if event.family in ("noise", "interference"):  # each is also the name of its headline
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
    """Power of several mel bands together, dB."""
    return float(10.0 * np.log10(np.sum(10.0 ** (spectrum_db / 10.0))))
