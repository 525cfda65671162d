"""Whether strangers reach the server: no start without keys, unless that is wanted. Knows settings alone."""

from __future__ import annotations

import ipaddress

from speech_qc.errors import SettingsError
from speech_qc.settings import Settings


def check_exposure(settings: Settings) -> None:
    """Refuse to serve strangers by mistake.

    Raises:
        SettingsError: Other machines reach the address, and neither keys nor the permission to do without are set.
    """
    if settings.api_keys_file is not None or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"SPEECHQC_HOST={settings.host!r} is reached by other machines, and no keys are set: anybody there could use "
        "the server. Make a key ('speech-qc keys add NAME --file keys.jsonl') and set SPEECHQC_API_KEYS_FILE, or set "
        "SPEECHQC_ALLOW_ANONYMOUS=true where something else keeps strangers out, as a container whose port is "
        "published on 127.0.0.1 alone"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name other than localhost may be anywhere."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
