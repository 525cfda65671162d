"""Batches contain new mixtures first; reused ones have a different level and colour, and the same targets."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from made_corpus import RUN_CONFIG, made_pool

from speech_qc.contract import FeatureSpec
from training.examples import MixtureExamples, clip_samples
from training.feed import batches, jitter

SPEC = FeatureSpec()
LABELS = RUN_CONFIG.model.labels


def dataset() -> MixtureExamples:
    return MixtureExamples(made_pool(), LABELS, 16_000, 1)


def test_without_reuse_a_batch_is_what_its_number_says() -> None:
    source = dataset()
    third, continued = next(islice(batches(source, RUN_CONFIG, 0), 2, None))
    resumed, _ = next(batches(source, RUN_CONFIG, 2))
    assert not continued
    assert third[0].equal(resumed[0])
    assert third[0][0].equal(source[2 * RUN_CONFIG.batch_size][0])


def test_with_reuse_every_new_batch_gives_several_steps_of_full_size() -> None:
    config = RUN_CONFIG.model_copy(update={"data": RUN_CONFIG.data.model_copy(update={"reuse": 3}), "steps": 6})
    found = list(islice(batches(dataset(), config, 0), 6))
    assert len(found) == 6
    assert all(len(part) == RUN_CONFIG.batch_size for batch, _ in found for part in batch)


def test_long_mixtures_are_learnt_in_consecutive_steps() -> None:
    seconds = RUN_CONFIG.data.clip_seconds
    data = RUN_CONFIG.data.model_copy(update={"long_seconds": 3 * seconds, "long_every": 2})
    config = RUN_CONFIG.model_copy(update={"data": data, "steps": 20})
    source = MixtureExamples(made_pool(), LABELS, clip_samples(data), 1)
    found = list(islice(batches(source, config, 0), 8))
    assert [continued for _, continued in found] == [False, False, True, True] * 2
    for number, parts in ((1, found[1:4]), (3, found[5:8])):
        whole = source[number * config.batch_size, 3 * source.samples]
        for index in range(3):
            torch.testing.assert_close(torch.cat([batch[index][0] for batch, _ in parts]), whole[index])
    for step in (1, 2, 3):  # a run that stopped within the long mixtures begins them again
        resumed, continued = next(batches(source, config, step))
        assert not continued
        assert resumed[0].equal(found[1][0][0])
    assert next(batches(source, config, 4))[0][0].equal(found[4][0][0])


def test_jitter_moves_level_and_colour_together_and_leaves_silence_and_shape() -> None:
    features = torch.full((40, 10, SPEC.columns), -5.0)
    features[:, 5:] = np.log(SPEC.log_floor)
    target, mask = torch.rand(40, 5, 3), torch.ones(40, 5, 3)
    changed, same_target, same_mask = jitter((features, target, mask), np.random.default_rng(0), SPEC)
    assert same_target is target
    assert same_mask is mask
    assert changed[:, 5:].equal(features[:, 5:])
    energy = SPEC.mel_bands + SPEC.waveform_columns.index("log_energy")
    peak = SPEC.mel_bands + SPEC.waveform_columns.index("log_peak")
    moved = (changed - features)[:, 0]
    touched = moved[:, energy] != 0.0
    assert 10 < touched.sum() < 35
    torch.testing.assert_close(moved[:, energy], 2.0 * moved[:, peak], atol=1e-5, rtol=0)
    crest = SPEC.mel_bands + SPEC.waveform_columns.index("crest_db")
    assert moved[:, crest].abs().max() == 0.0
    assert moved[touched, : SPEC.mel_bands].std(dim=1).min() > 0.0
