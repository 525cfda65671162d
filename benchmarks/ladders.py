"""Makes ladders for `bench_ladders.py`: one disturbance of speech in six steps, from inaudible to hopeless.

Every clip is 6 s of one talker at -26 dBFS (active level), 16 kHz, 16 bits. Within a ladder a talker's six clips
differ only in the strength of the disturbance: the noise, its position and the lost packets stay the same or grow.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr
from ladder_speech import COUNT, KNOCKS, MACHINES, RATE_HZ, Talker
from numpy.typing import NDArray
from scipy import signal

from training.corpora.preprocess import active_level_db
from training.mixing.synth import wind

NARROW_HZ = 8_000
PACKET = RATE_HZ // 50
STEPS = 6
MP3_LEVELS = {64.0: 0.6, 40.0: 0.8, 32.0: 0.85, 24.0: 0.9, 16.0: 0.94, 8.0: 0.99}
OPUS_LEVELS = {28.0: 0.9, 14.0: 0.96, 10.0: 0.98, 9.0: 0.985, 7.5: 0.99, 5.7: 1.0}
"""Compression levels of libsndfile by bit rate, kbit/s."""
SNR_DB = (45.0, 32.0, 22.0, 14.0, 6.0, -3.0)

Float32 = NDArray[np.float32]


Degrade = Callable[[Talker, Float32, float], Float32]


@dataclass(frozen=True)
class Ladder:
    """One disturbance.

    Args:
        unit: What the steps state.
        steps: Strength of the disturbance, weakest first.
        degrade: Adds the disturbance to the speech.
        heard: Whether DistillMOS can hear it: it normalises the level, ignores an offset, and rates two talkers as
            clean speech.
    """

    unit: str
    steps: Sequence[float]
    degrade: Degrade
    heard: bool = True

    def __post_init__(self) -> None:
        if len(self.steps) != STEPS:
            raise ValueError(f"expected {STEPS} steps, got {len(self.steps)}")


def clean_clip(talker: Talker) -> Float32:
    """Return the talker's clip without a disturbance."""
    return _quantised(talker.clean)


def clip_at(talker: Talker, name: str, step: int) -> Float32:
    """Return the clip of a ladder's step, float32 (COUNT,) in 16-bit values."""
    ladder = LADDERS[name]
    return _quantised(ladder.degrade(talker, talker.clean, ladder.steps[step]))


def _quantised(samples: Float32) -> Float32:
    return (np.round(np.clip(samples, -1.0, 32767 / 32768) * 32768.0) / 32768.0).astype(np.float32)


def _add(speech: Float32, noise: NDArray[np.floating], snr_db: float) -> Float32:
    """Add noise at a ratio of active speech to noise, and keep the sum below full scale."""
    power = float(np.mean(np.square(noise, dtype=np.float64)))
    gain = 10.0 ** ((active_level_db(speech) - snr_db) / 20.0) / np.sqrt(power)
    total = speech + noise * gain
    return np.asarray(total * min(1.0, 0.97 / np.abs(total).max()), np.float32)


def _noise(exponent: float) -> Callable[[Talker], NDArray[np.float64]]:
    """Return a maker of noise whose power falls by `exponent` · 3 dB an octave."""

    def make(talker: Talker) -> NDArray[np.float64]:
        spectrum = np.fft.rfft(talker.rng("noise").standard_normal(COUNT))
        frequency = np.maximum(np.fft.rfftfreq(COUNT, 1 / RATE_HZ), 40.0)
        return np.asarray(np.fft.irfft(spectrum * frequency ** (-exponent / 2.0), COUNT))

    return make


def _fan(talker: Talker) -> NDArray[np.float64]:
    """Make a fan: broad-band noise that falls by 6 dB an octave above 300 Hz, with the tones of its blades."""
    rng = talker.rng("fan")
    spectrum = np.fft.rfft(rng.standard_normal(COUNT))
    frequency = np.fft.rfftfreq(COUNT, 1 / RATE_HZ)
    noise = np.fft.irfft(spectrum / np.sqrt(1.0 + (frequency / 300.0) ** 2) * (frequency > 50.0), COUNT)
    base = rng.uniform(90.0, 180.0)
    time = np.arange(COUNT) / RATE_HZ
    blades = sum(np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6.28)) / k for k in (1, 2, 3))
    return np.asarray(noise / noise.std() + 0.3 * blades)


def _hum(talker: Talker) -> NDArray[np.float64]:
    base = (50.0, 60.0)[talker.number % 2]
    rng = talker.rng("hum")
    time = np.arange(COUNT) / RATE_HZ
    parts = (np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6.28)) * k**-0.8 for k in range(1, 13))
    return np.asarray(sum(parts))


def _whistle(talker: Talker) -> NDArray[np.float64]:
    pitch_hz = float(np.exp(talker.rng("whistle").uniform(np.log(700.0), np.log(3000.0))))
    return np.sin(2 * np.pi * pitch_hz * np.arange(COUNT) / RATE_HZ)


