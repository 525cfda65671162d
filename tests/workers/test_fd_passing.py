"""Connections from the parent's acceptor to workers, all in one event loop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import cast

import pytest

from speech_qc.capacity.host import free_port
from speech_qc.errors import SettingsError
from speech_qc.workers import fd_passing
from speech_qc.workers.acceptor import Acceptor
from speech_qc.workers.fd_passing import MAX_IN_TRANSIT, ConnectionReceiver, ConnectionSender
from waiting import until

PATIENCE_S = 5.0

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Desk(asyncio.Protocol):
    """Send the worker's name, and disconnect when the client sends anything."""

    def __init__(self, worker: FakeWorker) -> None:
        self._worker = worker

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of uvloop's, which inherit nothing, too
        self._worker.open.add(self._transport)
        self._transport.write(self._worker.name.encode() + b"\n")

    def data_received(self, _: bytes) -> None:
        self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._worker.open.discard(self._transport)
        self._worker.report()


class FakeWorker:
    """A worker's end of the socket pair, together with the parent's end."""

    def __init__(self, name: str, acceptor: Acceptor) -> None:
        self.name, self.fit = name, True
        self._acceptor = acceptor
        ours, self.end = socket.socketpair()
        self.sender, self.receiver = ConnectionSender(ours), ConnectionReceiver(self.end)
        self.open: set[asyncio.Transport] = set()

    def start(self) -> None:
        self.receiver.start(self._adopt, self.report)

    def report(self) -> None:
        self.sender.note(self.receiver.taken, len(self.open), self.fit)
        self._acceptor.update()

    async def _adopt(self, connection: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: Desk(self), connection)

    async def end_all(self) -> None:
        self._acceptor.remove(self.sender)
        if self.end.fileno() >= 0:
            await self.receiver.finish()
        for transport in self.open:
            transport.abort()


class Hall:
    """An acceptor with its workers and clients."""

    def __init__(self, acceptor: Acceptor, port: int) -> None:
        self.acceptor, self.port = acceptor, port
        self.workers: list[FakeWorker] = []
        self._writers: list[asyncio.StreamWriter] = []

    def worker(self, name: str, *, takes: bool = True) -> FakeWorker:
        one = FakeWorker(name, self.acceptor)
        self.workers.append(one)
        if takes:
            one.start()
        self.acceptor.add(one.sender)
        return one

    async def call(self, host: str = "127.0.0.1") -> Client:
        client = await asyncio.open_connection(host, self.port)
        self._writers.append(client[1])
        return client

    async def greeted(self) -> str:
        """Connect, stay connected, and return the worker's name."""
        return await name_of(await self.call())

    async def split(self, connections: int) -> Counter[str]:
        """Open this number of connections concurrently, keep them, and count them by worker."""
        return Counter(await asyncio.gather(*(self.greeted() for _ in range(connections))))

    async def end(self) -> None:
        for writer in self._writers:
            writer.close()
        for worker in self.workers:
            await worker.end_all()
        self.acceptor.close()
        for writer in self._writers:
            with suppress(ConnectionError):
                await writer.wait_closed()


async def name_of(client: Client) -> str:
    return (await asyncio.wait_for(client[0].readline(), PATIENCE_S)).decode().strip()


@asynccontextmanager
async def hall(*names: str) -> AsyncIterator[Hall]:
    port = free_port()
    one = Hall(Acceptor("127.0.0.1", port), port)
    for name in names:
        one.worker(name)
    try:
        yield one
    finally:
        await one.end()


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def awaited() -> None:
        await scenario()

    asyncio.run(awaited())


def test_connections_that_stay_are_split_evenly_whether_they_come_at_once_or_in_turn():
    async def scenario() -> None:
        async with hall("a", "b") as one:
            assert await one.split(100) == {"a": 50, "b": 50}
            assert Counter([await one.greeted() for _ in range(20)]) == {"a": 10, "b": 10}

    play(scenario)


