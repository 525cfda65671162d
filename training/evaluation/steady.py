"""Steady sources under long speech: is a source still found, second by second, long after it began?

A net can take a sound that lasts for the talker's background. Each case is a minute of one talker, with pauses, and one
source from second 3 to the end; some are sent by a line whose gate shuts in the pauses. A second counts if the source
is audible in at least half of its frames; the source is found in it if the score of its label is above the exit
threshold in at least half of those frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from training.corpora.taxonomy import (
    BABBLE,
    MUSIC,
    STEADY_CLASSES,
    SYNTHETIC_NOISE,
    SYNTHETIC_TONE,
    meaning_of,
)
from training.evaluation.cases import FRAME_SAMPLES, RATE_HZ, Case, mixed_case
from training.evaluation.contenders import Contender, Judgement
from training.evaluation.figures import leave_of, rounded
from training.mixing.channel import ChannelPlan
from training.mixing.plan import MixPlan, Part, Pool, SourcePlan

Bool = NDArray[np.bool_]

SECONDS = 60.0
ONSET_S = 3.0
TALKERS = 20  # of each kind of source
MIN_TALKER_S = 10.0  # talkers with less speech are used only if there are too few others
FRAMES_PER_S = RATE_HZ // FRAME_SAMPLES
SPEECH_DBFS = -26.0
FLOOR_OFFSET_DB = -4.0
PAUSES_S = (0.15, 1.5)
COMFORT_DB = -10.0
VOICES = 8
SAMPLES = int(SECONDS * RATE_HZ)
SPAN = (int(ONSET_S * RATE_HZ), SAMPLES)


@dataclass(frozen=True, slots=True)
class Steady:
    """A kind of steady source.

    Attributes:
        name: Name in reports.
        label: The label that should find it.
        snr_db: Active speech level over the level of the source.
        source: Draws the source: pool, generator, the main talker, number of the case.
        gate: What the sender puts into pauses instead of the source (`ChannelPlan.pauses`); None sends everything.
    """

    name: str
    label: str
    snr_db: float
    source: Callable[[Pool, np.random.Generator, str, int], SourcePlan | None]
    gate: str | None = None


def steady_cases(pool: Pool, seed: int, talkers: int = TALKERS) -> dict[str, list[Case]]:
    """Render a minute with each kind of source for each of the talkers; kinds that the pool lacks are left out."""
    cases: dict[str, list[Case]] = {}
    for number, kind in enumerate(KINDS):
        chosen = choose_talkers(pool, np.random.default_rng([seed, number]), talkers)
        plans = [_plan(pool, kind, [seed, number, i], speaker, i) for i, speaker in enumerate(chosen)]
        made = [plan for plan in plans if plan is not None]
        if made:
            bar = tqdm(made, desc=f"steady {kind.name}", unit="mix")
            cases[kind.name] = [mixed_case(f"{kind.name} {i}", plan, pool) for i, plan in enumerate(bar)]
    return cases


def steady_figures(contender: Contender, cases: Mapping[str, Sequence[Case]]) -> dict[str, Any]:
    """Return the share of the audible seconds in which the source is found.

    The shares are by kind, over all kinds without gates (`found`), and over those behind gates (`gated`).
    For tones, also the share of their seconds in which `music` is above its enter threshold at the same time. Kinds
    whose label the contender does not have are left out.
    """
    rows: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        if kind.name not in cases or kind.label not in contender.enter:
            continue
        judged = contender.judge(cases[kind.name])
        pairs = list(zip(cases[kind.name], judged, strict=True))
        leave = leave_of(contender, kind.label)
        found = np.concatenate([_seconds(kind.label, case, _reached(said, kind.label, leave)) for case, said in pairs])
        row = {"talkers": len(pairs), "seconds": int(found.size), "found": _share(found)}
        if kind.label == "tone" and "music" in contender.enter:
            wrong = [_seconds("tone", case, _reached(said, "music", contender.enter["music"])) for case, said in pairs]
            row["called_music"] = _share(np.concatenate(wrong))
        rows[kind.name] = row
    if not rows:
        return {}
    sent = {kind.name: rows[kind.name] for kind in KINDS if kind.gate is None and kind.name in rows}
    gated = {name: row for name, row in rows.items() if name not in sent}
    figures: dict[str, Any] = {"kinds": rows, "found": _weighted(sent, "found"), "gated": _weighted(gated, "found")}
    if (called := _weighted(rows, "called_music")) is not None:
        figures["called_music"] = called
    return figures


def choose_talkers(pool: Pool, rng: np.random.Generator, count: int) -> list[str]:
    """Draw talkers among those with enough speech; a small pool gives fewer than asked for."""
    seconds = {name: sum(pool.seconds(i) for i in members) for name, members in pool.by_speaker.items()}
    most = sorted(seconds, key=lambda name: (-seconds[name], name))
    enough = [name for name in most if seconds[name] >= MIN_TALKER_S]
    candidates = enough if len(enough) >= count else most[:count]
    return [candidates[i] for i in rng.permutation(len(candidates))[:count]]


def _plan(pool: Pool, kind: Steady, seed: Sequence[int], speaker: str, number: int) -> MixPlan | None:
    rng = np.random.default_rng(seed)
    source = kind.source(pool, rng, speaker, number)
    if source is None:
        return None
    return MixPlan(
        seed=int(rng.integers(2**31)),
        samples=SAMPLES,
        speech=_joined(pool, pool.by_speaker[speaker], rng, PAUSES_S),
        speech_dbfs=SPEECH_DBFS,
        floor_offset_db=FLOOR_OFFSET_DB,
        room=None,
        sources=(replace(source, level_db=-kind.snr_db),),
        channel=ChannelPlan(pauses=kind.gate, gates_sources=kind.gate is not None, comfort_db=COMFORT_DB),
    )


def _joined(
    pool: Pool, members: Sequence[int], rng: np.random.Generator, pauses_s: tuple[float, float] = (0.0, 0.0)
) -> tuple[Part, ...]:
    """Place recordings one after another in random order until the end, each as often as the others."""
    parts: list[Part] = []
    position = 0
    while position < SAMPLES:
        for i in rng.permutation(len(members)):
            parts.append(Part(members[int(i)], position))
            position += len(pool.recordings[members[int(i)]].samples) + int(rng.uniform(*pauses_s) * RATE_HZ)
    return tuple(part for part in parts if part.start < SAMPLES)


def _synthetic(name: str, rng: np.random.Generator) -> SourcePlan:
    meaning = SYNTHETIC_NOISE if name == "hiss" else SYNTHETIC_TONE
    return SourcePlan("synth", meaning, 0.0, SPAN, 0, int(rng.integers(2**31)), synth=name)


def _tone(name: str, _pool: Pool, rng: np.random.Generator, _speaker: str, _number: int) -> SourcePlan:
    return _synthetic(name, rng)


def _music(pool: Pool, rng: np.random.Generator, _speaker: str, _number: int) -> SourcePlan | None:
    index = pool.draw(rng, "music")
    if index is None:
        return None
    parts = _joined(pool, [index], rng)
    return SourcePlan("music", MUSIC, 0.0, SPAN, 0, int(rng.integers(2**31)), parts=parts)


def _noise(pool: Pool, rng: np.random.Generator, _speaker: str, number: int) -> SourcePlan:
    """Every second source is a recording, if the pool has steady ones, the others are synthetic hiss."""
    members = [i for name in sorted(STEADY_CLASSES & set(pool.by_class)) for i in pool.by_class[name]]
    if not members or number % 2:
        return _synthetic("hiss", rng)
    index = members[int(rng.integers(len(members)))]
    meaning = meaning_of(pool.recordings[index].stem.sound_class)
    seed = int(rng.integers(2**31))
    return SourcePlan("recording", meaning, 0.0, SPAN, 0, seed, parts=_joined(pool, [index], rng))


def _babble(pool: Pool, rng: np.random.Generator, speaker: str, _number: int) -> SourcePlan | None:
    others = sorted(set(pool.by_speaker) - {speaker})
    if not others:
        return None
    voices = [others[int(i)] for i in rng.permutation(len(others))[:VOICES]]
    parts = tuple(part for voice in voices for part in _joined(pool, pool.by_speaker[voice], rng, (0.0, 0.5)))
    return SourcePlan("babble", BABBLE, 0.0, SPAN, 0, int(rng.integers(2**31)), parts=parts)


KINDS: Sequence[Steady] = (
    Steady("hum, 10 dB", "tone", 10.0, partial(_tone, "hum")),
    Steady("hum, 20 dB", "tone", 20.0, partial(_tone, "hum")),
    Steady("ring-back, 10 dB", "tone", 10.0, partial(_tone, "ring_back")),
    Steady("ring-back, 20 dB", "tone", 20.0, partial(_tone, "ring_back")),
    Steady("music, 10 dB", "music", 10.0, _music),
    Steady("steady noise, 10 dB", "stationary_noise", 10.0, _noise),
    Steady("babble, 10 dB", "interference", 10.0, _babble),
    Steady("noise, 10 dB, silent pauses", "noise", 10.0, _noise, "zero"),
    Steady("noise, 10 dB, comfort noise in pauses", "noise", 10.0, _noise, "comfort"),
)


def _reached(judgement: Judgement, label: str, threshold: float) -> Bool:
    return np.asarray(judgement.frames[label] >= threshold)


def _seconds(label: str, case: Case, marked: Bool) -> Bool:
    """Return for each second with the source whether at least half of its audible frames are marked."""
    column = case.labels.index(label)
    audible = (case.target[:, column] > 0.5) & case.mask[:, column]
    rows = (-1, FRAMES_PER_S)
    count = len(audible) // FRAMES_PER_S * FRAMES_PER_S
    sounding = audible[:count].reshape(rows).sum(axis=1)
    hits = (audible & marked)[:count].reshape(rows).sum(axis=1)
    counted = sounding * 2 >= FRAMES_PER_S
    return np.asarray(hits[counted] * 2 >= sounding[counted])


def _share(marks: Bool) -> float | None:
    return rounded(float(marks.mean())) if marks.size else None


def _weighted(rows: Mapping[str, Mapping[str, Any]], key: str) -> float | None:
    """Return the mean over all seconds of all kinds."""
    known = [(row[key], row["seconds"]) for row in rows.values() if row.get(key) is not None]
    total = sum(seconds for _, seconds in known)
    return rounded(sum(share * seconds for share, seconds in known) / total) if total else None
