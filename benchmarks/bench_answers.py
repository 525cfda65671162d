"""Measure how often the answers are right: events, verdicts and reasons on speech that no model was trained on.

    python benchmarks/bench_answers.py FOLDER [--trials 400] [--rows lost20_16k hum30] [--seed 0] [--json FILE]

FOLDER is a pool of speech and noise with a `manifest.csv`, in the form that `docs/training.md` describes. The speakers
of its split `valid` are held out; tune on `--split train`. Each trial draws other talkers, other parts of their
recordings and another disturbance. It depends only on the seed, the row and its number, so two versions judge the same
sounds: run the script once with `PYTHONPATH` pointing to each. The table is printed as Markdown, with 95 % intervals
(Wilson for shares, exact Poisson for rates); `--record` appends it to `benchmarks/RESULTS.md`. The exit code is 1 if a
row misses its target.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from answers import synthesis
from answers.judge import inspect
from answers.pool import Pool
from answers.rows import Outcome, Row, all_rows
from answers.signal import Sound
from recording import commit, machine, markdown, record
from scipy.stats import chi2

import speech_qc

Z_95 = 1.959964  # of the normal distribution, two-sided 95 %
LEAST_TALKERS = 20


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table, measured.

    Args:
        key: Name of the row.
        about: What was measured.
        target: The target in words.
        value: Share, or events per minute.
        low: Lower end of the 95 % interval.
        high: Upper end.
        trials: Number of trials.
        talkers: Number of different talkers.
        met: Whether the value meets the target.
        per_minute: Whether it is a rate.
    """

    key: str
    about: str
    target: str
    value: float
    low: float
    high: float
    trials: int
    talkers: int
    met: bool
    per_minute: bool


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    share, square = hits / trials, Z_95**2
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(0.0, middle - half), min(1.0, middle + half)


def poisson(count: int, minutes: float) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate per minute."""
    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low) / minutes, float(chi2.ppf(0.975, 2 * count + 2)) / 2 / minutes


def measure(row: Row, pool: Pool, trials: int, seed: int) -> Result:
    """Run the trials of a row."""
    name = zlib.crc32(row.key.encode())
    outcomes = [row.trial(pool, np.random.default_rng([seed, name, i]), inspect, i) for i in range(trials)]
    return summarize(row, outcomes)


def summarize(row: Row, outcomes: list[Outcome]) -> Result:
    """Return the row's figure with its interval."""
    total = round(sum(outcome.value for outcome in outcomes))
    minutes = sum(outcome.minutes for outcome in outcomes)
    value = total / minutes if row.per_minute else total / len(outcomes)
    low, high = poisson(total, minutes) if row.per_minute else wilson(total, len(outcomes))
    bound = f"{row.bound:g} per minute" if row.per_minute else f"{100 * row.bound:g} %"
    return Result(
        key=row.key,
        about=row.about,
        target=f"{'≥' if row.at_least else '≤'} {bound}",
        value=value,
        low=low,
        high=high,
        trials=len(outcomes),
        talkers=len(frozenset().union(*(outcome.talkers for outcome in outcomes))),
        met=value >= row.bound if row.at_least else value <= row.bound,
        per_minute=row.per_minute,
    )


def cells(result: Result) -> list[str]:
    """Return the cells of a result's line in the table."""
    scale, unit = (1, "per minute") if result.per_minute else (100, "%")
    interval = f"{scale * result.low:.1f} to {scale * result.high:.1f}"
    return [
        f"`{result.key}`",
        result.about,
        result.target,
        f"{scale * result.value:.1f} {unit}",
        interval,
        str(result.trials),
        str(result.talkers) if result.talkers else "–",
        "yes" if result.met else "**no**",
    ]


HEADINGS = ("row", "what", "target", "result", "95 % interval", "trials", "talkers", "met")


def versions() -> str:
    """Name the model and the package; a package that lies in a checkout is named with that checkout's commit."""
    model = inspect(Sound(np.zeros(16_000), 16_000)).model
    package = f"speech-qc {speech_qc.__version__}"
    source = Path(speech_qc.__file__)
    tracked = ["git", "-C", str(source.parent), "ls-files", "--error-unmatch", source.name]
    if subprocess.run(tracked, capture_output=True).returncode == 0:
        head = ["git", "-C", str(source.parent), "describe", "--always", "--dirty=+", "--exclude=*"]
        package += f" at {subprocess.run(head, capture_output=True, text=True).stdout.strip()}"
    return f"model {model.name} {model.version} ({model.sha256[:12]}), {package}"


def chosen(rows: list[Row], wanted: list[str]) -> list[Row]:
    """Return the wanted rows, or all that can be measured here; name what is skipped."""
    unknown = set(wanted) - {row.key for row in rows}
    if unknown:
        raise SystemExit(f"--rows: unknown {', '.join(sorted(unknown))}; known: {', '.join(row.key for row in rows)}")
    kept = [row for row in rows if not wanted or row.key in wanted]
    if synthesis.synthesizer() is None and any(row.key == "espeak" for row in kept):
        print("espeak: skipped, since espeak-ng is not installed", file=sys.stderr)
        kept = [row for row in kept if row.key != "espeak"]
    return kept


def main() -> int:
    """Measure the rows; return 1 if any misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="pool of speech and noise with manifest.csv")
    parser.add_argument("--trials", type=int, default=400, help="trials of each row")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="measure only these rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=("valid", "test", "train"), default="valid", help="`train` to tune")
    parser.add_argument("--sources", nargs="+", default=[], help="use only speech of these sources")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    parser.add_argument("--record", action="store_true", help="append to RESULTS.md")
    options = parser.parse_args()
    about = machine()
    rows = chosen(all_rows(), options.rows)
    pool = Pool(options.folder, options.split, tuple(options.sources))
    results = []
    for row in rows:
        began = time.perf_counter()
        results.append(measure(row, pool, options.trials, options.seed))
        print(" | ".join(cells(results[-1])), f"({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)
    version = versions()
    intro = f"Judged by {version}; split {options.split}, seed {options.seed}."
    few = [result.key for result in results if 0 < result.talkers < LEAST_TALKERS]
    if few:
        intro += f" Fewer than {LEAST_TALKERS} talkers: {', '.join(few)}."
    table = markdown(HEADINGS, [cells(result) for result in results])
    print(f"Benchmark of commit {commit()}. {intro}\n\n{table}")
    if options.json:
        document = {"judged": version, "benchmark_commit": commit(), "split": options.split, "seed": options.seed}
        text = json.dumps({**document, "rows": [asdict(result) for result in results]}, indent=1, ensure_ascii=False)
        options.json.write_text(text + "\n", encoding="utf-8")
    if options.record:
        record("answers", about, f"{intro}\n\n{table}", {str(options.folder): "FOLDER"})
    return 0 if all(result.met for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
