"""Disturbances under speech: fans, hums, whistles, whines and rooms."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve

from answers.signal import Float64, Sound, add_noise, below_full_scale, shaped_noise

FAN_CLASSES = ("fan", "vacuum_cleaner", "airplane", "dryer", "boiler")
"""Classes of recorded noise that are steady and broad-band, as a fan or air conditioner is."""

RT60_BANDS = ((0, 1.15), (250, 1.1), (1000, 1.0), (2000, 0.9), (4000, 0.7), (8000, 0.5))
"""Frequency in Hz, and the decay time there as a multiple of that at 1 kHz: air absorbs high frequencies."""


def fan_noise(rng: np.random.Generator, count: int, rate_hz: int) -> Float64:
    """Return noise as of a fan: falling by 3 to 9 dB per octave above 150 to 400 Hz, with weak blade tones."""
    frequencies = np.linspace(0, rate_hz / 2, 512)
    corner, slope = float(rng.uniform(150, 400)), float(rng.uniform(0.5, 1.5))
    noise = shaped_noise(rng, count, 1 / (1 + (frequencies / corner) ** slope) * (frequencies > 30))
    blade = float(rng.uniform(80, 220))
    tones = sum(np.sin(2 * np.pi * (k * blade * np.arange(count) / rate_hz + rng.uniform())) / k for k in range(1, 5))
    return noise + float(rng.uniform(0, 0.3)) * np.std(noise) * tones


def with_fan(speech: Float64, rate_hz: int, noise: Float64, snr_db: float) -> Sound:
    """Add the noise of a fan at an SNR."""
    return Sound(add_noise(speech, noise, rate_hz, snr_db), rate_hz)


def with_hum(speech: Float64, rate_hz: int, rng: np.random.Generator, snr_db: float) -> Sound:
    """Add mains hum at an SNR: 50 or 60 Hz with harmonics that fall off."""
    mains = float(rng.choice([50, 60])) * (1 + float(rng.uniform(-1e-3, 1e-3)))
    time_s = np.arange(len(speech)) / rate_hz
    fall, even = float(rng.uniform(1.0, 2.0)), float(rng.uniform(0.2, 1.0))
    hum = np.zeros(len(speech))
    for k in range(1, 11):
        hum += (even if k % 2 == 0 else 1.0) / k**fall * np.sin(2 * np.pi * (k * mains * time_s + rng.uniform()))
    return Sound(add_noise(speech, hum, rate_hz, snr_db), rate_hz)


def with_whistle(
    speech: Float64, rate_hz: int, rng: np.random.Generator, snr_db: float, range_hz: tuple[float, float]
) -> Sound:
    """Add a steady sine at an SNR, somewhere in a range of frequencies."""
    frequency = float(rng.uniform(*range_hz))
    tone = np.sin(2 * np.pi * (frequency * np.arange(len(speech)) / rate_hz + rng.uniform()))
    return Sound(add_noise(speech, tone, rate_hz, snr_db), rate_hz)


def room(rng: np.random.Generator, rate_hz: int, rt60_s: float) -> Float64:
    """Return a room response: a direct sound, then noise that decays exponentially, faster at high frequencies.

    The reverberation carries one to four times the power of the direct sound, as some metres from a talker.
    """
    count = round(1.2 * rt60_s * RT60_BANDS[0][1] * rate_hz)
    time_s = np.arange(count) / rate_hz
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequencies = np.fft.rfftfreq(count, 1 / rate_hz)
    edges = [low for low, _ in RT60_BANDS] + [np.inf]
    tail = np.zeros(count)
    for (low, factor), high in zip(RT60_BANDS, edges[1:], strict=True):
        band = np.fft.irfft(np.where((frequencies >= low) & (frequencies < high), spectrum, 0), count)
        tail += band * 10 ** (-3 * time_s / (rt60_s * factor))
    tail[: round(float(rng.uniform(0.002, 0.02)) * rate_hz)] = 0
    tail *= 10 ** (float(rng.uniform(0, 6)) / 20) / np.linalg.norm(tail)
    tail[0] += 1.0
    return tail


def reverberant(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Play speech in a room whose reverberation takes 2.0 to 2.4 s to fall by 60 dB; the level stays."""
    response = room(rng, rate_hz, float(rng.uniform(2.0, 2.4)))
    heard = fftconvolve(speech, response)[: len(speech)]
    heard *= np.sqrt(np.mean(speech**2) / np.mean(heard**2))
    return Sound(below_full_scale(heard), rate_hz)


def hiss_alone(rng: np.random.Generator, rate_hz: int, seconds: float) -> Sound:
    """Return a muted line: nothing but hiss at −95 to −80 dBFS."""
    noise = rng.standard_normal(round(seconds * rate_hz))
    return Sound(noise * 10 ** (float(rng.uniform(-95, -80)) / 20), rate_hz)


def opposite_legs(speech: Float64, rng: np.random.Generator) -> Float64:
    """Return two legs of opposite polarity that differ by up to 0.5 dB and by their hiss, (n, 2)."""
    other = -speech * 10 ** (float(rng.uniform(-0.5, 0.5)) / 20)
    hiss = rng.standard_normal((len(speech), 2)) * 10 ** (-85 / 20)
    return below_full_scale(np.stack([speech, other], axis=1) + hiss)
