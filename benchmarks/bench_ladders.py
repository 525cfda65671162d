"""Check that the verdict's quality falls as a disturbance grows, and ranks recordings as DistillMOS does.

    python benchmarks/bench_ladders.py FOLDER [--mos CACHE] [--split valid] [--talkers 20] [--profile default]
        [--plot ladders.png] [--record]

FOLDER is a corpus folder with a manifest, as for training. `ladders.py` makes the clips: each disturbance in six steps
for each talker, on speech that no model was trained on (split `valid`).

- `improves` is the share of neighbouring steps of a talker at which the quality rises by more than 0.5 points although
  the disturbance grows.
- `rank` is Spearman's correlation of the quality with DistillMOS over the steps of a ladder, each the mean over talkers
  (per condition, as in ITU-T P.1401).
- `all ladders` is the same over all steps of all ladders that DistillMOS can hear, per condition and per clip.
- `pairs` is the share of pairs of steps from different ladders that both rank alike, among those whose mean DistillMOS
  scores differ by at least 0.5.

Each figure is given for the profile as it is and without the model's own opinion scores (`sig`, `bak`, `ovrl`).

With --mos, scores of DistillMOS are taken from that folder, or computed and stored there (`distillmos_scores.py` names
the packages that this requires). Talkers whose clean clip it rates below 3.2 are left out, because their recordings are
disturbed already.
"""

from __future__ import annotations

import argparse
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from distillmos_scores import DistillMosScores
from ladder_speech import COUNT, RATE_HZ, Talker, read_talkers
from ladders import LADDERS, STEPS, clean_clip, clip_at
from numpy.typing import NDArray
from recording import machine, markdown, record
from scipy.stats import spearmanr

from speech_qc.audio import DecodeLimits
from speech_qc.pipeline.direct import DirectModel, inspect_blocks
from speech_qc.pipeline.factory import make_runner
from speech_qc.pipeline.recording import InspectOptions
from speech_qc.pipeline.sources import ArraySource
from speech_qc.scoring import Profile, Profiles, Verdict, judge, load_profiles
from speech_qc.scoring.measures import Figures
from speech_qc.settings import Settings

