"""A server on a real local port, for tests that the ASGI test client cannot cover."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import uvicorn.server
from fastapi import FastAPI

from speech_qc.app import create_app
from speech_qc.engine import EchoRunner, Runner
from speech_qc.server.server import StreamServer
from speech_qc.settings import Settings
from waiting import until


def port_of(url: str) -> int:
    """Return the port of the address that `serving` yields."""
    return int(url.rsplit(":", 1)[1])


async def open_to(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to the server."""
    return await asyncio.open_connection("127.0.0.1", port_of(url))


def connections(app: FastAPI) -> float:
    """Return the number of the server's connections."""
    found: float | None = app.state.parts.metrics.registry.get_sample_value("speechqc_connections")
    assert found is not None
    return found


async def until_no_connection(app: FastAPI) -> None:
    """Wait until the server has closed all connections."""
    await until(lambda: connections(app) == 0, "the server has closed every connection")


async def small_socket(url: str) -> socket.socket:
    """Open a connection with a small receive buffer, so the server soon notices that the client does not read."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port_of(url)))
    return plain


async def short_sleep(delay_s: float) -> None:
    """Sleep at most 10 ms: uvicorn checks every 0.1 s whether it should stop, and waits as long when it stops."""
    await asyncio.sleep(min(delay_s, 0.01))


@asynccontextmanager
async def serving(
    runner: Runner | None = None, *, send_buffer_bytes: int | None = None, **settings: Any
) -> AsyncIterator[tuple[str, FastAPI]]:
    """Run a real server on a free local port; yield its address and its application.

    With a small send buffer, which accepted connections inherit, the server soon notices that a client does not read.
    """
    app = create_app(Settings(**settings), runner or EchoRunner(lookahead_frames=2))
    server = StreamServer(app, host="127.0.0.1", port=0, log_level="warning", access_log=False, ws_ping_interval=None)
    server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
    with patch.object(uvicorn.server, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": short_sleep})):
        task = asyncio.create_task(server.serve())
        await until(lambda: server.started or task.done(), "the server has started")
        if task.done():
            task.result()
        listening = server.servers[0].sockets[0]
        if send_buffer_bytes is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        port = listening.getsockname()[1]
        try:
            yield f"ws://127.0.0.1:{port}", app
        finally:
            server.should_exit = True
            await task
