"""Paths as clients write them: a trailing slash does not matter, and an unknown path gets an answer that helps."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from fastapi import FastAPI, WebSocket
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from speech_qc.api.error_responses import answer
from speech_qc.errors import NotFound

PATH_CHARS = 100
"""Maximum length of a path in an error message."""

SIMILARITY = 0.65
"""Minimum similarity, 0 to 1, of an existing path to suggest it."""


class TrailingSlash:
    """ASGI middleware: serves `/v1/stream/` as `/v1/stream`.

    A redirect would not do: clients do not follow one for a WebSocket, and few send an upload again.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] in ("http", "websocket") and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        await self.app(scope, receive, send)


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer all paths without a route.

    Args:
        app: The application.
        routes: All its routes; newer versions of FastAPI do not list those of its routers.
    """

    async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
        error = unknown_path(scope, routes)
        if scope["type"] != "websocket":
            raise error
        socket = WebSocket(scope, receive, send)
        await socket.send_denial_response(answer(error, socket))

    app.router.default = not_found


def unknown_path(scope: Scope, routes: Sequence[BaseRoute]) -> NotFound:
    """Return the error for a path without a route; it names the path that was probably meant."""
    path = scope["path"][:PATH_CHARS]
    streams = [route.path for route in routes if isinstance(route, WebSocketRoute)]
    others = [route.path for route in routes if isinstance(route, Route)]
    if scope["type"] == "websocket":
        return NotFound(f"expected a WebSocket to {' or '.join(streams)}, got one to {path}: correct the path")
    if path in streams:
        return NotFound(f"expected a WebSocket to {path}, got an HTTP request: open it as ws:// or wss://")
    near = get_close_matches(path, [*others, *streams], n=1, cutoff=SIMILARITY)
    advice = f"did you mean {near[0]}? GET /docs lists" if near else "see GET /docs for"
    return NotFound(f"expected the path of an endpoint, got {path}: {advice} all endpoints")