OPINIONS = ("sig", "bak", "ovrl")
TOLERANCE = 0.5
CLEAN_MOS = 3.2
CLEAR_MOS = 0.5

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Qualities of one variant of the profile.

    Args:
        name: Of the variant.
        clean: Quality of the undisturbed clips, (talkers,).
        ladders: Quality by ladder, (talkers, steps).
    """

    name: str
    clean: Float64
    ladders: Mapping[str, Float64]


class Meter:
    """Measures clips with one model.

    Args:
        model_path: Model file; None for that of the settings.
    """

    def __init__(self, model_path: Path | None) -> None:
        settings = Settings() if model_path is None else Settings(model_path=model_path)
        self._model = DirectModel(make_runner(settings))
        self._options = InspectOptions(next(iter(load_profiles().profiles.values())), keep_frames=False)

    def figures(self, samples: NDArray[np.float32]) -> Figures:
        """Return everything measured about a clip at `RATE_HZ`."""
        found = inspect_blocks(self._model, ArraySource(samples, RATE_HZ, DecodeLimits()), self._options).channels[0]
        counts = Counter(event.label for event in found.events)
        return Figures(found.duration_s, found.summary, asdict(found.levels), counts)


class Judge:
    """Measures a clip once and judges it by several variants of a profile."""

    def __init__(self, model_path: Path | None, variants: Mapping[str, Profile]) -> None:
        self._meter = Meter(model_path)
        self._variants = variants

    def qualities(self, samples: NDArray[np.float32]) -> list[float]:
        """Return the quality by each variant; 0 where no speech is left to judge."""
        figures = self._meter.figures(samples)
        return [judge_figures(profile, figures).quality or 0.0 for profile in self._variants.values()]


def judge_figures(profile: Profile, figures: Figures) -> Verdict:
    """Judge a measured clip."""
    return judge(
        profile,
        duration_s=figures.duration_s,
        summary=figures.summary,
        levels=figures.levels,
        event_counts=figures.event_counts,
    )


def without(profile: Profile, names: Sequence[str]) -> Profile:
    """Return the profile without the limits of some measures."""
    return profile.model_copy(update={"limits": {n: limit for n, limit in profile.limits.items() if n not in names}})


def choose_talkers(folder: Path, split: str, count: int, mos: DistillMosScores | None) -> list[Talker]:
    """Return talkers with clean recordings."""
    talkers: list[Talker] = []
    for talker in read_talkers(folder, split, limit=10_000):
        if mos is None or mos.score(clean_clip(talker)) >= CLEAN_MOS:
            talkers.append(talker)
        if len(talkers) == count:
            break
    return talkers


def measure(
    talkers: Sequence[Talker], judges: Judge, names: Sequence[str], mos: DistillMosScores | None
) -> tuple[list[Ranking], dict[str, Float64]]:
    """Judge every clip; return a ranking by variant, and the scores of DistillMOS by ladder, (talkers, steps)."""
    clean = np.array([judges.qualities(clean_clip(talker)) for talker in talkers])  # (talkers, variants)
    qualities = {name: np.zeros((len(names), len(talkers), STEPS)) for name in LADDERS}
    scores = {name: np.full((len(talkers), STEPS), np.nan) for name in LADDERS}
    for number, talker in enumerate(talkers):
        for name in LADDERS:
            for step in range(STEPS):
                clip = clip_at(talker, name, step)
                qualities[name][:, number, step] = judges.qualities(clip)
                if mos is not None:
                    scores[name][number, step] = mos.score(clip)
        print(f"{number + 1} of {len(talkers)} talkers", flush=True)
    rankings = [
        Ranking(variant, clean[:, index], {name: values[index] for name, values in qualities.items()})
        for index, variant in enumerate(names)
    ]
    return rankings, scores


def improves(qualities: Float64) -> float:
    """Return the share of neighbouring steps at which the quality rises, for (talkers, steps)."""
    return float((np.diff(qualities, axis=1) > TOLERANCE).mean())


def rank(qualities: Float64, scores: Float64) -> float:
    """Return Spearman's correlation of two arrays of the same shape."""
    return float(spearmanr(qualities.ravel(), scores.ravel()).statistic)


def pairs_alike(qualities: Sequence[Float64], scores: Sequence[Float64]) -> float:
    """Return the share of pairs of steps of different ladders that quality and score rank alike; each (steps,)."""
    alike = total = 0
    for first in range(len(scores)):
        for second in range(first):
            lead = scores[first][:, None] - scores[second]
            ours = qualities[first][:, None] - qualities[second]
            clear = np.abs(lead) >= CLEAR_MOS
            alike += int(((lead * ours > 0) & clear).sum())
            total += int(clear.sum())
    return alike / total


def ladder_table(rankings: Sequence[Ranking], scores: Mapping[str, Float64]) -> str:
    """Return a Markdown table with a row per ladder."""
    rows = []
    for name, ladder in LADDERS.items():
        shown = [f"{value:.0f}" for value in rankings[0].ladders[name].mean(axis=0)]
        row = [name, " ".join(shown), *(f"{100 * improves(r.ladders[name]):.1f}" for r in rankings)]
        if ladder.heard and not np.isnan(scores[name]).any():
            means = scores[name].mean(axis=0)
            row += [" ".join(f"{value:.1f}" for value in means)]
            row += [f"{rank(r.ladders[name].mean(axis=0), means):.2f}" for r in rankings]
        else:
            row += ["–"] * (1 + len(rankings))
        rows.append(row)
    headings = ["ladder", "quality", "improves, %", "… without opinions", "DistillMOS", "rank", "… without opinions"]
    return markdown(headings, rows)


def total_table(rankings: Sequence[Ranking], scores: Mapping[str, Float64]) -> str:
    """Return a Markdown table with a row per variant of the profile."""
    heard = [name for name, ladder in LADDERS.items() if ladder.heard and not np.isnan(scores[name]).any()]
    rows = []
    for ranking in rankings:
        every = np.stack(list(ranking.ladders.values()))
        rises = np.diff(every, axis=2) > TOLERANCE
        row = [ranking.name, f"{100 * rises.mean():.2f} of {rises.size}", f"{100 * (ranking.clean >= 70).mean():.0f}"]
        if heard:
            ours, theirs = (np.stack([values[name] for name in heard]) for values in (ranking.ladders, scores))
            means = ours.mean(axis=1), theirs.mean(axis=1)
            row += [f"{rank(*means):.3f}", f"{rank(ours, theirs):.3f}", f"{100 * pairs_alike(*map(list, means)):.1f}"]
        else:
            row += ["–"] * 3
        rows.append(row)
    headings = ["profile", "improves, %", "clean speech passes, %", "rank, all ladders", "… per clip", "pairs alike, %"]
    return markdown(headings, rows)


