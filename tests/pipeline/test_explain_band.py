from __future__ import annotations

import numpy as np
import pytest

from speech_qc.audio.features import mel_centres_hz
from speech_qc.contract import FeatureSpec
from speech_qc.pipeline.explain.band import BandFinder

SPEC = FeatureSpec()
CENTRES_HZ = mel_centres_hz(SPEC)
FLOOR_DB = np.linspace(-60.0, -85.0, SPEC.mel_bands)


def raised(first: int, last: int, level_db: float) -> np.ndarray:
    """Return the noise floor with mel bands first … last at a level."""
    spectrum = FLOOR_DB.copy()
    spectrum[first : last + 1] = level_db
    return spectrum


@pytest.mark.parametrize(("first", "last"), [(0, 0), (3, 3), (20, 35), (50, 63), (0, 63)])
def test_band_is_what_stands_out_of_the_floor(first, last):
    band, bands = BandFinder(SPEC).find(raised(first, last, -40.0), FLOOR_DB)

    assert (bands.start, bands.stop, band.against) == (first, last + 1, "floor")
    assert band.low_hz < CENTRES_HZ[first] and (first == 0 or band.low_hz > CENTRES_HZ[first - 1])
    assert band.high_hz > CENTRES_HZ[last] and (last == 63 or band.high_hz < CENTRES_HZ[last + 1])


def test_strong_floor_elsewhere_does_not_draw_the_band_away():
    floor = FLOOR_DB.copy()
    floor[:8] = -20.0  # a hum that started earlier, 20 dB above the event
    inside = floor.copy()
    inside[40:50] = -40.0
    _, bands = BandFinder(SPEC).find(inside, floor)
    assert (bands.start, bands.stop) == (40, 50)


def test_notch_of_one_band_is_bridged_and_a_wider_one_is_not():
    inside = raised(20, 40, -40.0)
    inside[30] = FLOOR_DB[30]
    assert BandFinder(SPEC).find(inside, FLOOR_DB)[1] == slice(20, 41)
    inside[31] = FLOOR_DB[31]
    inside[25] = -38.0
    assert BandFinder(SPEC).find(inside, FLOOR_DB)[1] == slice(20, 30)


@pytest.mark.parametrize("floor", [None, raised(20, 35, -45.0)])
def test_without_a_floor_below_it_the_spectrum_is_held_against_itself(floor):
    band, bands = BandFinder(SPEC).find(raised(20, 35, -40.0), floor)
    assert (bands.start, bands.stop, band.against) == (20, 36, "itself")
