"""Accepted connections on their way from the parent to a worker, as descriptors over a pair of sockets of their own.

One byte goes with each, so that the reader of one byte gets one descriptor; the end of the bytes tells the worker that
no further connection comes. What comes back, how many it took and has open, goes over the channel. The pair is of kind
stream, since macOS has no sequenced packets.
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

MOST_ON_THE_WAY = 64
"""Connections given to a worker that has not taken them yet; a worker that hangs keeps no more than that waiting. The
kernel's own bound is some 270 on Linux."""
FINISH_S = 1.0
"""Longest wait for the parent's last word, which comes within milliseconds unless the parent hangs."""
KEEPS_UNTIL_TAKEN = sys.platform == "darwin"
"""macOS may lose a descriptor that its sender closes while it is on the way.

Source: Chromium's IPC channel, https://crbug.com/298276."""


class ConnectionSender:
    """The parent's end: gives connections to one worker and knows how many that worker has.

    Args:
        end: One end of a pair, owned from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._kept: deque[socket.socket] = deque()
        self._given = self._taken = self._open = 0
        self.fit = True

    @property
    def load(self) -> int:
        """Connections that the worker has open, or will have."""
        return self._open + self._given - self._taken

    @property
    def has_room(self) -> bool:
        """Whether the worker keeps up with what it is given."""
        return self._given - self._taken < MOST_ON_THE_WAY

    def give(self, connection: socket.socket) -> bool:
        """Give a connection away; False when that is not possible now, and the connection is still the caller's."""
        try:
            socket.send_fds(self._end, [b"c"], [connection.fileno()])
        except OSError:  # the worker is gone, or the kernel has no room
            return False
        self._given += 1
        if KEEPS_UNTIL_TAKEN:
            self._kept.append(connection)
        else:
            connection.close()
        return True

    def note(self, taken: int, still_open: int, fit: bool) -> None:
        """What the worker reports.

        Args:
            taken: Connections taken so far, of all that were given.
            still_open: Those that are open now.
            fit: Whether its engine lives.
        """
        self._taken, self._open, self.fit = taken, still_open, fit
        while self._kept and self._given - len(self._kept) < taken:
            self._kept.popleft().close()

    def close(self) -> None:
        """Give nothing any more; may be called twice."""
        self._end.close()
        while self._kept:
            self._kept.popleft().close()


class ConnectionReceiver:
    """The worker's end; belongs to the event loop of its server.

    Args:
        end: The other end of the pair, owned from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._ended = asyncio.Event()
        self._adoptions: set[asyncio.Task[None]] = set()
        self.taken = 0

    def start(self, adopt: Callable[[socket.socket], Awaitable[object]], on_taken: Callable[[], None]) -> None:
        """Take what comes.

        Args:
            adopt: Makes a transport of a connection, which then owns it.
            on_taken: Called after each, when `taken` has grown.
        """
        self._adopt, self._on_taken = adopt, on_taken
        asyncio.get_running_loop().add_reader(self._end, self._receive)

    async def finish(self) -> None:
        """Take what is still on its way; the parent knows already that it is the last."""
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
            logger.error("no further connections come from the parent: %s", error)
            marker, descriptors = b"", []
        if not marker:
            self._end_here()
        elif not descriptors:
            logger.error("a connection is lost: this process has too many files open")
            self._count()
        else:
            os.set_inheritable(descriptors[0], False)
            # Asyncio sends small packets at once only where the protocol is known, which macOS does not tell by itself.
            connection = socket.socket(fileno=descriptors[0], proto=socket.IPPROTO_TCP)
            adoption = asyncio.get_running_loop().create_task(self._take(connection))
            self._adoptions.add(adoption)
            adoption.add_done_callback(self._adoptions.discard)

    async def _take(self, connection: socket.socket) -> None:
        try:
            await self._adopt(connection)
        except OSError as error:  # the client has left already
            logger.debug("a connection ended before it began: %s", error)
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
