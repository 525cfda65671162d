"""The benchmark of the answers: it draws what it says, repeats itself, and states honest intervals."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import bench_answers
import numpy as np
import pytest
import soundfile
from answers import bandwidth, losses, nuisances, zeros
from answers.pool import Pool
from answers.rows import all_rows
from answers.signal import active_level, as_int16, rms_level, through_codec

from signals import voice, white_noise

RATE_HZ = 16_000
SPEECH = voice(6.0).astype(np.float64) + white_noise(6.0, level_dbfs=-65)  # with the floor of a quiet room


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of two talkers and a fan."""
    folder = tmp_path_factory.mktemp("pool")
    columns = ["path", "kind", "class", "source", "speaker", "sample_rate", "seconds", "split"]
    columns += ["floor_dbfs", "range_db"]
    rows = []
    for talker in ("a", "b"):
        for take in range(2):
            name = f"{talker}{take}.wav"
            soundfile.write(folder / name, voice(3.0, seed=take, pitch_hz=110 if talker == "a" else 190), RATE_HZ)
            rows.append([name, "speech", "speech", "made", talker, RATE_HZ, 3.0, "valid", -80, 60])
    soundfile.write(folder / "fan.wav", 0.05 * nuisances.fan_noise(rng(0), RATE_HZ, RATE_HZ), RATE_HZ)
    rows.append(["fan.wav", "noise", "fan", "made", "", RATE_HZ, 1.0, "valid", "", ""])
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder


def test_every_row_has_a_name_of_its_own():
    keys = [row.key for row in all_rows()]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("lost_s", [0.02, 0.06])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
def test_a_loss_falls_into_loud_speech(rate_hz, lost_s):
    speech = voice(6.0, rate_hz=rate_hz).astype(np.float64)
    for seed in range(20):
        lost = losses.lost_span(speech, rate_hz, rng(seed), lost_s)
        assert lost.stop - lost.start == round(lost_s * rate_hz)
        assert rms_level(speech[lost]) >= active_level(speech, rate_hz) + losses.LOUD_DB


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: losses.zeroed(SPEECH, RATE_HZ, rng(seed), 0.02),
        lambda seed: losses.hole(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: losses.concealed(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: losses.share_lost(SPEECH, RATE_HZ, rng(seed), 0.05),
        lambda seed: zeros.cut_in_word(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: zeros.block_padding(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: zeros.gated(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: zeros.dtx(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: zeros.comfort_noise(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: nuisances.with_hum(SPEECH, RATE_HZ, rng(seed), 20),
        lambda seed: nuisances.reverberant(SPEECH, RATE_HZ, rng(seed)),
        lambda seed: bandwidth.upsampled(SPEECH, RATE_HZ, rng(seed), "linear", hiss=True),
    ],
)
def test_a_seed_gives_one_sound_below_full_scale(make):
    first, again = make(1), make(1)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert len({make(seed).samples.tobytes() for seed in range(5)}) > 1
    assert np.max(np.abs(first.samples)) < 1


def test_the_snr_is_that_of_active_speech():
    for snr_db in (5, 30):
        noise = nuisances.with_hum(SPEECH, RATE_HZ, rng(1), snr_db).samples - SPEECH
        assert active_level(SPEECH, RATE_HZ) - rms_level(noise) == pytest.approx(snr_db, abs=0.01)


def test_a_room_decays_in_the_time_that_it_was_asked_for():
    response = nuisances.room(rng(3), RATE_HZ, 2.2)[1:]
    decay_db = 10 * np.log10(np.cumsum(response[::-1] ** 2)[::-1] / np.sum(response**2))
    fall = np.argmax(decay_db < -5), np.argmax(decay_db < -25)
    assert 3 * (fall[1] - fall[0]) / RATE_HZ == pytest.approx(2.2, abs=0.3)


def test_a_codec_keeps_the_length_and_its_own_padding():
    assert len(through_codec(SPEECH, RATE_HZ, "ULAW")) == len(SPEECH)
    assert len(through_codec(SPEECH[:-7], RATE_HZ, "MS_ADPCM")) > len(SPEECH) - 7


@pytest.mark.parametrize(("hits", "trials", "interval"), [(0, 400, (0.0, 0.0095)), (380, 400, (0.9240, 0.9674))])
def test_shares_have_wilson_intervals(hits, trials, interval):
    assert bench_answers.wilson(hits, trials) == pytest.approx(interval, abs=1e-4)


def test_rates_have_exact_poisson_intervals():
    assert bench_answers.poisson(0, 10.0) == pytest.approx((0.0, 0.3689), abs=1e-4)
    assert bench_answers.poisson(10, 10.0) == pytest.approx((0.4795, 1.8390), abs=1e-4)


def test_speech_has_the_length_and_rate_that_were_asked_for(folder):
    speech = Pool(folder, "valid").speech(rng(0), 8.0)
    assert (len(speech.samples), sorted(speech.talkers)) == (8 * RATE_HZ, ["made/a", "made/b"])
    assert np.any(as_int16(speech.samples))


def test_a_folder_without_a_manifest_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"manifest\.csv"):
        Pool(tmp_path, "valid")


def test_the_command_prints_and_saves_the_same_table_twice(folder, tmp_path, monkeypatch, capsys):
    saved = []
    for name in ("one.json", "two.json"):
        arguments = [str(folder), "--trials", "2", "--rows", "clean", "fan25", "lost20_8k", "polarity"]
        monkeypatch.setattr(sys, "argv", ["bench_answers.py", *arguments, "--json", str(tmp_path / name)])
        bench_answers.main()
        saved.append(json.loads((tmp_path / name).read_text()))
    assert saved[0] == saved[1]
    assert [row["key"] for row in saved[0]["rows"]] == ["lost20_8k", "fan25", "polarity", "clean"]
    assert capsys.readouterr().out.count("| `lost20_8k` |") == 2
