"""Constructed telephone conversations of real talkers, with exactly known turns, echoes, holds and dead legs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.corpora.manifest import read_manifest
from training.corpora.preprocess import load

RATE_HZ = 16_000
SPEECH_DBFS, FLOOR_DBFS = -25.0, -60.0
MIN_CLIP_S, MAX_CLIP_S = 1.0, 12.0
PAUSE_S = 0.25
"""Clips with a longer pause are left out: within it, nobody can say whether the talker has ended."""

Float32 = NDArray[np.float32]


@dataclass
class Conversation:
    """Two legs, and what is true of them; times in seconds.

    Attributes:
        legs: float32 (2, n) at 16 kHz.
        talk_overs: Onset and end of each time in which both talk for at least 0.6 s.
        backchannels: Onset of each utterance of less than half a second during the other party's turn.
        spoke_s: Begin of the first turn.
    """

    legs: Float32
    talk_overs: list[tuple[float, float]] = field(default_factory=list)
    backchannels: list[float] = field(default_factory=list)
    spoke_s: float = 0.0


class Talkers:
    """The talkers of a corpus: clips of clean speech without long pauses, all at one level.

    Args:
        folder: Corpus folder with a manifest, as for training.
        limit: Number of clips.
        rng: Draws them.
    """

    def __init__(self, folder: Path, limit: int, rng: np.random.Generator) -> None:
        stems = read_manifest(folder)
        speech = [stem for stem in stems if stem.kind == "speech" and stem.sample_rate_hz >= RATE_HZ]
        drawn = [speech[place] for place in rng.permutation(len(speech))[: 4 * limit]]
        self.music = [one.samples for one in load(folder, [s for s in stems if s.kind == "music"], progress=False)[0]]
        self.clips: dict[str, list[Float32]] = {}
        count = 0
        for one in load(folder, drawn, progress=False)[0]:
            clip = clean_clip(one.samples)
            if clip is not None and count < limit:
                self.clips.setdefault(one.stem.group, []).append(clip)
                count += 1

    def pair(self, rng: np.random.Generator) -> tuple[Sequence[Float32], Sequence[Float32]]:
        """Draw two talkers, or two halves of the clips of those who have few."""
        rich = [clips for clips in self.clips.values() if len(clips) >= 3]
        first, second = rng.choice(len(rich), 2, replace=False)
        return rich[first], rich[second]


def levels_dbfs(samples: Float32) -> Float32:
    """Return the level of each 10 ms, float32 (n,)."""
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    return (10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)).astype(np.float32)


def clean_clip(samples: Float32) -> Float32 | None:
    """Cut a recording to its speech; None if it is noisy, too short, or has a long pause."""
    levels = levels_dbfs(samples)
    if len(levels) < 100 * MIN_CLIP_S:
        return None
    loud = float(np.percentile(levels, 90))
    active = np.flatnonzero(levels > loud - 25)
    if float(np.percentile(levels, 3)) > loud - 40 or np.diff(active).max(initial=0) > 100 * PAUSE_S:
        return None
    clip = samples[active[0] * 160 : (active[-1] + 1) * 160]
    if not MIN_CLIP_S <= len(clip) / RATE_HZ <= MAX_CLIP_S:
        return None
    spoken = levels[active]
    gain_db = SPEECH_DBFS - 10 * np.log10(np.mean(10 ** (spoken / 10)))
    return (clip * 10 ** (gain_db / 20)).astype(np.float32)


def noise(samples: int, level_dbfs: float, rng: np.random.Generator) -> Float32:
    """Return white noise, as comfort noise of a line."""
    return (10 ** (level_dbfs / 20) * rng.standard_normal(samples)).astype(np.float32)


def converse(
    talkers: tuple[Sequence[Float32], Sequence[Float32]], seconds: float, rng: np.random.Generator
) -> Conversation:
    """Let two talkers take turns, with answers after 0.2 to 1.5 s, some of the turns interrupted, and backchannels.

    Args:
        talkers: Clips of both.
        seconds: Length.
        rng: Draws clips and times.
    """
    count = round(seconds * RATE_HZ)
    made = Conversation(noise(2 * count, FLOOR_DBFS, rng).reshape(2, count), spoke_s=1.0)
    at, leg = RATE_HZ, 0
    while True:
        clip = talkers[leg][int(rng.integers(len(talkers[leg])))]
        if at + len(clip) > count - RATE_HZ:
            return made
        made.legs[leg, at : at + len(clip)] += clip
        end = at + len(clip)
        kind = rng.random()
        if kind < 0.3 and len(clip) > 1.4 * RATE_HZ:
            overlap = round(rng.uniform(0.6, min(1.5, len(clip) / RATE_HZ / 2)) * RATE_HZ)
            reply = talkers[1 - leg][int(rng.integers(len(talkers[1 - leg])))]
            if end - overlap + len(reply) < count - RATE_HZ and len(reply) > overlap + RATE_HZ // 2:
                at = end - overlap
                made.legs[1 - leg, at : at + len(reply)] += reply
                made.talk_overs.append((at / RATE_HZ, end / RATE_HZ))
                end, leg = at + len(reply), 1 - leg
        elif kind < 0.5 and len(clip) > 2 * RATE_HZ:
            _backchannel(made, 1 - leg, at + len(clip) // 2, talkers[1 - leg], rng)
        at = end + round(rng.uniform(0.2, 1.5) * RATE_HZ)
        leg = 1 - leg


def _backchannel(made: Conversation, leg: int, at: int, clips: Sequence[Float32], rng: np.random.Generator) -> None:
    """Say something short: the middle of a clip, faded in and out."""
    clip = clips[int(rng.integers(len(clips)))]
    length = round(rng.uniform(0.2, 0.45) * RATE_HZ)
    start = len(clip) // 2 - length // 2
    word = clip[start : start + length] * np.hanning(length).astype(np.float32) ** np.float32(0.25)
    made.legs[leg, at : at + length] += word
    made.backchannels.append(at / RATE_HZ)


def hold(made: Conversation, music: Sequence[Float32], rng: np.random.Generator) -> None:
    """Replace parts of a conversation: the first leg plays music on hold, or either is muted while the other talks on.

    What was said there on the other leg stays, except on hold: the other party waits in silence.
    """
    count = made.legs.shape[1]
    at = round(rng.uniform(20, 40) * RATE_HZ)
    while at < count - 60 * RATE_HZ:
        length = round(rng.uniform(10, 30) * RATE_HZ)
        span = slice(at, at + length)
        if rng.random() < 0.5:
            tune = np.resize(music[int(rng.integers(len(music)))], length)
            made.legs[0, span] = tune * np.float32(0.05 / (np.sqrt(np.mean(np.square(tune))) + 1e-9))
            made.legs[1, span] = noise(length, FLOOR_DBFS, rng)
        else:
            leg = rng.integers(2)
            made.legs[leg, span] = 0.0 if rng.random() < 0.5 else noise(length, -65.0, rng)
        at += length + round(rng.uniform(20, 60) * RATE_HZ)


def add_echo(made: Conversation, leg: int, lag_s: float, loss_db: float) -> None:
    """Let one leg's sound return on the other one."""
    lag = round(lag_s * RATE_HZ)
    made.legs[1 - leg, lag:] += made.legs[leg, :-lag] * np.float32(10 ** (-loss_db / 20))
