"""Sources of archives, read from files that the real libraries wrote, if there is one."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import warnings
from datetime import date
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from signals import wav_bytes, white_noise
from speech_qc.archive.items import ArchiveError, Item, ItemSource
from speech_qc.archive.sources.find import archive_sources, dataset_source

RATE_HZ = 16_000
SOUND = white_noise(1.0, level_dbfs=-20)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def listed(name: str | Path, **options: Any) -> tuple[ItemSource, list[Item]]:
    source = dataset_source(str(name), **options)
    assert source is not None
    return source, list(source.items())


def opened(source: ItemSource, item: Item) -> bytes:
    """Read a recording as a worker does."""
    if source.opener is None:
        return Path(item.uri).read_bytes()
    module, _, function = source.opener.partition(":")
    with getattr(import_module(module), function)(item.uri) as file:
        data = file.read()
    assert isinstance(data, bytes)
    return data


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(line) if not isinstance(line, str) else line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


class TestNemo:
    def test_entries_and_paths(self, place: Path):
        (place / "data").mkdir()
        for name in ("here.wav", "data/there.wav"):
            (place / name).write_bytes(wav_bytes(SOUND))
        manifest = write_lines(
            place / "data" / "train.jsonl",
            [
                {"audio_filepath": "there.wav", "duration": 1.0, "text": "one", "speaker": "ann"},
                {"audio_filepath": "here.wav", "offset": 0.25, "duration": 0.5, "text": "two"},
                {"audio_filepath": "/elsewhere/x.wav", "offset": 3, "duration": None},
                {"audio_filepath": "s3://bucket/y.wav", "duration": 0},
            ],
        )

        _, items = listed(manifest)

        assert [item.uri for item in items] == [
            str(place / "data" / "there.wav"),
            str(place / "here.wav"),
            "/elsewhere/x.wav",
            "s3://bucket/y.wav",
        ]
        spans = [(item.offset_s, item.length_s) for item in items]
        assert spans == [(None, 1.0), (0.25, 0.5), (3.0, None), (None, None)], "as NeMo loads them"
        assert items[0].manifest["speaker"] == "ann"

    def test_all_wrong_lines_are_reported_before_any_work(self, place: Path):
        lines = [
            {"audio_filepath": "a.wav"},
            "no json",
            {"text": "no path"},
            {"audio_filepath": "a.wav", "offset": -1},
            {"audio_filepath": "audio_0.wav", "shard_id": 0},
            ["list"],
            {"audio_filepath": 5},
        ]
        source = dataset_source(str(write_lines(place / "m.jsonl", lines)))
        assert source is not None
        with pytest.raises(ArchiveError, match=r"line 2: .* line 3: .* line 4: .* line 5: .*tarred.* and 1 more"):
            next(iter(source.items()))

    def test_numbers_that_python_writes_and_json_lacks(self, place: Path):
        path = place / "m.jsonl"
        path.write_text('{"audio_filepath": "/a.wav", "score": NaN}\n')
        (found,) = listed(path)[1]
        assert np.isnan(found.manifest["score"])
        path.write_text('{"audio_filepath": "/a.wav", "offset": NaN}\n')
        with pytest.raises(ArchiveError, match="line 1: expected offset in seconds, got nan"):
            listed(path)

    def test_a_compressed_manifest_with_a_byte_order_mark(self, place: Path):
        path = place / "m.jsonl.gz"
        path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + b'{"audio_filepath": "/a.wav"}\n\n'))
        assert [item.uri for item in listed(path)[1]] == ["/a.wav"]

    @pytest.mark.parametrize("content", [b"", b'{"path": "a.wav"}\n', b"[1]\n", b"\xff\xfe\n", b"text\n"])
    def test_another_file_is_refused(self, place: Path, content: bytes):
        (place / "m.jsonl").write_bytes(content)
        with pytest.raises(ArchiveError, match="expected"):
            dataset_source("m.jsonl")


class TestKaldi:
    @pytest.fixture
    def ark(self, place: Path) -> dict[str, tuple[int, np.ndarray]]:
        """A data folder written by kaldiio: the recordings are in one archive."""
        kaldiio = pytest.importorskip("kaldiio", reason="writes the archive")
        sounds = {name: (8000, (white_noise(1.0, rate_hz=8000, seed=n) * 32767).astype(np.int16)) for n, name in
                  enumerate(("rec1", "rec2"))}  # fmt: skip
        (place / "data").mkdir()
        with kaldiio.WriteHelper(f"ark,scp:{place}/data/wav.ark,{place}/data/wav.scp") as writer:
            for name, (rate, samples) in sounds.items():
                writer(name, (rate, samples))
        return sounds

    def test_recordings_in_an_archive(self, place: Path, ark: dict[str, tuple[int, np.ndarray]]):
        source, items = listed(place / "data")

        assert [item.manifest["recording"] for item in items] == ["rec1", "rec2"]
        for item, (rate, expected) in zip(items, ark.values(), strict=True):
            samples, found = soundfile.read(io.BytesIO(opened(source, item)), dtype="int16")
            assert found == rate
            np.testing.assert_array_equal(samples, expected)
            assert item.etag is not None, "the archive's own"

    @pytest.mark.usefixtures("ark")
    def test_segments_as_kaldiio_reads_them(self, place: Path):
        import kaldiio

        write_lines(place / "data" / "segments", ["utt1 rec1 0.25 0.75", "utt2 rec2 0.5 1.0"])
        write_lines(place / "data" / "utt2spk", ["utt1 ann", "utt2 bob"])
        write_lines(place / "data" / "text", ["utt1 hello  there"])
        source, items = listed(place / "data" / "wav.scp")

        expected = kaldiio.load_scp(str(place / "data/wav.scp"), segments=str(place / "data/segments"))
        for item in items:
            samples, rate = soundfile.read(io.BytesIO(opened(source, item)), dtype="int16")
            assert item.offset_s is not None and item.length_s is not None
            start, count = round(item.offset_s * rate), round(item.length_s * rate)
            np.testing.assert_array_equal(samples[start : start + count], expected[item.manifest["utterance"]][1])
        assert dict(items[0].manifest) == {
            "utterance": "utt1",
            "recording": "rec1",
            "speaker": "ann",
            "text": "hello  there",
        }

    def test_sides_of_a_call(self, place: Path):
        write_lines(place / "wav.scp", ["call-A /calls/1.wav", "call-B /calls/1.wav"])
        write_lines(place / "reco2file_and_channel", ["call-A 1 A", "call-B 1 B"])
        write_lines(place / "segments", ["u1 call-A 0 1", "u2 call-B 0 -1"])

        _, items = listed(place)

        assert [(item.uri, item.offset_s, item.length_s, item.channel) for item in items] == [
            ("/calls/1.wav", 0.0, 1.0, 0),
            ("/calls/1.wav", 0.0, None, 1),
        ]

    def test_any_white_space_separates(self, place: Path):
        write_lines(place / "wav.scp", ["rec\t/calls/with space.wav"])
        write_lines(place / "segments", ["u1\trec\t0\t1"])
        write_lines(place / "reco2file_and_channel", ["rec\trec\tB"])
        write_lines(place / "utt2spk", ["u1 \t ann"])
        write_lines(place / "text", ["u1\thello\tthere  again"])

        _, (item,) = listed(place)

        assert (item.uri, item.offset_s, item.length_s, item.channel) == ("/calls/with space.wav", 0.0, 1.0, 1)
        assert (item.manifest["speaker"], item.manifest["text"]) == ("ann", "hello\tthere  again")

    def test_commands_are_refused(self, place: Path):
        write_lines(place / "wav.scp", ["a /x.wav", "b sph2pipe -f wav /y.sph |"])
        for segments in (False, True):
            if segments:
                write_lines(place / "segments", ["u a 0 1"])
            with pytest.raises(ArchiveError, match="line 2: expected the path of a recording, got the command"):
                listed(place)

    @pytest.mark.parametrize("line", ["u a 0", "u nosuch 0 1", "u a 2 1", "u a x 1", "u a -1 1"])
    def test_wrong_segments_are_refused(self, place: Path, line: str):
        write_lines(place / "wav.scp", ["a /x.wav"])
        write_lines(place / "segments", [line])
        with pytest.raises(ArchiveError, match="line 1"):
            listed(place)


class TestTables:
    @pytest.fixture
    def saved(self) -> Any:
        """A data set with recordings as bytes, as `datasets` stores it."""
        datasets = pytest.importorskip("datasets", reason="install the extra hf")
        datasets.disable_progress_bars()
        features = datasets.Features(
            {
                "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
                "speaker": datasets.Value("string"),
                "picture": datasets.Value("binary"),
            }
        )
        rows = [
            {
                "audio": {"bytes": wav_bytes(white_noise(0.1, seed=row)), "path": f"{row}.wav"},
                "speaker": "ann" if row % 2 else "bob",
                "picture": b"\xff",
            }
            for row in range(7)
        ]
        return datasets.Dataset.from_list(rows, features=features)

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["parquet", "disk"])
    def test_a_data_set_of_datasets(self, place: Path, saved: Any, form: str):
        if form == "parquet":
            saved.to_parquet(place / "set" / "train.parquet", batch_size=3)  # three row groups
        else:
            saved.save_to_disk(place / "set", num_shards=2)
            (place / "set" / "cache-1.arrow").write_bytes(b"of an earlier map")
        source, items = listed("set")

        assert [opened(source, item) for item in items] == [row["audio"]["bytes"] for row in saved]
        assert dict(items[1].manifest) == {"audio": "1.wav", "speaker": "ann"}
        assert len({item.uri for item in items}) == 7
        assert items[0].etag

    def test_paths_are_the_names_of_files(self, place: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        (place / "a.wav").write_bytes(wav_bytes(SOUND))
        structs = pa.array([{"bytes": None, "path": "a.wav"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        for name, column in (("text", pa.array(["a.wav"])), ("struct", structs)):
            columns = {"sound": column, "day": [date(2026, 1, 2)], "image": [{"bytes": b"x", "path": "x.png"}]}
            pq.write_table(pa.table(columns), f"{name}.parquet")
            source, (item,) = listed(f"{name}.parquet", column="sound")
            assert item.uri == str(place / "a.wav")
            assert item.etag is None, "that of the file"
            assert opened(source, item) == wav_bytes(SOUND)
            assert dict(item.manifest) == {"day": "2026-01-02", "sound": "a.wav"}

    def test_rows_of_bytes_and_rows_without_audio(self):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"audio": pa.array([wav_bytes(SOUND), None], pa.binary())}), "t.parquet")
        source, items = listed("*.parquet")
        assert opened(source, items[0]) == wav_bytes(SOUND)
        with pytest.raises(OSError, match=r"row 1 .* neither bytes nor a path"):
            opened(source, items[1])

    def test_the_row_of_a_table_that_was_replaced(self):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"audio": [b"1", b"2"]}), "t.parquet")
        source, items = listed("t.parquet")
        pq.write_table(pa.table({"audio": [b"1"]}), "t.parquet")
        with pytest.raises(OSError, match="expected row 1"):
            opened(source, items[1])

    def test_another_table_is_refused(self):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"audio": [1, 2], "x": [1, 2]}), "t.parquet")
        Path("broken.parquet").write_bytes(b"PAR1")
        for name, column, message in (
            ("t.parquet", "sound", "got audio, x"),
            ("t.parquet", "audio", "got int64"),
            ("broken.parquet", "audio", "cannot read"),
            ("nosuch*.parquet", "audio", "no file matches"),
        ):
            with pytest.raises(ArchiveError, match=message):
                dataset_source(name, column=column)


class TestWebDataset:
    @pytest.fixture
    def shard(self, place: Path) -> Path:
        """A shard written by webdataset."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wds = pytest.importorskip("webdataset", reason="writes the shard")
        path = place / "shards" / "000.tar"
        path.parent.mkdir()
        with wds.TarWriter(str(path)) as sink:
            for number in range(3):
                sink.write(
                    {
                        "__key__": f"a/{number}",
                        "wav": wav_bytes(white_noise(0.1, seed=number)),
                        "json": {"speaker": f"s{number}"},
                        "txt": "hello",
                    }
                )
        return path

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
    def test_samples_as_webdataset_reads_them(self, shard: Path):
        import webdataset as wds

        source, items = listed(shard.parent)

        samples = list(wds.WebDataset(str(shard), shardshuffle=False))
        assert [opened(source, item) for item in items] == [sample["wav"] for sample in samples]
        assert [item.manifest["__key__"] for item in items] == [sample["__key__"] for sample in samples]
        assert dict(items[2].manifest) == {"__key__": "a/2", "speaker": "s2", "text": "hello"}
        assert items[0].uri == f"{shard}#a/0.wav"

    @pytest.mark.slow
    def test_a_shard_that_ends_early_is_a_row(self, shard: Path):
        whole = shard.read_bytes()
        first_ends = whole.index(b"a/1.")
        shard.write_bytes(whole[: first_ends + 1024])
        source, items = listed(shard)

        assert [Path(item.uri).name for item in items] == ["0.wav", "000.tar"]
        assert opened(source, items[0])
        with pytest.raises(OSError, match="ends early"):
            opened(source, items[1])

    def test_several_microphones_and_no_audio(self):
        def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        with tarfile.open("m.tar", "w") as tar:
            for name in ("1.mic1.wav", "1.mic2.wav", "1.json", "2.txt"):
                add(tar, name, b"{broken" if name.endswith("json") else b"x")
        _, items = listed("m.tar")
        assert [item.uri.rpartition("#")[2] for item in items] == ["1.mic1.wav", "1.mic2.wav"]
        assert items[0].manifest["json_error"]

        with tarfile.open("none.tar", "w") as tar:
            add(tar, "1.txt", b"x")
        with pytest.raises(ArchiveError, match="expected recordings"):
            listed("none.tar")

    def test_compressed_shards_are_refused(self):
        with tarfile.open("x.tar.gz", "w:gz"):
            pass
        os.link("x.tar.gz", "x.tar")
        for name in ("x.tar.gz", "x.tar"):
            with pytest.raises(ArchiveError, match="not compressed"):
                dataset_source(name)


