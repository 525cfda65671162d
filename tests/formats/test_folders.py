"""The walk that finds the files in folders: links, circles, and folders that cannot be listed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from speech_qc.audio.folders import files_in
from speech_qc.cli.files import find_sources
from unlisted_folder import unlisted


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("calls/b/1.wav", "calls/a.wav", "calls/z.wav", "calls/.cache/c.wav", "calls/._a.wav", "disk/d.wav"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def walked() -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    return (str(path) for path in files_in(Path("calls"), fail))


def test_folders_behind_links_follow_the_others() -> None:
    os.symlink("../disk", "calls/2026")
    assert list(walked()) == ["calls/a.wav", "calls/z.wav", "calls/b/1.wav", "calls/2026/d.wav"]


def test_circles_end_and_a_second_name_of_a_folder_renames_nothing() -> None:
    before = list(walked())
    os.symlink("b", "calls/a-link")
    os.symlink("..", "calls/b/up")
    os.symlink("self", "calls/self")
    os.symlink(".", "calls/here")
    os.symlink("nowhere", "calls/broken.wav")
    assert set(walked()) - set(before) == {"calls/self", "calls/broken.wav"}
    assert [path for path in walked() if path in before] == before


def test_a_folder_that_cannot_be_listed_is_reported_and_the_others_are_read() -> None:
    problems: list[OSError] = []
    with unlisted(Path("calls/b")) as path:
        names = [file.name for file in files_in(path.parent, problems.append)]
        result = find_sources([str(path.parent)])
    assert names == ["a.wav", "z.wav"] == [source.path.name for source in result.sources]
    assert [problem.filename for problem in problems] == [str(path)]
    assert result.missing == [f"{path}: this folder cannot be listed: Permission denied"]


def test_inspect_finds_recordings_behind_links() -> None:
    os.symlink("../disk", "calls/2026")
    os.symlink("../calls", "calls/circle")
    assert [source.path.name for source in find_sources(["calls"]).sources] == ["a.wav", "z.wav", "1.wav", "d.wav"]
