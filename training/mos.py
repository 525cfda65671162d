"""Opinion scores: a teacher rates a fixed set of mixtures once, and known facts about each clip correct the ratings.

    python -m training.mos make FOLDER --data CORPUS --config CONFIG --split train --count 1200
    python training/mos_teacher.py FOLDER/train.samples.npy FOLDER/train.scores.npy   # in the teacher's environment

DNSMOS rates clean speech at about 3.2 and is unreliable on soft or short clips. The mixtures are made from stems, so
their SNR, overload, losses and rooms are known exactly. `targets_of` combines the two.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
from training.mixing.plan import MixOdds, MixPlan, Pool, draw_plan
from training.mixing.render import Mixture, render

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MOS_LABELS = tuple(name for name, (_, kind) in LABEL_CATALOG.items() if kind == "mos")
MOS_SEED = 4_000_037  # these mixtures are used only for opinion scores
MIN_SPEECH_FRAMES = 75  # 1.5 s; a listener cannot judge less
CLEAN_SHARE = 0.3  # share of the clips without an added source
TEACHER_SHARE = 0.5  # weight of the teacher's scores in disturbed clips
CLEAN_SNR_DB = 34.0  # from this SNR on, speech without other impairments sounds clean


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
    )


def make(pool: Pool, samples: int, seed: int, count: int) -> tuple[NDArray[np.int16], list[Facts], list[Mixture]]:
    """Draw and render clips with enough speech."""
    clips: list[NDArray[np.int16]] = []
    facts: list[Facts] = []
    mixtures: list[Mixture] = []
    index = 0
    while len(clips) < count:
        rng = np.random.default_rng([seed, index])
        clean = rng.random() < CLEAN_SHARE
        odds = MixOdds(speech=1.0, noise=0.0, interference=0.0) if clean else MixOdds(speech=1.0, noise=0.7)
        plan = draw_plan(rng, pool, samples, odds)
        mixture = render(plan, pool)
        known = facts_of(plan, mixture)
        index += 1
        if known is None:
            continue
        clips.append(np.round(np.clip(mixture.samples, -1.0, 1.0) * 32767.0).astype(np.int16))
        facts.append(known)
        mixtures.append(mixture)
    return np.stack(clips), facts, mixtures


def targets_of(facts: dict[str, Float64], teacher: Float64) -> Float64:
    """Combine the teacher's scores with the known facts, (N, 3): SIG, BAK, OVRL.

    BAK follows the exact SNR by a monotone curve (2 at 2 dB, 3 at 13 dB, 4.2 at 30 dB), SIG decreases with overload,
    losses, rooms and masking, and OVRL is computed from the two. In disturbed clips, each is averaged with the
    teacher's score in equal parts. Clean speech gets at least 4 in SIG and OVRL.
    """
    snr = facts["snr_db"]
    bak = 1.0 + 3.6 / (1.0 + np.exp(-(snr - 11.0) / 9.0))
    masking = 1.6 / (1.0 + np.exp((snr - 1.0) / 5.0))
    harm = 1.8 * np.minimum(1.0, facts["clipped"] / 0.4) ** 0.7 + 1.8 * np.minimum(1.0, facts["lost"] / 0.2) ** 0.7
    room = 0.9 * np.clip((12.0 - facts["c50_db"]) / 12.0, 0.0, 1.0)
    sig = np.clip(4.4 - masking - harm - room - 0.25 * facts["narrow"] - 0.3 * facts["low_rate"], 1.0, 5.0)
    clean = (snr >= CLEAN_SNR_DB) & (facts["clipped"] < 0.01) & (facts["lost"] < 0.01) & (facts["c50_db"] > 12.0)
    share = np.where(clean, 0.2, TEACHER_SHARE)
    sig = share * teacher[:, 0] + (1.0 - share) * sig
    bak = share * teacher[:, 1] + (1.0 - share) * bak
    overall = np.clip(0.6 * sig + 0.48 * bak - 0.6, 1.0, 5.0)
    ovrl = share * teacher[:, 2] + (1.0 - share) * overall
    sig, ovrl = np.where(clean, np.maximum(sig, 4.0), sig), np.where(clean, np.maximum(ovrl, 4.0), ovrl)
    return np.clip(np.stack([sig, bak, ovrl], axis=1), 1.0, 5.0)


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
    clips, facts, mixtures = make(pool, clip_samples(data), seed, count)
    front_end = FrontEnd()
    examples = [to_example(mixture, labels, front_end) for mixture in mixtures]
    features, value, mask = (
        np.stack([column.numpy() for column in columns]) for columns in zip(*examples, strict=True)
    )
    speaking = np.stack([(m.targets["speech"].value > 0) & m.targets["snr_db"].mask for m in mixtures])
    known: dict[str, Any] = {
        f"fact_{name}": np.asarray([asdict(fact)[name] for fact in facts]) for name in Facts.__dataclass_fields__
    }
    np.savez(
        folder / f"{split}.npz",
        features=features.astype(np.float16),
        target=value,
        mask=mask.astype(np.bool_),
        speaking=speaking[:, : value.shape[1]],
        labels=np.asarray(labels),
        **known,
    )
    np.save(folder / f"{split}.samples.npy", clips)


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
