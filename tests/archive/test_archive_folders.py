"""Folders as sources of archives: links, folders that cannot be listed, and sources without recordings."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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


@pytest.mark.parametrize("name", ["a.3gp", "a.wma", "a.caf", "a.MP4", "a", "a.2026"])
def test_results_and_other_files_hide_no_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (clip,) = write_clips(tmp_path / "phone", 1, 0.5)
    os.rename(clip, tmp_path / "phone" / name)
    out = tmp_path / "phone" / "results"
    with tarfile.open(tmp_path / "phone" / "backup.tar", "w") as tar:
        tar.add(tmp_path / "phone" / name, "old.wav")

    for words in ("1 inspected, 0 done before", "0 inspected, 1 done before"):
        assert main(["archive", str(tmp_path / "phone"), "--out", str(out), "--workers", "1"]) == 0
        assert words in capsys.readouterr().err
    assert [row["uri"] for row in rows_in(out)] == [str(tmp_path / "phone" / name)]


@pytest.mark.parametrize("out", [".", "results"])
def test_results_beside_a_data_set_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str) -> None:
    (clip,) = write_clips(tmp_path / "clips", 1, 0.5)
    kinds = [("shards", _write_shard), ("tables", _write_table)]
    for folder, write in kinds[: 1 if out == "." else 2]:  # tables among tables of results are refused
        source = tmp_path / folder
        source.mkdir()
        write(source, Path(clip))
        (source / ".hidden").mkdir()
        (source / ".hidden" / "x.wav").write_bytes(Path(clip).read_bytes())
        for words in ("1 inspected, 0 done before", "0 inspected, 1 done before"):
            assert main(["archive", str(source), "--out", str(source / out), "--workers", "1"]) == 0
            assert words in capsys.readouterr().err
            assert main(["archive", "report", str(source / out)]) == 0
            capsys.readouterr()


def _write_shard(folder: Path, clip: Path) -> None:
    with tarfile.open(folder / "1.tar", "w") as tar:
        tar.add(clip, "a.wav")


def _write_table(folder: Path, clip: Path) -> None:
    pq.write_table(pa.table({"audio": pa.array([clip.read_bytes()], pa.binary())}), folder / "1.parquet")


@pytest.mark.parametrize("source", ["empty", "empty/**/*.wav", "calls/**/*.wave", "nowhere"])
def test_a_source_without_recordings_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    (tmp_path / "empty").mkdir()
    write_clips(tmp_path / "calls", 1, 0.1)
    assert main(["archive", str(tmp_path / source), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
    errors = " ".join(capsys.readouterr().err.split())
    assert "expected recordings, got none" in errors or "no such file or folder" in errors
