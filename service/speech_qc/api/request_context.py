"""Middleware for every request: its id, log line, metrics and span, and an error response if shutdown cancels it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.requests import HTTPConnection
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speech_qc.api.error_responses import answer
from speech_qc.errors import Draining
from speech_qc.telemetry import tracing
from speech_qc.telemetry.logging import ids
from speech_qc.telemetry.metrics import NO_ROUTE, Metrics
from speech_qc.telemetry.tracing import Tracing
from speech_qc.wire.vocabulary import PROBE_PATHS

logger = logging.getLogger("speech_qc.access")

REQUEST_ID_HEADER = "x-request-id"
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestContext:
    """Pure ASGI middleware, so that request and response bodies are not buffered.

    Args:
        app: The next ASGI application.
        metrics: Counts requests.
        tracing: Creates spans; none by default.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.app, self.metrics, self.tracing = app, metrics, tracing or Tracing()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = next((v.decode("latin-1") for k, v in scope["headers"] if k == REQUEST_ID_HEADER.encode()), "")
        # Keep the client's id if it is safe in logs and headers, so that traces can be correlated.
        scope["speechqc.request_id"] = identity = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        with ids(request_id=identity), self._span(scope, identity):
            if scope["type"] == "websocket":
                with ids(session_id=identity):
                    await self.app(scope, receive, send)
                return
            await self._serve(scope, receive, send, identity)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, identity: str) -> None:
        """Serve one HTTP request."""
        started_s, status, answered = time.perf_counter(), 500, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (REQUEST_ID_HEADER.encode(), identity.encode())]
            await send(message)
            answered = True

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # the request was not finished within the drain time
            if answered:
                raise
            await answer(_TOO_LATE, HTTPConnection(scope))(scope, receive, send_with_id)
        finally:
            route, seconds = route_of(scope), time.perf_counter() - started_s
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            facts = {"method": scope["method"], "route": route, "status": status}
            quiet = route in PROBE_PATHS and status < 400  # several times a minute, and not informative
            logger.log(
                logging.DEBUG if quiet else logging.INFO,
                "%s %s %d %.3f s id=%s",
                *(*facts.values(), seconds, identity),
                extra=facts | {"duration_s": round(seconds, 6)},
            )
            if self.tracing.on:
                tracing.note({"http.response.status_code": status})

    @contextmanager
    def _span(self, scope: Scope, identity: str) -> Iterator[None]:
        if not self.tracing.on:
            yield
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = scope.get("method", "WEBSOCKET")
        with self.tracing.span(method, headers):
            tracing.note({"http.request.method": method, "speechqc.request_id": identity})
            try:
                yield
            finally:  # the route is known only after the request was served
                route = route_of(scope)
                tracing.rename(f"{method} {route}")
                tracing.note({"http.route": route})


_TOO_LATE = Draining(
    "the server is shutting down and could not finish this request in time: send it again, to another server or in "
    f"{Draining.retry_after_s} s",
    retry_after_s=Draining.retry_after_s,
)


def route_of(scope: Scope) -> str:
    """Return the path template of the route that serves a request, or `other`; never the client's own path."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    if isinstance(path, str):
        return path
    app = scope.get("app")
    for candidate in getattr(app, "routes", []):
        if candidate.matches(scope)[0] is not Match.NONE and isinstance(getattr(candidate, "path", None), str):
            return str(candidate.path) or NO_ROUTE
    return NO_ROUTE
