"""Converts the report on a packet capture to its part of the document."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from speech_qc.rtp.reports import CaptureReport, MissingReport, StreamReport
from speech_qc.wire.capture import CaptureAnswer, MissingAnswer, RtpStreamAnswer

_DECIMALS = {"start_s": 6, "duration_s": 6, "lost_ratio": 5, "jitter_ms": 3, "jitter_max_ms": 3, "drift_ppm": 1}


def capture_answer(report: CaptureReport) -> CaptureAnswer:
    """Return the part `capture` of the document, rounded."""
    return CaptureAnswer(
        packets=report.packets,
        other_packets=report.other_packets,
        streams=[_stream(stream) for stream in report.streams],
    )


def _stream(stream: StreamReport) -> RtpStreamAnswer:
    fields: dict[str, Any] = asdict(stream)
    for name, digits in _DECIMALS.items():
        fields[name] = None if fields[name] is None else round(fields[name], digits)
    fields |= {
        "ssrc": f"{stream.ssrc:#010x}",
        "previous_ssrc": None if stream.previous_ssrc is None else f"{stream.previous_ssrc:#010x}",
        "codecs": list(stream.codecs),
        "payload_types": {str(kind): count for kind, count in sorted(stream.payload_types.items())},
        "loss": _missing(stream.loss),
        "dtx": _missing(stream.dtx),
    }
    return RtpStreamAnswer(**fields)


def _missing(time: MissingReport) -> MissingAnswer:
    return MissingAnswer(
        spans=time.spans, total_ms=round(time.total_s * 1e3, 3), longest_ms=round(time.longest_s * 1e3, 3)
    )
