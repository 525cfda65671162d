"""The server process around the application: at a signal, live streams end in order before sockets are closed.

uvicorn closes every WebSocket itself before the application hears of the shutdown; the summaries would be lost.
"""

from __future__ import annotations

import socket
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.api.deps import AppState
from service.errors import SettingsError
from service.settings import Settings


class StreamServer(uvicorn.Server):
    """uvicorn, but live clients get their summary and 1012 first.

    Args:
        app: The application.
        config: Options of `uvicorn.Config`.
    """

    def __init__(self, app: FastAPI, **config: Any) -> None:
        super().__init__(uvicorn.Config(app, **config))
        self._application = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections, drain the streams, then go on as uvicorn does."""
        for server in self.servers:
            server.close()
        parts: AppState | None = getattr(self._application.state, "parts", None)
        if parts is not None and not self.force_exit:
            await parts.streams.drain(parts.settings.drain_s)
        await super().shutdown(sockets)


def run_server(app: FastAPI, **config: Any) -> None:
    """Serve until a signal, as `uvicorn.run` does.

    Args:
        app: The application.
        config: Options of `uvicorn.Config`. Two have other defaults here: compression of each message costs more than
            it saves on a local line, and no message may be larger than streams take.

    Raises:
        SettingsError: The server could not start, for example because the port is taken.
    """
    settings: Settings = app.state.settings
    # Twice what a stream takes, so that its own error, which says what to do, comes before the server's bare close.
    options = {"ws_per_message_deflate": False, "ws_max_size": 2 * settings.stream_max_message_bytes} | config
    server = StreamServer(app, **options)
    server.run()
    if not server.started:
        raise SettingsError("the server did not start; the log above says why")
