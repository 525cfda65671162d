"""The one port of several processes: the parent accepts, and gives each connection to the worker that has fewest.

Left to the kernel the spread is chance or worse: where each worker has a socket of its own (SO_REUSEPORT, on Linux), a
hash of the addresses decides, and a socket that all share wakes whoever is idle. The fullest worker is the first to be
late, so an uneven spread costs places.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from speech_qc.errors import SettingsError
from speech_qc.workers.fd_passing import ConnectionSender

logger = logging.getLogger("speech_qc.workers")

BACKLOG = 2048
"""Connections that wait in the kernel per address, as in uvicorn; the kernel's own bound may be lower."""
REST_S = 0.1
"""Pause after an error of the system, such as too many open files, which would come again at once."""


def bind_all(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host, as asyncio does; nothing is listened to yet, so no connection comes in.

    Args:
        host: Name or address.
        port: TCP port.

    Returns:
        One socket per address, non-blocking, inheritable by no one.

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
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
            one.bind(address)
            one.setblocking(False)
    except OSError as error:
        for one in bound:
            one.close()
        raise _no_address(host, port, error) from error
    return bound


def _no_address(host: str, port: int, error: OSError) -> SettingsError:
    return SettingsError(
        f"expected an address to listen on, SPEECHQC_HOST={host!r} with SPEECHQC_PORT={port} cannot be had: "
        f"{os.strerror(error.errno) if error.errno and error.errno > 0 else error}"
    )


class Acceptor:
    """Accepts at all addresses, in the parent's event loop, and gives connections to workers.

    The one with fewest open gets the next; among equals, the one whose last was longest ago. Taking turns alone would
    be uneven as soon as some connections are short: with a scrape between any two streams, one of two workers would get
    all streams. While no worker can have a connection, none is accepted: they wait in the kernel.

    Args:
        host: Name or address.
        port: TCP port.

    Raises:
        SettingsError: See `bind_all`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._sockets = bind_all(host, port)
        self._givers: list[ConnectionSender] = []  # in the order of their turns
        self._held: socket.socket | None = None
        self._rest: asyncio.TimerHandle | None = None
        self._listening = self._watching = self._closed = False

    def add(self, giver: ConnectionSender) -> None:
        """A worker is ready; the first one opens the port.

        Raises:
            SettingsError: Another server has opened the port since it was bound.
        """
        if self._closed:
            giver.close()
            return
        if not self._listening:
            try:
                for one in self._sockets:
                    one.listen(BACKLOG)
            except OSError as error:
                raise _no_address(self._host, self._port, error) from error
            self._listening = True
        self._givers.insert(0, giver)
        self.update()

    def remove(self, giver: ConnectionSender) -> None:
        """A worker takes no more; may be called twice, and without `add`."""
        if giver in self._givers:
            self._givers.remove(giver)
        giver.close()
        self.update()

    def update(self) -> None:
        """Accept while a worker can have a connection, and only then."""
        if self._held is not None and self._rest is None:
            connection, self._held = self._held, None
            self._give(connection)
        able = not self._closed and self._rest is None and self._held is None
        wanted = able and any(giver.has_room for giver in self._givers)
        if wanted == self._watching:
            return
        self._watching = wanted
        loop = asyncio.get_running_loop()
        for one in self._sockets:
            if wanted:
                loop.add_reader(one, self._accept, one)
            else:
                loop.remove_reader(one)

    def close(self) -> None:
        """Close the port and tell all workers that nothing more comes; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
        if self._held is not None:
            self._held.close()
            self._held = None
        self.update()
        for one in self._sockets:
            one.close()
        for giver in self._givers:
            giver.close()
        self._givers.clear()

    def _accept(self, listener: socket.socket) -> None:
        if not self._watching:  # another address has had the last room in this turn of the loop
            return
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # the client has left already
            return
        except OSError as error:
            logger.error("connections cannot be accepted: %s; tried again in %g s", error, REST_S)
            self._rest_a_while()
        else:
            self._give(connection)
        self.update()

    def _give(self, connection: socket.socket) -> None:
        # The sort keeps turns among equals. A worker whose engine is dead would always have fewest: it refuses at once.
        for giver in sorted(self._givers, key=lambda one: (not one.fit, one.load)):
            if giver.has_room and giver.give(connection):
                self._givers.remove(giver)
                self._givers.append(giver)
                return
        self._held = connection
        self._rest_a_while()

    def _rest_a_while(self) -> None:
        self._rest = asyncio.get_running_loop().call_later(REST_S, self._go_on)

    def _go_on(self) -> None:
        self._rest = None
        self.update()
