"""More connections than one process accepts: they are refused and counted, and health still responds."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest

from live_server import serving
from signals import voice, wav_bytes
from speech_qc.app import create_app
from speech_qc.client.stream import StreamClient, StreamClosed
from speech_qc.engine import EchoRunner
from speech_qc.server.server import StreamServer
from speech_qc.settings import RESERVED_CONNECTIONS, Settings
from waiting import until

SOUND = wav_bytes(voice(0.5))
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Crowd:
    """Silent connections to one server."""

    def __init__(self, url: str, app, until_end: AsyncExitStack) -> None:
        self._port, self._app, self._until_end = int(url.rsplit(":", 1)[1]), app, until_end
        self.wires: list[Wire] = []

    def value(self, name: str) -> float:
        found = self._app.state.parts.metrics.registry.get_sample_value(name)
        assert found is not None
        return found

    async def until_connected(self, count: float) -> None:
        await until(lambda: self.value("speechqc_connections") == count, f"{count:g} connections are open")

    async def one(self) -> Wire:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._until_end.callback(writer.close)
        return reader, writer

    async def idle(self, count: int) -> None:
        before = self.value("speechqc_connections")
        self.wires += [await self.one() for _ in range(count)]
        await self.until_connected(before + count)

    async def leave(self, count: int) -> None:
        before = self.value("speechqc_connections")
        for _ in range(count):
            self.wires.pop()[1].close()
        await self.until_connected(before - count)

    async def ask(self, request: bytes, wire: Wire | None = None) -> tuple[int, dict[str, str], bytes]:
        reader, writer = wire or await self.one()
        writer.write(request)
        async with asyncio.timeout(8):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {n.lower(): v for n, v in re.findall(r"^([\w-]+): (.*)\r$", head, re.M)}
            body = await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else b""
        return int(head.split()[1]), headers, body


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()


def post() -> bytes:
    return b"POST /v1/inspect HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(SOUND), SOUND)


def crowded(scenario, **settings: Any) -> None:
    async def main() -> None:
        async with serving(max_connections=4, **settings) as (url, app), AsyncExitStack() as until_end:
            await scenario(Crowd(url, app, until_end), url)

    asyncio.run(main())


def test_a_request_over_one_connection_too_many_is_told_when_to_come_back():
    async def scenario(crowd: Crowd, _: str) -> None:
        await crowd.idle(4)
        for request in (get("/v1/model"), post(), get("/no/such/path")):
            status, headers, body = await crowd.ask(request)
            assert (status, headers["retry-after"], headers["connection"]) == (503, "5", "close")
            error = json.loads(body)["error"]
            assert error["code"] == "too_many_connections" and error["detail"]["max_connections"] == 4
        assert crowd.value("speechqc_connections_refused_total") == 3

    crowded(scenario)


def test_health_and_metrics_are_answered_although_there_are_too_many():
    async def scenario(crowd: Crowd, _: str) -> None:
        await crowd.idle(4)
        for path in ("/health/live", "/health/ready", "/metrics"):
            status, _headers, body = await crowd.ask(get(path))
            assert status == 200
        assert b"speechqc_connections_limit 4.0" in body
        assert crowd.value("speechqc_connections_refused_total") == 0

    crowded(scenario)


def test_whoever_came_in_time_is_served_among_too_many():
    async def scenario(crowd: Crowd, _: str) -> None:
        early = await crowd.one()
        assert (await crowd.ask(get("/v1/model"), early))[0] == 200
        await crowd.idle(6)
        assert (await crowd.ask(post(), early))[0] == 200

    crowded(scenario)


def test_a_connection_too_many_is_one_like_others_once_there_is_room():
    async def scenario(crowd: Crowd, _: str) -> None:
        await crowd.idle(4)
        late = await crowd.one()
        assert (await crowd.ask(get("/health/live"), late))[0] == 200
        await crowd.leave(1)
        assert (await crowd.ask(post(), late))[0] == 200

    crowded(scenario)


def test_a_stream_too_many_is_refused_and_the_client_knows_when_to_come_back():
    async def scenario(crowd: Crowd, url: str) -> None:
        async with StreamClient.connect(url) as early:
            await crowd.idle(3)
            with pytest.raises(StreamClosed, match="at most 4 connections") as caught:
                await StreamClient.connect(url)
            assert (caught.value.code, caught.value.retry_after_s) == (1013, 5)
            assert crowd.value("speechqc_connections_refused_total") == 1
            await early.send(b"\0\0" * 1600)
            assert (await early.close()).frames == 5, "the stream that was there is not disturbed"
        await crowd.leave(1)
        async with StreamClient.connect(url) as later:
            assert (await later.close()).frames == 0

    crowded(scenario)


def test_far_too_many_are_closed_unheard_so_that_the_process_keeps_its_descriptors():
    async def scenario(crowd: Crowd, _: str) -> None:
        await crowd.idle(4 + RESERVED_CONNECTIONS)
        for _attempt in range(5):
            reader, _writer = await crowd.one()
            async with asyncio.timeout(8):
                answer = await reader.read()  # closed without a request
            assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 5" in answer
            await crowd.until_connected(4 + RESERVED_CONNECTIONS)
        assert crowd.value("speechqc_connections_refused_total") == 5
        await crowd.leave(1 + RESERVED_CONNECTIONS)
        assert (await crowd.ask(post()))[0] == 200, "nothing is left of them"

    crowded(scenario)


def test_idle_connections_beyond_the_limit_end_with_the_time_for_their_head():
    async def scenario(crowd: Crowd, _: str) -> None:
        await crowd.idle(6)
        await crowd.until_connected(0)

    crowded(scenario, header_timeout_s=0.3)


def test_without_a_limit_of_its_own_there_is_room_for_all_places_and_more():
    settings = Settings(max_streams=2000, max_uploads=50)
    assert settings.connections_limit > 2050
    assert Settings(max_connections=7).connections_limit == 7


def test_a_connection_is_kept_for_its_next_request_longer_than_clients_keep_theirs():
    """httpx and Node keep idle connections for 5 s; if the server closed them then, a request could be lost."""
    server = StreamServer(create_app(Settings(), EchoRunner()))
    assert server.config.timeout_keep_alive == Settings().keep_alive_s > 5.0


def test_the_other_time_outs_do_not_end_a_connection_that_waits_for_its_next_request():
    async def main() -> None:
        async with (
            serving(header_timeout_s=0.1, read_timeout_s=0.1, upload_idle_s=0.1) as (url, app),
            AsyncExitStack() as until_end,
        ):
            crowd = Crowd(url, app, until_end)
            wire = await crowd.one()
            assert (await crowd.ask(get("/health/live"), wire))[0] == 200
            await asyncio.sleep(0.4)
            assert (await crowd.ask(get("/health/live"), wire))[0] == 200

    asyncio.run(main())


def test_a_connection_that_asks_nothing_more_is_closed():
    async def main() -> None:
        async with serving(keep_alive_s=0.3) as (url, app), AsyncExitStack() as until_end:
            crowd = Crowd(url, app, until_end)
            await crowd.ask(get("/health/live"), await crowd.one())
            await crowd.until_connected(0)

    asyncio.run(main())
