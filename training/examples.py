"""Training examples by index: example i of a seed is the same mixture on every machine and after every resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from speech_qc.audio.features import FrontEnd
from training.config import DataConfig
from training.corpora.manifest import Stem, read_manifest, validate
from training.corpora.preprocess import Report, load
from training.mixing.plan import RATE_HZ, Pool, draw_plan
from training.mixing.render import Mixture, render
from training.mixing.targets import FrameTarget, speech_shares

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
        snr_bands: Bands whose speech shares follow the labels in the targets.
    """

    def __init__(self, pool: Pool, labels: Sequence[str], samples: int, seed: int, snr_bands: int = 0) -> None:
        self.pool, self.labels, self.samples, self.seed = pool, tuple(labels), samples, seed
        self.snr_bands, self.front_end = snr_bands, FrontEnd()

    def mixture(self, index: int, samples: int | None = None) -> Mixture:
        """Return mixture number `index`, of the given length instead of the usual one."""
        rng = np.random.default_rng([self.seed, index])
        return render(draw_plan(rng, self.pool, samples or self.samples), self.pool)

    def __getitem__(self, key: int | tuple[int, int]) -> Example:
        """Return features, targets and mask of a mixture, by index or by index and length."""
        index, samples = key if isinstance(key, tuple) else (key, self.samples)
        return to_example(self.mixture(index, samples), self.labels, self.front_end, self.snr_bands)


def to_example(mixture: Mixture, labels: Sequence[str], front_end: FrontEnd, snr_bands: int = 0) -> Example:
    """Return the feature rows and target matrices of a mixture.

    The windows of the last frames extend beyond the end, where the sound is mirrored as at the end of a file. With
    `snr_bands`, as many columns with the speech share of each band follow those of the labels.
    """
    spec = front_end.spec
    frames = len(mixture.samples) // spec.frame_samples
    features = _features(mixture.samples, front_end)
    unknown = FrameTarget(np.zeros(frames), np.zeros(frames, dtype=bool))  # opinion scores have no target from stems
    judged = [mixture.targets.get(label, unknown) for label in labels]
    value = np.stack([target.value[:frames] for target in judged], axis=1)
    mask = np.stack([target.mask[:frames] for target in judged], axis=1)
    if snr_bands and mixture.parts is not None:
        powers = [_band_powers(part, front_end, snr_bands) for part in mixture.parts]
        shares, sounding = speech_shares(powers[0], powers[1])
        sounding &= mask[:, [labels.index("snr_db")]]
        value, mask = np.concatenate([value, shares], axis=1), np.concatenate([mask, sounding], axis=1)
    return torch.from_numpy(features), torch.from_numpy(value).float(), torch.from_numpy(mask).float()


def _features(samples: NDArray[np.float32], front_end: FrontEnd) -> NDArray[np.float32]:
    spec = front_end.spec
    samples = samples[: len(samples) // spec.frame_samples * spec.frame_samples]
    rows = front_end(np.concatenate([samples, samples[: -spec.overlap_samples - 1 : -1]])[None])
    return np.asarray(rows[0])


def _band_powers(samples: NDArray[np.float32], front_end: FrontEnd, bands: int) -> NDArray[np.float64]:
    """Return the power per frame in `bands` groups of mel bands, (frames, bands), on the scale of the features."""
    spec = front_end.spec
    power = np.exp(_features(samples, front_end)[:, : spec.mel_bands].astype(np.float64)) - spec.log_floor
    groups = np.maximum(power, 0.0).reshape(-1, spec.hops_per_frame, bands, spec.mel_bands // bands)
    return np.asarray(groups.mean(axis=(1, 3)))


def clip_samples(data: DataConfig, seconds: float | None = None) -> int:
    """Return the length of a training mixture in samples, rounded down to whole frames."""
    return int((seconds or data.clip_seconds) * RATE_HZ) // 320 * 320


def collate(examples: list[Any]) -> Example:
    """Stack examples of equal length."""
    features, targets, masks = zip(*examples, strict=True)
    return torch.stack(features), torch.stack(targets), torch.stack(masks)
