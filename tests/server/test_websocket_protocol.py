"""The fast path through uvicorn's WebSocket protocol: it is used, changes nothing, and keeps the order."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from live_server import serving
from signals import white_noise
from speech_qc.live.intake import Intake
from speech_qc.server.websocket_frames import FINAL_BINARY, FINAL_TEXT, MessageBoundary, text_frame_head, whole_message
from speech_qc.server.websocket_protocol import LiveWebSocketProtocol
from stream_material import CLOSE, FINALIZE, KEEP_ALIVE, converse, cut, frames_of, of_type, pcm16

# Alternately loud and soft, so that two messages in the wrong order are noticed.
SWELL = (white_noise(1.0, level_dbfs=-20) * np.repeat(np.geomspace(0.01, 1, 100), 160)).astype(np.float32)
SECOND = pcm16(np.concatenate([SWELL[::2], SWELL[::-2]]))
PIECES = cut(SECOND, 3200)


# -- bytes ----------------------------------------------------------------------------------------------------------


def frame(payload: bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True, mask: bool = True) -> bytes:
    """Return a frame as websockets sends it."""
    return Frame(opcode, payload, fin).serialize(mask=mask, extensions=[])


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_the_head_of_a_text_frame_is_that_of_the_library(size: int):
    payload = b"x" * size
    assert text_frame_head(size) + payload == frame(payload, Opcode.TEXT, mask=False)


KINDS = ["binary", "text", "ping", "fragments"]
payloads = st.binary(max_size=300) | st.sampled_from([125, 126, 127, 65_535, 65_536]).map(bytes)


@settings(max_examples=100)
@given(payload=payloads)
def test_a_whole_message_is_what_the_library_sent(payload: bytes):
    assert whole_message(frame(payload), FINAL_BINARY) == payload
    assert whole_message(frame(payload, Opcode.TEXT), FINAL_TEXT) == payload
    assert whole_message(frame(payload), FINAL_TEXT) is None


@settings(max_examples=100)
@given(payload=payloads, other=payloads, missing=st.integers(1, 400))
def test_anything_but_one_whole_binary_message_is_left_to_the_library(payload: bytes, other: bytes, missing: int):
    whole = frame(payload)
    refused = {
        "truncated": whole[: max(0, len(whole) - missing)],
        "two": whole + frame(other),
        "and a bit": whole + b"\x82",
        "first fragment": frame(payload, fin=False),
        "last fragment": frame(payload, Opcode.CONT),
        "text": frame(payload, Opcode.TEXT),
        "ping": frame(payload[:125], Opcode.PING),
        "not masked": frame(payload, mask=False),
        "reserved bit": bytes([whole[0] | 0x40]) + whole[1:],
    }
    assert {kind for kind, data in refused.items() if whole_message(data, FINAL_BINARY) is not None} == set()


@settings(max_examples=200)
@given(
    frames=st.lists(
        st.tuples(payloads, st.sampled_from(["binary", "text", "ping", "fragments"]), st.booleans()), max_size=6
    ),
    data=st.data(),
)
def test_a_message_begins_where_all_frames_before_it_are_complete(frames, data):
    stream, boundaries = b"", {0}
    for payload, kind, mask in frames:
        if kind == "fragments":
            stream += frame(payload, fin=False, mask=mask)
            stream += frame(b"", Opcode.PING, mask=mask) + frame(payload, Opcode.CONT, mask=mask)
        elif kind == "ping":
            stream += frame(payload[:125], Opcode.PING, mask=mask)
        else:
            stream += frame(payload, Opcode.TEXT if kind == "text" else Opcode.BINARY, mask=mask)
        boundaries.add(len(stream))
    # Split near every boundary, so that a header arrives in pieces, and anywhere else.
    near = {cut + shift for cut in boundaries for shift in range(-3, 16)}
    cuts = sorted({0, len(stream)} | (near & set(range(len(stream)))) | data.draw(st.sets(st.integers(0, len(stream)))))
    boundary = MessageBoundary()
    for start, end in pairwise(cuts):
        boundary.feed(stream[start:end])
        assert boundary.reached == (end in boundaries)


@settings(max_examples=200)
@given(data=st.binary(max_size=20))
def test_no_bytes_are_too_odd_for_a_look(data: bytes):
    found = whole_message(data, FINAL_BINARY)
    if found is not None:
        assert frame(found)[:2] == data[:2] or data[1] in (0xFE, 0xFF)  # a length field longer than necessary


# -- a real server --------------------------------------------------------------------------------------------------


class Link:
    """A client that controls which bytes share a segment."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: ClientProtocol) -> None:
        self._reader, self._writer, self._protocol = reader, writer, protocol
        self.told: list[dict[str, Any]] = []
        self.closed: Close | None = None

    async def send(self, data: bytes) -> None:
        """Write bytes unchanged."""
        self._writer.write(data)
        await self._writer.drain()

    async def hear(self, enough: Callable[[], bool] = lambda: False) -> list[dict[str, Any]]:
        """Read until the close, or until the condition is met."""
        while self.closed is None and not enough():
            data = await self._reader.read(65_536)
            if not data:
                break
            self._protocol.receive_data(data)
            for event in self._protocol.events_received():
                if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                    self.told.append(json.loads(bytes(event.data)))
                elif isinstance(event, Frame) and event.opcode is Opcode.CLOSE:
                    self.closed = Close.parse(event.data)
        return self.told


