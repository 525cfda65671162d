"""The memory of an open live stream that has sent nothing yet: its connection, its tasks, its empty session."""

from __future__ import annotations

import asyncio
import gc
import socket
import tracemalloc
from urllib.parse import urlsplit

from live_server import serving
from speech_qc.capacity.frames import upgrade_request

COUNT = 32
LIMIT_KIB = 68


async def opened(url: str) -> socket.socket:
    """Open a stream and wait for `ready`; a bare socket takes next to no memory of this process."""
    loop, address = asyncio.get_running_loop(), urlsplit(url)
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, (address.hostname, address.port))
    await loop.sock_sendall(client, upgrade_request(f"{url}/v1/stream"))
    while b'"ready"' not in await loop.sock_recv(client, 65_536):
        pass
    return client


def test_a_stream_that_has_sent_nothing_keeps_within_its_limit():
    async def main() -> float:
        async with serving(max_streams=COUNT + 1) as (url, _app):
            clients = [await opened(url)]  # fills caches, and takes the rows that streams share
            gc.collect()
            tracemalloc.start()
            try:
                clients += [await opened(url) for _ in range(COUNT)]
                gc.collect()
                return tracemalloc.get_traced_memory()[0] / COUNT / 1024
            finally:
                tracemalloc.stop()
                for client in clients:
                    client.close()

    assert asyncio.run(asyncio.wait_for(main(), 30)) < LIMIT_KIB