def test_short_connections_between_do_not_make_the_split_uneven():
    async def scenario() -> None:
        async with hall("a", "b") as one:
            found: Counter[str] = Counter()
            for _ in range(40):
                found[await one.greeted()] += 1
                reader, writer = await one.call()
                await reader.readline()
                writer.write(b"bye\n")
                assert await reader.read() == b""
                await until(
                    lambda: sum(len(worker.open) for worker in one.workers) == sum(found.values()),
                    "the short connection is closed",
                )
            assert found == {"a": 20, "b": 20}

    play(scenario)


def test_a_worker_that_was_started_again_gets_what_makes_the_split_even():
    async def scenario() -> None:
        async with hall("a", "b", "c") as one:
            assert sorted((await one.split(100)).values()) == [33, 33, 34]
            lost = len(one.workers[1].open)
            await one.workers.pop(1).end_all()
            one.worker("b again")
            assert await one.split(lost) == {"b again": lost}
            assert sorted((await one.split(30)).values()) == [10, 10, 10]

    play(scenario)


def test_connections_wait_in_the_kernel_while_no_worker_is_up():
    async def scenario() -> None:
        async with hall() as one:
            with pytest.raises(ConnectionRefusedError):
                await one.call()
            first = one.worker("a")
            assert await one.greeted() == "a"
            await first.end_all()
            waiting = [await one.call() for _ in range(5)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting[0][0].read(1), 0.02)
            one.worker("b")
            assert [await name_of(client) for client in waiting] == ["b"] * 5

    play(scenario)


def test_a_worker_that_died_unnoticed_costs_no_connection():
    async def scenario() -> None:
        async with hall("a") as one:
            dead = one.worker("dead", takes=False)
            dead.end.close()
            assert await one.split(10) == {"a": 10}

    play(scenario)


def test_a_connection_that_nobody_can_have_now_is_kept_for_the_next_worker():
    async def scenario() -> None:
        async with hall() as one:
            dead = one.worker("dead", takes=False)
            dead.end.close()
            client = await one.call()
            await until(lambda: one.acceptor._held is not None, "the connection is kept")
            one.acceptor.remove(dead.sender)
            one.worker("a")
            assert await name_of(client) == "a"

    play(scenario)


def test_a_worker_that_hangs_keeps_a_bounded_number_waiting():
    async def scenario() -> None:
        async with hall() as one:
            hangs = one.worker("hangs", takes=False)
            clients = [await one.call() for _ in range(MAX_IN_TRANSIT + 6)]
            await until(lambda: hangs.sender.load == MAX_IN_TRANSIT, "the hanging worker has got its most")
            one.worker("a")
            assert [await name_of(client) for client in clients[MAX_IN_TRANSIT:]] == ["a"] * 6
            assert await one.split(MAX_IN_TRANSIT) == {"a": MAX_IN_TRANSIT}, "also when the other has fewer"
            hangs.start()
            assert [await name_of(client) for client in clients[:MAX_IN_TRANSIT]] == ["hangs"] * MAX_IN_TRANSIT

    play(scenario)


def test_a_worker_whose_engine_is_dead_gets_none_while_another_is_fit():
    async def scenario() -> None:
        async with hall("a", "b") as one:
            a, b = one.workers
            a.fit = False
            a.report()
            assert await one.split(6) == {"b": 6}
            await b.end_all()
            assert await one.greeted() == "a", "which says what is wrong"

    play(scenario)


@pytest.mark.parametrize("keeps", [False, True], ids=["Linux", "macOS"])
def test_the_parent_closes_its_copy_at_once_but_on_macos_when_it_was_taken(monkeypatch, keeps):
    monkeypatch.setattr(fd_passing, "CLOSE_AFTER_ACK", keeps)
    ours, theirs = socket.socketpair()
    sender = ConnectionSender(ours)
    given = [socket.socket() for _ in range(3)]
    with theirs:
        assert all(sender.give(connection) for connection in given)
        assert [connection.fileno() >= 0 for connection in given] == [keeps] * 3
        sender.note(taken=2, still_open=2, fit=True)
        assert [connection.fileno() >= 0 for connection in given] == [False, False, keeps]
        sender.close()
        assert given[2].fileno() < 0


