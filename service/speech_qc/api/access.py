"""Access middleware: applies the `AccessPolicy` before every route."""

from __future__ import annotations

import logging

from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from speech_qc.api.error_responses import answer
from speech_qc.errors import Forbidden, SpeechQCError, Unauthorized
from speech_qc.security.access_policy import TOKEN_PARAMETER, AccessPolicy, chosen_protocol
from speech_qc.security.rights import takes_token
from speech_qc.telemetry.metrics import Metrics
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
    """Remove the token from the query: routes no longer need it, and it is not a stream option."""
    if not takes_token(scope) or TOKEN_PARAMETER.encode() not in scope["query_string"]:
        return
    parts = scope["query_string"].split(b"&")
    scope["query_string"] = b"&".join(part for part in parts if not part.startswith(TOKEN_PARAMETER.encode() + b"="))
