"""The access check: keys and tokens, origins of web pages, the length of a query.

If the server has keys, every path that is not listed as open needs one, so a new route is closed by default.
"""

from __future__ import annotations

import base64
import secrets
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from speech_qc.errors import Forbidden, ProtocolError, SettingsError, Unauthorized
from speech_qc.security.api_keys import ASK, KeyRing
from speech_qc.security.call_signatures import CallSignatures
from speech_qc.security.caller import ANONYMOUS, Caller
from speech_qc.security.rights import right_for, takes_token
from speech_qc.settings import Settings
from speech_qc.wire.vocabulary import HEALTH_PATHS, METRICS_PATHS, Right

PAGES = frozenset({"/", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
"""They contain nothing that is not in the source, and a browser cannot send a key with a URL that is typed in."""
PROTOCOL = "speechqc.v1"
"""Browsers offer it in addition to a key, and the server selects it, so that no response repeats a key."""
KEY_PROTOCOL = "speechqc.key."
TOKEN_PARAMETER = "token"
KEY_PARAMETER = "key"
"""Only for phone systems, of which some can send nothing but a URL."""
TELEPHONY_PATH = "/v1/telephony"

_VERBS: dict[Right, str] = {"send": "send audio", "watch": "watch calls", "admin": "administer"}

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def make_ring(settings: Settings) -> KeyRing | None:
    """Return the server's keys; None if it has none.

    Raises:
        SettingsError: The keys file cannot be used.
    """
    if settings.api_keys_file is None:
        return None
    secret = settings.token_secret.get_secret_value() if settings.token_secret else secrets.token_hex()
    return KeyRing(settings.api_keys_file, token_secret=secret.encode(), token_s=settings.token_s)


def parse_origins(text: str) -> frozenset[str]:
    """Parse the list of allowed origins.

    Raises:
        SettingsError: An entry is not an origin.
    """
    origins = frozenset(part.strip().rstrip("/").lower() for part in text.split(",") if part.strip())
    for origin in origins - {"*"}:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query:
            raise SettingsError(
                f"SPEECHQC_ALLOWED_ORIGINS: expected origins like https://app.example.com or *, got {origin!r}"
            )
    return origins


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """The access rules of a server.

    Attributes:
        ring: The server's keys; None if every client has access.
        origins: Origins of web pages that may call, in addition to this server's own.
        open_paths: Paths that need no key.
        max_query_bytes: Maximum length of a query.
        signatures: Checks the signatures of phone systems.
    """

    ring: KeyRing | None
    origins: frozenset[str]
    open_paths: frozenset[str]
    max_query_bytes: int
    signatures: CallSignatures

    @classmethod
    def of(cls, settings: Settings) -> AccessPolicy:
        """Build the policy from the settings.

        Raises:
            SettingsError: The keys file or an origin cannot be used.
        """
        open_paths = PAGES
        open_paths |= frozenset() if settings.health_needs_key else HEALTH_PATHS
        open_paths |= frozenset() if settings.metrics_needs_key else METRICS_PATHS
        return cls(
            make_ring(settings),
            parse_origins(settings.allowed_origins),
            open_paths,
            settings.max_query_bytes,
            CallSignatures(settings),
        )

    def check(self, scope: Scope) -> Caller:
        """Check a request and return its caller.

        Raises:
            ProtocolError: The query is too long.
            Forbidden: The request comes from a web page of an origin that is not allowed, or the key lacks the right.
            Unauthorized: The key is missing or not valid.
        """
        query: bytes = scope["query_string"]
        if len(query) > self.max_query_bytes:
            raise ProtocolError(
                f"expected a query of at most {self.max_query_bytes} bytes, got {len(query)}: shorten it",
                bytes=len(query),
                max_bytes=self.max_query_bytes,
            )
        headers = Headers(scope=scope)
        caller = self._check_call(scope, headers) if is_call(scope) else self._check_other(scope, headers)
        _check_right(scope, caller)
        return caller

    def _check_other(self, scope: Scope, headers: Headers) -> Caller:
        """Check everything that is not a phone system's socket."""
        if scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS:
            self._check_origin(headers)
        if self.ring is None:
            return ANONYMOUS
        if scope["type"] == "http" and scope["path"] in self.open_paths:
            return ANONYMOUS
        return self._owner(self.ring, scope, headers)

    def _check_origin(self, headers: Headers) -> None:
        """Refuse web pages of other origins.

        Browsers send the origin of the calling page, and let any page open sockets to any server. Other programs send
        no origin and are allowed.
        """
        origin = headers.get("origin")
        if origin is None or "*" in self.origins or origin.lower() in self.origins:
            return
        # The scheme is not compared: behind a proxy that terminates TLS, it is http here.
        with suppress(ValueError):  # the origin is not a valid URL
            if urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != "":
                return
        raise Forbidden(
            f"web pages of {origin[:200]!r} may not call this server: add the origin to SPEECHQC_ALLOWED_ORIGINS"
        )

    def _check_call(self, scope: Scope, headers: Headers) -> Caller:
        """Check a phone system's socket: its signature, or a key in any place where a phone system can put one."""
        if not _is_own_host(headers):
            self._check_origin(headers)
        signer = self.signatures.signer(scope, headers)
        scope["speechqc.signer"] = signer
        if signer is not None or self.ring is None:
            return ANONYMOUS
        key = _key_in_query(scope) or _basic_password(headers)
        return Caller(self.ring.check(key)) if key is not None else self._owner(self.ring, scope, headers)

    @staticmethod
    def _owner(ring: KeyRing, scope: Scope, headers: Headers) -> Caller:
        given = _given(scope, headers)
        if not given:
            raise Unauthorized(f"expected a key, got none: {ASK}")
        if given.startswith("sqt_"):
            if not takes_token(scope):
                raise Unauthorized(f"expected a key, got a token, which only opens streams and /v1/watch: {ASK}")
            return Caller(ring.check_token(given))
        return Caller(ring.check(given))


def _check_right(scope: Scope, caller: Caller) -> None:
    """Refuse a key, or a token made with it, that lacks the right that the request needs."""
    right = right_for(scope)
    if right is not None and caller.key is not None and not caller.key.may(right):
        option = "--admin" if right == "admin" else f"--right {right}"
        raise Forbidden(f"this needs a key with the right to {_VERBS[right]} ('speech-qc keys add NAME {option}')")


def is_call(scope: Scope) -> bool:
    """Whether a request is the upgrade of a phone system's socket."""
    path: str = scope["path"]
    return scope["type"] == "websocket" and (path == TELEPHONY_PATH or path.startswith(f"{TELEPHONY_PATH}/"))


def _is_own_host(headers: Headers) -> bool:
    """Whether the origin is this server without its port, as FreeSWITCH sends it."""
    origin, host = headers.get("origin", ""), headers.get("host", "")
    return origin != "" and origin.rpartition("//")[2].lower() == host.rpartition(":")[0].lower()


def _key_in_query(scope: Scope) -> str | None:
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return next((value for name, value in pairs if name == KEY_PARAMETER and value), None)


def _basic_password(headers: Headers) -> str | None:
    """Return the password of Basic authentication; the user does not matter."""
    scheme, _, encoded = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    with suppress(ValueError):
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2] or None
    return None


def _given(scope: Scope, headers: Headers) -> str | None:
    """Return the key or token of a request, from any of the accepted locations."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip()
    if headers.get("x-api-key"):
        return headers["x-api-key"].strip()
    if not takes_token(scope):
        return None
    for offered in scope.get("subprotocols", ()):
        if offered.startswith(KEY_PROTOCOL):
            return str(offered).removeprefix(KEY_PROTOCOL)
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    token = next((value for name, value in pairs if name == TOKEN_PARAMETER), None)
    if token is not None and not token.startswith("sqt_"):
        raise Unauthorized("expected a token of POST /v1/token in the URL, never a key: URLs are logged")
    return token


def chosen_protocol(scope: Scope) -> str | None:
    """Return the sub-protocol to select: browsers drop a connection if none of those they offered is selected."""
    offered = scope.get("subprotocols", ())
    if PROTOCOL in offered:
        return PROTOCOL
    return next((str(one) for one in offered if one.startswith(KEY_PROTOCOL)), None)
