"""The mixtures of a study, rendered once per mixing variant and kept on disk."""

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
from training.examples import Example, clip_samples, load_pool, to_example
from training.mixing.channel import ChannelPlan
from training.mixing.plan import MixPlan, draw_plan
from training.mixing.render import render
from training.model import FIRST_LABELS

Mixing = Literal["all", "no_line", "no_rooms", "no_made_sounds", "non_commercial"]
"""Everything that training mixes, or everything but one group; `non_commercial` adds stems the shipped model omits."""


class Sizes(BaseModel):
    """Number, length and sources of the mixtures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 1
    mixtures: int = Field(ge=16)
    """Rendered once; every variant draws its batches from them."""
    clip_seconds: float = Field(default=6.0, gt=0.5)
    exclude_sources: tuple[str, ...] = ()


def without(mixing: Mixing, plan: MixPlan) -> MixPlan:
    """Remove from a plan what a mixing variant omits; levels and stems stay as drawn."""
    if mixing == "no_line":
        return replace(plan, channel=ChannelPlan())
    if mixing == "no_rooms":
        return replace(plan, room=None, sources=tuple(replace(source, room=None) for source in plan.sources))
    if mixing == "no_made_sounds":
        return replace(plan, sources=tuple(source for source in plan.sources if source.kind != "synth"))
    return plan


class Cache:
    """The rendered mixtures of one mixing variant, on disk.

    Args:
        folder: Folder of `NAME.npz`.
        sizes: Number and length of the mixtures.
        data: Corpus folder.
    """

    def __init__(self, folder: Path, sizes: Sizes, data: Path) -> None:
        self.folder, self.sizes, self.data = folder, sizes, data

    def training(self, mixing: Mixing) -> Example:
        """Return the training mixtures; render them if they are not on disk."""
        sizes, path = self.sizes, self.folder / f"{mixing}.npz"
        if not path.is_file():
            self._render(path, mixing)
        with np.load(path) as stored:
            if len(stored["features"]) != sizes.mixtures:
                raise ConfigError(
                    f"expected {sizes.mixtures} mixtures in {path}, got {len(stored['features'])}: remove the file"
                )
            features, target, mask = (torch.from_numpy(stored[name]) for name in ("features", "target", "mask"))
        return features, target, mask

    def _render(self, path: Path, mixing: Mixing) -> None:
        sizes, front_end = self.sizes, FrontEnd()
        chosen = DataConfig(
            commercial_only=mixing != "non_commercial",
            exclude_sources=sizes.exclude_sources,
            clip_seconds=sizes.clip_seconds,
        )
        pool, _, _ = load_pool(self.data, chosen, "train")
        samples = clip_samples(chosen)
        made: list[Example] = []
        for index in tqdm(range(sizes.mixtures), desc=f"mixtures, {mixing}", unit="mix"):
            plan = draw_plan(np.random.default_rng([sizes.seed, index]), pool, samples)
            made.append(to_example(render(without(mixing, plan), pool), FIRST_LABELS, front_end))
        features, target, mask = (torch.stack(part).numpy() for part in zip(*made, strict=True))
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, features=features, target=target.astype(np.float32), mask=mask.astype(np.float32))
        partial.replace(path)