class Watching:
    """Events in the server: protocol objects, segments, and messages by path."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.protocols: list[LiveWebSocketProtocol] = []
        self.segments = self.parsed = self.at_once = self.received = 0
        made, receive_data = LiveWebSocketProtocol.connection_made, LiveWebSocketProtocol.data_received
        parse = WebSocketsSansIOProtocol.data_received
        take, audio = Intake.take_at_once, Intake.take

        def connection_made(protocol: LiveWebSocketProtocol, transport: Any) -> None:
            self.protocols.append(protocol)
            made(protocol, transport)

        def data_received(protocol: LiveWebSocketProtocol, data: bytes) -> None:
            self.segments += 1
            receive_data(protocol, data)

        def parsed_by_the_library(protocol: WebSocketsSansIOProtocol, data: bytes) -> None:
            self.parsed += 1
            parse(protocol, data)

        def take_at_once(stream: Intake, message: bytes) -> bool:
            taken = take(stream, message)
            self.at_once += taken
            return taken

        async def receive(stream: Intake, message: bytes) -> None:
            self.received += 1
            await audio(stream, message)

        monkeypatch.setattr(LiveWebSocketProtocol, "connection_made", connection_made)
        monkeypatch.setattr(LiveWebSocketProtocol, "data_received", data_received)
        monkeypatch.setattr(WebSocketsSansIOProtocol, "data_received", parsed_by_the_library)
        monkeypatch.setattr(Intake, "take_at_once", take_at_once)
        monkeypatch.setattr(Intake, "take", receive)

    async def next_segment(self, before: int) -> None:
        """Wait until the server has read the sent bytes, so that the next ones arrive in a new segment."""
        async with asyncio.timeout(5):
            while self.segments <= before:  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(0.001)


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(monkeypatch)


@asynccontextmanager
async def linked(query: str = "", **options: Any) -> AsyncIterator[Link]:
    """Open a stream and wait until it is ready."""
    async with serving(**options) as (url, _):
        uri = parse_uri(f"{url}/v1/stream{query}")
        reader, writer = await asyncio.open_connection(uri.host, uri.port)
        protocol = ClientProtocol(uri, max_size=None)
        protocol.send_request(protocol.connect())
        writer.write(b"".join(protocol.data_to_send()))
        link = Link(reader, writer, protocol)
        await link.hear(lambda: bool(link.told))
        assert link.told[0]["type"] == "ready"
        try:
            yield link
        finally:
            writer.close()


def conversation(watching: Watching, parts: Sequence[bytes], **options: Any) -> tuple[list[dict[str, Any]], Close]:
    """Send each part in a separate segment, then CloseStream; return all received messages and the close."""

    async def main() -> tuple[list[dict[str, Any]], Close]:
        watching.at_once = watching.received = watching.parsed = (
            0  # there may have been an earlier conversation on the slow path
        )
        async with linked(**options) as link:
            for part in (*parts, frame(CLOSE.encode(), Opcode.TEXT)):
                before = watching.segments
                await link.send(part)
                await watching.next_segment(before)
            await link.hear()
            assert link.closed is not None
            return link.told, link.closed

    return asyncio.run(main())


@pytest.fixture
def expected(make_client) -> dict[str, list[float | None]]:
    """Return the frames of the second part, received on the slow path."""
    return frames_of(converse(make_client(), [SECOND]))


def test_audio_takes_the_short_way_and_scores_come_back_by_it(watching, expected, monkeypatch):
    sent: list[bytes] = []
    send = LiveWebSocketProtocol.send_now

    def noted(protocol: LiveWebSocketProtocol, text: bytes) -> bool:
        sent.append(text)
        return send(protocol, text)

    monkeypatch.setattr(LiveWebSocketProtocol, "send_now", noted)
    told, close = conversation(watching, [frame(piece) for piece in PIECES])
    assert (watching.at_once, watching.received) == (len(PIECES), 0)
    assert watching.parsed == 2, "the request and CloseStream; audio was not even parsed by the library"
    assert len(of_type(told, "scores")) > 5
    assert len(sent) == len(told), "every message was sent at once, for this client reads"
    assert frames_of(told) == expected
    assert (close.code, close.reason) == (1000, "")


def halves(data: bytes) -> list[bytes]:
    return [data[: len(data) // 2], data[len(data) // 2 :]]


def fragments(piece: bytes) -> bytes:
    """Return one message in three frames, with a ping between them."""
    first, middle, last = piece[:1001], piece[1001:2000], piece[2000:]
    return (
        frame(first, fin=False)
        + frame(b"?", Opcode.PING)
        + frame(middle, Opcode.CONT, fin=False)
        + frame(last, Opcode.CONT)
    )


SEGMENTS: dict[str, list[bytes]] = {
    "a frame in a segment": [frame(piece) for piece in PIECES],
    "all frames in one segment": [b"".join(map(frame, PIECES))],
    "two frames in a segment": [frame(a) + frame(b) for a, b in zip(PIECES[::2], PIECES[1::2], strict=True)],
    "frames over two segments": [half for piece in PIECES for half in halves(frame(piece))],
    "a head over two segments": [part for piece in PIECES for part in (frame(piece)[:3], frame(piece)[3:])],
    "an end and a beginning in a segment": cut(b"".join(map(frame, PIECES)), 2500),
    "messages of fragments": [fragments(piece) for piece in PIECES],
    "fragments over segments": [half for piece in PIECES for half in halves(fragments(piece))],
    "whole, fragments and two by turns": [
        *(frame(piece) for piece in PIECES[:2]),
        fragments(PIECES[2]),
        frame(PIECES[3]),
        frame(PIECES[4]) + frame(PIECES[5]),
        frame(PIECES[6]),
        *halves(frame(PIECES[7])),
        *(frame(piece) for piece in PIECES[8:]),
    ],
    "text between": [
        part for piece in PIECES for part in (frame(piece), frame(KEEP_ALIVE.encode(), Opcode.TEXT))
    ],
    "text and audio in a segment": [frame(FINALIZE.encode(), Opcode.TEXT) + frame(piece) for piece in PIECES],
    "audio and text in a segment": [frame(piece) + frame(FINALIZE.encode(), Opcode.TEXT) for piece in PIECES],
    "an odd byte in front of each": [frame(part) for part in (SECOND[:1], *cut(SECOND[1:], 3200))],
    "a long and a short message in a segment": [
        frame(SECOND[:22_400]) + frame(SECOND[22_400:25_600]),
        frame(SECOND[25_600:]),
    ],
    "a long message among short ones": [frame(part) for part in (SECOND[:3200], SECOND[3200:22_400], SECOND[22_400:])],
}  # fmt: skip


@pytest.mark.parametrize("kind", SEGMENTS)
def test_audio_keeps_its_order_however_frames_and_segments_lie(watching, expected, kind):
    told, close = conversation(watching, SEGMENTS[kind])
    assert frames_of(told) == expected
    assert of_type(told, "error") == []
    assert close.code == 1000
    if kind == "whole, fragments and two by turns":
        assert watching.at_once > 0


def unmasked(payload: bytes) -> tuple[bytes, bytes]:
    """Return header and payload of a message with a zero mask, so that the payload is sent unchanged."""
    return bytes((0x82, 0xFE)) + len(payload).to_bytes(2, "big") + bytes(4), payload


@pytest.mark.parametrize("cut_at", ["nothing", "length", "mask", "payload"])
def test_a_payload_that_looks_like_a_frame_is_a_payload(watching, make_client, cut_at):
    """Clients may write header and payload separately, so that a segment starts within a frame."""
    head, payload = unmasked(frame(SECOND[:1000]) * 3)
    looks = whole_message(payload[: len(payload) // 3], FINAL_BINARY)
    assert looks == SECOND[:1000], "or this proves nothing"
    third = len(payload) // 3
    parts = {
        "nothing": [head + payload],
        "length": [head[:2], head[2:] + payload],
        "mask": [head, payload[:third], payload[third:]],
        "payload": [head + payload[:third], payload[third : 2 * third], payload[2 * third :]],
    }[cut_at]
    told, close = conversation(watching, [*parts, *map(frame, PIECES)])
    assert frames_of(told) == frames_of(converse(make_client(), [payload, SECOND]))
    assert close.code == 1000


def test_a_new_message_within_a_fragmented_one_is_a_violation(watching):
    async def main() -> None:
        async with linked() as link:
            before = watching.segments
            await link.send(frame(PIECES[0], fin=False))
            await watching.next_segment(before)
            await link.send(frame(PIECES[1]))
            await link.hear()
            assert link.closed is not None and link.closed.code == 1002
            assert watching.at_once == 0

    asyncio.run(asyncio.wait_for(main(), 10))


def test_audio_keeps_its_order_while_there_is_no_room(watching, make_client):
    """A message without room goes to the receiver's queue; later ones must not overtake it, even if there is room."""
    audio = b"".join(cut(SECOND, 3200) * 6)
    parts = [b"".join(map(frame, cut(audio[:96_000], 3200))), *map(frame, cut(audio[96_000:], 3200))]
    told, close = conversation(watching, parts, stream_max_ahead_s=0.2)
    assert watching.received > 0, "some waited for the receiver"
    assert watching.at_once > 0, "and some did not have to"
    assert frames_of(told) == frames_of(converse(make_client(), [audio]))
    assert close.code == 1000


