"""Opinion-score targets: two teachers' scores, put on listeners' scale and corrected by known facts about each clip.

    python -m training.mos_targets FOLDER --split valid     # measure ANCHORS and the mean targets of each stratum

This module knows neither the mixer nor the files' maker; `training/mos.py` does both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

TEACHER_COLUMNS = 4  # of mos_teacher.py: SIG, BAK and OVRL of DNSMOS, and DistillMOS
BAK_COLUMN, DISTILLMOS_COLUMN = 1, 3
CLEAN_SNR_DB = 34.0  # from this SNR on, speech without other impairments sounds clean
# Scores of clean speech (as listeners give them in a test with all conditions) and of the worst 2 %: SIG, BAK, OVRL.
CLEAN_SCORES, WORST_SCORES, WORST_QUANTILE = np.array([4.5, 4.6, 4.3]), np.array([1.2, 1.2, 1.1]), 0.02
BEST_SCORES = CLEAN_SCORES + 0.25  # above clean speech, the teachers' differences are errors
# Least SIG, BAK and OVRL of clean speech, without and with a lossy codec; each row is on the plane below.
CLEAN_LEAST = np.array([[4.3, 4.2, 4.0], [3.6, 4.2, 3.6]])
# P.835's overall score is nearly linear in the two others: OVRL = 0.6 SIG + 0.48 BAK - 0.6.
PLANE, PLANE_OFFSET = np.array([0.6, 0.48, -1.0]), -0.6
# Correlation with listeners: SIG and BAK by the teachers, OVRL by DistillMOS; BAK by the exact SNR alone.
TEACHER_R, SNR_R = np.array([0.845, 0.899, 0.905]), 0.944
TEACHER_ERROR, SNR_ERROR = 1.0 - TEACHER_R**2, 1.0 - SNR_R**2  # unexplained variance
SNR_SHARE = TEACHER_ERROR[1] / (TEACHER_ERROR[1] + SNR_ERROR)  # 0.64; inverse variances weight independent estimates


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts that the mixer knows about a clip."""

    snr_db: float
    """Mean speech power in speech frames over the mean power of everything else."""
    clipped: float
    """Share of speech frames with overload."""
    lost: float
    """Number of audible lost frames as a share of the speech frames."""
    c50_db: float
    """Clarity; 30 without a room."""
    narrow: float
    """1 at telephone bandwidth."""
    low_rate: float
    """1 after a lossy codec other than G.711."""
    mnru_q_db: float
    """Ratio of the speech to noise that follows it; 60 without such noise."""
    suppressed: float
    """1 after a noise suppressor."""


@dataclass(frozen=True, slots=True)
class Anchors:
    """Constants that put the teachers' scores on listeners' scale; `measure` computes them from rated clips."""

    mean: tuple[float, float]
    """DNSMOS BAK and DistillMOS."""
    spread: tuple[float, float]
    """Standard deviations of the same."""
    clean: tuple[float, float, float]
    """Combined scores of clean wide-band speech (median) for SIG, BAK and OVRL."""
    worst: tuple[float, float, float]
    """Combined scores of the worst 2 % of all clips."""


# python -m training.mos_targets mos --split valid (250 clips)
ANCHORS = Anchors(mean=(3.368, 2.884), spread=(0.78, 0.836), clean=(0.707, 1.102, 3.75), worst=(-1.79, -3.502, 1.21))


def combine(teacher: Float64, anchors: Anchors) -> Float64:
    """Combine the teachers' scores, (N, 4), to scores that rank clips as listeners do, (N, 3): SIG, BAK, OVRL.

    DNSMOS's own SIG (Pearson 0.40 with listeners) and OVRL (0.66) are not used.
    """
    bak, quality = (
        (teacher[:, column] - anchors.mean[i]) / anchors.spread[i]
        for i, column in enumerate((BAK_COLUMN, DISTILLMOS_COLUMN))
    )
    return np.stack([quality - 0.5 * bak, bak + 0.5 * quality, teacher[:, DISTILLMOS_COLUMN]], axis=1)


def is_clean(facts: Mapping[str, Float64]) -> NDArray[np.bool_]:
    """Whether a clip has no audible disturbance, fault or room, (N,); codecs and telephone bandwidth do not count."""
    undamaged = (facts["clipped"] < 0.01) & (facts["lost"] < 0.01) & (facts["mnru_q_db"] > 40.0)
    clear = (facts["snr_db"] >= CLEAN_SNR_DB) & (facts["c50_db"] > 12.0) & (facts["suppressed"] == 0.0)
    return np.asarray(undamaged & clear)


