"""Figures of false alarms: clean speech scored as disturbed, and noise alone scored as speech."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from speech_qc.audio.features import frame_levels_dbfs
from speech_qc.contract import ModelContract
from speech_qc.scoring import Event, EventTracker
from speech_qc.scoring.events import NOT_FROM_SCORES
from training.corpora.taxonomy import VOCAL_CLASSES
from training.evaluation.cases import Case
from training.evaluation.contenders import Contender, Judgement, scored
from training.evaluation.figures import Judged, judged_label, rounded

Figures = dict[str, Any]

DETECTED = 0.5  # where no threshold applies, a frame counts as detected above this probability


def clean_figures(contender: Contender, cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Measure undisturbed speech: the share of frames scored as noise or interference, and false events per hour.

    Reverberation does not count as false, because the mixtures include rooms. Events follow the model's own rules.
    """
    hours = sum(case.seconds for case in cases) / 3600
    figures: Figures = {"hours": rounded(hours)}
    for label in ("noise", "interference"):
        scores = scored(cases, judgements, label)
        if scores is not None and contender.enter:
            figures[f"{label}_share"] = rounded(float((np.concatenate(scores) > DETECTED).mean()))
    contract = contender.contract
    if contract is not None:
        found = Counter(
            event.label
            for case, judgement in zip(cases, judgements, strict=True)
            for event in found_events(contract, case, judgement)
            if event.label != "reverberation"
        )
        figures["false_events_per_hour"] = rounded(sum(found.values()) / hours, 1)
        per_hour = {name: rounded(count / hours, 1) for name, count in found.most_common()}
        figures["false_events_per_hour_by_label"] = per_hour
    return figures


def found_events(contract: ModelContract, case: Case, judgement: Judgement) -> list[Event]:
    """Return the events of a case by the model's own rules; none of `dropout`, which the service makes from samples."""
    rows = np.stack([judgement.frames[name] for name in contract.label_names], axis=1)
    tracker = EventTracker(contract, skip=NOT_FROM_SCORES)
    updates = tracker.push(np.ascontiguousarray(rows), frame_levels_dbfs(case.samples, contract.features))
    return [update.event for update in [*updates, *tracker.finish()] if update.phase == "end"]


def noise_alone_figures(contender: Contender, cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Measure sounds without speech: the share of frames scored as speech, except ambience with distant voices.

    Figures of cases with coughs, cries or laughter are in `vocal`, those of the others in `not_vocal`.
    """
    figures: Figures = {"hours": rounded(sum(case.seconds for case in cases) / 3600)}
    judged = judged_label(cases, judgements, "speech")
    if judged is None or not contender.enter:
        return figures
    vocal = [bool(VOCAL_CLASSES & set(case.facts.get("disturbance", ()))) for case in cases]
    for name, members in (
        ("vocal", [i for i, is_vocal in enumerate(vocal) if is_vocal]),
        ("not_vocal", [i for i, is_vocal in enumerate(vocal) if not is_vocal]),
    ):
        if members:
            figures[name] = _called_speech(judged, members)
    return figures | _called_speech(judged, range(len(cases)))


def _called_speech(judged: Judged, members: Iterable[int]) -> Figures:
    score, truth = judged.counted(members)
    silent = truth < 0.5
    share = float((score[silent] > DETECTED).mean()) if silent.any() else None
    return {"frames": int(silent.sum()), "speech_share": rounded(share)}
