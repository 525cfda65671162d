"""Synthetic sounds have the frequencies and cadences of their names."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from made_corpus import RATE_HZ, Float32

from training.mixing.plan import SYNTHS
from training.mixing.synth import (
    CALL_TONES,
    DTMF_COLUMNS_HZ,
    DTMF_ROWS_HZ,
    cadenced,
    dtmf,
    hiss,
    hum,
    room_tone,
    rub,
    wind,
)

COUNT = 4 * RATE_HZ


def peaks_hz(samples: Float32, count: int) -> list[float]:
    """Return the frequencies of the `count` strongest lines, ascending, at least 25 Hz apart."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    found = []
    for _ in range(count):
        top = float(frequency[int(np.argmax(spectrum))])
        found.append(top)
        spectrum[np.abs(frequency - top) < 25.0] = 0.0
    return sorted(found)


@pytest.mark.parametrize("name", sorted(SYNTHS))
def test_every_sound_is_finite_and_below_full_scale_and_repeats_by_seed(name: str) -> None:
    for seed in range(6):
        samples = SYNTHS[name](COUNT, np.random.default_rng(seed))
        assert samples.dtype == np.float32
        assert samples.shape == (COUNT,)
        assert np.isfinite(samples).all()
        assert 0.0 < np.abs(samples).max() <= 1.0
        np.testing.assert_array_equal(samples, SYNTHS[name](COUNT, np.random.default_rng(seed)))
    assert not np.array_equal(samples, SYNTHS[name](COUNT, np.random.default_rng(99)))


@pytest.mark.parametrize("name", sorted(CALL_TONES))
def test_call_tones_have_their_frequencies(name: str) -> None:
    frequencies, _ = CALL_TONES[name]
    samples = cadenced(frequencies, (60.0, 0.0), COUNT, np.random.default_rng(0))
    np.testing.assert_allclose(peaks_hz(samples, len(frequencies)), sorted(frequencies), atol=1.0)


@pytest.mark.parametrize("name", ["busy_us", "busy_uk", "busy_eu", "congestion_us"])
def test_busy_tones_have_their_cadence(name: str) -> None:
    frequencies, (on_s, off_s) = CALL_TONES[name]
    samples = cadenced(frequencies, (on_s, off_s), 20 * RATE_HZ, np.random.default_rng(1))
    loud = np.sqrt(np.mean(samples.reshape(-1, 160) ** 2, axis=1)) > 0.05  # 10 ms steps
    starts = np.flatnonzero(np.diff(loud.astype(np.int8)) == 1)
    stops = np.flatnonzero(np.diff(loud.astype(np.int8)) == -1)
    stops = stops[stops > starts[0]]
    np.testing.assert_allclose(np.diff(starts) / 100.0, on_s + off_s, atol=0.03)
    count = min(len(starts), len(stops))
    np.testing.assert_allclose((stops[:count] - starts[:count]) / 100.0, on_s, atol=0.03)


def test_the_british_ring_comes_in_pairs() -> None:
    frequencies, cadence = CALL_TONES["ring_uk"]
    samples = cadenced(frequencies, cadence, 30 * RATE_HZ, np.random.default_rng(2))
    loud = np.sqrt(np.mean(samples.reshape(-1, 800) ** 2, axis=1)) > 0.02  # 50 ms steps, longer than the 50 Hz beat
    starts = np.flatnonzero(np.diff(loud.astype(np.int8)) == 1) / 20.0
    gaps = np.diff(starts)
    assert set(np.round(gaps, 1)) <= {0.6, 0.5, 0.7, 2.4, 2.3, 2.5}
    assert (np.abs(gaps[:-1] - gaps[1:]) > 1.0).all()


def test_a_key_is_one_row_and_one_column() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        samples = dtmf(COUNT, rng)
        silent = np.flatnonzero(np.abs(samples) > 0.0)
        start = int(silent[0])
        low, high = peaks_hz(samples[start + 80 : start + 80 + 700], 2)
        assert min(abs(low - f) for f in DTMF_ROWS_HZ) < 30.0
        assert min(abs(high - f) for f in DTMF_COLUMNS_HZ) < 30.0


def test_hum_is_harmonics_of_the_mains() -> None:
    for seed in range(6):
        spectrum = np.abs(np.fft.rfft(hum(COUNT, np.random.default_rng(seed)) * np.hanning(COUNT))) ** 2
        frequency = np.fft.rfftfreq(COUNT, 1 / RATE_HZ)

        def share(base: float, power: Float32 = spectrum, at: Float32 = frequency) -> float:
            return float(power[np.abs(at - np.round(at / base) * base) < 4.0].sum() / power.sum())

        assert max(share(50.0), share(60.0)) > 0.95


def test_hiss_and_room_tone_fill_a_band_instead_of_lines() -> None:
    for sound in (hiss, room_tone):
        spectrum = np.abs(np.fft.rfft(sound(COUNT, np.random.default_rng(3)))) ** 2
        assert np.sort(spectrum)[::-1][:20].sum() < 0.5 * spectrum.sum()


def test_wind_is_low_and_comes_in_gusts() -> None:
    samples = wind(4 * RATE_HZ, np.random.default_rng(2))
    power = np.abs(np.fft.rfft(samples)) ** 2
    split = int(1000 * len(samples) / RATE_HZ)
    assert power[:split].sum() > 3.0 * power[split:].sum()
    loudness = np.square(samples).reshape(-1, RATE_HZ // 4).mean(axis=1)
    assert loudness.max() > 2.0 * loudness.min()


def test_rubbing_has_pauses() -> None:
    loudness = np.square(rub(8 * RATE_HZ, np.random.default_rng(1))).reshape(-1, 320).mean(axis=1)
    assert 0.05 < (loudness == 0.0).mean() < 0.95
