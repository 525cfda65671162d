"""What handlers ask for, by type alias; everything lives in the application's state, nothing in globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection

from service.callers import ANONYMOUS, Caller, Quotas
from service.contract import ModelContract
from service.engine import Engine, Model
from service.generations import Generations
from service.holding import HeldBytes
from service.keys import KeyRing
from service.live.hub import StreamHub
from service.metrics import Metrics
from service.report import ModelIdentity
from service.scoring import Profiles
from service.session import ChunkReader
from service.settings import Settings
from service.workers.member import Member


@dataclass(slots=True)
class AppState:
    """The parts of one running server."""

    settings: Settings
    profiles: Profiles
    metrics: Metrics
    models: Generations
    streams: StreamHub
    ring: KeyRing | None
    """None where everybody may come in."""
    quotas: Quotas
    held: HeldBytes
    member: Member | None = None
    """This process among several workers; None when it is the only one."""
    uploads: int = 0
    """Recordings being inspected."""

    @property
    def model(self) -> Model:
        """The model in use; whoever asks for more than one thing of it takes `models.current` once."""
        return self.models.current.model

    @property
    def engine(self) -> Engine:
        """Runs the model in use."""
        return self.models.current.engine

    @property
    def reader(self) -> ChunkReader:
        """The engine's, for the sessions to share."""
        return self.models.current.reader

    @property
    def contract(self) -> ModelContract:
        """Contract of the model in use."""
        return self.models.current.contract

    @property
    def identity(self) -> ModelIdentity:
        """Which model answers."""
        return self.models.current.identity


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
