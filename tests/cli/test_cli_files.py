from __future__ import annotations

import os
from pathlib import Path

import pytest

from speech_qc.cli.files import InputFile, find_sources, replaced_when_complete, result_names, write_file


def touch(*names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(*arguments: str) -> list[str]:
    return [source.path.as_posix() for source in find_sources(arguments).sources]


def test_folder_is_searched_to_the_bottom_for_audio_only() -> None:
    touch("calls/b.WAV", "calls/a/deep/c.flac", "calls/notes.txt", "calls/._b.wav", "calls/.cache/d.wav")
    assert found("calls") == ["calls/b.WAV", "calls/a/deep/c.flac"]


def test_named_file_is_taken_whatever_its_extension() -> None:
    touch("recording.dat")
    assert found("recording.dat") == ["recording.dat"]


def test_glob_pattern_crosses_folders_in_order_of_name() -> None:
    touch("x/b.wav", "x/y/a.wav", "x/c.mp3")
    assert found("x/**/*.wav") == ["x/b.wav", "x/y/a.wav"]


def test_name_that_looks_like_a_pattern_but_exists_is_that_file() -> None:
    touch("take[1].wav", "take1.wav")
    assert found("take[1].wav") == ["take[1].wav"]


def test_same_file_found_twice_is_inspected_once() -> None:
    touch("calls/a.wav")
    os.symlink("calls/a.wav", "link.wav")
    assert found("calls/a.wav", "calls", "link.wav") == ["calls/a.wav"]


@pytest.mark.parametrize(("argument", "words"), [("no.wav", "no such file"), ("*.ogg", "pattern"), ("empty", ".flac")])
def test_argument_that_leads_nowhere_is_named(argument: str, words: str) -> None:
    Path("empty").mkdir()
    result = find_sources([argument])
    assert not result.sources
    assert argument in result.missing[0]
    assert words in result.missing[0]


@pytest.mark.parametrize(("arguments", "several"), [(["a.wav"], False), (["d"], True), (["a.*"], True)])
def test_shape_of_the_result_depends_on_the_arguments_not_on_what_they_hold(
    arguments: list[str], several: bool
) -> None:
    touch("a.wav", "d/b.wav")
    result = find_sources(arguments)
    assert len(result.sources) == 1
    assert result.several is several


def names(*paths: str, extension: str = "json") -> list[str]:
    return result_names([InputFile(Path(path)) for path in paths], extension)


def test_result_is_named_after_the_stem() -> None:
    assert names("a/x.wav", "b/y.flac", extension="TextGrid") == ["x.TextGrid", "y.TextGrid"]


def test_equal_stems_are_told_apart_by_folder() -> None:
    assert names("a/x.wav", "b/x.wav", "b/y.wav") == ["a__x.json", "b__x.json", "y.json"]


def test_equal_stems_in_one_folder_are_told_apart_by_extension() -> None:
    assert names("a/x.wav", "a/x.flac") == ["x.wav.json", "x.flac.json"]


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    result = names("a/X.wav", "a/x.wav")
    assert len({name.casefold() for name in result}) == 2


def test_names_made_unique_do_not_collide_with_those_that_were() -> None:
    result = names("a/x.wav", "b/x.wav", "a__x.wav", "c/a__x.wav")
    assert len({name.casefold() for name in result}) == 4


def test_interrupted_result_leaves_the_old_file_and_nothing_else() -> None:
    target = Path("r.json")
    target.write_text("old")

    def chunks() -> object:
        yield b"new"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(target, chunks())  # type: ignore[arg-type]
    assert [path.name for path in Path().iterdir()] == ["r.json"]
    assert target.read_text() == "old"


def test_draft_keeps_the_extension_and_becomes_the_target() -> None:
    with replaced_when_complete(Path("p.png")) as draft:
        assert draft.suffix == ".png"
        draft.write_text("x")
        assert not Path("p.png").exists()
    assert Path("p.png").read_text() == "x"


def test_name_that_is_no_utf8_or_holds_control_characters_is_made_printable() -> None:
    assert InputFile(Path(os.fsdecode(b"a\xff\x1b[31m.wav"))).name == "a��[31m.wav"
