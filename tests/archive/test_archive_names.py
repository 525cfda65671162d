"""One odd name, URI or value in a manifest is one row; every other recording is inspected."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_material import rows_in, run_here, write_clips

from speech_qc.archive.dest import Destination
from speech_qc.archive.exports import recordings, to_label_studio, to_nemo, write_tracks
from speech_qc.archive.names import is_remote, local_path, name_of
from speech_qc.archive.report.page import _audio
from speech_qc.archive.sources.find import archive_sources

LATIN = os.fsdecode(b"caf\xe9")
"""A name in Latin-1, as archives of old phone systems have them."""


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/calls/a.wav", "/calls/a.wav"),
        ("/calls/./b//../a.wav", "/calls/a.wav"),
        ("/calls/100%#?.wav", "/calls/100%#?.wav"),
        (f"/calls 1/{LATIN}%#?.wav", "file:///calls%201/caf%E9%25%23%3F.wav"),
        ("/calls/\ud800.wav", "file:///calls/%ED%A0%80.wav"),
        ("file:///calls/a%20b.wav", "/calls/a b.wav"),
        ("file://localhost/calls/caf%E9.wav", "file:///calls/caf%E9.wav"),
        ("s3://bucket/a%20b.wav", "s3://bucket/a%20b.wav"),
        ("s3://key:secret@bucket/a@b.wav", "s3://…@bucket/a@b.wav"),
    ],
)
def test_a_recording_has_one_name_which_is_text(path: str, name: str) -> None:
    assert name_of(path) == name == name_of(name)
    name.encode()
    if not is_remote(name) and "\ud800" not in path:
        assert os.path.normpath(local_path(path)) == local_path(name)


def test_a_relative_path_begins_in_its_folder_and_may_leave_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other" / "deep").mkdir(parents=True)
    os.symlink("other/deep", "link")
    assert name_of("./a.wav") == name_of("a.wav", str(tmp_path)) == f"{tmp_path}/a.wav"
    assert name_of("../a.wav", f"{tmp_path}/other") == f"{tmp_path}/a.wav"
    assert name_of("./link/../a.wav") == f"{tmp_path}/link/../a.wav", "that is other/a.wav"


def test_names_that_are_not_utf8_are_inspected(tmp_path: Path) -> None:
    write_clips(tmp_path / "clips", 2, 0.5)
    (tmp_path / "in").mkdir()
    os.rename(tmp_path / "clips", tmp_path / "in" / LATIN)
    paths = sorted(map(str, (tmp_path / "in" / LATIN).iterdir()))
    odd = Path(paths[1]).with_name(f"{LATIN}.wav")
    os.rename(paths[1], odd)
    Path(paths[0]).with_name(f"{LATIN}.mp3").write_text("no recording")
    out = tmp_path / "out"

    for finished in (3, 0):
        done = run_here(str(tmp_path / "in"), out)
        assert (done.finished, done.done_before) == (finished, 3 - finished)

    rows = {local_path(row["uri"]): row for row in rows_in(out)}
    assert rows.keys() == {paths[0], str(odd), str(odd.with_suffix(".mp3"))}
    assert rows[paths[0]]["status"] and rows[str(odd)]["status"]
    assert rows[str(odd)]["uri"].endswith("/in/caf%E9/caf%E9.wav")
    assert all(row["etag"] and row["content_sha256"] for row in rows.values())
    assert rows[str(odd.with_suffix(".mp3"))]["error"]["code"] == "unsupported_format"

    found = [one for one in recordings(Destination(str(out), writable=False)) if one.error is None]
    manifest = tmp_path / "again.jsonl"
    manifest.write_bytes(b"".join(to_nemo(iter(found))))
    assert {json.loads(line)["audio_filepath"] for line in manifest.read_text().splitlines()} == {paths[0], str(odd)}
    assert {item.uri for item in archive_sources([str(manifest)])[0].items()} == {one.uri for one in found}
    tasks = json.loads(b"".join(to_label_studio(iter(found), str(tmp_path / "in"), "https://host/")))
    assert "https://host/caf%E9/caf%E9.wav" in {task["data"]["audio"] for task in tasks}
    assert write_tracks(iter(found), "audacity", tmp_path / "tracks") == (2, 0)
    assert 'src="in/caf%E9/caf%E9.wav"' in _audio(rows[str(odd)], tmp_path)


def test_what_is_odd_in_a_manifest_is_a_row(tmp_path: Path) -> None:
    good, latin, large = write_clips(tmp_path, 3, 0.5)
    os.rename(latin, tmp_path / f"{LATIN}.wav")
    entries = [
        {"audio_filepath": good, "text": f"{LATIN} \ud800", "score": float("nan")},
        {"audio_filepath": "https://example.com/x.wav"},
        {"audio_filepath": "s3://key:secret@bucket/x.wav"},
        {"audio_filepath": f"{LATIN}.wav"},
        {"audio_filepath": "\ud800.wav"},
        {"audio_filepath": "null\0.wav"},
        {"audio_filepath": "n" * 300 + ".wav"},
        {"audio_filepath": large, "id": 10**25, "score": float("inf")},
    ]
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    (source,) = archive_sources([str(tmp_path / "calls.jsonl")])

    done = run_here(source, tmp_path / "out")

    assert (done.finished, done.errors) == (8, 5)
    assert run_here(source, tmp_path / "out").done_before == 8
    rows = {row["uri"]: row for row in rows_in(tmp_path / "out")}
    assert {uri for uri, row in rows.items() if row["status"]} == {good, large, f"file://{tmp_path}/caf%E9.wav"}
    assert json.loads(rows[good]["manifest"])["text"] == "caf\\udce9 \\ud800"
    assert json.loads(rows[large]["manifest"])["id"] == 10**25
    assert "NaN" not in rows[good]["manifest"] and "Infinity" not in rows[large]["manifest"]
    errors = {uri: row["error"] for uri, row in rows.items() if row["error"]}
    assert all("expected" in error["message"] for error in errors.values())
    assert {error["code"] for error in errors.values()} == {"unreadable", "invalid_audio"}
    assert "download the recordings" in errors["https://example.com/x.wav"]["message"]
    assert "set AWS_ACCESS_KEY_ID" in errors["s3://…@bucket/x.wav"]["message"]
    assert "secret" not in str(rows)


def test_a_member_and_a_table_with_such_names_are_inspected(tmp_path: Path) -> None:
    paths = [Path(path) for path in write_clips(tmp_path / "clips", 2, 0.5)]
    folder = tmp_path / LATIN
    folder.mkdir()
    with tarfile.open(folder / f"{LATIN}.tar", "w") as tar:
        for name, path in ((f"{LATIN}.wav", paths[0]), ("b.wav", paths[1])):
            info = tarfile.TarInfo(name)
            info.size = path.stat().st_size
            tar.addfile(info, io.BytesIO(path.read_bytes()))
    table = pa.table({"audio": pa.array([path.read_bytes() for path in paths], pa.binary())})
    with (folder / "t.parquet").open("wb") as file:
        pq.write_table(table, file)
    with pa.OSFile(os.fsencode(folder / "t.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    for name in (f"{LATIN}.tar", "t.parquet", "t.arrow"):
        (source,) = archive_sources([str(folder / name)])
        done = run_here(source, tmp_path / "out")
        assert (done.finished, done.errors) == (2, 0), ascii(name)
    assert f"file://{tmp_path}/caf%E9/caf%E9.tar#caf%E9.wav" in {row["uri"] for row in rows_in(tmp_path / "out")}


@pytest.mark.slow  # the client of the store tries again for seconds
def test_a_store_that_cannot_be_asked_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (good,) = write_clips(tmp_path, 1, 0.5)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    query = "?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"  # no server listens on the discard port
    unreachable = f"s3://bucket/a.wav{query}"
    (tmp_path / "calls.txt").write_text(f"{unreachable}\n{good}\nnosuch://bucket/x.wav\ns3:///x.wav\n")

    done = run_here(str(tmp_path / "calls.txt"), tmp_path / "out")

    assert (done.finished, done.errors) == (4, 3)
    error = next(row["error"] for row in rows_in(tmp_path / "out") if row["uri"] == unreachable)
    assert error["code"] == "unreadable"
