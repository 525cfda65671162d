"""Mixtures of a corpus as material: mixed as in training, clean speech wide and telephone, noise alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import DataConfig
from training.corpora.manifest import Stem, manifest_sha256, read_manifest, validate
from training.corpora.preprocess import load
from training.evaluation.cases import Case, MaterialError, mixed_cases
from training.evaluation.contenders import Contender
from training.evaluation.figures import (
    clean_figures,
    group_figures,
    label_figures,
    noise_alone_figures,
    psds_figures,
    rounded,
    snr_figures,
)
from training.evaluation.invariance import invariance_figures
from training.examples import choose_stems, clip_samples
from training.material import CLEAN_TELEPHONE, CLEAN_WIDE, MIXED, NOISE_ALONE
from training.mixing.plan import Pool

SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test"}
SPLIT_MEANINGS = {
    "train": "the very recordings that training may have used",
    "valid": "speakers and recordings unseen in training, same corpora",
    "test": "speakers and recordings unseen in training and in every choice, same corpora",
}


@dataclass(frozen=True, slots=True)
class MixtureSet:
    """All mixtures of one corpus.

    Attributes:
        mixed: As in training.
        clean: `wide` and `telephone`.
        noise_alone: Nobody speaks.
        about: What the figures' readers must know.
    """

    mixed: Sequence[Case]
    clean: Mapping[str, Sequence[Case]]
    noise_alone: Sequence[Case]
    about: Mapping[str, Any]


def make_mixtures(
    folder: Path,
    data: DataConfig,
    labels: Sequence[str],
    seed: int,
    *,
    mixtures: int,
    split: str = "valid",
    sources: Sequence[str] = (),
) -> MixtureSet:
    """Render the mixtures of a split.

    Args:
        folder: Corpus folder.
        data: Which stems may be used, and how long a mixture is.
        labels: Columns of the targets.
        seed: Of the mixtures.
        mixtures: Of the main material; a quarter of it each for clean speech and noise alone.
        split: Of the manifest.
        sources: Only stems of these sources, whatever the configuration leaves out; rooms are taken from all.

    Raises:
        ManifestError: The manifest cannot be used.
        MaterialError: It does not list these sources.
        ValueError: It leaks between splits, or the pool cannot make a material.
    """
    pool, stems = evaluation_pool(folder, data, split, sources)
    samples, quarter = clip_samples(data), max(1, mixtures // 4)
    mixed = mixed_cases(pool, labels, samples, seed, mixtures, MIXED)
    clean = {
        "wide": mixed_cases(pool, labels, samples, seed, quarter, CLEAN_WIDE),
        "telephone": mixed_cases(pool, labels, samples, seed, quarter, CLEAN_TELEPHONE),
    }
    of_sources = f", sources {', '.join(sources)} only" if sources else ""
    about = {
        "what": f"mixtures of the {SPLIT_NAMES[split]} split{of_sources}: {SPLIT_MEANINGS[split]}",
        "mixtures": mixtures,
        "clip_seconds": data.clip_seconds,
        "hours": rounded(sum(case.seconds for case in mixed) / 3600),
        "stems": len(stems),
        "seed": seed,
        "manifest_sha256": manifest_sha256(folder),
    }
    return MixtureSet(mixed, clean, mixed_cases(pool, labels, samples, seed, quarter, NOISE_ALONE), about)


def evaluation_pool(folder: Path, data: DataConfig, split: str, sources: Sequence[str]) -> tuple[Pool, list[Stem]]:
    """Read, choose and preprocess the stems of a split."""
    stems = read_manifest(folder)
    wrong = validate(stems)
    if wrong:
        raise ValueError("the manifest is unfit for training:\n  " + "\n  ".join(wrong))
    if sources:
        missing = sorted(set(sources) - {stem.source for stem in stems})
        if missing:
            raise MaterialError(f"expected sources of the manifest, it does not list {', '.join(missing)}")
        stems = [stem for stem in stems if stem.kind == "rir" or stem.source in sources]
        data = data.model_copy(update={"exclude_sources": ()})
    recordings, _ = load(folder, choose_stems(stems, data, split))
    return Pool(recordings), [recording.stem for recording in recordings]


def mixture_figures(contender: Contender, material: MixtureSet, invariance: int = 0) -> dict[str, Any]:
    """Everything that mixtures tell of a contender.

    Args:
        contender: Who is measured.
        material: On what.
        invariance: Mixtures on which gain, rate and codec are varied.
    """
    judgements = contender.judge(material.mixed)
    figures: dict[str, Any] = {
        "labels": label_figures(contender, material.mixed, judgements),
        "psds": psds_figures(material.mixed, judgements),
        "snr_db": snr_figures(contender, material.mixed, judgements),
        "groups": group_figures(material.mixed, judgements),
    }
    if {"noise", "interference"} & set(contender.enter):  # the others would cost time and say nothing
        figures["clean_speech"] = {
            name: clean_figures(contender, cases, contender.judge(cases)) for name, cases in material.clean.items()
        }
    if "speech" in contender.enter:
        alone = material.noise_alone
        figures["noise_alone"] = noise_alone_figures(contender, alone, contender.judge(alone))
    if invariance:
        figures["invariance"] = invariance_figures(contender, material.mixed[:invariance])
    return figures
