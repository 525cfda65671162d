"""Loudness and true peak on signals whose values EBU Tech 3341 and 3342 or arithmetic give."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from signals import voice
from speech_qc.audio.levels import Levels
from speech_qc.pipeline.channel_meter import ChannelMeter

Samples = NDArray[np.float64]


def measure(samples: Samples, rate_hz: int = 48_000, block: int = 4800) -> Levels:
    meter = ChannelMeter(rate_hz)
    for start in range(0, len(samples), block):
        meter.push(samples[start : start + block].astype(np.float32))
    return meter.result()


def sine(seconds: float, dbfs: float, rate_hz: int = 48_000, hz: float = 1000.0, phase: float = 0.0) -> Samples:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return 10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * time + phase)


def limited(seconds: float, rate_hz: int, seed: int = 0) -> Samples:
    """Generate speech and noise below 0.4 of the rate: near half of it, a true peak depends on the filter."""
    low_hz = rate_hz * 4 // 5
    noise = 0.03 * np.random.default_rng(seed).standard_normal(round(seconds * low_hz))
    return soxr.resample(voice(seconds, rate_hz=low_hz, seed=seed) + noise, low_hz, rate_hz, quality="VHQ")


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 44_100, 48_000, 96_000, 181_760, 191_474, 192_000])
@pytest.mark.parametrize("dbfs", [-23.0, -33.0])
def test_a_sine_in_one_of_two_channels_has_its_level_less_three(rate_hz: int, dbfs: float) -> None:
    found = measure(sine(20, dbfs, rate_hz), rate_hz).loudness_lufs
    # Tech 3341 plays the sine in both channels, which adds 3.01 LU; one channel alone has its mean square.
    assert found == pytest.approx(dbfs - 3.01, abs=0.1)


def test_quiet_passages_are_gated() -> None:
    """Tech 3341, case 3: the parts 13 and 49 LU below the middle do not count."""
    samples = np.concatenate([sine(10, -36.0), sine(60, -23.0), sine(10, -36.0)])
    assert measure(samples).loudness_lufs == pytest.approx(-26.01, abs=0.1)
    samples = np.concatenate([sine(10, -72.0), sine(10, -36.0), sine(60, -23.0), sine(10, -36.0), sine(10, -72.0)])
    assert measure(samples).loudness_lufs == pytest.approx(-26.01, abs=0.1)


def test_short_term_maximum_is_that_of_the_loudest_three_seconds() -> None:
    samples = np.concatenate([sine(5, -40.0), sine(3, -20.0), sine(5, -40.0)])
    assert measure(samples).loudness_max_lufs == pytest.approx(-23.01, abs=0.1)


@pytest.mark.parametrize(("low", "high", "expected"), [(-30.0, -20.0, 10.0), (-20.0, -15.0, 5.0), (-40.0, -20.0, 20.0)])
def test_range_of_two_levels_is_their_distance(low: float, high: float, expected: float) -> None:
    """Tech 3342, cases 1 to 3."""
    assert measure(np.concatenate([sine(20, low), sine(20, high)])).loudness_range_lu == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("hz", "phase"), [(12_000, np.pi / 4), (6_000, np.pi / 3), (8_000, 0.3), (997, 0.0)])
def test_true_peak_lies_between_the_samples(hz: float, phase: float) -> None:
    """Tech 3341, cases 15 to 19: +0.2 and -0.4 dB are allowed."""
    found = measure(sine(0.5, -6.0, hz=hz, phase=phase) * np.minimum(1, np.arange(24_000) / 2400)).true_peak_dbtp
    assert found == pytest.approx(-6.0, abs=0.1)


def test_true_peak_is_at_least_the_highest_sample() -> None:
    levels = measure(voice(4.0, rate_hz=16_000).astype(np.float64), 16_000)
    assert levels.true_peak_dbtp is not None and levels.peak_dbfs is not None
    assert levels.peak_dbfs <= levels.true_peak_dbtp < levels.peak_dbfs + 1.0


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_true_peak_is_that_of_complete_interpolation(rate_hz: int) -> None:
    samples = limited(3.0, rate_hz)
    whole = np.abs(soxr.resample(samples, rate_hz, 16 * rate_hz, quality="VHQ")).max()
    assert measure(samples, rate_hz).true_peak_dbtp == pytest.approx(20 * np.log10(whole), abs=0.1)


@pytest.mark.parametrize("block", [1000, 4096, 7_777])
def test_blocks_change_nothing(block: int) -> None:
    samples = np.concatenate([voice(2.0), np.zeros(9000), 0.1 * voice(2.0, seed=1)]).astype(np.float64)
    assert measure(samples, 16_000, block) == measure(samples, 16_000, len(samples))


def test_too_short_or_too_quiet_has_no_loudness() -> None:
    assert measure(sine(0.3, -20.0)).loudness_lufs is None
    assert measure(sine(2.0, -20.0)).loudness_max_lufs is None
    levels = measure(sine(5.0, -80.0))
    assert (levels.loudness_lufs, levels.loudness_range_lu) == (None, None)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="compares with ffmpeg, which is not installed")
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_figures_are_those_of_ffmpeg(tmp_path, rate_hz: int) -> None:
    samples = np.concatenate([gain * limited(6.0, rate_hz, seed) for seed, gain in enumerate((1.0, 0.1, 0.5, 0.02))])
    soundfile.write(tmp_path / "a.wav", samples, rate_hz, subtype="FLOAT")
    command = ["ffmpeg", "-hide_banner", "-nostats", "-i", str(tmp_path / "a.wav"), "-af", "ebur128=peak=true"]
    said = subprocess.run([*command, "-f", "null", "-"], capture_output=True, text=True, check=True).stderr
    summary = said[said.rindex("Summary") :]
    expected = {
        name: float(re.search(rf"{name}:\s+(-?[\d.]+)", summary)[1])  # type: ignore[index]
        for name in ("I", "LRA", "Peak")
    }
    levels = measure(samples, rate_hz)
    assert levels.loudness_lufs == pytest.approx(expected["I"], abs=0.1)
    assert levels.loudness_range_lu == pytest.approx(expected["LRA"], abs=0.5)
    assert levels.true_peak_dbtp == pytest.approx(expected["Peak"], abs=0.11)  # ffmpeg prints one decimal
