"""The one port of several processes: who binds it, and how its connections are spread.

On Linux every worker binds the port itself, with SO_REUSEPORT, and the kernel picks one by the connection's addresses:
an even spread up to chance, whatever the workers do meanwhile. A socket that all of them share wakes whoever is idle,
often the same one: of 200 connections that came one by one to four idle workers, one got 103 to 120 and another 0 to 3.
Other kernels do not spread connections over sockets of one port, so there the parent's socket is shared.
"""

from __future__ import annotations

import os
import socket
import sys

from service.errors import SettingsError

SPREADS = sys.platform.startswith("linux")
"""Whether this kernel spreads connections over sockets that are bound to the same port."""


def bind_all(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Bind every address of a host, as asyncio does; nothing is listened to yet, so no connection comes in.

    Args:
        host: Name or address.
        port: TCP port.
        reuse_port: Whether further sockets of this user may be bound to the port.

    Returns:
        One socket per address, inheritable by no one.

    Raises:
        SettingsError: No such host, or the port is taken or not allowed.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
            one.bind(address)
            one.setblocking(False)
    except OSError as error:
        for one in bound:
            one.close()
        raise SettingsError(
            f"expected an address to listen on, SPEECHQC_HOST={host!r} with SPEECHQC_PORT={port} cannot be had: "
            f"{os.strerror(error.errno) if error.errno and error.errno > 0 else error}"
        ) from error
    return bound


def reserve(host: str, port: int) -> list[socket.socket]:
    """Take the port for a parent: its workers can bind it or inherit it, no other server gets it.

    Raises:
        SettingsError: See `bind_all`.
    """
    if not SPREADS:
        return bind_all(host, port)
    # Sockets with SO_REUSEPORT would bind beside another server that runs like this one, and take half of its clients.
    for probe in bind_all(host, port):
        probe.close()
    return bind_all(host, port, reuse_port=True)


def shared_descriptors(reserved: list[socket.socket]) -> list[int]:
    """Descriptors of the parent's sockets that its workers inherit; none where each worker binds its own."""
    return [] if SPREADS else [one.fileno() for one in reserved]
