"""`inspect_batch`: the same answers as `speech_qc.inspect`, and a row for everything that goes wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from archive_material import items_table, write_clips

import speech_qc
from closeness import assert_close
from signals import voice, white_noise
from speech_qc.archive.asked import Asked
from speech_qc.archive.inspecting import Inspector
from speech_qc.archive.schema import DETAIL, EVENT, LEVELS, REASON, ROWS, STEREO, SUMMARY, WARNING
from speech_qc.audio.losses import LossBank
from speech_qc.wire import schemas
from speech_qc.wire.answer import Answer


@pytest.fixture(scope="module")
def inspector() -> Inspector:
    return Inspector(Asked())


def plain(value: Any, kind: pa.DataType) -> Any:
    """A value of a row as in a JSON document: pairs as objects."""
    if value is None:
        return None
    if pa.types.is_map(kind):
        return {name: plain(one, kind.item_type) for name, one in value}
    if pa.types.is_list(kind):
        return [plain(one, kind.value_type) for one in value]
    if pa.types.is_struct(kind):
        return {field.name: plain(value[field.name], field.type) for field in kind}
    return value


def test_rows_say_what_inspect_says(tmp_path: Path, inspector: Inspector) -> None:
    """Of many recordings that share steps, of different lengths, rates and channels."""
    paths = write_clips(tmp_path / "clips", 9, 1.3)
    stereo = np.stack([voice(3.7, rate_hz=8000), white_noise(3.7, level_dbfs=-30, rate_hz=8000)], axis=1)
    soundfile.write(tmp_path / "stereo.flac", stereo, 8000)
    soundfile.write(tmp_path / "long.wav", voice(33.0) + white_noise(33.0, level_dbfs=-45), 16_000)
    paths += [str(tmp_path / "stereo.flac"), str(tmp_path / "long.wav")]

    found = inspector.inspect_batch(items_table(*({"uri": path} for path in paths)))

    assert found.schema == ROWS
    rows = found.to_pylist()
    for path in paths:
        ours = [row for row in rows if row["uri"] == path]
        document = speech_qc.inspect(path, frames=False).to_dict()
        assert [row["channel"] for row in ours] == [answer["channel"] for answer in document["channels"]]
        for row, answer in zip(ours, document["channels"], strict=True):
            assert_close(plain(row["summary"], SUMMARY), answer["summary"], path)
            assert_close(plain(row["levels"], LEVELS), answer["levels"], path)
            assert row["status"] == answer["verdict"]["status"]
            assert_close(plain(row["reasons"], pa.list_(REASON)), answer["verdict"]["reasons"], path)
            events = plain(row["events"], pa.list_(EVENT))
            assert_close(events, [_with_every_detail(event) for event in answer["events"]], path)
            audio = document["audio"]
            assert (row["duration_s"], row["sample_rate_hz"]) == (audio["duration_s"], audio["sample_rate_hz"])
            assert row["model_sha256"] == document["model"]["sha256"]
            assert row["content_sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
            assert row["error"] is None and row["frames"] is None
    assert sum(len(row["events"]) for row in rows) > 1
    stereo_row = next(row for row in rows if row["uri"].endswith(".flac"))
    assert_close(plain(stereo_row["stereo"], STEREO), speech_qc.inspect(paths[-2]).to_dict()["stereo"])
    assert stereo_row["channels"] == 2


def test_short_recordings_share_measurements(
    tmp_path: Path, inspector: Inspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, a piece of 0.4 s costs several times as much."""
    paths = write_clips(tmp_path, 8, 2.0)
    counts: list[int] = []
    push = LossBank.push

    def counted(bank: LossBank, pieces: Any, *arguments: Any) -> Any:
        counts.append(len(pieces))
        return push(bank, pieces, *arguments)

    monkeypatch.setattr(LossBank, "push", counted)
    inspector.inspect_batch(items_table(*({"uri": path} for path in paths)))
    assert set(counts) == {8}
    assert len(counts) == 5 + 2  # pieces, and two calls at the end


def _with_every_detail(event: dict[str, Any]) -> dict[str, Any]:
    """An event of a document as a row has it: fields that it lacks are null."""
    detail = event.get("detail")
    return event | {"detail": detail and {field.name: detail.get(field.name) for field in DETAIL}}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SUMMARY, schemas.SummaryAnswer),
        (LEVELS, schemas.LevelsAnswer),
        (STEREO, schemas.StereoAnswer),
        (REASON, schemas.ReasonAnswer),
        (WARNING, schemas.AudioWarningAnswer),
    ],
)
def test_no_field_of_an_answer_is_lost(ours: pa.StructType, theirs: type[Answer]) -> None:
    assert [field.name for field in ours] == list(theirs.model_fields)


def test_events_keep_their_details_but_no_evidence() -> None:
    assert {field.name for field in EVENT} == set(schemas.EventAnswer.model_fields) - {"evidence"}
    details = set(schemas.DropoutDetailAnswer.model_fields) | set(schemas.ToneDetailAnswer.model_fields)
    assert {field.name for field in DETAIL} == details


