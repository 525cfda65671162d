"""Render a plan: stems to mixture and targets. The same plan and pool give bit-identical results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from training.corpora.preprocess import NORMAL_LEVEL_DBFS
from training.mixing import channel as line
from training.mixing import targets
from training.mixing.distortion import add_correlated_noise, suppress_noise
from training.mixing.labels import behind_gate, label_targets
from training.mixing.plan import RATE_HZ, SYNTHS, MixPlan, Part, Pool, RoomPlan, SourcePlan
from training.mixing.synth import room_tone

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

MAX_ROOM_TAIL = 2 * RATE_HZ  # two seconds; longer tails only cost time
EDGE_FADE = 80  # 5 ms at both ends of each recording, so that joins do not click
LOOP_FADE = 640  # 40 ms; room tone that repeats is crossfaded at its seams
MIN_FLOOR_DBFS = -95.0
HIGHEST_FLOOR_DB = -36.0  # maximum level of the room tone relative to the active speech
PEAK_LIMIT = 0.98  # peak of a mixture without planned overload


@dataclass(frozen=True, slots=True)
class Mixture:
    """One training example.

    Attributes:
        samples: float32 (n,), 16 kHz.
        targets: Label to target and mask, each (n / 320,).
        stems: Stem energies per frame by name, for inspection and tests.
        c50_db: Clarity of the talker's room; None without a room.
        parts: The speech and everything else that the mixture consists of, before nonlinear stages, float32 (n,) each.
    """

    samples: Float32
    targets: Mapping[str, targets.FrameTarget]
    stems: Mapping[str, Float64]
    c50_db: float | None = None
    parts: tuple[Float32, Float32] | None = None


def render(plan: MixPlan, pool: Pool) -> Mixture:
    """Render the mixture of a plan."""
    rng = np.random.default_rng(plan.seed)
    room = None if plan.room is None else _response(plan.room, pool)
    dry = _lay_parts(plan.speech, pool, plan.samples)
    dry *= _gain(dry, plan.speech_dbfs, bool(plan.speech))
    wet = dry if room is None else _in_room(dry, room)
    floor = _floor(plan, pool, rng)
    rendered = [_source(source, plan, pool) for source in plan.sources]

    dry_line, wet_line, floor_line, sources_line, mixture = _on_line(dry, wet, floor, rendered, plan)
    frame = plan.channel.rate_hz // targets.FRAMES_PER_S
    shut = None
    if plan.speech and plan.channel.pauses is not None and (plan.channel.gates_sources or not plan.sources):
        stems = [floor_line, dry_line, wet_line, *sources_line]
        passed = _passed(dry_line, sources_line, plan, frame)
        if not passed.all():
            filled = line.fill_pauses(stems, passed, plan.channel.comfort_db if plan.sources else 0.0, plan.channel)
            floor_line, dry_line, wet_line, *sources_line = filled
            mixture = sum((wet_line, *sources_line), floor_line)
            shut = ~passed if plan.sources else None
    scale = _headroom(mixture, plan)
    mixture, beyond, gain = line.overload(mixture * np.float32(scale), plan.channel)
    mixture, headroom = add_correlated_noise(mixture, plan.channel.mnru_q_db, plan.channel.mnru_seed)
    scale *= gain * headroom
    sent = line.code(mixture, plan.channel)
    mixture, lost = line.lose_packets(sent, plan.channel)
    audible = line.audibly_lost(mixture, sent, lost, frame)
    samples = line.from_line(mixture, plan.channel)[: plan.samples]

    energies = [targets.frame_energy(s, frame) * scale**2 for s in (dry_line, wet_line, floor_line, *sources_line)]
    by_stem = dict(zip(("dry", "speech", "floor"), energies[:3], strict=True))
    by_source = list(zip(plan.sources, energies[3:], strict=True))
    by_stem |= {f"source{i}_{source.kind}": e for i, (source, e) in enumerate(by_source)}
    c50 = None if room is None else targets.clarity_c50_db(room, RATE_HZ)
    clipped, gone = (targets.frame_energy(marks.astype(np.float32), frame) for marks in (beyond, lost))
    talking = [_talking(parts, pool, plan.samples) for parts in (plan.speech, *(s.parts for s in plan.sources))]
    judged = label_targets(by_stem, by_source, bool(plan.speech), c50, clipped, gone, audible, talking)
    if shut is not None:
        judged = behind_gate(judged, shut, plan.channel)
    rest = floor_line + sum(sources_line, np.zeros(1, np.float32))
    parts = [line.from_line(part * np.float32(scale), plan.channel)[: plan.samples] for part in (wet_line, rest)]
    return Mixture(samples, judged, by_stem, c50, (parts[0], parts[1]))


def _on_line(
    dry: Float32, wet: Float32, floor: Float32, sources: list[Float32], plan: MixPlan
) -> tuple[Float32, Float32, Float32, list[Float32], Float32]:
    """Apply the linear stages of the line to each stem; return the stems and their sum, which excludes `dry`."""
    dry_line, floor_line = line.to_line(dry, plan.channel), line.to_line(floor, plan.channel)
    wet_line = dry_line if wet is dry else line.to_line(wet, plan.channel)
    sources_line = [line.to_line(stem, plan.channel) for stem in sources]
    agc = line.automatic_gain(len(dry_line), plan.channel)
    if agc is not None:
        dry_line, wet_line, floor_line, *sources_line = (
            stem * agc for stem in (dry_line, wet_line, floor_line, *sources_line)
        )
    mixture = wet_line + floor_line
    for stem in sources_line:
        mixture = mixture + stem
    if plan.channel.suppressor_db is not None and plan.speech:  # without speech, it could leave nothing to hear
        mixture, dry_line, wet_line, floor_line, *sources_line = suppress_noise(
            mixture,
            (mixture, dry_line, wet_line, floor_line, *sources_line),
            plan.channel.rate_hz,
            plan.channel.suppressor_db,
            plan.channel.suppressor_reach_db,
        )
    return dry_line, wet_line, floor_line, sources_line, mixture


def _passed(dry: Float32, sources: list[Float32], plan: MixPlan, frame: int) -> NDArray[np.bool_]:
    """Return the frames that a sender with silence suppression passes: those with a voice, also a second talker's."""
    energy = targets.frame_energy(dry, frame)
    speaking = targets.speech_activity(energy)
    level = targets.active_level_db(energy, speaking)
    if level is None:
        return np.ones(energy.size, dtype=bool)
    for source, stem in zip(plan.sources, sources, strict=True):
        if source.kind == "talker":
            speaking |= targets.presence(targets.frame_energy(stem, frame), level)[0]
    return line.passed_by_sender(speaking)


