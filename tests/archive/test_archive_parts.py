"""Recordings that are cut into many parts: one pass over each, the same sound as alone, and bounded memory."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from archive_material import OPENER, Listing, items_table, rows_in, run_here, write_clips

from signals import voice, white_noise
from speech_qc.archive import opening
from speech_qc.archive.asked import Asked
from speech_qc.archive.dest import Destination
from speech_qc.archive.inspecting import Inspector
from speech_qc.archive.items import Item
from speech_qc.archive.local import LocalEngine
from speech_qc.archive.opening import Checksums, HashedFile, RecordingFile
from speech_qc.archive.parts import Part
from speech_qc.archive.rows import Identity
from speech_qc.archive.run import BATCH_PARTS, run
from speech_qc.audio import DecodeLimits
from speech_qc.audio.decode import decode_file

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    return Inspector(Asked())


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The recordings that are opened for decoding."""
    names: list[str] = []

    def noted(path: str, *arguments: Any) -> Any:
        names.append(path)
        return decode_file(path, *arguments)

    monkeypatch.setattr(opening, "decode_file", noted)
    return names


def samples_of(file: RecordingFile, start_s: float, length_s: float | None, channel: int | None = None) -> np.ndarray:
    return np.concatenate([np.zeros((0, 1)), *Part(file, start_s, length_s, channel)])[:, 0]


@pytest.mark.parametrize(
    ("name", "subtype", "channels"),
    [
        ("a.wav", "PCM_16", 1),
        ("a.wav", "PCM_24", 2),
        ("a.wav", "FLOAT", 1),
        ("a.rf64", "PCM_16", 2),
        ("a.flac", None, 1),
    ],
)
def test_parts_are_the_samples_at_their_place(tmp_path: Path, name: str, subtype: str | None, channels: int) -> None:
    """Also after a gap, which WAV files are not read in: the pieces that are read end within frames of six bytes."""
    noise = white_noise(130.0, level_dbfs=-20)
    path = tmp_path / name
    soundfile.write(path, np.stack([noise] * channels, axis=1), RATE_HZ, subtype, format=path.suffix[1:].upper())
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0][:, -1]
    file = RecordingFile(str(path), None, DecodeLimits(), several=True)

    for start_s, length_s in [(0.5, 1.0), (70.25, 2.0), (71.0, 0.5), (118.0, 3.0), (129.0, None), (3.0, 0.5)]:
        start = round(start_s * RATE_HZ)
        stop = None if length_s is None else start + round(length_s * RATE_HZ)
        found = samples_of(file, start_s, length_s, channels - 1)
        np.testing.assert_array_equal(found, whole[start:stop], err_msg=f"{start_s} s")
    file.close()


def test_what_is_not_needed_of_a_wav_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, white_noise(300.0), RATE_HZ, "PCM_16")

    class Counting(io.FileIO):
        read_bytes = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    file = RecordingFile(str(path), f"{__name__}:none", DecodeLimits(), several=True)
    counting = Counting(path)
    file._hashed = HashedFile(counting)
    samples_of(file, 0.0, 1.0)
    samples_of(file, 290.0, 1.0)
    assert counting.read_bytes <= 3 << 20 < path.stat().st_size
    assert file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    file.close()


def test_a_wav_file_that_is_cut_off_is_reported_by_the_part_at_its_end(tmp_path: Path, inspector: Inspector) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, voice(100.0), RATE_HZ, "PCM_16")
    path.write_bytes(path.read_bytes()[: 44 + 2 * 90 * RATE_HZ])
    items = [{"uri": str(path), "offset_s": start, "length_s": 5.0} for start in (1.0, 88.0, 95.0)]

    first, last, beyond = inspector.inspect_batch(items_table(*items)).to_pylist()

    assert first["warnings"] == [] and first["duration_s"] == 5.0
    assert [warning["code"] for warning in last["warnings"]] == ["samples_missing"] * 2
    assert last["duration_s"] == 2.0
    assert beyond["error"]["code"] == "invalid_audio" and "ends before" in beyond["error"]["message"]


