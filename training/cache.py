"""Mixtures of a study, rendered once per way of mixing and kept on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from speech_qc.audio.features import FrontEnd
from training.config import ConfigError, DataConfig
from training.examples import Example, load_pool, to_example
from training.material import CLEAN_TELEPHONE, CLEAN_WIDE, NOISE_ALONE, make_material
from training.mixing.channel import ChannelPlan
from training.mixing.plan import RATE_HZ, MixPlan, Pool, draw_plan
from training.mixing.render import render
from training.model import FIRST_LABELS
from training.train import VALID_SEED_OFFSET, Checks

Mixing = Literal["all", "no_line", "no_rooms", "no_made_sounds", "non_commercial"]
"""All that training mixes, or all but one group; `non_commercial` adds stems that the shipped model goes without."""


class Sizes(BaseModel):
    """How many mixtures, how long, of what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 1
    mixtures: int = Field(ge=16)
    """Rendered once; every variant draws its batches from them."""
    clip_seconds: float = Field(default=6.0, gt=0.5)
    valid_mixtures: int = Field(default=160, ge=1)
    valid_clean: int = Field(default=60, ge=2)
    valid_noise: int = Field(default=40, ge=1)
    exclude_sources: tuple[str, ...] = ()


def without(mixing: Mixing, plan: MixPlan) -> MixPlan:
    """Take out of a plan what a way of mixing goes without; levels and stems stay as they were drawn."""
    if mixing == "no_line":
        return replace(plan, channel=ChannelPlan())
    if mixing == "no_rooms":
        return replace(plan, room=None, sources=tuple(replace(source, room=None) for source in plan.sources))
    if mixing == "no_made_sounds":
        return replace(plan, sources=tuple(source for source in plan.sources if source.kind != "synth"))
    return plan


class Cache:
    """Rendered mixtures of one way of mixing, on disk.

    Args:
        folder: Where `NAME.npz` lies or will.
        sizes: Says how many and how long.
        data: Corpus folder.
    """

    def __init__(self, folder: Path, sizes: Sizes, data: Path) -> None:
        self.folder, self.sizes, self.data = folder, sizes, data

    def pool(self, split: str, mixing: Mixing = "all") -> Pool:
        """Stems of a split."""
        chosen = DataConfig(commercial_only=mixing != "non_commercial", exclude_sources=self.sizes.exclude_sources)
        return load_pool(self.data, chosen, split)[0]

    def training(self, mixing: Mixing) -> Example:
        """Mixtures to learn from, made when they are not there."""
        sizes, path = self.sizes, self.folder / f"{mixing}.npz"
        if not path.is_file():
            self._render(path, mixing)
        with np.load(path) as stored:
            if len(stored["features"]) != sizes.mixtures:
                raise ConfigError(f"{path} holds {len(stored['features'])} mixtures, not {sizes.mixtures}; remove it")
            features, target, mask = (torch.from_numpy(stored[name]) for name in ("features", "target", "mask"))
        return features, target, mask

    def _render(self, path: Path, mixing: Mixing) -> None:
        sizes, pool, front_end = self.sizes, self.pool("train", mixing), FrontEnd()
        samples = int(sizes.clip_seconds * RATE_HZ) // 320 * 320
        made: list[Example] = []
        for index in tqdm(range(sizes.mixtures), desc=f"mixtures, {mixing}", unit="mix"):
            plan = draw_plan(np.random.default_rng([sizes.seed, index]), pool, samples)
            made.append(to_example(render(without(mixing, plan), pool), FIRST_LABELS, front_end))
        features, target, mask = (torch.stack(part).numpy() for part in zip(*made, strict=True))
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, features=features, target=target.astype(np.float32), mask=mask.astype(np.float32))
        partial.replace(path)

    def checks(self) -> Checks:
        """The fixed mixtures that variants are measured on."""
        sizes, pool, seed = self.sizes, self.pool("valid"), self.sizes.seed + VALID_SEED_OFFSET
        samples = 8 * RATE_HZ
        mixed = make_material(pool, FIRST_LABELS, samples, seed, sizes.valid_mixtures)
        half = sizes.valid_clean // 2
        return Checks(
            mixed=(
                torch.from_numpy(mixed.features),
                torch.from_numpy(mixed.target),
                torch.from_numpy(mixed.mask).float(),
            ),
            clean=tuple(
                make_material(pool, FIRST_LABELS, samples, seed, half, kind) for kind in (CLEAN_WIDE, CLEAN_TELEPHONE)
            ),
            noise=make_material(pool, FIRST_LABELS, samples, seed, sizes.valid_noise, NOISE_ALONE),
        )
