"""The teachers' scores: an interrupted run continues, and a reader never sees a half-written file."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from made_corpus import rush, talk

from training.mos_teacher import SAVE_EVERY, Float32, distillmos, dnsmos, main, rate_all


def loudness(samples: Float32) -> tuple[float, ...]:
    return float(np.abs(samples).max()), float(np.square(samples).mean())


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    path = tmp_path / "clips.npy"
    count = SAVE_EVERY + 5
    np.save(path, (np.random.default_rng(1).uniform(-1, 1, (count, 320)) * 32767).astype(np.int16))
    return path


def test_an_interrupted_run_continues_at_the_first_clip_without_scores(clips: Path) -> None:
    whole, broken = clips.with_name("whole.npy"), clips.with_name("broken.npy")
    rate_all(clips, whole, loudness, 2)
    seen: list[int] = []

    def fails(samples: Float32) -> tuple[float, ...]:
        seen.append(len(seen))
        if len(seen) > SAVE_EVERY + 2:
            raise KeyboardInterrupt
        return loudness(samples)

    with pytest.raises(KeyboardInterrupt):
        rate_all(clips, broken, fails, 2)
    assert np.load(broken).shape == (SAVE_EVERY, 2)
    again: list[Float32] = []

    def counted(samples: Float32) -> tuple[float, ...]:
        again.append(samples)
        return loudness(samples)

    rate_all(clips, broken, counted, 2)
    assert len(again) == 5
    scores = np.load(broken)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, np.load(whole))
    assert sorted(path.name for path in clips.parent.iterdir()) == ["broken.npy", "clips.npy", "whole.npy"]


@pytest.mark.parametrize("shape", [(3, 3), (200, 2), (4,)])
def test_scores_of_other_clips_are_not_continued(clips: Path, shape: tuple[int, ...]) -> None:
    out = clips.with_name("scores.npy")
    np.save(out, np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match="expected scores of at most 30 clips with 2 columns"):
        rate_all(clips, out, loudness, 2)


def test_a_wrong_command_line_says_what_it_expects(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["only-one.npy"]) == 2
    assert "expected SAMPLES.npy SCORES.npy, got 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(find_spec("speechmos") is None, reason="requires the package speechmos")
@pytest.mark.filterwarnings("default")  # of other projects' code
def test_dnsmos_hears_background_noise() -> None:
    rate = dnsmos()
    voice = talk(8.0, 150.0)
    assert rate(voice)[1] > rate(voice + rush(8.0, 1, 0.1))[1] + 0.5


@pytest.mark.slow
@pytest.mark.skipif(find_spec("distillmos") is None, reason="requires the package distillmos")
@pytest.mark.filterwarnings("default")  # of other projects' code
def test_distillmos_rates_clips_of_any_length() -> None:
    rate = distillmos()
    assert "torchaudio" not in sys.modules or find_spec("torchaudio"), "others may ask for it"
    scores = [rate(talk(length, 150.0)) for length in (3.0, 7.68, 10.0)]
    assert all(1.0 <= score <= 5.0 for score in scores)
    assert scores[1] == rate(np.concatenate([np.ones(80, np.float32), talk(7.68, 150.0), np.ones(80, np.float32)]))
