"""The single port of all workers: the parent accepts connections and passes each to the worker with the fewest.

The kernel would distribute them unevenly. With a socket per worker (SO_REUSEPORT, on Linux) it chooses by a hash of the
addresses; with a shared socket it wakes any idle worker. The busiest worker is the first to fall behind, so an uneven
distribution reduces the capacity of the whole server.
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
"""Listen backlog per address, as in uvicorn; the kernel's own limit may be lower."""
PAUSE_S = 0.1
"""Pause after a system error, such as too many open files, which would otherwise repeat immediately."""


def bind_all(host: str, port: int) -> list[socket.socket]:
    """Bind every address of a host, as asyncio does, without listening yet, so that no connection is accepted.

    Args:
        host: Name or address.
        port: TCP port.

    Returns:
        One socket per address, non-blocking and not inheritable.

    Raises:
        SettingsError: The host does not exist, or the port is taken or not allowed.
    """
    bound: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            one = socket.socket(family, kind, protocol)
            bound.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has its own socket
            one.bind(address)
            one.setblocking(False)
    except OSError as error:
        for one in bound:
            one.close()
        raise _no_address(host, port, error) from error
    return bound


def _no_address(host: str, port: int, error: OSError) -> SettingsError:
    return SettingsError(
        f"expected an address to listen on, cannot bind SPEECHQC_HOST={host!r} with SPEECHQC_PORT={port}: "
        f"{os.strerror(error.errno) if error.errno and error.errno > 0 else error}"
    )


class Acceptor:
    """Accepts connections on all addresses, in the parent's event loop, and passes them to workers.

    The worker with the fewest open connections gets the next one; among equals, the least recently chosen one. Round
    robin alone would be uneven if some connections are short: with a scrape between any two streams, one of two workers
    would get all the streams. While no worker has room, connections wait in the kernel's backlog.

    Args:
        host: Name or address.
        port: TCP port.

    Raises:
        SettingsError: See `bind_all`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._sockets = bind_all(host, port)
        self._senders: list[ConnectionSender] = []  # least recently chosen first
        self._held: socket.socket | None = None
        self._pause_timer: asyncio.TimerHandle | None = None
        self._listening = self._watching = self._closed = False

    def add(self, sender: ConnectionSender) -> None:
        """Add a worker that is ready; the first one opens the port.

        Raises:
            SettingsError: Another server has opened the port since it was bound.
        """
        if self._closed:
            sender.close()
            return
        if not self._listening:
            try:
                for one in self._sockets:
                    one.listen(BACKLOG)
            except OSError as error:
                raise _no_address(self._host, self._port, error) from error
            self._listening = True
        self._senders.insert(0, sender)
        self.update()

    def remove(self, sender: ConnectionSender) -> None:
        """Remove a worker that accepts no more connections; idempotent, and allowed without `add`."""
        if sender in self._senders:
            self._senders.remove(sender)
        sender.close()
        self.update()

    def update(self) -> None:
        """Accept connections if and only if a worker has room."""
        if self._held is not None and self._pause_timer is None:
            connection, self._held = self._held, None
            self._give(connection)
        able = not self._closed and self._pause_timer is None and self._held is None
        wanted = able and any(sender.has_room for sender in self._senders)
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
        """Close the port, and the descriptor channels to all workers; idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._pause_timer is not None:
            self._pause_timer.cancel()
        if self._held is not None:
            self._held.close()
            self._held = None
        self.update()
        for one in self._sockets:
            one.close()
        for sender in self._senders:
            sender.close()
        self._senders.clear()

    def _accept(self, listener: socket.socket) -> None:
        if not self._watching:  # a connection to another address took the last room in this loop iteration
            return
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # the client has already disconnected
            return
        except OSError as error:
            logger.error("cannot accept connections: %s; retrying in %g s", error, PAUSE_S)
            self._pause()
        else:
            self._give(connection)
        self.update()

    def _give(self, connection: socket.socket) -> None:
        # The sort is stable. A worker with a dead engine comes last: it refuses everything, so its load is the lowest.
        for sender in sorted(self._senders, key=lambda one: (not one.fit, one.load)):
            if sender.has_room and sender.give(connection):
                self._senders.remove(sender)
                self._senders.append(sender)
                return
        self._held = connection
        self._pause()

    def _pause(self) -> None:
        self._pause_timer = asyncio.get_running_loop().call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._pause_timer = None
        self.update()