def plot(ranking: Ranking, scores: Mapping[str, Float64], path: Path) -> None:
    """Draw the quality of every ladder with the verdicts as bands, and DistillMOS where it can hear."""
    from matplotlib.figure import Figure
    from PIL import Image  # matplotlib requires it

    columns = 6
    rows = -(-len(LADDERS) // columns)
    figure = Figure(figsize=(12.0, 1.9 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    at = np.arange(1, STEPS + 1)
    for axis in axes[len(LADDERS) :]:
        axis.set_axis_off()
    for axis, (name, ladder) in zip(axes, LADDERS.items(), strict=False):
        for low, high, colour in ((70, 100, "#dff0df"), (40, 70, "#fbf0d0"), (0, 40, "#f6dcd8")):
            axis.axhspan(low, high, color=colour, linewidth=0)
        values = ranking.ladders[name]
        axis.fill_between(at, *np.percentile(values, (10, 90), axis=0), color="#2f5f9f", alpha=0.25, linewidth=0)
        axis.plot(at, values.mean(axis=0), color="#2f5f9f", linewidth=1.6, label="quality (mean, 80 % of talkers)")
        if ladder.heard and not np.isnan(scores[name]).any():
            means = (scores[name].mean(axis=0) - 1.0) * 25.0
            axis.plot(at, means, color="0.25", linewidth=1.0, linestyle="--", label="DistillMOS, 1 to 5")
        axis.set_title(name, fontsize=9)
        axis.set(ylim=(0, 100), xlim=(1, STEPS), yticks=(0, 40, 70, 100))
        axis.tick_params(labelsize=7)
    axes[0].legend(fontsize=6, loc="lower left")
    figure.supxlabel("step, from inaudible to hopeless", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=90)
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)


def main() -> None:
    """Make the ladders, judge them, compare and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="corpus folder with a manifest")
    parser.add_argument("--model", type=Path, help="model file (default: that of the settings)")
    parser.add_argument("--profiles", type=Path, help="profile file (default: the built-in one)")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--split", choices=("train", "valid", "test"), default="valid", help="split of the speech")
    parser.add_argument("--talkers", type=int, default=20)
    parser.add_argument(
        "--mos", type=Path, help="folder of the scores of DistillMOS; without it there is no comparison"
    )
    parser.add_argument("--mos-bfloat16", action="store_true", help="compute missing scores in bfloat16")
    parser.add_argument("--plot", type=Path, help="PNG file to write")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    options = parser.parse_args()
    about = machine()
    mos = None if options.mos is None else DistillMosScores(options.mos, bfloat16=options.mos_bfloat16)
    profiles: Profiles = load_profiles(options.profiles)
    profile = profiles.get(options.profile)
    variants = {options.profile: profile, f"{options.profile} without opinions": without(profile, OPINIONS)}
    talkers = choose_talkers(options.folder, options.split, options.talkers, mos)
    rankings, scores = measure(talkers, Judge(options.model, variants), list(variants), mos)
    clips = len(talkers) * len(LADDERS) * STEPS
    text = (
        f"{len(talkers)} talkers, {len(LADDERS)} ladders, {clips} clips of {COUNT / RATE_HZ:g} s; "
        f"model {options.model.name if options.model else 'of the package'}.\n\n"
        f"{total_table(rankings, scores)}\n\n{ladder_table(rankings, scores)}"
    )
    print(f"{about}\n\n{text}")
    if options.plot:
        plot(rankings[0], scores, options.plot)
    if options.record:
        record("ladders", about, text, {str(options.folder): "FOLDER", str(options.mos): "CACHE"})


if __name__ == "__main__":
    main()
