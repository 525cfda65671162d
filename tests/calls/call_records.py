"""Small legs for tests: records with exactly known speech, levels and sound."""

from __future__ import annotations

import numpy as np

from speech_qc.calls.interaction import Interaction
from speech_qc.calls.interaction_events import InteractionEvent, InteractionUpdate
from speech_qc.calls.records import FRAME_SAMPLES, RECORD_FRAMES, Flag, LegRecord, quantized_levels

LABELS = 3


class Leg:
    """A leg of a number of seconds, silent at first; `say` and `play` fill it."""

    def __init__(self, seconds: float, *, noise_dbfs: float = -70.0, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.frames = round(seconds / 0.02)
        self.sound = (10 ** (noise_dbfs / 20) * self._rng.standard_normal(self.frames * FRAME_SAMPLES)).astype(
            np.float32
        )
        self.flags = np.zeros(self.frames, np.uint8)

    def say(self, start_s: float, stop_s: float, *, dbfs: float = -25.0) -> Leg:
        """Talk: noise in syllables, so that no two talkers sound alike."""
        return self.play(start_s, stop_s, Flag.TALK, dbfs=dbfs)

    def play(self, start_s: float, stop_s: float, flag: int, *, dbfs: float = -25.0) -> Leg:
        """Fill a time with a sound that has this flag."""
        first, stop = round(start_s / 0.02), round(stop_s / 0.02)
        self.flags[first:stop] |= flag
        span = slice(first * FRAME_SAMPLES, stop * FRAME_SAMPLES)
        noise = self._rng.standard_normal((stop - first) * FRAME_SAMPLES)
        syllables = 1 + 0.5 * np.sin(np.arange(len(noise)) / 4000 * 2 * np.pi * 3)
        self.sound[span] += (10 ** (dbfs / 20) * noise * syllables).astype(np.float32)
        return self

    def mark(self, start_s: float, stop_s: float, flag: int) -> Leg:
        """Replace a time by nothing, with this flag."""
        first, stop = round(start_s / 0.02), round(stop_s / 0.02)
        self.flags[first:stop] = flag
        self.sound[first * FRAME_SAMPLES : stop * FRAME_SAMPLES] = 0.0
        return self

    def echo_of(self, other: Leg, lag_s: float, loss_db: float, *, as_talk: bool = True) -> Leg:
        """Add another leg's sound, later and lower; the detector takes it for speech, too."""
        lag, frames = round(lag_s * 4000), round(lag_s / 0.02)
        self.sound[lag:] += other.sound[:-lag] * np.float32(10 ** (-loss_db / 20))
        if as_talk:
            self.flags[frames:] |= other.flags[:-frames] & Flag.TALK
        return self

    def records(self) -> list[LegRecord]:
        """Cut it into records."""
        return [self._record(first) for first in range(0, self.frames, RECORD_FRAMES)]

    def _record(self, first: int) -> LegRecord:
        flags = self.flags[first : first + RECORD_FRAMES].copy()
        sound = self.sound[first * FRAME_SAMPLES : (first + len(flags)) * FRAME_SAMPLES].reshape(len(flags), -1)
        peaks = np.abs(sound).max(axis=1)
        band = np.round(sound * (127 / np.maximum(peaks, 1e-9))[:, None]).astype(np.int8).ravel()
        return LegRecord(
            first_frame=first,
            flags=flags,
            levels=quantized_levels(np.mean(np.square(sound), axis=1)),
            peaks=peaks,
            band=band,
            sums=np.ones(LABELS, np.float32) * len(flags),
            counts=np.full(LABELS, len(flags), np.uint8),
        )


def analyse(first: Leg, second: Leg, offset: int = 0) -> tuple[Interaction, list[tuple[float, InteractionUpdate]]]:
    """Analyse two legs as they would arrive; return each update with the seconds of audio received by then."""
    interaction = Interaction()
    interaction.begin(0, 0)
    interaction.begin(1, offset)
    updates: list[tuple[float, InteractionUpdate]] = []
    legs = [first.records(), second.records()]
    for place in range(max(map(len, legs))):
        for leg, records in enumerate(legs):
            if place < len(records):
                interaction.push(leg, records[place])
        updates += [((place + 1) * 0.5, update) for update in interaction.advance()]
    updates += [(float("inf"), update) for update in interaction.close()]
    return interaction, updates


def events(interaction: Interaction, kind: str) -> list[InteractionEvent]:
    """The events of a kind."""
    return [event for event in interaction.events_now if event.kind == kind]
