"""Speech and disturbances for ladders: one clean clip of each talker, with the noises and music of the split."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.corpora.manifest import Stem, read_manifest
from training.corpora.preprocess import load

RATE_HZ = 16_000
COUNT = 6 * RATE_HZ
MACHINES = ("vacuum_cleaner", "washing_machine", "dryer", "engine", "airplane", "train", "fan")
KNOCKS = ("keyboard_typing", "door_wood_knock", "mouse_click", "clapping", "footsteps", "dog")
SPARE = 12
"""Talkers drawn beyond twice the wanted number: some have too little speech, and babble takes six others."""
TALKER_S = 15.0
PER_CLASS = 20

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


def read_talkers(folder: Path, split: str, limit: int, *, seed: int | None = None) -> list[Talker]:
    """Read the talkers of a split who have enough speech at 16 kHz or more, with the split's noises and music.

    Args:
        folder: Corpus folder.
        split: Split of the manifest.
        limit: Number of talkers.
        seed: Draw the talkers, and read little more than they need. Without it, everything in the split is read, which
            takes minutes and gigabytes for the split `train` of a large corpus.

    Raises:
        ManifestError: The manifest cannot be used.
    """
    stems = [s for s in read_manifest(folder) if s.split == split and s.kind in ("speech", "noise", "music")]
    wanted = {*MACHINES, *KNOCKS}
    stems = [s for s in stems if s.kind != "noise" or s.sound_class in wanted]
    stems = [s for s in stems if s.kind != "speech" or s.sample_rate_hz >= RATE_HZ]
    if seed is not None:
        stems = drawn(stems, limit, np.random.default_rng(seed))
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
    names = _in_turn(sorted(clips), limit)
    return [
        Talker(name, clips[name], number, [clips[n] for n in clips if n != name], noises, music)
        for number, name in enumerate(names)
    ]


def _in_turn(talkers: Sequence[str], limit: int) -> list[str]:
    """Return one talker of each source in turn, so that no source dominates a small number."""
    by_source: dict[str, list[str]] = {}
    for name in talkers:
        by_source.setdefault(name.split("/")[0], []).append(name)
    names: list[str] = []
    while len(names) < min(limit, len(talkers)):
        names += [members.pop(0) for members in by_source.values() if members]
    return names[:limit]


def drawn(stems: Sequence[Stem], limit: int, rng: np.random.Generator) -> list[Stem]:
    """Draw talkers with some to spare, `TALKER_S` of each, and `PER_CLASS` recordings of each class of noise and music.

    Talkers whose recordings are shorter than a clip are left out.
    """
    by_talker: dict[str, list[Stem]] = {}
    by_class: dict[str, list[Stem]] = {}
    for stem in stems:
        if stem.kind == "speech":
            by_talker.setdefault(stem.group, []).append(stem)
        else:
            by_class.setdefault(stem.sound_class, []).append(stem)
    enough = [name for name, own in by_talker.items() if sum(stem.seconds for stem in own) >= COUNT / RATE_HZ]
    kept: list[Stem] = []
    for name in _in_turn([str(name) for name in rng.permutation(enough)], 2 * limit + SPARE):
        own = by_talker[name]
        reached_s = np.cumsum([stem.seconds for stem in own])
        kept += own[: 1 + int(np.searchsorted(reached_s, TALKER_S))]
    for members in by_class.values():
        kept += [members[i] for i in rng.permutation(len(members))[:PER_CLASS]]
    return kept


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
