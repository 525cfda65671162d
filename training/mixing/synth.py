"""Synthetic sounds that the recordings lack: hum, telephone tones, beeps, buzz, shaped hiss, clicks.

Every function takes a `np.random.Generator` and returns float32 at 16 kHz with a peak below 1. Levels are set later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
RATE_HZ = 16_000

DTMF_ROWS_HZ = (697.0, 770.0, 852.0, 941.0)
DTMF_COLUMNS_HZ = (1209.0, 1336.0, 1477.0, 1633.0)  # ITU-T Q.23

# (frequencies in Hz, cadence as on/off seconds); national values from ITU-T E.180 supplement 2
CALL_TONES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ring_us": ((440.0, 480.0), (2.0, 4.0)),
    "ring_uk": ((400.0, 450.0), (0.4, 0.2, 0.4, 2.0)),
    "ring_eu": ((425.0,), (1.0, 4.0)),
    "ring_fr": ((440.0,), (1.5, 3.5)),
    "ring_jp": ((384.0, 416.0), (1.0, 2.0)),
    "busy_us": ((480.0, 620.0), (0.5, 0.5)),
    "busy_uk": ((400.0,), (0.375, 0.375)),
    "busy_eu": ((425.0,), (0.48, 0.48)),
    "congestion_us": ((480.0, 620.0), (0.25, 0.25)),
    "dial_us": ((350.0, 440.0), (60.0, 0.0)),
    "dial_eu": ((425.0,), (60.0, 0.0)),
    "waiting_eu": ((425.0,), (0.2, 0.6, 0.2, 4.0)),
    "ring_cn": ((450.0,), (1.0, 4.0)),
    "busy_cn": ((450.0,), (0.35, 0.35)),
    "ring_in": ((400.0, 425.0), (0.4, 0.2, 0.4, 2.0)),
    "busy_in": ((400.0,), (0.75, 0.75)),
    "ring_ru": ((425.0,), (0.8, 3.2)),
    "busy_ru": ((425.0,), (0.4, 0.4)),
    "ring_es": ((425.0,), (1.5, 3.0)),
    "busy_es": ((425.0,), (0.2, 0.2)),
    "busy_fr": ((440.0,), (0.5, 0.5)),
    "congestion_eu": ((425.0,), (0.24, 0.24)),
    "busy_jp": ((400.0,), (0.5, 0.5)),
    "ring_za": ((400.0, 433.0), (0.4, 0.2, 0.4, 2.0)),
    "dial_uk": ((350.0, 450.0), (60.0, 0.0)),
    "dial_jp": ((400.0,), (60.0, 0.0)),
    "waiting_us": ((440.0,), (0.3, 9.7)),
    "record_us": ((1400.0,), (0.5, 15.0)),
}


def _time(count: int) -> NDArray[np.float64]:
    return np.arange(count) / RATE_HZ


def _ramp(samples: Float32, seconds: float = 0.005) -> Float32:
    """Fade both ends to avoid clicks."""
    count = min(len(samples) // 2, int(seconds * RATE_HZ))
    if count:
        edge = np.linspace(0.0, 1.0, count, dtype=np.float32)
        samples[:count] *= edge
        samples[-count:] *= edge[::-1]
    return samples


def _sines(frequencies_hz: Sequence[float], count: int, rng: np.random.Generator) -> Float32:
    time = _time(count)
    total = np.zeros(count)
    for frequency in frequencies_hz:
        total += np.sin(2 * np.pi * frequency * time + rng.uniform(0, 2 * np.pi))
    return (total / len(frequencies_hz)).astype(np.float32)


def hum(count: int, rng: np.random.Generator) -> Float32:
    """Generate mains hum: 50 or 60 Hz with up to 20 harmonics of decreasing level and slow frequency drift."""
    base = rng.choice([50.0, 60.0]) * (1.0 + rng.normal(0.0, 0.0005))
    drift = 1.0 + 0.0005 * np.sin(2 * np.pi * rng.uniform(0.02, 0.2) * _time(count) + rng.uniform(0, 6.28))
    phase = 2 * np.pi * np.cumsum(base * drift) / RATE_HZ
    falloff = rng.uniform(0.2, 1.2)
    even = rng.uniform(0.2, 1.5)  # rectifiers favour even harmonics
    total = np.zeros(count)
    for harmonic in range(1, int(rng.integers(3, 21))):
        weight = harmonic**-falloff * (even if harmonic % 2 == 0 else 1.0) * rng.uniform(0.3, 1.0)
        total += weight * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    return _unit(total)


def cadenced(
    frequencies_hz: Sequence[float], cadence_s: Sequence[float], count: int, rng: np.random.Generator
) -> Float32:
    """Generate tones switched on and off by a cadence, starting anywhere within it."""
    out = np.zeros(count, dtype=np.float32)
    position = -int(rng.uniform(0.0, min(sum(cadence_s), 6.0)) * RATE_HZ)
    step = 0
    while position < count:
        length = int(cadence_s[step % len(cadence_s)] * RATE_HZ)
        if step % 2 == 0 and length > 0:
            tone = _ramp(_sines(frequencies_hz, length, rng))
            start, stop = max(0, position), min(count, position + length)
            if stop > start:
                out[start:stop] = tone[start - position : stop - position]
        position += max(length, 1)
        step += 1
    return out


def call_tone(count: int, rng: np.random.Generator) -> Float32:
    """Generate the ring-back, busy, dial or call-waiting tone of one country."""
    nominal, cadence = CALL_TONES[str(rng.choice(list(CALL_TONES)))]
    frequencies = [f * (1.0 + rng.normal(0.0, 0.006)) for f in nominal]  # exchanges may deviate by 1 or 2 %
    if rng.random() < 0.3:  # an overdriven amplifier or a codec adds harmonics
        frequencies += [2.0 * f for f in frequencies] if rng.random() < 0.5 else [3.0 * f for f in frequencies]
    if rng.random() < 0.08:  # special information tone
        return _information_tone(count, rng)
    if len(frequencies) == 1 and rng.random() < 0.2:  # some exchanges modulate the tone at 25 Hz
        carrier = cadenced(frequencies, cadence, count, rng)
        return (carrier * (0.6 + 0.4 * np.sin(2 * np.pi * 25.0 * _time(count)))).astype(np.float32)
    return cadenced(frequencies, cadence, count, rng)


def ring_back(count: int, rng: np.random.Generator) -> Float32:
    """Generate the ring-back tone of one country at its nominal frequencies and cadence."""
    return cadenced(*CALL_TONES[str(rng.choice([name for name in CALL_TONES if name.startswith("ring_")]))], count, rng)


def _information_tone(count: int, rng: np.random.Generator) -> Float32:
    """Generate three rising tones and a pause, repeated (ITU-T E.180)."""
    steps = [_ramp(_sines((f,), int(0.33 * RATE_HZ), rng)) for f in (950.0, 1400.0, 1800.0)]
    once = np.concatenate([*steps, np.zeros(int(rng.uniform(0.8, 2.0) * RATE_HZ), np.float32)])
    repeated = np.tile(once, count // len(once) + 2)
    start = int(rng.integers(0, len(once)))
    return repeated[start : start + count].astype(np.float32)


def dtmf(count: int, rng: np.random.Generator) -> Float32:
    """Generate a sequence of DTMF keys, 50 … 400 ms each."""
    out = np.zeros(count, dtype=np.float32)
    position = int(rng.uniform(0.0, 0.5) * RATE_HZ)
    on, off = rng.uniform(0.05, 0.4), rng.uniform(0.05, 0.5) if rng.random() < 0.8 else rng.uniform(0.5, 2.0)
    while position < count:
        length = min(int(on * RATE_HZ), count - position)
        pair = (float(rng.choice(DTMF_ROWS_HZ)), float(rng.choice(DTMF_COLUMNS_HZ)))
        out[position : position + length] = _ramp(_sines(pair, length, rng), 0.002)
        position += length + int(off * rng.uniform(0.8, 1.2) * RATE_HZ)
    return out


def beeps(count: int, rng: np.random.Generator) -> Float32:
    """Generate beeps or a steady whistle of one pitch, pure or with harmonics."""
    base = float(np.exp(rng.uniform(np.log(250.0), np.log(4000.0))))
    partials = [base * k for k in range(1, int(rng.integers(1, 4)) + 1) if base * k < 7000.0]
    if rng.random() < 0.25:
        return cadenced(partials, (60.0, 0.0), count, rng)
    return cadenced(partials, (rng.uniform(0.05, 1.0), rng.uniform(0.05, 2.0)), count, rng)


def buzz(count: int, rng: np.random.Generator) -> Float32:
    """Generate GSM interference (217 Hz bursts in groups) or steady electrical buzz (narrow pulses at a low rate)."""
    gsm = rng.random() < 0.6
    rate = 216.7 if gsm else rng.uniform(80.0, 250.0)
    phase = (_time(count) * rate) % 1.0
    pulse = (phase < (0.125 if gsm else rng.uniform(0.05, 0.3))).astype(np.float64)
    total = pulse - pulse.mean() + 0.05 * rng.standard_normal(count) * pulse
    if gsm and rng.random() < 0.7:
        total *= cadenced((1.0,), (rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.6)), count, rng) != 0.0
    return _unit(total)


def hiss(count: int, rng: np.random.Generator) -> Float32:
    """Generate stationary noise of random tilt and band, sometimes with slow level changes: hiss, fans, rumble."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20.0)
    if rng.random() < 0.3:  # plain white, pink and brown noise, as from test generators
        return _unit(np.fft.irfft(spectrum * frequency ** float(rng.choice([0.0, -0.5, -1.0])), n=count))
    shape = frequency ** rng.uniform(-1.2, 0.4)
    if rng.random() < 0.5:
        low = np.exp(rng.uniform(np.log(30.0), np.log(5000.0)))
        high = low * np.exp(rng.uniform(np.log(1.4), np.log(40.0)))
        shape /= np.sqrt(1.0 + (low / frequency) ** 8) * np.sqrt(1.0 + (frequency / high) ** 8)
    for _ in range(int(rng.integers(0, 4))):  # resonances of casings and rooms
        centre, width = np.exp(rng.uniform(np.log(80.0), np.log(5000.0))), rng.uniform(0.02, 0.2)
        shape *= 1.0 + rng.uniform(1.0, 6.0) * np.exp(-(((frequency - centre) / (centre * width)) ** 2))
    total = np.fft.irfft(spectrum * shape, n=count)
    if rng.random() < 0.3:
        total *= 1.0 + rng.uniform(0.1, 0.5) * np.sin(2 * np.pi * rng.uniform(0.2, 12.0) * _time(count))
    return _unit(total)


