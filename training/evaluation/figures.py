"""Figures of a contender on cases: labels, SNR, groups, kinds of interference, ratings.

Each function takes cases and judgements and returns a JSON-ready dictionary. Masked frames do not count in any figure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from speech_qc.contract import LABEL_CATALOG
from training.corpora.taxonomy import DISTURBANCE
from training.evaluation import events
from training.evaluation.cases import RATINGS, Case
from training.evaluation.contenders import Contender, Judgement, scored
from training.event_rules import Timeline, exit_of, timeline
from training.metrics import auroc, average_precision, calibration_error, det_points, rates_at, reliability

Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
Figures = dict[str, Any]

HARD_SNR_DB = 25.0  # above it noise is inaudible and the exact value matters little
SNR_EDGES_DB = (-15.0, 0.0, 5.0, 10.0, 15.0, 25.0, 45.0)
GROUPS = ("line", "disturbance", "language", "source", "disturbance source")
GROUP_LABELS = ("speech", "noise", "interference", DISTURBANCE)
MIN_GROUP_FRAMES = 250  # 5 s of a class; with less, a group's AUROC is meaningless
MIN_RANKED = 8  # clips; with fewer, a correlation is meaningless
PROBABILITIES = tuple(name for name, (_, kind) in LABEL_CATALOG.items() if kind == "probability")
RANKED = (*PROBABILITIES, DISTURBANCE)


class Judged:
    """The ground truth and a contender's scores for one label, over all cases.

    Attributes:
        score, truth, mask: Lists of (frames,) arrays, one per case.
    """

    def __init__(self, cases: Sequence[Case], scores: Sequence[Float32], label: str) -> None:
        columns = [case.labels.index(label) for case in cases]
        self.score = list(scores)
        self.truth = [case.target[:, column] for case, column in zip(cases, columns, strict=True)]
        self.mask = [case.mask[:, column] for case, column in zip(cases, columns, strict=True)]

    def counted(self, members: Iterable[int] | None = None) -> tuple[Float32, Float32]:
        """Return scores and truth of the unmasked frames of all or the given cases."""
        chosen = range(len(self.score)) if members is None else members
        kept = [(self.score[i][self.mask[i]], self.truth[i][self.mask[i]]) for i in chosen]
        if not kept:
            return np.zeros(0, np.float32), np.zeros(0, np.float32)
        return np.concatenate([score for score, _ in kept]), np.concatenate([truth for _, truth in kept])

    def timeline(self) -> Timeline:
        """Return all cases on one timeline, for event figures."""
        return timeline(self.score, self.truth, self.mask)


def judged_label(cases: Sequence[Case], judgements: Sequence[Judgement], label: str) -> Judged | None:
    """Return truth and scores of one label; None if the material or the contender does not support it."""
    scores = scored(cases, judgements, label)
    if scores is None or any(label not in case.labels for case in cases):
        return None
    return Judged(cases, scores, label)


def label_figures(contender: Contender, cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Measure each probability label: ranking, calibration, rates and events at the enter threshold, curves.

    Disturbance has no threshold, so it is only ranked.
    """
    figures: Figures = {}
    for label in RANKED:
        judged = judged_label(cases, judgements, label)
        if judged is None:
            continue
        score, truth = judged.counted()
        area, enter = auroc(score, truth), contender.enter.get(label)
        row: Figures = {
            "frames": int(truth.size),
            "positive_share": rounded(float(truth.mean()) if truth.size else None),
            "auroc": rounded(area),
            "average_precision": rounded(average_precision(score, truth)),
            "det": det_points(score, truth) if area is not None else [],
        }
        if enter is not None:
            true_rate, false_rate = rates_at(score, truth, enter) if area is not None else (None, None)
            row |= {
                "calibration_error": rounded(calibration_error(score, truth)),
                "reliability": reliability(score, truth),
                "enter": enter,
                "true_rate": rounded(true_rate),
                "false_rate": rounded(false_rate),
                "event": events.event_figures(
                    judged.timeline(), label, enter, leave_of(contender, label), contender.latency_s
                ),
            }
        figures[label] = row
    return figures


def label_areas(cases: Sequence[Case], judgements: Sequence[Judgement]) -> dict[str, float | None]:
    """Return AUROC of every ranked label that cases and contender share; None if a class is missing."""
    known = ((label, judged_label(cases, judgements, label)) for label in RANKED)
    return {label: rounded(auroc(*judged.counted())) for label, judged in known if judged is not None}