def test_a_part_says_what_the_part_as_a_file_says(tmp_path: Path, inspector: Inspector) -> None:
    samples = voice(12.0)
    whole = tmp_path / "whole.wav"
    soundfile.write(whole, samples, 16_000, subtype="FLOAT")
    parts = [(0.0, 2.5), (2.5, 2.0), (6.25, 3.0), (1.0, 2.0), (9.0, None)]  # the fourth one overlaps the first
    items = [{"uri": str(whole), "offset_s": start, "length_s": length} for start, length in parts]

    rows = inspector.inspect_batch(items_table(*items)).to_pylist()

    for (start, length), row in zip(parts, rows, strict=True):
        stop = None if length is None else round((start + length) * 16_000)
        alone = tmp_path / "alone.wav"
        soundfile.write(alone, samples[round(start * 16_000) : stop], 16_000, subtype="FLOAT")
        expected = speech_qc.inspect(alone, frames=False).to_dict()
        assert_close(plain(row["summary"], SUMMARY), expected["channels"][0]["summary"])
        assert_close(plain(row["levels"], LEVELS), expected["channels"][0]["levels"])
        assert row["duration_s"] == expected["audio"]["duration_s"]
        assert (row["offset_s"], row["length_s"]) == (start, length)
    assert len({row["content_sha256"] for row in rows}) == 1


def test_one_channel_can_be_asked_for(tmp_path: Path, inspector: Inspector) -> None:
    samples = np.stack([voice(2.0), white_noise(2.0)], axis=1)
    soundfile.write(tmp_path / "two.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "second.wav", samples[:, 1], 16_000, subtype="FLOAT")

    row, wrong = inspector.inspect_batch(
        items_table(*({"uri": str(tmp_path / "two.wav"), "channel": channel} for channel in (1, 2)))
    ).to_pylist()

    expected = speech_qc.inspect(tmp_path / "second.wav", frames=False).to_dict()["channels"][0]
    assert_close(plain(row["levels"], LEVELS), expected["levels"])
    assert (row["channel"], row["asked_channel"], row["channels"]) == (1, 1, 2)
    assert wrong["error"]["code"] == "invalid_audio" and "0 to 1" in wrong["error"]["message"]


def test_what_goes_wrong_is_a_row(tmp_path: Path, inspector: Inspector) -> None:
    good = write_clips(tmp_path, 2)
    (tmp_path / "text.wav").write_text("this is no recording, although its name says so")
    (tmp_path / "empty.wav").write_bytes(b"")
    cut = Path(good[0]).read_bytes()[:30_000]
    (tmp_path / "cut.wav").write_bytes(cut)
    uris = [good[0], str(tmp_path / "text.wav"), str(tmp_path / "gone.wav"), str(tmp_path / "empty.wav"), good[1]]
    late = {"uri": good[1], "offset_s": 5.0, "length_s": 1.0}
    short = {"uri": good[1], "offset_s": 0.5, "length_s": 1.0}
    cut_item = {"uri": str(tmp_path / "cut.wav"), "manifest": json.dumps({"speaker": "a"})}

    rows = inspector.inspect_batch(items_table(*({"uri": uri} for uri in uris), late, short, cut_item)).to_pylist()

    codes = [row["error"] and row["error"]["code"] for row in rows]
    assert codes == [None, "unsupported_format", "invalid_audio", "invalid_audio", None, "invalid_audio", None, None]
    assert all(row["status"] is None and row["channel"] is None for row in rows if row["error"])
    assert rows[1]["content_sha256"] == hashlib.sha256((tmp_path / "text.wav").read_bytes()).hexdigest()
    assert "ends before" in rows[5]["error"]["message"]
    assert [warning["code"] for warning in rows[6]["warnings"]] == ["samples_missing"]
    assert rows[6]["duration_s"] == 0.5
    assert [warning["code"] for warning in rows[7]["warnings"]] == ["samples_missing"]
    assert json.loads(rows[7]["manifest"]) == {"speaker": "a"}


def test_frames_are_kept_if_asked_for(tmp_path: Path) -> None:
    (path,) = write_clips(tmp_path, 1)
    (row,) = Inspector(Asked(frames=True)).inspect_batch(items_table({"uri": path})).to_pylist()
    frames = dict(row["frames"])
    expected = speech_qc.inspect(path).to_dict()["channels"][0]["frames"]
    assert frames.keys() == expected.keys()
    assert frames["noise"] == pytest.approx(expected["noise"], abs=1e-4)


def test_a_recording_with_more_channels_than_places_waits(tmp_path: Path, inspector: Inspector) -> None:
    """Twelve recordings of eight channels are more than the steps have rows."""
    samples = np.stack([voice(0.6)] * 8, axis=1)
    paths = [str(tmp_path / f"{number}.wav") for number in range(12)]
    for path in paths:
        soundfile.write(path, samples, 16_000)
    rows = inspector.inspect_batch(items_table(*({"uri": path} for path in paths))).to_pylist()
    assert [(row["uri"], row["channel"]) for row in rows] == [(path, channel) for path in paths for channel in range(8)]
