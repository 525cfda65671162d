"""Small synthetic signals for tests, and their encoding as WAV bytes."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import soundfile
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def white_noise(seconds: float, *, level_dbfs: float = -20.0, rate_hz: int = 16_000, seed: int = 0) -> Float32:
    """Generate Gaussian noise at a level."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    return (samples * 10 ** (level_dbfs / 20)).clip(-0.99, 0.99).astype(np.float32)


def voice(seconds: float, *, rate_hz: int = 16_000, pitch_hz: float = 130.0, seed: int = 0) -> Float32:
    """Generate a speech-like sound: a gliding buzz through three formants, in syllables with pauses."""
    return _voice(seconds, rate_hz, pitch_hz, seed).copy()


@lru_cache(maxsize=32)
def _voice(seconds: float, rate_hz: int, pitch_hz: float, seed: int) -> Float32:
    rng = np.random.default_rng(seed)
    count = round(seconds * rate_hz)
    time = np.arange(count) / rate_hz
    pitch = pitch_hz * (1 + 0.15 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    total = np.zeros(count)
    for k in range(1, int(3800 / pitch_hz)):
        frequency = k * pitch_hz
        gain = sum(np.exp(-(((frequency - f) / w) ** 2)) for f, w in ((500, 180), (1500, 250), (2500, 350)))
        total += (gain + 0.02) / k**0.5 * np.sin(k * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * time + rng.uniform(0, 6)) + 0.5, 0, 1)
    phrases = (np.sin(2 * np.pi * 0.35 * time) > -0.7).astype(float)
    return (0.2 * total / np.max(np.abs(total)) * syllables * phrases).astype(np.float32)


def talk(rate_hz: int = 16_000, *, seed: int = 0, seconds: float = 4.0) -> Float32:
    """Generate speech in a quiet room, rounded to 16 bits, with syllables around every half second.

    Its pitch wanders from period to period, as a talker's does; that of `voice` glides.
    """
    rng = np.random.default_rng(seed)
    count = round(seconds * rate_hz)
    time = np.arange(count) / rate_hz
    knots = np.arange(0, seconds + 0.02, 0.01)
    pitch = np.interp(time, knots, 130 * (1 + 0.08 * rng.standard_normal(len(knots))))
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    total = np.zeros(count)
    for k in range(1, 28):
        gain = sum(np.exp(-(((k * 130 - f) / w) ** 2)) for f, w in ((500, 180), (1500, 250), (2500, 350)))
        total += (gain + 0.02) / k**0.5 * np.sin(k * phase + rng.uniform(0, 6))
    syllables = np.clip(np.cos(2 * np.pi * 2.0 * time) + 0.3, 0, 1)
    return as_16_bit(0.3 * total / np.max(np.abs(total)) * syllables + 10 ** (-65 / 20) * rng.standard_normal(count))


def as_16_bit(samples: NDArray[np.floating]) -> Float32:
    """Round to 16 bits."""
    return (np.round(samples * 32768) / 32768).astype(np.float32)


def wav_bytes(
    samples: Float32, rate_hz: int = 16_000, *, subtype: str | None = "PCM_16", container: str = "WAV"
) -> bytes:
    """Encode mono (n,) or multi-channel (n, channels) samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format=container, subtype=subtype)
    return file.getvalue()
