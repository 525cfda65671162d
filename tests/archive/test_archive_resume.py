"""A run does what is missing: each recording once, whatever was killed before."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from archive_material import OPENER, KilledRun, Listing, rows_in, run_here, wait_for, workers_below, write_clips

from signals import voice
from speech_qc.archive import local
from speech_qc.archive.asked import Asked
from speech_qc.archive.dest import Destination
from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.sources.find import dataset_source


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def test_a_second_run_does_nothing_and_a_new_recording_is_added(tmp_path: Path) -> None:
    paths = write_clips(tmp_path / "in", 6, 0.5)
    first = run_here(str(tmp_path / "in"), tmp_path / "out")
    assert (first.finished, first.done_before, first.errors) == (6, 0, 0)
    files = {path: path.read_bytes() for path in parts_in(tmp_path / "out")}

    again = run_here(str(tmp_path / "in"), tmp_path / "out")
    assert (again.finished, again.done_before) == (0, 6)
    assert files == {path: path.read_bytes() for path in parts_in(tmp_path / "out")}

    write_clips(tmp_path / "in" / "later", 1, 0.5)
    assert run_here(str(tmp_path / "in"), tmp_path / "out").finished == 1
    assert len(rows_in(tmp_path / "out")) == len(paths) + 1


@pytest.mark.slow  # starts four runs
def test_a_run_that_is_killed_twice_and_whose_workers_are_killed_ends_with_every_row_once(tmp_path: Path) -> None:
    paths = write_clips(tmp_path / "in", 160, 3.0)
    source, out = str(tmp_path / "in"), tmp_path / "out"
    for _ in range(2):
        before = len(parts_in(out))
        killed = KilledRun(source, str(out), "--workers", "2")
        wait_for(lambda before=before: len(parts_in(out)) >= before + 2)
        killed.kill()
    assert 0 < len(rows_in(out)) < len(paths)
    for path in parts_in(out):
        pq.read_table(path)  # whole

    last = KilledRun(source, str(out), "--workers", "2")
    for _ in range(2):
        before = len(parts_in(out))
        wait_for(lambda before=before: len(parts_in(out)) > before)
        last.kill_worker()
    errors = last.wait()

    rows = rows_in(out)
    assert [row["uri"] for row in rows] == paths
    assert all(row["error"] is None for row in rows)
    assert "0 with an error" in errors
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("part-")) == [".lock"]


def test_workers_end_with_the_run_that_started_them(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", voice(600.0), 16_000)
    run = KilledRun(str(tmp_path / "long.wav"), str(tmp_path / "out"), "--workers", "1")
    wait_for(lambda: workers_below(run.process.pid))
    (worker,) = workers_below(run.process.pid)
    time.sleep(0.5)
    run.kill()
    wait_for(lambda: not Path(f"/proc/{worker}/cmdline").exists() or not Path(f"/proc/{worker}/cmdline").read_text())


def test_a_stopped_run_keeps_what_is_done(tmp_path: Path) -> None:
    write_clips(tmp_path / "in", 60, 2.0)
    seen = []

    def stop(progress: Any) -> None:
        seen.append(progress.finished)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_here(str(tmp_path / "in"), tmp_path / "out", on_progress=stop)
    assert 0 < seen[0] < 60
    assert len(rows_in(tmp_path / "out")) == seen[0]
    assert run_here(str(tmp_path / "in"), tmp_path / "out").finished == 60 - seen[0]


def test_a_recording_that_ends_its_worker_is_a_row_and_the_others_are_inspected(tmp_path: Path) -> None:
    paths = write_clips(tmp_path / "in", 5, 0.5)
    crash = str(tmp_path / "crash.wav")
    items = [Item(uri, etag="1") for uri in (*paths[:2], crash, *paths[2:])]

    done = run_here(Listing(items, OPENER), tmp_path / "out", workers=1)

    rows = {row["uri"]: row for row in rows_in(tmp_path / "out")}
    assert (done.finished, done.errors) == (6, 1)
    assert rows[crash]["error"]["code"] == "worker_died"
    assert "signal 11" in rows[crash]["error"]["message"]
    assert all(rows[path]["status"] for path in paths)
    assert run_here(Listing(items, OPENER), tmp_path / "out").done_before == 6


def test_a_machine_on_which_every_worker_dies_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_FAILURES", 2)
    items = [Item(f"crash-{number}", etag="1") for number in range(4)]
    with pytest.raises(ArchiveError, match="2 recordings in a row ended their worker processes"):
        run_here(Listing(items, OPENER), tmp_path / "out", workers=1)


def test_a_changed_recording_replaces_its_row_or_joins_it(tmp_path: Path) -> None:
    paths = write_clips(tmp_path / "in", 3, 0.5)
    out = tmp_path / "out"
    run_here(str(tmp_path / "in"), out)
    old = rows_in(out)
    soundfile.write(paths[1], voice(0.8, seed=5), 16_000)

    assert run_here(str(tmp_path / "in"), out, keep_old=True).finished == 1
    assert [row["duration_s"] for row in rows_in(out) if row["uri"] == paths[1]] == [0.5, 0.8]
    assert run_here(str(tmp_path / "in"), out, keep_old=True).finished == 0

    replaced = run_here(str(tmp_path / "in"), out)
    assert (replaced.finished, replaced.old_rows) == (0, 1)
    rows = rows_in(out)
    assert [row["duration_s"] for row in rows] == [0.5, 0.8, 0.5]
    assert [rows[0], rows[2]] == [old[0], old[2]]


@pytest.mark.parametrize("form", ["kaldi", "parquet"])
def test_a_changed_file_that_a_data_set_names_is_inspected_again(tmp_path: Path, form: str) -> None:
    paths = write_clips(tmp_path / "in", 2, 0.5)
    if form == "kaldi":
        (tmp_path / "wav.scp").write_text(f"a {paths[0]}\nb {paths[1]}\n")
    else:
        pq.write_table(pa.table({"audio": paths}), tmp_path / "calls.parquet")
    name = str(tmp_path / ("wav.scp" if form == "kaldi" else "calls.parquet"))
    out = tmp_path / "out"
    assert run_here(dataset_source(name), out).finished == 2
    assert all(row["etag"].startswith(f"{Path(row['uri']).stat().st_size}-") for row in rows_in(out))

    soundfile.write(paths[1], voice(0.8, seed=5), 16_000)
    again = run_here(dataset_source(name), out)

    assert (again.finished, again.done_before, again.old_rows) == (1, 1, 1)
    assert [row["duration_s"] for row in rows_in(out)] == [0.5, 0.8]


def test_channels_that_are_gone_leave_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "in" / "call.wav"
    path.parent.mkdir()
    samples = voice(0.5)
    soundfile.write(path, [[one, one] for one in samples], 16_000)
    run_here(str(path), tmp_path / "out")
    assert len(rows_in(tmp_path / "out")) == 2
    soundfile.write(path, samples, 16_000)
    assert run_here(str(path), tmp_path / "out").old_rows == 2
    assert [(row["channel"], row["channels"]) for row in rows_in(tmp_path / "out")] == [(0, 1)]


def test_another_profile_is_another_inspection(tmp_path: Path) -> None:
    write_clips(tmp_path / "in", 2, 0.5)
    out = tmp_path / "out"
    run_here(str(tmp_path / "in"), out)
    assert run_here(str(tmp_path / "in"), out, asked=Asked("dataset"), keep_old=True).finished == 2
    assert sorted(row["profile"] for row in rows_in(out)) == ["dataset", "dataset", "default", "default"]
    assert run_here(str(tmp_path / "in"), out, keep_old=True).finished == 0, "both are there"


def test_errors_are_tried_again_if_asked_for(tmp_path: Path) -> None:
    write_clips(tmp_path / "in", 1, 0.5)
    missing = tmp_path / "missing.wav"
    items = Listing([Item(str(missing))])
    assert run_here(items, tmp_path / "out").errors == 1
    assert run_here(items, tmp_path / "out").finished == 0
    again = run_here(items, tmp_path / "out", retry_errors=True)
    assert (again.finished, again.errors, again.old_rows) == (1, 1, 1)
    os.rename(tmp_path / "in" / "clip-0000.wav", missing)
    assert run_here(items, tmp_path / "out").errors == 0, "it has an etag now"
    (row,) = rows_in(tmp_path / "out")
    assert row["error"] is None


def test_a_recording_that_is_named_twice_is_inspected_once(tmp_path: Path) -> None:
    (path,) = write_clips(tmp_path / "in", 1, 0.5)
    done = run_here(Listing([Item(path), Item(path, 0.0, 0.25), Item(path)]), tmp_path / "out")
    assert (done.listed, done.twice, done.finished) == (3, 1, 2)
    assert len(rows_in(tmp_path / "out")) == 2


def test_two_runs_cannot_write_to_one_folder(tmp_path: Path) -> None:
    with Destination(str(tmp_path)), pytest.raises(ArchiveError, match="another run writes there"):
        Destination(str(tmp_path))
    with Destination(str(tmp_path)):
        pass


def test_drafts_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    draft = tmp_path / ".part-1-000001.parquet.draft"
    draft.write_bytes(b"half of a fi")
    with Destination(str(tmp_path)):
        assert not draft.exists()


def test_rows_are_read_only_from_results(tmp_path: Path) -> None:
    (tmp_path / "other.parquet").write_bytes(b"no parquet")
    write_clips(tmp_path / "in", 1, 0.5)
    with pytest.raises(ArchiveError, match="expected results of `speech-qc archive`"):
        run_here(str(tmp_path / "in"), tmp_path)


def test_a_wrong_setting_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    write_clips(tmp_path / "in", 1, 0.5)
    with pytest.raises(ArchiveError, match="expected profile to be one of"):
        run_here(str(tmp_path / "in"), tmp_path / "out", asked=Asked("no such profile"))
