"""`WebSocket /v1/stream`: the connection of a live stream; everything else is in `speech_qc.live`."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, WebSocket
from starlette.websockets import WebSocketDisconnect

from speech_qc.api.deps import app_state, caller, request_id
from speech_qc.api.error_responses import answer
from speech_qc.errors import EngineDead, SpeechQCError
from speech_qc.live.options import parse_options
from speech_qc.live.socket import ClientGone
from speech_qc.live.stream import LiveStream
from speech_qc.security.access_policy import chosen_protocol
from speech_qc.server.websocket_protocol import LiveWebSocketProtocol
from speech_qc.state import AppState
from speech_qc.wire.close import close_reason, error_text

router = APIRouter()


async def stream(websocket: WebSocket) -> None:
    """Serve one live stream; docs/protocol.md describes it."""
    state, identity = app_state(websocket), request_id(websocket)
    if (dead := dead_engine(state)) is not None:
        state.metrics.streams_ended.labels(dead.code).inc()
        await websocket.send_denial_response(answer(dead, websocket))
        return
    await websocket.accept(chosen_protocol(websocket.scope))
    socket = StreamSocket(websocket)
    try:
        with state.models.current.held() as generation:
            options = parse_options(
                websocket.query_params.multi_items(),
                generation.contract,
                state.profiles,
                state.settings.default_profile,
            )
            with state.quotas.stream(caller(websocket), options.channels):
                await LiveStream(socket, options, identity, generation, state).run()
    except SpeechQCError as error:
        state.metrics.streams_ended.labels(error.code).inc()
        await _refuse(socket, error, identity)


def dead_engine(state: AppState) -> EngineDead | None:
    """Return why a socket must be refused, before its upgrade, so that a load balancer can try another server.

    Returns:
        The error, which is counted as a refusal; None if the engine is alive.
    """
    if (death := state.engine.status.death) is None:
        return None
    state.metrics.refuse("dead")
    return EngineDead(f"the engine is dead: {death}; connect to another server, or try again later")


# Not `websocket`, which keeps 4 KiB for each open connection to resolve dependencies of handlers.
router.add_websocket_route("/v1/stream", stream)


async def _refuse(socket: StreamSocket, error: SpeechQCError, identity: str) -> None:
    """Send the error, then close the accepted socket: browsers hide the status and body of a refused upgrade."""
    try:
        await socket.send(error_text(error, identity))
        await socket.close(error.ws_close, close_reason(error))
    except ClientGone:
        return


class StreamSocket:
    """Adapts Starlette's WebSocket to the interface of `speech_qc.live.socket.Socket`.

    ASGI cannot send or receive a message without waiting, nor abort a connection. If the server's protocol object is a
    `LiveWebSocketProtocol`, this class calls it directly. Otherwise messages take the slower path, and the server's
    ping time-out closes a connection that hangs.
    """

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        server = getattr(websocket._receive, "__self__", None)
        self._direct = server if isinstance(server, LiveWebSocketProtocol) else None

    def tap(self, sink: Callable[[bytes], bool] | None) -> None:
        """Offer binary messages to `sink` first; with None, `receive` returns all of them."""
        if self._direct is not None:
            self._direct.sink = sink

    def tap_text(self, sink: Callable[[bytes], bool] | None) -> None:
        """Offer text messages to `sink` first; with None, `receive` returns all of them."""
        if self._direct is not None:
            self._direct.text_sink = sink

    async def receive(self) -> bytes | str | None:
        """Return the next message; None if the client has disconnected."""
        try:
            message = await self._websocket.receive()
        except RuntimeError:  # its disconnection was received before
            return None
        if message["type"] == "websocket.disconnect":
            return None
        content: bytes | str | None = message.get("bytes")
        return content if content is not None else message.get("text") or ""

    async def send(self, text: bytes) -> None:
        """Send a text message."""
        try:
            await self._websocket.send({"type": "websocket.send", "text": text.decode()})
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            raise ClientGone from error

    def send_now(self, text: bytes) -> bool:
        """Send a text message if it need not wait; return whether it was sent."""
        return self._direct is not None and self._direct.send_now(text)

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame."""
        try:
            await self._websocket.close(code, reason)
        except (WebSocketDisconnect, OSError, RuntimeError) as error:
            raise ClientGone from error

    def abort(self) -> None:
        """Abort the connection: closing it gracefully would wait indefinitely for a client that does not read."""
        if self._direct is not None:
            self._direct.transport.abort()