def _babble(talker: Talker) -> NDArray[np.float64]:
    rng = talker.rng("babble")
    chosen = rng.choice(len(talker.others), size=6, replace=False)
    return np.asarray(sum(np.roll(talker.others[i].astype(np.float64), int(rng.integers(COUNT))) for i in chosen))


def _other_talker(talker: Talker) -> NDArray[np.float64]:
    return talker.others[int(talker.rng("talker").integers(len(talker.others)))].astype(np.float64)


def _music(talker: Talker) -> Float32:
    return np.resize(talker.music[talker.number % len(talker.music)], COUNT)


def _recorded(classes: Sequence[str]) -> Callable[[Talker], Float32]:
    def make(talker: Talker) -> Float32:
        known = [name for name in classes if name in talker.noises]
        members = talker.noises[known[talker.number % len(known)]]
        return np.resize(members[talker.number // len(known) % len(members)], COUNT)

    return make


def _clicks(talker: Talker) -> NDArray[np.float64]:
    """Make about four clicks a second, each a decaying burst of 3 ms."""
    rng = talker.rng("clicks")
    out = np.zeros(COUNT)
    burst = np.exp(-np.arange(240) / 48.0)
    for start in rng.integers(0, COUNT - 240, size=30):
        out[start : start + 240] += rng.standard_normal(240) * burst
    return out


def _wind(talker: Talker) -> Float32:
    return wind(COUNT, talker.rng("wind"))


def _mixed(make: Callable[[Talker], NDArray[np.floating]]) -> Degrade:
    return lambda talker, speech, snr_db: _add(speech, make(talker), snr_db)


def _clip(_talker: Talker, speech: Float32, share: float) -> Float32:
    """Overload the speech so that `share` of its sounding samples are beyond full scale."""
    magnitude = np.abs(speech)
    rail = float(np.quantile(magnitude[magnitude > 0.05 * magnitude.max()], 1.0 - share))
    return np.asarray(np.clip(speech / rail, -1.0, 1.0), np.float32)


def _lost(talker: Talker, share: float) -> NDArray[np.bool_]:
    """Draw lost packets; those of a lower share are among those of a higher one."""
    return talker.rng("loss").random(COUNT // PACKET) < share


def _lose(talker: Talker, speech: Float32, share: float) -> Float32:
    """Replace packets of 20 ms by zeros."""
    out = speech.copy()
    for packet in np.flatnonzero(_lost(talker, share)):
        out[packet * PACKET : (packet + 1) * PACKET] = 0.0
    return out


def _conceal(talker: Talker, speech: Float32, share: float) -> Float32:
    """Repeat the last packet at half its level in place of a lost one."""
    out = speech.copy()
    for packet in np.flatnonzero(_lost(talker, share)):
        if packet:
            out[packet * PACKET : (packet + 1) * PACKET] = 0.5 * out[(packet - 1) * PACKET : packet * PACKET]
    return out


def _reverberate(talker: Talker, speech: Float32, rt_s: float) -> Float32:
    """Put the speech in a room: a decay of noise with the given reverberation time.

    The direct sound is 10 dB above the reverberation at 0.2 s, and 3 dB weaker for every doubling of the time.
    """
    rng = talker.rng("room")
    time = np.arange(int(1.2 * rt_s * RATE_HZ)) / RATE_HZ
    tail = rng.standard_normal(5 * RATE_HZ)[: len(time)] * 10.0 ** (-3.0 * time / rt_s)
    tail = signal.sosfilt(signal.butter(1, 4_000.0, fs=RATE_HZ, output="sos"), tail)
    tail[: RATE_HZ // 200] = 0.0
    ratio_db = 10.0 - 10.0 * np.log10(rt_s / 0.2)
    tail *= 10.0 ** (-ratio_db / 20.0) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    wet = signal.fftconvolve(speech, tail)[:COUNT]
    return np.asarray(wet * min(10.0 ** ((active_level_db(speech) - active_level_db(wet)) / 20.0),
                                0.97 / np.abs(wet).max()), np.float32)  # fmt: skip


def _low_pass(_talker: Talker, speech: Float32, cut_hz: float) -> Float32:
    sections = signal.butter(8, cut_hz, fs=RATE_HZ, output="sos")
    return np.asarray(signal.sosfiltfilt(sections, speech), np.float32)


def _mp3(_talker: Talker, speech: Float32, kbit_s: float) -> Float32:
    options = {"compression_level": MP3_LEVELS[kbit_s], "bitrate_mode": "CONSTANT"}
    return _through(speech, "MP3", "MPEG_LAYER_III", RATE_HZ, options)


def _opus(_talker: Talker, speech: Float32, kbit_s: float) -> Float32:
    return _through(speech, "OGG", "OPUS", RATE_HZ, {"compression_level": OPUS_LEVELS[kbit_s]})


def _through(speech: Float32, form: str, subtype: str, rate_hz: int, options: Mapping[str, object]) -> Float32:
    file = io.BytesIO()
    soundfile.write(file, speech, rate_hz, format=form, subtype=subtype, **options)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    out = np.zeros_like(speech)
    out[: len(decoded)] = decoded[: len(out)]
    return out


def _gsm(_talker: Talker, speech: Float32, times: float) -> Float32:
    """Send the speech over telephone lines with GSM 06.10, one behind the other."""
    narrow = soxr.resample(speech, RATE_HZ, NARROW_HZ)
    for _ in range(int(times)):
        narrow = _through(narrow, "WAV", "GSM610", NARROW_HZ, {})
    wide = soxr.resample(narrow, NARROW_HZ, RATE_HZ)
    return np.asarray(np.resize(wide, COUNT), np.float32)


def _mnru(talker: Talker, speech: Float32, q_db: float) -> Float32:
    """Add noise that follows the speech signal (ITU-T P.810)."""
    noise = talker.rng("mnru").standard_normal(COUNT)
    total = speech * (1.0 + 10.0 ** (-q_db / 20.0) * noise)
    return np.asarray(total * min(1.0, 0.97 / np.abs(total).max()), np.float32)


def _level(_talker: Talker, speech: Float32, level_dbfs: float) -> Float32:
    return np.asarray(speech * 10.0 ** ((level_dbfs - active_level_db(speech)) / 20.0), np.float32)


def _offset(_talker: Talker, speech: Float32, offset: float) -> Float32:
    return np.asarray(speech + np.float32(offset))


def _both(first: str, second: str) -> Ladder:
    """Return a ladder in which two disturbances grow together."""
    a, b = SINGLE[first], SINGLE[second]

    def degrade(talker: Talker, speech: Float32, step: float) -> Float32:
        return b.degrade(talker, a.degrade(talker, speech, a.steps[int(step)]), b.steps[int(step)])

    return Ladder("steps of both", tuple(range(STEPS)), degrade)


SHARES = (0.001, 0.01, 0.03, 0.08, 0.2, 0.45)
SINGLE: Mapping[str, Ladder] = {
    "white noise": Ladder("dB SNR", SNR_DB, _mixed(_noise(0.0))),
    "pink noise": Ladder("dB SNR", SNR_DB, _mixed(_noise(1.0))),
    "fan": Ladder("dB SNR", SNR_DB, _mixed(_fan)),
    "machines": Ladder("dB SNR", SNR_DB, _mixed(_recorded(MACHINES))),
    "wind": Ladder("dB SNR", SNR_DB, _mixed(_wind)),
    "babble": Ladder("dB SNR", SNR_DB, _mixed(_babble)),
    "second talker": Ladder("dB SNR", (45.0, 32.0, 24.0, 16.0, 8.0, 0.0), _mixed(_other_talker), heard=False),
    "music": Ladder("dB SNR", SNR_DB, _mixed(_music)),
    "hum": Ladder("dB SNR", (45.0, 32.0, 22.0, 12.0, 2.0, -8.0), _mixed(_hum)),
    "whistle": Ladder("dB SNR", (60.0, 45.0, 32.0, 20.0, 10.0, 0.0), _mixed(_whistle)),
    "clicks": Ladder("dB SNR", (45.0, 35.0, 26.0, 18.0, 9.0, 0.0), _mixed(_clicks)),
    "knocks": Ladder("dB SNR", (45.0, 35.0, 26.0, 18.0, 9.0, 0.0), _mixed(_recorded(KNOCKS))),
    "clipping": Ladder("share of samples", (0.0005, 0.004, 0.02, 0.07, 0.2, 0.45), _clip),
    "losses": Ladder("share of packets", SHARES, _lose),
    "concealed losses": Ladder("share of packets", SHARES, _conceal),
    "reverberation": Ladder("s", (0.1, 0.3, 0.6, 1.2, 2.2, 4.0), _reverberate),
    "band limit": Ladder("Hz", (7_500.0, 5_500.0, 3_400.0, 2_200.0, 1_400.0, 900.0), _low_pass),
    "MP3": Ladder("kbit/s", tuple(MP3_LEVELS), _mp3),
    "Opus": Ladder("kbit/s", tuple(OPUS_LEVELS), _opus),
    "GSM": Ladder("times", (0.0, 1.0, 2.0, 3.0, 5.0, 8.0), _gsm),
    "MNRU": Ladder("dB", (42.0, 32.0, 25.0, 18.0, 11.0, 5.0), _mnru),
    "level": Ladder("dBFS", (-26.0, -38.0, -48.0, -58.0, -68.0, -78.0), _level, heard=False),
    "DC offset": Ladder("of full scale", (0.001, 0.01, 0.03, 0.08, 0.2, 0.4), _offset, heard=False),
}
LADDERS: Mapping[str, Ladder] = {
    **SINGLE,
    **{
        f"{a} + {b}": _both(a, b)
        for a, b in (
            ("fan", "reverberation"),
            ("babble", "losses"),
            ("hum", "band limit"),
            ("music", "clipping"),
            ("white noise", "GSM"),
        )
    },
}
"""Every ladder by name; the last ones combine two disturbances."""
