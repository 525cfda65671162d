import math
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_material import cut, make_contract, quiet

from speech_qc.errors import InferenceError
from speech_qc.scoring import Summary, SummaryMeter
from speech_qc.scoring.summary import PORTION_FRAMES, SNR_KINDS

NULLABLE = ("speech_ratio", "noise_ratio", "interference_ratio", "snr_db", "sig", "bak", "ovrl", "reverberation",
            "lost_ratio", "losses_per_min", "longest_loss_ms")  # fmt: skip


def talk(
    frames: int,
    *,
    snr_db: float = 20.0,
    level_dbfs: float = -25.0,
    speech_frames: int | None = None,
    noise: float = 0.0,
    interference: float = 0.0,
) -> Summary:
    contract = make_contract()
    scores, level = quiet(contract, frames, level_dbfs)
    scores[:, contract.index("noise")] = noise
    scores[:, contract.index("interference")] = interference
    scores[:speech_frames, contract.index("speech")] = 0.9
    scores[:, contract.index("snr_db")] = snr_db
    meter = SummaryMeter(contract)
    meter.push(scores, level)
    return meter.result()


@settings(max_examples=60)
@given(
    st.integers(0, 3 * PORTION_FRAMES), st.lists(st.integers(0, 200), min_size=1, max_size=5), st.integers(0, 2**32 - 1)
)
def test_any_cut_into_blocks_gives_the_same_summary_bit_for_bit(frames: int, sizes: list[int], seed: int) -> None:
    contract = make_contract()
    rng = np.random.default_rng(seed)
    scores, level = quiet(contract, frames)
    scores[:] = rng.random(scores.shape, np.float32) * 3
    level[:] = rng.uniform(-120, 0, frames)
    meter, whole = SummaryMeter(contract), SummaryMeter(contract)
    for part in cut(frames, sizes):
        meter.push(scores[part], level[part])
        meter.result()  # an intermediate read changes nothing
    whole.push(scores, level)
    assert meter.result() == whole.result()


@settings(max_examples=60)
@given(st.integers(30, 400), st.integers(0, 2**32 - 1))
def test_figures_follow_their_definitions(frames: int, seed: int) -> None:
    contract = make_contract()
    rng = np.random.default_rng(seed)
    scores, level = quiet(contract, frames)
    probabilities = [i for i, label in enumerate(contract.labels) if label.kind == "probability"]
    scores[:, probabilities] = rng.random((frames, len(probabilities)))
    scores[:10, contract.index("speech")] = 1.0
    scores[:, contract.index("snr_db")] = rng.uniform(-15, 45, frames)
    scores[:, contract.index("sig")] = rng.uniform(1, 5, frames)
    level[:] = rng.uniform(-90, 0, frames)
    meter = SummaryMeter(contract)
    meter.push(scores, level)
    result = meter.result()

    speech = scores[:, contract.index("speech")] >= np.float32(0.6)
    speech_power, noise_power = 0.0, 0.0
    for i in range(frames):
        power, ratio = 10 ** (float(level[i]) / 10), 10 ** (float(scores[i, contract.index("snr_db")]) / 10)
        speech_power += power * ratio / (1 + ratio) if speech[i] else 0.0
        disturbed = float(max(scores[i, contract.index("noise")], scores[i, contract.index("interference")]))
        noise_power += power / (1 + ratio) if speech[i] else power * disturbed**2
    expected = 10 * math.log10((speech_power / speech.sum()) / (noise_power / frames))
    assert result.snr_db == pytest.approx(min(max(expected, -15.0), 45.0), abs=1e-6)
    assert result.sig == pytest.approx(scores[speech, contract.index("sig")].astype(float).mean(), abs=1e-6)
    assert result.frames == frames and result.speech_frames == speech.sum()
    for i in probabilities:
        share = np.count_nonzero(scores[:, i] >= np.float32(0.6)) / frames
        assert result.label_ratios[contract.label_names[i]] == share
    assert result.noise_ratio == result.label_ratios["noise"]
    assert set(result.label_ratios) == {contract.label_names[i] for i in probabilities}
    assert result.reasons == {}


def test_steady_speech_over_steady_noise_has_the_snr_of_its_frames() -> None:
    assert talk(500, snr_db=20.0).snr_db == pytest.approx(20.0, abs=1e-4)


def test_noise_in_a_part_of_the_recording_counts() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 1000, -25.0)
    scores[:, contract.index("speech")] = 0.9
    scores[:, contract.index("snr_db")] = 40.0
    scores[900:, contract.index("snr_db")] = 0.0  # a median of frames would not notice
    meter = SummaryMeter(contract)
    meter.push(scores, level)
    snr_db = meter.result().snr_db
    assert snr_db is not None and 10 < snr_db < 15