def clicks(count: int, rng: np.random.Generator) -> Float32:
    """Generate irregular short impulses with a decay: clicks, knocks, crackle."""
    total = np.zeros(count)
    rate = np.exp(rng.uniform(np.log(0.5), np.log(12.0)))
    decay_s = np.exp(rng.uniform(np.log(0.001), np.log(0.05)))
    length = int(min(6 * decay_s, 0.3) * RATE_HZ)
    envelope = np.exp(-_time(length) / decay_s)
    pitch = rng.uniform(100.0, 5000.0)
    ring = np.sin(2 * np.pi * pitch * _time(length))
    for start in np.flatnonzero(rng.random(count // 160) < rate / 100.0) * 160 + int(rng.integers(0, 160)):
        body = (ring * rng.uniform(0.0, 1.0) + rng.standard_normal(length)) * envelope * rng.uniform(0.3, 1.0)
        stop = min(count, int(start) + length)
        if stop > start:
            total[int(start) : stop] += body[: stop - int(start)]
    return _unit(total)


def wind(count: int, rng: np.random.Generator) -> Float32:
    """Generate wind on a microphone: low-frequency turbulence in gusts."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 20.0)
    total = np.fft.irfft(spectrum / (1.0 + (frequency / rng.uniform(60.0, 300.0)) ** rng.uniform(1.0, 2.0)), n=count)
    knots = np.arange(0, count + RATE_HZ // 4, RATE_HZ // 4)
    gusts = np.interp(np.arange(count), knots, np.exp(rng.normal(0.0, rng.uniform(0.3, 1.0), knots.size)))
    return _unit(total * gusts)


def rub(count: int, rng: np.random.Generator) -> Float32:
    """Generate a hand or cloth rubbing the microphone: short scrapes of dull noise with thumps."""
    total = np.zeros(count)
    position = int(rng.uniform(0.0, 0.5) * RATE_HZ)
    while position < count:
        length = min(int(rng.uniform(0.08, 0.7) * RATE_HZ), count - position)
        scrape = np.cumsum(rng.standard_normal(length)) * 0.02 + rng.standard_normal(length) * rng.uniform(0.1, 1.0)
        scrape -= np.linspace(scrape[0], scrape[-1], length)
        total[position : position + length] = (
            scrape * np.sin(np.pi * np.arange(length) / length) * rng.uniform(0.3, 1.0)
        )
        position += length + int(rng.uniform(0.1, 1.5) * RATE_HZ)
    return _unit(total)


def room_tone(count: int, rng: np.random.Generator) -> Float32:
    """Generate the noise floor of a quiet room and its microphone: soft, tilted towards low frequencies."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / RATE_HZ), 40.0)
    return _unit(np.fft.irfft(spectrum * frequency ** rng.uniform(-1.0, 0.1), n=count))


def _unit(samples: NDArray[np.float64]) -> Float32:
    peak = float(np.max(np.abs(samples))) if samples.size else 0.0
    return (samples / peak * 0.9 if peak > 0 else samples).astype(np.float32)


TONES: Mapping[str, Callable[[int, np.random.Generator], Float32]] = {
    "hum": hum,
    "call_tone": call_tone,
    "dtmf": dtmf,
    "beeps": beeps,
    "buzz": buzz,
}
NOISES: Mapping[str, Callable[[int, np.random.Generator], Float32]] = {
    "hiss": hiss,
    "clicks": clicks,
    "wind": wind,
    "rub": rub,
}
