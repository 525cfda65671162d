"""Questions about what the service answered: its events, verdict, reasons and summary, through the public API only."""

from __future__ import annotations

import json
from typing import Any, Protocol

import speech_qc
from answers.signal import Float64, Sound, as_int16

TOLERANCE_S = 0.02  # between a loss and the event that reports it
STATUS_ORDER = ("pass", "unknown", "warn", "fail")


class Inspect(Protocol):
    """Inspects a sound with a profile."""

    def __call__(self, sound: Sound, profile: str = "default") -> Any:
        """Return the `speech_qc.Inspection`."""


def inspect(sound: Sound, profile: str = "default") -> Any:
    """Return the `speech_qc.Inspection` of a sound in 16 bits."""
    return speech_qc.inspect(as_int16(sound.samples), sound.rate_hz, profile=profile, frames=False)


def inspect_mix(samples: Float64, rate_hz: int) -> Any:
    """Return the `speech_qc.Inspection` of the mean of several channels, (n, channels)."""
    return speech_qc.inspect(as_int16(samples), rate_hz, channels="mix", frames=False)


def labels(result: Any) -> set[str]:
    """Return the labels of the events of a one-channel result."""
    return {event.label for event in result.channels[0].events}


def dropouts(result: Any) -> int:
    """Return the number of dropout events."""
    return sum(event.label == "dropout" for event in result.channels[0].events)


def finds_loss(result: Any, span_s: tuple[float, float] | None) -> bool:
    """Return whether a dropout event overlaps the loss, or comes within 20 ms of it."""
    if span_s is None:
        raise ValueError("expected a sound with a loss, got one without")
    return any(
        event.label == "dropout"
        and event.onset_s <= span_s[1] + TOLERANCE_S
        and event.offset_s >= span_s[0] - TOLERANCE_S
        for event in result.channels[0].events
    )


def codes(result: Any) -> tuple[str, ...]:
    """Return the codes of the verdict's reasons."""
    return tuple(reason.code for reason in result.verdict.reasons)


def badness(result: Any) -> tuple[int, float]:
    """Return a key by which worse verdicts sort last: the status, then `quality`.

    Versions without `quality` in the summary sort by their number of reasons instead.
    """
    quality = getattr(result.channels[0].summary, "quality", None)
    second = float(len(result.verdict.reasons)) if quality is None else -float(quality)
    return STATUS_ORDER.index(result.verdict.status), second


def names_bandwidth(result: Any) -> bool:
    """Return whether the verdict fails and a reason is the bandwidth."""
    return result.verdict.status == "fail" and any(code.startswith("bandwidth") for code in codes(result))


def names_cancellation(result: Any) -> bool:
    """Return whether the verdict is not passed and the answer says that the channels cancel each other out."""
    answer = result.to_dict()
    said = json.dumps([answer.get("warnings"), [channel["verdict"] for channel in answer["channels"]]])
    return result.verdict.status in ("warn", "fail") and ("polarity" in said or "cancel" in said)
