"""Call the application through ASGI in one event loop, without a network: fast enough for thousands of inputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from speech_qc.app import create_app
from speech_qc.engine import EchoRunner
from speech_qc.settings import Settings

HANG_S = 20.0
"""An input that takes longer than this hangs; the slowest take a fraction of a second."""


@asynccontextmanager
async def application(**settings: object) -> AsyncIterator[FastAPI]:
    """A running application with an echo model, whose scores cost almost nothing."""
    bounds: dict[str, Any] = {"max_duration_s": 60.0, "max_upload_bytes": 4 * 1024 * 1024, "stream_idle_s": 5.0}
    app = create_app(Settings(**(bounds | settings)), EchoRunner(lookahead_frames=2))
    async with app.router.lifespan_context(app):
        yield app


def at_rest(app: FastAPI) -> bool:
    """Whether no place is in use and no memory is reserved."""
    parts = app.state.parts
    return parts.uploads.taken == 0 and parts.engine.status.sessions == 0 and len(parts.streams) == 0


async def post(
    app: FastAPI, body: bytes, *, query: bytes = b"", content_type: bytes = b"audio/wav"
) -> tuple[int, bytes]:
    """Return status and body of an upload's response; raises TimeoutError if there is none."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
    status, content = 0, bytearray()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            content.extend(message.get("body", b""))

    headers = [(b"host", b"fuzz"), (b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/v1/inspect",
        "raw_path": b"/v1/inspect", "root_path": "", "scheme": "http", "query_string": query, "headers": headers,
        "client": ("fuzz", 1), "server": ("fuzz", 80), "app": app,
    }  # fmt: skip
    async with asyncio.timeout(HANG_S):
        await app(scope, receive, send)  # type: ignore[arg-type]
    return status, bytes(content)


async def converse(
    app: FastAPI, said: Sequence[bytes | str], *, query: bytes = b"", leave: bool = False
) -> tuple[list[str], int | None]:
    """Send all this on a stream; return texts and close code. The client then disconnects, or waits for the close."""
    waiting: list[dict[str, Any]] = [{"type": "websocket.connect"}]
    for one in said:
        kind = "bytes" if isinstance(one, bytes) else "text"
        waiting.append({"type": "websocket.receive", kind: one})
    if leave:
        waiting.append({"type": "websocket.disconnect", "code": 1006})
    waiting.reverse()
    told: list[str] = []
    code: int | None = None
    closed = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        if waiting:
            return waiting.pop()
        await closed.wait()
        return {"type": "websocket.disconnect", "code": code or 1005}

    async def send(message: dict[str, Any]) -> None:
        nonlocal code
        if message["type"] == "websocket.send":
            told.append(message["text"])
        elif message["type"] == "websocket.close":
            code = message["code"]
            closed.set()

    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "path": "/v1/stream",
        "raw_path": b"/v1/stream", "root_path": "", "scheme": "ws", "query_string": query, "headers": [(b"host", b"f")],
        "client": ("fuzz", 1), "server": ("fuzz", 80), "subprotocols": [], "app": app, "state": {},
    }  # fmt: skip
    async with asyncio.timeout(HANG_S):
        await app(scope, receive, send)  # type: ignore[arg-type]
    return told, code
