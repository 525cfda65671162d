"""Names of tones, telephone keys, and events that a tone disproves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from signals import voice, white_noise
from speech_qc.audio.tones import FRAME, MARGIN, Lines, ToneMeter
from speech_qc.scoring.details import ToneDetail
from speech_qc.scoring.tone_kinds import HIGH_HZ, KEYS, LOW_HZ, name_tone

RATE_HZ = 16_000
Float32 = NDArray[np.float32]


def tone(seconds: float, *hz: float, level: float = 0.1) -> Float32:
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.sum([level * np.sin(2 * np.pi * f * time + i) for i, f in enumerate(hz)], axis=0).astype(np.float32)


def cadence(times: int, on_s: float, off_s: float, *hz: float) -> Float32:
    return np.tile(np.concatenate([tone(on_s, *hz), np.zeros(round(off_s * RATE_HZ), np.float32)]), times)


def key(character: str, seconds: float, high_db: float = 0.0) -> Float32:
    row = next(i for i, keys in enumerate(KEYS) if character in keys)
    low, high = LOW_HZ[row], HIGH_HZ[KEYS[row].index(character)]
    return tone(seconds, low) + 10 ** (high_db / 20) * tone(seconds, high)


def dialled(digits: str, on_s: float, off_s: float, high_db: float = 0.0) -> Float32:
    gap = np.zeros(round(off_s * RATE_HZ), np.float32)
    return np.concatenate([part for digit in digits for part in (key(digit, on_s, high_db), gap)])


def named(samples: Float32, *, chunk: int = 1_000, show_digits: bool = True, seed: int = 0) -> ToneDetail:
    """Name the tones of a whole signal, in the noise of a line."""
    samples = samples + white_noise(len(samples) / RATE_HZ, level_dbfs=-75, seed=seed)[: len(samples)]
    meter = ToneMeter()
    padded = np.pad(samples, MARGIN)
    frames = len(samples) // FRAME
    for start, stop in pairwise([*range(0, frames, chunk), frames]):
        meter.push(start, padded[start * FRAME : stop * FRAME + 2 * MARGIN])
    return name_tone(meter.runs, meter.windows, duration_s=len(samples) / RATE_HZ, show_digits=show_digits)


@pytest.mark.parametrize(
    ("kind", "hz", "samples"),
    [
        ("dial", (350, 440), tone(3, 350, 440)),
        ("dial", (425,), tone(3, 425)),
        ("busy", (480, 620), cadence(3, 0.5, 0.5, 480, 620)),
        ("busy", (480, 620), cadence(6, 0.25, 0.25, 480, 620)),
        ("busy", (425,), cadence(4, 0.48, 0.48, 425)),
        ("busy", (400,), cadence(4, 0.375, 0.375, 400)),
        ("ringback", (440, 480), tone(2, 440, 480)),
        ("ringback", (400, 450), cadence(2, 0.4, 0.2, 400, 450)),
        ("ringback", (425,), tone(1, 425)),
        ("sit", (950, 1400, 1800), np.concatenate([tone(0.33, hz) for hz in (950, 1400, 1800)])),
        ("fax_cng", (1100,), tone(0.5, 1100)),
        ("fax_ced", (2100,), tone(3, 2100)),
        ("beep", (1400,), tone(0.4, 1400)),
        ("whistle", (2800,), tone(3, 2800)),
        ("other", (700, 1900), tone(2, 700, 1900)),
    ],
)
@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_tones_have_their_name_and_frequencies(kind, hz, samples, gain):
    detail = named(gain * samples)
    assert detail.kind == kind
    assert detail.frequencies_hz == pytest.approx(hz, abs=3)
    assert detail.digits is None


@pytest.mark.parametrize("hz", [(440, 480), (400, 450), (400, 425, 450)])
@pytest.mark.parametrize(("on_s", "off_s", "times"), [(2.0, 0.1, 1), (0.4, 0.2, 2)])
@pytest.mark.parametrize("twist_db", [0.0, 3.0, -3.0])
def test_a_ringback_has_its_name_wherever_it_begins_and_whichever_tone_is_louder(hz, on_s, off_s, times, twist_db):
    ringing = cadence(times, on_s, off_s, *hz) + (10 ** (twist_db / 20) - 1) * cadence(times, on_s, off_s, hz[0])
    for lead in range(0, 320, 40):
        detail = named(np.concatenate([np.zeros(lead, np.float32), ringing]))
        assert detail.kind == "ringback"
        assert detail.frequencies_hz == pytest.approx((hz[0], hz[-1]), abs=3)


@pytest.mark.parametrize("mains_hz", [49.8, 50.0, 50.2, 59.9, 60.1])
@pytest.mark.parametrize("harmonics", [(1,), (2,), (1, 2, 3, 5), (2, 4, 6), (1, 3, 5, 7)])
def test_a_hum_has_the_frequency_of_the_mains(mains_hz, harmonics):
    detail = named(sum((tone(4, n * mains_hz, level=0.1 / n) for n in harmonics), np.zeros(64_000, np.float32)))
    assert detail.kind == "hum"
    assert detail.frequencies_hz == pytest.approx((mains_hz,), abs=0.5)


def test_a_hum_and_a_whistle_are_named_under_speech():
    speech = voice(6.0)
    hum = named(speech + tone(6, 50, level=0.02) + tone(6, 150, level=0.01))
    assert hum.kind == "hum"
    assert hum.frequencies_hz == pytest.approx((50,), abs=0.5)
    whistle = named(0.3 * speech + tone(6, 3100, level=0.01))
    assert whistle.kind == "whistle"
    assert whistle.frequencies_hz == pytest.approx((3100,), abs=5)


@pytest.mark.parametrize(("step_db", "kind"), [(0.5, "dial"), (6.0, "other")])
def test_a_dial_tone_under_other_sounds_has_a_constant_level_unlike_a_note_that_music_repeats(step_db, kind):
    windows = [Lines(16 * i, (440.0,), (step_db * (i % 4),)) for i in range(20)]
    assert name_tone([], windows, duration_s=6.4, show_digits=True) == ToneDetail(kind, (440.0,))


@pytest.mark.parametrize(("on_s", "off_s"), [(0.05, 0.05), (0.07, 0.07), (0.1, 0.06), (0.3, 0.2)])
@pytest.mark.parametrize("high_db", [0.0, 4.0, -6.0])
def test_keys_are_read_in_order(on_s, off_s, high_db):
    digits = "159*0#2234478ABCD3366"
    assert named(dialled(digits, on_s, off_s, high_db)).digits == digits


def test_keys_are_masked_unless_they_are_to_be_shown():
    detail = named(dialled("4111222233334444", 0.08, 0.06), show_digits=False)
    assert detail == ToneDetail("dtmf", (), "*" * 16)


@pytest.mark.parametrize(
    "samples",
    [
        key("8", 0.3, high_db=-10.0),  # too different in level
        key("8", 0.3) + white_noise(0.3, level_dbfs=-27)[:4800],
    ],
    ids=["twisted", "noisy"],
)
def test_the_tones_of_an_unreadable_key_are_hidden_unless_keys_are_shown(samples):
    shown = named(np.pad(samples, 3200))
    assert shown.digits is None and shown.frequencies_hz == pytest.approx((852, 1336), abs=3)
    assert named(np.pad(samples, 3200), show_digits=False) == ToneDetail("other", ())


@pytest.mark.parametrize("hz", [(425,), (480, 620), (600, 1300)])
def test_tones_that_are_no_key_keep_their_frequencies(hz):
    assert named(tone(2, *hz), show_digits=False) == named(tone(2, *hz))


@pytest.mark.parametrize(
    "samples",
    [
        key("5", 0.02),  # too short
        np.concatenate([key("5", 0.1, high_db=14.0)]),  # too different in level
        tone(0.3, 697 * 1.05, 1209),  # too far from the row
        tone(0.3, 697),
        tone(0.3, 440, 480),
    ],
)
def test_what_is_no_key_is_not_read(samples):
    assert named(np.pad(samples, 3200)).digits is None


def test_speech_has_no_keys():
    for seed in range(20):
        assert named(voice(6.0, seed=seed, pitch_hz=90 + 12 * seed)).digits is None


@pytest.mark.parametrize("chunk", [1, 5, 37])
def test_chunks_change_nothing(chunk):
    samples = np.concatenate([dialled("123", 0.1, 0.1), tone(1, 425), voice(1.0), cadence(2, 0.3, 0.3, 480, 620)])
    assert named(samples, chunk=chunk) == named(samples)
