"""A server that forwards each request after a delay, as an object store in another building answers it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SlowProxy:
    """Forwards TCP connections to a port of this machine.

    Args:
        target: The port.
        delay_s: Time that each request waits.
    """

    def __init__(self, target: int, delay_s: float) -> None:
        self._target, self._delay_s = target, delay_s
        self.port = 0
        self.most = 0
        """Most requests that waited at the same time."""
        self._waiting = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._target)
        back = asyncio.create_task(_copy(answers, writer))
        try:
            while data := await reader.read(1 << 16):
                self._waiting += 1
                self.most = max(self.most, self._waiting)
                await asyncio.sleep(self._delay_s)
                self._waiting -= 1
                requests.write(data)
                await requests.drain()
        finally:
            back.cancel()
            for one in (requests, writer):
                one.close()

    async def run(self, ready: threading.Event, stop: asyncio.Event) -> None:
        """Serve until the event."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


@contextmanager
def slow_proxy(target: int, delay_s: float) -> Iterator[SlowProxy]:
    """Run a proxy until the end of the block."""
    proxy, ready, stop = SlowProxy(target, delay_s), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(proxy.run(ready, stop)))
    thread.start()
    try:
        assert ready.wait(10)
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
