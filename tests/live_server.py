"""A server on a real port of this machine, for what the ASGI test client cannot show."""

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
    """Port of the address that `serving` gives."""
    return int(url.rsplit(":", 1)[1])


async def open_to(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to it."""
    return await asyncio.open_connection("127.0.0.1", port_of(url))


def connections(app: FastAPI) -> float:
    """How many connections it has."""
    found: float | None = app.state.parts.metrics.registry.get_sample_value("speechqc_connections")
    assert found is not None
    return found


async def until_no_connection(app: FastAPI) -> None:
    """Wait until it has closed all connections."""
    await until(lambda: connections(app) == 0, "the server has closed every connection")


async def small_socket(url: str) -> socket.socket:
    """A connection to it that takes little at a time; a server with a small send buffer soon sees that nobody reads."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port_of(url)))
    return plain


async def short_sleep(delay_s: float) -> None:
    """Sleep at most 10 ms: uvicorn looks every 0.1 s whether it should end, and waits as long when it ends."""
    await asyncio.sleep(min(delay_s, 0.01))


@asynccontextmanager
async def serving(
    runner: Runner | None = None, *, send_buffer_bytes: int | None = None, **settings: Any
) -> AsyncIterator[tuple[str, FastAPI]]:
    """A real server on a free port of this machine: its address and its application.

    A small send buffer, which accepted connections inherit, shows soon that a client does not read.
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
