"""A manifest is valid or is rejected with all errors; speakers and licences are separated."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from made_corpus import row, stem, write_corpus, write_manifest

from training.config import DataConfig
from training.corpora.__main__ import main
from training.corpora.manifest import (
    COLUMNS,
    ManifestError,
    hours_by,
    manifest_sha256,
    read_manifest,
    validate,
)
from training.examples import choose_stems, load_pool


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "voice"}, "kind must be one of speech, noise, music, rir, bed, real_noisy, got 'voice'"),
        ({"split": "dev"}, "split must be one of train, valid, test, got 'dev'"),
        ({"path": ""}, "path must be relative"),
        ({"path": "/etc/sound.wav"}, "path must be relative"),
        ({"path": "../sound.wav"}, "path must be relative and inside the folder, got '../sound.wav'"),
        ({"speaker": ""}, "speech needs a speaker"),
        ({"licence": ""}, "licence is empty"),
        ({"sample_rate": "1000"}, "sample_rate must be 4000 … 192000, got 1000"),
        ({"sample_rate": "16k"}, "16k"),
        ({"seconds": "0"}, "seconds must be positive"),
        ({"seconds": "nan"}, "seconds must be positive"),
        ({"seconds": "long"}, "long"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    write_manifest(tmp_path, [row("good.wav", "speech"), row("bad.wav", "speech") | changes])
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path)
    assert "line 3: " in str(caught.value)
    assert says in str(caught.value)
    assert "line 2" not in str(caught.value)


def test_all_wrong_lines_are_named_at_once(tmp_path: Path) -> None:
    write_manifest(tmp_path, [row("a.wav", "speech", speaker=""), row("b.wav", "noise", seconds="-1")])
    with pytest.raises(ManifestError, match=r"(?s)line 2: .*line 3: "):
        read_manifest(tmp_path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    write_manifest(tmp_path, [row("a.wav", "speech")], [c for c in COLUMNS if c not in ("licence", "split")])
    with pytest.raises(ManifestError, match="columns missing: licence, split"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"expected a manifest at .*manifest\.csv: create one with the columns path"
    ):
        read_manifest(tmp_path)


def test_a_speaker_in_two_splits_is_a_leak() -> None:
    stems = [stem("speech", speaker="ann"), stem("speech", speaker="ann", split="valid", path="other.wav")]
    assert validate(stems) == [
        "made/ann: in several splits (train, valid); a speaker or recording must be in one split"
    ]


def test_an_original_in_two_splits_is_a_leak() -> None:
    stems = [stem("noise", "fan", original="x"), stem("noise", "rain", original="x", split="valid")]
    assert len(validate(stems)) == 1
    assert "in several splits" in validate(stems)[0]


def test_speakers_of_one_name_in_two_corpora_are_two_people() -> None:
    assert (
        validate([stem("speech", speaker="1"), stem("speech", speaker="1", source="b", split="valid", path="b")]) == []
    )


def test_doubles_and_missing_files_are_named(tmp_path: Path) -> None:
    wrong = validate([stem("noise", "fan"), stem("noise", "fan")], tmp_path)
    assert wrong == ["noise/fan.wav: listed 2 times", "noise/fan.wav: no such file", "noise/fan.wav: no such file"]


def test_a_leaking_corpus_cannot_be_trained_on(tmp_path: Path) -> None:
    write_manifest(tmp_path, [row("a.wav", "speech", speaker="x"), row("b.wav", "speech", "valid", speaker="x")])
    with pytest.raises(ValueError, match="unfit for training"):
        load_pool(tmp_path, DataConfig(), "train")


def test_a_licence_for_both_uses_is_commercial() -> None:
    both = stem("noise", "fan", licence="free for commercial and non-commercial use; Apache-2.0 elsewhere")
    assert both.commercial
    assert choose_stems([both], DataConfig(), "train") == [both]


@pytest.mark.parametrize(
    "licence", ["CC-BY-NC-3.0 (NON-COMMERCIAL)", "cc by-nc 4.0", "Noncommercial use", "CC BY NC 3.0 x"]
)
def test_non_commercial_material_is_left_out(licence: str) -> None:
    free, bound = stem("noise", "fan"), stem("noise", "rain", licence=licence)
    assert choose_stems([free, bound], DataConfig(), "train") == [free]
    assert choose_stems([free, bound], DataConfig(commercial_only=False), "train") == [free, bound]


def test_other_splits_unlabelled_recordings_and_excluded_sources_are_left_out() -> None:
    stems = [
        stem("noise", "fan"),
        stem("noise", "rain", split="valid"),
        stem("noise", "wind", split="test"),
        stem("real_noisy", "street"),
        stem("noise", "road", source="unwanted"),
    ]
    assert choose_stems(stems, DataConfig(exclude_sources=("unwanted",)), "train") == stems[:1]


def test_hours_are_summed_by_the_named_fields() -> None:
    stems = [stem("noise", "fan", seconds=1800.0), stem("noise", "rain", seconds=900.0), stem("speech", speaker="x")]
    assert hours_by(stems, "kind")[("noise",)] == pytest.approx(0.75)


def test_check_accepts_a_fit_corpus(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(corpus), "--read"]) == 0
    said = capsys.readouterr().out
    assert "14 stems" in said
    assert manifest_sha256(corpus)[:16] in said
    assert "kept 14 stems; rejected: none" in said


def test_check_refuses_a_corpus_with_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path)
    (tmp_path / "noise" / "fan_train.wav").unlink()
    assert main(["check", str(tmp_path)]) == 1
    assert "noise/fan_train.wav: no such file" in capsys.readouterr().out


def test_check_refuses_a_folder_without_a_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path)]) == 1
    assert "unfit" in capsys.readouterr().out
