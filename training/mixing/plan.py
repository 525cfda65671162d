"""Draw the parameters of one mixture without applying them. A plan is small, frozen and complete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from training.corpora.preprocess import Recording
from training.corpora.taxonomy import (
    BABBLE,
    MUSIC,
    SYNTHETIC_CLICKS,
    SYNTHETIC_NOISE,
    SYNTHETIC_TONE,
    SYNTHETIC_WIND,
    TALKER,
    TRANSIENT,
    VOICED,
    Meaning,
    meaning_of,
)
from training.mixing.channel import ChannelPlan, draw_channel
from training.mixing.synth import NOISES, TONES, ring_back

RATE_HZ = 16_000
UNHEARD_DB = (42.0, 55.0)
"""Level range below the speech of an occasional inaudible source, which must not raise an alarm."""
UNHEARD_SHARE = 0.1
TURNS_SHARE = 0.12
"""Share of clips in which two talkers of equal level take turns: a conversation, not interference."""
BED_SHARE = 0.6
"""Share of the mixtures with a noise floor whose floor is recorded room tone, if the pool has any."""
RECORDED_SHARE, VOICED_SHARE = 0.68, 0.25
SYNTHETIC_NOISES: Mapping[str, tuple[float, Meaning]] = {
    "hiss": (0.62, SYNTHETIC_NOISE),
    "clicks": (0.2, SYNTHETIC_CLICKS),
    "wind": (0.1, SYNTHETIC_WIND),
    "rub": (0.08, TRANSIENT),
}
"""Odds and meaning of synthetic noises."""
SourceKind = Literal["recording", "talker", "babble", "music", "synth"]


class Pool:
    """Preprocessed recordings of one split, from which mixtures are drawn.

    Args:
        recordings: All stems of the split.
    """

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = list(recordings)
        self.by_kind: dict[str, list[int]] = defaultdict(list)
        self.by_speaker: dict[str, list[int]] = defaultdict(list)
        self.by_source: dict[str, list[str]] = defaultdict(list)
        self.by_class: dict[str, list[int]] = defaultdict(list)
        for index, recording in enumerate(self.recordings):
            stem = recording.stem
            self.by_kind[stem.kind].append(index)
            if stem.kind == "speech":
                self.by_speaker[stem.group].append(index)
            if stem.kind == "noise":
                self.by_class[stem.sound_class].append(index)
        for speaker in self.by_speaker:
            self.by_source[speaker.split("/")[0]].append(speaker)
        if not self.by_kind["speech"] or not self.by_kind["noise"]:
            raise ValueError(
                f"a pool requires speech and noise stems, got { ({k: len(v) for k, v in self.by_kind.items()}) }"
            )
        sources = sorted(self.by_source)
        seconds = {s: sum(self.seconds(i) for sp in self.by_source[s] for i in self.by_speaker[sp]) for s in sources}
        # The square root keeps a large corpus from dominating without repeating the small ones too often.
        weight = np.sqrt([seconds[s] for s in sources])
        self._sources, self._source_weight = sources, weight / weight.sum()

    def seconds(self, index: int) -> float:
        """Return the length of a recording after preprocessing."""
        return len(self.recordings[index].samples) / RATE_HZ

    def draw_speaker(self, rng: np.random.Generator, other_than: str | None = None) -> str:
        """Draw a corpus, then one of its speakers."""
        for _ in range(20):
            speakers = self.by_source[str(rng.choice(self._sources, p=self._source_weight))]
            speaker = speakers[int(rng.integers(len(speakers)))]
            if speaker != other_than:
                return speaker
        return next(s for s in self.by_speaker if s != other_than)

    def draw_noise(self, rng: np.random.Generator, *, voiced: bool) -> int:
        """Draw a noise class (weighted by the square root of its count), then a recording of it.

        Args:
            rng: Random generator.
            voiced: Draw only vocal sounds, if the pool has any.
        """
        classes = sorted(self.by_class)
        if voiced:
            classes = [name for name in classes if name in VOICED] or classes
        weight = np.sqrt([len(self.by_class[c]) for c in classes])
        members = self.by_class[str(rng.choice(classes, p=weight / weight.sum()))]
        return members[int(rng.integers(len(members)))]

    def draw(self, rng: np.random.Generator, kind: str) -> int | None:
        """Draw any recording of a kind; None if the pool has none."""
        members = self.by_kind[kind]
        return members[int(rng.integers(len(members)))] if members else None


@dataclass(frozen=True, slots=True)
class Part:
    """A recording placed at a position (samples) in the mixture."""

    recording: int
    start: int


@dataclass(frozen=True, slots=True)
class RoomPlan:
    """A room: impulse response and gain of its tail."""

    recording: int
    tail_gain: float


@dataclass(frozen=True, slots=True)
class SourcePlan:
    """One disturbing source: kind, position, and level relative to the speech."""

    kind: SourceKind
    meaning: Meaning
    level_db: float
    """Level relative to the active speech, or in dBFS without speech."""
    span: tuple[int, int]
    fade: int
    seed: int
    parts: tuple[Part, ...] = ()
    synth: str = ""
    speed: float = 1.0
    tilt_db: float = 0.0
    room: RoomPlan | None = None


@dataclass(frozen=True, slots=True)
class MixPlan:
    """All parameters of one mixture."""

    seed: int
    samples: int
    speech: tuple[Part, ...]
    speech_dbfs: float
    floor_offset_db: float | None
    """Room tone relative to the recording's own floor; None leaves digital silence between parts."""
    room: RoomPlan | None
    sources: tuple[SourcePlan, ...]
    channel: ChannelPlan = field(default_factory=ChannelPlan)
    bed: Part | None = None
    """Recorded room tone for the floor, looped from its sample `start`; None generates one."""


