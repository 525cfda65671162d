"""Rendering a plan is deterministic, and the targets match the stems."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

pytest.importorskip("torch")

from made_corpus import RATE_HZ, made_pool, seconds, stem

from training.corpora.preprocess import Recording
from training.corpora.taxonomy import BABBLE, SYNTHETIC_TONE, TALKER, meaning_of
from training.examples import MixtureExamples, to_example
from training.mixing.channel import ChannelPlan
from training.mixing.plan import MixPlan, Part, Pool, RoomPlan, SourcePlan, _bed, draw_plan
from training.mixing.render import render
from training.model import FIRST_LABELS

SAMPLES = 4 * RATE_HZ
SPEECH_DBFS = -24.0
ANN, BOB, FAN, KNOCK, SONG, ROOM = range(6)
TRANSPARENT = ChannelPlan(quantise=False)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return made_pool()


def fan(level_db: float, start: int = 0, stop: int = SAMPLES) -> SourcePlan:
    parts = (Part(FAN, 0), Part(FAN, SAMPLES // 2))
    return SourcePlan("recording", meaning_of("fan"), level_db, (start, stop), fade=0, seed=3, parts=parts)


def plan_of(*sources: SourcePlan, channel: ChannelPlan = TRANSPARENT) -> MixPlan:
    return MixPlan(
        seed=1,
        samples=SAMPLES,
        speech=(Part(ANN, 0), Part(ANN, SAMPLES // 2)),
        speech_dbfs=SPEECH_DBFS,
        floor_offset_db=None,
        room=None,
        sources=sources,
        channel=channel,
    )


def without_speech(plan: MixPlan) -> MixPlan:
    """Return the sources without the speech, at the same levels as with it."""
    sources = tuple(replace(s, level_db=s.level_db + plan.speech_dbfs) for s in plan.sources)
    return replace(plan, speech=(), sources=sources)


@pytest.mark.parametrize("pitch_hz", [60.0, 5000.0])
def test_a_tone_that_a_telephone_removes_is_no_tone_behind_it(pool: Pool, pitch_hz: float) -> None:
    sine = (0.1 * np.sin(2 * np.pi * pitch_hz * seconds(4.0))).astype(np.float32)
    sounds = Pool([*pool.recordings, Recording(stem("noise", "hum"), sine, floor_db=-120.0)])
    parts = (Part(len(pool.recordings), 0),)
    tone = SourcePlan("recording", SYNTHETIC_TONE, 0.0, (0, SAMPLES), fade=0, seed=3, parts=parts)
    telephone = ChannelPlan(narrow=True, high_pass_hz=300.0, low_pass_hz=3400.0, law="alaw", quantise=False)
    narrow, wide = (render(plan_of(tone, channel=line), sounds) for line in (telephone, TRANSPARENT))
    for label in ("tone", "interference", "disturbance"):
        assert wide.targets[label].value[5:-5].all(), label
        assert not narrow.targets[label].value[5:-5].any(), label
        assert narrow.targets[label].mask[5:-5].all(), label
    speaking = narrow.targets["snr_db"].mask
    assert narrow.targets["snr_db"].value[speaking].min() > 35.0
    assert wide.targets["snr_db"].value[speaking].max() < 12.0


def test_disturbance_is_either_of_noise_and_interference(pool: Pool) -> None:
    second = RATE_HZ
    noise = fan(-6.0, 0, second)
    parts = (Part(BOB, 0), Part(BOB, 2 * second))
    voices = SourcePlan("babble", BABBLE, -6.0, (2 * second, 3 * second), 0, 4, parts=parts)
    judged = render(plan_of(noise, voices), pool).targets
    either = (judged["noise"].value > 0) | (judged["interference"].value > 0)
    np.testing.assert_array_equal(judged["disturbance"].value > 0, either)
    assert judged["disturbance"].value[:50].all()
    assert judged["disturbance"].value[100:150].sum() > 25
    assert not judged["disturbance"].value[60:95].any()
    assert judged["disturbance"].mask[60:95].all()


def test_a_talker_nearly_as_loud_is_a_disturbance_only_where_it_is_interference(pool: Pool) -> None:
    parts = (Part(BOB, 0), Part(BOB, SAMPLES // 2))
    judged = render(plan_of(SourcePlan("talker", TALKER, -1.0, (0, SAMPLES), 0, 4, parts=parts)), pool).targets
    np.testing.assert_array_equal(judged["disturbance"].value, judged["interference"].value)
    np.testing.assert_array_equal(judged["disturbance"].mask, judged["interference"].mask)


def spoken_apart(*sources: SourcePlan, channel: ChannelPlan) -> MixPlan:
    """Return a plan with 2 s of speech, a pause of 3 s, and speech again."""
    return replace(
        plan_of(*sources, channel=channel), samples=2 * SAMPLES, speech=(Part(ANN, 0), Part(ANN, 5 * RATE_HZ))
    )


@pytest.mark.parametrize("pauses", ["zero", "comfort"])
def test_a_sender_that_takes_noise_for_a_pause_sends_none_of_it(pool: Pool, pauses: str) -> None:
    noise = fan(-6.0, 0, 2 * SAMPLES)
    sender = replace(TRANSPARENT, pauses=pauses, gates_sources=True, comfort_db=-10.0)
    noise = replace(noise, parts=tuple(Part(FAN, second * RATE_HZ) for second in range(8)))
    gated, whole = (render(spoken_apart(noise, channel=line), pool) for line in (sender, TRANSPARENT))
    pause = slice(125, 235)
    assert whole.targets["noise"].value[pause].all()
    silent = gated.samples[pause.start * 320 : pause.stop * 320]
    assert (not silent.any()) == (pauses == "zero")
    if pauses == "comfort":
        kept = whole.samples[pause.start * 320 : pause.stop * 320]
        assert 10.0 * np.log10(np.mean(silent**2) / np.mean(kept**2)) == pytest.approx(-10.0, abs=1.0)
    for label in ("noise", "stationary_noise", "disturbance"):
        target = gated.targets[label]
        assert target.value[10:80].all(), label  # under the speech, it is heard as before
        assert target.mask[pause].any() == (pauses == "zero"), label
        assert not target.value[pause][target.mask[pause]].any(), label
    assert gated.targets["dropout"].mask[pause].all()
    assert not gated.targets["dropout"].value.any()
    rest = gated.stems["source0_recording"]
    assert not rest[pause].any()


def test_a_short_silence_between_words_leaves_open_whether_the_noise_goes_on(pool: Pool) -> None:
    sender = replace(TRANSPARENT, pauses="zero", gates_sources=True)
    plan = replace(spoken_apart(fan(-6.0), channel=sender), samples=SAMPLES, speech=(Part(ANN, 0), Part(ANN, 41_600)))
    noise = render(replace(plan, sources=(fan(-6.0),)), pool).targets["noise"]
    shut = np.flatnonzero(~noise.mask)
    assert shut.size > 5
    assert shut.size <= 50
    assert noise.value[noise.mask].all()


def test_a_second_talker_keeps_the_gate_open(pool: Pool) -> None:
    parts = tuple(Part(BOB, second * 2 * RATE_HZ) for second in range(4))
    talker = SourcePlan("talker", TALKER, -8.0, (0, 2 * SAMPLES), 0, 4, parts=parts)
    sender = replace(TRANSPARENT, pauses="zero", gates_sources=True)
    gated, whole = (render(spoken_apart(talker, channel=line), pool) for line in (sender, TRANSPARENT))
    speaking = whole.targets["interfering_speech"].value > 0
    np.testing.assert_array_equal(gated.targets["interfering_speech"].value[speaking], 1.0)


def test_a_sender_that_gates_no_disturbance_passes_it(pool: Pool) -> None:
    sender = replace(TRANSPARENT, pauses="zero")
    noise = fan(-6.0, 0, SAMPLES)
    gated, whole = (render(plan_of(noise, channel=line), pool) for line in (sender, TRANSPARENT))
    np.testing.assert_array_equal(gated.samples, whole.samples)


def test_the_same_plan_gives_the_same_bits(pool: Pool) -> None:
    for seed in range(12):
        first = render(draw_plan(np.random.default_rng(seed), pool, SAMPLES), pool)
        again = render(draw_plan(np.random.default_rng(seed), made_pool(), SAMPLES), pool)
        assert first.samples.tobytes() == again.samples.tobytes()
        for label, target in first.targets.items():
            np.testing.assert_array_equal(target.value, again.targets[label].value)
            np.testing.assert_array_equal(target.mask, again.targets[label].mask)


def test_different_seeds_give_different_mixtures(pool: Pool) -> None:
    plans = [draw_plan(np.random.default_rng(seed), pool, SAMPLES) for seed in range(12)]
    assert len({render(plan, pool).samples.tobytes() for plan in plans}) == 12


def test_an_example_depends_on_its_number_and_seed_alone(pool: Pool) -> None:
    dataset = MixtureExamples(pool, FIRST_LABELS, SAMPLES, seed=5)
    later = [dataset[index] for index in (3, 0)]
    fresh = MixtureExamples(pool, FIRST_LABELS, SAMPLES, seed=5)[3]
    other = MixtureExamples(pool, FIRST_LABELS, SAMPLES, seed=6)[3]
    assert all(a.equal(b) for a, b in zip(later[0], fresh, strict=True))
    assert not later[0][0].equal(other[0])


def test_stems_add_up_to_the_mixture_on_a_transparent_line(pool: Pool) -> None:
    plan = plan_of(fan(-10.0))
    whole = render(plan, pool).samples
    speech = render(replace(plan, sources=()), pool).samples
    noise = render(without_speech(plan), pool).samples
    assert np.abs(noise).max() > 0.01
    np.testing.assert_allclose(whole, speech + noise, atol=2e-6)


def test_levels_in_the_mixture_are_those_of_the_plan(pool: Pool) -> None:
    stems = render(plan_of(fan(-13.0)), pool).stems
    speech = stems["speech"][stems["speech"] > 1e-4 * stems["speech"].max()]
    assert 10.0 * np.log10(speech.mean()) == pytest.approx(SPEECH_DBFS, abs=1.0)
    assert 10.0 * np.log10(stems["source0_recording"].mean()) == pytest.approx(SPEECH_DBFS - 13.0, abs=0.3)


@pytest.mark.parametrize("channel", [TRANSPARENT, ChannelPlan(narrow=True, low_pass_hz=3400.0, quantise=False)])
@pytest.mark.parametrize("level_db", [-20.0, -3.0, 6.0])
def test_the_snr_target_matches_the_true_energies(pool: Pool, level_db: float, channel: ChannelPlan) -> None:
    plan = plan_of(fan(level_db), channel=channel)
    target = render(plan, pool).targets["snr_db"]
    speech = render(replace(plan, sources=()), pool).samples.astype(np.float64)
    noise = render(without_speech(plan), pool).samples.astype(np.float64)
    assert target.mask.sum() > 50
    checked = 0
    for frame in np.flatnonzero(target.mask[5:-5]) + 5:
        span = slice((frame - 5) * 320, (frame + 6) * 320)
        ratio = 10.0 * np.log10(np.sum(speech[span] ** 2) / np.sum(noise[span] ** 2))
        assert target.value[frame] == pytest.approx(np.clip(ratio, -15.0, 45.0), abs=0.2)
        checked += 1
    assert checked > 50


def test_noise_is_present_where_its_span_is_and_absent_elsewhere(pool: Pool) -> None:
    target = render(plan_of(fan(-6.0, RATE_HZ, 2 * RATE_HZ)), pool).targets["noise"]
    assert target.value[50:100].all()
    assert target.mask[50:100].all()
    away = np.r_[0:44, 106:200]  # the 220 ms mean extends five frames beyond the span
    assert not target.value[away].any()
    assert target.mask[away].all()


def test_speech_alone_is_free_of_every_trouble(pool: Pool) -> None:
    judged = render(plan_of(), pool).targets
    assert judged["speech"].value.any()
    for label, target in judged.items():
        if label not in ("speech", "snr_db"):
            assert not target.value.any(), label
    assert (judged["snr_db"].value[judged["snr_db"].mask] == 45.0).all()


def test_overload_marks_clipping_and_bounds_the_samples(pool: Pool) -> None:
    channel = ChannelPlan(clip_share=0.1, clip_rail=0.5, quantise=False)
    mixture = render(plan_of(channel=channel), pool)
    assert np.abs(mixture.samples).max() == pytest.approx(0.5)
    assert mixture.targets["clipping"].value.sum() > 20


def test_without_planned_overload_a_loud_mixture_stays_below_the_rail(pool: Pool) -> None:
    mixture = render(plan_of(fan(24.0)), pool)
    assert 0.9 < np.abs(mixture.samples).max() <= 0.981
    assert not mixture.targets["clipping"].value.any()


def test_lost_packets_are_marked_as_dropouts_where_they_are(pool: Pool) -> None:
    channel = ChannelPlan(loss_ratio=0.1, loss_seed=4, quantise=False)
    mixture = render(plan_of(fan(-6.0), channel=channel), pool)
    silent = np.mean(mixture.samples.reshape(-1, 320) == 0.0, axis=1)
    dropout = mixture.targets["dropout"]
    assert dropout.value.sum() >= 10
    assert (silent[dropout.value > 0] >= 0.5).all()
    assert (silent[dropout.mask & (dropout.value == 0)] < 0.02).all()


def test_a_telephone_line_keeps_the_number_of_samples_and_frames(pool: Pool) -> None:
    mixture = render(plan_of(fan(-6.0), channel=ChannelPlan(narrow=True, law="alaw")), pool)
    assert mixture.samples.shape == (SAMPLES,)
    assert {target.value.size for target in mixture.targets.values()} == {SAMPLES // 320}
    spectrum = np.abs(np.fft.rfft(mixture.samples))
    assert spectrum[spectrum.size * 5 // 8 :].max() < 0.01 * spectrum.max()


@pytest.mark.parametrize(("tail_gain", "reverberant"), [(1.0, True), (0.03, False)])
def test_reverberation_is_judged_by_the_room_and_its_tail(pool: Pool, tail_gain: float, reverberant: bool) -> None:
    plan = replace(plan_of(), room=RoomPlan(ROOM, tail_gain))
    mixture = render(plan, pool)
    target = mixture.targets["reverberation"]
    assert target.mask.sum() > 50
    assert (target.value[target.mask] == float(reverberant)).all()


def test_an_example_has_features_and_targets_for_every_frame(pool: Pool) -> None:
    dataset = MixtureExamples(pool, FIRST_LABELS, SAMPLES, seed=5)
    features, target, mask = to_example(dataset.mixture(0), FIRST_LABELS, dataset.front_end)
    assert features.shape == (SAMPLES // 160, dataset.front_end.spec.columns)
    assert target.shape == mask.shape == (SAMPLES // 320, len(FIRST_LABELS))
    assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_a_pool_without_speech_is_refused(pool: Pool) -> None:
    with pytest.raises(ValueError, match="speech and noise"):
        Pool([recording for recording in pool.recordings if recording.stem.kind != "speech"])


def test_a_floor_that_an_overload_makes_loud_is_noise_where_nobody_speaks(pool: Pool) -> None:
    driven = ChannelPlan(quantise=False, clip_share=0.05)
    silent = replace(plan_of(channel=driven), speech=(), floor_offset_db=0.0)
    loud, soft = render(silent, pool), render(replace(silent, channel=TRANSPARENT), pool)
    for label in ("noise", "stationary_noise"):
        assert (loud.targets[label].value[5:-5] == 1.0).all()
        assert (soft.targets[label].value == 0.0).all()
        assert soft.targets[label].mask.all()
    talking = render(replace(plan_of(channel=driven), floor_offset_db=0.0), pool)
    assert not talking.targets["noise"].value.any()


def with_bed(pool: Pool, seconds: float = 0.7) -> Pool:
    """Return the pool with room tone: a narrow hiss around 3 kHz, shorter than a mixture."""
    hiss = np.random.default_rng(7).normal(0.0, 0.05, int(seconds * RATE_HZ))
    band = signal.sosfiltfilt(signal.butter(4, (2800.0, 3200.0), "bandpass", fs=RATE_HZ, output="sos"), hiss)
    tone = Recording(stem("bed", "room_tone", "ann"), band.astype(np.float32), floor_db=-40.0)
    return Pool([*pool.recordings, tone])


def test_room_tone_changes_nothing_but_the_floor_of_a_plan(pool: Pool) -> None:
    plans = [draw_plan(np.random.default_rng(seed), pool, SAMPLES) for seed in range(300)]
    toned = [draw_plan(np.random.default_rng(seed), with_bed(pool), SAMPLES) for seed in range(300)]
    assert [replace(plan, bed=None) for plan in toned] == plans
    floored = [plan for plan in toned if plan.floor_offset_db is not None]
    assert 0.5 < sum(plan.bed is not None for plan in floored) / len(floored) < 0.7
    assert all(plan.bed is None for plan in toned if plan.floor_offset_db is None)


def test_a_pool_without_room_tone_draws_nothing_for_it(pool: Pool) -> None:
    rng = np.random.default_rng(1)
    before = rng.bit_generator.state
    assert _bed(rng, pool) is None
    assert rng.bit_generator.state == before


def test_recorded_room_tone_has_the_level_of_a_generated_one_and_its_own_colour(pool: Pool) -> None:
    pool = with_bed(pool)
    plan = replace(plan_of(), floor_offset_db=-2.0)
    bed = Part(len(pool.recordings) - 1, 5_000)
    plain, toned = render(plan, pool), render(replace(plan, bed=bed), pool)
    assert toned.stems["floor"].mean() == pytest.approx(plain.stems["floor"].mean(), rel=0.01)
    power = np.abs(np.fft.rfft(toned.samples - render(replace(plan, floor_offset_db=None), pool).samples)) ** 2
    frequency = np.fft.rfftfreq(SAMPLES, 1.0 / RATE_HZ)
    assert power[(frequency > 2500) & (frequency < 3500)].sum() > 0.95 * power.sum()


def test_the_seams_of_looped_room_tone_are_not_heard(pool: Pool) -> None:
    pool = with_bed(pool, 0.5)
    plan = replace(plan_of(), floor_offset_db=-2.0, bed=Part(len(pool.recordings) - 1, 0))
    levels = 10.0 * np.log10(render(plan, pool).stems["floor"])
    source = pool.recordings[-1].samples
    own = 10.0 * np.log10(np.square(source[: len(source) // 320 * 320]).reshape(-1, 320).mean(axis=1))
    assert levels.max() - levels.mean() < own.max() - own.mean() + 1.5
    assert levels.mean() - levels.min() < own.mean() - own.min() + 1.5


def test_recorded_room_tone_has_no_label(pool: Pool) -> None:
    pool = with_bed(pool)
    plan = replace(plan_of(), floor_offset_db=0.0, bed=Part(len(pool.recordings) - 1, 0))
    judged = render(plan, pool).targets
    for label in ("noise", "interference", "stationary_noise", "tone"):
        assert not judged[label].value.any(), label
