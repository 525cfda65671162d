"""`speech_qc.hf` with the real `datasets`: map, streaming, every form of an audio value."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from signals import wav_bytes, white_noise
from speech_qc import hf
from speech_qc.columns import COLUMNS
from speech_qc.embedded.detector import Detector
from speech_qc.errors import ProtocolError

datasets = pytest.importorskip("datasets", reason="install the extra hf")
pytestmark = pytest.mark.slow  # importing datasets takes seconds

LOUD, QUIET = white_noise(1.5, level_dbfs=-12), white_noise(1.5, level_dbfs=-30)
"""The echo model scores both as speech."""


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.disable_progress_bars()


def as_dataset(values: list[Any], *, audio: bool = True, **columns: list[Any]) -> Any:
    """Build a data set from encoded audio; with `audio`, its column has the feature Audio."""
    plain = datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            **{name: datasets.Value("string") for name in columns},
        }
    )
    found = datasets.Dataset.from_dict({"audio": values, **columns}, features=plain)
    return found.cast_column("audio", datasets.Audio(decode=False)) if audio else found


def encoded(*signals: np.ndarray) -> list[dict[str, Any]]:
    return [{"bytes": wav_bytes(signal), "path": f"{number}.wav"} for number, signal in enumerate(signals)]


def test_map_adds_the_columns_and_keeps_the_others():
    source = as_dataset(encoded(LOUD, QUIET), speaker=["ann", "bob"])
    found = source.with_format("arrow").map(hf.inspect, batched=True).with_format(None)

    assert found.column_names == ["audio", "speaker", *COLUMNS]
    assert found.features == hf.features(source.features), "audio is still audio"
    assert found["qc_status"][:] == ["fail", "pass"]
    assert found["qc_reasons"][0] == ["peak_dbfs_above"]
    assert found["speaker"][:] == ["ann", "bob"]
    assert found["qc_error"][:] == [None, None]
    assert found["qc_rms_dbfs"][0] - found["qc_rms_dbfs"][1] == pytest.approx(18, abs=0.2)


def test_both_formats_give_the_same_rows():
    source = as_dataset(encoded(LOUD, QUIET), audio=False)

    plain = source.map(hf.inspect, batched=True, features=hf.features(source.features))
    table = source.with_format("arrow").map(hf.inspect, batched=True, batch_size=1).with_format(None)

    assert plain.features == table.features
    assert plain[:] == table[:]


def test_the_sound_of_a_batch_is_taken_value_by_value():
    values = [{"bytes": bytes(2**20), "path": f"{number}.wav"} for number in range(32)]
    table = as_dataset(values, audio=False).with_format("arrow")[:]
    hf.inspect(table.slice(0, 1))  # loads the model

    tracemalloc.start()
    found = hf.inspect(table)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert found.num_rows == 32
    assert peak < 8 * 2**20, "the table is mapped from a file, so only what is copied of it counts"


def test_a_second_run_replaces_the_columns():
    once = as_dataset(encoded(LOUD, QUIET)).with_format("arrow").map(hf.inspect, batched=True)
    twice = once.map(hf.inspect, batched=True, fn_kwargs={"profile": "strict"}).with_format(None)

    assert twice.column_names == once.column_names
    assert twice["qc_status"][:] == ["fail", "fail"]


def test_the_figures_are_those_of_inspect(echo_detector: Detector):
    found = as_dataset(encoded(QUIET)).with_format("arrow").map(hf.inspect, batched=True).with_format(None)[0]

    direct = echo_detector.inspect(wav_bytes(QUIET))
    (channel,) = direct.channels
    assert found["qc_snr_db"] == channel.summary.snr_db
    assert found["qc_quality"] == channel.summary.quality
    assert found["qc_bandwidth_hz"] == channel.levels.bandwidth_hz
    assert [event["label"] for event in found["qc_events"]] == [
        event.label for event in sorted(channel.events, key=lambda event: (event.onset_s, event.label))
    ]
    assert found["qc_model"] == f"{direct.model.name} {direct.model.version}"


def test_a_recording_that_cannot_be_read_is_a_row():
    values = [{"bytes": b"this is no audio", "path": "a.wav"}, *encoded(QUIET), {"bytes": None, "path": "gone.wav"}]
    source = as_dataset([*values, None])
    found = source.with_format("arrow").map(hf.inspect, batched=True).with_format(None)

    assert found["qc_status"][:] == [None, "pass", None, None]
    assert [error is None for error in found["qc_error"]] == [False, True, False, False]
    assert "gone.wav" in found["qc_error"][2]


@pytest.mark.parametrize("arrow", [True, False])
def test_the_first_batch_may_have_no_values(arrow: bool):
    source = as_dataset([{"bytes": b"this is no audio", "path": "a.wav"}, *encoded(LOUD)], audio=False)
    chosen = source.with_format("arrow") if arrow else source
    given = {} if arrow else {"features": hf.features(source.features)}

    found = chosen.map(hf.inspect, batched=True, batch_size=1, writer_batch_size=1, **given).with_format(None)

    assert found["qc_status"][:] == [None, "fail"]
    assert found.features == hf.features(source.features)


def test_streaming_inspects_what_is_read():
    source = as_dataset(encoded(LOUD, QUIET, LOUD)).to_iterable_dataset()
    found = source.with_format("arrow").map(
        hf.inspect, batched=True, batch_size=2, features=hf.features(source.features), fn_kwargs={"profile": "strict"}
    )

    rows = list(found.with_format(None))
    assert [row["qc_status"] for row in rows] == ["fail"] * 3
    assert rows[0]["qc_profile"] == "strict"


def test_files_by_their_paths(tmp_path: Path):
    for name, signal in (("a", LOUD), ("b", QUIET)):
        (tmp_path / f"{name}.wav").write_bytes(wav_bytes(signal))
    source = as_dataset([{"bytes": None, "path": str(tmp_path / f"{name}.wav")} for name in "ab"])

    found = source.with_format("arrow").map(hf.inspect, batched=True).with_format(None)

    assert found["qc_status"][:] == ["fail", "pass"]


def test_decoded_audio_gives_the_same_answer():
    pytest.importorskip("torchcodec", reason="datasets decodes with torchcodec, which needs the libraries of FFmpeg")
    stereo = np.stack([QUIET, LOUD], axis=1)
    encoded_values = as_dataset(encoded(QUIET, stereo))
    decoded = encoded_values.cast_column("audio", datasets.Audio())

    expected = encoded_values.map(hf.inspect, batched=True)
    found = decoded.map(hf.inspect, batched=True)

    assert found["qc_status"][:] == expected["qc_status"][:] == ["pass", "fail"]
    assert found["qc_channel"][:] == [0, 1], "the channels are kept"
    assert found["qc_rms_dbfs"][:] == pytest.approx(expected["qc_rms_dbfs"][:], abs=0.01)


def test_arrays_as_older_versions_decode_them():
    batch = {"audio": [{"array": np.stack([QUIET, LOUD]), "sampling_rate": 16_000, "path": None}]}

    assert hf.inspect(batch)["qc_channel"] == [1]
    assert hf.inspect(batch, channels="mix")["qc_channel"] == [0]


def test_wrong_use_says_what_to_do():
    with pytest.raises(ProtocolError, match="fn_kwargs"):
        hf.inspect({"sound": encoded(LOUD)})
    with pytest.raises(ProtocolError, match="batched=True"):
        as_dataset(encoded(LOUD), audio=False).map(hf.inspect)
    with pytest.raises(ProtocolError, match="nosuch"):
        hf.inspect({"audio": encoded(LOUD)}, profile="nosuch")
