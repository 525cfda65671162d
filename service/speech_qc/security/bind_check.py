"""Refuse to start a server without keys that other machines can reach, unless that is allowed."""

from __future__ import annotations

import ipaddress

from speech_qc.errors import SettingsError
from speech_qc.settings import Settings


def check_exposure(settings: Settings) -> None:
    """Refuse to expose a server without keys to other machines by mistake.

    Raises:
        SettingsError: Other machines can reach the address, and neither keys nor anonymous access are configured.
    """
    if settings.api_keys_file is not None or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"SPEECHQC_HOST={settings.host!r} is reachable from other machines, and no keys are set: anyone there could "
        "use the server. Create a key ('speech-qc keys add NAME --file keys.jsonl') and set SPEECHQC_API_KEYS_FILE, or "
        "set SPEECHQC_ALLOW_ANONYMOUS=true if something else restricts access, such as a container whose port is "
        "published only on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; any name but localhost may refer to another machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
