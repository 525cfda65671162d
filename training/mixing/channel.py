"""What a line does to sound: band limits, codecs, overload, packet loss.

Linear parts are applied to each stem, so that targets stay exact; what is not linear is applied to the mixture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray
from scipy import signal

from service.audio.g711 import decode_alaw, decode_mulaw, encode_alaw, encode_mulaw

Float32 = NDArray[np.float32]
WIDE_HZ = 16_000
NARROW_HZ = 8_000
PACKET_S = 0.02


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """Drawn parameters of one line; None or False where a stage is absent."""

    narrow: bool = False
    """Carried at 8 kHz."""
    high_pass_hz: float | None = None
    low_pass_hz: float | None = None
    law: str | None = None
    """`mulaw` or `alaw`."""
    clip_share: float | None = None
    """Share of the sounding samples that lie beyond the rail."""
    clip_soft: bool = False
    clip_rail: float = 1.0
    """Magnitude of the rail after the overload, by a gain behind it."""
    loss_ratio: float | None = None
    loss_burst: float = 1.0
    """Mean length of a loss, packets."""
    loss_fill: str = "zero"
    """What the receiver plays instead: `zero`, `repeat` or `fade`."""
    loss_seed: int = 0
    dc: float = 0.0
    quantise: bool = True

    @property
    def rate_hz(self) -> int:
        """Rate that the line carries."""
        return NARROW_HZ if self.narrow else WIDE_HZ


def draw_channel(rng: np.random.Generator) -> ChannelPlan:
    """Draw a line: wide or telephone, good or bad."""
    narrow = rng.random() < 0.35
    high_pass = float(rng.uniform(150, 350)) if narrow and rng.random() < 0.7 else None
    low_pass = float(rng.uniform(3200, 3700)) if narrow and rng.random() < 0.7 else None
    if not narrow and rng.random() < 0.2:
        low_pass = float(rng.uniform(3500, 7500))
    if not narrow and rng.random() < 0.2:
        high_pass = float(rng.uniform(60, 300))
    clip = rng.random() < 0.18
    loss = rng.random() < 0.24
    return ChannelPlan(
        narrow=narrow,
        high_pass_hz=high_pass,
        low_pass_hz=low_pass,
        law=str(rng.choice(["mulaw", "alaw"])) if narrow and rng.random() < 0.7 else None,
        clip_share=float(np.exp(rng.uniform(np.log(0.002), np.log(0.12)))) if clip else None,
        clip_soft=bool(rng.random() < 0.25),
        clip_rail=float(rng.uniform(0.985, 1.0) if rng.random() < 0.55 else rng.uniform(0.1, 0.9)),
        loss_ratio=float(np.exp(rng.uniform(np.log(0.01), np.log(0.2)))) if loss else None,
        loss_burst=float(rng.uniform(1.0, 4.0)),
        loss_fill=str(rng.choice(["zero", "zero", "repeat", "fade"])),
        loss_seed=int(rng.integers(2**31)),
        dc=float(rng.normal(0.0, 0.01)) if rng.random() < 0.06 else 0.0,
        quantise=bool(rng.random() < 0.9),
    )


def to_line(samples: Float32, plan: ChannelPlan) -> Float32:
    """Apply the linear part of the line to one stem: rate and band limits."""
    rate = plan.rate_hz
    if plan.narrow:
        samples = soxr.resample(samples, WIDE_HZ, NARROW_HZ)
    for cut_hz, kind in ((plan.high_pass_hz, "highpass"), (plan.low_pass_hz, "lowpass")):
        if cut_hz is not None and cut_hz < rate / 2 * 0.98:
            sections = signal.butter(4, cut_hz, kind, fs=rate, output="sos")
            samples = signal.sosfilt(sections, samples).astype(np.float32)
    return samples


def overload(mixture: Float32, plan: ChannelPlan) -> tuple[Float32, NDArray[np.bool_], float]:
    """Clip the mixture.

    Returns:
        The mixture at a level where the rail is `clip_rail`, which samples lay beyond the rail, and the gain that
        this level means for what was not clipped.
    """
    none = np.zeros(len(mixture), dtype=bool)
    if plan.clip_share is None:
        return mixture, none, 1.0
    magnitude = np.abs(mixture)
    sounding = magnitude[magnitude > 0.05 * magnitude.max(initial=0.0)]
    if sounding.size == 0:
        return mixture, none, 1.0
    rail = float(np.quantile(sounding, 1.0 - plan.clip_share))
    if rail < 1e-4:
        return mixture, none, 1.0
    scaled = mixture / np.float32(rail)
    beyond = np.abs(scaled) > 1.0
    limited = np.tanh(scaled * np.float32(1.25)) if plan.clip_soft else np.clip(scaled, -1.0, 1.0)
    return (limited * np.float32(plan.clip_rail)).astype(np.float32), beyond, plan.clip_rail / rail


def code(mixture: Float32, plan: ChannelPlan) -> Float32:
    """Send the mixture through the codec and the converter."""
    limited: Float32 = np.clip(mixture + np.float32(plan.dc), -1.0, 32767.0 / 32768.0)
    if plan.law == "mulaw":
        return decode_mulaw(encode_mulaw(limited))
    if plan.law == "alaw":
        return decode_alaw(encode_alaw(limited))
    if plan.quantise:
        return (np.round(limited * 32768.0) / 32768.0).astype(np.float32)
    return limited.astype(np.float32)


def lose_packets(mixture: Float32, plan: ChannelPlan) -> tuple[Float32, NDArray[np.bool_]]:
    """Drop packets by a two-state (Gilbert) process and fill them as a simple receiver does.

    Returns:
        The mixture and which samples were lost.
    """
    lost = np.zeros(len(mixture), dtype=bool)
    if plan.loss_ratio is None:
        return mixture, lost
    rng = np.random.default_rng(plan.loss_seed)
    size = int(PACKET_S * plan.rate_hz)
    offset = int(rng.integers(0, size))
    out = mixture.copy()
    leave = 1.0 / plan.loss_burst
    begin = leave * plan.loss_ratio / (1.0 - plan.loss_ratio)
    losing, repeats = False, 0
    for start in range(offset + size, len(mixture) - size, size):
        losing = rng.random() >= leave if losing else rng.random() < begin
        if not losing:
            repeats = 0
            continue
        repeats += 1
        lost[start : start + size] = True
        if plan.loss_fill == "zero":
            out[start : start + size] = 0.0
        else:
            gain = 1.0 if plan.loss_fill == "repeat" else 0.5**repeats
            source = start - repeats * size
            out[start : start + size] = mixture[source : source + size] * np.float32(gain)
    return out, lost


def from_line(mixture: Float32, plan: ChannelPlan) -> Float32:
    """Bring the line's output to 16 kHz, as the service does."""
    return np.asarray(soxr.resample(mixture, NARROW_HZ, WIDE_HZ), np.float32) if plan.narrow else mixture