def targets_of(facts: Mapping[str, Float64], teacher: Float64, anchors: Anchors = ANCHORS) -> Float64:
    """Return the targets, (N, 3): SIG, BAK, OVRL on the scale from 1 to 5.

    The teachers' combined scores go to listeners' scale by straight lines through `anchors`. BAK is averaged with a
    monotone curve of the exact SNR (2 at 2 dB, 3 at 13 dB, 4.2 at 30 dB). Where the three do not fit together, each is
    moved in proportion to its uncertainty until OVRL is the linear function of SIG and BAK. Clean speech then gets at
    least `CLEAN_LEAST`, because the teachers rate soft or short clean speech too low, and nothing gets more than
    `BEST_SCORES`.

    Args:
        facts: Values of `Facts` by name, each (N,).
        teacher: Scores of `mos_teacher.py`, (N, 4).
        anchors: Constants of the straight lines.
    """
    clean, worst = np.array(anchors.clean), np.array(anchors.worst)
    slope = (CLEAN_SCORES - WORST_SCORES) / (clean - worst)
    scores = np.clip(WORST_SCORES + slope * (combine(teacher, anchors) - worst), 1.0, BEST_SCORES)
    by_snr = 1.0 + 3.6 / (1.0 + np.exp(-(facts["snr_db"] - 11.0) / 9.0))
    scores[:, 1] = SNR_SHARE * by_snr + (1.0 - SNR_SHARE) * scores[:, 1]
    error = TEACHER_ERROR.copy()
    error[1] = 1.0 / (1.0 / TEACHER_ERROR[1] + 1.0 / SNR_ERROR)
    gap = scores @ PLANE + PLANE_OFFSET
    scores = scores - gap[:, None] * error * PLANE / (error * PLANE**2).sum()
    least = CLEAN_LEAST[(facts["low_rate"] > 0.0).astype(int)]
    scores = np.where(is_clean(facts)[:, None], np.maximum(scores, least), scores)
    return np.asarray(np.clip(scores, 1.0, BEST_SCORES))


def measure(facts: Mapping[str, Float64], teacher: Float64) -> Anchors:
    """Measure the anchors on rated clips.

    Raises:
        ValueError: There are no clean wide-band clips.
    """
    wide = is_clean(facts) & (facts["narrow"] == 0.0) & (facts["low_rate"] == 0.0)
    if not wide.any():
        raise ValueError(f"expected clean wide-band clips among the {len(teacher)} rated ones, got none: rate more")
    used = teacher[:, [BAK_COLUMN, DISTILLMOS_COLUMN]]
    mean, spread = used.mean(axis=0), used.std(axis=0)
    scaled = Anchors((mean[0], mean[1]), (spread[0], spread[1]), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    combined = combine(teacher, scaled)
    clean, worst = np.median(combined[wide], axis=0), np.quantile(combined, WORST_QUANTILE, axis=0)
    rows = [tuple(round(float(value), 3) for value in row) for row in (mean, spread, clean, worst)]
    return Anchors(
        mean=(rows[0][0], rows[0][1]),
        spread=(rows[1][0], rows[1][1]),
        clean=(rows[2][0], rows[2][1], rows[2][2]),
        worst=(rows[3][0], rows[3][1], rows[3][2]),
    )


def table(strata: Sequence[str], facts: Mapping[str, Float64], teacher: Float64) -> str:
    """Return mean teachers' scores and targets by stratum as a Markdown table."""
    rated = targets_of(facts, teacher)
    lines = [
        "| stratum | clips | SNR, dB | DNSMOS BAK | DistillMOS | `sig` | `bak` | `ovrl` |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    names = np.asarray(strata)
    for name in sorted(set(strata)):
        rows = names == name
        values = [facts["snr_db"][rows].mean(), *teacher[rows][:, [BAK_COLUMN, DISTILLMOS_COLUMN]].mean(axis=0)]
        values += list(rated[rows].mean(axis=0))
        lines.append(
            f"| {name} | {rows.sum()} | {values[0]:.1f} | " + " | ".join(f"{v:.2f}" for v in values[1:]) + " |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.mos_targets", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of rated clips")
    parser.add_argument("--split", choices=["train", "valid"], default="train")
    options = parser.parse_args(argv)
    try:
        teacher = np.load(options.folder / f"{options.split}.scores.npy").astype(np.float64)
        with np.load(options.folder / f"{options.split}.npz") as made:
            facts = {
                name: made[f"fact_{name}"][: len(teacher)].astype(np.float64) for name in Facts.__dataclass_fields__
            }
            strata = [str(name) for name in made["stratum"][: len(teacher)]]
        print(f"ANCHORS = {measure(facts, teacher)}\n\n{table(strata, facts, teacher)}")  # noqa: T201
    except (OSError, KeyError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