@dataclass(frozen=True, slots=True)
class MixOdds:
    """Probability of each ingredient in a mixture."""

    speech: float = 0.8
    noise: float = 0.5
    second_noise: float = 0.2
    interference: float = 0.45
    room: float = 0.3
    digital_silence: float = 0.15


def draw_plan(rng: np.random.Generator, pool: Pool, samples: int, odds: MixOdds | None = None) -> MixPlan:
    """Draw one mixture of `samples` samples at 16 kHz."""
    odds = odds or MixOdds()
    seed = int(rng.integers(2**31))
    has_speech = rng.random() < odds.speech
    speaker = pool.draw_speaker(rng)
    speech = _talk(rng, pool, speaker, samples, turns=TURNS_SHARE) if has_speech else ()
    sources: list[SourcePlan] = []
    wants_noise = rng.random() < (odds.noise if has_speech else 0.75)
    if wants_noise:
        sources.append(_noise(rng, pool, samples, has_speech))
        if rng.random() < odds.second_noise:
            sources.append(_noise(rng, pool, samples, has_speech))
    if rng.random() < odds.interference:
        sources.append(_interference(rng, pool, samples, speaker if has_speech else None))
        if rng.random() < 0.1:
            sources.append(_interference(rng, pool, samples, speaker if has_speech else None))
    plan = MixPlan(
        seed=seed,
        samples=samples,
        speech=speech,
        speech_dbfs=float(rng.uniform(-48.0, -12.0)),
        floor_offset_db=None if rng.random() < odds.digital_silence else float(rng.uniform(-8.0, 0.0)),
        room=_room(rng, pool) if rng.random() < odds.room else None,
        sources=tuple(sources),
        channel=draw_channel(rng),
    )
    return replace(plan, bed=_bed(rng, pool)) if plan.floor_offset_db is not None else plan


def _bed(rng: np.random.Generator, pool: Pool) -> Part | None:
    """Draw room tone and where its loop starts; draws nothing if the pool has none."""
    if not pool.by_kind["bed"] or rng.random() >= BED_SHARE:
        return None
    index = pool.draw(rng, "bed")
    return None if index is None else Part(index, int(rng.integers(len(pool.recordings[index].samples))))


def _talk(
    rng: np.random.Generator, pool: Pool, speaker: str, samples: int, *, sparse: float = 0.4, turns: float = 0.0
) -> tuple[Part, ...]:
    """Place recordings of one speaker in sequence with pauses; with probability `turns`, two speakers take turns."""
    turn = [speaker]
    if rng.random() < turns:
        turn.append(pool.draw_speaker(rng, other_than=speaker))
    longest_pause_s = 3.0 if rng.random() < sparse else 0.7
    position = int(rng.uniform(-1.0, 1.5) * RATE_HZ)
    parts: list[Part] = []
    while position < samples:
        members = pool.by_speaker[turn[int(rng.integers(len(turn)))]]
        index = members[int(rng.integers(len(members)))]
        parts.append(Part(index, position))
        pause = rng.uniform(0.08, longest_pause_s)
        position += len(pool.recordings[index].samples) + int(pause * RATE_HZ)
    return tuple(parts)


def _room(rng: np.random.Generator, pool: Pool) -> RoomPlan | None:
    index = pool.draw(rng, "rir")
    return None if index is None else RoomPlan(index, tail_gain=float(10 ** (rng.uniform(-20.0, 0.0) / 20)))


def _span(rng: np.random.Generator, samples: int) -> tuple[tuple[int, int], int]:
    """Draw the time span of a source and its fade length."""
    if rng.random() < 0.5:
        return (0, samples), 0
    length = int(rng.uniform(0.5, 0.7 * samples / RATE_HZ) * RATE_HZ)
    start = int(rng.integers(0, samples - length))
    return (start, start + length), int(rng.uniform(0.005, 0.2) * RATE_HZ)


