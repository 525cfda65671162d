"""The regression gate: a small frozen set that every shipped model must pass; `models/gate.json` has the limits.

The sounds are generated here from seeds and the bundled sample recording. No code of the mixer is used, so a change of
the mixing does not change the gate. The sounds are deliberately simple: a loss here is a real regression.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy import signal

from speech_qc.contract import LABEL_CATALOG
from training.evaluation.alone import clean_figures, noise_alone_figures
from training.evaluation.cases import FRAME_SAMPLES, RATE_HZ, Case
from training.evaluation.contenders import Contender
from training.evaluation.figures import label_figures, snr_figures

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

ROOT = Path(__file__).resolve().parents[2]
SAMPLE_PATH = ROOT / "examples" / "sample.wav"
GATE_PATH = ROOT / "models" / "gate.json"

TALK_S = 3.3  # start of the sample, in which one talker speaks without disturbance
SECONDS = 8.0
SPAN_S = (2.5, 6.0)  # where the disturbance sounds
SPEECH_DBFS = -24.0
SNRS_DB = (0.0, 8.0, 16.0)
LINES = ("wide", "telephone")
MARGIN_FRAMES = 5  # masked at both ends of the span, where audibility cannot be decided per frame
SMOOTH_FRAMES = 11
LABELS = tuple(LABEL_CATALOG)
AUROC_MARGIN, SHARE_MARGIN, DB_MARGIN = 0.01, 0.01, 0.5
"""How much worse a later model may be; covers rounding, other runtimes and chance among 50 sounds."""


class GateError(Exception):
    """The limits cannot be written as requested."""


def _pink(rng: np.random.Generator, time: Float64) -> Float64:
    spectrum = np.fft.rfft(rng.standard_normal(time.size))
    return np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(spectrum.size), 1.0)), time.size)


def _hiss(rng: np.random.Generator, time: Float64) -> Float64:
    return rng.standard_normal(time.size)


def _knocks(rng: np.random.Generator, time: Float64) -> Float64:
    return rng.standard_normal(time.size) * np.exp(-((time * 2.7) % 1.0) * 30.0)


def _chords(_rng: np.random.Generator, time: Float64) -> Float64:
    """Cycle through four chords, plucked twice a second, each note with overtones."""
    roots = np.array([220.0, 261.6, 174.6, 196.0])[(time * 1.0).astype(int) % 4]
    phase = 2 * np.pi * np.cumsum(roots) / RATE_HZ
    notes = sum(np.sin(phase * ratio * k) / k**1.5 for ratio in (1.0, 1.26, 1.498) for k in range(1, 6))
    return np.asarray(notes * np.exp(-((time * 2.0) % 1.0) * 2.0))


def _ringing(_rng: np.random.Generator, time: Float64) -> Float64:
    return np.asarray((np.sin(2 * np.pi * 440.0 * time) + np.sin(2 * np.pi * 480.0 * time)) * (time % 1.5 < 1.0))


def _keys(rng: np.random.Generator, time: Float64) -> Float64:
    """Generate DTMF with four keys per second."""
    key = (time * 4.0).astype(int)
    low = rng.choice([697.0, 770.0, 852.0, 941.0], key.max() + 1)[key]
    high = rng.choice([1209.0, 1336.0, 1477.0], key.max() + 1)[key]
    sound = np.sin(2 * np.pi * low * time) + np.sin(2 * np.pi * high * time)
    return np.asarray(sound * ((time * 4.0) % 1.0 < 0.5))


def _hum(_rng: np.random.Generator, time: Float64) -> Float64:
    return np.asarray(sum(np.sin(2 * np.pi * 50.0 * k * time) / k for k in (1, 2, 3, 4, 5, 6, 8, 10)))


DISTURBANCES: Mapping[str, tuple[Callable[[np.random.Generator, Float64], Float64], tuple[str, ...]]] = (
    MappingProxyType(
        {
            "pink": (_pink, ("noise", "stationary_noise")),
            "hiss": (_hiss, ("noise", "stationary_noise")),
            "knocks": (_knocks, ("noise", "transient_noise")),
            "chords": (_chords, ("interference", "music")),
            "ringing": (_ringing, ("interference", "tone")),
            "keys": (_keys, ("interference", "tone")),
            "hum": (_hum, ("interference", "tone")),
        }
    )
)
"""Disturbances, and the labels they are evidence for; the other labels of the same kind are masked."""
KINDS = (("stationary_noise", "transient_noise"), ("music", "tone", "interfering_speech"))


@cache
def gate_cases() -> dict[str, list[Case]]:
    """Generate the frozen set: `mixed`, `clean` and `noise_alone`."""
    mixed, clean, alone = [], [], []
    for line in LINES:
        for number, name in enumerate(DISTURBANCES):
            for snr_db in SNRS_DB:
                seed = 1000 * number + int(snr_db)
                mixed.append(_case(f"{name}, {snr_db:g} dB, {line}", seed, line, name, snr_db))
            alone.append(_case(f"{name} alone, {line}", 100 + number, line, name, None))
        mixed.append(_case(f"clipping, {line}", 7, line, "clipping", 0.0))
        mixed.append(_case(f"dropout, {line}", 8, line, "dropout", 0.0))
        clean += [_case(f"clean {seed}, {line}", seed, line, "", 0.0) for seed in range(3)]
    return {"mixed": mixed, "clean": clean, "noise_alone": alone}


def gate_figures(contender: Contender) -> dict[str, float]:
    """Measure a contender on the frozen set; return values by figure name."""
    cases = gate_cases()
    judged = {name: contender.judge(part) for name, part in cases.items()}
    figures: dict[str, float] = {}
    for label, row in label_figures(contender, cases["mixed"], judged["mixed"]).items():
        if row["auroc"] is not None:
            figures[f"auroc.{label}"] = row["auroc"]
    snr = snr_figures(contender, cases["mixed"], judged["mixed"])
    figures["error_db.snr_below_25"] = snr["error_below_25_db"]
    figures["rank.snr_db"] = snr["rank"]["snr_db"]["spearman"]
    clean = clean_figures(contender, cases["clean"], judged["clean"])
    figures["share.noise_in_clean_speech"] = clean["noise_share"]
    figures["share.interference_in_clean_speech"] = clean["interference_share"]
    alone = noise_alone_figures(contender, cases["noise_alone"], judged["noise_alone"])
    figures["share.speech_in_noise_alone"] = alone["speech_share"]
    return figures


def fingerprint() -> list[float]:
    """Return the level of every sound of the set, dBFS, to detect changes of the set."""
    cases = [case for part in gate_cases().values() for case in part]
    return [round(float(10 * np.log10(np.mean(np.square(case.samples, dtype=np.float64)))), 2) for case in cases]


def limit_of(name: str, value: float) -> float:
    """Return the limit for later models: the value plus a margin."""
    kind = name.split(".")[0]
    margin = {"auroc": -AUROC_MARGIN, "rank": -AUROC_MARGIN, "error_db": DB_MARGIN, "share": SHARE_MARGIN}[kind]
    return round(value + margin, 4)


def worse(name: str, value: float, limit: float) -> bool:
    """Whether a value is beyond its limit; true for NaN."""
    return not (value >= limit if name.startswith(("auroc.", "rank.")) else value <= limit)


def failures(figures: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """List figures that are missing or beyond their limit, one line each."""
    lines = []
    for name, limit in limits.items():
        if name not in figures:
            lines.append(f"{name}: expected a figure, got none")
        elif worse(name, figures[name], limit):
            side = "at least" if name.startswith(("auroc.", "rank.")) else "at most"
            lines.append(f"{name}: expected {side} {limit}, got {figures[name]}")
    return lines


def write_gate(path: Path, model: str, figures: Mapping[str, float], *, lower: bool = False) -> str:
    """Write the limits of a model.

    Args:
        path: JSON file; existing limits are kept where they are stricter.
        model: Name and version, for information.
        figures: Figures from `gate_figures`.
        lower: Accept new limits even where they are easier to pass.

    Returns:
        A summary to print.

    Raises:
        GateError: The model does not pass the existing limits, and `lower` is false.
    """
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"limits": {}}
    lines = failures(figures, before["limits"])
    if lines and not lower:
        raise GateError(
            f"{model} does not pass the limits in {path} (--lower-gate accepts it anyway):\n  " + "\n  ".join(lines)
        )
    limits = {name: limit_of(name, value) for name, value in figures.items()}
    if not lower:
        for name, limit in before["limits"].items():
            if worse(name, limits[name], limit):
                limits[name] = limit
    document = {"model": model, "figures": dict(figures), "limits": limits, "fingerprint": fingerprint()}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return "\n".join(
        [f"{path}: limits of {model}", *(f"  {name}: {figures[name]}, limit {limits[name]}" for name in limits)]
    )


def _talk(seed: int) -> Float64:
    """Repeat the talker of the sample, with pauses."""
    recorded, _ = soundfile.read(SAMPLE_PATH, dtype="float64", frames=int(TALK_S * RATE_HZ))
    rng = np.random.default_rng(seed)
    parts: list[Float64] = [np.zeros(int(rng.uniform(0.1, 0.6) * RATE_HZ))]
    while sum(map(len, parts)) < SECONDS * RATE_HZ:
        parts += [recorded, np.zeros(int(rng.uniform(0.2, 0.8) * RATE_HZ))]
    return _at_level(np.concatenate(parts)[: int(SECONDS * RATE_HZ)], SPEECH_DBFS)


def _at_level(sound: Float64, level_dbfs: float) -> Float64:
    """Scale a sound so that its non-silent frames have the given level."""
    energy = _energy(sound)
    sounding = energy[energy > energy.max() * 1e-3]
    return np.asarray(sound * 10 ** (level_dbfs / 20) / np.sqrt(sounding.mean()))


def _case(name: str, seed: int, line: str, disturbance: str, snr_db: float | None) -> Case:
    """Generate one sound; an SNR of None means no speech, an empty disturbance means clean speech."""
    rng = np.random.default_rng(seed)
    count = int(SECONDS * RATE_HZ)
    speech = np.zeros(count) if snr_db is None else _talk(seed)
    span = slice(*(int(edge * RATE_HZ) for edge in SPAN_S))
    noise = np.zeros(count)
    if disturbance in DISTURBANCES:
        sound = DISTURBANCES[disturbance][0](rng, np.arange(count) / RATE_HZ)[span]
        noise[span] = _at_level(sound, SPEECH_DBFS - (snr_db or 0.0))
    floor = rng.standard_normal(count) * 10 ** (-80 / 20)
    speech, noise, floor = (_carried(stem, line) for stem in (speech, noise, floor))
    samples = speech + noise + floor
    wrong = np.zeros(count, bool)
    if disturbance == "clipping":
        rail = 0.35 * np.abs(samples).max()
        wrong[span] = np.abs(samples[span]) > rail
        samples[span] = np.clip(samples[span], -rail, rail)
    elif disturbance == "dropout":
        for start in range(span.start, span.stop, RATE_HZ // 3):
            wrong[start // FRAME_SAMPLES * FRAME_SAMPLES :][: 3 * FRAME_SAMPLES] = True
        samples[wrong] = 0.0
    target, mask = _truth(disturbance, speech, noise, floor, wrong)
    stored = np.round(np.clip(samples, -1.0, 1.0) * 32767.0) / 32768.0  # as stored in a 16-bit file
    facts = {"line": (line,), "disturbance": (disturbance or "none",)}
    return Case(
        name, stored.astype(np.float32), LABELS, target, mask, facts, _whole_snr_db(speech, noise + floor, target)
    )


def _truth(disturbance: str, speech: Float64, noise: Float64, floor: Float64, wrong: Bool) -> tuple[Float32, Bool]:
    """Compute targets and masks of all labels from the stems."""
    frames = len(speech) // FRAME_SAMPLES
    target, mask = np.zeros((frames, len(LABELS)), np.float32), np.ones((frames, len(LABELS)), bool)
    energy = _energy(speech)
    speaks = energy > max(energy.max() * 10**-3.5, 1e-9)
    target[:, LABELS.index("speech")] = speaks
    inside = np.zeros(frames, bool)
    first, last = (int(edge * RATE_HZ) // FRAME_SAMPLES for edge in SPAN_S)
    inside[first:last] = True
    edges = np.zeros(frames, bool)
    for edge in (first, last):
        edges[edge - MARGIN_FRAMES : edge + MARGIN_FRAMES] = True
    if disturbance in DISTURBANCES:
        labels = DISTURBANCES[disturbance][1]
        loud = _smooth(_energy(noise)) > 1e-6  # -60 dBFS; excludes pauses between rings, keys and knocks
        for label in labels:
            target[:, LABELS.index(label)] = inside & loud
            mask[:, LABELS.index(label)] &= ~(edges | (inside & ~loud))
        for kind in KINDS:
            if set(kind) & set(labels):
                for label in set(kind) - set(labels):
                    mask[inside | edges, LABELS.index(label)] = False
    marked = _energy(wrong.astype(np.float64))
    if disturbance == "clipping":
        column = LABELS.index("clipping")
        target[:, column], mask[:, column] = marked >= 0.01, (marked >= 0.01) | (marked == 0.0)
    elif disturbance == "dropout":
        column = LABELS.index("dropout")
        target[:, column], mask[:, column] = (marked > 0.5) & speaks, (marked == 0.0) | speaks
        mask &= ~(marked > 0.0)[:, None] | (np.arange(len(LABELS)) == column)
    ratio = 10 * np.log10(np.maximum(_smooth(energy), 1e-12) / _smooth(_energy(noise) + _energy(floor) + 1e-12))
    column = LABELS.index("snr_db")
    target[:, column], mask[:, column] = np.clip(ratio, -15.0, 45.0), mask[:, column] & speaks & ~edges
    mask[:, [LABELS.index(name) for name in ("reverberation", "sig", "bak", "ovrl")]] = False
    return target, mask


def _carried(stem: Float64, line: str) -> Float64:
    """Pass a stem through the line."""
    if line == "wide":
        return stem
    return np.asarray(signal.sosfilt(signal.butter(4, (300.0, 3400.0), "bandpass", fs=RATE_HZ, output="sos"), stem))


def _energy(sound: Float64) -> Float64:
    frames = sound[: len(sound) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    return np.asarray(np.square(frames).mean(axis=1))


def _smooth(energy: Float64) -> Float64:
    return np.convolve(energy, np.ones(SMOOTH_FRAMES) / SMOOTH_FRAMES, mode="same")


def _whole_snr_db(speech: Float64, other: Float64, target: Float32) -> float | None:
    speaks = target[:, LABELS.index("speech")] > 0.5
    if not speaks.any():
        return None
    return float(np.clip(10 * np.log10(_energy(speech)[speaks].mean() / _energy(other).mean()), -15.0, 45.0))
