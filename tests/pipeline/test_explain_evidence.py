from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from signals import voice, white_noise
from speech_qc.audio.features import FrontEnd, mel_centres_hz
from speech_qc.contract import LABEL_CATALOG, ModelContract
from speech_qc.engine.echo import echo_contract
from speech_qc.pipeline.explain import Evidence, Explainer, SpectrumKeeper
from speech_qc.pipeline.explain import evidence as module
from speech_qc.scoring import Event

CONTRACT = echo_contract()
FRAMES = 600
BANDS = CONTRACT.features.mel_bands
FLOOR_DB, NOISE_DB, SPEECH_DB = -70.0, -45.0, -25.0


def event(label: str, onset: int, offset: int) -> Event:
    family = LABEL_CATALOG[label][0]
    return Event(0, label, family, onset / 50, offset / 50, 0.99, 0.9, "severe", onset, offset)


def scores(**spans: tuple[int, int, float]) -> np.ndarray:
    """Return scores (FRAMES, C): 0 except in the labels' spans; SNR unknown except in its span."""
    frames = np.zeros((FRAMES, len(CONTRACT.labels)), np.float32)
    frames[:, CONTRACT.index("snr_db")] = np.nan
    for label, (start, stop, value) in spans.items():
        frames[start:stop, CONTRACT.index(label)] = value
    return frames


def sound(start: int, stop: int, first: int, last: int) -> np.ndarray:
    """Return mel power (FRAMES, BANDS): speech with pauses in the low half, and continuous noise in a band."""
    power = np.full((FRAMES, BANDS), FLOOR_DB, np.float16)
    power[start:stop, first : last + 1] = NOISE_DB
    talking = np.arange(FRAMES) % 100 < 75
    power[talking, :32] = SPEECH_DB
    return power


def explained(found: Event, frames: np.ndarray, power: np.ndarray, contract: ModelContract = CONTRACT) -> Evidence:
    return Explainer(contract).explain([found], frames, power)[0]


def test_lasting_noise_is_found_under_speech_that_is_20_db_louder():
    found = explained(event("noise", 200, 400), scores(noise=(200, 400, 0.9)), sound(200, 400, 10, 20))
    centres_hz = mel_centres_hz(CONTRACT.features)
    assert found.band is not None and found.band.against == "floor"
    assert centres_hz[9] < found.band.low_hz < centres_hz[10] < centres_hz[20] < found.band.high_hz < centres_hz[21]
    assert found.over_floor_db == pytest.approx(NOISE_DB - FLOOR_DB, abs=0.1)
    assert not {"band", "over_floor_db"} & set(found.unknown)


def test_floor_is_not_taken_from_where_the_label_is_still_heard():
    frames = scores(noise=(0, 500, 0.4))  # below the thresholds, but audible
    frames[200:400, CONTRACT.index("noise")] = 0.9
    found = explained(event("noise", 200, 400), frames, sound(0, 500, 10, 20))
    assert found.over_floor_db == pytest.approx(NOISE_DB - FLOOR_DB, abs=0.1)


def test_cause_has_no_floor_where_its_headline_is_heard():
    frames = scores(stationary_noise=(200, 400, 0.9), noise=(0, FRAMES, 0.9))
    found = explained(event("stationary_noise", 200, 400), frames, sound(200, 400, 10, 20))
    assert found.over_floor_db is None


def test_noise_throughout_has_a_band_but_no_level_over_a_floor():
    found = explained(event("noise", 0, FRAMES), scores(noise=(0, FRAMES, 0.9)), sound(0, FRAMES, 40, 50))
    assert found.band is not None and found.band.against == "itself"
    assert found.over_floor_db is None
    assert found.unknown["over_floor_db"] == module.REASONS["no_floor"]


def test_digital_silence_is_no_floor():
    power = np.full((FRAMES, BANDS), -100.0, np.float16)
    power[200:400, 10:21] = NOISE_DB
    found = explained(event("noise", 200, 400), scores(noise=(200, 400, 0.9)), power)
    assert found.band is not None and found.over_floor_db is None
    assert found.unknown["over_floor_db"] == module.REASONS["silence"]


