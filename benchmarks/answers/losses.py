"""Lost packets: single ones, concealed ones, holes, and calls with a share of their packets lost."""

from __future__ import annotations

import numpy as np

from answers.signal import PACKET_S, Float64, Sound, active_level, frame_levels

LOUD_DB = -10.0  # a packet counts as loud speech within this of the active level
EDGE_S = 0.3  # nothing is lost so near to the beginning or end
PITCH_S = (0.005, 0.015)  # periods that concealment looks for
OVERLAP_S = 0.003  # cross-fade between concealment and speech


def lost_span(speech: Float64, rate_hz: int, rng: np.random.Generator, lost_s: float) -> slice:
    """Choose a run of packets, whose grid begins anywhere, as loud as active speech within 10 dB.

    Args:
        speech: Clean speech, (n,).
        rate_hz: Its rate.
        rng: Random numbers.
        lost_s: Length of the loss, a multiple of the packet.

    Returns:
        The samples that are lost.
    """
    packet = round(PACKET_S * rate_hz)
    phase = int(rng.integers(packet))
    powers = 10 ** (frame_levels(speech[phase:], rate_hz) / 10)
    run = round(lost_s / PACKET_S)
    means = 10 * np.log10(np.maximum(np.convolve(powers, np.ones(run) / run, "valid"), 1e-20))
    margin = round(EDGE_S / PACKET_S)
    inner = np.arange(margin, len(means) - margin)
    loud = inner[means[inner] >= active_level(speech, rate_hz) + LOUD_DB]
    first = int(rng.choice(loud if len(loud) else inner[[np.argmax(means[inner])]]))
    return slice(phase + first * packet, phase + (first + run) * packet)


def zeroed(speech: Float64, rate_hz: int, rng: np.random.Generator, lost_s: float) -> Sound:
    """Replace one loss in loud speech by zeros, as a receiver without concealment does."""
    lost = lost_span(speech, rate_hz, rng, lost_s)
    samples = speech.copy()
    samples[lost] = 0
    return _sound(samples, rate_hz, lost)


def hole(speech: Float64, rate_hz: int, rng: np.random.Generator) -> Sound:
    """Zero 0.5 to 1.5 s that begin and end within words."""
    packet = round(PACKET_S * rate_hz)
    levels = frame_levels(speech, rate_hz)
    margin = round(EDGE_S / PACKET_S)
    loud = [i for i in range(margin, len(levels) - margin) if levels[i] >= active_level(speech, rate_hz) + LOUD_DB]
    pairs = [(i, j) for i in loud for j in loud if 0.5 <= (j - i) * PACKET_S <= 1.5]
    first, last = pairs[rng.integers(len(pairs))] if pairs else (margin, margin + round(1 / PACKET_S))
    lost = slice(first * packet + packet // 2, last * packet + packet // 2)
    samples = speech.copy()
    samples[lost] = 0
    return _sound(samples, rate_hz, lost)


def concealed(speech: Float64, rate_hz: int, rng: np.random.Generator, lost_s: float = 0.06) -> Sound:
    """Conceal one loss in loud speech by repeating what came before and fading it: three kinds, equally often.

    Pitch periods as in G.711 Appendix I, the last packet with a steady fade, and the last packet at half the level
    each time.
    """
    lost = lost_span(speech, rate_hz, rng, lost_s)
    count, packet = lost.stop - lost.start, round(PACKET_S * rate_hz)
    kind = int(rng.integers(3))
    if kind == 0:
        filled = _pitch_periods(speech[: lost.start], rate_hz, count)
    else:
        filled = np.resize(speech[lost.start - packet : lost.start], count)
        steps = 0.5 ** (np.arange(count) // packet)
        filled = filled * (np.linspace(1, 0, count) if kind == 1 else steps)
    samples = speech.copy()
    samples[lost] = filled
    if kind == 0:  # the appendix cross-fades back into the speech; simple receivers do not
        size = round(OVERLAP_S * rate_hz)
        after = slice(lost.stop, lost.stop + size)
        samples[after] *= np.linspace(0, 1, size)
    return _sound(samples, rate_hz, lost)


def _pitch_periods(before: Float64, rate_hz: int, count: int) -> Float64:
    """Repeat the last one, two, then three pitch periods, 10 ms each; fade by 20 % per 10 ms after the first 10 ms.

    Source: the method of ITU-T G.711 Appendix I, without its delay.
    """
    period = _pitch(before, rate_hz)
    step = round(0.01 * rate_hz)
    parts: list[Float64] = []
    place = 0
    for part in range(-(-count // step)):
        periods = min(part + 1, 3)
        history = before[-periods * period :]
        parts.append(history[(place + np.arange(step)) % len(history)])
        place += step
    time_s = np.arange(count) / rate_hz
    fade = np.clip(1 - 0.2 * (time_s - 0.01) / 0.01, 0, 1)
    return np.concatenate(parts)[:count] * fade


def _pitch(before: Float64, rate_hz: int) -> int:
    """Return the period with the highest normalised correlation over the last 20 ms, samples."""
    size = round(0.02 * rate_hz)
    last = before[-size:]
    best, found = -np.inf, round(PITCH_S[0] * rate_hz)
    for lag in range(round(PITCH_S[0] * rate_hz), round(PITCH_S[1] * rate_hz) + 1):
        past = before[-size - lag : -lag]
        score = float(last @ past) / (float(np.linalg.norm(past)) + 1e-9)
        if score > best:
            best, found = score, lag
    return found


def share_lost(speech: Float64, rate_hz: int, rng: np.random.Generator, share: float) -> Sound:
    """Zero a share of all packets, chosen at random, in speech and pauses alike."""
    packet = round(PACKET_S * rate_hz)
    samples = speech.copy()
    packets = len(samples) // packet
    for i in rng.choice(packets, round(share * packets), replace=False):
        samples[i * packet : (i + 1) * packet] = 0
    return Sound(samples, rate_hz)


def _sound(samples: Float64, rate_hz: int, lost: slice) -> Sound:
    return Sound(samples, rate_hz, (lost.start / rate_hz, lost.stop / rate_hz))
