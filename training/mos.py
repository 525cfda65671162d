"""Opinion scores: teachers rate a fixed set of mixtures once, and known facts about each clip correct the ratings.

    python -m training.mos make FOLDER --data CORPUS --config CONFIG --split train --count 1200
    python training/mos_teacher.py FOLDER/train.samples.npy FOLDER/train.scores.npy   # in the teachers' environment

The mixtures are made from stems, so their SNR, overload, losses and rooms are known exactly. `training/mos_targets.py`
combines these facts with the teachers' scores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speech_qc.audio.features import FrontEnd
from speech_qc.contract import LABEL_CATALOG
from training.config import ConfigError, DataConfig, read_config
from training.corpora.manifest import ManifestError
from training.examples import Example, clip_samples, load_pool, to_example
from training.mixing import targets
from training.mixing.channel import MNRU_Q_DB, SUPPRESSOR_DB, faultless
from training.mixing.plan import MixOdds, MixPlan, Pool, draw_plan
from training.mixing.render import Mixture, render
from training.mos_targets import TEACHER_COLUMNS, Facts, targets_of

MOS_LABELS = tuple(name for name, (_, kind) in LABEL_CATALOG.items() if kind == "mos")
MOS_SEED = 4_000_037  # these mixtures are used only for opinion scores
MIN_SPEECH_FRAMES = 75  # 1.5 s; a listener cannot judge less
STRATA = {
    "clean": 0.25,
    "noise": 0.24,
    "interference": 0.05,
    "mnru": 0.08,
    "suppressor": 0.07,
    "loss": 0.06,
    "overload": 0.06,
    "room": 0.06,
    "mixed": 0.13,
}
"""Shares of the clips, so that no kind of damage is rare; `mixed` is as in training."""
SNR_DB = (-5.0, 40.0)  # of the sources, outside `mixed`


def facts_of(plan: MixPlan, mixture: Mixture) -> Facts | None:
    """Return the facts of a mixture; None if it has too little speech."""
    speaking = (mixture.targets["speech"].value > 0) & mixture.targets["snr_db"].mask
    if speaking.sum() < MIN_SPEECH_FRAMES:
        return None
    other = sum((e for name, e in mixture.stems.items() if name.startswith("source")), mixture.stems["floor"])
    snr = targets.to_db(np.asarray([mixture.stems["speech"][speaking].mean()])) - targets.to_db(
        np.asarray([other.mean()])
    )
    clipping, dropout = mixture.targets["clipping"], mixture.targets["dropout"]
    return Facts(
        snr_db=float(np.clip(snr[0], -15.0, 60.0)),
        clipped=float((clipping.value * clipping.mask)[speaking].mean()),
        lost=float((dropout.value * dropout.mask).sum() / speaking.sum()),
        c50_db=30.0 if mixture.c50_db is None else mixture.c50_db,
        narrow=float(plan.channel.narrow),
        low_rate=float(plan.channel.codec is not None),
        mnru_q_db=60.0 if plan.channel.mnru_q_db is None else plan.channel.mnru_q_db,
        suppressed=float(plan.channel.suppressor_db is not None),
    )


def draw_clip(rng: np.random.Generator, pool: Pool, samples: int) -> tuple[str, MixPlan]:
    """Draw a stratum and the plan of a clip in it.

    The line keeps its bandwidth, codec and gain. Faults of the line, a room and sources are present only if the stratum
    calls for them, except that every third damaged clip also has noise, and `mixed` clips are as in training.
    """
    stratum = str(rng.choice(list(STRATA), p=list(STRATA.values())))
    if stratum == "mixed":
        return stratum, draw_plan(rng, pool, samples, MixOdds(speech=1.0))
    noisy = stratum == "noise" or (stratum not in ("clean", "interference") and rng.random() < 1.0 / 3.0)
    odds = MixOdds(
        speech=1.0,
        noise=float(noisy),
        interference=float(stratum == "interference"),
        room=float(stratum == "room"),
    )
    plan = draw_plan(rng, pool, samples, odds)
    snr_db = rng.uniform(*SNR_DB)
    line = replace(
        faultless(plan.channel),
        clip_share=float(np.exp(rng.uniform(np.log(0.002), np.log(0.12)))) if stratum == "overload" else None,
        loss_ratio=float(np.exp(rng.uniform(np.log(0.01), np.log(0.2)))) if stratum == "loss" else None,
        mnru_q_db=float(rng.uniform(*MNRU_Q_DB)) if stratum == "mnru" else None,
        suppressor_db=float(rng.uniform(*SUPPRESSOR_DB)) if stratum == "suppressor" else None,
    )
    sources = tuple(replace(source, level_db=-float(snr_db)) for source in plan.sources)
    return stratum, replace(plan, sources=sources, channel=line)


@dataclass(frozen=True, slots=True)
class Clips:
    """Rendered clips: samples int16 (N, n), and per clip its stratum, facts and mixture."""

    samples: NDArray[np.int16]
    strata: list[str]
    facts: list[Facts]
    mixtures: list[Mixture]


def make(pool: Pool, samples: int, seed: int, count: int) -> Clips:
    """Draw and render clips with enough speech."""
    clips: list[NDArray[np.int16]] = []
    strata: list[str] = []
    facts: list[Facts] = []
    mixtures: list[Mixture] = []
    index = 0
    while len(clips) < count:
        stratum, plan = draw_clip(np.random.default_rng([seed, index]), pool, samples)
        mixture = render(plan, pool)
        known = facts_of(plan, mixture)
        index += 1
        if known is None:
            continue
        clips.append(np.round(np.clip(mixture.samples, -1.0, 1.0) * 32767.0).astype(np.int16))
        strata.append(stratum)
        facts.append(known)
        mixtures.append(mixture)
    return Clips(np.stack(clips), strata, facts, mixtures)


class MosClips:
    """Rated clips with all their frame targets, in memory.

    Args:
        folder: Output folder of `make` and of the teacher.
        split: `train` or `valid`.
        labels: Order of the target columns.
    """

    def __init__(self, folder: Path, split: str, labels: Sequence[str]) -> None:
        self._scores, self._labels = folder / f"{split}.scores.npy", tuple(labels)
        try:
            with np.load(folder / f"{split}.npz") as file:
                self._made = dict(file)
            self.refresh()
        except OSError as error:
            raise ConfigError(f"expected rated clips in {folder}: {error}; training/mos.py creates them") from error

    def refresh(self) -> None:
        """Load the ratings available so far; the teacher may still be running when training starts."""
        try:
            scores = np.load(self._scores)
        except (ValueError, EOFError):  # the teacher is writing the file; keep the earlier ratings until next time
            if hasattr(self, "features"):
                return
            raise
        made, count = self._made, len(scores)
        facts_made = {name for name in Facts.__dataclass_fields__ if f"fact_{name}" in made}
        rows, wanted = len(made["features"]), len(Facts.__dataclass_fields__)
        if scores.shape != (count, TEACHER_COLUMNS) or count > rows or len(facts_made) < wanted:
            raise ConfigError(
                f"expected {TEACHER_COLUMNS} scores for each of at most {rows} clips in {self._scores}, and {wanted} "
                f"facts about each clip, got {scores.shape} and {len(facts_made)}: make and rate the clips again"
            )
        stored = [str(name) for name in made["labels"]]
        facts = {name: made[f"fact_{name}"][:count].astype(np.float64) for name in Facts.__dataclass_fields__}
        rated = targets_of(facts, scores.astype(np.float64))
        value = np.zeros((count, made["target"].shape[1], len(self._labels)), np.float32)
        mask = np.zeros_like(value)
        for column, name in enumerate(self._labels):
            if name in MOS_LABELS:
                value[..., column] = rated[:, None, MOS_LABELS.index(name)]
                mask[..., column] = made["speaking"][:count]
            else:
                value[..., column] = made["target"][:count, :, stored.index(name)]
                mask[..., column] = made["mask"][:count, :, stored.index(name)]
        self.features = torch.from_numpy(made["features"][:count].astype(np.float32))
        self.value, self.mask = torch.from_numpy(value), torch.from_numpy(mask)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.features)

    def take(self, step: int, count: int) -> Example:
        """Return the clips of a training step: each round covers all clips in a new random order."""
        per_round = max(1, len(self) // count)
        order = np.random.default_rng([MOS_SEED, step // per_round]).permutation(len(self))
        start = step % per_round * count
        chosen: Tensor = torch.from_numpy(order[start : start + count])
        return self.features[chosen], self.value[chosen], self.mask[chosen]

    def all(self) -> Example:
        """Return all clips."""
        return self.features, self.value, self.mask


def write(folder: Path, split: str, pool: Pool, data: DataConfig, labels: Sequence[str], count: int) -> None:
    """Render clips and write them: samples for the teacher, features and targets for the student."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = MOS_SEED + (split != "train")
    clips = make(pool, clip_samples(data), seed, count)
    front_end = FrontEnd()
    examples = [to_example(mixture, labels, front_end) for mixture in clips.mixtures]
    features, value, mask = (
        np.stack([column.numpy() for column in columns]) for columns in zip(*examples, strict=True)
    )
    speaking = np.stack([(m.targets["speech"].value > 0) & m.targets["snr_db"].mask for m in clips.mixtures])
    known: dict[str, Any] = {
        f"fact_{name}": np.asarray([asdict(fact)[name] for fact in clips.facts]) for name in Facts.__dataclass_fields__
    }
    np.savez(
        folder / f"{split}.npz",
        features=features.astype(np.float16),
        target=value,
        mask=mask.astype(np.bool_),
        speaking=speaking[:, : value.shape[1]],
        labels=np.asarray(labels),
        stratum=np.asarray(clips.strata),
        **known,
    )
    np.save(folder / f"{split}.samples.npy", clips.samples)
    (folder / f"{split}.scores.npy").unlink(missing_ok=True)  # scores of earlier clips


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.mos", description=__doc__)
    parser.add_argument("action", choices=["make"])
    parser.add_argument("folder", type=Path, help="output folder of the clips")
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with manifest.csv")
    parser.add_argument("--config", type=Path, required=True, help="training configuration (stems and clip length)")
    parser.add_argument("--split", choices=["train", "valid"], default="train")
    parser.add_argument("--count", type=int, default=1200)
    options = parser.parse_args(argv)
    try:
        data = read_config(options.config).data
        pool, _, _ = load_pool(options.data, data, options.split)
        labels = [name for name, (_, kind) in LABEL_CATALOG.items() if kind != "mos"]
        write(options.folder, options.split, pool, data, labels, options.count)
    except (ConfigError, ManifestError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
