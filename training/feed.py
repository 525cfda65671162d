"""The batches of training steps: new mixtures, reused mixtures with varied level and colour, and rated clips."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from speech_qc.contract import FeatureSpec
from training.config import TrainConfig
from training.examples import Example, MixtureExamples, clip_samples, collate
from training.mos import MosClips

REUSE_BATCHES = 40  # number of recent batches from which mixtures are reused
NEW_SHARE = 0.5  # share of the newest mixtures in a batch with reuse
JITTERED_SHARE = 0.6  # share of the mixtures whose level and spectral colour are varied
SOFTER_DB, LOUDER_DB = 12.0, 2.0  # louder would exceed full scale, which the waveform columns would have to reflect
COLOUR_DB = 3.0
DIGITAL_SILENCE = math.log(1e-9)  # log energy; quieter rows stay unchanged, because silence has no level
NEPER_PER_DB = math.log(10.0) / 10.0  # features are natural logs of power


def batches(
    dataset: MixtureExamples, config: TrainConfig, first_step: int, mos: MosClips | None = None
) -> Iterator[tuple[Example, bool]]:
    """Yield the batch of each step from the given step on, and whether its first clips continue those of the last one.

    Every `long_every`-th batch of new mixtures is of long ones, which are learnt in as many steps as they are longer.
    The new mixtures of a step depend only on its number, so a resumed run continues the sequence, at the beginning of
    the long mixtures if it stopped within them. With `reuse` above 1, the store of earlier mixtures is empty after a
    resume.
    """
    first = batch_of_step(config, first_step)
    loader: DataLoader[Example] = DataLoader(
        dataset,
        batch_sampler=[_keys(config, dataset.samples, number) for number in range(first, config.steps)],
        num_workers=config.data.workers,
        collate_fn=collate,
        prefetch_factor=4 if config.data.workers else None,
    )
    feed = _Feed(config, dataset.front_end.spec, dataset.samples, first_step)
    for fresh in loader:
        for batch, follows in feed.steps(fresh):
            yield batch if mos is None else _with_rated(batch, mos.take(feed.step, config.data.mos_per_batch)), follows
            feed.step += 1


class _Feed:
    """Turns batches of new mixtures into the batches of steps; keeps the recent mixtures that are reused.

    Args:
        config: Reuse and jitter.
        spec: Order of the columns.
        samples: Length of a usual mixture.
        step: Number of the first step.
    """

    def __init__(self, config: TrainConfig, spec: FeatureSpec, samples: int, step: int) -> None:
        self.step = step
        self._config, self._spec, self._rows = config, spec, samples // spec.hop_samples
        self._draws = np.random.default_rng([config.seed, step])
        self._store: list[Example] = []

    def steps(self, fresh: Example) -> Iterator[tuple[Example, bool]]:
        """Yield the batches that one batch of new mixtures makes, and whether each continues the one before it."""
        if fresh[0].shape[1] > self._rows:
            yield from self._long_steps(fresh)
        else:
            yield from ((batch, False) for batch in self._usual_steps(fresh))

    def _long_steps(self, fresh: Example) -> Iterator[tuple[Example, bool]]:
        """Cut long mixtures into stretches; level and colour are those of one microphone, so they are varied once."""
        if self._config.data.jitter:
            fresh = self._jitter(fresh)
        for index in range(fresh[0].shape[1] // self._rows):
            yield _piece(fresh, index, self._rows), index > 0

    def _usual_steps(self, fresh: Example) -> Iterator[Example]:
        """Use new mixtures once, or several times among recent ones."""
        reuse = self._config.data.reuse
        self._store = [*self._store[-REUSE_BATCHES + 1 :], fresh]
        for _ in range(reuse):
            batch = fresh if reuse == 1 else _drawn(self._draws, self._store, self._config.batch_size)
            yield self._jitter(batch) if reuse > 1 or self._config.data.jitter else batch

    def _jitter(self, batch: Example) -> Example:
        return jitter(batch, np.random.default_rng([self._config.seed, self.step]), self._spec)


def batch_of_step(config: TrainConfig, step: int) -> int:
    """Return the number of the batch of new mixtures that a step learns from."""
    data = config.data
    if not data.long_seconds:
        return step // data.reuse
    usual = data.long_every - 1
    cycle, rest = divmod(step, usual * data.reuse + long_steps(config))
    return cycle * data.long_every + min(rest // data.reuse, usual)


def long_steps(config: TrainConfig) -> int:
    """Return the number of steps in which long mixtures are learnt."""
    return clip_samples(config.data, config.data.long_seconds) // clip_samples(config.data)


def _keys(config: TrainConfig, samples: int, number: int) -> list[tuple[int, int]]:
    """Return index and length of each mixture of a batch."""
    if config.data.long_seconds and number % config.data.long_every == config.data.long_every - 1:
        samples *= long_steps(config)
    return [(number * config.batch_size + index, samples) for index in range(config.batch_size)]


def _piece(batch: Example, index: int, rows: int) -> Example:
    """Return the index-th stretch of `rows` feature rows of long mixtures."""
    features, target, mask = batch
    frames = rows // 2
    part = slice(index * frames, (index + 1) * frames)
    return features[:, index * rows : (index + 1) * rows], target[:, part], mask[:, part]


def _with_rated(batch: Example, rated: Example) -> Example:
    """Add rated clips to a batch."""
    missing = batch[1].shape[2] - rated[1].shape[2]  # the speech shares, which were not stored with the clips
    value, mask = (functional.pad(part, (0, missing)) for part in rated[1:])
    return torch.cat([batch[0], rated[0]]), torch.cat([batch[1], value]), torch.cat([batch[2], mask])


def _drawn(rng: np.random.Generator, store: list[Example], count: int) -> Example:
    """Draw half of a batch from the newest mixtures and half from all stored ones."""
    newest = round(count * NEW_SHARE) if len(store) > 1 else count
    places = [(len(store) - 1, int(row)) for row in rng.permutation(len(store[-1][0]))[:newest]]
    while len(places) < count:
        which = int(rng.integers(len(store)))
        places.append((which, int(rng.integers(len(store[which][0])))))
    columns: list[Tensor] = [torch.stack([store[b][part][row] for b, row in places]) for part in range(3)]
    return columns[0], columns[1], columns[2]


def jitter(batch: Example, rng: np.random.Generator, spec: FeatureSpec) -> Example:
    """Vary level and spectral colour of a share of the mixtures, like a different microphone.

    Args:
        batch: Features (B, T, F), targets, masks; not changed.
        rng: Random generator.
        spec: Order of the columns.
    """
    features, target, mask = batch
    features = features.clone()
    bands = spec.mel_bands
    energy, peak = (bands + spec.waveform_columns.index(name) for name in ("log_energy", "log_peak"))
    position = np.linspace(0.0, np.pi, bands)
    for clip in np.flatnonzero(rng.random(len(features)) < JITTERED_SHARE):
        rows = features[clip]
        sounding = (rows[:, energy] > DIGITAL_SILENCE).float().unsqueeze(1)
        gain_db = float(rng.uniform(-SOFTER_DB, LOUDER_DB))
        waves = sum(rng.normal(0.0, 0.5) * np.cos(k * position + rng.uniform(0.0, 6.28)) for k in (1, 2, 3))
        colour = torch.from_numpy(np.asarray(gain_db + COLOUR_DB * waves, np.float32) * np.float32(NEPER_PER_DB))
        rows[:, :bands] += colour * sounding
        rows[:, energy] += gain_db * NEPER_PER_DB * sounding[:, 0]
        rows[:, peak] += gain_db * NEPER_PER_DB / 2.0 * sounding[:, 0]
        rows[:, :bands].clamp_(min=math.log(spec.log_floor))
    return features, target, mask
