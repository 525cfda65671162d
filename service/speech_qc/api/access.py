"""Who may come in: keys and tokens, origins of web pages, the length of a query. Stands before every route.

Whatever is not in the list of open paths needs a key where the server has keys, so that a new route is closed until
somebody opens it.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.faults import answer
from service.callers import ANONYMOUS, Caller
from service.errors import Forbidden, ProtocolError, SettingsError, SpeechQCError, Unauthorized
from service.keys import ASK, KeyRing
from service.live.closing import close_reason, error_text
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger("service.access")

PAGES = frozenset({"/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""Hold nothing that is not in the source; a browser cannot send a key with an address that is typed in."""
HEALTH = frozenset({"/health/live", "/health/ready"})
METRICS = frozenset({"/metrics"})

PROTOCOL = "speechqc.v1"
"""Offered beside a key by browsers and chosen by the server, so that no answer repeats a key."""
KEY_PROTOCOL = "speechqc.key."
TOKEN_PARAMETER = "token"

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def make_ring(settings: Settings) -> KeyRing | None:
    """The server's keys; None where it has none.

    Raises:
        SettingsError: The file cannot be used.
    """
    if settings.api_keys_file is None:
        return None
    secret = settings.token_secret.get_secret_value() if settings.token_secret else secrets.token_hex()
    return KeyRing(settings.api_keys_file, token_secret=secret.encode(), token_s=settings.token_s)


def parse_origins(text: str) -> frozenset[str]:
    """Read the list of allowed origins.

    Raises:
        SettingsError: One is no origin.
    """
    origins = frozenset(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    for origin in origins - {"*"}:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise SettingsError(
                f"SPEECHQC_ALLOWED_ORIGINS: expected origins like https://app.example.com or *, came {origin!r}"
            )
    return origins


@dataclass(frozen=True, slots=True)
class Policy:
    """What `Access` goes by.

    Attributes:
        ring: Keys; None: everybody may come in.
        origins: Of web pages that may call, beside this server's own.
        open_paths: Need no key.
        max_query_bytes: Longest query.
    """

    ring: KeyRing | None
    origins: frozenset[str]
    open_paths: frozenset[str]
    max_query_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """As the settings say.

        Raises:
            SettingsError: The keys file or an origin cannot be used.
        """
        open_paths = PAGES
        open_paths |= frozenset() if settings.health_needs_key else HEALTH
        open_paths |= frozenset() if settings.metrics_needs_key else METRICS
        return cls(make_ring(settings), parse_origins(settings.allowed_origins), open_paths, settings.max_query_bytes)

    def check(self, scope: Scope) -> Caller:
        """Say who calls.

        Raises:
            ProtocolError: The query is too long.
            Forbidden: A web page of an origin that may not call.
            Unauthorized: No key, or one that is not valid.
        """
        query: bytes = scope["query_string"]
        if len(query) > self.max_query_bytes:
            raise ProtocolError(
                f"expected a query of at most {self.max_query_bytes} bytes, came {len(query)}: shorten it",
                bytes=len(query),
                max_bytes=self.max_query_bytes,
            )
        headers = Headers(scope=scope)
        if scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS:
            self._check_origin(headers)
        if self.ring is None:
            return ANONYMOUS
        if scope["type"] == "http" and scope["path"] in self.open_paths:
            return ANONYMOUS
        return self._owner(self.ring, scope, headers)

    def _check_origin(self, headers: Headers) -> None:
        """Browsers say which page calls, and let it open sockets anywhere; programs say nothing and may."""
        origin = headers.get("origin")
        if origin is None or "*" in self.origins or origin.lower() in self.origins:
            return
        # The scheme is not compared: a proxy that ends TLS in front of this server leaves it http.
        with suppress(ValueError):  # of what is no address at all
            if urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != "":
                return
        raise Forbidden(
            f"web pages of {origin[:200]!r} may not call this server: add the origin to SPEECHQC_ALLOWED_ORIGINS"
        )

    @staticmethod
    def _owner(ring: KeyRing, scope: Scope, headers: Headers) -> Caller:
        given = _given(scope, headers)
        if not given:
            raise Unauthorized(f"expected a key, came none: {ASK}")
        if given.startswith("sqt_"):
            if scope["type"] != "websocket":
                raise Unauthorized(f"a token opens streams and nothing else, expected a key here: {ASK}")
            return Caller(ring.check_token(given))
        return Caller(ring.check(given))


def _given(scope: Scope, headers: Headers) -> str | None:
    """The key or token of a request, wherever it is allowed to be."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip()
    if headers.get("x-api-key"):
        return headers["x-api-key"].strip()
    if scope["type"] != "websocket":
        return None
    for offered in scope.get("subprotocols", ()):
        if offered.startswith(KEY_PROTOCOL):
            return str(offered).removeprefix(KEY_PROTOCOL)
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    token = next((value for name, value in pairs if name == TOKEN_PARAMETER), None)
    if token is not None and not token.startswith("sqt_"):
        raise Unauthorized("only a token of POST /v1/token may stand in an address, never a key: addresses are logged")
    return token


def chosen_protocol(scope: Scope) -> str | None:
    """The sub-protocol to agree on: browsers drop a connection where none of those they offered is chosen."""
    offered = scope.get("subprotocols", ())
    if PROTOCOL in offered:
        return PROTOCOL
    return next((str(one) for one in offered if one.startswith(KEY_PROTOCOL)), None)


class Access:
    """ASGI middleware: lets a request pass with its caller in the scope, or answers it.

    Args:
        app: The application behind it.
        policy: Who may pass.
        metrics: Where refusals are counted.
    """

    def __init__(self, app: ASGIApp, policy: Policy, metrics: Metrics) -> None:
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
            client = (scope.get("client") or ("unknown",))[0]  # or nobody could tell who guesses keys
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
        # Accepted first: browsers show scripts neither status nor body of a refused upgrade.
        try:
            await send({"type": "websocket.accept", "subprotocol": chosen_protocol(scope)})
            await send({"type": "websocket.send", "text": error_text(error, identity).decode()})
            await send({"type": "websocket.close", "code": error.ws_close, "reason": close_reason(error)})
        except OSError:
            return  # the client is gone


def _hide_token(scope: Scope) -> None:
    """Take the token out of the query: routes need it no more, and it is no option of a stream."""
    if scope["type"] != "websocket" or TOKEN_PARAMETER.encode() not in scope["query_string"]:
        return
    parts = scope["query_string"].split(b"&")
    scope["query_string"] = b"&".join(part for part in parts if not part.startswith(TOKEN_PARAMETER.encode() + b"="))
