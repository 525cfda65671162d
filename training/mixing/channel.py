"""Transmission effects of a line: band limits, automatic gain, codecs, overload, silence suppression, packet loss.

Linear stages are applied to each stem, so that targets stay exact; nonlinear stages are applied to the mixture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from scipy import signal

from speech_qc.audio.g711 import decode_alaw, decode_mulaw, encode_alaw, encode_mulaw
from speech_qc.audio.resample import Resampler

Float32 = NDArray[np.float32]
WIDE_HZ = 16_000
NARROW_HZ = 8_000
PACKETS_S = (0.01, 0.02, 0.02, 0.02, 0.03, 0.04, 0.06)  # RTP packet durations; 20 ms is by far the most common
# A concealed loss is inaudible if the level falls by less than this …
HOLE_DB = 6.0
# … and the spectrum of the surrounding 40 ms differs by less than this, averaged over bands weighted by magnitude.
# Waveforms are not compared: a repeated packet is out of phase with the original, which is inaudible in a held vowel.
OTHER_SPECTRUM_DB = 4.0
SPECTRUM_BANDS = 20
SPECTRUM_RANGE_DB = 30.0  # bands further below the strongest one are inaudible

FILE_CODECS = {  # format and subtype of libsndfile
    "gsm": ("WAV", "GSM610"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "vorbis": ("OGG", "VORBIS"),
    "adpcm": ("WAV", "IMA_ADPCM"),
}
MNRU_SHARE, MNRU_Q_DB = 0.06, (8.0, 35.0)  # from plainly hoarse to hardly audible
SUPPRESSOR_SHARE, SUPPRESSOR_DB, SUPPRESSOR_REACH_DB = 0.05, (10.0, 35.0), (-12.0, 3.0)
GATES_SOURCES_SHARE, COMFORT_DB = 0.4, (-20.0, 0.0)
NARROW_CODECS, WIDE_CODECS = ("gsm", "gsm", "adpcm", "opus"), ("mp3", "mp3", "vorbis", "opus")


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """Drawn parameters of one line; None or False if a stage is absent."""

    narrow: bool = False
    """Whether the line runs at 8 kHz."""
    high_pass_hz: float | None = None
    low_pass_hz: float | None = None
    law: str | None = None
    """`mulaw` or `alaw`."""
    codec: str | None = None
    """One of `FILE_CODECS`, applied after the law."""
    codec_effort: float = 0.5
    """Compression level: 0 is the codec's best quality, 1 its lowest bit rate; no effect at a fixed rate."""
    agc_db: float = 0.0
    """Range of the automatic gain; 0 turns it off."""
    agc_seed: int = 0
    pauses: str | None = None
    """What the sender puts into pauses of a talker: `zero` or `comfort` (noise); None leaves the pauses unchanged."""
    clip_share: float | None = None
    """Share of the non-silent samples that are beyond the rail."""
    clip_soft: bool = False
    clip_rail: float = 1.0
    """Magnitude of the rail after a gain that follows the overload."""
    loss_ratio: float | None = None
    loss_burst: float = 1.0
    """Mean length of a loss in packets."""
    packet_s: float = 0.02
    loss_fill: str = "zero"
    """Concealment by the receiver: `zero`, `repeat` or `fade`."""
    loss_seed: int = 0
    dc: float = 0.0
    quantise: bool = True
    mnru_q_db: float | None = None
    """Ratio of the signal to noise that follows its envelope (ITU-T P.810), after overload and before the codec."""
    mnru_seed: int = 0
    suppressor_db: float | None = None
    """Attenuation of a noise suppressor that also removes soft parts of the speech."""
    suppressor_reach_db: float = 0.0
    """Least threshold of the suppressor relative to the mean power of each frequency bin."""
    gates_sources: bool = False
    """Whether the sender takes a disturbance for a pause, too; it never does so with a second talker."""
    comfort_db: float = 0.0
    """Level of the comfort noise relative to what it replaces, if that is a disturbance."""

    @property
    def rate_hz(self) -> int:
        """Sample rate of the line."""
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
    law = str(rng.choice(["mulaw", "alaw"])) if narrow and rng.random() < 0.7 else None
    codec = str(rng.choice(NARROW_CODECS if narrow else WIDE_CODECS)) if rng.random() < 0.16 else None
    return ChannelPlan(
        narrow=narrow,
        high_pass_hz=high_pass,
        low_pass_hz=low_pass,
        law=law,
        codec=codec,
        codec_effort=float(rng.uniform(0.3, 1.0)),
        agc_db=float(rng.uniform(3.0, 15.0)) if rng.random() < 0.12 else 0.0,
        agc_seed=int(rng.integers(2**31)),
        pauses=str(rng.choice(["zero", "comfort"])) if rng.random() < 0.25 else None,
        clip_share=float(np.exp(rng.uniform(np.log(0.002), np.log(0.12)))) if clip else None,
        clip_soft=bool(rng.random() < 0.25),
        clip_rail=float(rng.uniform(0.985, 1.0) if rng.random() < 0.55 else rng.uniform(0.1, 0.9)),
        loss_ratio=float(np.exp(rng.uniform(np.log(0.01), np.log(0.2)))) if loss else None,
        loss_burst=float(rng.uniform(1.0, 4.0)),
        packet_s=float(rng.choice(PACKETS_S)),
        loss_fill=str(rng.choice(["zero", "zero", "repeat", "fade"])),
        loss_seed=int(rng.integers(2**31)),
        dc=float(rng.normal(0.0, 0.01)) if rng.random() < 0.06 else 0.0,
        quantise=bool(rng.random() < 0.9),
        # New parameters are drawn last, so that a seed still gives the same line in all others.
        mnru_q_db=float(rng.uniform(*MNRU_Q_DB)) if rng.random() < MNRU_SHARE else None,
        mnru_seed=int(rng.integers(2**31)),
        suppressor_db=float(rng.uniform(*SUPPRESSOR_DB)) if rng.random() < SUPPRESSOR_SHARE else None,
        suppressor_reach_db=float(rng.uniform(*SUPPRESSOR_REACH_DB)),
        gates_sources=bool(rng.random() < GATES_SOURCES_SHARE),
        comfort_db=float(rng.uniform(*COMFORT_DB)),
    )