def test_nothing_is_sent_at_once_while_the_client_is_behind_and_nothing_is_lost(watching, expected):
    async def main() -> None:
        async with linked() as link:
            protocol = watching.protocols[-1]
            before = len(link.told)
            protocol.pause_writing()
            assert not protocol.send_now(b"{}")
            for piece in PIECES:
                segments = watching.segments
                await link.send(frame(piece))
                await watching.next_segment(segments)
            await asyncio.sleep(0.05)  # long enough for scores, if they were sent
            assert len(link.told) == before
            protocol.resume_writing()
            await link.send(frame(CLOSE.encode(), Opcode.TEXT))
            await link.hear()
            assert frames_of(link.told) == expected
            assert link.closed is not None and link.closed.code == 1000
            assert not protocol.send_now(b"{}"), "nor after the close"

    asyncio.run(main())


def told_last(link: Link, text: bytes) -> bool:
    return bool(link.told[-1] == json.loads(text))


def test_a_message_at_once_is_a_message_like_any_other(watching):
    async def main() -> None:
        async with linked() as link:
            for size in (0, 125, 126, 65_535, 65_536):
                text = json.dumps({"type": "x" * size}).encode()
                assert watching.protocols[-1].send_now(text)
                await link.hear(partial(told_last, link, text))

    asyncio.run(asyncio.wait_for(main(), 10))


