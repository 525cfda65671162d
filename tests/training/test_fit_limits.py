"""Fitting the limits to a new model: they follow its scale, stay where it has not moved, and keep the file's text."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fit_limits
import ladder_speech
import numpy as np
import pytest
import soundfile
from limit_map import (
    ROUNDING,
    Fitted,
    Heard,
    MeasureMap,
    ScaleMap,
    fit_bounds,
    fit_limit,
    map_measure,
    with_bounds,
    with_numbers,
)
from made_corpus import row, stem, write_manifest

from signals import voice, white_noise
from speech_qc.scoring import BUILT_IN_PROFILES, MEASURES, Limit, Summary, load_profiles
from speech_qc.scoring.measures import Figures

BOUNDS = {"dataset": "{full_from: 3.6, warn_below: 3, fail_below: 2.2}"}
USUAL_BOUNDS = "{full_from: 3.4, warn_below: 2, fail_below: 1.4, zero_below: 1}"


def fixed_text() -> str:
    """Return the built-in profiles with bounds of `ovrl` that no new model moves."""
    lines, profile = [], ""
    for line in BUILT_IN_PROFILES.read_text(encoding="utf-8").splitlines():
        profile = name[0] if (name := re.findall(r"^  (\w+):$", line)) else profile
        lines.append(re.sub(r"(ovrl: )\{.*?\}", rf"\g<1>{BOUNDS.get(profile, USUAL_BOUNDS)}", line))
    return "\n".join(lines) + "\n"


TEXT = fixed_text()
with tempfile.TemporaryDirectory() as folder:
    (Path(folder) / "profiles.yaml").write_text(TEXT, encoding="utf-8")
    PROFILES = load_profiles(Path(folder) / "profiles.yaml")
SUMMARY = Summary(
    frames=300,
    speech_frames=200,
    speech_ratio=0.7,
    noise_ratio=0.0,
    interference_ratio=0.0,
    snr_db=None,
    sig=None,
    bak=None,
    ovrl=None,
    reverberation=None,
    snr_by_kind_db={},
    lost_ratio=0.0,
    losses_per_min=0.0,
    longest_loss_ms=0.0,
    label_ratios={},
    reasons={},
)


def figures(**values: Any) -> Figures:
    return Figures(6.0, replace(SUMMARY, **values), {}, {})


def clips(shift: float = 0.0, *, noise: float = 0.0, talkers: int = 10, ladder: str = "fan") -> list[Heard]:
    """Clips whose `ovrl` by the new model is shifted, and differs at random among talkers, on evenly spread values."""
    rng = np.random.default_rng(5)
    return [
        Heard(str(talker), ladder, 0, figures(ovrl=value), figures(ovrl=value + shift + own))
        for talker, own in enumerate(rng.normal(0.0, noise, talkers))
        for value in np.linspace(1.3, 4.7, 30) + rng.uniform(-0.05, 0.05, 30)
    ]


def bounds(fitted: list[Fitted], profile: str, measure: str) -> dict[str, float]:
    return {item.bound: item.new for item in fitted if (item.profile, item.measure) == (profile, measure)}


def test_bounds_follow_a_shifted_scale_and_no_others_move():
    fitted = fit_bounds(PROFILES, clips(shift=0.3), seed=0)
    assert bounds(fitted, "default", "ovrl") == pytest.approx(
        {"full_from": 3.7, "warn_below": 2.3, "fail_below": 1.7, "zero_below": 1.3}
    )
    assert bounds(fitted, "dataset", "ovrl") == pytest.approx({"full_from": 3.9, "warn_below": 3.3, "fail_below": 2.5})
    assert all(item.new == item.old and item.spread is None for item in fitted if item.measure != "ovrl")


def test_bounds_follow_a_stretched_scale():
    stretched = [replace(clip, new=figures(ovrl=1.0 + 0.5 * (clip.old.value("ovrl") - 1.0))) for clip in clips()]  # type: ignore[operator]
    fitted = fit_bounds(PROFILES, stretched, seed=0)
    assert bounds(fitted, "dataset", "ovrl") == pytest.approx({"full_from": 2.3, "warn_below": 2.0, "fail_below": 1.6})


def test_a_shift_within_its_spread_moves_nothing():
    fitted = fit_bounds(PROFILES, clips(shift=0.1, noise=0.4, talkers=4), seed=0)
    assert all(item.new == item.old for item in fitted)
    assert {item.spread > 0.1 for item in fitted if item.spread is not None} == {True}


def test_models_that_disagree_at_random_keep_the_share_beyond_a_limit():
    """Random differences between clips must not draw a limit towards the mean, as a regression would."""
    rng = np.random.default_rng(1)
    truth = rng.normal(20.0, 8.0, 20_000)
    old, new = truth + rng.normal(0.0, 4.0, (2, truth.size))
    limit = 6.0
    assert (new < ScaleMap.match(old, new)(limit)).mean() == pytest.approx((old < limit).mean(), abs=0.004)
    regressed = new[np.abs(old - limit) < 0.5].mean()
    assert (new < regressed).mean() > 1.2 * (old < limit).mean()


def test_a_map_rises_and_keeps_its_shift_beyond_the_clips():
    rng = np.random.default_rng(2)
    old = np.round(rng.normal(0.0, 1.0, 400), 1)  # with ties
    found = ScaleMap.match(old, old**3 + 2.0)
    values = [found(value) for value in np.linspace(-6.0, 6.0, 200)]
    assert (np.diff(values) >= 0.0).all()
    assert found(30.0) - found(20.0) == pytest.approx(10.0)


def test_new_bounds_stay_within_the_scale():
    fitted = fit_bounds(PROFILES, clips(shift=-0.6), seed=0)
    assert bounds(fitted, "default", "ovrl")["zero_below"] == MEASURES["ovrl"].low


def test_a_measure_counts_only_where_its_cause_is():
    """Fewer false alarms of reverberation in a fan's noise are no other scale."""
    fan = [Heard(str(i // 30), "fan", 0, figures(reverberation=0.5), figures(reverberation=0.1)) for i in range(300)]
    rng = np.random.default_rng(0)
    assert map_measure("reverberation", fan, rng) is None
    both = [replace(clip, ladder="fan + reverberation") for clip in fan]
    found = map_measure("reverberation", both, rng)
    assert found is not None
    assert found(0.5)[0] == pytest.approx(0.1)


def test_a_bound_that_would_pass_one_that_stayed_takes_it_along():
    points = np.array([1.0, 1.4])
    uncertain = [ScaleMap(points, np.array([0.5, shift])) for shift in (-2.0, 3.0)]
    scale = MeasureMap("ovrl", ScaleMap(points, np.array([0.5, 0.5])), uncertain)
    fitted = fit_limit("default", "ovrl", PROFILES.get("default").limits["ovrl"], scale)
    assert {item.bound: item.new for item in fitted} == pytest.approx(
        {"full_from": 3.9, "warn_below": 2.5, "fail_below": 1.9, "zero_below": 1.5}
    )
    only_certain = fit_limit("a", "ovrl", Limit(warn_below=1.4), scale)
    assert [item.new for item in only_certain] == [1.4]


def test_only_the_numbers_of_the_text_change(tmp_path: Path):
    fitted = fit_bounds(PROFILES, clips(shift=0.3), seed=0)
    changed = with_numbers(TEXT, fitted)
    out = tmp_path / "profiles.yaml"
    out.write_text(changed, encoding="utf-8")
    assert load_profiles(out) == with_bounds(PROFILES, fitted) != PROFILES
    pairs = list(zip(TEXT.splitlines(), changed.splitlines(), strict=True))
    differing = [(old, new) for old, new in pairs if old != new]
    assert len(differing) == sum("ovrl" in profile.limits for profile in PROFILES.profiles.values())
    assert all(old.strip().startswith("ovrl:") for old, _ in differing)
    assert "      ovrl: {full_from: 3.7, warn_below: 2.3, fail_below: 1.7, zero_below: 1.3}\n" in changed


def test_numbers_are_replaced_in_any_layout():
    text = "profiles: # mine\n  a:\n    limits:\n      'ovrl':\n        warn_below: 3.0  # 3.0 of 5\n"
    changed = with_numbers(text, [Fitted("a", "ovrl", "warn_below", 3.0, 3.25, 0.0)])
    assert changed == text.replace("warn_below: 3.0", "warn_below: 3.25")


def test_every_estimated_scale_of_the_profiles_is_fitted():
    limited = {name for profile in PROFILES.profiles.values() for name in profile.limits}
    left = {name for name in limited - set(ROUNDING) if MEASURES[name].source != "levels"}
    assert left == {"speech_ratio", "lost_ratio"}


def test_no_clips_is_an_error():
    with pytest.raises(ValueError, match="expected clips, got none"):
        fit_bounds(PROFILES, [], seed=0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight talkers in each of two splits."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(16):
        path, split = f"talker{number}.wav", ("train", "valid")[number % 2]
        samples = voice(7.0, pitch_hz=90.0 + 9.0 * number, seed=number) + white_noise(7.0, level_dbfs=-65, seed=number)
        soundfile.write(folder / path, samples, 16_000)
        rows.append(row(path, "speech", split, seconds="7.0"))
    write_manifest(folder, rows)
    return folder


@pytest.mark.slow
def test_a_model_fitted_to_itself_changes_nothing(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    mine, out = tmp_path / "mine.yaml", tmp_path / "out.yaml"
    mine.write_text("profiles:\n  mine:\n    limits:\n      snr_db: {warn_below: 12.0, fail_below: 6}  # calls\n")
    ladders = ["--ladders", "white noise", "fan"]
    models = ["--old", str(fit_limits.SHIPPED), "--new", str(fit_limits.SHIPPED)]
    fit_limits.main([str(corpus), *models, "--talkers", "2", *ladders, "--profiles", str(mine), "--out", str(out)])
    assert out.read_text() == mine.read_text()
    printed = capsys.readouterr().out
    assert "| mine | snr_db | warn_below | 12 | 12 | " in printed
    assert "| – |" not in printed
    rows = [line for line in printed.splitlines() if line.startswith("| mine | ") and "model" in line]
    assert [line.split(" | ")[1] for line in rows] == list(fit_limits.VARIANTS)
    assert {line.split(" | ")[3] for line in rows} == {"100.0 |"}
    (shares,) = {line.split(" | ")[2] for line in rows}
    passes = [int(share) for share in shares.split()]
    assert passes[0] == 100
    assert passes[-1] == 0
    assert passes == sorted(passes, reverse=True)


def test_the_same_seed_draws_the_same_talkers(corpus: Path):
    first, again = ([t.name for t in fit_limits.choose_talkers(corpus, "train", 2, seed=0)] for _ in range(2))
    assert first == again
    assert {*first} < {talker.name for talker in ladder_speech.read_talkers(corpus, "train", 8)}


def test_only_as_much_is_read_as_the_drawn_talkers_need():
    stems = [stem("speech", speaker=f"t{n}", path=f"{n}/{i}.wav", seconds=5.0) for n in range(30) for i in range(10)]
    stems += [stem("speech", speaker="brief", seconds=5.0)]
    stems += [stem("noise", "fan", path=f"fan{i}.wav") for i in range(50)]
    drawn = [ladder_speech.drawn(stems, 2, np.random.default_rng(seed)) for seed in (0, 1)]
    for kept in drawn:
        talkers = Counter(s.speaker for s in kept if s.kind == "speech")
        assert set(talkers.values()) == {3}
        assert len(talkers) == 2 * 2 + ladder_speech.SPARE
        assert "brief" not in talkers
        assert sum(s.kind == "noise" for s in kept) == ladder_speech.PER_CLASS
    assert {s.speaker for s in drawn[0]} != {s.speaker for s in drawn[1]}


def test_too_few_talkers_are_named(corpus: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        fit_limits.main([str(corpus), "--old", str(fit_limits.SHIPPED), "--talkers", "50"])
    assert "expected 50 talkers and 6 others in split 'train'" in capsys.readouterr().err


def test_the_check_has_talkers_of_its_own(corpus: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        fit_limits.main([str(corpus), "--old", str(fit_limits.SHIPPED), "--check", "train"])
    assert "expected --split and --check to differ" in capsys.readouterr().err