def _lay_parts(parts: tuple[Part, ...], pool: Pool, samples: int) -> Float32:
    out = np.zeros(samples, dtype=np.float32)
    for part in parts:
        body = pool.recordings[part.recording].samples.copy()
        edge = np.linspace(0.0, 1.0, EDGE_FADE, dtype=np.float32)
        body[:EDGE_FADE] *= edge
        body[-EDGE_FADE:] *= edge[::-1]
        start, stop = max(0, part.start), min(samples, part.start + len(body))
        if stop > start:
            out[start:stop] += body[start - part.start : stop - part.start]
    return out


def _talking(parts: tuple[Part, ...], pool: Pool, samples: int) -> Float64 | None:
    """Lay the VAD teacher's probabilities like the recordings, per frame; None unless it judged all of them."""
    judged = [pool.recordings[part.recording].talking for part in parts]
    if not judged or any(values is None for values in judged):
        return None
    out = np.zeros(samples // 320)
    for part, values in zip(parts, judged, strict=True):
        if values is None:
            continue
        first = (part.start + 160) // 320
        start, stop = max(0, first), min(out.size, first + values.size)
        if stop > start:
            out[start:stop] = np.maximum(out[start:stop], values[start - first : stop - first])
    return out


def _gain(stem: Float32, level_dbfs: float, sounding: bool) -> np.float32:
    """Return the gain that scales the active frames of a stem to a level."""
    if not sounding:
        return np.float32(0.0)
    energy = targets.frame_energy(stem, 320)
    loud = energy[energy > np.percentile(energy[energy > 1e-9], 95) * 1e-3] if (energy > 1e-9).any() else energy
    level = float(targets.to_db(np.asarray([loud.mean() if loud.size else 0.0]))[0])
    return np.float32(10.0 ** ((level_dbfs - level) / 20.0)) if level > -100.0 else np.float32(0.0)


def _response(room: RoomPlan, pool: Pool) -> Float32:
    """Return the impulse response with its tail (after the first 2 ms) attenuated."""
    response = pool.recordings[room.recording].samples[:MAX_ROOM_TAIL].copy()
    direct = int(np.argmax(np.abs(response))) + 32
    response[direct:] *= np.float32(room.tail_gain)
    return np.asarray(response / np.sqrt(np.sum(np.square(response))), dtype=np.float32)


def _in_room(stem: Float32, response: Float32) -> Float32:
    delay = int(np.argmax(np.abs(response)))
    return np.asarray(signal.fftconvolve(stem, response)[delay : delay + len(stem)], dtype=np.float32)


def _floor(plan: MixPlan, pool: Pool, rng: np.random.Generator) -> Float32:
    """Return room tone for the whole mixture, near the noise floor of the speech recordings."""
    if plan.floor_offset_db is None:
        return np.zeros(plan.samples, dtype=np.float32)
    if plan.speech:
        own = float(np.mean([pool.recordings[part.recording].floor_db for part in plan.speech])) - NORMAL_LEVEL_DBFS
        # Tightly cut recordings have no pause, so their measured floor is soft speech. A room tone louder than this
        # limit would train the model to treat steady noise as clean.
        level = plan.speech_dbfs + min(own, HIGHEST_FLOOR_DB) + plan.floor_offset_db
    else:
        level = -72.0 + plan.floor_offset_db
    level = max(level, MIN_FLOOR_DBFS)
    tone = room_tone(plan.samples, rng) if plan.bed is None else _looped(plan.bed, plan.samples, pool)
    rms = float(np.sqrt(np.mean(np.square(tone)))) or 1.0
    return tone * np.float32(10.0 ** (level / 20.0) / rms)


def _looped(bed: Part, samples: int, pool: Pool) -> Float32:
    """Repeat room tone with crossfades of constant power, starting at sample `bed.start` of the loop."""
    body = pool.recordings[bed.recording].samples
    fade = min(LOOP_FADE, len(body) // 2)
    rise = np.sin(np.linspace(0.0, np.pi / 2.0, fade)).astype(np.float32)
    loop = body[fade:].copy()  # its end runs into the beginning of the recording
    loop[-fade:] = loop[-fade:] * rise[::-1] + body[:fade] * rise
    return np.take(loop, np.arange(bed.start, bed.start + samples), mode="wrap")


def _source(source: SourcePlan, plan: MixPlan, pool: Pool) -> Float32:
    """Render one source at its level."""
    rng = np.random.default_rng(source.seed)
    start, stop = source.span
    if source.kind == "synth":
        body = np.zeros(plan.samples, dtype=np.float32)
        body[start:stop] = SYNTHS[source.synth](stop - start, rng)
    elif source.kind == "babble":
        body = _babble(source, plan, pool, rng)
    else:
        body = _lay_parts(source.parts, pool, plan.samples)
    if source.speed != 1.0:
        position = np.arange(plan.samples) * source.speed
        body = np.interp(position % (plan.samples - 1), np.arange(plan.samples), body).astype(np.float32)
    if source.tilt_db:
        body = _tilt(body, source.tilt_db)
    if source.room is not None:
        body = _in_room(body, _response(source.room, pool))
    window = np.zeros(plan.samples, dtype=np.float32)
    window[start:stop] = 1.0
    if source.fade:
        ramp = np.linspace(0.0, 1.0, source.fade, dtype=np.float32)
        window[start : start + source.fade] *= ramp
        window[stop - source.fade : stop] *= ramp[::-1]
    body *= window
    target = source.level_db + (plan.speech_dbfs if plan.speech else 0.0)
    return body * _gain(body, target, True)


def _babble(source: SourcePlan, plan: MixPlan, pool: Pool, rng: np.random.Generator) -> Float32:
    """Return a mix of many voices, each at a random level."""
    speakers: dict[str, list[Part]] = {}
    for part in source.parts:
        speakers.setdefault(pool.recordings[part.recording].stem.group, []).append(part)
    total = np.zeros(plan.samples, dtype=np.float32)
    for parts in speakers.values():
        total += _lay_parts(tuple(parts), pool, plan.samples) * np.float32(10.0 ** (rng.uniform(-6.0, 6.0) / 20.0))
    return total


def _tilt(stem: Float32, tilt_db: float) -> Float32:
    """Apply a first-order shelf around 1 kHz; positive values boost high frequencies."""
    gain = 10.0 ** (tilt_db / 20.0)
    warp = np.tan(np.pi * 1_000.0 / RATE_HZ)
    b = np.array([gain + warp, warp - gain]) / (1.0 + warp)
    a = np.array([1.0, (warp - 1.0) / (1.0 + warp)])
    return np.asarray(signal.lfilter(b, a, stem), dtype=np.float32)


def _headroom(mixture: Float32, plan: MixPlan) -> float:
    """Return the gain that keeps a mixture without planned overload below full scale."""
    peak = float(np.max(np.abs(mixture))) if mixture.size else 0.0
    return PEAK_LIMIT / peak if plan.channel.clip_share is None and peak > PEAK_LIMIT else 1.0