@pytest.mark.slow
class TestLhotse:
    @pytest.fixture
    def lhotse(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("lhotse", reason="install the extra lhotse")

    @pytest.fixture
    def recording(self, place: Path, lhotse: Any) -> Any:
        soundfile.write("stereo.wav", np.stack([SOUND, SOUND / 2], axis=1), RATE_HZ)
        return lhotse.Recording.from_file(place / "stereo.wav")

    def test_cuts(self, place: Path, lhotse: Any, recording: Any):
        whole = recording.to_cut()
        whole.custom = {"trunk": "north"}
        part = whole.truncate(offset=0.25, duration=0.5)
        right = part.with_channels([1])
        right.supervisions = [lhotse.SupervisionSegment("s", recording.id, 0, 0.5, channel=1, speaker="ann")]
        lhotse.CutSet.from_cuts([whole, part.with_id("p"), right.with_id("r")]).to_file("cuts.jsonl.gz")

        _, items = listed("cuts.jsonl.gz")

        path = str(place / "stereo.wav")
        assert [(item.uri, item.offset_s, item.length_s, item.channel) for item in items] == [
            (path, None, None, None),
            (path, 0.25, 0.5, None),
            (path, 0.25, 0.5, 1),
        ]
        assert items[0].manifest["trunk"] == "north"
        assert items[2].manifest["speaker"] == "ann"
        assert items[2].manifest["id"] == "r"

    def test_a_recording_in_several_files(self, place: Path, lhotse: Any):
        sources = []
        for channel, name in enumerate(("left.wav", "right.wav")):
            soundfile.write(name, SOUND, RATE_HZ)
            sources.append(lhotse.AudioSource("file", [channel], str(place / name)))
        recording = lhotse.Recording("two", sources, RATE_HZ, len(SOUND), 1.0)
        lhotse.RecordingSet.from_recordings([recording]).to_file("recordings.jsonl.gz")
        lhotse.CutSet.from_cuts([recording.to_cut().with_channels([1])]).to_file("cuts.jsonl")

        assert [Path(item.uri).name for item in listed("recordings.jsonl.gz")[1]] == ["left.wav", "right.wav"]
        ((item),) = listed("cuts.jsonl")[1]
        assert (Path(item.uri).name, item.channel) == ("right.wav", None)

    def test_computed_audio_is_refused(self, lhotse: Any, recording: Any):
        cut = recording.to_cut().with_channels([0])
        for wrong in (cut.perturb_speed(1.1), cut.pad(duration=2.0)):
            lhotse.CutSet.from_cuts([wrong]).to_file("cuts.jsonl.gz")
            with pytest.raises(ArchiveError, match="line 1: expected a"):
                listed("cuts.jsonl.gz")


class TestLists:
    def test_a_byte_order_mark_and_ways_to_write_a_path(self, place: Path):
        (place / "calls.txt").write_bytes("a.wav\r\n\r\n ./a.wav \r\n./b/../a.wav\r\n/c.wav".encode("utf-8-sig"))
        (source,) = archive_sources(["calls.txt"])
        assert [item.uri for item in source.items()] == [f"{place}/a.wav"] * 3 + ["/c.wav"]

    def test_bytes_that_are_not_utf8(self, place: Path):
        (place / "calls.lst").write_bytes(b"caf\xe9.wav\na.wav\n")
        (source,) = archive_sources(["calls.lst"])
        assert [item.uri for item in source.items()] == [f"file://{place}/caf%E9.wav", f"{place}/a.wav"]

    @pytest.mark.parametrize("content", ["a.wav\n".encode("utf-16"), b"", b"\n\n"])
    def test_another_file_is_refused(self, place: Path, content: bytes):
        (place / "calls.txt").write_bytes(content)
        (source,) = archive_sources(["calls.txt"])
        with pytest.raises(ArchiveError, match="expected a path"):
            list(source.items())


def test_a_folder_of_recordings_is_no_data_set(place: Path):
    (place / "calls").mkdir()
    (place / "calls" / "a.wav").write_bytes(wav_bytes(SOUND))
    (place / "calls" / "metadata.parquet").write_bytes(b"")
    assert dataset_source("calls") is None
    assert dataset_source("calls/a.wav") is None
    assert dataset_source("nosuch") is None
