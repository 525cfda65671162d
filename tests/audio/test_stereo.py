"""Comparison of two channels, cancellation, and the noise floor."""

from __future__ import annotations

import numpy as np
import pytest

from signals import voice, white_noise
from speech_qc.audio.noise_floor import NoiseFloorMeter
from speech_qc.audio.stereo import CancellationMeter, Stereo, StereoMeter


def compare(first, second, block: int = 4800) -> Stereo:
    meter = StereoMeter()
    for start in range(0, len(first), block):
        meter.push(first[start : start + block], second[start : start + block])
    return meter.result()


def test_equal_inverted_and_unrelated_channels_are_told_apart() -> None:
    one, other = voice(3.0), voice(3.0, pitch_hz=210, seed=3)
    assert compare(one, one).correlation == pytest.approx(1.0)
    opposite = compare(one, -0.5 * one)
    assert opposite.correlation == pytest.approx(-1.0)
    assert opposite.imbalance_db == pytest.approx(6.02, abs=0.01)
    assert opposite.inverted is True
    unrelated = compare(one, other)
    assert unrelated.inverted is False
    assert abs(unrelated.correlation or 0.0) < 0.2


def test_an_offset_does_not_correlate() -> None:
    assert abs(compare(white_noise(2.0) + 0.2, white_noise(2.0, seed=1) + 0.2).correlation or 0.0) < 0.05


def test_a_silent_channel_cannot_be_compared() -> None:
    found = compare(voice(1.0), np.zeros(16_000, np.float32))
    assert (found.correlation, found.imbalance_db, found.inverted) == (None, None, None)
    assert set(found.reasons) == {"correlation", "imbalance_db", "inverted"}
    assert StereoMeter().result().reasons["correlation"] == "no audio was received"


@pytest.mark.parametrize("block", [1, 4096, 5000])
def test_blocks_change_nothing(block: int) -> None:
    one, other = voice(0.7), white_noise(0.7)
    assert compare(one, other, block) == compare(one, other, 100_000)


def lost_db(*channels) -> float | None:
    block = np.stack(channels, axis=1)
    meter = CancellationMeter()
    meter.push(block, block.mean(axis=1, dtype=np.float32))
    return meter.result()


def test_cancellation_is_measured_against_unrelated_channels() -> None:
    one = voice(2.0)
    assert lost_db(one, -one) == CancellationMeter.MOST_DB
    assert lost_db(one, one) == pytest.approx(-3.01, abs=0.01)
    assert lost_db(one, white_noise(2.0)) == pytest.approx(0.0, abs=0.5)
    assert lost_db(one, 0 * one, 0 * one, 0 * one) == pytest.approx(0.0, abs=0.01)
    assert lost_db(0 * one, 0 * one) is None


def floor_dbfs(levels, block: int, dc_offset: float = 0.0) -> float | None:
    meter = NoiseFloorMeter()
    for start in range(0, len(levels), block):
        meter.push(levels[start : start + block])
    return meter.result(dc_offset)


@pytest.mark.parametrize("block", [5, 128, 200, 1000])
def test_noise_floor_is_the_level_of_the_quietest_frames(block: int) -> None:
    rng = np.random.default_rng(0)
    levels = np.concatenate([rng.normal(-25, 4, 800), rng.normal(-60, 0.5, 200), np.full(300, -120)])
    levels = rng.permutation(levels).astype(np.float32)
    assert floor_dbfs(levels, block) == pytest.approx(-60, abs=0.3)  # digital silence is left out
    assert floor_dbfs(levels, block) == floor_dbfs(levels, 1300)


def test_noise_floor_excludes_the_offset_and_needs_half_a_second() -> None:
    offset = 0.01
    levels = np.full(200, 10 * np.log10(1e-4 + offset**2), np.float32)
    assert floor_dbfs(levels, 5, offset) == pytest.approx(-40, abs=0.5)
    assert floor_dbfs(levels[:20], 5) is None
