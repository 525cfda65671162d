"""Fixed mixtures for validation, evaluation and calibration, rendered once and kept in memory.

Each purpose adds its own offset to the run's seed, so no mixture serves two purposes. All stems come from one split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from speech_qc.audio.features import FrontEnd
from training.config import DataConfig
from training.corpora.taxonomy import STATIONARY, SYNTHETIC_NOISE
from training.examples import clip_samples, load_pool, to_example
from training.mixing.channel import faultless
from training.mixing.plan import MixOdds, MixPlan, Pool, draw_plan
from training.mixing.render import render
from training.mos import MosClips

Float32 = NDArray[np.float32]

VALID_SEED_OFFSET = 1_000_003  # added to a run's seed for early stopping
EVALUATION_SEED_OFFSET = 2_000_003
CALIBRATION_SEED_OFFSET = 3_000_017
MAX_DRAWS_PER_MIXTURE = 200  # after this many draws per mixture, the pool is assumed not to meet the condition


@dataclass(frozen=True, slots=True)
class Condition:
    """Which mixtures a material contains.

    Args:
        name: Name in reports.
        odds: Probability of each ingredient.
        faultless: Remove overload, packet loss, signal-correlated noise and the noise suppressor from the line.
        accept: Whether to keep a plan.
    """

    name: str
    odds: MixOdds
    faultless: bool
    accept: Callable[[MixPlan], bool]


_CLEAN = MixOdds(speech=1.0, noise=0.0, second_noise=0.0, interference=0.0)

MIXED = Condition("mixtures as in training", MixOdds(), False, lambda _plan: True)
CLEAN_WIDE = Condition("clean speech, wide band", _CLEAN, True, lambda plan: not plan.channel.narrow)
CLEAN_TELEPHONE = Condition("clean speech, telephone", _CLEAN, True, lambda plan: plan.channel.narrow)
_COMPETED = MixOdds(speech=1.0, noise=0.0, second_noise=0.0, interference=1.0)


def _only(kind: str) -> Condition:
    """Return the condition of speech with one kind of interference and nothing else."""
    return Condition(
        f"speech and {kind}",
        _COMPETED,
        False,
        lambda plan: [source.synth or source.kind for source in plan.sources] == [kind],
    )


INTERFERENCE_KINDS = ("talker", "babble", "music", "hum", "dtmf", "call_tone")
ONE_KIND = {kind: _only(kind) for kind in INTERFERENCE_KINDS}
STEADY_NOISE = Condition(
    "speech and steady noise",
    MixOdds(speech=1.0, noise=1.0, second_noise=0.0, interference=0.0),
    False,
    lambda plan: [source.meaning in (STATIONARY, SYNTHETIC_NOISE) for source in plan.sources] == [True],
)
NOISE_ALONE = Condition("noise alone", MixOdds(speech=0.0, interference=0.0), False, lambda plan: len(plan.sources) > 0)


@dataclass(frozen=True, slots=True)
class Material:
    """Mixtures of equal length with their ground truth.

    Attributes:
        condition: Name of the condition.
        labels: Order of the target columns.
        features: float32 (N, T, F).
        target: float32 (N, T / 2, C).
        mask: bool (N, T / 2, C), True where the target counts.
        seconds: Total length of the mixtures.
    """

    condition: str
    labels: tuple[str, ...]
    features: Float32
    target: Float32
    mask: NDArray[np.bool_]
    seconds: float


def make_material(
    pool: Pool, labels: Sequence[str], samples: int, seed: int, count: int, condition: Condition = MIXED
) -> Material:
    """Draw and render the first `count` mixtures of a seed that meet a condition.

    Raises:
        ValueError: The pool hardly ever meets the condition.
    """
    front_end = FrontEnd()
    examples = []
    for plan in tqdm(draw_plans(pool, samples, seed, count, condition), desc=condition.name, unit="mix", total=count):
        mixture = render(plan, pool)
        features, target, mask = to_example(mixture, labels, front_end)
        examples.append((features.numpy(), target.numpy(), mask.numpy() > 0))
    features_all, targets, masks = (np.stack(column) for column in zip(*examples, strict=True))
    seconds = count * targets.shape[1] * front_end.spec.frame_hop_s
    return Material(condition.name, tuple(labels), features_all, targets, masks, seconds)


def draw_plans(pool: Pool, samples: int, seed: int, count: int, condition: Condition) -> list[MixPlan]:
    """Draw the first `count` plans of a seed that meet a condition.

    Raises:
        ValueError: The pool hardly ever meets the condition.
    """
    plans: list[MixPlan] = []
    for index in range(count * MAX_DRAWS_PER_MIXTURE):
        plan = draw_plan(np.random.default_rng([seed, index]), pool, samples, condition.odds)
        if condition.faultless:
            plan = replace(plan, channel=faultless(plan.channel))
        if condition.accept(plan):
            plans.append(plan)
        if len(plans) == count:
            return plans
    raise ValueError(f"expected {count} mixtures of {condition.name!r}, this pool gave {len(plans)}: add stems")


@dataclass(frozen=True, slots=True)
class Checks:
    """Validation material for comparing the checkpoints of a run.

    Attributes:
        mixed: Mixtures as in training.
        clean: Undisturbed speech per kind of line; may be empty.
        noise: Mixtures without speech, or None.
        mos: Rated clips, or None.
    """

    mixed: Material
    clean: tuple[Material, ...]
    noise: Material | None
    mos: MosClips | None


def make_checks(folder: Path, data: DataConfig, labels: Sequence[str], seed: int) -> Checks:
    """Render the validation material that `data` specifies.

    Args:
        folder: Corpus folder.
        data: Choice of stems, length and number of clips of each kind; `mos_folder` has the rated clips.
        labels: Order of the target columns.
        seed: The run's seed; `VALID_SEED_OFFSET` is added.

    Raises:
        ConfigError: `mos_folder` has no rated clips.
        ManifestError: The manifest cannot be used.
        ValueError: The manifest leaks between splits, or the pool cannot provide a material.
    """
    pool, _, _ = load_pool(folder, data, "valid")

    def made(count: int, condition: Condition) -> Material:
        return make_material(pool, labels, clip_samples(data), seed + VALID_SEED_OFFSET, count, condition)

    half = data.valid_clean // 2
    return Checks(
        mixed=made(data.valid_mixtures, MIXED),
        clean=(made(half, CLEAN_WIDE), made(half, CLEAN_TELEPHONE)) if half else (),
        noise=made(data.valid_noise, NOISE_ALONE) if data.valid_noise else None,
        mos=None if data.mos_folder is None else MosClips(data.mos_folder, "valid", labels),
    )
