"""Material of a corpus: mixtures as in training and of single kinds, steady sources, clean recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.config import DataConfig
from training.corpora.manifest import Stem, manifest_sha256, read_manifest, validate
from training.corpora.preprocess import load
from training.evaluation.alone import clean_figures, noise_alone_figures
from training.evaluation.cases import Case, MaterialError, followed_cases, mixed_cases
from training.evaluation.contenders import Contender, Judgement
from training.evaluation.figures import (
    group_figures,
    kind_figures,
    label_areas,
    label_figures,
    psds_figures,
    rounded,
    snr_figures,
)
from training.evaluation.invariance import invariance_figures
from training.evaluation.recordings import MINUTES, recorded_cases, recording_figures
from training.evaluation.steady import TALKERS, steady_cases, steady_figures
from training.examples import choose_stems, clip_samples
from training.material import CLEAN_TELEPHONE, CLEAN_WIDE, MIXED, NOISE_ALONE, ONE_KIND, STEADY_NOISE
from training.mixing.plan import Pool

SPLIT_NAMES = {"train": "training", "valid": "validation", "test": "test"}
SPLIT_MEANINGS = {
    "train": "recordings that training may have used",
    "valid": "speakers and recordings unseen in training, same corpora",
    "test": "speakers and recordings unseen in training and model selection, same corpora",
}
SNR_SUMMARY = ("frames", "error_below_25_db", "median_error_below_25_db")


@dataclass(frozen=True, slots=True)
class MixtureSet:
    """All mixtures of one corpus.

    Attributes:
        mixed: Mixtures as in training.
        clean: Clean speech, `wide` and `telephone`.
        noise_alone: Mixtures without speech.
        kinds: Speech with one kind of interference each; kinds that the pool cannot provide are left out.
        steady_noise: Speech with one steady noise.
        steady: A minute of speech with one steady source, by kind of source.
        recordings: Clean speech as it was recorded, by kind of microphone.
        about: Description of the material for reports.
    """

    mixed: Sequence[Case]
    clean: Mapping[str, Sequence[Case]]
    noise_alone: Sequence[Case]
    kinds: Mapping[str, Sequence[Case]]
    steady_noise: Sequence[Case]
    steady: Mapping[str, Sequence[Case]]
    recordings: Mapping[str, Sequence[Case]]
    about: Mapping[str, Any]


def make_mixtures(
    folder: Path,
    data: DataConfig,
    seed: int,
    *,
    mixtures: int,
    split: str = "valid",
    sources: Sequence[str] = (),
) -> MixtureSet:
    """Render the mixtures of a split and read its clean recordings.

    Args:
        folder: Corpus folder.
        data: Which stems may be used, and the length of a mixture.
        seed: Seed of the mixtures.
        mixtures: Number of mixtures of the main material. Clean wide-band and clean telephone speech get half as many
            each, noise alone and steady noise a quarter, and each kind of interference a tenth. Each kind of steady
            source has a third as many talkers, at most `TALKERS`, and each kind of microphone a third as many minutes,
            at most `MINUTES`.
        split: Split of the manifest.
        sources: Use only stems of these sources, even if the configuration excludes them; rooms come from all sources.

    Raises:
        ManifestError: The manifest cannot be used.
        MaterialError: The manifest does not list these sources.
        ValueError: The manifest leaks between splits, or the pool cannot provide a material.
    """
    pool, stems = evaluation_pool(folder, data, split, sources)
    samples, half, quarter, tenth = clip_samples(data), *(max(1, mixtures // share) for share in (2, 4, 10))
    third = max(1, mixtures // 3)
    mixed = mixed_cases(pool, samples, seed, mixtures, MIXED)
    clean = {
        "wide": mixed_cases(pool, samples, seed, half, CLEAN_WIDE),
        "telephone": mixed_cases(pool, samples, seed, half, CLEAN_TELEPHONE),
    }
    kinds = {
        kind: mixed_cases(pool, samples, seed, tenth, condition)
        for kind, condition in ONE_KIND.items()
        if kind != "music" or pool.by_kind["music"]
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
    return MixtureSet(
        mixed=mixed,
        clean=clean,
        noise_alone=mixed_cases(pool, samples, seed, quarter, NOISE_ALONE),
        kinds=kinds,
        steady_noise=mixed_cases(pool, samples, seed, quarter, STEADY_NOISE),
        steady=steady_cases(pool, seed, min(TALKERS, third)),
        recordings=recorded_cases(folder, stems, seed, min(MINUTES, third)),
        about=about,
    )


def evaluation_pool(folder: Path, data: DataConfig, split: str, sources: Sequence[str]) -> tuple[Pool, list[Stem]]:
    """Read, choose and preprocess the stems of a split."""
    stems = read_manifest(folder)
    wrong = validate(stems)
    if wrong:
        raise ValueError("the manifest is unfit for training:\n  " + "\n  ".join(wrong))
    if sources:
        missing = sorted(set(sources) - {stem.source for stem in stems})
        if missing:
            raise MaterialError(f"expected sources of the manifest; it does not list {', '.join(missing)}")
        stems = [stem for stem in stems if stem.kind == "rir" or stem.source in sources]
        data = data.model_copy(update={"exclude_sources": ()})
    recordings, _ = load(folder, choose_stems(stems, data, split))
    return Pool(recordings), [recording.stem for recording in recordings]


def followed_figures(contender: Contender, cases: Sequence[Case], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Return AUROC per label of every second case, alone and right after the previous case."""
    after = followed_cases(cases)
    said, alone, alone_said = contender.judge(after), cases[1::2], judgements[1::2]
    figures: dict[str, Any] = {"cases": len(after)}
    if not after:
        return figures
    pairs = (label_areas(alone, alone_said), label_areas(after, said))
    figures["labels"] = {
        label: {"alone": area, "after": pairs[1][label]} for label, area in pairs[0].items() if area is not None
    }
    errors = [snr_figures(contender, *part).get("error_below_25_db") for part in ((alone, alone_said), (after, said))]
    if None not in errors:
        figures["snr_error_below_25_db"] = dict(zip(("alone", "after"), errors, strict=True))
    return figures


