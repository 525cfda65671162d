"""Messages between the parent and one worker: a line of JSON each, over a pair of sockets that no one else can reach.

A pair needs neither a port nor a file, so that it works in a read-only container, and its end tells each side that the
other one is gone.

    parent → worker   job                   once, before anything else
                      read {id}             what do your metrics say
                      series {id, texts, restarts}   answer to collect
                      reload {id}           load the model file anew
                      reloads {id, workers} answer to reload_all, by worker as reloaded
    worker → parent   up                    ready for connections
                      load {taken, open, fit}   how many connections it took and has, and whether its engine lives
                      leaving               ready for no more of them
                      failed {message}      cannot start, and why
                      text {id, text}       answer to read
                      collect {id}          what do the others' metrics say
                      reloaded {id, outcome, message, name, version, sha256, old}   answer to reload
                      reload_all {id}       all shall load the model file anew, this one first
"""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import count
from typing import Any

LIMIT_BYTES = 16 * 1024 * 1024
"""Longest message; the metrics of one worker are some 50 KiB, and their labels are closed sets."""

Message = dict[str, Any]


class Channel:
    """One end inside an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Message]] = {}

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Take over one end of a pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LIMIT_BYTES))

    def say(self, kind: str, **content: Any) -> None:
        """Send a message; into the void when the other side is gone, which `hear` tells."""
        if not self._writer.is_closing():
            self._writer.write(encode(kind, **content))

    async def ask(self, kind: str, wait_s: float) -> Message:
        """Send a message with an `id` and wait for what `settle` is given of that id.

        Raises:
            TimeoutError: None came in time.
            ConnectionError: The other side is gone.
        """
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.say(kind, id=number)
        try:
            return await asyncio.wait_for(answer, wait_s)
        finally:
            del self._asked[number]

    def settle(self, message: Message) -> None:
        """Hand an answer to who asked; one that comes too late is dropped."""
        asked = self._asked.get(message["id"])
        if asked is not None and not asked.done():
            asked.set_result(message)

    async def hear(self) -> Message | None:
        """Next message; None when the other side is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            return None
        return _decode(line)

    def close(self) -> None:
        """Hang up; whoever waits for an answer is told that none will come."""
        self._writer.close()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionError("the other side is gone"))


def encode(kind: str, **content: Any) -> bytes:
    """A message as it is sent."""
    return json.dumps({"type": kind, **content}).encode() + b"\n"


def hear_first(end: socket.socket) -> Message | None:
    """Wait for the first message where no event loop runs yet; None when the parent is gone."""
    with end.makefile("rb", buffering=0) as lines:  # unbuffered, so that what follows is left to the event loop
        return _decode(lines.readline())


def _decode(line: bytes) -> Message | None:
    if not line.endswith(b"\n"):  # the other side ended in the middle of a word
        return None
    message: Message = json.loads(line)
    return message
