"""Requests to upgrade to another protocol than WebSocket are served as HTTP/1.1, as RFC 9110 allows.

Java's HTTP client and `curl --http2` ask for `h2c` with every request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from live_server import open_to, serving
from signals import voice, wav_bytes

BODY = wav_bytes(voice(0.5))
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
POST = b"POST /v1/inspect?frames=false HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
HEAD = POST + H2C + LENGTH + b"\r\n"

CASES = {
    "the body with the headers": [HEAD + BODY],
    "the body later": [HEAD, BODY[:1000], BODY[1000:]],
    "headers that arrive in pieces": [HEAD[:50], HEAD[50:51], HEAD[51:120], HEAD[120:] + BODY],
    "a body in chunks": [POST + H2C + CHUNKED],
    "a body in chunks, later": [POST + H2C + CHUNKED[:28], CHUNKED[28:]],
    "upper case": [POST + b"CONNECTION: UPGRADE\r\nUPGRADE: H2C\r\n" + LENGTH + b"\r\n" + BODY],
    "another protocol": [POST + b"Connection: Upgrade\r\nUpgrade: TLS/1.3\r\n" + LENGTH + b"\r\n" + BODY],
    "several protocols": [POST + b"Connection: Upgrade\r\nUpgrade: h2c, x\r\nUpgrade: y\r\n" + LENGTH + b"\r\n" + BODY],
}


async def exchange(url: str, pieces: Sequence[bytes], *, answers: int = 1) -> list[tuple[bytes, bytes]]:
    """Send the pieces one after the other; return status line and body of each answer."""
    reader, writer = await open_to(url)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.02)
    found: list[tuple[bytes, bytes]] = []
    async with asyncio.timeout(10):
        while len(found) < answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(v) for n, v in headers(head) if n == b"content-length"), 0)
            found.append((head.split(b"\r\n", 1)[0], await reader.readexactly(length)))
    writer.close()
    return found


def headers(head: bytes) -> list[tuple[bytes, bytes]]:
    """Split the headers of an answer into names in lower case and values."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return [(name.lower(), value.strip()) for name, _, value in lines]


@pytest.mark.parametrize("case", CASES)
def test_an_upload_is_served_and_its_upgrade_is_ignored(case):
    async def main():
        async with serving() as (url, _):
            return await exchange(url, CASES[case])

    ((status, body),) = asyncio.run(main())
    assert status == b"HTTP/1.1 200 OK"
    assert json.loads(body)["audio"]["duration_s"] == 0.5


def test_a_client_that_expects_100_continue_gets_it():
    async def main():
        async with serving() as (url, _):
            head = POST + H2C + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n"
            return await exchange(url, [head, BODY], answers=2)

    assert [status for status, _ in asyncio.run(main())] == [b"HTTP/1.1 100 Continue", b"HTTP/1.1 200 OK"]


def test_the_connection_stays_usable():
    async def main():
        async with serving() as (url, _):
            later = await exchange(
                url, [GET + H2C + b"\r\n", GET + b"\r\n", HEAD + BODY, GET + H2C + b"\r\n"], answers=4
            )
            at_once = await exchange(url, [(GET + H2C + b"\r\n") * 4], answers=4)
            return later + at_once

    assert {status for status, _ in asyncio.run(main())} == {b"HTTP/1.1 200 OK"}


@pytest.mark.parametrize("request_bytes", [b"\x00\x01\r\n\r\n", b"CONNECT a:80 HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_what_is_no_request_gets_the_error_body_of_all_errors(request_bytes):
    async def main():
        async with serving() as (url, _):
            return await exchange(url, [request_bytes])

    ((status, body),) = asyncio.run(main())
    assert status == b"HTTP/1.1 400 Bad Request"
    assert json.loads(body)["error"]["code"] == "protocol_error"
