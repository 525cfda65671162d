"""Real clean recordings, unmixed: noise events per hour by kind of microphone.

Studio, crowd and telephone recordings differ in what is on them besides the voice. Clicks where a recording was started
or stopped are true sounds, so events at the edges are counted apart.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from speech_qc.contract import LABEL_CATALOG
from speech_qc.scoring import Event
from training.corpora.manifest import Stem
from training.corpora.preprocess import frame_levels_db
from training.corpora.taxonomy import microphone_of
from training.evaluation.alone import found_events
from training.evaluation.cases import Case, MaterialError, read_channels
from training.evaluation.contenders import Contender
from training.evaluation.figures import rounded

MIN_RANGE_DB = 45.0  # 95th minus 5th percentile of the levels of 20 ms frames; less is not surely clean
SILENCE_DB = -110.0  # frames of digital silence say nothing about the room
EDGE_S = 0.3  # an event whose middle is this close to the start or the end is a click of the start or stop button
NOISE_LABELS = ("noise", *(name for name, (family, _) in LABEL_CATALOG.items() if family == "noise"))
MINUTES = 40.0  # of each kind of microphone, at most


def recorded_cases(folder: Path, stems: Sequence[Stem], seed: int, minutes: float = MINUTES) -> dict[str, list[Case]]:
    """Read clean speech as it was recorded, by kind of microphone, evenly over the speakers.

    Args:
        folder: Corpus folder.
        stems: Stems of one split; only speech is read, and what cannot be read is left out.
        seed: Seed of the choice.
        minutes: Length of each kind, at most.
    """
    rng = np.random.default_rng(seed)
    by_kind: dict[str, dict[str, list[Stem]]] = defaultdict(lambda: defaultdict(list))
    for stem in stems:
        if stem.kind == "speech":
            by_kind[microphone_of(stem)][stem.group].append(stem)
    cases: dict[str, list[Case]] = {}
    for kind in sorted(by_kind):
        kept: list[Case] = []
        left_s = 60.0 * minutes
        for stem in tqdm(_in_turn(by_kind[kind], rng), desc=f"clean recordings, {kind}", unit="file"):
            case = _clean_case(folder, stem)
            if case is not None and case.seconds <= left_s:
                kept.append(case)
                left_s -= case.seconds
            if left_s < 1.0:
                break
        if kept:
            cases[kind] = kept
    return cases


def _in_turn(by_speaker: Mapping[str, Sequence[Stem]], rng: np.random.Generator) -> list[Stem]:
    """Return one recording of each speaker, then a second one of each, and so on, in random order."""
    rounds: dict[int, list[Stem]] = defaultdict(list)
    for speaker in sorted(by_speaker):
        for place, i in enumerate(rng.permutation(len(by_speaker[speaker]))):
            rounds[place].append(by_speaker[speaker][int(i)])
    return [members[int(i)] for _, members in sorted(rounds.items()) for i in rng.permutation(len(members))]


def _clean_case(folder: Path, stem: Stem) -> Case | None:
    try:
        samples = np.asarray(np.mean(read_channels(folder / stem.path), axis=0), np.float32)
    except MaterialError:
        return None
    levels = frame_levels_db(samples)
    levels = levels[levels > SILENCE_DB]
    if levels.size == 0 or np.percentile(levels, 95) - np.percentile(levels, 5) < MIN_RANGE_DB:
        return None
    return Case(stem.path, samples, facts={"source": (stem.source,)})


def recording_figures(contender: Contender, cases: Mapping[str, Sequence[Case]]) -> dict[str, Any]:
    """Return events per hour by kind of microphone, with those at the edges apart.

    Overlapping events of `noise` and its causes count as one noise event. A contender without event rules of its own
    has no figures.
    """
    contract = contender.contract
    if contract is None:
        return {}
    figures: dict[str, Any] = {}
    for kind, members in cases.items():
        by_label: Counter[str] = Counter()
        inside = edges = 0
        for case, judgement in zip(members, contender.judge(members), strict=True):
            events = found_events(contract, case, judgement)
            by_label.update(event.label for event in events if event.label not in ("speech", "reverberation"))
            for onset_s, end_s in _merged([event for event in events if event.label in NOISE_LABELS], case.seconds):
                if EDGE_S < (onset_s + end_s) / 2 < case.seconds - EDGE_S:
                    inside += 1
                else:
                    edges += 1
        hours = sum(case.seconds for case in members) / 3600
        figures[kind] = {
            "recordings": len(members),
            "hours": rounded(hours),
            "noise_events_per_hour": rounded(inside / hours, 1),
            "edge_noise_events_per_hour": rounded(edges / hours, 1),
            "events_per_hour_by_label": {label: rounded(n / hours, 1) for label, n in by_label.most_common()},
        }
    return figures


def _merged(events: Sequence[Event], seconds: float) -> list[tuple[float, float]]:
    """Return onset and end of the spans that overlapping events cover together."""
    spans: list[tuple[float, float]] = []
    for event in sorted(events, key=lambda event: event.onset_s):
        end_s = seconds if event.offset_s is None else event.offset_s
        if spans and event.onset_s <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end_s))
        else:
            spans.append((event.onset_s, end_s))
    return spans
