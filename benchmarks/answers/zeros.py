"""Zeros that are no losses: at the edges of recordings, in gated pauses, and while a telephone sends nothing."""

from __future__ import annotations

import numpy as np

from answers.signal import PACKET_S, Float64, Sound, active_level, frame_levels, shaped_noise, through_codec

IN_WORD_DB = -15.0  # a cut falls into a word if its frame is within this of the active level


def padded(speech: Float64, rate_hz: int, rng: np.random.Generator, range_s: tuple[float, float]) -> Sound:
    """Put zeros before, after, or on both sides of a recording."""
    before, after = ((1, 0), (0, 1), (1, 1))[rng.integers(3)]
    head, tail = (np.zeros(round(float(rng.uniform(*range_s)) * rate_hz)) for _ in range(2))
    return Sound(np.concatenate([head] * before + [speech] + [tail] * after), rate_hz)


def cut_in_word(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Cut speech within words at both ends and put 20 to 500 ms of zeros before, after, or on both sides."""
    return padded(_within_words(speech, rate_hz, rng), rate_hz, rng, (0.02, 0.5))


def block_padding(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Cut speech within a word and encode it as MS ADPCM, whose last block is filled up with silence."""
    return Sound(through_codec(_within_words(speech, rate_hz, rng), rate_hz, "MS_ADPCM"), rate_hz)


def _within_words(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Float64:
    """Cut both ends at random samples of loud frames in the first and last third."""
    size = round(PACKET_S * rate_hz)
    levels = frame_levels(speech, rate_hz)
    loud = np.flatnonzero(levels >= active_level(speech, rate_hz) + IN_WORD_DB)
    third = len(levels) / 3
    early, late = loud[loud < third], loud[loud > 2 * third]
    first = int(rng.choice(early if len(early) else loud[:1])) * size + int(rng.integers(size))
    last = int(rng.choice(late if len(late) else loud[-1:])) * size + int(rng.integers(size))
    return speech[first:last]


def gated(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Close a noise gate in the pauses, down to digital zero, with an attack and release of a few milliseconds."""
    threshold = active_level(speech, rate_hz) - float(rng.uniform(25, 40))
    attack, release = float(rng.uniform(0.001, 0.005)), float(rng.uniform(0.005, 0.05))
    hold = float(rng.uniform(0.05, 0.2))
    tick = 0.001  # the gate looks at the level in steps of this
    loud = frame_levels(speech, rate_hz, tick) >= threshold
    wide = np.convolve(loud, np.ones(round(hold / tick)))[: len(loud)] > 0  # stays open for the hold time
    gain, gains = 1.0, np.empty(len(wide))
    for i, is_open in enumerate(wide):
        gain = min(1.0, gain + tick / attack) if is_open else max(0.0, gain - tick / release)
        gains[i] = gain
    place = np.arange(len(speech)) / (tick * rate_hz)
    smooth = np.interp(place, np.arange(len(gains)) + 1, gains)
    smooth[smooth < 1e-3] = 0
    return Sound(speech * smooth, rate_hz)


def talk_frames(speech: Float64, rate_hz: int, rng: np.random.Generator) -> np.ndarray:
    """Return in which packets a telephone would send speech, bool, (packets,): loud ones and a hang-over."""
    levels = frame_levels(speech, rate_hz)
    floor = float(np.percentile(levels, 10))
    threshold = min(max(floor + 8, active_level(speech, rate_hz) - 38), active_level(speech, rate_hz) - 20)
    hangover = int(rng.integers(4, 9))
    return np.convolve(levels >= threshold, np.ones(hangover))[: len(levels)] > 0


def dtx(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Send nothing in the pauses (discontinuous transmission): zeros from packet to packet, after a hang-over."""
    talks = talk_frames(speech, rate_hz, rng)
    size = round(PACKET_S * rate_hz)
    return Sound(speech[: len(talks) * size] * np.repeat(talks, size), rate_hz)


def comfort_noise(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Fill the pauses with noise of their spectrum, whose level the sender updates every 160 ms.

    Source: the idea of ITU-T G.711 Appendix II; the receiver's noise is independent of the sender's.
    """
    talks = talk_frames(speech, rate_hz, rng)
    size = round(PACKET_S * rate_hz)
    frames = speech[: len(talks) * size].reshape(-1, size)
    pauses = frames[~talks]
    if not len(pauses):
        return Sound(speech, rate_hz)
    gains = np.sqrt(np.mean(np.abs(np.fft.rfft(pauses, axis=1)) ** 2, axis=0) / size)
    noise = shaped_noise(rng, frames.size, gains).reshape(-1, size)
    updates = 10 ** (rng.uniform(-1.5, 1.5, -(-len(frames) // 8)) / 20)
    noise *= np.repeat(updates, 8)[: len(frames), None]
    return Sound(np.where(talks[:, None], frames, noise).ravel(), rate_hz)
