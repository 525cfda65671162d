"""Training examples by index: example i of a seed is the same mixture on every machine and after every resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from speech_qc.audio.features import FrontEnd
from training.config import DataConfig
from training.corpora.manifest import Stem, read_manifest, validate
from training.corpora.preprocess import Report, load
from training.mixing.plan import RATE_HZ, Pool, draw_plan
from training.mixing.render import Mixture, render
from training.mixing.targets import FrameTarget

Example = tuple[Tensor, Tensor, Tensor]
"""features (T, F), targets (T / 2, C), mask (T / 2, C) as float32."""


def choose_stems(stems: Sequence[Stem], data: DataConfig, split: str) -> list[Stem]:
    """Return the stems of a split that the configuration allows; unlabelled real recordings are never mixed."""
    return [
        stem
        for stem in stems
        if stem.split == split
        and stem.kind != "real_noisy"
        and stem.source not in data.exclude_sources
        and (stem.commercial or not data.commercial_only)
    ]


def load_pool(folder: Path, data: DataConfig, split: str) -> tuple[Pool, Report, list[Stem]]:
    """Read the manifest, choose stems and preprocess them.

    Raises:
        ManifestError: The manifest cannot be used.
        ValueError: The manifest is unfit for training, for instance because it leaks between splits.
    """
    stems = read_manifest(folder)
    wrong = validate(stems)
    if wrong:
        raise ValueError("the manifest is unfit for training:\n  " + "\n  ".join(wrong))
    chosen = choose_stems(stems, data, split)
    recordings, report = load(folder, chosen)
    return Pool(recordings), report, [recording.stem for recording in recordings]


class MixtureExamples(Dataset[Example]):
    """Infinite map-style dataset: index i draws and renders mixture i.

    Args:
        pool: Stems to mix.
        labels: Order of the target columns.
        samples: Length of a mixture, a multiple of 320.
        seed: Seeds all random draws, together with the index.
    """

    def __init__(self, pool: Pool, labels: Sequence[str], samples: int, seed: int) -> None:
        self.pool, self.labels, self.samples, self.seed = pool, tuple(labels), samples, seed
        self.front_end = FrontEnd()

    def mixture(self, index: int) -> Mixture:
        """Return mixture number `index`."""
        rng = np.random.default_rng([self.seed, index])
        return render(draw_plan(rng, self.pool, self.samples), self.pool)

    def __getitem__(self, index: int) -> Example:
        """Return features, targets and mask of mixture `index`."""
        return to_example(self.mixture(index), self.labels, self.front_end)


def to_example(mixture: Mixture, labels: Sequence[str], front_end: FrontEnd) -> Example:
    """Return the feature rows and target matrices of a mixture.

    The windows of the last frames extend beyond the end, where the sound is mirrored as at the end of a file.
    """
    spec = front_end.spec
    frames = len(mixture.samples) // spec.frame_samples
    samples = mixture.samples[: frames * spec.frame_samples]
    padded = np.concatenate([samples, samples[: -spec.overlap_samples - 1 : -1]])
    features = front_end(padded[None])[0]
    unknown = FrameTarget(np.zeros(frames), np.zeros(frames, dtype=bool))  # opinion scores have no target from stems
    judged = [mixture.targets.get(label, unknown) for label in labels]
    value = np.stack([target.value[:frames] for target in judged], axis=1)
    mask = np.stack([target.mask[:frames] for target in judged], axis=1)
    return torch.from_numpy(features), torch.from_numpy(value).float(), torch.from_numpy(mask).float()


def clip_samples(data: DataConfig) -> int:
    """Return the length of a training mixture in samples, rounded down to whole frames."""
    return int(data.clip_seconds * RATE_HZ) // 320 * 320


def collate(examples: list[Any]) -> Example:
    """Stack examples of equal length."""
    features, targets, masks = zip(*examples, strict=True)
    return torch.stack(features), torch.stack(targets), torch.stack(masks)
