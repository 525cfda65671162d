"""Messages between the parent and one worker: one line of JSON each, over a private socket pair.

A socket pair needs neither a port nor a file, so it works in a read-only container. End of file tells each side that
the other one has exited.

    parent → worker   job                   sent once, before anything else
                      read {id}             request the worker's metrics
                      series {id, texts, restarts}   reply to collect
                      reload {id}           reload the model file
                      reloads {id, workers} reply to reload_all: a `reloaded` per worker
                      owner {id, worker}    reply to claim
                      legs {sender, items}  what another worker says about the legs of calls
                      gone {worker}         a worker has exited; its legs have ended
    worker → parent   up                    ready for connections
                      load {taken, open, fit}   connections taken and open, and whether the engine is alive
                      leaving               accepts no more connections
                      failed {message}      cannot start, with the reason
                      text {id, text}       reply to read
                      collect {id}          request the metrics of the other workers
                      reloaded {id, outcome, message, name, version, sha256, old}   reply to reload
                      reload_all {id}       request a reload in all workers, this one first
                      claim {id, call}      request the worker that owns a call: this one, if none does
                      release {call}        a call of this worker has ended
                      legs {to, items}      for another worker; `speech_qc.calls.exchange` describes the items
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from itertools import count
from typing import Any

logger = logging.getLogger("speech_qc.workers")

LIMIT_BYTES = 16 * 1024 * 1024
"""Maximum message size; the metrics of one worker are about 50 KiB, and their labels are closed sets. What legs say is
sent in batches of `speech_qc.calls.exchange.BATCH_BYTES`."""

Message = dict[str, Any]


class Channel:
    """One end of the socket pair, used from an event loop.

    Args:
        reader, writer: The connection, with the limit `LIMIT_BYTES`.
        peer: Name of the other side, for the log.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        self._reader, self._writer, self._peer = reader, writer, peer
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Message]] = {}

    @classmethod
    async def over(cls, end: socket.socket, peer: str = "the other process") -> Channel:
        """Create a channel from one end of a socket pair, and take ownership of it."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LIMIT_BYTES), peer)

    def send(self, kind: str, **content: Any) -> None:
        """Send a message; it is dropped if the other side has exited, which `receive` detects.

        One above the limit is dropped and logged: the other side would skip it, too.
        """
        if self._writer.is_closing():
            return
        line = encode(kind, **content)
        if len(line) > LIMIT_BYTES:
            logger.error("message %r to %s dropped: %d bytes exceed %d", kind, self._peer, len(line), LIMIT_BYTES)
            return
        self._writer.write(line)

    async def ask(self, kind: str, wait_s: float, **content: Any) -> Message:
        """Send a message with a new `id` and wait for the reply, which the reader passes to `resolve`.

        Raises:
            TimeoutError: No reply arrived in time.
            ConnectionError: The other side has exited.
        """
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.send(kind, id=number, **content)
        try:
            return await asyncio.wait_for(answer, wait_s)
        finally:
            del self._asked[number]

    def resolve(self, message: Message) -> None:
        """Pass a reply to the pending `ask` with the same id; late replies are dropped."""
        asked = self._asked.get(message["id"])
        if asked is not None and not asked.done():
            asked.set_result(message)

    async def receive(self) -> Message | None:
        """Return the next message; None if the other side has exited. What is no message is logged and skipped."""
        skipped = 0
        while True:
            try:
                line = await self._reader.readuntil(b"\n")
            except asyncio.LimitOverrunError as overrun:
                skipped += len(await self._reader.readexactly(overrun.consumed))
                continue
            except (ConnectionError, asyncio.IncompleteReadError):  # perhaps in the middle of a message
                return None
            if skipped:
                logger.error("message from %s skipped: %d bytes exceed %d", self._peer, skipped, LIMIT_BYTES)
                skipped = 0
                continue
            try:
                message: Message = json.loads(line)
            except ValueError as error:
                logger.error("message from %s skipped: it is not JSON (%s)", self._peer, error)
                continue
            return message

    def close(self) -> None:
        """Close the connection; pending calls of `ask` raise ConnectionError."""
        self._writer.close()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionError("the connection to the other process was closed"))


def encode(kind: str, **content: Any) -> bytes:
    """Return a message as one line of JSON."""
    return json.dumps({"type": kind, **content}).encode() + b"\n"


def receive_first(end: socket.socket) -> Message | None:
    """Wait for the first message without an event loop; None if the parent has exited."""
    with end.makefile("rb", buffering=0) as lines:  # unbuffered, so that later messages are left to the event loop
        line = lines.readline()
    if not line.endswith(b"\n"):  # the parent exited in the middle of the message
        return None
    message: Message = json.loads(line)
    return message
