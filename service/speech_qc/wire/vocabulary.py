"""The closed sets of words in requests, answers and options; every other module takes them from here."""

from __future__ import annotations

from typing import Literal

Encoding = Literal["linear16", "mulaw", "alaw", "float32"]
"""How the samples of a live stream are encoded."""

ChannelMode = Literal["split", "mix"]
"""Whether each channel is inspected separately, or their mean."""

ExportFormat = Literal["csv", "audacity", "textgrid", "rttm", "webvtt"]
"""Label tracks for other programs."""

AnswerFormat = Literal["json", "csv", "audacity", "textgrid", "rttm", "webvtt"]
"""What `POST /v1/inspect` can answer with: JSON, or one of `ExportFormat`."""

Severity = Literal["minor", "moderate", "severe"]
"""Severity of an event."""

Phase = Literal["begin", "end"]
"""Whether a live event has begun or ended."""

Status = Literal["pass", "warn", "fail", "unknown"]
"""Status of a verdict."""

WarningCode = Literal[
    "too_fast", "too_slow", "silence", "clipping", "rate_mismatch", "encoding_mismatch", "incomplete_sample"
]
"""Problems with the audio of a live stream that its sender is warned of."""

BandReference = Literal["floor", "itself"]
"""What the spectrum of an event was compared with: the noise floor around it, or its own strongest band."""

ReadyState = Literal["ready", "starting", "draining", "dead"]
"""What `GET /health/ready` says."""

ReloadOutcome = Literal["replaced", "unchanged"]
"""How a successful reload of the model ended."""

WorkerReloadOutcome = Literal["replaced", "unchanged", "starting", "failed", "kept"]
"""How a reload ended in one of several processes."""

Device = Literal["auto", "cpu", "cuda"]
"""Where inference runs."""

LogLevel = Literal["debug", "info", "warning", "error"]
"""Least severe level that a server logs."""

HEALTH_PATHS = frozenset({"/health/live", "/health/ready"})
METRICS_PATHS = frozenset({"/metrics"})
PROBE_PATHS = HEALTH_PATHS | METRICS_PATHS
"""What load balancers, supervisors and Prometheus request every few seconds."""
