"""Stems have one rate and level after preprocessing, without DC or edge silence; unusable files are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from made_corpus import RATE_HZ, room, rush, stem, talk, write_sound

from training.corpora.manifest import Stem
from training.corpora.preprocess import EDGE_KEEP, NORMAL_LEVEL_DBFS, Recording, Report, active_level_db, load, load_one

ONE = stem("speech", speaker="one", path="one.wav")


def loaded(folder: Path, row: Stem = ONE, report: Report | None = None) -> Recording:
    outcome = load_one(folder, row, report or Report())
    assert isinstance(outcome, Recording), outcome
    return outcome


@pytest.mark.parametrize("gain", [0.02, 1.0])
def test_every_stem_comes_to_the_normal_level(tmp_path: Path, gain: float) -> None:
    write_sound(tmp_path / "one.wav", talk(2.0, 150.0) * gain, subtype="FLOAT")
    samples = loaded(tmp_path).samples
    assert samples.dtype == np.float32
    assert active_level_db(samples) == pytest.approx(NORMAL_LEVEL_DBFS, abs=0.01)


def test_dc_is_removed_and_counted(tmp_path: Path) -> None:
    write_sound(tmp_path / "one.wav", talk(2.0, 150.0) + 0.05, subtype="FLOAT")
    report = Report()
    assert abs(float(loaded(tmp_path, report=report).samples.mean())) < 1e-3
    assert report.dc_removed == 1


def test_silence_at_the_edges_is_cut_to_100_ms_and_counted(tmp_path: Path) -> None:
    still = np.zeros(RATE_HZ, np.float32)
    write_sound(tmp_path / "one.wav", np.concatenate([still, rush(1.0, 1, 0.1), still]), subtype="FLOAT")
    report = Report()
    samples = loaded(tmp_path, report=report).samples
    assert len(samples) == RATE_HZ + 2 * EDGE_KEEP
    assert np.abs(samples[: EDGE_KEEP - 320]).max() < 1e-3 < np.abs(samples[EDGE_KEEP : EDGE_KEEP + 320]).max()
    assert report.trimmed_s == pytest.approx(1.8)


def test_other_rates_and_channels_become_16_khz_mono(tmp_path: Path) -> None:
    left = rush(1.0, 1)[:8000]
    write_sound(tmp_path / "one.wav", np.stack([left, left], axis=1), 8_000)
    assert len(loaded(tmp_path).samples) == RATE_HZ


def test_an_impulse_response_starts_at_its_direct_sound_with_unit_energy(tmp_path: Path) -> None:
    write_sound(tmp_path / "room.wav", np.concatenate([np.zeros(500), 0.5 * room()]), subtype="FLOAT")
    response = loaded(tmp_path, stem("rir", path="room.wav")).samples
    assert int(np.argmax(np.abs(response))) == 16
    assert float(np.sum(np.square(response))) == pytest.approx(1.0, abs=1e-4)


def test_the_floor_is_measured_after_the_level_was_set(tmp_path: Path) -> None:
    write_sound(tmp_path / "one.wav", talk(3.0, 150.0, seed=4), subtype="FLOAT")
    write_sound(tmp_path / "two.wav", talk(3.0, 150.0, seed=4) * 0.1, subtype="FLOAT")
    first = loaded(tmp_path)
    second = loaded(tmp_path, stem("speech", speaker="two", path="two.wav"))
    assert first.floor_db == pytest.approx(second.floor_db, abs=0.1)
    assert -95.0 < first.floor_db < -60.0


def test_broken_files_are_refused_by_reason_and_the_rest_is_kept(tmp_path: Path) -> None:
    sound = rush(1.0, 1)
    bad = sound.copy()
    bad[100] = np.nan
    sounds = {
        "good": sound,
        "not finite": bad,
        "too short": sound[:3000],
        "clipped": np.clip(sound * 60.0, -1.0, 1.0),
        "silent": np.zeros(RATE_HZ, np.float32),
    }
    for name, samples in sounds.items():
        write_sound(tmp_path / f"{name}.wav", samples, subtype="FLOAT")
    (tmp_path / "unreadable.wav").write_bytes(b"this is no sound file")
    names = [*sounds, "unreadable", "absent"]
    recordings, report = load(tmp_path, [stem("noise", name, path=f"{name}.wav") for name in names], progress=False)
    assert [recording.stem.sound_class for recording in recordings] == ["good"]
    assert report.kept == 1
    reasons = {"not finite": 1, "too short": 1, "clipped": 1, "silent": 1, "unreadable": 2}
    assert dict(report.rejected) == reasons
    assert "2 unreadable" in report.lines()[0]


def test_a_silent_room_is_refused(tmp_path: Path) -> None:
    write_sound(tmp_path / "room.wav", np.zeros(1000))
    assert load_one(tmp_path, stem("rir", path="room.wav"), Report()) == "silent"
