"""OpenTelemetry traces, off by default: a span for every request and every live stream, linked to the caller's.

Needs the extra `otel`; without the setting nothing of it is imported. OpenTelemetry's own environment variables
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`) define where spans are sent. A span contains
ids, sizes, durations and outcomes; never audio, scores or the file names of clients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from speech_qc.errors import SettingsError
from speech_qc.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Facts = Mapping[str, str | int | float | bool]

SERVICE_NAME = "speech-qc"

_span: ContextVar[Any] = ContextVar("speechqc_span", default=None)


class Tracing:
    """Creates spans, or does nothing.

    Args:
        provider: OpenTelemetry's provider; None disables tracing.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._begin: Callable[[str, Mapping[str, str]], AbstractContextManager[None]] = (
            _nothing if provider is None else _beginner(provider)
        )

    @property
    def on(self) -> bool:
        """Whether spans are created."""
        return self._provider is not None

    def span(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        """Return a context manager that opens a span.

        Args:
            name: From a closed set: method and route, never a path.
            headers: Request headers in lower case; `traceparent` links the span to the caller's.
        """
        return self._begin(name, headers)

    def close(self) -> None:
        """Send pending spans and shut down."""
        if self._provider is not None:
            self._provider.shutdown()


def note(facts: Facts) -> None:
    """Add facts to the current span; do nothing if there is none."""
    span = _span.get()
    if span is not None:
        span.set_attributes(dict(facts))


def rename(name: str) -> None:
    """Rename the current span; its name is known once the route is."""
    span = _span.get()
    if span is not None:
        span.update_name(name)


def make_tracing(enabled: bool) -> Tracing:
    """Set up tracing if it is enabled, with export by OTLP over HTTP.

    Raises:
        SettingsError: Tracing is enabled, but the extra `otel` is not installed.
    """
    if not enabled:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise SettingsError(
            f"SPEECHQC_OTEL=true needs OpenTelemetry, which is not installed ({error}): "
            "run pip install 'speech-qc[otel]', or remove the setting"
        ) from error
    named = "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or "OTEL_SERVICE_NAME" in os.environ
    facts = {"service.version": __version__} | ({} if named else {"service.name": SERVICE_NAME})
    resource = Resource.create(facts)
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _nothing(name: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:  # noqa: ARG001  # as `begin`
    return nullcontext()


def _beginner(provider: TracerProvider) -> Callable[[str, Mapping[str, str]], AbstractContextManager[None]]:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer(SERVICE_NAME, __version__)
    propagator = TraceContextTextMapPropagator()

    @contextmanager
    def begin(name: str, headers: Mapping[str, str]) -> Iterator[None]:
        span: Span
        caller = propagator.extract(headers)
        # An exception message may quote client input, so the span gets only the error code, from the error handler.
        with tracer.start_as_current_span(
            name, context=caller, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            token = _span.set(span)
            try:
                yield
            finally:
                _span.reset(token)

    return begin
