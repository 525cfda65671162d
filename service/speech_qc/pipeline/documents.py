"""An inspection as documents: the JSON answer, and the plain report that the label exports are made from.

The server and the command line share it, so that a file inspected here and one uploaded read the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.contract import ModelContract
from service.errors import ProtocolError
from service.explain import Evidence
from service.inspection import Inspection
from service.scoring import FRAME_DECIMALS, ChannelReport, Event, Report
from service.session import ChannelRecord


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model gave an answer."""

    name: str
    version: str
    sha256: str


def choose_labels(contract: ModelContract, wanted: str | None) -> tuple[str, ...]:
    """Labels of a comma-separated list, in the model's order; all without one.

    Raises:
        ProtocolError: The model has no such label; lists those it has.
    """
    names = contract.label_names
    if wanted is None or not wanted.strip():
        return names
    asked = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = sorted(set(asked) - set(names))
    if unknown:
        raise ProtocolError(
            f"expected labels out of {', '.join(names)}; came {', '.join(map(repr, unknown))}; "
            "GET /v1/model lists them",
            unknown=unknown,
            known=list(names),
        )
    return tuple(name for name in names if name in asked)


def frame_columns(contract: ModelContract, frames: NDArray[np.float32], labels: Sequence[str]) -> dict[str, Any]:
    """Frames by label as rounded float32 arrays (M,), NaN where there is no value."""
    return {name: np.ascontiguousarray(np.round(frames[:, contract.index(name)], FRAME_DECIMALS)) for name in labels}


def evidence_document(evidence: Evidence) -> dict[str, Any]:
    """What speaks for one event, as the API shows it."""
    band = evidence.band
    return {
        "band": None
        if band is None
        else {"low_hz": round(band.low_hz), "high_hz": round(band.high_hz), "against": band.against},
        "over_floor_db": _rounded(evidence.over_floor_db, 1),
        "snr_db": _rounded(evidence.snr_db, 1),
        "kind": evidence.kind,
        "kind_score": _rounded(evidence.kind_score, 4),
        "unknown": dict(evidence.unknown),
    }


def event_document(event: Event, evidence: Evidence | None = None) -> dict[str, Any]:
    """One event as the API shows it, with what speaks for it where that was asked for."""
    document: dict[str, Any] = {
        "event_id": event.event_id,
        "label": event.label,
        "family": event.family,
        "onset_s": round(event.onset_s, 3),
        "offset_s": None if event.offset_s is None else round(event.offset_s, 3),
        "score_max": round(event.score_max, 4),
        "score_mean": round(event.score_mean, 4),
        "severity": event.severity,
    }
    if evidence is not None:
        document["evidence"] = evidence_document(evidence)
    return document


def channel_document(
    contract: ModelContract,
    channel: int,
    record: ChannelRecord,
    labels: Sequence[str],
    *,
    frames: bool,
    evidence: Sequence[Evidence] | None = None,
) -> dict[str, Any]:
    """One channel as the API shows it; `evidence` is for its events, in their order."""
    document: dict[str, Any] = {"channel": channel}
    if frames and record.frames is not None:
        document["frames"] = frame_columns(contract, record.frames, labels)
    reasons: Sequence[Evidence | None] = [None] * len(record.events) if evidence is None else evidence
    document["events"] = [
        event_document(event, reason)
        for event, reason in zip(record.events, reasons, strict=True)
        if event.label in labels
    ]
    if record.events_dropped:
        document["events_dropped"] = record.events_dropped
    document["levels"] = {name: _rounded(value) for name, value in asdict(record.levels).items()}
    summary = record.summary
    document["summary"] = {
        name: _rounded(getattr(summary, name))
        for name in ("speech_ratio", "noise_ratio", "interference_ratio", "snr_db", "sig", "bak", "ovrl")
    } | {"unknown": dict(summary.reasons)}
    document["verdict"] = {
        "status": record.verdict.status,
        "reasons": [
            {
                "code": reason.code,
                "message": reason.message,
                "label": reason.label,
                "value": _rounded(reason.value),
                "limit": reason.limit,
            }
            for reason in record.verdict.reasons
        ],
    }
    return document


def inspection_document(
    inspection: Inspection,
    contract: ModelContract,
    model: ModelIdentity,
    *,
    request_id: str,
    labels: Sequence[str],
    frames: bool = True,
) -> dict[str, Any]:
    """The whole answer; frames are NumPy arrays, so encode it with `to_json`."""
    audio = inspection.audio
    return {
        "request_id": request_id,
        "model": asdict(model),
        "audio": {
            "duration_s": round(inspection.duration_s, 6),
            "sample_rate_hz": audio.sample_rate_hz,
            "channels": audio.channels,
            "encoding": audio.encoding,
            "frames": inspection.frame_total,
        },
        "frame_hop_s": contract.features.frame_hop_s,
        "channels": [
            channel_document(
                contract,
                channel,
                record,
                labels,
                frames=frames,
                evidence=None if inspection.evidence is None else inspection.evidence[channel],
            )
            for channel, record in enumerate(inspection.channels)
        ],
        "timing": {name: round(value, 6) for name, value in asdict(inspection.timing).items()},
    }


def to_json(document: dict[str, Any]) -> bytes:
    """Encode a document with arrays in it; NaN becomes null."""
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def export_report(
    inspection: Inspection, contract: ModelContract, name: str, labels: Sequence[str], *, frames: bool = False
) -> Report:
    """The inspection as the label exports need it."""
    channels = []
    for channel, record in enumerate(inspection.channels):
        columns = None
        if frames and record.frames is not None:
            arrays = frame_columns(contract, record.frames, labels)
            columns = {
                label: [None if np.isnan(value) else float(value) for value in array] for label, array in arrays.items()
            }
        chosen = [event for event in record.events if event.label in labels]
        channels.append(ChannelReport(channel, chosen, columns))
    return Report(name, inspection.duration_s, channels, contract.features.frame_hop_s)


def _rounded(value: float | None, digits: int = 5) -> float | None:
    return None if value is None else round(value, digits)