@pytest.mark.parametrize("keeps", [False, True], ids=["closed at once", "kept until taken"])
def test_a_client_hears_the_end_when_its_worker_hangs_up(monkeypatch, keeps):
    monkeypatch.setattr(fd_passing, "CLOSE_AFTER_ACK", keeps)

    async def scenario() -> None:
        async with hall("a") as one:
            for _ in range(3):
                reader, writer = await one.call()
                writer.write(b"bye\n")
                assert await asyncio.wait_for(reader.read(), PATIENCE_S) == b"a\n", "no other process has it open"

    play(scenario)


def test_what_is_on_its_way_when_a_worker_leaves_still_arrives():
    async def scenario() -> None:
        async with hall() as one:
            leaves = one.worker("leaves", takes=False)
            clients = [await one.call() for _ in range(10)]
            await until(lambda: leaves.sender.load == 10, "the connections are in transit")
            one.acceptor.remove(leaves.sender)
            leaves.start()
            await leaves.receiver.finish()
            assert leaves.receiver.taken == 10
            assert [await name_of(client) for client in clients] == ["leaves"] * 10

    play(scenario)


def test_a_parent_that_hangs_does_not_keep_a_worker_from_leaving(monkeypatch):
    monkeypatch.setattr(fd_passing, "FINISH_S", 0.02)

    async def scenario() -> None:
        async with hall("a") as one:
            await asyncio.wait_for(one.workers[0].receiver.finish(), PATIENCE_S)

    play(scenario)


@pytest.mark.parametrize("new_loop", ["asyncio", "uvloop"])
def test_adopted_connections_have_the_options_of_accepted_ones(new_loop):
    loops = pytest.importorskip(new_loop)

    async def scenario() -> None:
        async with hall("a") as one:
            await one.greeted()
            (transport,) = one.workers[0].open
            adopted = transport.get_extra_info("socket")
            assert adopted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            assert not os.get_blocking(adopted.fileno()) and not os.get_inheritable(adopted.fileno())
            assert transport.get_extra_info("peername")[0] == "127.0.0.1"

    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(scenario())


def test_all_addresses_of_a_host_lead_to_the_same_workers(monkeypatch):
    port = free_port()
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", port))
        except OSError:
            pytest.skip("this machine has no IPv6")
    hosts = {"127.0.0.1": (socket.AF_INET, ("127.0.0.1", port)), "::1": (socket.AF_INET6, ("::1", port, 0, 0))}
    found = [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for family, address in hosts.values()]

    async def scenario() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            one = Hall(Acceptor("both", port), port)
        one.worker("a")
        one.worker("b")
        names = Counter([await name_of(await one.call(host)) for _ in range(5) for host in hosts])
        await one.end()
        assert names == {"a": 5, "b": 5}

    play(scenario)


def test_too_many_open_files_are_waited_out(caplog):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        async with hall("a") as one:
            client = socket.socket()
            client.setblocking(False)
            lowest_free = os.dup(0)
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", one.port))
                await until(lambda: "Too many open files" in caplog.text, "the log names the error")
                for _ in range(20):
                    await asyncio.sleep(0)
                assert len(caplog.records) == 1, "it is not tried again at once"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with client:
                assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 10), PATIENCE_S) == b"a\n"

    with caplog.at_level(logging.ERROR, logger="speech_qc.workers"):
        play(scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels refuse the second bind already")
def test_a_port_that_another_server_opened_during_the_start_is_named():
    async def scenario() -> None:
        async with hall() as one:
            message = rf"SPEECHQC_PORT={one.port}: Address already in use"
            with socket.create_server(("127.0.0.1", one.port)), pytest.raises(SettingsError, match=message):
                one.worker("a")

    play(scenario)
