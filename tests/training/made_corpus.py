"""A synthetic corpus: harmonic bursts for speech, shaped noise, tones for music, a decaying room; seconds long."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.config import DataConfig, TrainConfig
from training.corpora.manifest import COLUMNS, Stem
from training.corpora.preprocess import Recording
from training.mixing.plan import Pool
from training.model import ModelConfig

Float32 = NDArray[np.float32]
RATE_HZ = 16_000
SMALL_NET = ModelConfig(channels=(2, 3, 4), image_size=8, wave_size=4, hidden_size=6, head_size=5)
RUN_CONFIG = TrainConfig(
    name="speech-qc-made",
    seed=3,
    steps=3,
    batch_size=4,
    warmup_steps=1,
    valid_every=1,
    threads=1,
    model=SMALL_NET,
    data=DataConfig(clip_seconds=2.0, valid_mixtures=12, workers=0),
)


def seconds(count: float, rate_hz: int = RATE_HZ) -> NDArray[np.float64]:
    return np.arange(int(count * rate_hz)) / rate_hz


def talk(length_s: float, pitch_hz: float, seed: int = 0, rate_hz: int = RATE_HZ) -> Float32:
    """Generate harmonic, slightly breathy bursts, four per second with pauses, over a faint hiss."""
    time = seconds(length_s, rate_hz)
    breath, hiss = np.random.default_rng(seed).normal(0.0, 1.0, (2, time.size))
    voice = sum(np.sin(2 * np.pi * pitch_hz * k * time) / k for k in range(1, 12)) + 0.1 * breath
    return (0.15 * voice * ((time * 4.0) % 1.0 < 0.6) + 1e-4 * hiss).astype(np.float32)


def rush(length_s: float, seed: int = 0, scale: float = 0.05) -> Float32:
    """Generate white noise."""
    return np.random.default_rng(seed).normal(0.0, scale, int(length_s * RATE_HZ)).astype(np.float32)


def knocks(length_s: float, seed: int = 0) -> Float32:
    """Generate three decaying knocks per second."""
    time = seconds(length_s)
    return (rush(length_s, seed, 0.2) * np.exp(-((time * 3.0) % 1.0) * 12.0)).astype(np.float32)


def chord(length_s: float) -> Float32:
    time = seconds(length_s)
    tones = [np.sin(2 * np.pi * f * time) for f in (220.0, 277.2, 329.6)]
    return (0.1 * np.sum(tones, axis=0)).astype(np.float32)


def room() -> Float32:
    """Generate a direct sound with a strong tail: clarity (C50) of about -3 dB."""
    tail = rush(0.8, 5, 0.1) * np.exp(-seconds(0.8) / 0.3)
    tail[0] = 1.0
    return tail.astype(np.float32)


def stem(kind: str, sound_class: str = "", speaker: str = "", **changes: Any) -> Stem:
    values: dict[str, Any] = {
        "path": f"{kind}/{sound_class}{speaker}.wav",
        "kind": kind,
        "sound_class": sound_class,
        "source": "made",
        "speaker": speaker,
        "language": "",
        "sample_rate_hz": RATE_HZ,
        "seconds": 1.0,
        "licence": "CC0",
        "split": "train",
        "original": f"{kind}{sound_class}{speaker}",
    }
    return Stem(**(values | changes))


def made_pool() -> Pool:
    """Return speech of two talkers, two noises, music and a room, all in memory."""
    parts = [
        (stem("speech", speaker="ann"), talk(2.0, 180.0, 1)),
        (stem("speech", speaker="bob"), talk(2.0, 110.0, 2)),
        (stem("noise", "fan"), rush(2.0, 3)),
        (stem("noise", "door_wood_knock"), knocks(2.0, 4)),
        (stem("music", "music"), chord(3.0)),
        (stem("rir"), room()),
    ]
    return Pool([Recording(row, samples, floor_db=-80.0) for row, samples in parts])


def row(path: str, kind: str, split: str = "train", **changes: str) -> dict[str, str]:
    """Return a valid manifest row; `changes` make it invalid."""
    values = dict.fromkeys(COLUMNS, "") | {
        "path": path,
        "kind": kind,
        "class": "fan" if kind == "noise" else kind,
        "source": "made",
        "speaker": Path(path).stem if kind == "speech" else "",
        "sample_rate": str(RATE_HZ),
        "seconds": "2.0",
        "licence": "CC0",
        "split": split,
        "original": Path(path).stem,
    }
    return values | changes


def write_manifest(folder: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = COLUMNS) -> None:
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_sound(path: Path, samples: NDArray[np.floating], rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, subtype=subtype)


def write_corpus(folder: Path) -> Path:
    """Write a corpus for training: per split three talkers, two noises, music, a room."""
    rows = []
    for shift, split in enumerate(("train", "valid")):
        sounds = [
            *((f"talker{i}", "speech", talk(2.0, 100.0 + 35.0 * i + 11.0 * shift, i)) for i in range(3)),
            ("fan", "noise", rush(2.5, 20 + shift)),
            ("knock", "noise", knocks(2.5, 30 + shift)),
            ("song", "music", chord(3.0)),
            ("hall", "rir", room()),
        ]
        for name, kind, samples in sounds:
            path = f"{kind}/{name}_{split}.wav"
            write_sound(folder / path, samples)
            changes = {"class": "door_wood_knock"} if name == "knock" else {}
            rows.append(row(path, kind, split, **changes))
    write_manifest(folder, rows)
    return folder
