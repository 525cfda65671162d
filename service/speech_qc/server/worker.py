"""The server of one worker process; see `speech_qc.workers` for the parent's side."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from fastapi import FastAPI

from speech_qc.server.server import StreamServer
from speech_qc.workers import ConnectionReceiver, Member


class WorkerServer(StreamServer):
    """A server without a port of its own: it receives accepted connections from the parent.

    Args:
        app: The application.
        member: Reports readiness and load to the parent.
        receiver: Receives the connections.
        config: Options of `StreamServer`.
    """

    def __init__(self, app: FastAPI, member: Member, receiver: ConnectionReceiver, **config: Any) -> None:
        super().__init__(app, on_started=member.join, **config)
        self._member, self._receiver = member, receiver

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start without sockets; the parent sends connections only after the model is warm."""
        await super().startup(sockets or [])
        self._receiver.start(self._adopt, self._report)

    async def on_tick(self, counter: int) -> bool:
        """Report closed connections to the parent, ten times a second."""
        self._report()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take the connections in transit, refuse further ones, then shut down as usual."""
        self.begin_to_drain()
        self._member.leave()
        await self._receiver.finish()
        await super().shutdown(sockets)

    async def _adopt(self, connection: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection, ssl=self.config.ssl)

    def _protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _report(self) -> None:
        fit = self._parts.engine.status.alive
        self._member.report(self._receiver.taken, len(self.server_state.connections), fit)
