"""Signatures of the Standard Webhooks specification, symmetric scheme (https://www.standardwebhooks.com).

The HMAC-SHA256 of `id.timestamp.body`, with the secret's bytes as key, base64, after `v1,`. Several signatures,
separated by spaces, let a receiver accept the old and the new secret while one is replaced.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

from speech_qc.errors import SettingsError

PREFIX = "whsec_"
MIN_BYTES, MAX_BYTES = 24, 64
MAX_SECRETS = 2


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs messages with one secret, or with two while one replaces the other."""

    secrets: tuple[bytes, ...]

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Parse the setting.

        Raises:
            SettingsError: It is not one or two secrets; the message does not repeat them.
        """
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if not 1 <= len(parts) <= MAX_SECRETS:
            raise SettingsError(f"SPEECHQC_WEBHOOK_SECRET: expected one secret or two, got {len(parts)}")
        return cls(tuple(_decode(part) for part in parts))

    def headers(self, message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
        """Return the headers that the specification asks for.

        Args:
            message_id: The same at every attempt.
            timestamp_s: Time of this attempt, seconds since 1970.
            body: The body, byte for byte.
        """
        signed = b"%b.%d.%b" % (message_id.encode(), timestamp_s, body)
        signatures = (base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)) for secret in self.secrets)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": " ".join(f"v1,{signature.decode()}" for signature in signatures),
        }


def _decode(text: str) -> bytes:
    expected = (
        f"SPEECHQC_WEBHOOK_SECRET: expected {PREFIX} and base64 of {MIN_BYTES} to {MAX_BYTES} bytes, as of: "
        f"echo {PREFIX}$(openssl rand -base64 32)"
    )
    if not text.startswith(PREFIX):
        raise SettingsError(f"{expected}; got a text that does not begin with {PREFIX}")
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError(f"{expected}; got something else after {PREFIX}") from None
    if not MIN_BYTES <= len(secret) <= MAX_BYTES:
        raise SettingsError(f"{expected}; got {len(secret)} bytes")
    return secret
