"""Joined corpora keep held-out material out of training, and selection material apart from reported figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_corpus import row, write_manifest

from training.corpora.manifest import COLUMNS, read_manifest, validate
from training.corpora.pauses import read_marks
from training.join import join, main


def corpora(folder: Path) -> list[Path]:
    made = []
    rows = {
        "one": [row("a.wav", "speech", "train", source="known"), row("b.wav", "speech", "valid", source="known")],
        "two": [
            row("c.wav", "speech", "valid", source="far", seconds="9"),
            row("d.wav", "speech", "valid", source="near", seconds="5"),
            row("a.wav", "speech", "valid", source="known", speaker="a"),
            *(row(f"n{i}.wav", "noise", "valid", source="known") for i in range(8)),
        ],
    }
    for name, listed in rows.items():
        (folder / name).mkdir()
        write_manifest(folder / name, listed)
        made.append(folder / name)
    return made


def test_halves_share_nothing_and_training_shares_nothing_with_them(tmp_path: Path) -> None:
    choose, figures = (read_manifest(folder) for folder in join(tmp_path / "out", corpora(tmp_path)))
    assert validate(choose) == validate(figures) == []
    held = [{s.path for s in stems if s.split == "valid"} for stems in (choose, figures)]
    assert held[0]
    assert held[1]
    assert not held[0] & held[1]
    assert {s.source for s in choose if s.split == "valid" and s.kind == "speech"} == {"far", "known"}
    assert {s.source for s in figures if s.split == "valid" and s.kind == "speech"} == {"near"}


def test_who_is_held_out_in_one_corpus_is_not_trained_on_from_another(tmp_path: Path) -> None:
    choose, _ = (read_manifest(folder) for folder in join(tmp_path / "out", corpora(tmp_path)))
    assert not [stem for stem in choose if stem.split == "train"]


def test_files_are_found_through_the_joined_folder(tmp_path: Path) -> None:
    parts = corpora(tmp_path)
    (parts[1] / "c.wav").write_bytes(b"sound")
    out, _ = join(tmp_path / "out", parts)
    assert (out / "part1" / "c.wav").read_bytes() == b"sound"


def test_the_kind_of_microphone_is_kept_if_a_manifest_states_it(tmp_path: Path) -> None:
    first, second = corpora(tmp_path)
    listed = [row("e.wav", "speech", "train", source="stated", microphone="crowd")]
    write_manifest(second, listed, (*COLUMNS, "microphone"))
    out, _ = join(tmp_path / "out", [first, second])
    assert {stem.source: stem.microphone for stem in read_manifest(out)} == {"known": "", "stated": "crowd"}


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    assert main([str(tmp_path / "out"), str(tmp_path)]) == 2


def crowd(folder: Path) -> Path:
    """Write a corpus of three languages with room tone, and noise of which one clip may not be sold."""
    rows = [
        row(f"{language}{number}{kind}.wav", kind, source="crowd", speaker=f"{language}{number}", language=language)
        for language in ("cy", "ga", "pl")
        for number in range(8)
        for kind in ("speech", "bed")
    ]
    rows += [row("fan.wav", "noise", source="sounds"), row("dog.wav", "noise", "valid", source="sounds")]
    rows += [row("sold.wav", "noise", source="sounds", licence="CC-BY-NC-3.0")]
    folder.mkdir()
    write_manifest(folder, rows)
    np.savez(folder / "speech.npz", allow_pickle=False, **{"cy0speech.wav": np.arange(5, dtype=np.uint8)})
    return folder


def test_a_reserved_language_is_in_the_figures_alone_with_its_room_tone(tmp_path: Path) -> None:
    made = join(tmp_path / "out", [crowd(tmp_path / "crowd")], ["crowd:cy", "sounds:valid"])
    choose, figures = (read_manifest(folder) for folder in made)
    assert validate(choose) == validate(figures) == []
    assert {s.language for s in choose if s.speaker and s.split in ("train", "valid")} == {"ga", "pl"}
    assert {(s.language, s.kind) for s in figures if s.speaker and s.split == "valid"} == {
        ("cy", "speech"),
        ("cy", "bed"),
    }
    assert [s.path for s in figures if s.kind == "noise" and s.split == "valid"] == ["part0/dog.wav"]


def test_half_of_a_sources_speakers_can_be_reserved(tmp_path: Path) -> None:
    choose, figures = (
        read_manifest(folder) for folder in join(tmp_path / "out", [crowd(tmp_path / "crowd")], ["crowd:half"])
    )
    trained = {s.speaker for s in choose if s.split == "train" and s.speaker}
    reserved = {s.speaker for s in figures if s.split == "valid" and s.speaker}
    assert len(trained | reserved) == 24
    assert not trained & reserved
    assert 4 < len(reserved) < 20


def test_an_unknown_reservation_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), str(crowd(tmp_path / "crowd")), "--figures", "crowd:xx"]) == 2
    assert "expected rows of crowd:xx, got none" in capsys.readouterr().err


def test_what_may_not_be_sold_can_be_left_out(tmp_path: Path) -> None:
    out, _ = join(tmp_path / "out", [crowd(tmp_path / "crowd")], commercial=True)
    assert "part0/sold.wav" not in {stem.path for stem in read_manifest(out)}


def test_a_recording_in_two_folders_is_taken_from_the_last(tmp_path: Path) -> None:
    folders = [crowd(tmp_path / "a"), crowd(tmp_path / "b")]
    out, _ = join(tmp_path / "out", folders)
    assert [s.path for s in read_manifest(out) if s.original == "fan"] == ["part1/fan.wav"]


def test_speech_marks_follow_their_recordings(tmp_path: Path) -> None:
    for folder in join(tmp_path / "out", [crowd(tmp_path / "crowd")]):
        marks = read_marks(folder)
        assert list(marks) == ["part0/cy0speech.wav"]
        assert marks["part0/cy0speech.wav"].tolist() == [0, 1, 2, 3, 4]


def test_takes_of_one_recording_and_wet_rooms_are_shared_fairly(tmp_path: Path) -> None:
    takes = [
        row(f"{number}{take}.wav", "noise", "valid", source="ESC-50", original=f"5-{number}-{take}-11")
        for number in range(1000, 1030)
        for take in "ABC"
    ]
    rooms = [row(f"r{i}.wav", "rir", "valid", source="rooms", seconds=f"{i + 1}") for i in range(6)]
    known = [row("n.wav", "noise", source="ESC-50"), row("r.wav", "rir", source="rooms"), row("a.wav", "speech")]
    (tmp_path / "one").mkdir()
    write_manifest(tmp_path / "one", [*takes, *rooms, *known])
    choose, figures = (read_manifest(folder) for folder in join(tmp_path / "out", [tmp_path / "one"]))
    held = [[s for s in stems if s.split == "valid"] for stems in (choose, figures)]
    numbers = [{s.original.split("-")[1] for s in half if s.kind == "noise"} for half in held]
    assert not numbers[0] & numbers[1]
    assert min(map(len, numbers)) > 5
    assert [sorted(s.seconds for s in half if s.kind == "rir") for half in held] == [[1, 3, 5], [2, 4, 6]]
