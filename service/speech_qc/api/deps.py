"""What handlers ask for, by type alias."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from speech_qc.security.caller import ANONYMOUS, Caller
from speech_qc.state import AppState


def app_state(connection: HTTPConnection) -> AppState:
    """The server's parts, from the application that serves this connection."""
    state: AppState = connection.app.state.parts
    return state


def request_id(connection: HTTPConnection) -> str:
    """Id of this request, made by the middleware."""
    return str(connection.scope.get("speechqc.request_id", ""))


def caller(connection: HTTPConnection) -> Caller:
    """Who sent this request, found out by the middleware."""
    found: Caller = connection.scope.get("speechqc.caller", ANONYMOUS)
    return found


State = Annotated[AppState, Depends(app_state)]
RequestId = Annotated[str, Depends(request_id)]
From = Annotated[Caller, Depends(caller)]
