"""Every Prometheus metric of a process. Labels come from closed sets; never a session, a file name or a client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from service.engine import DropReason, Engine, Model, RefusalReason
from service.histogram import BatchHistogram

SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
LAG_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

NO_ROUTE = "other"
"""Stands for every path that no route serves, so that probing clients cannot make new series."""


class Metrics:
    """All metrics of one server, in a registry of its own; also the engine's observer.

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
        self.audio_seconds = Counter(
            "speechqc_audio_seconds_total", "Seconds of audio scored, all channels, by path.", ["path"],
            registry=registry,
        )  # fmt: skip
        self.frames = Counter("speechqc_frames_scored_total", "Output frames of 20 ms scored.", registry=registry)
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
            "speechqc_refusals_total", "Sessions and chunks refused at the door, by reason.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.access_refusals = Counter(
            "speechqc_access_refusals_total", "Requests that may not come in, by error code.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.model_reloads = Counter(
            "speechqc_model_reloads_total", "Reloads of the model: `replaced`, `unchanged` or `failed`.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.streams_active = Gauge("speechqc_streams_active", "Live streams open now.", registry=registry)
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
        self.sessions = Gauge(
            "speechqc_sessions_active", "Channels that hold a place in the engine.", registry=registry
        )
        self.model = Info("speechqc_model", "The model in use.", registry=registry)
        self.provider = Info("speechqc_provider", "Where inference runs.", registry=registry)
        self.provider_fallback = Gauge(
            "speechqc_provider_fallback", "1 when a GPU would have been used but could not be had.", registry=registry
        )

    def describe(self, model: Model) -> None:
        """Publish model and provider of an engine that lives."""
        contract = model.contract
        self.engine_alive.set(1)
        self.model.info({"name": contract.name, "version": contract.version, "sha256": model.sha256[:16]})
        self.provider.info({"name": model.provider})
        self.provider_fallback.set(model.provider_fallback)

    def watch(self, engines: Callable[[], Iterable[Engine]]) -> None:
        """Read gauges from all engines that have sessions at every scrape."""
        self.sessions.set_function(lambda: sum(engine.status.sessions for engine in engines()))

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
        self.refusals.labels(reason).inc()

    def on_death(self, message: str) -> None:  # noqa: ARG002  # the engine has logged it
        """Note that no step will run any more."""
        self.engine_alive.set(0)