def _level(rng: np.random.Generator, has_speech: bool, low: float, high: float) -> float:
    """Draw a level relative to speech from an SNR range in dB, or dBFS without speech; occasionally inaudible."""
    if not has_speech:
        return float(rng.uniform(-60.0, -14.0))
    return float(-rng.uniform(*(UNHEARD_DB if rng.random() < UNHEARD_SHARE else (low, high))))


def _lay(rng: np.random.Generator, pool: Pool, index: int, span: tuple[int, int]) -> tuple[Part, ...]:
    """Repeat a recording over a span, without gaps if it is long, with pauses if it is short."""
    length = len(pool.recordings[index].samples)
    short = length < 2.5 * RATE_HZ
    position = span[0] if short else span[0] - int(rng.integers(0, max(1, length - RATE_HZ)))
    parts: list[Part] = []
    while position < span[1]:
        parts.append(Part(index, position))
        position += length + (int(rng.uniform(0.0, 2.0) * RATE_HZ) if short else 0)
    return tuple(parts)


def _noise(rng: np.random.Generator, pool: Pool, samples: int, has_speech: bool) -> SourcePlan:
    span, fade = _span(rng, samples)
    level = _level(rng, has_speech, -6.0, 32.0)
    seed = int(rng.integers(2**31))
    if rng.random() >= RECORDED_SHARE:
        name = str(rng.choice(list(SYNTHETIC_NOISES), p=[odds for odds, _ in SYNTHETIC_NOISES.values()]))
        return SourcePlan("synth", SYNTHETIC_NOISES[name][1], level, span, fade, seed, synth=name)
    index = pool.draw_noise(rng, voiced=rng.random() < VOICED_SHARE)
    vary = rng.random() < 0.5
    return SourcePlan(
        "recording",
        meaning_of(pool.recordings[index].stem.sound_class),
        level,
        span,
        fade,
        seed,
        parts=_lay(rng, pool, index, span),
        speed=float(rng.uniform(0.85, 1.18)) if vary else 1.0,
        tilt_db=float(rng.uniform(-6.0, 6.0)) if vary else 0.0,
        room=_room(rng, pool) if rng.random() < 0.1 else None,
    )


def _interference(rng: np.random.Generator, pool: Pool, samples: int, speaker: str | None) -> SourcePlan:
    """Draw a source that competes with the talker; a competing talker is drawn only if the mixture has speech."""
    has_speech = speaker is not None
    kinds, weights = ["talker", "babble", "music", "tone"], np.array([0.40, 0.14, 0.17, 0.29])
    if not has_speech:
        weights[0] = 0.0
    if not pool.by_kind["music"]:
        weights[2] = 0.0
    kind = str(rng.choice(kinds, p=weights / weights.sum()))
    span, fade = _span(rng, samples)
    seed = int(rng.integers(2**31))
    if kind == "talker":
        other = pool.draw_speaker(rng, other_than=speaker)
        parts = _talk(rng, pool, other, samples)
        # The competing talker is never louder and often further away; see `targets.ORDERED_TALKERS_DB`.
        level = _level(rng, True, 0.0, 24.0)
        room = _room(rng, pool) if rng.random() < 0.5 else None
        return SourcePlan("talker", TALKER, level, span, fade, seed, parts=parts, room=room)
    if kind == "babble":
        voices = int(rng.integers(3, 13))
        drawn = [
            _talk(rng, pool, pool.draw_speaker(rng, other_than=speaker), samples, sparse=0.1) for _ in range(voices)
        ]
        parts = tuple(part for talk in drawn for part in talk)
        level = _level(rng, has_speech, 0.0, 25.0)
        room = _room(rng, pool) if rng.random() < 0.5 else None
        return SourcePlan("babble", BABBLE, level, span, fade, seed, parts=parts, room=room)
    if kind == "music":
        index = pool.draw(rng, "music")
        if index is not None:
            level = _level(rng, has_speech, -3.0, 28.0)
            tilt = float(rng.uniform(-6.0, 6.0))
            speed = float(rng.uniform(0.85, 1.18))
            parts = _lay(rng, pool, index, span)
            return SourcePlan("music", MUSIC, level, span, fade, seed, parts=parts, tilt_db=tilt, speed=speed)
    name = str(rng.choice(list(TONES)))
    level = _level(rng, has_speech, -3.0, 28.0)
    return SourcePlan("synth", SYNTHETIC_TONE, level, span, fade, seed, synth=name)


SYNTHS = {**TONES, **NOISES, "ring_back": ring_back}
"""All synthetic sources by name; ring-back alone is used only in figures."""
