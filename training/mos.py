"""Opinion scores: a teacher rates a fixed set of mixtures once, what is known of each mends its known faults.

    python -m training.mos make FOLDER --data CORPUS --config CONFIG --split train --count 1200
    python training/mos_teacher.py FOLDER/train.samples.npy FOLDER/train.scores.npy   # in the teacher's environment

DNSMOS rates clean speech at about 3.2 and is unsure of soft or short clips, but the mixtures are made from stems, so
their SNR, overload, losses and rooms are known exactly; `targets_of` says how both are joined.
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
MOS_SEED = 4_000_037  # mixtures that are heard by the teacher and by nobody else
MIN_SPEECH_FRAMES = 75  # 1.5 s: fewer tell a listener too little
CLEAN_SHARE = 0.3  # of the clips have no source put in
TEACHER_SHARE = 0.5  # of the teacher in SIG and BAK where something disturbs
CLEAN_SNR_DB = 34.0  # from here on, with nothing else wrong, speech is clean to a listener


@dataclass(frozen=True, slots=True)
class Facts:
    """What the mixer knows of a clip."""

    snr_db: float
    """Mean speech power while the talker speaks over the mean power of everything else."""
    clipped: float
    """Share of speech frames with overload."""
    lost: float
    """Share of speech frames that were lost and missed."""
    c50_db: float
    """Clarity, 30 without a room."""
    narrow: float
    """1 at telephone bandwidth."""
    low_rate: float
    """1 behind a lossy codec other than G.711."""


def facts_of(plan: MixPlan, mixture: Mixture) -> Facts | None:
    """Facts of a mixture; None when too little is said in it."""
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
    """Draw and render clips in which enough is said."""
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
    """Join the teacher's scores with what is known, (N, 3): SIG, BAK, OVRL.

    BAK follows the exact SNR by a monotone curve (2 at 2 dB, 3 at 13 dB, 4.2 at 30 dB), half and half with the teacher.
    SIG falls with overload, losses, rooms and masking, half and half with the teacher. Clean speech gets at least 4 in
    SIG and OVRL. OVRL is made of the two, again half and half with the teacher.
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
        folder: Where `make` and the teacher wrote.
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
            raise ConfigError(f"expected rated clips in {folder}: {error}; see training/mos.py") from error

    def refresh(self) -> None:
        """Take what the teacher has rated so far; it may still be at work when training starts."""
        try:
            scores = np.load(self._scores)
        except (ValueError, EOFError):  # the teacher is writing; next time
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
        """Number of clips."""
        return len(self.features)

    def take(self, step: int, count: int) -> Example:
        """The clips of a training step: all in turn, in an order of its own for every round."""
        per_round = max(1, len(self) // count)
        order = np.random.default_rng([MOS_SEED, step // per_round]).permutation(len(self))
        start = step % per_round * count
        chosen: Tensor = torch.from_numpy(order[start : start + count])
        return self.features[chosen], self.value[chosen], self.mask[chosen]

    def all(self) -> Example:
        """Every clip."""
        return self.features, self.value, self.mask


def write(folder: Path, split: str, pool: Pool, data: DataConfig, labels: Sequence[str], count: int) -> None:
    """Make clips and write them: samples for the teacher, the rest for the student."""
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
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.mos", description=__doc__)
    parser.add_argument("action", choices=["make"])
    parser.add_argument("folder", type=Path, help="where the clips go")
    parser.add_argument("--data", type=Path, required=True, help="corpus folder with manifest.csv")
    parser.add_argument("--config", type=Path, required=True, help="training configuration: which stems, how long")
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
