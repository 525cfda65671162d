"""Bandwidth that interpolation and hiss do not change, and what is above 8 kHz."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray
from scipy.signal import resample, resample_poly

from speech_qc.audio.levels import Levels
from speech_qc.pipeline.channel_meter import ChannelMeter

Samples = NDArray[np.float64]


def measure(samples: Samples, rate_hz: int = 16_000) -> Levels:
    meter = ChannelMeter(rate_hz)
    meter.push((np.round(np.clip(samples, -1, 1) * 32767) / 32768).astype(np.float32))
    return meter.result()


def speech(rate_hz: int, seconds: float = 6.0, seed: int = 0) -> Samples:
    """Generate syllables of voiced sound that falls with frequency and of hiss, with pauses; up to half the rate."""
    rng = np.random.default_rng(seed)
    count = round(rate_hz * seconds)
    time = np.arange(count) / rate_hz
    phase = 2 * np.pi * np.cumsum(120 * (1 + 0.1 * np.sin(2 * np.pi * 0.9 * time))) / rate_hz
    harmonics = range(1, int(rate_hz / 2 / 135))
    voiced = sum(np.sin(k * phase + rng.uniform(0, 6)) / k**1.2 for k in harmonics)
    sound = 0.1 * voiced * np.clip(np.sin(2 * np.pi * 2.3 * time), 0, 1)
    sound += 0.02 * rng.standard_normal(count) * np.clip(np.sin(2 * np.pi * 2.3 * time + 2.5), 0, 1) ** 2
    return sound * (np.sin(2 * np.pi * 0.4 * time) > -0.5) + 3e-5 * rng.standard_normal(count)


def upsampled(kind: str, factor: int = 2) -> Samples:
    low = speech(8_000)
    count = factor * len(low)
    if kind == "linear":
        return np.interp(np.arange(count) / factor, np.arange(len(low)), low)
    if kind == "repeated":
        return np.repeat(low, factor)
    if kind == "polyphase":
        return np.asarray(resample_poly(low, factor, 1))
    if kind == "fourier":
        return np.asarray(resample(low, count))
    return soxr.resample(low, 8_000, 8_000 * factor)


@pytest.mark.parametrize("hiss_dbfs", [None, -75.0])
@pytest.mark.parametrize("kind", ["linear", "repeated", "polyphase", "fourier", "soxr"])
@pytest.mark.parametrize("factor", [2, 6])
def test_telephone_speech_stays_narrow_at_a_higher_rate(kind: str, hiss_dbfs: float | None, factor: int) -> None:
    samples = upsampled(kind, factor)
    if hiss_dbfs is not None:
        samples = samples + 10 ** (hiss_dbfs / 20) * np.random.default_rng(5).standard_normal(len(samples))
    found = measure(samples, 8_000 * factor).bandwidth_hz
    assert found is not None
    assert 3000 < found < 4500


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_wide_speech_is_wide_with_and_without_hiss(seed: int, rate_hz: int) -> None:
    clean = speech(rate_hz, seed=seed)
    for samples in (clean, clean + 10 ** (-75 / 20) * np.random.default_rng(5).standard_normal(len(clean))):
        found = measure(samples, rate_hz).bandwidth_hz
        assert found is not None and found > 7000


def test_other_rates_are_found_by_their_mirror() -> None:
    low = speech(11_025)
    samples = np.interp(np.arange(0, len(low) - 1, 11_025 / 44_100), np.arange(len(low)), low)
    assert measure(samples, 44_100).bandwidth_hz == pytest.approx(5512.5, rel=0.05)


def test_a_whine_above_the_range_of_the_model_is_named() -> None:
    quiet = soxr.resample(speech(16_000), 16_000, 48_000)
    whine = 0.05 * np.sin(2 * np.pi * 15_625 * np.arange(len(quiet)) / 48_000)
    levels = measure(quiet + whine, 48_000)
    assert levels.high_tone_hz == pytest.approx(15_625, abs=10)
    assert levels.high_band_dbfs == pytest.approx(20 * np.log10(0.05) - 3.01, abs=1)
    assert levels.bandwidth_hz is not None and levels.bandwidth_hz < 8500
    clean = measure(quiet, 48_000)
    assert clean.high_tone_hz is None
    assert clean.high_band_dbfs is None or clean.high_band_dbfs < -80


def test_a_hiss_above_the_range_of_the_model_has_a_level_and_no_tone() -> None:
    noise = np.random.default_rng(2).standard_normal(6 * 48_000)
    high = noise - soxr.resample(soxr.resample(noise, 48_000, 16_000), 16_000, 48_000)[: len(noise)]
    levels = measure(soxr.resample(speech(16_000), 16_000, 48_000) + 0.01 * high, 48_000)
    assert levels.high_band_dbfs == pytest.approx(20 * np.log10(0.01 * high.std()), abs=1.5)
    assert levels.high_tone_hz is None


def test_a_rate_without_a_high_band_has_no_level_there() -> None:
    levels = measure(speech(16_000))
    assert (levels.high_band_dbfs, levels.high_tone_hz) == (None, None)
