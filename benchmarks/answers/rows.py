"""The rows of the table: what is disturbed how, what counts as right, and how often it must be right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from answers import bandwidth, losses, nuisances, synthesis, zeros
from answers.judge import (
    Inspect,
    badness,
    dropouts,
    finds_loss,
    inspect_mix,
    labels,
    names_bandwidth,
    names_cancellation,
)
from answers.pool import Pool, Speech
from answers.signal import Sound, through_codec

SECONDS = 8.0
CALL_SECONDS = 20.0  # long enough for five lost packets at 0.5 %


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one trial gave.

    Args:
        value: 1 or 0 for a share; a count for a rate.
        talkers: Who talked.
        minutes: Length of the sound, for a rate.
    """

    value: float
    talkers: frozenset[str]
    minutes: float = 0.0


Trial = Callable[[Pool, np.random.Generator, Inspect, int], Outcome]
"""Makes one sound, has it inspected and looks at the answer; the last argument is the number of the trial."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Args:
        key: Short name, for `--rows`.
        about: What is measured.
        bound: The target: a share, or events per minute.
        at_least: Whether the result must reach the bound, or stay below it.
        trial: Runs one trial.
        per_minute: Whether the result is a rate.
    """

    key: str
    about: str
    bound: float
    at_least: bool
    trial: Trial
    per_minute: bool = False


Make = Callable[[Speech, np.random.Generator], Sound]
Judge = Callable[[Any, Sound], bool]


def _asked(make: Make, right: Judge, profile: str = "default", *, rate_hz: int = 16_000, seconds: float = SECONDS,
           codec: str | None = None) -> Trial:  # fmt: skip
    """Return a trial on joined speech: make a sound at a rate, perhaps encode it, inspect it, and judge the answer."""

    def trial(pool: Pool, rng: np.random.Generator, inspect: Inspect, _: int) -> Outcome:
        speech = pool.speech(rng, seconds).at(rate_hz)
        sound = make(speech, rng)
        if codec is not None:
            sound = Sound(through_codec(sound.samples, sound.rate_hz, codec), sound.rate_hz, sound.span_s)
        return Outcome(float(right(inspect(sound, profile), sound)), speech.talkers)

    return trial


def _has_dropout(result: Any, _: Sound) -> bool:
    return dropouts(result) > 0


def _found(result: Any, sound: Sound) -> bool:
    return finds_loss(result, sound.span_s)


def _status(*statuses: str) -> Judge:
    return lambda result, _: result.verdict.status in statuses


def _plain(speech: Speech, _: np.random.Generator) -> Sound:
    return Sound(speech.samples, speech.rate_hz)


def _fan(pool: Pool, speech: Speech, rng: np.random.Generator, snr_db: float) -> Sound:
    """Add a fan: half of the time a recorded one, if the pool has any, and half of the time shaped noise."""
    recorded = pool.noise(rng, nuisances.FAN_CLASSES, len(speech.samples)) if rng.random() < 0.5 else None
    noise = nuisances.fan_noise(rng, len(speech.samples), speech.rate_hz) if recorded is None else recorded
    return nuisances.with_fan(speech.samples, speech.rate_hz, noise, snr_db)


def _fan_passes(pool: Pool, rng: np.random.Generator, inspect: Inspect, _: int) -> Outcome:
    speech = pool.speech(rng, SECONDS)
    return Outcome(float(inspect(_fan(pool, speech, rng, 25)).verdict.status == "pass"), speech.talkers)


def _fan_worse_than_hum(pool: Pool, rng: np.random.Generator, inspect: Inspect, _: int) -> Outcome:
    speech = pool.speech(rng, SECONDS)
    fan = inspect(_fan(pool, speech, rng, 5))
    hum = inspect(nuisances.with_hum(speech.samples, speech.rate_hz, rng, 20))
    return Outcome(float(badness(fan) > badness(hum)), speech.talkers)


def _whine_named(pool: Pool, rng: np.random.Generator, inspect: Inspect, _: int) -> Outcome:
    speech = pool.speech(rng, SECONDS).at(48_000)
    whine = nuisances.with_whistle(speech.samples, 48_000, rng, float(rng.uniform(0, 20)), (9_000, 20_000))
    with_it, without = (inspect(sound, "broadcast") for sound in (whine, Sound(speech.samples, 48_000)))
    new = {reason.code for reason in with_it.verdict.reasons} - {reason.code for reason in without.verdict.reasons}
    return Outcome(float(with_it.verdict.status != "pass" and bool(new)), speech.talkers)


def _cancellation_named(pool: Pool, rng: np.random.Generator, _: Inspect, __: int) -> Outcome:
    speech = pool.speech(rng, SECONDS)
    result = inspect_mix(nuisances.opposite_legs(speech.samples, rng), speech.rate_hz)
    return Outcome(float(names_cancellation(result)), speech.talkers)