def leave_of(contender: Contender, label: str) -> float:
    """Return the exit threshold of a label."""
    stated = contender.contract.labels[contender.contract.index(label)].exit if contender.contract else None
    return exit_of(label, contender.enter[label]) if stated is None else stated


def psds_figures(cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Return PSDS over all labels that have events and scores, and of each label alone."""
    curves = {}
    for label in PROBABILITIES:
        judged = judged_label(cases, judgements, label)
        if judged is not None:
            curve = events.psds_curve(judged.timeline(), label)
            if len(curve):
                curves[label] = curve
    alone = {label: rounded(events.psds({label: curve})) for label, curve in curves.items()}
    return {"terms": events.PSDS_TERMS, "all": rounded(events.psds(curves)), "labels": alone}


def snr_figures(contender: Contender, cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Return errors of `snr_db` in speech frames, by true SNR and by group, and rank correlations of whole clips.

    A contender without a scale is mapped by the best straight line on these same frames.
    """
    figures: Figures = snr_rank(cases, judgements)
    judged = judged_label(cases, judgements, "snr_db")
    if judged is None:
        return figures
    score, truth = judged.counted()
    figures["frames"] = int(truth.size)
    hard = truth < HARD_SNR_DB
    if not hard.any():
        return figures
    if contender.ranks_only:
        slope, offset = straight_line(score, truth)
        judged.score = [slope * values + offset for values in judged.score]
        score, truth = judged.counted()
    error = np.abs(score - truth)
    figures |= {
        "bias_db": rounded(float((score - truth).mean())),
        "error_db": rounded(float(error.mean())),
        f"error_below_{HARD_SNR_DB:.0f}_db": rounded(float(error[hard].mean())),
        f"median_error_below_{HARD_SNR_DB:.0f}_db": rounded(float(np.median(error[hard]))),
        "by_true_snr": {
            f"{low:g} … {high:g}": {"frames": int(inside.sum()), "error_db": rounded(float(error[inside].mean()))}
            for low, high in pairwise(SNR_EDGES_DB)
            if (inside := (truth >= low) & (truth < high)).any()
        },
        "by": {name: _by(cases, name, partial(_hard_error, judged)) for name in GROUPS[:2]},
    }
    return figures


def snr_rank(cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Return the Spearman correlation of each whole-sound figure with the true SNR of the whole sound."""
    ranks: Figures = {}
    names = sorted({name for judgement in judgements for name in judgement.whole})
    for name in names:
        pairs = [
            (judgement.whole[name], case.snr_db)
            for case, judgement in zip(cases, judgements, strict=True)
            if case.snr_db is not None and name in judgement.whole
        ]
        if (found := _correlations(pairs)) is not None:
            ranks[name] = {"cases": len(pairs), "spearman": found["spearman"]}
    return {"rank": ranks}


def group_figures(cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Return AUROC of the headline labels by line, language, source and disturbance.

    For a disturbance, the positives come from its own cases and the negatives from all cases. Other groups contain only
    their own cases. Groups with too few frames of a class are left out.
    """
    names = dict.fromkeys([*GROUPS, *(key for case in cases for key in case.facts)])
    figures: Figures = {}
    for name in names:
        groups: dict[str, Figures] = defaultdict(dict)
        for label in GROUP_LABELS:
            judged = judged_label(cases, judgements, label)
            if judged is None:
                continue
            rest = judged.counted() if name == "disturbance" else None
            for value, area in _by(cases, name, partial(_group_auroc, judged, rest)).items():
                groups[value][label] = area
        if groups:
            figures[name] = dict(sorted(groups.items()))
    return figures


def kind_figures(
    cases: Sequence[Case],
    judgements: Sequence[Judgement],
    others: Sequence[Case],
    other_judgements: Sequence[Judgement],
) -> Figures:
    """Measure one kind of interference: how well `interference` separates its frames from those of all material.

    Args:
        cases: Speech with that kind of interference.
        judgements: The contender's output for these cases.
        others: The main material; its frames without interference are negatives, in addition to those of the cases.
        other_judgements: The contender's output for the main material.
    """
    figures: Figures = {"cases": len(cases)}
    judged = judged_label([*cases, *others], [*judgements, *other_judgements], "interference")
    if judged is not None:
        figures["interference"] = _group_auroc(judged, judged.counted(), list(range(len(cases))))
    ratio = judged_label(cases, judgements, "snr_db")
    if ratio is not None:
        figures["snr_error_below_25_db"] = _hard_error(ratio, list(range(len(cases))))
    return figures


def rating_figures(cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Return Pearson and Spearman correlations of whole-sound figures with human ratings, clip by clip.

    If the material has a `condition`, also of the means per condition, as in P.835 reports.
    """
    figures: Figures = {}
    for rating in RATINGS:
        rows: Figures = {}
        for name in sorted({name for judgement in judgements for name in judgement.whole}):
            triples = [
                (judgement.whole[name], case.ratings[rating], case.facts.get("condition", ("",))[0])
                for case, judgement in zip(cases, judgements, strict=True)
                if rating in case.ratings and name in judgement.whole
            ]
            found = _correlations([(said, rated) for said, rated, _ in triples])
            if found is None:
                continue
            means = _condition_means(triples)
            rows[name] = {"cases": len(triples), **found}
            if (of_means := _correlations(means)) is not None:
                rows[name] |= {"conditions": len(means), **{f"{key}_of_conditions": v for key, v in of_means.items()}}
        if rows:
            figures[rating] = rows
    return figures


def opinion_figures(cases: Sequence[Case], judgements: Sequence[Judgement]) -> Figures:
    """Return the correlation of each opinion score with the teachers' score of the same name, clip by clip."""
    return {name: rows[name] for name, rows in rating_figures(cases, judgements).items() if name in rows}


def straight_line(value: NDArray[np.floating], truth: NDArray[np.floating]) -> tuple[float, float]:
    """Return slope and offset of the least-squares line from value to truth."""
    mean_value, mean_truth = float(np.mean(value, dtype=np.float64)), float(np.mean(truth, dtype=np.float64))
    spread = value - mean_value
    power = float(np.mean(np.square(spread, dtype=np.float64)))
    slope = float(np.mean(spread * truth, dtype=np.float64)) / power if power > 0.0 else 0.0
    return slope, mean_truth - slope * mean_value


def rounded(value: float | None, digits: int = 4) -> float | None:
    """Round for JSON; None stays None."""
    return None if value is None else round(value, digits)


def _by(cases: Sequence[Case], name: str, measure: Callable[[list[int]], Any]) -> dict[str, Any]:
    """Measure each group of cases that share a fact; groups without a result are left out."""
    members: dict[str, list[int]] = defaultdict(list)
    for i, case in enumerate(cases):
        for value in case.facts.get(name, ()):
            members[value].append(i)
    measured = {value: measure(group) for value, group in sorted(members.items())}
    return {value: figure for value, figure in measured.items() if figure is not None}


def _group_auroc(judged: Judged, rest: tuple[Float32, Float32] | None, members: list[int]) -> float | None:
    score, truth = judged.counted(members)
    if rest is not None:
        negative = rest[1] < 0.5
        score = np.concatenate([score[truth > 0.5], rest[0][negative]])
        truth = np.concatenate([truth[truth > 0.5], rest[1][negative]])
    positives = int((truth > 0.5).sum())
    if min(positives, truth.size - positives) < MIN_GROUP_FRAMES:
        return None
    return rounded(auroc(score, truth))


def _hard_error(judged: Judged, members: list[int]) -> float | None:
    score, truth = judged.counted(members)
    hard = truth < HARD_SNR_DB
    return rounded(float(np.abs(score - truth)[hard].mean())) if int(hard.sum()) >= MIN_GROUP_FRAMES else None


def _correlations(pairs: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Return Pearson and Spearman correlations; None with too few pairs or if one side is constant."""
    if len(pairs) < MIN_RANKED:
        return None
    said, true = np.array(pairs, dtype=np.float64).T
    if np.ptp(said) == 0.0 or np.ptp(true) == 0.0:
        return None
    return {
        "pearson": round(float(stats.pearsonr(said, true).statistic), 4),
        "spearman": round(float(stats.spearmanr(said, true).statistic), 4),
    }


def _condition_means(triples: Sequence[tuple[float, float, str]]) -> list[tuple[float, float]]:
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for said, rated, condition in triples:
        if condition:
            groups[condition].append((said, rated))
    return [(float(np.mean([s for s, _ in rows])), float(np.mean([r for _, r in rows]))) for rows in groups.values()]