@pytest.mark.parametrize("heard", ["noise", "interference"])
def test_a_loud_pause_in_which_a_disturbance_is_heard_is_noise(heard: str) -> None:
    clean = talk(1000, snr_db=40.0)
    loud_pause = talk(1000, snr_db=40.0, speech_frames=500, **{heard: 1.0})
    assert clean.snr_db is not None and loud_pause.snr_db is not None
    assert clean.snr_db == pytest.approx(40.0, abs=1e-3)
    assert loud_pause.snr_db == pytest.approx(10 * math.log10(2), abs=0.01)


def test_the_noise_of_a_frame_belongs_to_the_kinds_that_explain_it() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 1000, -25.0)
    scores[:, contract.index("speech")] = 0.9
    scores[:, contract.index("snr_db")] = 40.0
    scores[:500, contract.index("snr_db")] = 10.0
    scores[:500, contract.index("tone")] = 1.0
    meter = SummaryMeter(contract)
    meter.push(scores, level)
    result = meter.result()
    assert result.snr_db is not None
    assert result.snr_by_kind_db["tone"] == pytest.approx(result.snr_db, abs=0.3)
    assert result.snr_by_kind_db["music"] == 45.0
    assert set(result.snr_by_kind_db) == set(SNR_KINDS)


def test_syllables_that_the_speech_score_misses_do_not_make_a_clean_recording_noisy() -> None:
    missed = talk(1000, snr_db=40.0, speech_frames=500, noise=0.02, interference=0.01)
    assert missed.snr_db is not None and 33 < missed.snr_db < 43


def test_digital_silence_around_speech_does_not_break_the_ratio_and_stays_in_range() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 1000, -120.0)
    scores[:100, contract.index("speech")] = 0.9
    scores[:100, contract.index("snr_db")] = 45.0
    level[:100] = -20.0
    meter = SummaryMeter(contract)
    meter.push(scores, level)
    assert meter.result().snr_db == 45.0  # the energy ratio is 55 dB; the head's range ends at 45


def test_without_frames_nothing_is_known() -> None:
    result = SummaryMeter(make_contract()).result()
    assert all(getattr(result, name) is None for name in NULLABLE)
    assert set(result.reasons.values()) == {"no audio was scored"}
    assert result.label_ratios == {}


def test_without_speech_there_is_no_snr_and_no_opinion_score() -> None:
    result = talk(500, speech_frames=0)
    assert result.speech_ratio == 0.0
    assert result.snr_db is result.sig is result.bak is result.ovrl is result.reverberation is None
    assert result.snr_by_kind_db == {}
    assert result.reasons == dict.fromkeys(
        ("snr_db", "sig", "bak", "ovrl", "reverberation", "lost_ratio"), "no speech was found"
    )


def test_a_few_frames_of_speech_are_not_enough_to_measure_on() -> None:
    assert talk(500, speech_frames=4).reasons["snr_db"] == "speech was found in fewer than 5 frames"
    assert talk(500, speech_frames=5).snr_db is not None


def test_a_short_recording_has_ratios_only() -> None:
    result = talk(24)
    assert result.speech_ratio == 1.0
    assert result.snr_db is None and result.reasons["snr_db"] == "shorter than 0.5 s"
    assert talk(25).snr_db is not None


def test_a_missing_head_is_named() -> None:
    contract = make_contract(["speech", "noise", "interference", "snr_db", "ovrl"])
    scores, level = quiet(contract, 100)
    scores[:, contract.index("speech")] = 0.9
    meter = SummaryMeter(contract)
    meter.push(scores, level)
    result = meter.result()
    assert result.ovrl == pytest.approx(3.0)
    assert result.reasons == {name: f"this model has no {name} head" for name in ("sig", "bak", "reverberation")}


@given(st.integers(0, 60), st.integers(0, 10))
def test_every_null_field_says_why_and_no_other_does(frames: int, speech_frames: int) -> None:
    result = talk(frames, speech_frames=speech_frames)
    assert set(NULLABLE) < {field.name for field in fields(Summary)}
    assert set(result.reasons) == {name for name in NULLABLE if getattr(result, name) is None}


def test_malformed_blocks_are_refused() -> None:
    contract = make_contract()
    scores, level = quiet(contract, 5)
    with pytest.raises(InferenceError, match="expected scores"):
        SummaryMeter(contract).push(scores[:, 1:], level)
