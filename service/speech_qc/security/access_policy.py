"""The access check: keys and tokens, origins of web pages, the length of a query.

A path that is not listed as open needs a key where the server has keys, so a new route is closed until somebody opens
it.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from speech_qc.errors import Forbidden, ProtocolError, SettingsError, Unauthorized
from speech_qc.security.api_keys import ASK, KeyRing
from speech_qc.security.caller import ANONYMOUS, Caller
from speech_qc.settings import Settings
from speech_qc.wire.vocabulary import HEALTH_PATHS, METRICS_PATHS

PAGES = frozenset({"/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""Hold nothing that is not in the source; a browser cannot send a key with an address that is typed in."""
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
class AccessPolicy:
    """Who may do what.

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
    def of(cls, settings: Settings) -> AccessPolicy:
        """As the settings say.

        Raises:
            SettingsError: The keys file or an origin cannot be used.
        """
        open_paths = PAGES
        open_paths |= frozenset() if settings.health_needs_key else HEALTH_PATHS
        open_paths |= frozenset() if settings.metrics_needs_key else METRICS_PATHS
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
