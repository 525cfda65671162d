"""Folders as sources of archives: links, folders that cannot be listed, and sources without recordings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from archive_material import Listing, rows_in, run_here, write_clips

from speech_qc.archive.items import ArchiveError
from speech_qc.archive.sources.recordings import find_sources
from speech_qc.cli.main import main
from unlisted_folder import unlisted


def names(source: Path | str) -> list[str]:
    (found,) = find_sources([str(source)])
    return [item.uri for item in found.items()]


def test_a_folder_has_what_a_pattern_over_it_has(tmp_path: Path) -> None:
    write_clips(tmp_path / "disk", 2, 0.1)
    write_clips(tmp_path / "calls" / "plain", 1, 0.1)
    os.symlink("../disk", tmp_path / "calls" / "2026")
    assert len(names(tmp_path / "calls")) == 3
    assert sorted(names(tmp_path / "calls")) == names(tmp_path / "calls/**/*.wav")


def test_a_folder_that_cannot_be_listed_is_a_row(tmp_path: Path) -> None:
    (clip,) = write_clips(tmp_path / "calls", 1, 0.5)
    write_clips(tmp_path / "calls" / "private", 1, 0.5)
    with unlisted(tmp_path / "calls" / "private") as folder:
        (source,) = find_sources([str(folder.parent)])
        recording, private = source.items()
        with pytest.raises(ArchiveError, match="Permission denied"):
            names(folder)
    assert (Path(recording.uri).name, Path(private.uri)) == (Path(clip).name, folder)

    done = run_here(Listing([private]), tmp_path / "out")

    assert (done.finished, done.errors) == (1, 1)
    (row,) = rows_in(tmp_path / "out")
    assert row["error"]["code"] == "unreadable"
    assert "expected to list this folder, got Permission denied" in row["error"]["message"]


@pytest.mark.parametrize("source", ["empty", "empty/**/*.wav", "calls/**/*.wave", "nowhere"])
def test_a_source_without_recordings_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_clips(tmp_path / "calls", 1, 0.1)
    assert main(["archive", str(tmp_path / source), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert "expected recordings, got none" in errors or "no such file or folder" in errors
