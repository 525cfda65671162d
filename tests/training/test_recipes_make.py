"""The sounds of a corpus become stems of one format, with rows that pass the check."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("torch")

from made_corpus import Float32, chord, rush, talk

from training.corpora.__main__ import main
from training.corpora.make import Limits, floor_and_range_db, make
from training.corpora.manifest import read_manifest, validate
from training.corpora.recipes import find

ALL = Limits()


def write(path: Path, samples: Float32, rate: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([samples] * channels, axis=1), rate)


def own_folder(root: Path) -> Path:
    for number, speaker in enumerate(("anna", "ben")):
        for take in range(3):
            write(root / f"speech/{speaker}/{take}.wav", talk(3.0, 120 + 50 * number, seed=take))
    write(root / "noise/fan/long.wav", rush(70.0), channels=2)
    write(root / "music/one.flac", chord(4.0))
    return root


def made(root: Path, out: Path, limits: Limits = ALL) -> dict[str, dict[str, str]]:
    make(find("folder", root, licence="CC0-1.0"), out, limits)
    with (out / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_a_folder_becomes_a_corpus_that_the_check_accepts(tmp_path: Path) -> None:
    root, out = own_folder(tmp_path / "from"), tmp_path / "out"
    assert (
        main(["make", "folder", "--from", str(root), "--out", str(out), "--licence", "CC0-1.0", "--source", "mine"])
        == 0
    )
    stems = read_manifest(out)
    assert validate(stems, out) == []
    assert {stem.kind for stem in stems} == {"speech", "noise", "music"}
    assert {stem.source for stem in stems} == {"mine"}
    assert main(["check", str(out)]) == 0


def test_a_recipe_that_does_not_fit_exits_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = own_folder(tmp_path / "from")
    assert main(["make", "demand", "--from", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "does not look like demand" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "out").exists()


def test_long_recordings_are_cut_and_stay_one_original(tmp_path: Path) -> None:
    rows = made(own_folder(tmp_path / "from"), tmp_path / "out", Limits(piece_seconds=30, recording_seconds=65))
    noises = [row for row in rows.values() if row["kind"] == "noise"]
    assert sorted(float(row["seconds"]) for row in noises) == [5.0, 30.0, 30.0]
    assert len({row["original"] for row in noises}) == len({row["split"] for row in noises}) == 1


@pytest.mark.parametrize(("rate", "kept"), [(8_000, 8_000), (11_025, 11_025), (16_000, 16_000), (48_000, 16_000)])
def test_rates_above_16_khz_come_down_and_none_goes_up(tmp_path: Path, rate: int, kept: int) -> None:
    write(tmp_path / "from/speech/anna/one.wav", talk(2.0, 120, rate_hz=rate), rate)
    (row,) = made(tmp_path / "from", tmp_path / "out").values()
    samples, written = soundfile.read(tmp_path / "out" / row["path"])
    assert (int(row["sample_rate"]), written) == (kept, kept)
    assert len(samples) == pytest.approx(2.0 * kept, abs=2)
    assert soundfile.info(tmp_path / "out" / row["path"]).subtype == "PCM_16"


def test_speech_with_a_floor_and_clipped_speech_are_left_out(tmp_path: Path) -> None:
    clean = talk(3.0, 120)
    write(tmp_path / "speech/clean/one.wav", clean)
    write(tmp_path / "speech/hissing/one.wav", clean + rush(3.0, scale=0.02))
    write(tmp_path / "speech/clipped/one.wav", np.clip(20 * clean, -1, 1))
    write(tmp_path / "speech/short/one.wav", clean[:1600])
    (tmp_path / "speech/broken").mkdir()
    (tmp_path / "speech/broken/one.wav").write_bytes(b"no sound")
    account = make(find("folder", tmp_path, licence="x"), tmp_path / "out", Limits())
    assert account.files == 1
    assert dict(account.left_out) == {
        "speech with an audible floor": 1,
        "clipped speech": 1,
        "too short": 1,
        "unreadable": 1,
    }


def test_noise_is_not_judged_by_its_floor(tmp_path: Path) -> None:
    write(tmp_path / "from/noise/fan/one.wav", rush(3.0))
    (row,) = made(tmp_path / "from", tmp_path / "out").values()
    assert float(row["range_db"]) < 5


def test_the_minutes_asked_for_are_shared_by_the_speakers(tmp_path: Path) -> None:
    root = own_folder(tmp_path / "from")
    rows = made(root, tmp_path / "out", Limits(minutes=0.1))  # two of six recordings of three seconds
    speech = [row for row in rows.values() if row["kind"] == "speech"]
    assert sorted(row["speaker"] for row in speech) == ["anna", "ben"]
    assert made(root, tmp_path / "again", Limits(minutes=0.1)).keys() == rows.keys()


def test_a_second_run_replaces_its_source_and_keeps_the_others(tmp_path: Path) -> None:
    write(tmp_path / "a/noise/fan/one.wav", rush(2.0))
    write(tmp_path / "b/noise/dog/one.wav", rush(2.0))
    out = tmp_path / "out"
    for name in ("a", "b", "a"):
        make(find("folder", tmp_path / name, licence="x", source=name), out, Limits())
    assert sorted(stem.source for stem in read_manifest(out)) == ["a", "b"]


def test_the_first_microphone_is_the_room(tmp_path: Path) -> None:
    decay = (rush(0.5) * np.exp(-np.arange(8000) / 800)).astype(np.float32)
    path = tmp_path / "from/rir/hall.wav"
    path.parent.mkdir(parents=True)
    soundfile.write(path, np.stack([decay, -decay], axis=1), 16_000)
    (row,) = made(tmp_path / "from", tmp_path / "out").values()
    samples, _ = soundfile.read(tmp_path / "out" / row["path"])
    assert np.abs(samples - decay).max() < 1e-3


def test_two_files_of_one_name_are_two_stems(tmp_path: Path) -> None:
    for chapter in ("1", "2"):
        write(tmp_path / f"from/speech/anna/{chapter}/one.wav", talk(2.0, 120))
    assert len(made(tmp_path / "from", tmp_path / "out")) == 2


def test_floor_and_range_leave_digital_silence_out() -> None:
    quiet, loud = rush(1.0, scale=0.001), rush(1.0, scale=0.1)
    floor, span = floor_and_range_db(np.concatenate([np.zeros(16_000, np.float32), quiet, loud]), 16_000)
    assert floor == pytest.approx(-60, abs=1)
    assert span == pytest.approx(40, abs=1)


def test_a_corpus_with_few_pauses_asks_for_less_range(tmp_path: Path) -> None:
    voiced = talk(3.0, 120) + rush(3.0, scale=0.004)
    write(tmp_path / "speech/anna/one.wav", voiced)
    write(tmp_path / "wav/train/S0002/one.wav", voiced)
    _, span = floor_and_range_db(voiced, 16_000)
    assert 26 < span < 34
    common = ["--from", str(tmp_path), "--out", str(tmp_path / "out"), "--floor", "-30"]
    assert main(["make", "folder", *common, "--licence", "x"]) == 1
    assert main(["make", "aishell", *common]) == 0
    assert main(["make", "folder", *common, "--licence", "x", "--range", "20"]) == 0


def test_pieces_of_one_recording_are_joined_in_order(tmp_path: Path) -> None:
    whole = rush(3.0)
    for number in range(3):
        write(tmp_path / f"from/unknown/1-100032-A-0{number}.wav", whole[16_000 * number : 16_000 * (number + 1)])
    make(find("esc-50-pieces", tmp_path / "from"), tmp_path / "out", ALL)
    (stem,) = read_manifest(tmp_path / "out")
    samples, _ = soundfile.read(tmp_path / "out" / stem.path, dtype="float32")
    np.testing.assert_allclose(samples, whole, atol=1e-4)
    assert (stem.sound_class, stem.original, stem.commercial) == ("dog", "1-100032-A-0", True)


def test_speakers_of_another_corpus_keep_their_split(tmp_path: Path) -> None:
    for speaker in ("00000001", "00000002"):
        write(tmp_path / f"from/bed/{speaker}_nohash_0.wav", talk(1.0, 120))
    arguments = ["make", "speech-commands", "--from", str(tmp_path / "from"), "--floor", "0", "--range", "0"]
    assert main([*arguments, "--out", str(tmp_path / "first")]) == 0
    known = (tmp_path / "first/manifest.csv").read_text().replace(",train,", ",valid,")
    (tmp_path / "first/manifest.csv").write_text(known)
    assert main([*arguments, "--out", str(tmp_path / "second"), "--splits-of", str(tmp_path / "first")]) == 0
    assert {stem.split for stem in read_manifest(tmp_path / "second")} == {"valid"}
