"""Noise that follows the signal, and over-suppression: they damage the speech and are no background noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from made_corpus import RATE_HZ, Float32, made_pool, rush, talk

from training.corpora.taxonomy import SYNTHETIC_NOISE
from training.mixing.channel import ChannelPlan
from training.mixing.distortion import PEAK, add_correlated_noise, suppress_noise
from training.mixing.plan import MixOdds, MixPlan, SourcePlan, draw_plan
from training.mixing.render import render


def ratio_db(signal: Float32, error: Float32) -> float:
    return float(10.0 * np.log10(np.mean(np.square(signal)) / np.mean(np.square(error))))


@pytest.mark.parametrize("q_db", [8.0, 20.0, 35.0])
def test_correlated_noise_has_the_planned_ratio(q_db: float) -> None:
    samples = 0.2 * talk(4.0, 150.0)
    noisy, gain = add_correlated_noise(samples, q_db, 1)
    assert gain == 1.0
    assert ratio_db(samples, noisy - samples) == pytest.approx(q_db, abs=0.4)


def test_correlated_noise_is_silent_where_the_signal_is() -> None:
    samples = talk(1.0, 150.0)
    samples[4000:8000] = 0.0
    noisy, _ = add_correlated_noise(samples, 8.0, 1)
    assert not noisy[4000:8000].any()
    assert (noisy[:2000] != samples[:2000]).any()


def test_correlated_noise_causes_no_overload() -> None:
    samples = np.sign(talk(1.0, 150.0)).astype(np.float32)
    noisy, gain = add_correlated_noise(samples, 8.0, 1)
    assert np.abs(noisy).max() == pytest.approx(PEAK, abs=1e-6)
    assert 0.2 < gain < 0.9
    assert ratio_db(np.float32(gain) * samples, noisy - np.float32(gain) * samples) == pytest.approx(8.0, abs=0.4)


def test_suppressed_stems_add_up_to_the_suppressed_mixture() -> None:
    voice, noise = talk(2.0, 150.0), rush(2.0, 1, 0.02)
    mixture = voice + noise
    whole, voice_left, noise_left = suppress_noise(mixture, (mixture, voice, noise), RATE_HZ, 25.0, 0.0)
    np.testing.assert_allclose(whole, voice_left + noise_left, atol=1e-6)
    assert ratio_db(noise, noise_left) > 6.0
    assert ratio_db(voice, voice_left) < 2.0


def test_a_suppressor_that_reaches_further_removes_more_speech() -> None:
    voice = talk(2.0, 150.0)
    errors = [suppress_noise(voice, [voice], RATE_HZ, 30.0, reach)[0] - voice for reach in (-12.0, -3.0, 3.0)]
    powers = [float(np.mean(np.square(error))) for error in errors]
    assert powers[0] < powers[1] < powers[2]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000])
def test_a_suppressor_without_depth_changes_nothing(rate_hz: int) -> None:
    voice = talk(1.0, 150.0, rate_hz=rate_hz)
    (left,) = suppress_noise(voice, [voice], rate_hz, 0.0, 3.0)
    np.testing.assert_allclose(left, voice, atol=1e-6)


def quiet_plan(channel: ChannelPlan) -> MixPlan:
    """Return undisturbed speech over a line."""
    odds = MixOdds(speech=1.0, noise=0.0, interference=0.0, room=0.0)
    plan = draw_plan(np.random.default_rng(3), made_pool(), 3 * RATE_HZ, odds)
    return replace(plan, speech_dbfs=-26.0, channel=channel)


def test_correlated_noise_changes_the_sound_but_no_target() -> None:
    lines = ChannelPlan(), ChannelPlan(mnru_q_db=12.0, mnru_seed=5)
    plain, noisy = (render(quiet_plan(line), made_pool()) for line in lines)
    assert ratio_db(plain.samples, noisy.samples - plain.samples) == pytest.approx(12.0, abs=0.5)
    for label, target in plain.targets.items():
        np.testing.assert_array_equal(noisy.targets[label].value, target.value, err_msg=label)
        np.testing.assert_array_equal(noisy.targets[label].mask, target.mask, err_msg=label)


def test_the_targets_of_a_suppressed_mixture_come_from_what_is_left() -> None:
    plan, pool = quiet_plan(ChannelPlan()), made_pool()
    source = SourcePlan("synth", SYNTHETIC_NOISE, -20.0, (0, plan.samples), 0, 7, synth="hiss")
    before = render(replace(plan, sources=(source,)), pool)
    line = replace(ChannelPlan(), suppressor_db=30.0, suppressor_reach_db=-3.0)
    after = render(replace(plan, sources=(source,), channel=line), pool)
    name = "source0_synth"
    assert after.stems[name].mean() < 0.5 * before.stems[name].mean()
    assert after.stems["speech"].mean() > 0.5 * before.stems["speech"].mean()
    heard = np.square(after.samples.astype(np.float64)).reshape(-1, 320).mean(axis=1)
    parts = after.stems["speech"] + after.stems["floor"] + after.stems[name]
    assert 10.0 * np.log10(heard.mean() / parts.mean()) == pytest.approx(0.0, abs=1.0)


def test_a_suppressor_works_only_on_speech() -> None:
    plan = replace(quiet_plan(ChannelPlan(suppressor_db=30.0)), speech=())
    source = SourcePlan("synth", SYNTHETIC_NOISE, -30.0, (0, plan.samples), 0, 7, synth="hiss")
    suppressed = render(replace(plan, sources=(source,)), made_pool())
    plain = render(replace(plan, sources=(source,), channel=ChannelPlan()), made_pool())
    np.testing.assert_array_equal(suppressed.samples, plain.samples)
