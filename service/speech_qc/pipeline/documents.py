"""Converts an inspection to documents: the JSON document, and the report from which label exports are written.

Built from the types of `speech_qc.wire.schemas`. Server, command line and Python API share it, so all three return the
same document for a recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.levels import NO_AUDIO, REASONS
from speech_qc.audio.stereo import Stereo
from speech_qc.contract import ModelContract
from speech_qc.engine import Model
from speech_qc.errors import ProtocolError
from speech_qc.event_fields import event_fields
from speech_qc.pipeline.capture_documents import capture_answer
from speech_qc.pipeline.explain import Evidence
from speech_qc.pipeline.gaps import Transport
from speech_qc.pipeline.recording import RecordingFindings, Timing
from speech_qc.pipeline.session import ChannelRecord
from speech_qc.scoring import FRAME_DECIMALS, ChannelReport, EventUpdate, Profiles, Report, Summary, Verdict
from speech_qc.wire.schemas import (
    AudioAnswer,
    AudioWarningAnswer,
    BandAnswer,
    ChannelAnswer,
    ChannelFindings,
    EventAnswer,
    EvidenceAnswer,
    GapAnswer,
    InspectAnswer,
    LevelsAnswer,
    ModelAnswer,
    ModelInfo,
    ReasonAnswer,
    StereoAnswer,
    SummaryAnswer,
    TimingAnswer,
    TransportAnswer,
    VerdictAnswer,
)
from speech_qc.wire.server_messages import EventMessage
from speech_qc.wire.vocabulary import GapKind


def model_info(model: Model) -> ModelInfo:
    """Return name, version and checksum of a loaded model."""
    return ModelInfo(name=model.contract.name, version=model.contract.version, sha256=model.sha256)


def model_answer(model: Model, profiles: Profiles, default_profile: str) -> ModelAnswer:
    """Describe a loaded model, as `GET /v1/model` and `speech-qc model --json` do."""
    contract = model.contract
    return ModelAnswer(
        model=model_info(model),
        provider=model.provider,
        provider_fallback=model.provider_fallback,
        latency_s=contract.latency_s,
        frame_hop_s=contract.features.frame_hop_s,
        profiles=list(profiles.names),
        default_profile=default_profile,
        contract=contract,
    )


def choose_labels(contract: ModelContract, wanted: str | None) -> tuple[str, ...]:
    """Return the labels of a comma-separated list, in the model's order; all labels if there is no list.

    Raises:
        ProtocolError: The model has no such label, or the list is empty; the message lists the labels of the model.
    """
    names = contract.label_names
    if wanted is None or not wanted.strip():
        return names
    asked = [name.strip() for name in wanted.split(",") if name.strip()]
    unknown = sorted(set(asked) - set(names))
    if unknown or not asked:
        raise ProtocolError(
            f"expected labels from {', '.join(names)}; got {', '.join(map(repr, unknown or [wanted]))}: "
            "choose among these, or leave it out to get all labels",
            unknown=unknown,
            known=list(names),
        )
    return tuple(name for name in names if name in asked)


def frame_columns(contract: ModelContract, frames: NDArray[np.float32], labels: Sequence[str]) -> dict[str, Any]:
    """Return frames by label as rounded float32 arrays (M,), NaN where there is no value."""
    return {name: np.ascontiguousarray(np.round(frames[:, contract.index(name)], FRAME_DECIMALS)) for name in labels}


def event_message(channel: int, update: EventUpdate) -> EventMessage:
    """Build the message of a live event that has begun or ended."""
    return EventMessage(phase=update.phase, channel=channel, **event_fields(update.event))


def channel_fields(
    channel: int, record: ChannelRecord, labels: Sequence[str], evidence: Sequence[Evidence] | None = None
) -> dict[str, Any]:
    """Return the fields of `ChannelFindings` for one channel.

    Args:
        channel: Index of the channel.
        record: Results of the channel.
        labels: Labels whose events are listed.
        evidence: One entry for each event of the record, in order; None if it was not requested.
    """
    reasons: Sequence[Evidence | None] = [None] * len(record.events) if evidence is None else evidence
    fields: dict[str, Any] = {
        "channel": channel,
        "events": [
            EventAnswer(**event_fields(event) | ({} if reason is None else {"evidence": _evidence(reason)}))
            for event, reason in zip(record.events, reasons, strict=True)
            if event.label in labels
        ],
    }
    if record.events_dropped:
        fields["events_dropped"] = record.events_dropped
    fields["levels"] = _levels(record)
    fields["summary"] = _summary(record.summary, record.verdict)
    fields["verdict"] = _verdict(record.verdict)
    if record.transport is not None:
        fields["transport"] = _transport(record.transport)
    return fields


def _transport(transport: Transport) -> TransportAnswer:
    fields: dict[str, Any] = {
        f"{kind}_ms": round(1000 * transport.missing_s.get(kind, 0.0), 1) for kind in get_args(GapKind)
    }
    if transport.spans_dropped:
        fields["gaps_dropped"] = transport.spans_dropped
    return TransportAnswer(
        missing_ms=round(1000 * sum(transport.missing_s.values()), 1),
        missing_ratio=_rounded(transport.share),
        gaps=[
            GapAnswer(kind=span.kind, start_s=round(span.start_s, 4), stop_s=round(span.stop_s, 4))
            for span in transport.spans
        ],
        late=transport.late,
        duplicates=transport.duplicates,
        reordered=transport.reordered,
        restarts=transport.restarts,
        drift_ppm=transport.drift_ppm,
        **fields,
    )


def channel_findings(channel: int, record: ChannelRecord, labels: Sequence[str]) -> ChannelFindings:
    """Return one channel as in the summary of a stream."""
    return ChannelFindings(**channel_fields(channel, record, labels))


def timing_answer(timing: Timing) -> TimingAnswer:
    """Return the seconds spent, rounded to microseconds."""
    return TimingAnswer(**{name: round(value, 6) for name, value in asdict(timing).items()})


def inspection_document(
    inspection: RecordingFindings,
    contract: ModelContract,
    model: ModelInfo,
    *,
    request_id: str,
    profile: str,
    labels: Sequence[str],
    frames: bool = True,
) -> dict[str, Any]:
    """Return the whole document; frames are NumPy arrays, so encode it with `wire.encode.to_json`.

    The frames are added after the types have been dumped: converting hours of arrays to lists of validated numbers
    would take longer than scoring them.
    """
    audio, evidence = inspection.audio, inspection.evidence
    document = InspectAnswer(
        request_id=request_id,
        model=model,
        profile=profile,
        audio=AudioAnswer(
            duration_s=round(inspection.duration_s, 6),
            sample_rate_hz=audio.sample_rate_hz,
            channels=audio.channels,
            encoding=audio.encoding,
            frames=inspection.frame_total,
        ),
        frame_hop_s=contract.features.frame_hop_s,
        warnings=[AudioWarningAnswer(code=warning.code, message=warning.message) for warning in inspection.warnings],
        channels=[
            ChannelAnswer(
                **channel_fields(channel, record, labels, None if evidence is None else evidence[channel]),
                **_role(inspection, channel),
            )
            for channel, record in enumerate(inspection.channels)
        ],
        timing=timing_answer(inspection.timing),
        **_interaction(inspection),
        **stereo_fields(inspection.stereo),
        **_capture_fields(inspection),
    ).model_dump(exclude_unset=True)
    if frames:
        document["channels"] = [
            answer
            if record.frames is None
            else {"channel": answer["channel"], "frames": frame_columns(contract, record.frames, labels)} | answer
            for answer, record in zip(document["channels"], inspection.channels, strict=True)
        ]
    return document


def _interaction(inspection: RecordingFindings) -> dict[str, Any]:
    return {} if inspection.interaction is None else {"interaction": inspection.interaction}


def _role(inspection: RecordingFindings, channel: int) -> dict[str, Any]:
    return {} if inspection.interaction is None else {"role": inspection.interaction.legs[channel].role}


def _capture_fields(inspection: RecordingFindings) -> dict[str, Any]:
    return {} if inspection.capture is None else {"capture": capture_answer(inspection.capture)}


def _evidence(evidence: Evidence) -> EvidenceAnswer:
    band = evidence.band
    return EvidenceAnswer(
        band=None
        if band is None
        else BandAnswer(low_hz=round(band.low_hz), high_hz=round(band.high_hz), against=band.against),
        over_floor_db=_rounded(evidence.over_floor_db, 1),
        snr_db=_rounded(evidence.snr_db, 1),
        kind=evidence.kind,
        kind_score=_rounded(evidence.kind_score, 4),
        unknown=dict(evidence.unknown),
    )


def _summary(summary: Summary, verdict: Verdict) -> SummaryAnswer:
    others = {"quality", "snr_by_kind_db", "unknown"}
    figures = {name: _rounded(getattr(summary, name)) for name in SummaryAnswer.model_fields if name not in others}
    unknown = dict(summary.reasons)
    if verdict.quality is None:
        unknown["quality"] = "the verdict is unknown"
    return SummaryAnswer(
        quality=verdict.quality,
        **figures,
        snr_by_kind_db={kind: round(value, 5) for kind, value in summary.snr_by_kind_db.items()},
        unknown=unknown,
    )


def _levels(record: ChannelRecord) -> LevelsAnswer:
    figures = asdict(record.levels)
    unknown = {
        name: REASONS[name] if record.duration_s and name in REASONS else NO_AUDIO
        for name, value in figures.items()
        if value is None
    }
    return LevelsAnswer(**{name: _rounded(value) for name, value in figures.items()}, unknown=unknown)


def stereo_fields(stereo: Stereo | None) -> dict[str, Any]:
    """Return the comparison of two channels as a field; no field if there are not two."""
    if stereo is None:
        return {}
    answer = StereoAnswer(
        correlation=_rounded(stereo.correlation, 4),
        imbalance_db=_rounded(stereo.imbalance_db, 2),
        inverted=stereo.inverted,
        unknown=stereo.reasons,
    )
    return {"stereo": answer}


def _verdict(verdict: Verdict) -> VerdictAnswer:
    return VerdictAnswer(
        status=verdict.status,
        reasons=[
            ReasonAnswer(
                code=reason.code,
                message=reason.message,
                label=reason.label,
                value=_rounded(reason.value),
                limit=reason.limit,
            )
            for reason in verdict.reasons
        ],
    )


def export_report(
    inspection: RecordingFindings, contract: ModelContract, name: str, labels: Sequence[str], *, frames: bool = False
) -> Report:
    """Return the inspection in the form that the label exports need."""
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
