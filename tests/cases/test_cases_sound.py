"""Sounds that people hear rightly and that once got a wrong event or verdict, made from the bundled recording."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from answers import bandwidth, losses, nuisances, zeros
from answers.judge import badness, codes, dropouts, inspect, inspect_mix, labels, names_bandwidth, names_cancellation
from answers.signal import Sound, below_full_scale, resampled
from answers.synthesis import espeak
from case_kinds import kinds
from numpy.typing import NDArray

CLEAN_S = 3.4  # of the bundled recording, before its noise begins


@pytest.fixture(scope="module")
def clean(sample_path: Path) -> NDArray[np.float64]:
    """Clean speech, 6.8 s at 16 kHz."""
    samples, rate = soundfile.read(sample_path, dtype="float64")
    return np.tile(samples[: round(CLEAN_S * rate)], 2)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def fan(clean: NDArray[np.float64], snr_db: float) -> Sound:
    return nuisances.with_fan(clean, 16_000, nuisances.fan_noise(rng(), len(clean), 16_000), snr_db)


def test_clean_speech_passes(clean: NDArray[np.float64]) -> None:
    result = inspect(Sound(clean, 16_000))
    assert (result.verdict.status, dropouts(result)) == ("pass", 0)


@kinds(("edge_zeros_16k", 16_000), ("edge_zeros_8k", 8_000))
def test_zeros_at_an_edge_are_no_dropout(clean: NDArray[np.float64], case: tuple[int]) -> None:
    """Editors and data sets cut within a word and pad: 20 to 500 ms of zeros at the start or end."""
    (rate,) = case
    speech = resampled(clean, 16_000, rate)
    assert [dropouts(inspect(zeros.cut_in_word(speech, rate, rng(seed)))) for seed in range(6)] == [0] * 6


@kinds(("adpcm_padding_16k", 16_000), ("adpcm_padding_8k", 8_000))
def test_padding_of_a_block_codec_is_no_dropout(clean: NDArray[np.float64], case: tuple[int]) -> None:
    """MS ADPCM, of telephone systems and dictation, fills its last block up."""
    (rate,) = case
    assert dropouts(inspect(zeros.block_padding(resampled(clean, 16_000, rate), rate, rng()))) == 0


@kinds(("gated", zeros.gated), ("dtx", zeros.dtx), ("comfort_noise", zeros.comfort_noise))
def test_a_quiet_pause_is_no_dropout(clean: NDArray[np.float64], case: tuple[Callable[..., Sound]]) -> None:
    """Conference systems gate pauses; telephones send nothing in them, or comfort noise."""
    (make,) = case
    assert [dropouts(inspect(make(clean, 16_000, rng(seed)))) for seed in range(3)] == [0, 0, 0]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_the_closures_of_a_formant_synthesiser_are_no_dropouts() -> None:
    """espeak-ng, in screen readers and announcements, puts true zeros into the closures of stops."""
    assert sum(dropouts(inspect(espeak(rng(seed), 5.0))) for seed in range(4)) <= 1


def test_nearly_all_packets_lost_in_speech_are_found(clean: NDArray[np.float64]) -> None:
    """A telephone call without concealment: packets of 20 ms become zeros."""
    found = 0
    for seed in range(20):
        lost = losses.zeroed(resampled(clean, 16_000, 8_000), 8_000, rng(seed), 0.02)
        found += dropouts(inspect(lost)) > 0
    assert found >= 18


@kinds(
    ("hum", lambda speech: nuisances.with_hum(speech, 16_000, rng(), 20)),  # a ground loop
    ("whistle", lambda speech: nuisances.with_whistle(speech, 16_000, rng(), 30, (1_000, 1_001))),  # an amplifier
)
def test_a_faint_tone_is_a_tone_and_no_reason_to_fail(clean: NDArray[np.float64], case: tuple[Any]) -> None:
    (make,) = case
    result = inspect(make(clean))
    assert result.verdict.status in ("pass", "warn")
    assert "tone" in labels(result)
    assert "music" not in labels(result)


def test_a_loud_fan_is_worse_than_a_faint_hum(clean: NDArray[np.float64]) -> None:
    """A share of time says nothing about a nuisance: both last throughout."""
    loud, faint = inspect(fan(clean, 5)), inspect(nuisances.with_hum(clean, 16_000, rng(), 20))
    assert badness(loud) > badness(faint)
    assert loud.verdict.status != "pass"


def test_a_church_does_not_pass(clean: NDArray[np.float64]) -> None:
    """Reverberation of more than 2 s, as in a church or an empty hall."""
    assert inspect(nuisances.reverberant(clean, 16_000, rng())).verdict.status != "pass"


@kinds(
    *((f"upsampled_{way}", way, False) for way in bandwidth.UPSAMPLERS),
    ("upsampled_hiss", "polyphase", True),
)
def test_upsampled_telephone_speech_fails_as_a_data_set(clean: NDArray[np.float64], case: tuple[str, bool]) -> None:
    """Collections mix telephone speech into wide-band data; the rate of the file says nothing about its band."""
    way, hiss = case
    sound = bandwidth.upsampled(clean, 16_000, rng(), way, hiss=hiss)
    assert names_bandwidth(inspect(sound, "dataset"))
    assert not names_bandwidth(inspect(Sound(clean, 16_000), "dataset"))


def test_a_whine_above_the_band_of_the_model_is_named(clean: NDArray[np.float64]) -> None:
    """A cathode-ray tube or a switching power supply at 15.6 kHz, as loud as the speech."""
    speech = resampled(clean, 16_000, 48_000)
    whine = nuisances.with_whistle(speech, 48_000, rng(), 0, (15_625, 15_626))
    result = inspect(whine, "broadcast")
    assert result.verdict.status in ("warn", "fail")
    assert set(codes(result)) - set(codes(inspect(Sound(below_full_scale(speech), 48_000), "broadcast")))


def test_legs_of_opposite_polarity_are_named(clean: NDArray[np.float64]) -> None:
    """Both legs of a call carry the same voice, one of them inverted: their mean is silence."""
    stereo = np.stack([clean, -clean], axis=1)
    assert names_cancellation(inspect_mix(stereo, 16_000))


def test_a_line_with_nothing_but_hiss_is_a_silent_line() -> None:
    """A muted line of an analogue adapter: hiss at −90 dBFS where a digital one has zeros."""
    hiss = Sound(rng().standard_normal(64_000) * 10 ** (-90 / 20), 16_000)
    silence = inspect(Sound(np.zeros(64_000), 16_000))
    assert inspect(hiss).verdict.status == silence.verdict.status == "fail"