@pytest.mark.parametrize(
    ("query", "part", "code", "reason"),
    [
        ("?encoding=float32", frame(struct.pack("<f", np.nan)), 1007, "invalid_audio: check encoding"),
        ("", frame(bytes(9000)), 1009, "payload_too_large: send smaller"),
        ("", frame(b"x" * 70_000, Opcode.TEXT), 1009, ""),
        ("", frame(CLOSE.encode(), Opcode.TEXT) + frame(SECOND[:3200]), 1000, ""),
        ("", frame(b"\xff", Opcode.TEXT), 1007, ""),
        ("", frame(SECOND[:3200], mask=False), 1002, ""),
    ],
    ids=["no number", "too large", "too long a text", "close", "no text", "not masked"],
)  # fmt: skip
def test_the_close_says_what_it_says_by_the_slow_way(watching, query, part, code, reason):
    async def main() -> None:
        async with linked(query, stream_max_message_bytes=8192) as link:
            await link.send(part)
            await link.hear()
            assert link.closed is not None
            assert link.closed.code == code
            assert link.closed.reason.startswith(reason)
            if reason:
                assert link.told[-1]["error"]["code"] == reason.split(":")[0]
            if code == 1000:
                assert link.told[-1]["frames"] == 0, "what comes after CloseStream is not heard"

    asyncio.run(asyncio.wait_for(main(), 10))


