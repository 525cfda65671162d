"""Traces by OpenTelemetry, off by default: a span for every request and every live stream, joined to the caller's.

Needs the extra `otel`; without the setting nothing of it is imported. Where spans go is said by OpenTelemetry's own
variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`). A span holds ids, sizes, seconds
and outcomes; never audio, never scores, never what a client named its file.
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
    """Makes spans, or nothing.

    Args:
        provider: OpenTelemetry's; None traces nothing.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._begin: Callable[[str, Mapping[str, str]], AbstractContextManager[None]] = (
            _nothing if provider is None else _beginner(provider)
        )

    @property
    def on(self) -> bool:
        """Whether spans are made."""
        return self._provider is not None

    def span(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
        """A span around what is done inside.

        Args:
            name: Of a closed set: method and route, never a path.
            headers: Of the request in lower case; `traceparent` joins the span to the caller's.
        """
        return self._begin(name, headers)

    def close(self) -> None:
        """Send what waits."""
        if self._provider is not None:
            self._provider.shutdown()


def note(facts: Facts) -> None:
    """Add facts to the span that is open here; does nothing where there is none."""
    span = _span.get()
    if span is not None:
        span.set_attributes(dict(facts))


def rename(name: str) -> None:
    """Give the span that is open here its name, which is known once the route is."""
    span = _span.get()
    if span is not None:
        span.update_name(name)


def make_tracing(enabled: bool) -> Tracing:
    """Tracing as the setting wants it, with OTLP over HTTP as its way out.

    Raises:
        SettingsError: It is wanted, but the extra `otel` is not installed.
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
            "pip install 'speech-qc[otel]', or leave the setting out"
        ) from error
    named = "service.name" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "") or "OTEL_SERVICE_NAME" in os.environ
    facts = {"service.version": __version__} | ({} if named else {"service.name": SERVICE_NAME})
    resource = Resource.create(facts)
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _nothing(name: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:  # noqa: ARG001  # a beginner
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
        # What an exception says may quote a client's words, so only its kind is kept, by whoever answers it.
        with tracer.start_as_current_span(
            name, context=caller, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            token = _span.set(span)
            try:
                yield
            finally:
                _span.reset(token)

    return begin
