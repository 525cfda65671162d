"""What is no message, or too long for one, costs neither the connection nor anybody else."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from speech_qc.capacity.host import free_port
from speech_qc.workers import Member
from speech_qc.workers.channel import LIMIT_BYTES, Channel, Message, encode
from waiting import block_until

TOO_LONG = b'{"type":"legs","items":"' + b"x" * (LIMIT_BYTES + 1000) + b'"}\n'
NOT_READABLE = {
    "too long": (TOO_LONG, "exceed"),
    "much too long": (3 * TOO_LONG[:-1] + b"\n", "exceed"),
    "no JSON": (b'{"type":"le\n', "not JSON"),
    "no text": (b"\xff\xfe\n", "not JSON"),
}


async def write(end: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(end, data)


def over_pair(scenario: Callable[[Channel, socket.socket], Any]) -> None:
    async def run() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with theirs:
            channel = await Channel.over(ours, "worker 7")
            await scenario(channel, theirs)
            channel.close()

    asyncio.run(run())


@pytest.mark.parametrize("name", NOT_READABLE)
def test_what_is_no_message_is_logged_and_skipped(name, caplog):
    data, why = NOT_READABLE[name]
    received: list[Message | None] = []

    async def scenario(channel: Channel, end: socket.socket) -> None:
        writing = asyncio.create_task(write(end, encode("up") + data + encode("leaving") + data[:-1]))
        received.extend([await asyncio.wait_for(channel.receive(), 20) for _ in range(2)])
        ending = asyncio.create_task(channel.receive())
        await writing
        end.close()
        received.append(await asyncio.wait_for(ending, 20))

    over_pair(scenario)
    assert received == [{"type": "up"}, {"type": "leaving"}, None]
    (logged,) = caplog.messages
    assert "worker 7" in logged and why in logged


def test_what_the_other_side_would_skip_is_not_sent(caplog):
    async def scenario(channel: Channel, end: socket.socket) -> None:
        channel.send("text", text="x" * LIMIT_BYTES)
        channel.send("up")
        assert await asyncio.get_running_loop().sock_recv(end, 1000) == encode("up")

    over_pair(scenario)
    assert "'text' to worker 7 dropped" in caplog.text


def test_a_worker_goes_on_after_a_message_that_it_cannot_process(caplog):
    async def run() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        one = Member(theirs, 1, 2, lambda: None)
        one.offer(lambda: "metrics")
        one.offer_calls(lambda _, items: items[0]["nothing"], lambda _: None)
        await one.join()
        with ours:
            for faulty in (encode("legs", sender=0, items=[{}]), encode("legs"), b"[]\n", TOO_LONG):
                await write(ours, faulty)
            await write(ours, encode("read", id=3))
            received = b""
            while b"metrics" not in received:
                received += await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1000), 20)
            one.close()
        assert [json.loads(line)["type"] for line in received.splitlines()] == ["up", "text"]

    asyncio.run(run())
    assert caplog.text.count("could not be processed") == 3 and "exceed" in caplog.text


PARENT = """
import logging, sys
from speech_qc.settings import Settings
from speech_qc.workers import Supervisor
logging.basicConfig(level=logging.INFO)
sys.exit(Supervisor(Settings(port={port}, workers=2), [sys.executable, "-c", {worker!r}]).run())
"""
WORKER = """
import signal, socket, sys
from speech_qc.workers.channel import LIMIT_BYTES, encode
from speech_qc.workers.member import Job
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
end = socket.socket(fileno=int(sys.argv[1]))
number = Job.receive(end).worker
end.sendall(encode("up"))
lines = end.makefile("rb")
while True:
    if number == 0:
        for faulty in b"x" * (LIMIT_BYTES + 1), b"nonsense", b"[]", b'{"type":"claim"}', b'{"type":"legs","to":1}':
            end.sendall(faulty + b"\\n")
        end.sendall(encode("legs", to=1, items=["what follows"]))
        number = None
    print("heard", lines.readline(), flush=True)
"""


def test_what_one_worker_says_wrongly_ends_neither_it_nor_the_server(tmp_path):
    log = tmp_path / "log"
    program = PARENT.format(port=free_port(), worker=WORKER)
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", program], stdout=out, stderr=out)
    try:
        block_until(
            lambda: process.poll() is not None or "what follows" in log.read_text(),
            "the message after the faulty ones",
            patience_s=60,
            details=log.read_text,
        )
        assert process.poll() is None, log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
    told = log.read_text()
    assert f"message from worker 0 skipped: {LIMIT_BYTES + 1} bytes exceed {LIMIT_BYTES}" in told
    assert "message from worker 0 skipped: it is not JSON" in told
    assert told.count("a message of worker 0 could not be processed") == 3
    assert "restarting" not in told
