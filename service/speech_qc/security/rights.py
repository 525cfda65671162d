"""Which right a request needs, by its path and method; a new route needs the right to send."""

from __future__ import annotations

from starlette.types import Scope

from speech_qc.wire.vocabulary import HEALTH_PATHS, METRICS_PATHS, Right

WATCH_PATH = "/v1/watch"
"""Browsers cannot send a header with an `EventSource`, so this path takes a token in its query, as streams do."""
CALLS_PATH = "/v1/calls"
ANY_KEY = HEALTH_PATHS | METRICS_PATHS | {"/v1/model", "/v1/token", "/v1/model/reload"}
"""Paths for every key; the last one checks the right to administer and explains what else there is."""


def right_for(scope: Scope) -> Right | None:
    """Return the right that a request needs; None if any key will do."""
    path = scope["path"].rstrip("/")
    if scope["type"] == "http":
        if path in ANY_KEY:
            return None
        if path == CALLS_PATH or path.startswith(f"{CALLS_PATH}/"):
            return "admin" if scope["method"] == "DELETE" else "watch"
        if path == WATCH_PATH:
            return "watch"
    return "send"


def takes_token(scope: Scope) -> bool:
    """Whether a request may have a token instead of a key."""
    return bool(scope["type"] == "websocket" or scope["path"].rstrip("/") == WATCH_PATH)
