"""Fit the limits of the verdict profiles to a new model, so that they mean what they meant with the old one.

    python benchmarks/fit_limits.py FOLDER --old OLD.onnx [--new models/speech-qc-base.onnx] [--talkers 20] [--seed 0]
        [--split train] [--check valid] [--profiles PROFILES.yaml] [--out PROFILES.yaml]

FOLDER is a corpus folder with a manifest, as for training. Both models measure the same clips: all steps of the ladders
of `ladders.py`. `limit_map.py` compares the two models' SNRs, opinion scores and reverberation on the talkers of one
split, and moves each bound with them. Levels, bandwidth, clipping and the like are facts, and shares of time depend on
the thresholds of each model: their bounds stay. So does a bound that moves by no more than its spread, half of the 95 %
interval over talkers.

The talkers of the other split show the result: the share of clips that pass at each step with the old model and its
limits, the new model with the old limits, and the new model with the new limits, and how often these verdicts are the
same as those of the old model with its limits.

--out writes the profile file with only the numbers changed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bench_ladders import Meter, judge_figures
from ladder_speech import COUNT, RATE_HZ, Talker, read_talkers
from ladders import LADDERS, STEPS, clip_at
from limit_map import Fitted, Heard, fit_bounds, with_bounds, with_numbers
from numpy.typing import NDArray
from recording import ROOT, machine, markdown

from speech_qc.scoring import BUILT_IN_PROFILES, Profile, load_profiles

OTHERS = 6
"""Talkers of the babble."""
SHIPPED = ROOT / "models" / "speech-qc-base.onnx"
VARIANTS = ("old model, old limits", "new model, old limits", "new model, new limits")

Statuses = NDArray[np.str_]


def choose_talkers(folder: Path, split: str, count: int, seed: int) -> list[Talker]:
    """Draw talkers of a split.

    Raises:
        ValueError: The split has too few talkers with enough speech.
    """
    talkers = read_talkers(folder, split, count, seed=seed)
    others = len(talkers[0].others) if talkers else -1
    if len(talkers) < count or others < OTHERS:
        raise ValueError(
            f"expected {count} talkers and {OTHERS} others in split {split!r} with {COUNT / RATE_HZ:g} s of speech "
            f"each, got {others + 1} in all: use fewer talkers or another split"
        )
    return talkers


def hear(talkers: Sequence[Talker], ladders: Sequence[str], old: Meter, new: Meter) -> list[Heard]:
    """Measure every step of the ladders by both models."""
    clips: list[Heard] = []
    for number, talker in enumerate(talkers):
        for ladder in ladders:
            for step in range(STEPS):
                samples = clip_at(talker, ladder, step)
                clips.append(Heard(talker.name, ladder, step, old.figures(samples), new.figures(samples)))
        print(f"{number + 1} of {len(talkers)} talkers", flush=True)
    return clips


def statuses(clips: Sequence[Heard], before: Profile, after: Profile) -> dict[str, Statuses]:
    """Judge the clips by each variant; each (clips,)."""
    judged = (
        [judge_figures(before, clip.old).status for clip in clips],
        [judge_figures(before, clip.new).status for clip in clips],
        [judge_figures(after, clip.new).status for clip in clips],
    )
    return {variant: np.array(found) for variant, found in zip(VARIANTS, judged, strict=True)}


def pass_shares(found: Statuses, clips: Sequence[Heard], ladder: str | None = None) -> list[float]:
    """Return the share of passing clips at each step of one ladder, or of all."""
    at = np.array([clip.step if ladder in (None, clip.ladder) else -1 for clip in clips])
    return [float((found[at == step] == "pass").mean()) for step in range(STEPS)]


def limits_table(fitted: Sequence[Fitted]) -> str:
    """Return a Markdown table with a row per bound."""
    rows = []
    for item in fitted:
        spread = "–" if item.spread is None else f"{item.spread:.3f}"
        new = f"**{item.new:g}**" if item.new != item.old else f"{item.new:g}"
        rows.append([item.profile, item.measure, item.bound, f"{item.old:g}", new, spread])
    return markdown(["profile", "measure", "bound", "old", "new", "spread"], rows)


def profile_table(clips: Sequence[Heard], judged: Mapping[str, Mapping[str, Statuses]]) -> str:
    """Return a Markdown table with a row per profile and variant."""
    rows = []
    for profile, variants in judged.items():
        for variant, found in variants.items():
            alike = float((found == variants[VARIANTS[0]]).mean())
            rows.append([profile, variant, _percents(pass_shares(found, clips)), f"{100 * alike:.1f}"])
    return markdown(["profile", "judged by", "passes at steps 1 to 6, %", "verdict as before, %"], rows)


def ladder_table(clips: Sequence[Heard], variants: Mapping[str, Statuses]) -> str:
    """Return a Markdown table of one profile with a row per ladder."""
    ladders = dict.fromkeys(clip.ladder for clip in clips)
    rows = [[name, *(_percents(pass_shares(found, clips, name)) for found in variants.values())] for name in ladders]
    return markdown(["ladder", *variants], rows)


def _percents(shares: Sequence[float]) -> str:
    return " ".join(f"{100 * share:.0f}" for share in shares)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the clips, fit the limits and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="corpus folder with a manifest")
    parser.add_argument("--old", type=Path, required=True, help="model file that the limits were made for")
    parser.add_argument("--new", type=Path, default=SHIPPED, help="model file to fit them to")
    parser.add_argument("--talkers", type=int, default=20, help="talkers of each split")
    parser.add_argument("--seed", type=int, default=0, help="of the talkers and of the resampling")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="train", help="talkers for the limits")
    parser.add_argument("--check", choices=("train", "valid", "test"), default="valid", help="talkers for the check")
    parser.add_argument("--ladders", nargs="+", choices=tuple(LADDERS), default=list(LADDERS), metavar="NAME")
    parser.add_argument("--profiles", type=Path, default=BUILT_IN_PROFILES, help="profile file for the old model")
    parser.add_argument("--out", type=Path, help="profile file to write")
    options = parser.parse_args(arguments)
    if options.split == options.check:
        parser.error(f"expected --split and --check to differ, got {options.split!r} twice: choose other talkers")
    if options.talkers < 2:
        parser.error(f"expected --talkers to be at least 2, got {options.talkers}: the spread is one over talkers")
    about = machine()
    started_s = time.monotonic()
    before = load_profiles(options.profiles)
    old, new = Meter(options.old), Meter(options.new)
    try:
        groups = [
            choose_talkers(options.folder, s, options.talkers, options.seed) for s in (options.split, options.check)
        ]
    except ValueError as error:
        parser.error(str(error))
    fitted = fit_bounds(before, hear(groups[0], options.ladders, old, new), options.seed)
    print(f"\n{limits_table(fitted)}\n", flush=True)
    if options.out:
        text = options.profiles.read_text(encoding="utf-8")
        options.out.write_text(with_numbers(text, fitted), encoding="utf-8")
        load_profiles(options.out)
    after = with_bounds(before, fitted)
    clips = hear(groups[1], options.ladders, old, new)
    judged = {name: statuses(clips, before.get(name), after.get(name)) for name in before.names}
    print(
        f"\n{about}\n\n{options.talkers} talkers of {options.split} for the limits and {options.talkers} of "
        f"{options.check} for the check, {len(options.ladders)} ladders, {2 * len(clips)} clips of "
        f"{COUNT / RATE_HZ:g} s by two models in {time.monotonic() - started_s:.0f} s.\n\n"
        f"{profile_table(clips, judged)}"
    )
    for name, variants in judged.items():
        print(f"\nPasses with the profile {name} at steps 1 to 6, %:\n\n{ladder_table(clips, variants)}")


if __name__ == "__main__":
    main()
