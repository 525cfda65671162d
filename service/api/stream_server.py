"""The server process around the application: at a signal, live streams end in order before sockets are closed.

uvicorn closes every WebSocket itself before the application hears of the shutdown; the summaries would be lost.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.api.audio_socket import AudioSocketProtocol
from service.api.deps import AppState
from service.errors import SettingsError
from service.settings import Settings

GC_THRESHOLDS = (100_000, 50, 100)
"""Python's collector, as it comes (700, 10, 10), looks through all objects far too often for a process with hundreds of
streams, each of which makes and drops dozens of them a second. Streams make no cycles while they run, so little is left
to it."""


class StreamServer(uvicorn.Server):
    """uvicorn, but live clients get their summary and 1012 first.

    Args:
        app: The application.
        on_started: Awaited once, when connections are accepted.
        config: Options of `uvicorn.Config`; some have other defaults here.
    """

    def __init__(self, app: FastAPI, *, on_started: Callable[[], Awaitable[None]] | None = None, **config: Any) -> None:
        settings: Settings = app.state.settings
        defaults: dict[str, Any] = {
            "ws": AudioSocketProtocol,
            "ws_per_message_deflate": False,  # compressing each message costs more than it saves on a local line
            # Twice what a stream takes, so that its own error, which says what to do, comes before a bare close.
            "ws_max_size": 2 * settings.stream_max_message_bytes,
        }
        super().__init__(uvicorn.Config(app, **(defaults | config)))
        self._application = app
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then say so."""
        await super().startup(sockets)
        gc.set_threshold(*GC_THRESHOLDS)
        gc.collect()
        gc.freeze()  # what is there now stays: modules, the model, the application
        if self._on_started is not None:
            await self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections, drain the streams, then go on as uvicorn does."""
        for server in self.servers:
            server.close()
        parts: AppState | None = getattr(self._application.state, "parts", None)
        if parts is not None and not self.force_exit:
            await parts.streams.drain(parts.settings.drain_s)
        await super().shutdown(sockets)
        gc.unfreeze()  # or what is frozen would be called leaked at the end


def run_server(app: FastAPI, **config: Any) -> None:
    """Serve until a signal, as `uvicorn.run` does.

    Args:
        app: The application.
        config: Options of `StreamServer`.

    Raises:
        SettingsError: The server could not start, for example because the port is taken.
    """
    server = StreamServer(app, **config)
    server.run()
    if not server.started:
        raise SettingsError("the server did not start; the log above says why")
