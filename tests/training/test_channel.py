"""Effects of a line: codecs, overload, packet loss, band limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from made_corpus import RATE_HZ, Float32, rush, seconds, talk

from training.mixing.channel import (
    FILE_CODECS,
    ChannelPlan,
    audibly_lost,
    automatic_gain,
    code,
    draw_channel,
    faultless,
    fill_pauses,
    from_line,
    lose_packets,
    overload,
    passed_by_sender,
    to_line,
)


def tone(hz: float, rate_hz: int = RATE_HZ) -> Float32:
    return (0.5 * np.sin(2 * np.pi * hz * seconds(1.0, rate_hz))).astype(np.float32)


def level_db(samples: Float32) -> float:
    return float(10.0 * np.log10(np.mean(np.square(samples[len(samples) // 4 :]))))


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_g711_twice_is_g711_once(law: str) -> None:
    plan = ChannelPlan(narrow=True, law=law)
    once = code(talk(0.5, 150.0), plan)
    np.testing.assert_array_equal(code(once, plan), once)
    assert np.unique(once).size <= 256


@pytest.mark.parametrize("law", ["mulaw", "alaw"])
def test_g711_keeps_speech_to_about_35_db(law: str) -> None:
    samples = talk(0.5, 150.0)
    error = code(samples, ChannelPlan(narrow=True, law=law)) - samples
    assert 30.0 < 10.0 * np.log10(np.mean(samples**2) / np.mean(error**2)) < 45.0


def test_a_converter_rounds_to_16_bits() -> None:
    steps = code(talk(0.5, 150.0), ChannelPlan()) * 32768.0
    np.testing.assert_array_equal(steps, np.round(steps))
    assert np.abs(code(np.array([-3.0, 3.0], np.float32), ChannelPlan())).max() <= 1.0


def test_a_transparent_line_changes_nothing() -> None:
    plan, samples = ChannelPlan(quantise=False), talk(0.5, 150.0)
    passed, beyond, gain = overload(to_line(samples, plan), plan)
    passed, lost = lose_packets(code(passed, plan), plan)
    np.testing.assert_array_equal(from_line(passed, plan), samples)
    assert gain == 1.0
    assert not beyond.any()
    assert not lost.any()


def test_lost_samples_are_exactly_the_zeros_of_the_output() -> None:
    samples = rush(10.0, 1)
    assert (samples != 0.0).all()
    out, lost = lose_packets(samples, ChannelPlan(loss_ratio=0.1, loss_burst=2.0, loss_seed=3))
    np.testing.assert_array_equal(out == 0.0, lost)
    np.testing.assert_array_equal(out[~lost], samples[~lost])


@pytest.mark.parametrize(("ratio", "burst"), [(0.05, 1.0), (0.1, 3.0)])
def test_loss_has_the_planned_ratio_and_burst_length(ratio: float, burst: float) -> None:
    plan = ChannelPlan(loss_ratio=ratio, loss_burst=burst, loss_seed=1)
    _, lost = lose_packets(np.ones(400 * RATE_HZ, np.float32), plan)
    bursts = np.count_nonzero(np.diff(lost.astype(np.int8)) == 1)
    assert lost.mean() == pytest.approx(ratio, rel=0.15)
    assert lost.sum() / 320 / bursts == pytest.approx(burst, rel=0.15)


def test_repeated_packets_are_copies_of_the_last_good_one() -> None:
    samples = rush(4.0, 2)
    out, lost = lose_packets(samples, ChannelPlan(loss_ratio=0.1, loss_fill="repeat", loss_seed=3))
    start = int(np.flatnonzero(lost)[0])
    np.testing.assert_array_equal(out[start : start + 320], samples[start - 320 : start])


def test_faded_packets_get_quieter_with_every_repeat() -> None:
    plan = ChannelPlan(loss_ratio=0.2, loss_burst=4.0, loss_fill="fade", loss_seed=3)
    out, lost = lose_packets(np.ones(20 * RATE_HZ, np.float32), plan)
    assert {0.5, 0.25, 0.125} <= set(out[lost].tolist()) <= {0.5**k for k in range(1, 200)}


@pytest.mark.parametrize("share", [0.005, 0.05])
def test_overload_puts_the_planned_share_beyond_the_rail(share: float) -> None:
    samples = talk(2.0, 150.0)
    sounding = np.abs(samples) > 0.05 * np.abs(samples).max()
    out, beyond, gain = overload(samples, ChannelPlan(clip_share=share, clip_rail=0.6))
    assert np.count_nonzero(beyond) / np.count_nonzero(sounding) == pytest.approx(share, abs=0.1 * share)
    np.testing.assert_allclose(out[~beyond], samples[~beyond] * gain, atol=1e-6)
    np.testing.assert_allclose(np.abs(out[beyond]), 0.6, atol=1e-6)


def test_soft_overload_bends_before_it_limits() -> None:
    out, beyond, _ = overload(talk(2.0, 150.0), ChannelPlan(clip_share=0.05, clip_soft=True))
    assert beyond.any()
    assert np.abs(out).max() < 1.0
    assert np.unique(np.abs(out[beyond])).size > 10


def test_silence_is_not_overloaded() -> None:
    out, beyond, gain = overload(np.zeros(1000, np.float32), ChannelPlan(clip_share=0.1))
    assert not out.any()
    assert not beyond.any()
    assert gain == 1.0


def test_a_narrow_line_carries_8_khz_and_comes_back_at_16() -> None:
    plan = ChannelPlan(narrow=True)
    carried = to_line(tone(1000.0), plan)
    assert len(carried) == 8_000
    back = from_line(carried, plan)
    np.testing.assert_allclose(back[2000:-2000], tone(1000.0)[2000:-2000], atol=2e-3)
    assert level_db(to_line(tone(6000.0), plan)) < -60.0


def test_band_limits_take_away_what_lies_outside() -> None:
    plan = ChannelPlan(high_pass_hz=300.0, low_pass_hz=3400.0)
    assert level_db(to_line(tone(1000.0), plan)) == pytest.approx(level_db(tone(1000.0)), abs=0.2)
    assert level_db(to_line(tone(100.0), plan)) < level_db(tone(100.0)) - 30.0
    assert level_db(to_line(tone(7000.0), plan)) < level_db(tone(7000.0)) - 20.0


def test_drawn_lines_are_ones_that_exist() -> None:
    plans = [draw_channel(np.random.default_rng(seed)) for seed in range(600)]
    assert {plan.law for plan in plans} == {None, "mulaw", "alaw"}
    assert all(plan.narrow for plan in plans if plan.law)
    assert 0.25 < np.mean([plan.narrow for plan in plans]) < 0.45
    assert {plan.loss_fill for plan in plans} == {"zero", "repeat", "fade"}
    for plan in plans:
        assert plan.clip_share is None or 0.002 <= plan.clip_share <= 0.12
        assert plan.loss_ratio is None or 0.01 <= plan.loss_ratio <= 0.2
        assert 0.0 < plan.clip_rail <= 1.0
        assert plan.mnru_q_db is None or 8.0 <= plan.mnru_q_db <= 35.0
        assert plan.suppressor_db is None or 10.0 <= plan.suppressor_db <= 35.0
    assert 0.03 < np.mean([plan.mnru_q_db is not None for plan in plans]) < 0.09
    assert 0.02 < np.mean([plan.suppressor_db is not None for plan in plans]) < 0.08


def test_a_faultless_line_keeps_what_does_no_damage() -> None:
    kept = ChannelPlan(narrow=True, law="alaw", codec="gsm", agc_db=3.0, pauses="zero", dc=0.01)
    damaged = replace(kept, clip_share=0.1, loss_ratio=0.1, mnru_q_db=10.0, suppressor_db=20.0)
    assert faultless(damaged) == kept


@pytest.mark.parametrize("name", sorted(FILE_CODECS))
def test_file_codecs_neither_shift_nor_shorten(name: str) -> None:
    plan = ChannelPlan(narrow=name in ("gsm", "adpcm"), codec=name, codec_effort=0.5)
    samples = talk(1.0, 150.0, rate_hz=plan.rate_hz)
    out = code(samples, plan)
    assert out.shape == samples.shape
    assert not np.array_equal(out, samples)
    likeness = [np.corrcoef(out[2000:-2000], np.roll(samples, shift)[2000:-2000])[0, 1] for shift in range(-8, 9)]
    assert abs(int(np.argmax(likeness)) - 8) <= 1
    assert max(likeness) > 0.8


def test_automatic_gain_stays_in_its_range_and_is_slow() -> None:
    plan = ChannelPlan(agc_db=12.0, agc_seed=3)
    gain = automatic_gain(48_000, plan)
    assert gain is not None
    level = 20.0 * np.log10(gain)
    assert np.abs(level).max() <= 6.01
    assert np.ptp(level) > 1.0
    assert np.abs(np.diff(level)).max() < 0.01
    assert automatic_gain(48_000, ChannelPlan()) is None


@pytest.mark.parametrize("pauses", ["zero", "comfort"])
def test_silence_suppression_touches_pauses_alone(pauses: str) -> None:
    plan = ChannelPlan(pauses=pauses)
    samples = rush(2.0, 4)
    speaking = np.arange(100) < 40
    passed = passed_by_sender(speaking)
    quiet = samples * np.float32(0.1)
    out, other = fill_pauses([samples, quiet], passed, 0.0, plan)
    np.testing.assert_array_equal(out[: 50 * 320], samples[: 50 * 320])  # 200 ms of hang-over
    rest = out[51 * 320 :]
    assert (rest == 0.0).all() if pauses == "zero" else not np.array_equal(rest, samples[51 * 320 :])
    if pauses == "comfort":
        assert level_db(rest) == pytest.approx(level_db(samples[51 * 320 :] + quiet[51 * 320 :]), abs=1.0)
    np.testing.assert_array_equal(other[: 50 * 320], quiet[: 50 * 320])
    assert not other[51 * 320 :].any()


def test_a_loss_is_audible_unless_its_filling_is_like_what_was_sent() -> None:
    samples = tone(500.0)
    lost = np.zeros(len(samples), dtype=bool)
    lost[3200:3520] = lost[6400:6720] = lost[9600:9920] = lost[12800:13120] = True
    heard = samples.copy()
    heard[3200:3520] = samples[3200 - 320 : 3520 - 320]  # ten periods later: the same
    heard[6400:6720] = 0.0
    heard[9600:9920] = samples[9600 - 312 : 9920 - 312]  # a quarter period off: same sound
    heard[12800:13120] = tone(2000.0)[12800:13120]
    np.testing.assert_array_equal(np.flatnonzero(audibly_lost(heard, samples, lost, 320)), [20, 40])