def _hiss_is_silence(_: Pool, rng: np.random.Generator, inspect: Inspect, __: int) -> Outcome:
    rate = int(rng.choice([8_000, 16_000]))
    hiss = nuisances.hiss_alone(rng, rate, SECONDS)
    silence = Sound(np.zeros_like(hiss.samples), rate)
    return Outcome(float(inspect(hiss).verdict.status == inspect(silence).verdict.status), frozenset())


def _edge_zeros(pool: Pool, rng: np.random.Generator, inspect: Inspect, number: int) -> Outcome:
    """Take the pool's own recordings that end or begin in zeros, each once, then others with 20 to 45 ms put there."""
    found = pool.ending_in_zeros()
    if number < len(found):
        speech = found[number]
        sound = Sound(speech.samples, speech.rate_hz)
    else:
        speech = pool.recording(rng)
        sound = zeros.padded(speech.samples, speech.rate_hz, rng, (0.02, 0.045))
    return Outcome(float(dropouts(inspect(sound)) > 0), speech.talkers)


def _espeak(_: Pool, rng: np.random.Generator, inspect: Inspect, __: int) -> Outcome:
    sound = synthesis.espeak(rng, SECONDS)
    return Outcome(dropouts(inspect(sound)), frozenset(), sound.seconds / 60)


def _tone_alone(make: Make) -> Trial:
    def right(result: Any, _: Sound) -> bool:
        found = labels(result)
        return result.verdict.status in ("pass", "warn") and "tone" in found and "music" not in found

    return _asked(make, right)


def _loss_rows() -> list[Row]:
    lines = (("16k", 16_000, None), ("8k", 8_000, None), ("mulaw", 8_000, "ULAW"), ("48k", 48_000, None))
    names = {"16k": "16 kHz", "8k": "8 kHz", "mulaw": "µ-law 8 kHz", "48k": "48 kHz"}
    rows = []
    for lost_s, bound in ((0.02, 0.95), (0.06, 0.98)):
        for key, rate, codec in lines:
            make = (lambda lost: lambda s, rng: losses.zeroed(s.samples, s.rate_hz, rng, lost))(lost_s)
            ms = round(lost_s * 1000)
            rows.append(
                Row(f"lost{ms}_{key}", f"{ms} ms lost in loud speech, {names[key]}: found", bound, True,
                    _asked(make, _found, rate_hz=rate, codec=codec))
            )  # fmt: skip
    for key, rate, codec in lines[:2]:
        rows.append(
            Row(f"concealed60_{key}", f"60 ms concealed by repeating and fading, {names[key]}: found", 0.70, True,
                _asked(lambda s, rng: losses.concealed(s.samples, s.rate_hz, rng), _found, rate_hz=rate, codec=codec))
        )  # fmt: skip
    rows.append(
        Row("hole", "hole of 0.5 to 1.5 s in words, 16 kHz: found", 0.97, True,
            _asked(lambda s, rng: losses.hole(s.samples, s.rate_hz, rng), _found))
    )  # fmt: skip
    for share, bound in ((0.05, 0.97), (0.10, 1.0)):
        rows.append(
            Row(f"call_{share * 100:g}pct", f"8 kHz, {share * 100:g} % of packets lost, `callcenter`: not passed",
                bound, True, _asked(_share(share), _status("warn", "fail"), "callcenter", rate_hz=8_000))
        )  # fmt: skip
    rows.append(
        Row("call_0.5pct", "8 kHz, 0.5 % of packets lost, `callcenter`: `fail`", 0.02, False,
            _asked(_share(0.005), _status("fail"), "callcenter", rate_hz=8_000, seconds=CALL_SECONDS))
    )  # fmt: skip
    return rows


def _share(share: float) -> Make:
    return lambda speech, rng: losses.share_lost(speech.samples, speech.rate_hz, rng, share)


def _quiet_rows() -> list[Row]:
    """Return the rows in which a dropout is false."""
    makes: dict[str, tuple[str, Make]] = {
        "cut_zeros": ("speech cut in a word, 20 to 500 ms of zeros before or after",
                      lambda s, rng: zeros.cut_in_word(s.samples, s.rate_hz, rng)),
        "adpcm_padding": ("speech cut in a word, padded by MS ADPCM",
                          lambda s, rng: zeros.block_padding(s.samples, s.rate_hz, rng)),
        "gated": ("pauses gated to digital zero", lambda s, rng: zeros.gated(s.samples, s.rate_hz, rng)),
        "dtx": ("pauses not transmitted (DTX)", lambda s, rng: zeros.dtx(s.samples, s.rate_hz, rng)),
        "comfort": ("comfort noise in the pauses", lambda s, rng: zeros.comfort_noise(s.samples, s.rate_hz, rng)),
        "clean_dropout": ("clean speech", _plain),
    }  # fmt: skip
    rows = [
        Row(key, f"{about}, {rate // 1000} kHz: a false dropout", 0.02, False, _asked(make, _has_dropout, rate_hz=rate))
        for key, rate, (about, make) in (
            (f"{name}_{rate // 1000}k", rate, made) for name, made in makes.items() for rate in (16_000, 8_000)
        )
    ]
    edges = Row("edge_zeros", "recordings that end or begin in 20 to 45 ms of zeros: a false dropout", 0.02, False,
                _edge_zeros)  # fmt: skip
    return [edges, *rows]


