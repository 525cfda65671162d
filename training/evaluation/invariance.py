"""Invariance of the verdict when only the transmission changes: gain, sample rate, codec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from speech_qc.audio.features import frame_levels_dbfs
from speech_qc.audio.g711 import decode_mulaw, encode_mulaw
from speech_qc.contract import ModelContract
from speech_qc.scoring import EventTracker, SummaryMeter, judge, load_profiles
from speech_qc.wire.vocabulary import Status
from training.evaluation.cases import RATE_HZ, Case
from training.evaluation.contenders import Contender, Judgement

Float32 = NDArray[np.float32]

GAIN_DB = 20.0
PEAK_LIMIT = 0.98  # the gain is limited here, because overload is a different fault
PROFILE = "default"
NO_LEVELS: Mapping[str, float | None] = MappingProxyType({})
"""All levels unknown, so that no level limit affects the verdict."""
SHARES = ("speech_ratio", "noise_ratio", "interference_ratio")


def louder(samples: Float32) -> Float32:
    """Raise the level by 20 dB, or as far as full scale allows."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples * np.float32(min(10.0 ** (GAIN_DB / 20.0), max(1.0, PEAK_LIMIT / peak if peak else 1.0)))


def softer(samples: Float32) -> Float32:
    """Lower the level by 20 dB."""
    return samples * np.float32(10.0 ** (-GAIN_DB / 20.0))


def at_8_khz(samples: Float32) -> Float32:
    """Resample to 8 kHz and back to 16 kHz, as the service reads an 8 kHz file."""
    return _same_length(soxr.resample(soxr.resample(samples, RATE_HZ, 8000), 8000, RATE_HZ), samples)


def through_mulaw(samples: Float32) -> Float32:
    """Pass the 8 kHz version through G.711; its reference is `at_8_khz`, to separate codec and bandwidth effects."""
    narrow = np.clip(soxr.resample(samples, RATE_HZ, 8000), -1.0, 32767 / 32768).astype(np.float32)
    return _same_length(soxr.resample(decode_mulaw(encode_mulaw(narrow)), 8000, RATE_HZ), samples)


def unchanged(samples: Float32) -> Float32:
    """Return the samples unchanged."""
    return samples


VARIANTS: Mapping[str, tuple[Callable[[Float32], Float32], Callable[[Float32], Float32]]] = MappingProxyType(
    {
        "gain +20 dB": (louder, unchanged),
        "gain -20 dB": (softer, unchanged),
        "8 kHz": (at_8_khz, unchanged),
        "G.711": (through_mulaw, at_8_khz),
    }
)
"""Each variant's change, and the reference that it is compared with."""


def invariance_figures(contender: Contender, cases: Sequence[Case]) -> dict[str, Any]:
    """Measure per variant: share of unchanged verdicts, changes of verdict, mean change of shares and of the SNR.

    The verdict uses the service's default profile without its level limits, because a gain is bound to change levels.
    """
    contract = contender.contract
    if contract is None:
        return {}
    known: dict[Callable[[Float32], Float32], list[tuple[Status, Judgement]]] = {}

    def verdicts(change: Callable[[Float32], Float32]) -> list[tuple[Status, Judgement]]:
        if change not in known:
            changed = [replace(case, samples=change(case.samples).astype(np.float32)) for case in cases]
            said = contender.judge(changed)
            known[change] = [(verdict(contract, c, j), j) for c, j in zip(changed, said, strict=True)]
        return known[change]

    figures: dict[str, Any] = {}
    for name, (change, reference) in VARIANTS.items():
        pairs = list(zip(verdicts(reference), verdicts(change), strict=True))
        moved = Counter(f"{old} to {new}" for (old, _), (new, _) in pairs if old != new)
        figures[name] = {
            "cases": len(pairs),
            "same_verdict": round(1.0 - sum(moved.values()) / len(pairs), 4),
            "changed": dict(moved.most_common()),
            **{key: _mean_change(key, pairs) for key in (*SHARES, "snr_db")},
        }
    return figures


def verdict(contract: ModelContract, case: Case, judgement: Judgement) -> Status:
    """Return the service's verdict on a case."""
    rows = np.ascontiguousarray(np.stack([judgement.frames[name] for name in contract.label_names], axis=1))
    levels = frame_levels_dbfs(case.samples, contract.features)
    meter, tracker = SummaryMeter(contract), EventTracker(contract)
    meter.push(rows, levels)
    updates = [*tracker.push(rows, levels), *tracker.finish()]
    counts = Counter(update.event.label for update in updates if update.phase == "end")
    # Built-in profiles, so that figures do not depend on the machine's settings.
    profile = load_profiles().get(PROFILE)
    return judge(profile, duration_s=case.seconds, summary=meter.result(), levels=NO_LEVELS, event_counts=counts).status


def _mean_change(key: str, pairs: Sequence[tuple[tuple[Status, Judgement], tuple[Status, Judgement]]]) -> float | None:
    both = [(a.whole[key], b.whole[key]) for (_, a), (_, b) in pairs if key in a.whole and key in b.whole]
    return round(float(np.mean([abs(b - a) for a, b in both])), 4) if both else None


def _same_length(samples: Float32, like: Float32) -> Float32:
    out = np.zeros_like(like)
    count = min(len(out), len(samples))
    out[:count] = samples[:count]
    return out
