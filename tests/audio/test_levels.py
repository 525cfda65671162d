"""Level measures on signals with known levels."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from speech_qc.audio.g711 import decode_alaw, decode_mulaw, encode_alaw, encode_mulaw
from speech_qc.audio.levels import Levels
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.channel_meter import POOL_ROWS, ChannelMeter, MeterPool

Samples = NDArray[np.float32]


def measure(samples: NDArray[np.floating], rate_hz: int = 16_000, block: int | None = None) -> Levels:
    samples = samples.astype(np.float32)
    meter = ChannelMeter(rate_hz)
    step = block or max(len(samples), 1)
    for start in range(0, len(samples), step):
        meter.push(samples[start : start + step])
    return meter.result()


def assert_alike(found: Levels, expected: Levels, tolerance: float) -> None:
    """Compare measurements; a matrix product of another size rounds otherwise."""
    for name, value in asdict(expected).items():
        assert (getattr(found, name) is None) == (value is None), name
        if value is not None:
            assert getattr(found, name) == pytest.approx(value, rel=tolerance, abs=tolerance), name


def white(count: int, level: float = 0.1) -> NDArray[np.float64]:
    return np.random.default_rng(3).standard_normal(count) * level


def sine(frequency_hz: float, rate_hz: int = 16_000, seconds: float = 2.0) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * frequency_hz * np.arange(int(rate_hz * seconds)) / rate_hz + 0.1)


def pcm16(samples: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.round(np.clip(samples * 32768, -32768, 32767)) / 32768


def voiced(rate_hz: int = 16_000, seconds: float = 5.0) -> NDArray[np.float64]:
    """Generate decaying formants every 8 ms with a slow rise and fall; peak 1."""
    t = np.arange(rate_hz // 125) / rate_hz
    period = sum(np.exp(-np.pi * w * t) * np.sin(2 * np.pi * f * t) for f, w in ((500, 80), (1500, 120), (2500, 160)))
    train = np.tile(period, int(seconds * 125))
    shaped = train * (0.4 + 0.6 * np.abs(np.sin(2 * np.pi * 0.7 * np.arange(len(train)) / rate_hz)))
    shaped += white(len(shaped), 1e-3)
    return shaped / np.abs(shaped).max()


def test_a_full_scale_sine_has_minus_three_dbfs() -> None:
    levels = measure(sine(997))
    assert levels.rms_dbfs == pytest.approx(-3.01, abs=0.01)
    assert levels.peak_dbfs == pytest.approx(0.0, abs=0.01)


def test_peak_beyond_full_scale_is_reported_above_zero() -> None:
    levels = measure(sine(997) * 2)
    assert levels.peak_dbfs == pytest.approx(6.02, abs=0.01)
    assert levels.clipped_ratio == pytest.approx(2 / 3, abs=0.01)  # |2 sin| > 1


def test_offset_is_the_mean() -> None:
    assert measure(sine(1000) * 0.5 - 0.125).dc_offset == pytest.approx(-0.125, abs=1e-6)


def test_no_samples_leave_every_figure_open() -> None:
    assert measure(np.zeros(0)) == Levels(None, None, None, None, None, None)


def test_digital_silence_has_no_level_and_no_bandwidth() -> None:
    assert measure(np.zeros(20_000)) == Levels(None, None, 0.0, 0.0, 1.0, None)


@pytest.mark.parametrize("block", [1, 7, 160, 4095, 4096, 30_000])
def test_block_size_changes_nothing(block: int) -> None:
    samples = pcm16(np.clip(white(30_011, 0.5), -0.8, 0.8))
    samples[8_000:8_500] = 0  # runs and rails across the borders of pieces
    samples[16_380:16_390] = 0.8
    assert measure(samples, block=block) == measure(samples)


@pytest.mark.parametrize("block", [pytest.param(1, marks=pytest.mark.slow), 1600, 4096, 30_011])
def test_each_full_piece_is_told_with_its_mean_square(block: int) -> None:
    samples = white(30_011).astype(np.float32)
    samples[:6400] = 0.0  # silence is reported, too
    told: list[tuple[Samples, float]] = []
    meter = ChannelMeter(16_000, lambda piece, square: told.append((piece.copy(), square)))
    for start in range(0, len(samples), block):
        meter.push(samples[start : start + block])
        meter.result()  # includes the incomplete piece, and reports no run
    pieces = samples[: 4 * 6400].reshape(4, 6400)
    np.testing.assert_array_equal([piece for piece, _ in told], pieces)
    np.testing.assert_allclose(
        [square for _, square in told], np.mean(pieces.astype(np.float64) ** 2, axis=1), rtol=1e-6
    )


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_channels_that_share_a_pool_measure_what_they_measure_alone(rate_hz: int) -> None:
    rng = np.random.default_rng(5)
    channels = [
        white(60_000, 0.3),
        np.clip(voiced(rate_hz, 3.0), -0.4, 0.4),
        np.zeros(50_000),
        np.concatenate([np.zeros(30_000), sine(440, rate_hz)]),
        pcm16(white(40_000, 0.001)),
    ]
    pool = MeterPool()
    meters = [ChannelMeter(rate_hz, pool=pool) for _ in channels]
    done = [0] * len(channels)
    for index in rng.integers(0, len(channels), 400).tolist():
        size = int(rng.integers(1, 900))
        meters[index].push(channels[index][done[index] : done[index] + size].astype(np.float32))
        done[index] += size
    for meter, samples, end in zip(meters, channels, done, strict=True):
        alone = measure(samples[:end], rate_hz)
        assert_alike(meter.result(), alone, 1e-5)
        meter.finish()
        assert_alike(meter.result(), alone, 1e-5)


def test_levels_of_a_recording_do_not_depend_on_when_they_are_asked_for() -> None:
    """Pieces of a recording are measured several at a time, with silence among them as well."""
    samples = np.concatenate([white(20_000, 0.2), np.zeros(14_000), voiced()[:30_000], np.zeros(6_400), white(9_000)])
    asked, silent = ChannelMeter(16_000), ChannelMeter(16_000)
    for start in range(0, len(samples), 6_400):
        piece = samples[start : start + 6_400].astype(np.float32)
        asked.push(piece)
        asked.result()
        silent.push(piece)
    assert_alike(silent.result(), asked.result(), 1e-9)


def test_a_pool_gives_back_the_banks_of_channels_that_are_gone() -> None:
    pool = MeterPool()
    meters = [ChannelMeter(16_000, pool=pool) for _ in range(3 * POOL_ROWS)]
    assert len(pool._banks[16_000, 0, False]) == 3
    del meters
    ChannelMeter(16_000, pool=pool)
    assert len(pool._banks[16_000, 0, False]) == 1


def test_a_meter_keeps_little_memory_however_long_the_stream() -> None:
    meter = ChannelMeter(16_000)

    def held() -> int:
        seen: dict[int, int] = {}
        parts: list[object] = [meter]
        while parts:
            values = list(vars(parts.pop()).values())
            values += [item for value in values if isinstance(value, list) for item in value[:1]]
            seen |= {id(value): value.nbytes for value in values if isinstance(value, np.ndarray)}
            parts += [value for value in values if hasattr(value, "__dict__") and id(value) not in seen]
            seen |= {id(value): 0 for value in values if hasattr(value, "__dict__")}
        return sum(seen.values())

    for _ in range(5):
        meter.push(white(16_000).astype(np.float32))
    before = held()
    assert before > 25_600
    for _ in range(50):
        meter.push(white(16_000).astype(np.float32))
    assert held() == before


def test_asking_for_figures_does_not_disturb_the_stream() -> None:
    samples = np.clip(white(40_000, 0.5), -0.8, 0.8).astype(np.float32)
    samples[9_000:12_000] = 0
    meter = ChannelMeter(16_000)
    for start in range(0, 40_000, 1000):
        meter.push(samples[start : start + 1000])
        meter.result()
    assert_alike(meter.result(), measure(samples), 1e-6)


def test_zeros_count_as_digital_silence_from_ten_milliseconds_on() -> None:
    samples = white(16_000)
    samples[1_000:1_159] = 0  # one sample too short
    samples[8_100:8_260] = 0  # across the border of two pieces
    samples[15_840:] = 0  # open at the end
    assert measure(samples).digital_silence_ratio == pytest.approx(320 / 16_000)


def test_silence_over_several_pieces_is_one_run() -> None:
    samples = white(40_000)
    samples[100:33_000] = 0
    assert measure(samples).digital_silence_ratio == pytest.approx(32_900 / 40_000)


def test_quiet_audio_with_stray_zeros_is_not_digital_silence() -> None:
    samples = pcm16(white(32_000, 1 / 32768))
    assert np.mean(samples == 0) > 0.3
    assert measure(samples).digital_silence_ratio == 0.0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_digital_silence_is_what_is_counted_one_by_one(seed: int, rate_hz: int) -> None:
    rng = np.random.default_rng(seed)
    samples = pcm16(rng.standard_normal(20_000) * 10 ** rng.uniform(-5, -1))
    needed = rate_hz // 100
    for length in (needed - 1, needed, needed + 1, 2 * needed, 5_000, 3):
        anywhere = int(rng.integers(0, 20_000))
        start = int(rng.choice([anywhere, 4096 - length // 2, 8192 - length, 8192, 0, 20_000 - length]))
        samples[start : start + length] = 0.0
    runs = [len(list(group)) for zero, group in itertools.groupby(samples == 0) if zero]
    expected = sum(run for run in runs if run >= needed) / 20_000
    assert measure(samples, rate_hz, block=1_600).digital_silence_ratio == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_plateaus_of_fine_values_are_those_counted_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clipped = np.clip(rng.standard_normal(20_000), -0.7, 0.5)
    for border in (4096, 8192, 16_384):  # runs across the borders of pieces, up to them and from them
        clipped[border - rng.integers(0, 5) : border + rng.integers(0, 5)] = rng.choice([-0.7, 0.5])
    clipped[:3], clipped[-4:], clipped[12_288:16_384] = 0.5, -0.7, rng.choice([0.5, 0.1])
    samples = clipped.astype(np.float32)
    expected = in_runs_at(samples, np.float32(0.5)) + in_runs_at(samples, np.float32(-0.7))
    assert measure(samples, block=1_600).clipped_ratio == pytest.approx(expected, abs=1e-12)


def in_runs_at(samples: NDArray[np.floating], value: float | np.float32) -> float:
    """Return the share of samples in runs of at least three with exactly this value, counted one by one."""
    runs = [len(list(group)) for at, group in itertools.groupby(samples == value) if at]
    return sum(length for length in runs if length >= 3) / len(samples)


@pytest.mark.parametrize("rail", [1.0, 0.98, 0.4])
def test_cut_tops_are_found_at_full_scale_and_at_a_lower_rail(rail: float) -> None:
    clipped = np.clip(voiced() * 3, -1, 1)
    true_ratio = in_runs_at(clipped, 1) + in_runs_at(clipped, -1)
    assert true_ratio > 0.03
    assert measure(pcm16(clipped * rail)).clipped_ratio == pytest.approx(true_ratio, rel=0.02)


def test_cut_tops_are_found_through_telephone_codes() -> None:
    clipped = np.clip(voiced() * 3, -1, 1).astype(np.float32)
    true_ratio = in_runs_at(clipped, 1) + in_runs_at(clipped, -1)
    for samples in (decode_mulaw(encode_mulaw(clipped)), decode_alaw(encode_alaw(clipped))):
        assert measure(samples).clipped_ratio == pytest.approx(true_ratio, rel=0.25)


def test_one_sided_clipping_is_found() -> None:
    clipped = np.maximum(voiced() * 0.6, -0.2)
    assert measure(pcm16(clipped)).clipped_ratio == pytest.approx(in_runs_at(clipped, -0.2), rel=0.02)


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_intact_speech_is_not_clipped(gain: float) -> None:
    intact = (voiced() * gain).astype(np.float32)
    for samples in (pcm16(intact), decode_mulaw(encode_mulaw(intact)), decode_alaw(encode_alaw(intact))):
        clipped = measure(samples).clipped_ratio
        assert clipped is not None
        assert clipped < 1e-3


@pytest.mark.parametrize("frequency_hz", [50, 100, 200, 440, 1000])
def test_an_intact_tone_is_not_clipped_even_in_coarse_codes(frequency_hz: float) -> None:
    tone = (sine(frequency_hz) * 0.7).astype(np.float32)
    for samples in (pcm16(tone), decode_mulaw(encode_mulaw(tone)), decode_alaw(encode_alaw(tone))):
        assert measure(samples).clipped_ratio == 0.0


@pytest.mark.parametrize("bits", [8, 16, 24])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
@pytest.mark.parametrize("level", [1.0, 0.5, 0.06])
def test_a_rounded_tone_is_not_clipped_at_any_rate_and_depth(rate_hz: int, bits: int, level: float) -> None:
    steps = 2 ** (bits - 1)
    for frequency_hz in (20, 50, 100, 350, 425, 1000, 2000, 3000):
        tone = sine(frequency_hz, rate_hz, 1.0) * level
        rounded = np.round(tone * (steps - 1)) / steps
        assert measure(rounded, rate_hz).clipped_ratio == 0.0, frequency_hz


@pytest.mark.parametrize("frequency_hz", [53.7, 440, 1000, 1037])
@pytest.mark.parametrize("rail", [1.0, 0.4])
def test_a_clipped_tone_is_clipped(frequency_hz: float, rail: float) -> None:
    clipped = pcm16(np.clip(sine(frequency_hz) * 2, -1, 1) * rail)
    assert measure(clipped).clipped_ratio == pytest.approx(2 / 3, abs=0.1)


def test_runs_of_one_step_noise_are_not_clipping() -> None:
    assert measure(pcm16(white(16_000, 0.4 / 32768))).clipped_ratio == 0.0


def test_a_constant_is_an_offset_and_not_clipping() -> None:
    levels = measure(np.full(20_000, 0.5))
    assert levels.clipped_ratio == 0.0
    assert levels.dc_offset == 0.5


def test_a_plateau_is_forgotten_when_the_recording_gets_louder() -> None:
    clipped = np.clip(voiced() * 3, -1, 1) * 0.3
    both = np.concatenate([clipped, voiced() * 0.9])
    assert measure(pcm16(clipped)).clipped_ratio > 0.03  # type: ignore[operator]
    assert measure(pcm16(both)).clipped_ratio == 0.0


def low_pass(samples: NDArray[np.float64], rate_hz: int, cutoff_hz: float) -> NDArray[np.float64]:
    taps = np.arange(-200, 201)
    kernel = np.sinc(2 * cutoff_hz / rate_hz * taps) * np.kaiser(401, 9)
    return np.convolve(samples, kernel / kernel.sum(), mode="same")


def test_bandwidth_of_low_passed_noise_is_its_corner() -> None:
    assert measure(low_pass(white(80_000), 16_000, 3400)).bandwidth_hz == pytest.approx(3400, rel=0.1)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_bandwidth_of_white_noise_is_all_there_is(rate_hz: int) -> None:
    assert measure(white(80_000), rate_hz).bandwidth_hz == pytest.approx(rate_hz / 2, rel=0.02)


def test_telephone_audio_in_a_48_khz_file_is_found_out() -> None:
    telephone = decode_mulaw(encode_mulaw(white(40_000).astype(np.float32)))
    assert measure(soxr.resample(telephone, 8_000, 48_000), 48_000).bandwidth_hz == pytest.approx(4000, rel=0.1)


def test_rounding_noise_does_not_widen_a_quiet_recording() -> None:
    quiet = pcm16(low_pass(white(80_000, 0.003), 16_000, 3400))
    assert measure(quiet).bandwidth_hz == pytest.approx(3400, rel=0.1)


def test_offset_and_hum_do_not_narrow_the_bandwidth() -> None:
    hum = sine(50, seconds=5.0) * 0.5 + 0.2 + white(80_000, 0.001)
    assert measure(hum).bandwidth_hz == pytest.approx(8000, rel=0.02)


def test_too_short_a_recording_has_no_bandwidth() -> None:
    levels = measure(white(1023))
    assert levels.bandwidth_hz is None
    assert levels.rms_dbfs is not None


def test_pauses_do_not_count_in_the_spectrum() -> None:
    samples = np.concatenate([white(32_000, 1e-5), low_pass(white(32_000), 16_000, 3400), np.zeros(32_000)])
    assert measure(samples).bandwidth_hz == pytest.approx(3400, rel=0.1)


def test_a_rate_no_speech_recording_has_is_refused_by_the_meter() -> None:
    with pytest.raises(InvalidAudio, match="4000 Hz"):
        ChannelMeter(4000)


def test_figures_are_finite_for_the_loudest_float_samples() -> None:
    levels = measure(np.full(3000, 1e30) * np.tile([1, -1], 1500))
    assert levels.peak_dbfs == pytest.approx(600, abs=0.1)
    assert levels.rms_dbfs is not None
    assert math.isfinite(levels.rms_dbfs)


@pytest.mark.parametrize("rate_hz", [8_000, 8_001, 11_025, 15_999, 16_000, 16_001, 16_100, 16_384, 37_800, 191_999])
@pytest.mark.parametrize("count", [1, 700, 20_000])
def test_every_sample_rate_and_length_can_be_measured(rate_hz: int, count: int) -> None:
    meter = ChannelMeter(rate_hz)
    meter.push(np.random.default_rng(1).uniform(-0.5, 0.5, count).astype(np.float32))
    assert meter.result().rms_dbfs is not None
