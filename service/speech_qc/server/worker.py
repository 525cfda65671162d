"""The server of one worker process among several; see `speech_qc.workers` for the parent's side."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from fastapi import FastAPI

from speech_qc.server.server import StreamServer
from speech_qc.workers import ConnectionReceiver, Member


class WorkerServer(StreamServer):
    """A server that has no port: its connections come from the parent.

    Args:
        app: The application.
        member: Tells the parent what this worker has and when it is ready.
        taker: Where connections come from.
        config: Options of `StreamServer`.
    """

    def __init__(self, app: FastAPI, member: Member, taker: ConnectionReceiver, **config: Any) -> None:
        super().__init__(app, on_started=member.join, **config)
        self._member, self._taker = member, taker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start without sockets; the parent hears of it when the model is warm, so no connection waits before."""
        await super().startup(sockets or [])
        self._taker.start(self._adopt, self._report)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second, tell the parent of connections that ended."""
        self._report()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what is on its way and no more, then go on as ever."""
        self.begin_to_drain()
        self._member.leave()
        await self._taker.finish()
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
        self._member.report(self._taker.taken, len(self.server_state.connections), fit)
