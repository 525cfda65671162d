"""Refuse to start a server without keys that other machines can reach, unless that is allowed."""

from __future__ import annotations

import ipaddress

from speech_qc.errors import SettingsError
from speech_qc.settings import Settings


def check_exposure(settings: Settings) -> None:
    """Refuse to expose a server without keys to other machines by mistake.

    Raises:
        SettingsError: Other machines can reach the address, and neither keys nor anonymous access are configured; or
            the settings of AudioSocket cannot be used, or let everyone in.
    """
    audiosocket_networks(settings)
    if settings.api_keys_file is not None or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"SPEECHQC_HOST={settings.host!r} is reachable from other machines, and no keys are set: anyone there could "
        "use the server. Create a key ('speech-qc keys add NAME --file keys.jsonl') and set SPEECHQC_API_KEYS_FILE, or "
        "set SPEECHQC_ALLOW_ANONYMOUS=true if something else restricts access, such as a container whose port is "
        "published only on 127.0.0.1"
    )


def audiosocket_address(settings: Settings) -> tuple[str, int] | None:
    """Return where to listen for AudioSocket; None if nowhere.

    Raises:
        SettingsError: It is no address.
    """
    if not settings.audiosocket:
        return None
    host, _, port = settings.audiosocket.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"SPEECHQC_AUDIOSOCKET: expected host:port, got {settings.audiosocket!r}")
    return host.strip("[]"), int(port)


def audiosocket_networks(settings: Settings) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Return the networks that may connect to AudioSocket, which knows no keys.

    Raises:
        SettingsError: An entry is no network, or the list lets everyone in, which must be allowed explicitly.
    """
    networks = []
    for entry in filter(None, map(str.strip, settings.audiosocket_allow.split(","))):
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            raise SettingsError(
                f"SPEECHQC_AUDIOSOCKET_ALLOW: expected addresses or networks such as 10.0.0.0/24, got {entry!r}"
            ) from None
    address = audiosocket_address(settings)
    open_to_all = any(network.prefixlen == 0 for network in networks)
    if address is not None and open_to_all and not is_loopback(address[0]) and not settings.allow_anonymous:
        raise SettingsError(
            "SPEECHQC_AUDIOSOCKET_ALLOW lets everyone in, and AudioSocket has no authentication: list the addresses of "
            "your Asterisk servers, or set SPEECHQC_ALLOW_ANONYMOUS=true if something else restricts access"
        )
    return tuple(networks)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; any name but localhost may refer to another machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
