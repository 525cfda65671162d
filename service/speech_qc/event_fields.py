"""An event of a channel as the fields of `EventAnswer`; recordings, streams and calls share it."""

from __future__ import annotations

from typing import Any

from speech_qc.scoring import Event
from speech_qc.scoring.details import DropoutDetail, EventDetail
from speech_qc.wire.schemas import DropoutDetailAnswer, ToneDetailAnswer


def event_fields(event: Event) -> dict[str, Any]:
    """Return the fields of `EventAnswer`, rounded, without its evidence."""
    detail = {} if event.detail is None else {"detail": _detail(event.detail)}
    return detail | {
        "event_id": event.event_id,
        "label": event.label,
        "family": event.family,
        "onset_s": round(event.onset_s, 3),
        "offset_s": None if event.offset_s is None else round(event.offset_s, 3),
        "score_max": _probability(event.score_max),
        "score_mean": _probability(event.score_mean),
        "severity": event.severity,
    }


def _detail(detail: EventDetail) -> DropoutDetailAnswer | ToneDetailAnswer:
    if isinstance(detail, DropoutDetail):
        return DropoutDetailAnswer(kind=detail.kind, gap_ms=round(detail.gap_ms, 1))
    frequencies = [round(frequency, 1) for frequency in detail.frequencies_hz]
    return ToneDetailAnswer(kind=detail.kind, frequencies_hz=frequencies, digits=detail.digits)


def _probability(score: float) -> float:
    """Round a score; a model's sigmoid may exceed 1 by a rounding error, which the type would reject."""
    return round(min(max(score, 0.0), 1.0), 4)
