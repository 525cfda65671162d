"""Every Prometheus metric of a process. Labels come from closed sets; never a session, a file name or a client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, get_args

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

from service import __version__
from service.engine import DropReason, Engine, Model, RefusalReason
from service.errors import (
    Forbidden,
    MethodNotAllowed,
    NotFound,
    ProtocolError,
    ReloadFailed,
    SpeechQCError,
    StartupError,
    TooManyConnections,
    Unauthorized,
)
from service.histogram import BatchHistogram
from service.live.watch import WarningCode

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LAG_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SNR_BUCKETS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
"""dB; what is below 0 falls into the first one."""

Refused = RefusalReason | Literal["streams", "uploads", "key", "memory"]
"""Why something was refused at the door: what the engine lacks, the places for live channels or uploads, the bounds of
a key, or memory for recordings and answers."""

PATHS = ("live", "upload")
OK, ABORTED, DISCONNECTED = "ok", "aborted", "disconnected"
STATUSES = ("pass", "warn", "fail", "unknown")
RELOADS = ("replaced", "unchanged", "failed")
ACCESS_CODES = (Unauthorized.code, Forbidden.code, ProtocolError.code)
"""Why somebody may not come in: no valid key, a web page that may not call, a query that is too long."""
STAGES = ("decode", "features", "queue", "inference", "total")

NO_ROUTE = "other"
"""Stands for every path that no route serves, so that probing clients cannot make new series."""


class Places(Protocol):
    """What holds the places of live channels."""

    @property
    def channels(self) -> int:
        """Places taken."""


def error_codes() -> tuple[str, ...]:
    """Codes of all errors that can end a stream or an upload."""
    found, waiting = [SpeechQCError.code], SpeechQCError.__subclasses__()
    while waiting:
        kind = waiting.pop(0)
        if kind not in (StartupError, NotFound, MethodNotAllowed, ReloadFailed, TooManyConnections):
            waiting += kind.__subclasses__()
            if not kind.__subclasses__():
                found.append(kind.code)
    return tuple(found)


class Metrics:
    """All metrics of one server, in a registry of its own; also the engine's observer.

    Series whose labels are known beforehand are there from the start, with 0: Prometheus cannot see a counter rise that
    begins with its first event. Nothing here is called for a frame; for a chunk only what takes many values at once.

    Args:
        registry: Where to register; a fresh one by default, so that several apps can live in one process.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self.requests = Counter(
            "speechqc_http_requests_total", "HTTP requests by route and status.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "speechqc_http_request_duration_seconds",
            "Seconds from the request's head to the end of its answer.",
            ["route"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.uploads = Counter(
            "speechqc_uploads_total", "Inspected recordings by outcome: `ok` or an error code.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.uploads_active = Gauge("speechqc_uploads_active", "Recordings being inspected now.", registry=registry)
        self.uploads_limit = Gauge(
            "speechqc_uploads_limit", "Places for recordings at the same time.", registry=registry
        )
        self.held_bytes = Gauge(
            "speechqc_held_bytes", "Memory that uploads and answers on their way hold now.", registry=registry
        )
        self.held_bytes_limit = Gauge(
            "speechqc_held_bytes_limit", "Memory that uploads and answers may hold (SPEECHQC_MAX_HELD_BYTES).",
            registry=registry,
        )  # fmt: skip
        self.upload_stage_seconds = BatchHistogram(
            "speechqc_upload_stage_seconds",
            "Seconds of an inspected recording by stage: `decode`, `features`, `queue`, `inference` (each summed over "
            "channels) and `total`, from the first byte to the record.",
            ["stage"], buckets=SECONDS_BUCKETS, registry=registry,
        )  # fmt: skip
        self.audio_seconds = Counter(
            "speechqc_audio_seconds_total", "Seconds of audio scored, all channels, by path.", ["path"],
            registry=registry,
        )  # fmt: skip
        self.frames = Counter("speechqc_frames_scored_total", "Output frames of 20 ms scored.", registry=registry)
        self.noisy_frames = Counter(
            "speechqc_noisy_frames_total",
            "Scored frames with audible noise, by path; live ones are counted some 2.5 s late.",
            ["path"], registry=registry,
        )  # fmt: skip
        self.snr_db = Histogram(
            "speechqc_snr_db",
            "Signal-to-noise ratio of a whole channel, dB, by path; counted where there is speech to measure.",
            ["path"], buckets=SNR_BUCKETS, registry=registry,
        )  # fmt: skip
        self.events = Counter("speechqc_events_total", "Events found, by label.", ["label"], registry=registry)
        self.verdicts = Counter("speechqc_verdicts_total", "Verdicts given, by status.", ["status"], registry=registry)
        self.step_seconds = BatchHistogram(
            "speechqc_step_duration_seconds", "Seconds of one inference step, by lane.", ["lane"],
            buckets=SECONDS_BUCKETS, registry=registry,
        )  # fmt: skip
        self.queue_seconds = BatchHistogram(
            "speechqc_queue_duration_seconds", "Seconds a chunk waited for its step, by lane.", ["lane"],
            buckets=SECONDS_BUCKETS, registry=registry,
        )  # fmt: skip
        self.batch = BatchHistogram(
            "speechqc_batch_size", "Chunks that shared a step, by lane.", ["lane"], buckets=BATCH_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.drops = Counter(
            "speechqc_chunks_dropped_total", "Accepted chunks given up unrun, by reason.", ["reason"], registry=registry
        )
        self.refusals = Counter(
            "speechqc_refusals_total", "Streams, uploads and chunks refused at the door, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.tasks = Gauge("speechqc_tasks", "Tasks of the event loop.", registry=registry)
        self.connections = Gauge("speechqc_connections", "Connections open now.", registry=registry)
        self.connections_limit = Gauge("speechqc_connections_limit", "Connections that are taken.", registry=registry)
        self.connections_refused = Counter(
            "speechqc_connections_refused_total",
            "Requests and streams refused because of SPEECHQC_MAX_CONNECTIONS, and connections closed unheard.",
            registry=registry,
        )
        self.access_refusals = Counter(
            "speechqc_access_refusals_total", "Requests that may not come in, by error code.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.model_reloads = Counter(
            "speechqc_model_reloads_total", "Reloads of the model: `replaced`, `unchanged` or `failed`.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.streams_active = Gauge("speechqc_streams_active", "Live streams open now.", registry=registry)
        self.live_channels = Gauge(
            "speechqc_live_channels",
            "Places that live channels take now; a stereo stream takes two.",
            registry=registry,
        )
        self.live_channels_limit = Gauge("speechqc_live_channels_limit", "Places for live channels.", registry=registry)
        self.streams_started = Counter("speechqc_streams_started_total", "Live streams accepted.", registry=registry)
        self.streams_ended = Counter(
            "speechqc_streams_ended_total",
            "Live streams by how they ended: `ok`, `disconnected`, `aborted` or an error code; refused ones included.",
            ["outcome"],
            registry=registry,
        )
        self.stream_lag_seconds = BatchHistogram(
            "speechqc_stream_lag_seconds",
            "Seconds from the arrival of a chunk's last sample until its scores are on their way to the client.",
            buckets=LAG_BUCKETS,
            registry=registry,
        ).labels()
        self.stream_warnings = Counter(
            "speechqc_stream_warnings_total", "Warnings sent to live clients, by code.", ["code"], registry=registry
        )
        self.engine_alive = Gauge("speechqc_engine_alive", "1 while steps can run.", registry=registry)
        self.engine_alive.set(1)
        self.ready = Gauge("speechqc_ready", "1 while new work is welcome, as /health/ready says.", registry=registry)
        self.queued = Gauge("speechqc_engine_queued_chunks", "Chunks that wait for their step now.", registry=registry)
        self.sessions = Gauge(
            "speechqc_sessions_active", "Channels that hold a place in the engine.", registry=registry
        )
        self.build = Info("speechqc_build", "The program.", registry=registry)
        self.build.info({"version": __version__})
        self.model = Info("speechqc_model", "The model in use.", registry=registry)
        self.provider = Info("speechqc_provider", "Where inference runs.", registry=registry)
        self.provider_fallback = Gauge(
            "speechqc_provider_fallback",
            "1 when a GPU would have been used (SPEECHQC_DEVICE=auto) but could not be had.",
            registry=registry,
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._begin()

    def _begin(self) -> None:
        """Make the series whose labels are known."""
        codes = error_codes()
        for outcome in (OK, ABORTED, DISCONNECTED, *codes):
            self.streams_ended.labels(outcome)
        for outcome in (OK, ABORTED, DISCONNECTED, *codes):
            self.uploads.labels(outcome)
        for code in ACCESS_CODES:
            self.access_refusals.labels(code)
        for outcome in RELOADS:
            self.model_reloads.labels(outcome)
        for path in PATHS:
            self.audio_seconds.labels(path)
            self.noisy_frames.labels(path)
            self.snr_db.labels(path)
        for status in STATUSES:
            self.verdicts.labels(status)
        for stage in STAGES:
            self.upload_stage_seconds.labels(stage)
        for code in get_args(WarningCode):
            self.stream_warnings.labels(code)
        for reason in get_args(DropReason):
            self.drops.labels(reason)
        for members in get_args(Refused):
            for reason in get_args(members):
                self.refusals.labels(reason)

    def begin_routes(self, answers: Mapping[str, Iterable[int]]) -> None:
        """Make the series of requests, by the statuses that each route has."""
        for route, statuses in answers.items():
            for status in statuses:
                self.requests.labels(route, str(status))

    def describe(self, model: Model) -> None:
        """Publish model and provider of an engine that lives."""
        contract = model.contract
        self.engine_alive.set(1)
        self.model.info({"name": contract.name, "version": contract.version, "sha256": model.sha256[:16]})
        self.provider.info({"name": model.provider})
        self.provider_fallback.set(model.provider_fallback)
        for label in contract.labels:
            if label.kind == "probability":
                self.events.labels(label.name)

    def watch(self, engines: Callable[[], Sequence[Engine]]) -> None:
        """Read gauges from all engines that run at every scrape; the first one is that which new work goes to."""
        self.sessions.set_function(lambda: sum(engine.status.sessions for engine in engines()))
        self.queued.set_function(lambda: sum(engine.status.queued for engine in engines()))
        self.ready.set_function(lambda: engines()[0].status.ready)

    def watch_places(self, places: Places) -> None:
        """Read the gauge of live channels at every scrape."""
        self.live_channels.set_function(lambda: places.channels)

    def refuse(self, reason: Refused) -> None:
        """Count what was refused at the door."""
        self.refusals.labels(reason).inc()

    def end_channel(self, path: str, snr_db: float | None, event_counts: Mapping[str, int]) -> None:
        """Count what a channel was found to be, at its end."""
        if snr_db is not None:
            self.snr_db.labels(path).observe(snr_db)
        for label, count in event_counts.items():
            self.events.labels(label).inc(count)

    def on_step(self, lane: str, batch: int, queue_s: Sequence[float], step_s: float) -> None:
        """Count a step."""
        self.step_seconds.labels(lane).observe(step_s)
        self.batch.labels(lane).observe(batch)
        self.queue_seconds.labels(lane).observe_many(queue_s)

    def on_drop(self, reason: DropReason) -> None:
        """Count a chunk that was given up."""
        self.drops.labels(reason).inc()

    def on_refusal(self, reason: RefusalReason) -> None:
        """Count a refusal."""
        self.refuse(reason)

    def on_death(self, message: str) -> None:  # noqa: ARG002  # the engine has logged it
        """Note that no step will run any more."""
        self.engine_alive.set(0)
