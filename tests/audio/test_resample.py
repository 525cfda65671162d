"""Resampling: exact lengths, true positions, and no influence of how the input was cut."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from service.audio.resample import TARGET_RATE_HZ, Resampler
from service.errors import InvalidAudio

RATES_HZ = (8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000)


def resample(samples: NDArray[np.float32], rate_hz: int, block: int) -> NDArray[np.float32]:
    resampler = Resampler(rate_hz)
    ready = [resampler.push(samples[start : start + block]) for start in range(0, len(samples), block)]
    return np.concatenate([*ready, resampler.finish()])


def noise(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).uniform(-0.5, 0.5, count).astype(np.float32)


def exact_length(count: int, rate_hz: int) -> int:
    return -(-count * TARGET_RATE_HZ // rate_hz)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_block_size_does_not_change_a_bit(rate_hz: int) -> None:
    samples = noise(rate_hz // 2 + 17)
    whole = resample(samples, rate_hz, len(samples))
    assert whole.dtype == np.float32
    for block in (7, 160, 8000):
        np.testing.assert_array_equal(resample(samples, rate_hz, block), whole)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_single_samples_give_the_same_as_all_at_once(rate_hz: int) -> None:
    samples = noise(5003)
    np.testing.assert_array_equal(resample(samples, rate_hz, 1), resample(samples, rate_hz, 5003))


@pytest.mark.parametrize("rate_hz", (*RATES_HZ, 8001, 15999, 16001, 37800))
def test_output_length_is_rounded_up_exactly(rate_hz: int) -> None:
    for count in (1, 2, 3, 100, 159, 161, rate_hz // 7, rate_hz // 4 + 11):
        assert len(resample(noise(count), rate_hz, count)) == exact_length(count, rate_hz), count


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tone_keeps_its_phase(rate_hz: int) -> None:
    count = rate_hz // 2
    tone = np.sin(2 * np.pi * 1000 * np.arange(count) / rate_hz).astype(np.float32)
    out = resample(tone, rate_hz, 160)
    expected = np.sin(2 * np.pi * 1000 * np.arange(len(out)) / TARGET_RATE_HZ)
    edge = 400  # the filter sees the start and the end of the tone
    np.testing.assert_allclose(out[edge:-edge], expected[edge:-edge], atol=1e-5)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_an_impulse_stays_where_it_was(rate_hz: int) -> None:
    impulse = np.zeros(rate_hz // 2, np.float32)
    impulse[rate_hz // 4] = 1.0
    peak = int(np.argmax(np.abs(resample(impulse, rate_hz, 160))))
    assert peak == TARGET_RATE_HZ // 4 or abs(peak - rate_hz // 4 * TARGET_RATE_HZ / rate_hz) < 1


def test_the_models_own_rate_passes_untouched_and_at_once() -> None:
    samples = noise(1000)
    resampler = Resampler(TARGET_RATE_HZ)
    np.testing.assert_array_equal(resampler.push(samples), samples)
    assert len(resampler.finish()) == 0
    assert resampler.latency_samples == 0


def test_nothing_in_gives_nothing_out() -> None:
    resampler = Resampler(8000)
    assert len(resampler.push(np.zeros(0, np.float32))) == 0
    assert len(resampler.finish()) == 0


@pytest.mark.parametrize("rate_hz", (8000, 11025, 48000))
def test_no_more_than_the_stated_latency_is_held_back(rate_hz: int) -> None:
    resampler = Resampler(rate_hz)
    held = 0.0
    for _ in range(100):
        resampler.push(noise(rate_hz // 100))
        held = max(held, resampler.samples_in * TARGET_RATE_HZ / rate_hz - resampler.samples_out)
    assert 0 < held <= resampler.latency_samples
    assert resampler.latency_samples < TARGET_RATE_HZ // 8


@pytest.mark.parametrize("rate_hz", (0, -1, 7999, 192001))
def test_a_rate_no_speech_recording_has_is_refused(rate_hz: int) -> None:
    with pytest.raises(InvalidAudio, match=f"8000 to 192000 Hz, got {rate_hz} Hz"):
        Resampler(rate_hz)


def test_a_finished_resampler_takes_no_more() -> None:
    resampler = Resampler(8000)
    resampler.finish()
    with pytest.raises(RuntimeError, match="push after finish"):
        resampler.push(noise(10))
    with pytest.raises(RuntimeError, match="finish was called twice"):
        resampler.finish()
