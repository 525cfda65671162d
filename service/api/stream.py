"""`WebSocket /v1/stream`: the socket of a live stream; everything else is in `service.live`."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from service.api.deps import AppState, RequestId, State
from service.assembly import make_lanes
from service.errors import SpeechQCError
from service.live.closing import close_reason, error_text
from service.live.options import parse_options
from service.live.scorer import LiveLanes
from service.live.stream import Gone, LiveStream

router = APIRouter()


@router.websocket("/v1/stream")
async def stream(websocket: WebSocket, state: State, identity: RequestId) -> None:
    """Serve one live stream; docs/protocol.md describes it."""
    await websocket.accept()
    socket = _Socket(websocket)
    try:
        await _open(socket, websocket, state, identity).run()
    except SpeechQCError as error:
        state.metrics.streams_ended.labels(error.code).inc()
        await _refuse(socket, error, identity)


def _open(socket: _Socket, websocket: WebSocket, state: AppState, identity: str) -> LiveStream:
    options = parse_options(
        websocket.query_params.multi_items(), state.contract, state.profiles, state.settings.default_profile
    )
    return LiveStream(
        socket,
        options,
        session_id=identity,
        engine=state.engine,
        contract=state.contract,
        identity=state.identity,
        lanes=LiveLanes.of(make_lanes(state.settings)),
        profiles=state.profiles,
        settings=state.settings,
        metrics=state.metrics,
        hub=state.streams,
    )


async def _refuse(socket: _Socket, error: SpeechQCError, identity: str) -> None:
    """Say why, then close; browsers show neither status nor body of a refused upgrade, so the socket was accepted."""
    try:
        await socket.send(error_text(error, identity))
        await socket.close(error.ws_close, close_reason(error))
    except Gone:
        return


class _Socket:
    """Starlette's socket as `service.live.stream` wants it."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> bytes | str | None:
        """Next message; None when the client is gone."""
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        content: bytes | str | None = message.get("bytes")
        return content if content is not None else message.get("text") or ""

    async def send(self, text: str) -> None:
        """Send a text message."""
        try:
            await self._websocket.send({"type": "websocket.send", "text": text})
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            raise Gone from error

    async def close(self, code: int, reason: str) -> None:
        """Say the close."""
        try:
            await self._websocket.close(code, reason)
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            raise Gone from error

    def abort(self) -> None:
        """Cut the connection: a transport that waits for a client that does not read would wait for ever.

        ASGI has no word for it, so the server's transport is sought where uvicorn has it; without one the server's own
        ping time-out ends the connection.
        """
        server = getattr(self._websocket._receive, "__self__", None)
        transport = getattr(server, "transport", None)
        abort = getattr(transport, "abort", None)
        if callable(abort):
            abort()
