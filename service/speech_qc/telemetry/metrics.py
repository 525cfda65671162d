"""Every Prometheus metric of a process. Labels come from closed sets; never a session, a file name or a client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)

from speech_qc.engine import DropReason, Engine, Model, RefusalReason
from speech_qc.errors import (
    Forbidden,
    MethodNotAllowed,
    NotFound,
    ProtocolError,
    ReloadFailed,
    ResultsUnavailable,
    SpeechQCError,
    StartupError,
    TooManyConnections,
    Unauthorized,
)
from speech_qc.version import __version__
from speech_qc.wire.vocabulary import (
    STREAM_VENDOR,
    GapKind,
    InteractionKind,
    ReloadOutcome,
    Status,
    Vendor,
    WarningCode,
)

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LAG_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SNR_BUCKETS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
"""dB; values below 0 count in the first bucket."""

Refused = RefusalReason | Literal["streams", "uploads", "key", "memory"]
"""Why work was refused: a reason of the engine, no free place for live channels or uploads, the quota of an API key,
or no memory left for recordings and responses."""

PATHS = ("live", "upload")
OK, ABORTED, DISCONNECTED = "ok", "aborted", "disconnected"
RELOADS = (*get_args(ReloadOutcome), "failed")
DROPPED_RESULTS = ("full", "invalid", "stopped")
WEBHOOKS = ("delivered", "failed", "abandoned")
STAGES = ("decode", "features", "queue", "inference", "total")

VENDORS = get_args(Vendor)
CALL_VENDORS = (STREAM_VENDOR, *VENDORS, "other")
UNKNOWN_VENDOR = "unknown"
"""Stands for the vendor of a socket that was not recognised."""

NO_ROUTE = "other"
"""Replaces every path that no route serves, so that probing clients cannot create series."""


_OF_OTHER_WORK = (StartupError, NotFound, MethodNotAllowed, ReloadFailed, ResultsUnavailable, TooManyConnections)


def error_codes() -> tuple[str, ...]:
    """Codes of all errors that can end a stream or an upload."""
    found, waiting = [SpeechQCError.code], SpeechQCError.__subclasses__()
    while waiting:
        kind = waiting.pop(0)
        if kind not in _OF_OTHER_WORK:
            waiting += kind.__subclasses__()
            if not kind.__subclasses__():
                found.append(kind.code)
    return tuple(found)


OUTCOMES = (OK, ABORTED, DISCONNECTED, *error_codes())
REFUSALS = tuple(reason for members in get_args(Refused) for reason in get_args(members))

Known = Sequence[str] | None
"""Values of a label if they are known in advance; None if not."""


@dataclass(frozen=True, slots=True)
class _Declaration:
    """One metric; `Metrics` creates it in its registry."""

    kind: Callable[..., Any]
    name: str
    text: str
    labels: Mapping[str, Known] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, registry: CollectorRegistry) -> Any:
        """Register the metric; if it has one label with known values, create a series of 0 for each.

        Prometheus cannot see the increase of a counter that first appears with its first event.
        """
        metric = self.kind(self.name, self.text, list(self.labels), registry=registry, **self.options)
        if len(self.labels) == 1:
            for value in next(iter(self.labels.values())) or ():
                metric.labels(value)
        return metric


# Typed as the metrics that `Metrics` replaces them with.
def _counter(name: str, text: str, **labels: Known) -> Counter:
    return cast(Counter, _Declaration(Counter, name, text, labels))


def _gauge(name: str, text: str) -> Gauge:
    return cast(Gauge, _Declaration(Gauge, name, text))


def _info(name: str, text: str) -> Info:
    return cast(Info, _Declaration(Info, name, text))


def _histogram(name: str, text: str, buckets: Sequence[float], **labels: Known) -> Histogram:
    return cast(Histogram, _Declaration(Histogram, name, text, labels, {"buckets": buckets}))


@dataclass(frozen=True, slots=True)
class _LaneSeries:
    """The series of one lane of the engine."""

    step_seconds: Histogram
    batch: Histogram
    queue_seconds: Histogram


class Metrics:
    """All metrics of one server, in a registry of its own; also the engine's observer.

    Nothing here is called for each frame. A chunk costs at most two observations: its queue time and its lag.

    Args:
        registry: Where to register; a new one by default, so that several apps can run in one process.
    """

    requests = _counter("speechqc_http_requests_total", "HTTP requests by route and status.", route=None, status=None)
    request_seconds = _histogram(
        "speechqc_http_request_duration_seconds",
        "Seconds from the request header to the end of the response.",
        SECONDS_BUCKETS,
        route=None,
    )
    uploads = _counter(
        "speechqc_uploads_total",
        "Inspected recordings by outcome: `ok`, `disconnected`, `aborted` or an error code.",
        outcome=OUTCOMES,
    )
    uploads_active = _gauge("speechqc_uploads_active", "Recordings being inspected now.")
    uploads_limit = _gauge("speechqc_uploads_limit", "Places for recordings that are inspected at the same time.")
    held_bytes = _gauge("speechqc_held_bytes", "Memory that uploads and unsent responses use now.")
    held_bytes_limit = _gauge(
        "speechqc_held_bytes_limit", "Memory that uploads and unsent responses may use (SPEECHQC_MAX_HELD_BYTES)."
    )
    upload_stage_seconds = _histogram(
        "speechqc_upload_stage_seconds",
        "Seconds of an inspected recording by stage: `decode`, `features`, `queue`, `inference` (each summed over "
        "channels) and `total`, from the first byte to the record.",
        SECONDS_BUCKETS,
        stage=STAGES,
    )
    audio_seconds = _counter(
        "speechqc_audio_seconds_total", "Seconds of audio scored, all channels, by path.", path=PATHS
    )
    frames = _counter("speechqc_frames_scored_total", "Output frames of 20 ms scored.")
    noisy_frames = _counter(
        "speechqc_noisy_frames_total",
        "Scored frames with audible noise, by path; live ones are counted about 2.5 s late.",
        path=PATHS,
    )
    snr_db = _histogram(
        "speechqc_snr_db",
        "Signal-to-noise ratio of a whole channel, dB, by path; counted if there is speech to measure.",
        SNR_BUCKETS,
        path=PATHS,
    )
    events = _counter("speechqc_events_total", "Events found, by label.", label=None)
    verdicts = _counter("speechqc_verdicts_total", "Verdicts given, by status.", status=get_args(Status))
    step_seconds = _histogram(
        "speechqc_step_duration_seconds", "Seconds of one inference step, by lane.", SECONDS_BUCKETS, lane=None
    )
    queue_seconds = _histogram(
        "speechqc_queue_duration_seconds", "Seconds a chunk waited for its step, by lane.", SECONDS_BUCKETS, lane=None
    )
    batch = _histogram("speechqc_batch_size", "Chunks that share a step, by lane.", BATCH_BUCKETS, lane=None)
    drops = _counter(
        "speechqc_chunks_dropped_total",
        "Accepted chunks dropped before they ran, by reason.",
        reason=get_args(DropReason),
    )
    refusals = _counter(
        "speechqc_refusals_total", "Streams, uploads and chunks refused on arrival, by reason.", reason=REFUSALS
    )
    tasks = _gauge("speechqc_tasks", "Tasks of the event loop.")
    connections = _gauge("speechqc_connections", "Connections open now.")
    connections_limit = _gauge("speechqc_connections_limit", "Maximum number of open connections.")
    connections_refused = _counter(
        "speechqc_connections_refused_total",
        "Requests and streams refused because of SPEECHQC_MAX_CONNECTIONS, and connections closed without a request.",
    )
    access_refusals = _counter(
        "speechqc_access_refusals_total",
        "Requests refused by the access check, by error code.",
        reason=(Unauthorized.code, Forbidden.code, ProtocolError.code),
    )
    model_reloads = _counter(
        "speechqc_model_reloads_total", "Reloads of the model: `replaced`, `unchanged` or `failed`.", outcome=RELOADS
    )
    streams_active = _gauge("speechqc_streams_active", "Live streams open now.")
    live_channels = _gauge("speechqc_live_channels", "Places that live channels take now; a stereo stream takes two.")
    live_channels_limit = _gauge("speechqc_live_channels_limit", "Places for live channels.")
    streams_started = _counter("speechqc_streams_started_total", "Live streams accepted.")
    streams_ended = _counter(
        "speechqc_streams_ended_total",
        "Live streams by outcome: `ok`, `disconnected`, `aborted` or an error code; refused ones included.",
        outcome=OUTCOMES,
    )
    stream_lag_seconds = _histogram(
        "speechqc_stream_lag_seconds",
        "Seconds from the arrival of a chunk's last sample until its scores are queued for the client.",
        LAG_BUCKETS,
    )
    stream_warnings = _counter(
        "speechqc_stream_warnings_total", "Warnings sent to live clients, by code.", code=get_args(WarningCode)
    )
    calls = _counter(
        "speechqc_calls_total",
        "Calls begun, by vendor of their audio; `other` for one not listed.",
        vendor=CALL_VENDORS,
    )
    interactions = _counter(
        "speechqc_interactions_total", "Events between the legs of calls, by kind.", kind=get_args(InteractionKind)
    )
    results_waiting = _gauge("speechqc_results_waiting", "Events of calls that are not in the database yet.")
    results_dropped = _counter(
        "speechqc_results_dropped_total", "Events of calls that were not stored, by reason.", reason=DROPPED_RESULTS
    )
    results_connected = _gauge("speechqc_results_connected", "1 if the last use of the calls' database succeeded.")
    watchers = _gauge("speechqc_watchers", "Open GET /v1/watch.")
    webhooks = _counter(
        "speechqc_webhooks_total",
        "Attempts to deliver webhooks, by outcome, and webhooks abandoned.",
        outcome=WEBHOOKS,
    )
    webhooks_waiting = _gauge(
        "speechqc_webhooks_waiting",
        "Webhooks that are not delivered yet; processes that share a database all report the same.",
    )
    telephony_sockets = _counter(
        "speechqc_telephony_sockets_total", "Phone calls' sockets that were recognised, by vendor.", vendor=VENDORS
    )
    telephony_active = _gauge("speechqc_telephony_sockets_active", "Phone calls' sockets open now.")
    telephony_legs = _counter(
        "speechqc_telephony_legs_total", "Legs of phone calls that began, by vendor.", vendor=VENDORS
    )
    telephony_failures = _counter(
        "speechqc_telephony_failures_total",
        "Phone calls' sockets that were refused or ended with an error, by vendor.",
        vendor=(*VENDORS, UNKNOWN_VENDOR),
    )
    telephony_ended = _counter(
        "speechqc_telephony_ended_total",
        "Phone calls' sockets that ended, by outcome: `ok` or an error code.",
        outcome=OUTCOMES,
    )
    telephony_ignored = _counter(
        "speechqc_telephony_ignored_messages_total",
        "Messages of phone systems that mean nothing to us, or hold audio of a leg that was refused, by vendor.",
        vendor=VENDORS,
    )
    telephony_gap_seconds = _counter(
        "speechqc_telephony_gap_seconds_total",
        "Seconds that legs of phone calls did not receive: `loss`, `dtx` (the source was silent) or `hold`.",
        kind=get_args(GapKind),
    )
    engine_alive = _gauge("speechqc_engine_alive", "1 while steps can run.")
    ready = _gauge("speechqc_ready", "1 while the server accepts new work, as reported by /health/ready.")
    queued = _gauge("speechqc_engine_queued_chunks", "Chunks that are waiting for their step now.")
    sessions = _gauge("speechqc_sessions_active", "Channels that have a session in the engine.")
    build = _info("speechqc_build", "Version of the program.")
    model = _info("speechqc_model", "The model in use.")
    provider = _info("speechqc_provider", "Execution provider that runs inference.")
    provider_fallback = _gauge(
        "speechqc_provider_fallback", "1 if no GPU is available although SPEECHQC_DEVICE=auto prefers one."
    )

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        for name, declared in vars(Metrics).items():
            if isinstance(declared, _Declaration):
                setattr(self, name, declared.make(registry))
        self._lanes: dict[str, _LaneSeries] = {}
        self.engine_alive.set(1)
        self.build.info({"version": __version__})
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def begin_routes(self, answers: Mapping[str, Iterable[int]]) -> None:
        """Create the series of requests, for the statuses that each route can return."""
        for route, statuses in answers.items():
            for status in statuses:
                self.requests.labels(route, str(status))

    def describe(self, model: Model) -> None:
        """Publish model and provider of a running engine."""
        contract = model.contract
        self.engine_alive.set(1)
        self.model.info({"name": contract.name, "version": contract.version, "sha256": model.sha256[:16]})
        self.provider.info({"name": model.provider})
        self.provider_fallback.set(model.provider_fallback)
        for label in contract.labels:
            if label.kind == "probability":
                self.events.labels(label.name)

    def follow_engines(self, engines: Callable[[], Sequence[Engine]]) -> None:
        """Read gauges from all running engines at every scrape; the first engine is the one that takes new work."""
        self.sessions.set_function(lambda: sum(engine.status.sessions for engine in engines()))
        self.queued.set_function(lambda: sum(engine.status.queued for engine in engines()))
        self.ready.set_function(lambda: engines()[0].status.ready)

    def refuse(self, reason: Refused) -> None:
        """Count work that was refused on arrival."""
        self.refusals.labels(reason).inc()

    def on_call_event(self, kind: str, vendor: str, label: object) -> None:
        """Count what an event of a call says."""
        if kind == "call.started":
            self.calls.labels(vendor if vendor in CALL_VENDORS else "other").inc()
        elif kind == "event.begin" and label in get_args(InteractionKind):
            self.interactions.labels(label).inc()

    def end_channel(self, path: str, snr_db: float | None, event_counts: Mapping[str, int]) -> None:
        """Count the results of a channel at its end."""
        if snr_db is not None:
            self.snr_db.labels(path).observe(snr_db)
        for label, count in event_counts.items():
            self.events.labels(label).inc(count)

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        """Count a step."""
        series = self._lanes.get(lane)
        if series is None:  # cached: looking up labels costs more than observing
            found = (metric.labels(lane) for metric in (self.step_seconds, self.batch, self.queue_seconds))
            series = self._lanes[lane] = _LaneSeries(*found)
        series.step_seconds.observe(step_s)
        series.batch.observe(batch)
        for seconds in queue_s:
            series.queue_seconds.observe(seconds)

    def on_drop(self, reason: DropReason) -> None:
        """Count a chunk that was dropped."""
        self.drops.labels(reason).inc()

    def on_refusal(self, reason: RefusalReason) -> None:
        """Count a refusal."""
        self.refuse(reason)

    def on_death(self, message: str) -> None:  # noqa: ARG002  # the engine has logged it
        """Note that no more steps will run."""
        self.engine_alive.set(0)
