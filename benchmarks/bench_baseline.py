"""Simulates groups in normal operation and groups that change, and counts what `speech-qc baseline` reports.

    python benchmarks/bench_baseline.py

Each recording's figure is the level of its group, plus a deviation of its period, plus one of its own. The periods'
deviations are normal; those of recordings have the given distribution. The number of recordings varies between periods.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

from speech_qc.baseline.observations import Observation
from speech_qc.baseline.periods import Periods
from speech_qc.baseline.ranges import Rules, baseline
from speech_qc.baseline.statistics import predicted, threshold

Draw = Callable[[np.random.Generator, int], np.ndarray]
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy tails (t, 3 degrees)": lambda rng, n: rng.standard_t(3, n),
    "skewed (log-normal)": lambda rng, n: np.exp(rng.standard_normal(n)),
}
LEVELS = {"quality": 80.0, "snr_db": 25.0, "loudness_lufs": -23.0}
FAIL_SHARE = 0.05


def simulated(
    rng: np.random.Generator,
    groups: int,
    days: int,
    draw: Draw,
    *,
    day_spread: float = 1.0,
    spread: float = 5.0,
    recordings: tuple[int, int] = (10, 60),
    shift: float = 0.0,
    shifted_from: int = 0,
) -> Iterator[Observation]:
    """Draw recordings; group 0 changes by `shift`, in the unit of each figure, from a day on.

    Args:
        rng: Source of randomness.
        groups: Number of groups.
        days: Number of periods.
        draw: Distribution of recordings around their day.
        day_spread: Standard deviation between the days of a group.
        spread: Scale of the recordings.
        recordings: Least and greatest number of recordings on a day.
        shift: Change of the figures of group 0; its share of failures rises to half.
        shifted_from: Day from which on it applies.
    """
    for group in range(groups):
        usual = rng.normal(0, 3, len(LEVELS))
        for day in range(days):
            count = int(rng.integers(*recordings, endpoint=True))
            has_changed = group == 0 and shift and day >= shifted_from
            centres = usual + rng.normal(0, day_spread, len(LEVELS)) + (shift if has_changed else 0.0)
            fails = rng.random(count) < (0.5 if has_changed else FAIL_SHARE)
            figures = np.array([[level] for level in LEVELS.values()]) + centres[:, None]
            figures = figures + spread * np.stack([draw(rng, count) for _ in LEVELS])
            time = START + timedelta(days=day)
            for number in range(count):
                values = dict(zip(LEVELS, figures[:, number].tolist(), strict=True))
                yield Observation(f"group {group}", time, {**values, "fail_ratio": float(fails[number])})


def false_alarms(
    seed: int, runs: int, groups: int, days: int, draw: Draw, rate: float, *, day_spread: float = 1.0
) -> tuple[int, int]:
    """Return in how many periods a group was reported although nothing changed, and how many periods were judged."""
    alarmed = judged = 0
    for run in range(runs):
        periods = Periods("day", min_recordings=10)
        periods.add(simulated(np.random.default_rng([seed, run]), groups, days, draw, day_spread=day_spread))
        found = baseline(periods, Rules(false_alarm_rate=rate))
        alarmed += len({period for one in found.excursions for period in range(one.first.period, one.last.period + 1)})
        judged += days - 10
    return alarmed, judged


def detection(seed: int, runs: int, groups: int, shift: float, *, history: int = 28) -> tuple[int, float]:
    """Return in how many runs a change of group 0 was found on its first day, and the days to its last report."""
    found_at_once, lasted = 0, []
    for run in range(runs):
        periods = Periods("day", min_recordings=10)
        rng = np.random.default_rng([seed, run])
        periods.add(
            simulated(rng, groups, 2 * history + 28, DISTRIBUTIONS["normal"], shift=shift, shifted_from=history)
        )
        found = baseline(periods, Rules(history=history))
        own = [one for one in found.excursions if one.first.group == "group 0" and one.first.measure == "snr_db"]
        first_day = START.toordinal() + history
        found_at_once += any(one.first.period == first_day for one in own)
        lasted += [max(one.last.period for one in own) - first_day + 1] if own else []
    return found_at_once, float(np.median(lasted)) if lasted else 0.0


def exceeded(history: int, rates: tuple[float, ...], draws: int) -> list[float]:
    """Return how often one normal period exceeds the threshold for each rate, relative to that rate."""
    rng, at_once = np.random.default_rng(history), 20_000
    hits = np.zeros(len(rates))
    limits = np.array([[threshold(history, rate)] for rate in rates])
    for _ in range(draws // at_once):
        values = rng.standard_normal((at_once, history + 1))
        sampling = np.zeros((at_once, history))
        centre, scale = predicted(values[:, :-1], sampling, sampling[:, 0])
        hits += (np.abs(values[:, -1] - centre) / scale > limits).sum(axis=1)
    return [hit / (draws // at_once * at_once) / rate for hit, rate in zip(hits.tolist(), rates, strict=True)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--draws", type=int, default=1_000_000)
    arguments = parser.parse_args()
    runs = arguments.runs
    rates = (1e-2, 1e-3, 1e-4, 1e-5)
    print("| earlier periods | " + " | ".join(f"rate {rate:g}" for rate in rates) + " |")
    print("|---|" + "---|" * len(rates))
    for history in (10, 14, 20, 28):
        shares = exceeded(history, rates, arguments.draws)
        print(f"| {history} | " + " | ".join(f"{share:.2f} ×" for share in shares) + " |", flush=True)
    print()
    print("| recordings | spread of days | stated rate | periods | with a false alarm | measured rate |")
    print("|---|---|---|---|---|---|")
    for name, draw in DISTRIBUTIONS.items():
        for rate, day_spread in ((0.01, 1.0), (0.1, 1.0), (0.1, 0.0)):
            alarmed, judged = false_alarms(1, runs, 30, 60, draw, rate, day_spread=day_spread)
            print(
                f"| {name} | {day_spread:g} | {rate:.0%} | {judged} | {alarmed} | {alarmed / judged:.2%} |", flush=True
            )
    print()
    print("| change of the SNR | runs | found on the first day | days to its last report (median) |")
    print("|---|---|---|---|")
    for shift in (-4.0, -8.0, -12.0, -16.0):
        found, lasted = detection(2, runs, 30, shift)
        print(f"| {shift:+g} dB | {runs} | {found / runs:.0%} | {lasted:.0f} |", flush=True)


if __name__ == "__main__":
    main()