def test_one_pass_for_parts_in_any_order_and_for_both_sides_of_a_call(
    tmp_path: Path, inspector: Inspector, opened: list[str]
) -> None:
    """Utterances of two speakers overlap; manifests are shuffled."""
    path, clip = tmp_path / "call.flac", write_clips(tmp_path / "clips", 1)[0]
    sides = np.stack([voice(90.0, seed=1), voice(90.0, seed=2)], axis=1)
    soundfile.write(path, sides, RATE_HZ)
    rng = np.random.default_rng(3)
    spans = [(float(rng.integers(0, 80)), float(rng.integers(1, 6)), channel) for channel in (0, 1) for _ in range(20)]
    spans = [spans[number] for number in rng.permutation(len(spans))]
    items = [{"uri": str(path), "offset_s": a, "length_s": b, "channel": c} for a, b, c in spans]

    rows = inspector.inspect_batch(items_table(*items[:7], {"uri": clip}, *items[7:])).to_pylist()

    assert sorted(opened) == sorted([str(path), clip])
    assert rows.pop(7)["uri"] == clip
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    for (start_s, length_s, channel), row in zip(spans, rows, strict=True):
        assert (row["offset_s"], row["length_s"], row["channel"]) == (start_s, length_s, channel)
        assert row["content_sha256"] == checksum and row["duration_s"] == length_s
        cut = soundfile.read(path, dtype="float32", start=round(start_s * RATE_HZ), frames=round(length_s * RATE_HZ))[0]
        rms_dbfs = 20 * np.log10(np.sqrt(np.mean(cut[:, channel] ** 2)))
        assert row["levels"]["rms_dbfs"] == pytest.approx(rms_dbfs, abs=0.05)


def test_a_fault_in_the_middle_costs_the_parts_after_it(tmp_path: Path, inspector: Inspector) -> None:
    path = tmp_path / "bad.wav"
    samples = voice(40.0)
    samples[30 * RATE_HZ] = np.nan
    soundfile.write(path, samples, RATE_HZ, "FLOAT")
    items = [{"uri": str(path), "offset_s": start, "length_s": 2.0} for start in (1.0, 5.0, 29.0, 35.0)]

    rows = inspector.inspect_batch(items_table(*items)).to_pylist()

    assert [row["error"] and row["error"]["code"] for row in rows] == [None, None, "invalid_audio", "invalid_audio"]


@dataclass
class Noting:
    """An engine that notes its batches."""

    identity: Identity = field(default_factory=lambda: Identity("m", "0", "default"))
    batches: list[list[dict[str, Any]]] = field(default_factory=list)

    def __enter__(self) -> Noting:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
        self.batches += [batch.to_pylist() for batch in batches]
        return iter(())


def batches_of(items: list[Item], out: Path) -> list[list[dict[str, Any]]]:
    engine = Noting()
    with Destination(str(out)) as destination:
        run([Listing(items)], destination, engine)
    return engine.batches


def test_neighbouring_parts_of_a_recording_share_a_batch_whatever_its_size(tmp_path: Path) -> None:
    size = 250_000_000
    parts = [Item("/long.wav", 3.5 * n, 3.5, etag=f"{size}-1") for n in range(BATCH_PARTS + 10)]
    whole = [Item(f"/{n}.wav", etag=f"{size}-1") for n in range(3)]
    clips = [Item(f"/clip-{n}.wav", etag="100000-1") for n in range(20)]

    found = batches_of([*parts, *whole, *clips], tmp_path)

    assert [len(batch) for batch in found[:2]] == [BATCH_PARTS, 10]
    assert [len(batch) for batch in found[2:5]] == [1, 1, 1]
    assert sum(map(len, found)) == len(parts) + len(whole) + len(clips)


def test_parts_of_many_long_recordings_share_a_batch(tmp_path: Path) -> None:
    """As in a shuffled manifest: what counts is the length of the parts."""
    items = [Item(f"/{n}.wav", 60.0 * n, 4.0, etag="250000000-1") for n in range(8)]
    assert [len(batch) for batch in batches_of(items, tmp_path)] == [8]


def test_a_checksum_is_computed_once_for_all_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, voice(1.0), RATE_HZ)
    item = {"uri": str(path), "opener": None, "etag": "1", "offset_s": 0.0, "length_s": 0.5}
    checksums = Checksums()
    first = checksums.of(RecordingFile(str(path), None, DecodeLimits()), item)
    path.unlink()
    assert checksums.of(RecordingFile(str(path), None, DecodeLimits()), item) == first
    assert checksums.of(RecordingFile(str(path), None, DecodeLimits()), item | {"etag": "2"}) is None


@pytest.mark.slow  # five workers die
def test_a_recording_whose_parts_all_end_their_workers_costs_no_other_recording(tmp_path: Path) -> None:
    paths = write_clips(tmp_path / "in", 3, 0.5)
    crash = [Item(str(tmp_path / "crash.wav"), 1.0 * n, 1.0, etag="1") for n in range(12)]
    items = [Item(paths[0], etag="1"), *crash, *(Item(path, etag="1") for path in paths[1:])]
    with Destination(str(tmp_path / "out")) as destination, LocalEngine(Asked(), 1) as engine:
        done = run([Listing(items, OPENER)], destination, engine)
        assert engine.deaths <= 6
    assert (done.finished, done.errors) == (15, 12)
    rows = rows_in(tmp_path / "out")
    assert {row["error"]["code"] for row in rows if row["error"]} == {"worker_died"}
    assert sum("not tried alone" in row["error"]["message"] for row in rows if row["error"]) == 9
    assert run_here(Listing(items, OPENER), tmp_path / "out").done_before == 15