def _nuisance_rows() -> list[Row]:
    hum, whistle = nuisances.with_hum, nuisances.with_whistle
    return [
        Row("fan5_hum20", "a fan at 5 dB judged worse than a hum at 20 dB", 0.97, True, _fan_worse_than_hum),
        Row("hum30", "a hum 30 dB below the speech: `pass`", 0.95, True,
            _asked(lambda s, rng: hum(s.samples, s.rate_hz, rng, 30), _status("pass"))),
        Row("fan25", "a fan 25 dB below the speech: `pass`", 0.95, True, _fan_passes),
        Row("hum20_tone", "a hum 20 dB below: `pass` or `warn`, `tone` without `music`", 0.95, True,
            _tone_alone(lambda s, rng: hum(s.samples, s.rate_hz, rng, 20))),
        Row("whistle30_tone", "a whistle 30 dB below: `pass` or `warn`, `tone` without `music`", 0.95, True,
            _tone_alone(lambda s, rng: whistle(s.samples, s.rate_hz, rng, 30, (700, 2_500)))),
        Row("whine_48k", "a whine of 9 to 20 kHz, 0 to 20 dB below, `broadcast`: not passed, with a reason of its own",
            0.95, True, _whine_named),
        Row("reverb", "reverberation of 2.2 s: not passed", 0.95, True,
            _asked(lambda s, rng: nuisances.reverberant(s.samples, s.rate_hz, rng), _status("warn", "fail"))),
        Row("polarity", "two legs of opposite polarity mixed: not passed, the cancellation named", 0.95, True,
            _cancellation_named),
        Row("hiss_line", "hiss at −95 to −80 dBFS alone: the status of digital silence", 0.95, True, _hiss_is_silence),
        Row("clean", "clean speech, 16 kHz: `pass`", 0.98, True, _asked(_plain, _status("pass"))),
        Row("clean_call", "clean speech, µ-law 8 kHz, `callcenter`: `pass`", 0.98, True,
            _asked(_plain, _status("pass"), "callcenter", rate_hz=8_000, codec="ULAW")),
    ]  # fmt: skip


def _upsampled(way: str, to_hz: int = 16_000, *, hiss: bool = False) -> Make:
    return lambda s, rng: bandwidth.upsampled(s.samples, s.rate_hz, rng, way, to_hz, hiss=hiss)


def _any_way_to_48k(speech: Speech, rng: np.random.Generator) -> Sound:
    way = list(bandwidth.UPSAMPLERS)[rng.integers(len(bandwidth.UPSAMPLERS))]
    return bandwidth.upsampled(speech.samples, speech.rate_hz, rng, way, 48_000, hiss=bool(rng.random() < 0.3))


def _bandwidth_rows() -> list[Row]:
    def right(result: Any, _: Sound) -> bool:
        return names_bandwidth(result)

    about = "upsampled from 8 kHz, `dataset` fails its bandwidth: "
    rows = [
        Row(f"up_{way}", about + way, 0.95, True, _asked(_upsampled(way), right, "dataset"))
        for way in bandwidth.UPSAMPLERS
    ]
    hiss = _asked(_upsampled("polyphase", hiss=True), right, "dataset")
    rows.append(Row("up_hiss", about + "polyphase and hiss at −75 dBFS", 0.95, True, hiss))
    rows.append(Row("up_48k", about + "any of these, to 48 kHz", 0.95, True, _asked(_any_way_to_48k, right, "dataset")))
    wide = "wide-band speech, `dataset` fails its bandwidth"
    rows.append(Row("wide_band", wide + ", 16 kHz", 0.02, False, _asked(_plain, right, "dataset")))
    return rows


def all_rows() -> list[Row]:
    """Return the rows in the order of the table."""
    espeak = Row("espeak", "espeak-ng, zeros in stop closures: dropouts per minute", 2.0, False, _espeak, True)
    return [*_quiet_rows(), espeak, *_loss_rows(), *_nuisance_rows(), *_bandwidth_rows()]
