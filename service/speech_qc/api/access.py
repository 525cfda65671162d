"""Access middleware: applies the `AccessPolicy` before every route."""

from __future__ import annotations

import logging

from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from speech_qc.api.error_responses import answer
from speech_qc.api.stream import StreamSocket
from speech_qc.errors import Forbidden, SpeechQCError, Unauthorized
from speech_qc.security.access_policy import (
    KEY_PARAMETER,
    TOKEN_PARAMETER,
    AccessPolicy,
    chosen_protocol,
    is_call,
)
from speech_qc.security.rights import takes_token
from speech_qc.telemetry.metrics import Metrics
from speech_qc.telephony.messages import Asked
from speech_qc.telephony.recognise import PROTOCOLS, by_upgrade, chosen_call_protocol
from speech_qc.telephony.refusal import refuse
from speech_qc.wire.close import close_reason, error_text

logger = logging.getLogger("speech_qc.access")


class Access:
    """ASGI middleware: passes an accepted request on with its caller in the scope, or answers it with an error.

    Args:
        app: The next ASGI application.
        policy: Decides which requests are accepted.
        metrics: Counts refusals.
    """

    def __init__(self, app: ASGIApp, policy: AccessPolicy, metrics: Metrics) -> None:
        self.app, self.policy, self.metrics = app, policy, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            scope["speechqc.caller"] = self.policy.check(scope)
        except SpeechQCError as error:
            self.metrics.access_refusals.labels(error.code).inc()
            client = (scope.get("client") or ("unknown",))[0]  # logged, so that guessing of keys can be traced
            logger.warning(
                "%s from %s id=%s", error.code, client, scope.get("speechqc.request_id", ""), extra={"client": client}
            )
            await self._refuse(error, scope, receive, send)
            return
        _hide_token(scope)
        await self.app(scope, receive, send)

    @staticmethod
    async def _refuse(error: SpeechQCError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            response: Response = answer(error, HTTPConnection(scope))
            if isinstance(error, Unauthorized):
                response.headers["WWW-Authenticate"] = "Bearer"
            await response(scope, receive, send)
            return
        if is_call(scope):
            await refuse_call(error, WebSocket(scope, receive, send))
            return
        identity = str(scope.get("speechqc.request_id", ""))
        await receive()  # websocket.connect
        if isinstance(error, Forbidden):
            await send({"type": "websocket.close", "code": error.ws_close})  # before accepting: an HTTP 403
            return
        # Accept first: browsers hide the status and body of a refused upgrade from scripts.
        try:
            await send({"type": "websocket.accept", "subprotocol": chosen_protocol(scope)})
            await send({"type": "websocket.send", "text": error_text(error, identity).decode()})
            await send({"type": "websocket.close", "code": error.ws_close, "reason": close_reason(error)})
        except OSError:
            return  # the client has disconnected


def _hide_token(scope: Scope) -> None:
    """Remove token and key from the query: routes no longer need them, and they are no options."""
    if not takes_token(scope):
        return
    hidden = (f"{TOKEN_PARAMETER}=".encode(),) + ((f"{KEY_PARAMETER}=".encode(),) if is_call(scope) else ())
    parts = scope["query_string"].split(b"&")
    scope["query_string"] = b"&".join(part for part in parts if not part.startswith(hidden))


async def refuse_call(error: SpeechQCError, websocket: WebSocket) -> None:
    """Accept the upgrade, say why if the phone system understands it, and close.

    Asterisk drops the call if its upgrade is not accepted; Genesys expects a `disconnect`.
    """
    scope = websocket.scope
    offered = scope.get("subprotocols", ())
    headers = {name.lower(): value for name, value in websocket.headers.items()}
    kind = PROTOCOLS.get(scope["path"].rpartition("/")[2]) or by_upgrade(headers, offered)
    try:
        await websocket.accept(chosen_call_protocol(offered))
    except OSError:
        return  # the peer has disconnected
    await refuse(StreamSocket(websocket), None if kind is None else kind(Asked("", headers=headers)), error)
