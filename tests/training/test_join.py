"""Joined corpora keep held-out material out of training, and selection material apart from reported figures."""

from __future__ import annotations

from pathlib import Path

from made_corpus import row, write_manifest

from training.corpora.manifest import COLUMNS, read_manifest, validate
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