@pytest.mark.parametrize(
    ("violation", "code", "reason"),
    [
        (frame(b"") * 3000, 1008, "protocol_error: send fewer and larger messages"),
        (frame(bytes(40_000)), 1009, "payload_too_large: send smaller messages"),
        (frame(b"\xff", Opcode.TEXT), 1007, "protocol_error: send audio in binary messages"),
        (
            frame(b"\xff", Opcode.TEXT) + frame(b"hi", Opcode.PING),
            1007,
            "protocol_error: send audio in binary messages",
        ),
        (frame(SECOND[:3200], mask=False), 1002, "protocol_error: correct the frames: incorrect masking"),
    ],
    ids=["too many frames", "far too large", "no text", "no text, then a ping", "not masked"],
)
def test_a_sender_that_does_not_stop_reads_why_it_was_closed(violation, code, reason):
    """A connection that is closed while data arrives is reset, which would discard the close frame."""

    async def main() -> None:
        async with linked(stream_max_message_bytes=8192) as link:
            await link.send(violation)
            for _ in range(20):  # as a client whose task that reads has no turn yet
                await link.send(frame(bytes(8000)) * 50)
                await asyncio.sleep(0.01)
            await link.hear()
            assert link.closed is not None
            assert link.closed.code == code
            assert link.closed.reason.startswith(reason)

    asyncio.run(asyncio.wait_for(main(), 30))


def test_audio_after_a_violation_is_not_taken(watching):
    async def main() -> None:
        async with linked("?encoding=float32") as link:
            await link.send(frame(struct.pack("<f", np.inf)))
            await link.hear(lambda: link.told[-1]["type"] == "error")
            taken = watching.at_once
            await link.send(frame(bytes(6400)))
            await link.hear()
            assert watching.at_once == taken == 1
            assert link.closed is not None and link.closed.code == 1007

    asyncio.run(asyncio.wait_for(main(), 10))
