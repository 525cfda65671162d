"""Leaky means and PCEN: the recursion they stand for, and the same result for any chunking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from speech_qc.contract import FeatureSpec
from training.memory import BLOCK_FRAMES, keep_of, leaky_means
from training.pcen import Pcen

SPEC = FeatureSpec()


@pytest.mark.parametrize("frames", [1, 5, BLOCK_FRAMES, 3 * BLOCK_FRAMES + 7])
def test_leaky_means_are_first_order_filters(frames: int) -> None:
    keeps = (0.5, keep_of(1.0, 0.02), keep_of(16.0, 0.02))
    rows, start = torch.randn(2, frames, 3), torch.randn(2, 3, 3)
    found = leaky_means(rows, start, keeps).numpy()
    for index, keep in enumerate(keeps):
        past = keep * start[:, index].double().numpy()[:, None]
        expected, _ = lfilter([1.0 - keep], [1.0, -keep], rows.double().numpy(), axis=1, zi=past)
        np.testing.assert_allclose(found[:, index], expected, atol=2e-6)


def test_pcen_forgets_the_level_but_not_a_change() -> None:
    pcen = Pcen(SPEC.mel_bands, SPEC.hops_per_frame, SPEC.frame_hop_s)
    mean, spread = torch.full((SPEC.mel_bands,), -8.0), torch.full((SPEC.mel_bands,), 3.0)
    soft = torch.rand(1, 800, SPEC.mel_bands) - 9.0
    soft[:, 600:] += 4.0  # a louder sound begins
    with torch.no_grad():
        (image, _), (louder, _) = (
            pcen(features, torch.zeros(1, SPEC.mel_bands), mean, spread) for features in (soft, soft + 3.0)
        )
    steady, onset = image[:, 400:600], image[:, 600:610]
    assert (louder[:, 400:600] - steady).abs().mean() < 0.1 * steady.abs().mean()
    assert onset.mean() > 3.0 * steady.mean()


@pytest.mark.parametrize("level", [-8.0, np.log(SPEC.log_floor)], ids=["loud", "digital silence"])
def test_pcen_says_the_same_for_any_chunking(level: float) -> None:
    pcen = Pcen(SPEC.mel_bands, SPEC.hops_per_frame, SPEC.frame_hop_s)
    mean, spread = torch.full((SPEC.mel_bands,), -8.0), torch.full((SPEC.mel_bands,), 3.0)
    features = torch.clamp(3.0 * torch.randn(2, 360, SPEC.mel_bands) + level, min=np.log(SPEC.log_floor))
    state, parts = torch.zeros(2, SPEC.mel_bands), []
    with torch.no_grad():
        whole, last = pcen(features, state, mean, spread)
        for chunk in features.split([2, 10, 48, *[2] * 150], dim=1):
            image, state = pcen(chunk, state, mean, spread)
            parts.append(image)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)
