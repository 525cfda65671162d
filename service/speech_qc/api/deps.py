"""Dependencies of route handlers, as type aliases."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from fastapi.requests import HTTPConnection

from speech_qc.security.caller import ANONYMOUS, Caller
from speech_qc.state import AppState
from speech_qc.wire.schemas import ErrorAnswer


def app_state(connection: HTTPConnection) -> AppState:
    """Return the application state of this connection."""
    state: AppState = connection.app.state.parts
    return state


def request_id(connection: HTTPConnection) -> str:
    """Return the request id that the middleware has set."""
    return str(connection.scope.get("speechqc.request_id", ""))


def caller(connection: HTTPConnection) -> Caller:
    """Return the caller that the middleware has identified."""
    found: Caller = connection.scope.get("speechqc.caller", ANONYMOUS)
    return found


State = Annotated[AppState, Depends(app_state)]
RequestId = Annotated[str, Depends(request_id)]
From = Annotated[Caller, Depends(caller)]

ACCESS_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorAnswer, "description": "No valid key"},
    403: {"model": ErrorAnswer, "description": "The key lacks permission, or the server has no keys"},
}
"""For the OpenAPI page: how a route that needs a key may refuse."""
