"""What the settings say about webhooks, checked at the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args
from urllib.parse import urlsplit

from speech_qc.call_store.records import Subscription
from speech_qc.calls.events import CallEventKind
from speech_qc.errors import SettingsError
from speech_qc.settings import Settings
from speech_qc.webhooks.signing import Signer

MAX_URLS = 16


@dataclass(frozen=True, slots=True)
class WebhookConfig:
    """Where webhooks go and how they are signed.

    Attributes:
        subscription: Which events go where.
        signer: Signs them; None if there are no receivers.
        timeout_s: Longest wait for a receiver's response.
        keep_s: Time after which a webhook is abandoned.
    """

    subscription: Subscription
    signer: Signer | None
    timeout_s: float
    keep_s: float

    @classmethod
    def of(cls, settings: Settings) -> WebhookConfig:
        """Read the settings.

        Raises:
            SettingsError: A URL, a kind of event or the secret is not valid; no message repeats a URL or a secret.
        """
        given = settings.webhook_urls.get_secret_value() if settings.webhook_urls else ""
        urls = tuple(dict.fromkeys(part.strip() for part in given.split(",") if part.strip()))
        if len(urls) > MAX_URLS:
            raise SettingsError(f"SPEECHQC_WEBHOOK_URLS: expected at most {MAX_URLS} URLs, got {len(urls)}")
        for number, url in enumerate(urls, 1):
            _check_url(number, url)
        kinds = frozenset(part.strip() for part in settings.webhook_events.split(",") if part.strip())
        known = get_args(CallEventKind)
        if not kinds <= set(known):
            raise SettingsError(
                f"SPEECHQC_WEBHOOK_EVENTS: expected kinds from {', '.join(known)}, got "
                f"{', '.join(sorted(kinds - set(known)))}: correct the list"
            )
        signer = None
        if urls:
            if settings.webhook_secret is None:
                raise SettingsError(
                    "SPEECHQC_WEBHOOK_URLS needs SPEECHQC_WEBHOOK_SECRET, so that receivers can check who sent a "
                    "webhook: set it to the output of: echo whsec_$(openssl rand -base64 32)"
                )
            signer = Signer.parse(settings.webhook_secret.get_secret_value())
        return cls(Subscription(urls, kinds), signer, settings.webhook_timeout_s, settings.results_keep_s)


def _check_url(number: int, url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or not url.isascii() or any(char.isspace() for char in url):
        raise SettingsError(f"SPEECHQC_WEBHOOK_URLS: expected http:// or https:// URLs, number {number} is none")
    if parts.username or parts.password or parts.fragment:
        raise SettingsError(
            f"SPEECHQC_WEBHOOK_URLS: URL number {number} has a user, a password or a fragment, which are not sent: "
            "remove them; receivers check the signature"
        )
