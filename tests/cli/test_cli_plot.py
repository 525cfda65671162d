from __future__ import annotations

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cli_material import RATE_HZ, noise, run, write
from numpy.typing import NDArray

from speech_qc.cli.signal_views import MAX_COLUMNS, read_views

pytest.importorskip("matplotlib", reason="--plot needs matplotlib, the extra 'plot'")

Capture = pytest.CaptureFixture[str]


def pixels(path: str) -> NDArray[np.float32]:
    from matplotlib.image import imread

    return np.asarray(imread(path), np.float32)[..., :3]


@pytest.mark.slow
def test_picture_is_wide_colourful_and_announced_on_stderr(talk: Path, capsys: Capture) -> None:
    assert run("inspect", talk, "--format", "json", "--no-frames", "--plot", "out.png") == 0
    out, err = capsys.readouterr()
    assert "frames" not in json.loads(out)["channels"][0]  # the plot requires them, but the user did not request them
    assert err == "out.png: talk.wav\n"
    picture = pixels("out.png")
    height, width, _ = picture.shape
    assert width == 1540
    assert 900 < height < 2500
    colourful = (picture.max(axis=2) - picture.min(axis=2)) > 0.3
    assert 0.05 < colourful.mean() < 0.9
    assert [path.name for path in Path().iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow
def test_pictures_of_several_recordings_and_channels_are_numbered(talk: Path) -> None:
    write(Path("two.wav"), np.stack([noise(1.0), noise(1.0, seed=2)], axis=1))
    assert run("inspect", talk, "two.wav", "--plot", "out.png") == 0
    assert sorted(path.name for path in Path().glob("out*")) == ["out-1.png", "out-2-ch0.png", "out-2-ch1.png"]


def test_strange_name_and_no_events_are_drawn(workplace: Path) -> None:
    write(Path("日本 $x_1$ [b].wav"), np.zeros(RATE_HZ // 10, np.float32))
    assert run("inspect", "日本 $x_1$ [b].wav", "--plot", "out.svg", "--labels", "speech") == 0
    assert "no events" in Path("out.svg").read_text()


@pytest.mark.parametrize(("target", "words"), [("out.bmp", ".png, .svg, .pdf"), ("no/out.png", "create it first")])
def test_target_that_cannot_be_drawn_is_refused_first(talk: Path, capsys: Capture, target: str, words: str) -> None:
    assert run("inspect", talk, "--plot", target) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_missing_matplotlib_is_named_with_the_command_that_brings_it(
    talk: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("inspect", talk, "--plot", "out.png") == 2
    assert "pip install 'speech-qc[plot]'" in capsys.readouterr().err


def test_views_show_where_the_sound_is(workplace: Path) -> None:
    samples = np.zeros(2 * RATE_HZ, np.float32)
    samples[RATE_HZ:] = 0.5 * np.sin(2 * np.pi * 2000 * np.arange(RATE_HZ) / RATE_HZ)
    views = read_views(write(Path("half.wav"), samples), 0, 2.0)
    assert views.column_s == 0.01
    assert len(views.low) == 200
    assert np.abs(views.high[:100]).max() == 0
    assert views.high[110:190] == pytest.approx(0.5, abs=0.01)
    assert views.low[110:190] == pytest.approx(-0.5, abs=0.01)
    loudest = views.power_db[:, 110:190].argmax(axis=0) * RATE_HZ / 512
    assert loudest == pytest.approx(2000, abs=RATE_HZ / 512)
    assert views.power_db[:, 110:190].max(axis=0) == pytest.approx(-6.0, abs=0.5)  # half of full scale


def test_short_peak_survives_in_the_envelope_of_a_long_recording(workplace: Path) -> None:
    samples = np.zeros(120 * RATE_HZ, np.float32)
    samples[70 * RATE_HZ] = 0.9
    views = read_views(write(Path("long.wav"), samples), 0, 120.0)
    assert len(views.high) == MAX_COLUMNS
    assert views.high.max() == pytest.approx(0.9, abs=1e-4)
    assert views.high.argmax() == pytest.approx(70 / views.column_s, abs=1)


@pytest.mark.slow
def test_long_recording_is_drawn_in_bounded_memory(workplace: Path) -> None:
    seconds = 1200
    path = write(Path("long.wav"), np.tile(noise(1.0, level=0.1), seconds))  # 77 MB as float32
    tracemalloc.start()
    try:
        views = read_views(path, 0, float(seconds))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert views.power_db.shape == (257, MAX_COLUMNS)
    assert peak_bytes < 25e6
