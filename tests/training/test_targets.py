"""The definition of every label, tested at its exact limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from training.corpora.taxonomy import BABBLE, SYNTHETIC_TONE, TALKER, UNKNOWN, Meaning, meaning_of
from training.mixing import targets
from training.mixing.labels import BRIDGED_FRAMES, label_targets
from training.mixing.plan import SourceKind, SourcePlan
from training.mixing.targets import NEW_VOICE_FRAMES, TALKER_KNOWN_FRAMES, Float64, FrameTarget

FRAMES = 60
SPEECH_DBFS = -20.0


def energy(*runs: tuple[float, int]) -> Float64:
    """Return frame energies from (level in dBFS, frames)."""
    return np.concatenate([np.full(count, 10.0 ** (level / 10.0)) for level, count in runs])


def steady(level_dbfs: float) -> Float64:
    return energy((level_dbfs, FRAMES))


def source(meaning: Meaning, kind: SourceKind = "recording") -> SourcePlan:
    return SourcePlan(kind, meaning, level_db=-10.0, span=(0, FRAMES * 320), fade=0, seed=0)


def judge(
    speech_dbfs: float | None,
    *sources: tuple[SourcePlan, Float64],
    floor_dbfs: float = -110.0,
    c50_db: float | None = None,
    clipped: Float64 | None = None,
    lost: Float64 | None = None,
) -> dict[str, FrameTarget]:
    """Return the targets of FRAMES frames of steady speech (or none) with sources."""
    speech = np.zeros(FRAMES) if speech_dbfs is None else steady(speech_dbfs)
    stems = {"dry": speech, "speech": speech, "floor": steady(floor_dbfs)}
    none = np.zeros(FRAMES)
    return label_targets(
        stems,
        list(sources),
        speech_dbfs is not None,
        c50_db,
        none if clipped is None else clipped,
        none if lost is None else lost,
    )


def state_of(target: FrameTarget) -> str:
    """Return the value of a target that is the same in every frame, as one word."""
    if not target.mask.any():
        return "masked"
    assert target.mask.all()
    assert np.unique(target.value).size == 1
    return "present" if target.value[0] == 1.0 else "absent"


# Speech activity


def test_pauses_of_60_ms_belong_to_the_speech_and_longer_ones_do_not() -> None:
    short = targets.speech_activity(energy((-20, 20), (-120, 3), (-20, 20)))
    long = targets.speech_activity(energy((-20, 20), (-120, 4), (-20, 20)))
    assert short.all()
    np.testing.assert_array_equal(np.flatnonzero(~long), [20, 21, 22, 23])


def test_silence_at_the_edges_is_no_pause_within_the_speech() -> None:
    active = targets.speech_activity(energy((-120, 2), (-20, 20), (-120, 3)))
    np.testing.assert_array_equal(np.flatnonzero(active), np.arange(2, 22))


@pytest.mark.parametrize(("below", "spoken"), [(34.99, True), (35.01, False)])
def test_speech_reaches_35_db_below_its_loud_frames(below: float, spoken: bool) -> None:
    active = targets.speech_activity(energy((-20, 100), (-20 - below, 6)))
    assert active[:100].all()
    assert active[100:].all() == active[100:].any() == spoken


@pytest.mark.parametrize(("level", "spoken"), [(-64.99, True), (-65.01, False)])
def test_speech_below_minus_65_dbfs_is_not_heard(level: float, spoken: bool) -> None:
    active = targets.speech_activity(energy((-40, 100), (level, 6)))
    assert active[100:].all() == active[100:].any() == spoken


def test_digital_silence_holds_no_speech() -> None:
    assert not targets.speech_activity(np.zeros(30)).any()
    assert targets.active_level_db(np.zeros(30), np.zeros(30, dtype=bool)) is None


def test_the_active_level_is_that_of_the_speech_frames_alone() -> None:
    levels = energy((-20, 20), (-120, 40))
    level = targets.active_level_db(levels, targets.speech_activity(levels))
    assert level == pytest.approx(-20.0)


# Presence of a source


@pytest.mark.parametrize(
    ("speech", "level", "expected"),
    [
        (-20.0, -47.99, "present"),
        (-20.0, -48.01, "masked"),
        (-20.0, -57.99, "masked"),
        (-20.0, -59.99, "masked"),
        (-20.0, -60.01, "absent"),
        # for soft speech the limit follows the speech level, down to an absolute minimum
        (-35.0, -62.99, "present"),
        (-35.0, -63.01, "masked"),
        (-35.0, -74.99, "masked"),
        (-35.0, -75.01, "absent"),
        (-55.0, -73.99, "present"),
        (-55.0, -74.01, "masked"),
        (-55.0, -79.99, "masked"),
        (-55.0, -80.01, "absent"),
        # without speech only the absolute limits apply
        (None, -57.99, "present"),
        (None, -58.01, "masked"),
        (None, -67.99, "masked"),
        (None, -68.01, "absent"),
    ],
)
def test_a_source_is_present_masked_or_absent_by_its_level(speech: float | None, level: float, expected: str) -> None:
    assert state_of(judge(speech, (source(meaning_of("fan")), steady(level)))["noise"]) == expected


def test_a_gap_in_a_loud_source_is_masked_not_absent() -> None:
    heard, unheard = targets.presence(energy((-30, 20), (-120, 2), (-30, 20)), SPEECH_DBFS)
    np.testing.assert_array_equal(np.flatnonzero(~heard), [20, 21])
    assert not unheard.any()


def test_nothing_is_present_and_absent_at_once() -> None:
    rng = np.random.default_rng(0)
    levels = 10.0 ** (rng.uniform(-12.0, 0.0, 500))
    heard, unheard = targets.presence(levels, -25.0)
    assert heard.any()
    assert not (heard & unheard).any()


def test_the_moving_mean_spans_220_ms_and_the_edges_average_what_there_is() -> None:
    impulse = np.zeros(40)
    impulse[20] = 1.0
    smoothed = targets.smooth(impulse)
    np.testing.assert_allclose(smoothed[15:26], 1.0 / 11.0)
    assert smoothed[14] == smoothed[26] == 0.0
    assert targets.smooth(np.eye(1, 40)[0])[0] == pytest.approx(1.0 / 6.0)


# SNR


def test_snr_is_the_ratio_of_speech_to_everything_else() -> None:
    noise, music = source(meaning_of("fan")), source(meaning_of("music"))
    target = judge(-20.0, (noise, steady(-33.0)), (music, steady(-33.0)), floor_dbfs=-110.0)["snr_db"]
    assert target.mask.all()
    np.testing.assert_allclose(target.value, 13.0 - 10.0 * np.log10(2.0), atol=1e-6)


def test_the_floor_counts_as_something_else() -> None:
    np.testing.assert_allclose(judge(-20.0, floor_dbfs=-50.0)["snr_db"].value, 30.0, atol=1e-9)


@pytest.mark.parametrize(("level", "expected"), [(-70.0, 45.0), (0.0, -15.0)])
def test_snr_stays_within_its_range(level: float, expected: float) -> None:
    np.testing.assert_array_equal(judge(-20.0, (source(meaning_of("fan")), steady(level)))["snr_db"].value, expected)


def test_snr_has_no_target_where_nobody_speaks() -> None:
    judged = judge(None, (source(meaning_of("fan")), steady(-30.0)))
    assert not judged["snr_db"].mask.any()
    assert state_of(judged["speech"]) == "absent"
    assert state_of(judged["noise"]) == "present"
    assert not judged["reverberation"].mask.any()


# Impairments


@pytest.mark.parametrize(("share", "expected"), [(0.0, "absent"), (0.009, "masked"), (0.01, "present")])
def test_clipping_needs_one_sample_in_a_hundred(share: float, expected: str) -> None:
    assert state_of(judge(-20.0, clipped=np.full(FRAMES, share))["clipping"]) == expected


@pytest.mark.parametrize(("share", "expected"), [(0.0, "absent"), (0.49, "masked"), (0.5, "present")])
def test_a_dropout_needs_half_a_frame(share: float, expected: str) -> None:
    assert state_of(judge(-20.0, lost=np.full(FRAMES, share))["dropout"]) == expected


def test_a_packet_lost_in_silence_is_no_dropout() -> None:
    assert state_of(judge(None, lost=np.ones(FRAMES))["dropout"]) == "masked"


def test_nothing_else_is_judged_in_a_lost_frame() -> None:
    lost = np.zeros(FRAMES)
    lost[10] = 1.0
    judged = judge(-20.0, (source(meaning_of("fan")), steady(-30.0)), lost=lost)
    assert not judged.pop("transient_noise").mask.any()  # a fan may rattle
    for label, target in judged.items():
        assert target.mask[10] == (label == "dropout"), label
        assert target.mask[11], label


@pytest.mark.parametrize(
    ("c50_db", "expected"), [(3.99, "present"), (4.0, "masked"), (14.0, "masked"), (14.01, "absent"), (None, "absent")]
)
def test_reverberation_follows_the_clarity_of_the_room(c50_db: float | None, expected: str) -> None:
    assert state_of(judge(-20.0, c50_db=c50_db)["reverberation"]) == expected


def test_clarity_compares_the_first_50_ms_with_the_rest() -> None:
    response = np.zeros(3200, dtype=np.float32)
    response[0], response[799], response[800] = 1.0, 0.5, np.sqrt(0.125)
    assert targets.clarity_c50_db(response, 16_000) == pytest.approx(10.0, abs=1e-4)


# Speech, and masked frames


@pytest.mark.parametrize(("level", "expected"), [(-40.0, "present"), (-52.0, "masked"), (-61.0, "absent")])
def test_a_competing_talker_counts_as_speech_where_heard(level: float, expected: str) -> None:
    talker = source(TALKER, "talker")
    stems = {"dry": energy((-20, 30), (-120, 30)), "floor": steady(-110.0)}
    stems["speech"] = stems["dry"]
    other = energy((-120, 32), (level, 28))
    judged = label_targets(stems, [(talker, other)], True, None, np.zeros(FRAMES), np.zeros(FRAMES))
    tail = slice(46, FRAMES)  # after the end of the smoothing, the target talker, and the beginning of the other one
    speech = judged["speech"]
    assert state_of(FrameTarget(speech.value[tail], speech.mask[tail])) == expected
    rival = judged["interfering_speech"]
    assert state_of(FrameTarget(rival.value[tail], rival.mask[tail])) == expected


@pytest.mark.parametrize("name", ["coughing", "laughing", "crying_baby"])
def test_coughs_and_laughter_are_noise_and_not_speech(name: str) -> None:
    judged = judge(None, (source(meaning_of(name)), steady(-30.0)))
    assert state_of(judged["speech"]) == "absent"
    assert state_of(judged["transient_noise"]) == "present"
    assert state_of(judged["interfering_speech"]) == "masked"
    assert state_of(judged["interference"]) == "absent"


def test_voices_in_an_ambience_are_left_open() -> None:
    judged = judge(None, (source(meaning_of("cafe")), steady(-30.0)))
    assert state_of(judged["noise"]) == "present"
    for label in ("speech", "interfering_speech", "interference", "stationary_noise", "transient_noise"):
        assert state_of(judged[label]) == "masked", label
    assert state_of(judged["music"]) == "absent"


def test_an_ambience_too_faint_to_hear_opens_nothing() -> None:
    judged = judge(None, (source(meaning_of("cafe")), steady(-75.0)))
    assert {state_of(judged[label]) for label in ("speech", "noise", "interfering_speech")} == {"absent"}


def test_babble_is_interference_and_may_be_speech() -> None:
    judged = judge(None, (source(BABBLE, "babble"), steady(-30.0)))
    assert state_of(judged["interfering_speech"]) == "present"
    assert state_of(judged["interference"]) == "present"
    assert state_of(judged["speech"]) == "masked"
    assert state_of(judged["noise"]) == "masked"


def test_a_known_cause_beside_an_unknown_one_is_still_known() -> None:
    judged = judge(-20.0, (source(UNKNOWN), steady(-30.0)), (source(meaning_of("fan")), steady(-30.0)))
    assert state_of(judged["stationary_noise"]) == "present"
    assert state_of(judged["tone"]) == "masked"


def test_a_class_nobody_listed_is_noise_of_unknown_cause() -> None:
    assert meaning_of("a class that is in no table") is UNKNOWN


def test_two_faint_sources_of_one_label_add_up() -> None:
    fan = (source(meaning_of("fan")), steady(-49.5))
    assert state_of(judge(-20.0, fan)["noise"]) == "masked"
    assert state_of(judge(-20.0, fan, fan)["noise"]) == "present"


# Two talkers


def rival_after(level_db: float, first: Float64, second: Float64) -> FrameTarget:
    talker = replace(source(TALKER, "talker"), level_db=level_db)
    stems = {"dry": first, "speech": first, "floor": energy((-110.0, first.size))}
    none = np.zeros(first.size)
    return label_targets(stems, [(talker, second)], True, None, none, none)["interfering_speech"]


def test_which_talker_is_meant_is_left_open_until_the_first_was_heard_for_half_a_second() -> None:
    target = rival_after(-10.0, energy((-120, 20), (-20, 80)), energy((-30, 100)))
    known = 20 + TALKER_KNOWN_FRAMES + NEW_VOICE_FRAMES
    assert not target.mask[: known - 12].any()
    assert target.mask[known:].all()
    assert target.value[known:].all()


def test_a_talker_as_loud_as_the_first_interferes_only_while_both_speak() -> None:
    first, second = energy((-20, 60), (-120, 60)), energy((-120, 30), (-22, 90))
    target = rival_after(-2.0, first, second)
    assert target.value[40:55].all()
    assert target.mask[40:55].all()
    assert not target.mask[70:].any()
    weaker = rival_after(-8.0, first, energy((-120, 30), (-28, 90)))
    assert weaker.value[70:].all()
    assert weaker.mask[70:].all()


def test_the_beginning_of_a_second_talker_is_left_open_after_a_gap_and_not_within_a_sentence() -> None:
    words = energy((-120, 40), (-30, 30), (-120, 15), (-30, 30), (-120, 60), (-30, 30))
    target = rival_after(-10.0, energy((-20, words.size)), words)
    first, second = 40, 40 + 30 + 15 + 30 + 60
    for start in (first, second):
        assert not target.mask[start : start + NEW_VOICE_FRAMES].any()
        assert target.mask[start + NEW_VOICE_FRAMES : start + 30].all()
        assert target.value[start + NEW_VOICE_FRAMES : start + 30].all()
    assert target.mask[85:115].all()  # goes on after a gap that an event bridges
    assert target.value[85:115].all()


@pytest.mark.parametrize("label", ["noise", "stationary_noise", "interference", "tone"])
def test_a_gap_that_an_event_bridges_is_left_open_and_a_longer_one_is_not(label: str) -> None:
    kind = source(meaning_of("fan") if "noise" in label else SYNTHETIC_TONE)
    for gap, undecided in ((BRIDGED_FRAMES[label], True), (BRIDGED_FRAMES[label] + 1, False)):
        sound = energy((-30, 40), (-120, gap), (-30, 40))
        stems = {"dry": energy((-20, sound.size)), "speech": energy((-20, sound.size))}
        stems["floor"] = energy((-110, sound.size))
        none = np.zeros(sound.size)
        target = label_targets(stems, [(kind, sound)], True, None, none, none)[label]
        middle = 40 + gap // 2
        assert target.mask[middle] != undecided
        assert target.value[middle] == 0.0
        assert target.value[:40].all()


# Inaudible losses


def test_a_loss_whose_filling_passes_for_what_was_sent_is_left_open() -> None:
    stems = {"dry": steady(-20.0), "speech": steady(-20.0), "floor": steady(-110.0)}
    lost = np.ones(FRAMES)
    audible = np.arange(FRAMES) < 10
    target = label_targets(stems, [], True, None, np.zeros(FRAMES), lost, audible)["dropout"]
    assert target.value[:10].all()
    assert target.mask[:10].all()
    assert not target.mask[10:].any()


def test_a_loss_in_a_pause_far_below_the_speech_is_left_open() -> None:
    speech = energy((-20.0, 30), (-55.0, 30))
    stems = {"dry": speech, "speech": speech, "floor": steady(-110.0)}
    target = label_targets(stems, [], True, None, np.zeros(FRAMES), np.ones(FRAMES))["dropout"]
    assert target.mask[:30].all()
    assert not target.mask[30:].any()


@pytest.mark.parametrize("speech_dbfs", [-20.0, -30.0, -34.0])
def test_what_is_heard_beside_speech_does_not_depend_on_the_gain(speech_dbfs: float) -> None:
    for below_db, expected in ((15.0, (True, False)), (33.0, (False, False)), (45.0, (False, True))):
        heard, unheard = targets.presence(energy((speech_dbfs - below_db, 30)), speech_dbfs)
        assert (bool(heard[15]), bool(unheard[15])) == expected