def faultless(plan: ChannelPlan) -> ChannelPlan:
    """Return the same line without what damages the speech: overload, loss, correlated noise, noise suppressor."""
    return replace(plan, clip_share=None, loss_ratio=None, mnru_q_db=None, suppressor_db=None)


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
        The mixture scaled so that the rail is `clip_rail`, the samples that were beyond the rail, and the gain of the
        samples that were not clipped.
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
    """Pass the mixture through the codec and the converter."""
    limited: Float32 = np.clip(mixture + np.float32(plan.dc), -1.0, 32767.0 / 32768.0)
    if plan.law == "mulaw":
        limited = decode_mulaw(encode_mulaw(limited))
    elif plan.law == "alaw":
        limited = decode_alaw(encode_alaw(limited))
    if plan.codec is not None:
        return through_file(limited, plan)
    if plan.quantise and plan.law is None:
        return (np.round(limited * 32768.0) / 32768.0).astype(np.float32)
    return limited.astype(np.float32)


def through_file(mixture: Float32, plan: ChannelPlan) -> Float32:
    """Encode and decode in memory; length and position stay the same (libsndfile compensates codec delays).

    If the codec fails (as some builds of libsndfile do for rare signals), the mixture is returned unchanged.
    """
    form, subtype = FILE_CODECS[plan.codec or ""]
    extra = {"compression_level": plan.codec_effort} if plan.codec in ("opus", "mp3", "vorbis") else {}
    file = io.BytesIO()
    try:
        soundfile.write(file, mixture, plan.rate_hz, format=form, subtype=subtype, **extra)
        file.seek(0)
        decoded, _ = soundfile.read(file, dtype="float32")
    except (soundfile.LibsndfileError, RuntimeError):
        return mixture
    out = np.zeros_like(mixture)
    count = min(len(out), len(decoded))
    out[:count] = decoded[:count]
    return out


def automatic_gain(count: int, plan: ChannelPlan) -> Float32 | None:
    """Return the gain per sample of an automatic level control that drifts slowly within `agc_db`; None without one."""
    if plan.agc_db == 0.0:
        return None
    rng = np.random.default_rng(plan.agc_seed)
    knots = np.linspace(0.0, count, max(2, int(count / plan.rate_hz / rng.uniform(0.3, 2.0)) + 2))
    level = rng.uniform(-0.5, 0.5, knots.size) * plan.agc_db
    return np.asarray(10.0 ** (np.interp(np.arange(count), knots, level) / 20.0), dtype=np.float32)