def mixture_figures(contender: Contender, material: MixtureSet, invariance: int = 0) -> dict[str, Any]:
    """Measure a contender on all mixtures of a material.

    Args:
        contender: The contender.
        material: The mixtures.
        invariance: Number of mixtures on which gain, rate and codec are varied.
    """
    judgements = contender.judge(material.mixed)
    figures: dict[str, Any] = {
        "labels": label_figures(contender, material.mixed, judgements),
        "psds": psds_figures(material.mixed, judgements),
        "snr_db": snr_figures(contender, material.mixed, judgements),
        "groups": group_figures(material.mixed, judgements),
        "kinds": {
            kind: kind_figures(cases, contender.judge(cases), material.mixed, judgements)
            for kind, cases in material.kinds.items()
        },
        "followed": followed_figures(contender, material.mixed, judgements),
    }
    if {"noise", "interference"} & set(contender.enter):  # other contenders would get no figures here
        figures["clean_speech"] = {
            name: clean_figures(contender, cases, contender.judge(cases)) for name, cases in material.clean.items()
        }
    if "speech" in contender.enter:
        alone = material.noise_alone
        figures["noise_alone"] = noise_alone_figures(contender, alone, contender.judge(alone))
    noisy = snr_figures(contender, material.steady_noise, contender.judge(material.steady_noise))
    figures["snr_db"]["steady_noise"] = {key: noisy[key] for key in SNR_SUMMARY if key in noisy}
    if found := steady_figures(contender, material.steady):
        figures["steady"] = found
    if found := recording_figures(contender, material.recordings):
        figures["clean_recordings"] = found
    if invariance:
        figures["invariance"] = invariance_figures(contender, material.mixed[:invariance])
    return figures
