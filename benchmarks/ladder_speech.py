"""Speech and disturbances for ladders: one clean clip of each talker, with the noises and music of the split."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.corpora.manifest import read_manifest
from training.corpora.preprocess import load

RATE_HZ = 16_000
COUNT = 6 * RATE_HZ
MACHINES = ("vacuum_cleaner", "washing_machine", "dryer", "engine", "airplane", "train", "fan")
KNOCKS = ("keyboard_typing", "door_wood_knock", "mouse_click", "clapping", "footsteps", "dog")

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Talker:
    """One talker's clean clip, and what the ladders add to it.

    Args:
        name: Source and speaker.
        clean: float32 (COUNT,).
        number: Position among the talkers; selects mains frequency, noise recordings and the like.
        others: Clips of other talkers of the split.
        noises: Noise recordings of the split by class.
        music: Music of the split.
    """

    name: str
    clean: Float32
    number: int
    others: Sequence[Float32]
    noises: Mapping[str, Sequence[Float32]]
    music: Sequence[Float32]

    def rng(self, ladder: str) -> np.random.Generator:
        """Return the generator of one ladder: the same for all its steps."""
        return np.random.default_rng(zlib.crc32(f"{self.name} {ladder}".encode()))


def read_talkers(folder: Path, split: str, limit: int) -> list[Talker]:
    """Read the talkers of a split who have enough speech at 16 kHz or more, with the split's noises and music."""
    stems = [s for s in read_manifest(folder) if s.split == split and s.kind in ("speech", "noise", "music")]
    wanted = {*MACHINES, *KNOCKS}
    stems = [s for s in stems if s.kind != "noise" or s.sound_class in wanted]
    stems = [s for s in stems if s.kind != "speech" or s.sample_rate_hz >= RATE_HZ]
    speech: dict[str, list[Float32]] = {}
    noises: dict[str, list[Float32]] = {}
    music: list[Float32] = []
    for recording in load(folder, stems, progress=False)[0]:
        stem, samples = recording.stem, recording.samples
        if stem.kind == "speech":
            speech.setdefault(stem.group, []).append(samples)
        elif stem.kind == "noise":
            noises.setdefault(stem.sound_class, []).append(samples)
        else:
            music.append(samples)
    clips = {name: _join(parts) for name, parts in speech.items() if sum(map(len, parts)) >= COUNT}
    by_source: dict[str, list[str]] = {}
    for name in sorted(clips):
        by_source.setdefault(name.split("/")[0], []).append(name)
    names: list[str] = []  # one talker of each source in turn, so that no source dominates a small number
    while len(names) < min(limit, len(clips)):
        names += [members.pop(0) for members in by_source.values() if members]
    names = names[:limit]
    return [
        Talker(name, clips[name], number, [clips[n] for n in clips if n != name], noises, music)
        for number, name in enumerate(names)
    ]


def _join(parts: Sequence[Float32]) -> Float32:
    """Join a talker's recordings with fades of 10 ms, at one level."""
    fade = np.linspace(0.0, 1.0, RATE_HZ // 100, dtype=np.float32)
    out = np.zeros(0, np.float32)
    for part in parts:
        body = part.copy()
        body[: len(fade)] *= fade
        body[-len(fade) :] *= fade[::-1]
        out = np.concatenate([out, body])
        if len(out) >= COUNT:
            break
    out = out[:COUNT]
    return np.asarray(out * np.float32(min(1.0, 0.97 / np.abs(out).max())), np.float32)
