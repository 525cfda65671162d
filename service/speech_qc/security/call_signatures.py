"""Signatures with which phone systems prove who opens a socket.

Sources: https://www.twilio.com/docs/usage/security#validating-requests, Plivo's signature V3
(https://www.plivo.com/docs/voice/concepts/signature-validation), Genesys AudioHook
(https://developer.genesys.cloud/devapps/audiohook/security), an older draft of HTTP message signatures than RFC 9421.
"""

from __future__ import annotations

import base64
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import Scope

from speech_qc.errors import SettingsError, Unauthorized
from speech_qc.settings import Settings

MAX_AGE_S = 10.0
"""Oldest signature of Genesys that is accepted."""

MIN_NONCE_CHARS = 22
MAX_NONCES = 10_000

GENESYS_COMPONENTS = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)

_INPUT = re.compile(r'sig1=(\(([^()]*)\)(?:;[a-z]+=(?:"[^"\\]*"|\d{1,12}))*)\s*')
_PARAMETER = re.compile(r';([a-z]+)=(?:"([^"\\]*)"|(\d{1,12}))')
_SIGNATURE = re.compile(r"sig1=:([A-Za-z0-9+/]+={0,2}):\s*")


@dataclass(slots=True)
class CallSignatures:
    """Checks signatures against the secrets in the settings.

    Args:
        settings: Secrets, and the public address that signatures cover.
        clock: Wall clock: a signature says when it was made.

    Raises:
        SettingsError: The secret of Genesys is not base64.
    """

    settings: Settings
    clock: Callable[[], float] = time.time
    _nonces: OrderedDict[str, float] = field(default_factory=OrderedDict)
    _genesys_secret: bytes = b""

    def __post_init__(self) -> None:
        if self.settings.genesys_secret is not None:
            try:
                self._genesys_secret = base64.b64decode(self.settings.genesys_secret.get_secret_value(), validate=True)
            except ValueError:
                raise SettingsError("SPEECHQC_GENESYS_SECRET: expected base64, as the integration has it") from None

    def signer(self, scope: Scope, headers: Headers) -> str | None:
        """Return the vendor whose signature a request has: `twilio`, `plivo` or `genesys`; None if it has none.

        A signature whose secret is not set is not looked at.

        Raises:
            Unauthorized: The signature is wrong.
        """
        settings = self.settings
        checks = (
            ("twilio", settings.twilio_auth_token, "x-twilio-signature", self._is_of_twilio),
            ("plivo", settings.plivo_auth_token, "x-plivo-signature-v3", self._is_of_plivo),
            ("genesys", settings.genesys_secret, "signature", self._is_of_genesys),
        )
        for vendor, secret, header, check in checks:
            if secret is not None and header in headers:
                if not check(scope, headers):
                    raise Unauthorized(
                        f"expected a valid signature of {vendor}: check the secret in the settings, and that "
                        "SPEECHQC_TELEPHONY_URL is the address that the vendor calls"
                    )
                return vendor
        return None

    def demands(self, vendor: str) -> bool:
        """Whether sockets of a vendor need its signature."""
        secrets: Mapping[str, SecretStr | None] = {
            "twilio": self.settings.twilio_auth_token,
            "plivo": self.settings.plivo_auth_token,
            "genesys": self.settings.genesys_secret,
        }
        return secrets.get(vendor) is not None

    def _is_of_twilio(self, scope: Scope, headers: Headers) -> bool:
        token = self.settings.twilio_auth_token
        assert token is not None
        given = headers["x-twilio-signature"]
        return any(
            _is_same(_signed(token.get_secret_value().encode(), url, "sha1"), given)
            for url in self._urls(scope, headers)
        )

    def _is_of_plivo(self, scope: Scope, headers: Headers) -> bool:
        token = self.settings.plivo_auth_token
        assert token is not None
        nonce = headers.get("x-plivo-signature-v3-nonce", "")
        given = [one.strip() for one in headers["x-plivo-signature-v3"].split(",")]
        for url in self._urls(scope, headers):
            address, _, query = url.partition("?")  # `urlsplit` refuses some of what a client may name as its host
            pairs = [
                f"{name}={value}"
                for name, values in sorted(parse_qs(query, keep_blank_values=True).items())
                for value in sorted(values)
            ]
            text = f"{address}{'?' if pairs else ''}{'&'.join(pairs)}.{nonce}"
            made = _signed(token.get_secret_value().encode(), text, "sha256")
            if any(_is_same(made, one) for one in given):
                return True
        return False

    def _is_of_genesys(self, scope: Scope, headers: Headers) -> bool:
        match, signature = (
            _INPUT.fullmatch(headers.get("signature-input", "")),
            _SIGNATURE.fullmatch(headers["signature"]),
        )
        api_key = self.settings.genesys_api_key
        if match is None or signature is None or api_key is None:
            return False
        components = tuple(match[2].replace('"', "").split())
        parameters = {name: text or number for name, text, number in _PARAMETER.findall(match[1])}
        key = api_key.get_secret_value()
        if (
            set(components) != set(GENESYS_COMPONENTS)
            or parameters.get("alg") != "hmac-sha256"
            or not _is_same(key, parameters.get("keyid", ""))
            or not _is_same(key, headers.get("x-api-key", ""))
        ):
            return False
        values = {
            "@request-target": self._prefix + _target(scope),
            "@authority": self._authority(headers),
        }
        lines = [f'"{name}": {values.get(name, headers.get(name, ""))}' for name in components]
        text = "\n".join([*lines, f'"@signature-params": {match[1]}'])
        if not _is_same(_signed(self._genesys_secret, text, "sha256"), signature[1]):
            return False
        return self._is_fresh(parameters)

    def _is_fresh(self, parameters: Mapping[str, str]) -> bool:
        """Whether a signature of Genesys is recent, and its nonce is new."""
        now_s, nonce = self.clock(), parameters.get("nonce", "")
        created, expires = parameters.get("created", ""), parameters.get("expires", "")
        if not created.isdecimal() or abs(now_s - int(created)) > MAX_AGE_S or len(nonce) < MIN_NONCE_CHARS:
            return False
        if expires and (not expires.isdecimal() or int(expires) < now_s):
            return False
        while self._nonces and (
            next(iter(self._nonces.values())) < now_s - 2 * MAX_AGE_S or len(self._nonces) >= MAX_NONCES
        ):
            self._nonces.popitem(last=False)
        if nonce in self._nonces:
            return False
        self._nonces[nonce] = now_s
        return True

    def _authority(self, headers: Headers) -> str:
        public = self.settings.telephony_url
        return (urlsplit(public).netloc if public else headers.get("host", "")).lower()

    @property
    def _prefix(self) -> str:
        """Path of the public address, which a proxy takes away."""
        return urlsplit(self.settings.telephony_url or "").path.rstrip("/")

    def _urls(self, scope: Scope, headers: Headers) -> list[str]:
        """Return the addresses that a vendor may have signed: with and without a port, by the schemes of a socket."""
        target, public = _target(scope), self.settings.telephony_url
        if public:
            parts = urlsplit(public)
            schemes, host, prefix = [parts.scheme], parts.netloc, self._prefix
        else:
            schemes, host, prefix = ["wss", "https", "ws", "http"], headers.get("host", ""), ""
        bare = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        urls = []
        for scheme in schemes:
            port = "443" if scheme in ("wss", "https") else "80"
            urls += [f"{scheme}://{name}{prefix}{target}" for name in dict.fromkeys((host, bare, f"{bare}:{port}"))]
        return urls


def _target(scope: Scope) -> str:
    """Return path and query as they were sent."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path.split(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1")


def _signed(secret: bytes, text: str, algorithm: str) -> str:
    return base64.b64encode(hmac.digest(secret, text.encode(), algorithm)).decode()


def _is_same(expected: str, given: str) -> bool:
    """Compare in constant time; as bytes, because a header may have any characters."""
    return hmac.compare_digest(expected.encode(), given.encode())