def test_a_knock_is_measured_by_its_louder_frames():
    power = sound(0, 0, 0, 0)
    power[300:304, 40:51] = NOISE_DB
    found = explained(event("transient_noise", 298, 307), scores(transient_noise=(298, 307, 0.9)), power)
    assert found.over_floor_db == pytest.approx(NOISE_DB - FLOOR_DB, abs=0.1)


def test_impairment_has_no_band_and_is_told_so():
    power = np.full((FRAMES, BANDS), SPEECH_DB, np.float16)
    power[300:320] = -90.0
    found = explained(event("dropout", 300, 320), scores(dropout=(300, 320, 0.9)), power)
    assert found.band is None and found.unknown["band"] == module.REASONS["impairment"]
    assert found.over_floor_db == pytest.approx(-90.0 - SPEECH_DB, abs=0.1)
    assert found.kind == "dropout"


def test_snr_is_the_mean_of_the_speech_frames_or_unknown():
    frames = scores(noise=(200, 400, 0.9), snr_db=(300, 350, 7.0))
    assert explained(event("noise", 200, 400), frames, sound(200, 400, 10, 20)).snr_db == pytest.approx(7.0)
    silent = explained(event("noise", 200, 300), frames, sound(200, 400, 10, 20))
    assert silent.snr_db is None and silent.unknown["snr_db"] == module.REASONS["no_speech"]


def test_kind_of_a_headline_is_the_likeliest_cause_of_its_own_family():
    frames = scores(
        noise=(200, 400, 0.9), stationary_noise=(200, 300, 0.8), transient_noise=(200, 400, 0.3), music=(200, 400, 0.9)
    )
    found = explained(event("noise", 200, 400), frames, sound(200, 400, 10, 20))
    assert found.kind == "stationary_noise" and found.kind_score == pytest.approx(0.4, abs=1e-6)
    cause = explained(event("music", 200, 400), frames, sound(200, 400, 10, 20))
    assert (cause.kind, cause.kind_score) == ("music", 0.9)


def test_model_without_causes_knows_no_kind():
    labels = tuple(label for label in CONTRACT.labels if label.family != "noise")
    contract = CONTRACT.model_copy(update={"labels": labels})
    found = explained(event("noise", 0, 100), np.zeros((FRAMES, len(labels)), np.float32), sound(0, 0, 0, 0), contract)
    assert found.kind is None and found.kind_score is None
    assert found.unknown["kind"] == found.unknown["kind_score"] == module.REASONS["no_kind"]


def test_events_beyond_what_is_kept_say_so_and_keep_what_the_scores_tell():
    frames = scores(noise=(200, 400, 0.9), snr_db=(200, 400, 3.0))
    found = explained(event("noise", 200, 400), frames, sound(200, 400, 10, 20)[:399])
    assert found.band is None and found.over_floor_db is None
    assert found.unknown == dict.fromkeys(("band", "over_floor_db"), module.REASONS["late"])
    assert found.snr_db == pytest.approx(3.0)


def test_number_of_explained_events_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_EVENTS", 2)
    events = [replace(event("noise", 200, 400), event_id=n) for n in range(3)]
    found = Explainer(CONTRACT).explain(events, scores(noise=(200, 400, 0.9)), sound(200, 400, 10, 20))
    assert [one.band is None for one in found] == [False, False, True]
    assert found[2].unknown["band"] == module.REASONS["many"]


def test_spectra_do_not_depend_on_how_the_sound_was_cut():
    front_end, overlap = FrontEnd(), CONTRACT.features.overlap_samples
    samples = voice(2.0)
    whole, pieces = SpectrumKeeper(front_end), SpectrumKeeper(front_end)
    whole.add(samples[: 90 * 320 + overlap])
    for start, stop in ((0, 40), (40, 60), (60, 90)):
        pieces.add(samples[start * 320 : stop * 320 + overlap])
    assert len(whole.kept()) == 90
    assert np.array_equal(whole.kept(), pieces.kept())


def test_spectra_are_bounded():
    keeper = SpectrumKeeper(FrontEnd(), max_frames=30)
    assert keeper.kept().shape == (0, BANDS)
    for _ in range(3):
        keeper.add(white_noise(0.5)[: 20 * 320 + 240])
    assert keeper.kept().shape == (30, BANDS)
