"""Passes accepted connections from the parent to a worker, as file descriptors over a dedicated socket pair.

One byte goes with each descriptor, so that reading one byte receives one descriptor; end of file tells the worker that
no more connections follow. The worker reports how many it took and has open over the channel. The pair is of type
SOCK_STREAM, since macOS has no SOCK_SEQPACKET.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

logger = logging.getLogger("speech_qc.workers")

MAX_IN_TRANSIT = 64
"""Maximum connections in transit to one worker, so that a worker that hangs delays no more than these. The kernel's own
limit is about 270 on Linux."""
FINISH_S = 1.0
"""Longest wait for the parent's end of file, which arrives within milliseconds unless the parent hangs."""
CLOSE_AFTER_ACK = sys.platform == "darwin"
"""macOS may lose a descriptor that its sender closes while it is in transit.

Source: Chromium's IPC channel, https://crbug.com/298276."""


class ConnectionSender:
    """The parent's end: passes connections to one worker and tracks how many that worker has.

    Args:
        end: One end of a socket pair; this object takes ownership.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._kept: deque[socket.socket] = deque()
        self._given = self._taken = self._open = 0
        self.fit = True

    @property
    def load(self) -> int:
        """Connections that the worker has open, including those in transit."""
        return self._open + self._given - self._taken

    @property
    def has_room(self) -> bool:
        """Whether the number of connections in transit is below the limit."""
        return self._given - self._taken < MAX_IN_TRANSIT

    def give(self, connection: socket.socket) -> bool:
        """Pass a connection to the worker; return False if that fails, and the caller keeps the connection."""
        try:
            socket.send_fds(self._end, [b"c"], [connection.fileno()])
        except OSError:  # the worker has exited, or the kernel's buffer is full
            return False
        self._given += 1
        if CLOSE_AFTER_ACK:
            self._kept.append(connection)
        else:
            connection.close()
        return True

    def note(self, taken: int, still_open: int, fit: bool) -> None:
        """Update the counts from a report of the worker.

        Args:
            taken: Connections that the worker has taken so far.
            still_open: Connections that are open now.
            fit: Whether the worker's engine is alive.
        """
        self._taken, self._open, self.fit = taken, still_open, fit
        while self._kept and self._given - len(self._kept) < taken:
            self._kept.popleft().close()

    def close(self) -> None:
        """Stop passing connections; idempotent."""
        self._end.close()
        while self._kept:
            self._kept.popleft().close()


class ConnectionReceiver:
    """The worker's end; used from the event loop of its server.

    Args:
        end: The other end of the socket pair; this object takes ownership.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._ended = asyncio.Event()
        self._adoptions: set[asyncio.Task[None]] = set()
        self.taken = 0

    def start(self, adopt: Callable[[socket.socket], Awaitable[object]], on_taken: Callable[[], None]) -> None:
        """Start receiving connections.

        Args:
            adopt: Creates a transport that takes ownership of a connection.
            on_taken: Called after each connection, once `taken` is updated.
        """
        self._adopt, self._on_taken = adopt, on_taken
        asyncio.get_running_loop().add_reader(self._end, self._receive)

    async def finish(self) -> None:
        """Take the connections in transit, then stop; call it after the parent has been asked to send no more."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), FINISH_S)
        self._end_here()
        if self._adoptions:
            await asyncio.wait(self._adoptions)

    def _receive(self) -> None:
        try:
            marker, descriptors, _, _ = socket.recv_fds(self._end, 1, 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            logger.error("cannot receive connections from the parent: %s", error)
            marker, descriptors = b"", []
        if not marker:
            self._end_here()
        elif not descriptors:
            logger.error("connection lost: this process has too many open files")
            self._count()
        else:
            os.set_inheritable(descriptors[0], False)
            # asyncio sets TCP_NODELAY only if the socket's protocol is known, and macOS does not report it.
            connection = socket.socket(fileno=descriptors[0], proto=socket.IPPROTO_TCP)
            adoption = asyncio.get_running_loop().create_task(self._take(connection))
            self._adoptions.add(adoption)
            adoption.add_done_callback(self._adoptions.discard)

    async def _take(self, connection: socket.socket) -> None:
        try:
            await self._adopt(connection)
        except OSError as error:  # the client has already disconnected
            logger.debug("connection closed before it was set up: %s", error)
            connection.close()
        finally:
            self._count()

    def _count(self) -> None:
        self.taken += 1
        self._on_taken()

    def _end_here(self) -> None:
        self._ended.set()
        if self._end.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._end)
            self._end.close()
