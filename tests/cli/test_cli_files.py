from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_material import noise, write

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


def test_files_in_a_folder_are_recognised_by_their_first_bytes() -> None:
    for name, kind in (("a", "WAV"), ("b.dat", "FLAC"), ("c.2024-05-01", "OGG"), ("d.bin", "AIFF")):
        write(Path("calls/x.wav"), noise(0.2), kind=kind).rename(f"calls/{name}")
    Path("calls/e.m4x").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0")
    Path("calls/f.clip").write_bytes(b"\x1a\x45\xdf\xa3" + bytes(60))
    assert found("calls") == [
        "calls/a",
        "calls/b.dat",
        "calls/c.2024-05-01",
        "calls/d.bin",
        "calls/e.m4x",
        "calls/f.clip",
    ]


NOT_AUDIO = {
    "empty": b"",
    "notes.txt": b"call 17, angry customer\n",
    "table.csv": b"a,b\n1,2\n",
    "photo.jpg": b"\xff\xd8\xff\xe0" + bytes(100),
    "photo.heic": b"\0\0\0\x24ftypheic\0\0\0\0mif1",
    "photo.avif": b"\0\0\0\x1cftypavif",
    "photo.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "photo.png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    "paper.pdf": b"%PDF-1.7\n",
    "archive.zip": b"PK\x03\x04" + bytes(60),
    "raw.gsm": b"\xd2\x4f\xa2" * 33,
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", NOT_AUDIO)
def test_other_files_in_a_folder_are_skipped_and_counted(name: str) -> None:
    touch("calls/a.wav")
    Path("calls", name).write_bytes(NOT_AUDIO[name])
    result = find_sources(["calls"])
    assert [source.path.name for source in result.sources] == ["a.wav"]
    assert [file.path.name for file in result.skipped] == [name]
    kind = Path(name).suffix or "without extension"
    assert result.skipped_message() == f"skipped 1 file that does not look like audio: 1 {kind} ({name})"


def test_what_cannot_be_opened_as_a_file_is_skipped_without_waiting() -> None:
    touch("calls/a.wav")
    os.mkfifo("calls/pipe")
    os.symlink("nowhere", "calls/link")
    assert [file.path.name for file in find_sources(["calls"]).skipped] == ["link", "pipe"]


def test_a_skipped_file_that_is_also_named_is_inspected_and_not_counted() -> None:
    touch("calls/a.wav", "calls/raw")
    result = find_sources(["calls", "calls/raw", "ca*"])
    assert [source.path.name for source in result.sources] == ["a.wav", "raw"]
    assert not result.skipped


def test_skipped_files_are_summed_up_by_extension() -> None:
    touch("d/a.wav", *(f"d/{i}.txt" for i in range(5)), *(f"d/x.{i}" for i in range(9)), "d/y", "d/z\x1b")
    message = find_sources(["d"]).skipped_message()
    assert message.startswith(
        "skipped 16 files that do not look like audio: 5 .txt (0.txt, …), 2 without extension (y, …)"
    )
    assert message.endswith(", 5 others")


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


def test_the_copy_of_a_pipe_does_not_lengthen_the_other_names() -> None:
    copy = InputFile(Path("/tmp/speech-qc-1/0/stdin"), "-")
    files = [InputFile(Path("calls", name)) for name in ("a/x.wav", "b/x.wav")]
    assert result_names([*files, copy], "json") == ["a__x.json", "b__x.json", "stdin.json"]
    files = [InputFile(Path("calls/stdin.wav"))]
    assert result_names([*files, copy], "json") == ["stdin.json", "stdin-2.json"]