def passed_by_sender(speaking: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the 20 ms frames that a sender with silence suppression passes: 20 ms ahead, 200 ms of hang-over."""
    held = speaking.copy()
    for shift in range(1, 11):
        held[shift:] |= speaking[:-shift]
    held[:-1] |= speaking[1:]
    return held


def fill_pauses(stems: list[Float32], passed: NDArray[np.bool_], gain_db: float, plan: ChannelPlan) -> list[Float32]:
    """Replace what a sender does not pass by digital silence or comfort noise.

    Args:
        stems: Stems at the line's rate, (n,) each; the first one gets the comfort noise.
        passed: Whether the sender passes the sound, per 20 ms frame.
        gain_db: Level of the comfort noise relative to the sum of the stems in the pauses.
        plan: Selects the replacement.
    """
    count = len(stems[0])
    keep = np.repeat(passed, plan.rate_hz // 50)[:count]
    keep = np.concatenate([keep, np.full(count - len(keep), bool(passed[-1]))])
    first, *others = (np.where(keep, stem, np.float32(0.0)) for stem in stems)
    if plan.pauses == "comfort":
        rest = sum(stems, np.zeros(count, np.float32))[~keep]
        rms = float(np.sqrt(np.mean(np.square(rest)))) * 10.0 ** (gain_db / 20.0) if rest.size else 0.0
        noise = np.random.default_rng(plan.agc_seed).normal(0.0, max(rms, 1e-4), count)
        first = np.where(keep, first, noise.astype(np.float32))
    return [first, *others]


def audibly_lost(received: Float32, sent: Float32, lost: NDArray[np.bool_], frame: int) -> NDArray[np.bool_]:
    """Mark frames with an audible loss, (n,): the concealment is too soft or has a different spectrum."""
    count = len(sent) // frame
    gone = lost[: count * frame].reshape(count, frame).any(axis=1)
    audible = np.zeros(count, dtype=bool)
    if not gone.any():
        return audible
    rows = np.flatnonzero(gone)
    filled, wanted = (_around(samples, rows, frame) for samples in (received, sent))
    before, after = (np.square(x[:, frame // 2 : -(frame // 2)]).mean(axis=1) for x in (wanted, filled))
    hole = after < before * 10.0 ** (-HOLE_DB / 10.0)
    a, b = _band_powers(filled), _band_powers(wanted)
    least = b.max(axis=1, keepdims=True) * 10.0 ** (-SPECTRUM_RANGE_DB / 10.0) + 1e-12
    weight = np.sqrt(b + least)
    other = (np.abs(10.0 * np.log10((a + least) / (b + least))) * weight).sum(axis=1) / weight.sum(axis=1)
    audible[rows] = hole | (other > OTHER_SPECTRUM_DB)
    return audible


def _around(samples: Float32, rows: NDArray[np.intp], frame: int) -> NDArray[np.float64]:
    """Return frames with half a frame on either side, (rows, 2 · frame); zeros beyond the ends."""
    half = frame // 2
    padded = np.concatenate([np.zeros(half), samples.astype(np.float64), np.zeros(2 * frame)])
    return np.stack([padded[row * frame : (row + 2) * frame] for row in rows])


def _band_powers(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the power in equal bands of a windowed spectrum, (rows, bands)."""
    power = np.square(np.abs(np.fft.rfft(rows * np.hanning(rows.shape[1]), axis=1)))
    width = power.shape[1] // SPECTRUM_BANDS
    return np.asarray(power[:, : width * SPECTRUM_BANDS].reshape(len(rows), SPECTRUM_BANDS, width).sum(axis=2))


def lose_packets(mixture: Float32, plan: ChannelPlan) -> tuple[Float32, NDArray[np.bool_]]:
    """Drop packets by a two-state (Gilbert) process and conceal the losses like a simple receiver.

    Returns:
        The mixture, and the samples that were lost.
    """
    lost = np.zeros(len(mixture), dtype=bool)
    if plan.loss_ratio is None:
        return mixture, lost
    rng = np.random.default_rng(plan.loss_seed)
    size = int(plan.packet_s * plan.rate_hz)
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
    """Resample the line's output to 16 kHz, like the service."""
    if not plan.narrow:
        return mixture
    resampler = Resampler(NARROW_HZ, WIDE_HZ)
    return np.concatenate([resampler.push(mixture), resampler.finish()])
