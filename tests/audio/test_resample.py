"""Resampling: exact lengths and positions, independent of how the input is split."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speech_qc.audio.resample import TARGET_RATE_HZ, Resampler
from speech_qc.errors import InvalidAudio

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
    edge = 400  # the filter also covers the start and the end of the tone
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


@settings(max_examples=40)
@given(blocks=st.lists(st.integers(0, 700), min_size=1, max_size=12))
def test_doubling_does_not_depend_on_blocks_of_any_size(blocks: list[int]) -> None:
    samples = noise(sum(blocks))
    resampler, ready, start = Resampler(8000), [], 0
    for block in blocks:
        ready.append(resampler.push(samples[start : start + block]))
        start += block
    found = np.concatenate([*ready, resampler.finish()])
    np.testing.assert_array_equal(found, resample(samples, 8000, max(1, len(samples))))
    assert len(found) == 2 * len(samples)


def test_doubling_holds_live_audio_back_for_the_filters_reach_alone() -> None:
    resampler = Resampler(8000)
    assert resampler.latency_samples / TARGET_RATE_HZ < 0.012
    resampler.push(noise(8000))
    assert 2 * resampler.samples_in - resampler.samples_out == resampler.latency_samples


def level_db(samples: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def test_doubling_is_soxrs_filter() -> None:
    samples = noise(16_000)
    expected = soxr.resample(samples, 8000, TARGET_RATE_HZ)
    found = resample(samples, 8000, 160)
    assert level_db(found - expected) < level_db(expected) - 110


@pytest.mark.parametrize("frequency_hz", (50, 300, 1000, 3400, 3600))
def test_telephone_tones_keep_their_level_and_get_no_image(frequency_hz: int) -> None:
    tone = np.sin(2 * np.pi * frequency_hz * np.arange(16_000) / 8000).astype(np.float32)
    out = resample(tone, 8000, 800)[8000:24_000]  # whole periods: each line is one bin
    power = np.square(np.abs(np.fft.rfft(out.astype(np.float64)))) / 8000**2
    assert 10 * np.log10(power[frequency_hz]) == pytest.approx(0.0, abs=0.01)
    assert 10 * np.log10(np.delete(power, frequency_hz).max()) < -90


def test_a_gap_of_digital_zeros_stays_one() -> None:
    samples = noise(8000)
    samples[3000:4000] = 0.0
    out = resample(samples, 8000, 160)
    assert np.all(out[6000 + 200 : 8000 - 200] == 0.0)


def test_a_long_recording_pushed_at_once_is_not_kept() -> None:
    resampler = Resampler(8000)
    resampler.push(noise(100_000))
    recent = resampler._stream._recent  # type: ignore[union-attr]
    assert recent.base is None
    assert len(recent) < 200


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
