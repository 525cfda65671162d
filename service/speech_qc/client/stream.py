"""A client of `WebSocket /v1/stream` for Python programs: async, typed messages, the closing handled.

    async with StreamClient.connect("ws://localhost:8000", sample_rate=8000, encoding="mulaw") as stream:
        await stream.send(audio)
        async for message in stream: ...
        summary = await stream.close()

Knows the wire and nothing of the server behind it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket as sockets
import ssl
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from speech_qc.audio.g711 import encode_alaw, encode_mulaw
from speech_qc.client.credentials import bearer
from speech_qc.wire.client_messages import CloseStream, Configure, Finalize, KeepAlive
from speech_qc.wire.server_messages import (
    SERVER,
    AnyServerMessage,
    Finalized,
    Ready,
    StreamError,
    Summary,
)
from speech_qc.wire.vocabulary import Encoding as Encoding

logger = logging.getLogger(__name__)

PATH = "/v1/stream"

MAX_WAITING = 1_000
"""Messages that wait for somebody who iterates; 100 s at the default interval."""

REFUSED = 1013
"""Try again later: what a server's refusal before the upgrade comes to, which has no close frame."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""A summary may list ten thousand events of two channels."""


class StreamClosed(Exception):
    """The stream is over, and not because this side closed it in order.

    Attributes:
        code: Of the close frame; 1006 when there was none.
        reason: Of the close frame; says what to do.
        error: The last `error` message before it, if there was one.
    """

    def __init__(self, code: int, reason: str, error: StreamError | None) -> None:
        said = error.error.message if error is not None else reason or "the connection was lost"
        super().__init__(f"the stream was closed with {code}: {said}")
        self.code, self.reason, self.error = code, reason, error

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which another attempt may succeed; None when it would fail again."""
        value = self.error.error.detail.get("retry_after_s") if self.error is not None else None
        return float(value) if value is not None else None


class NoStream(ConnectionError):
    """There is no speech-qc server at this address, or none that answers.

    Attributes:
        url: Of the stream, without its options.
    """

    def __init__(self, url: str, came: str, advice: str) -> None:
        self.url, _, _ = url.partition("?")
        super().__init__(f"expected a speech-qc server at {self.url}, {came}: {advice}")


def _no_stream(url: str, error: Exception, timeout_s: float) -> NoStream:
    """What came instead of a stream, and what to do about it."""
    if isinstance(error, TimeoutError):
        came, advice = f"nothing came within {timeout_s:g} s", "check host, port and firewall, or try again later"
    elif isinstance(error, InvalidStatus):
        came = f"the answer was HTTP {error.response.status_code} and no WebSocket"
        advice = "give the address of the server alone, without a path, and check what stands before it"
    elif isinstance(error, sockets.gaierror):
        came, advice = "but there is no host of this name", "correct the address"
    elif isinstance(error, ssl.SSLError):
        came, advice = f"TLS could not be agreed on ({error})", "take ws or http for a server without TLS"
    elif isinstance(error, OSError):
        refused = isinstance(error, ConnectionRefusedError)
        came = f"it cannot be reached ({'the connection was refused' if refused else error})"
        advice = "start one with `speech-qc serve`, or correct host and port"
    else:
        came = f"what answers there speaks no WebSocket ({error})"
        advice = "correct the port, and take wss or https for a server with TLS"
    return NoStream(url, came, advice)


def _refusal(error: InvalidStatus) -> StreamError | None:
    """What a speech-qc server said that refused the upgrade itself; None of anybody else."""
    try:
        return StreamError.model_validate({"type": "error", **json.loads(error.response.body or b"")})
    except (ValueError, TypeError):  # no JSON, no object, or another one
        return None


def stream_url(url: str, **options: str | int | None) -> str:
    """Address of a stream: http and https become ws and wss, a missing path is filled in, None is left out."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss"):
        raise ValueError(f"expected an address that begins with ws, wss, http or https, given {url!r}")
    query = urlencode({name: value for name, value in options.items() if value is not None})
    joined = "&".join(part for part in (parts.query, query) if part)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") or PATH, joined, ""))


class StreamClient:
    """One live stream; made by `connect`, an async context manager.

    Iterate over it for the messages after `ready`. A task in the background reads the socket, so that `finalize` and
    `close` work with and without somebody who iterates. As long as nobody does, only the last `MAX_WAITING` messages
    are kept; from then on none is lost, and a reader that is too slow is what the server calls one.

    Args:
        socket: Connected.
        ready: What the server said first.
        encoding: How `send` encodes arrays.
        channels: Channels of what is sent.
    """

    def __init__(self, socket: ClientConnection, ready: Ready, encoding: Encoding, channels: int) -> None:
        self.ready = ready
        self.summary: Summary | None = None
        self._socket, self._encoding, self._channels = socket, encoding, channels
        self._waiting: deque[AnyServerMessage] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._iterated = self._closing = self._lost = False
        self._answers: deque[asyncio.Future[Finalized]] = deque()
        self._last_error: StreamError | None = None
        self._end: StreamClosed | None = None
        self._reader = asyncio.create_task(self._read(), name="speechqc-stream-client")

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        encoding: Encoding = "linear16",
        sample_rate: int = 16_000,
        channels: int = 1,
        emit_ms: int = 100,
        labels: Sequence[str] | None = None,
        profile: str | None = None,
        session_name: str | None = None,
        api_key: str | None = None,
        open_timeout_s: float = 10.0,
    ) -> _Connecting:
        """Open a stream; await it, or use it with `async with`, which closes it in order.

        Args:
            url: Server, or the whole address of its stream.
            encoding: Of what `send` sends.
            sample_rate: Samples per second of each channel.
            channels: 1 or 2, interleaved.
            emit_ms: Audio between two `scores` messages.
            labels: To be sent; all by default.
            profile: Limits of the verdict.
            session_name: Comes back in `ready` and `summary`.
            api_key: Sent as `Authorization: Bearer …`, where the server has keys; take it from a file or the
                environment, not from the source.
            open_timeout_s: Longest wait for `ready`.

        Raises:
            StreamClosed: The server refused the stream; it says why.
            NoStream: Nobody answers there, or not in time, or it is another service; an OSError that says what to do.
            ValueError: The address is of another kind, or the key holds what no header can.
        """
        address = stream_url(
            url, encoding=encoding, sample_rate=sample_rate, channels=channels, emit_ms=emit_ms,
            labels=None if labels is None else ",".join(labels), profile=profile, session_name=session_name,
        )  # fmt: skip
        return _Connecting(address, encoding, channels, open_timeout_s, bearer(api_key))

    async def send(self, audio: bytes | bytearray | memoryview | NDArray[np.float32]) -> None:
        """Send audio; waits while the server is behind.

        Args:
            audio: Bytes as they are, in portions of any size; or float samples in [-1, 1], (n,) or (n, channels), which
                are encoded here.

        Raises:
            StreamClosed: The server ended the stream.
            ValueError: An array of another shape.
        """
        await self._send(encode(audio, self._encoding, self._channels) if isinstance(audio, np.ndarray) else audio)

    async def keep_alive(self) -> None:
        """Say that the stream is wanted although there is no audio now."""
        await self._send(KeepAlive().model_dump_json())

    async def finalize(self) -> Finalized:
        """Have everything scored that can be, without ending the stream."""
        future: asyncio.Future[Finalized] = asyncio.get_running_loop().create_future()
        self._answers.append(future)
        self._taken.set()
        try:
            await self._send(Finalize().model_dump_json())
        except StreamClosed:
            future.cancel()
            raise
        return await future

    async def configure(
        self, *, labels: Sequence[str] | None = None, emit_ms: int | None = None, profile: str | None = None
    ) -> None:
        """Change what is sent from here on; a value that does not fit comes back as an `error` message."""
        wanted = Configure(labels=None if labels is None else list(labels), emit_ms=emit_ms, profile=profile)
        await self._send(wanted.model_dump_json(exclude_none=True))

    async def close(self) -> Summary:
        """End the stream: the rest is scored, then comes the summary. May be called twice.

        Raises:
            StreamClosed: The stream ended otherwise.
        """
        if not self._closing:
            self._closing = True
            self._taken.set()
            if self._end is None:
                await self._send(CloseStream().model_dump_json())
        await asyncio.wait({self._reader})
        if self.summary is None:
            raise self._end or StreamClosed(1006, "", self._last_error)
        return self.summary

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the connection; `close` before it gets the summary."""
        await self._socket.close()
        self._reader.cancel()
        await asyncio.wait({self._reader})
        for future in self._answers:
            future.cancel()

    def __aiter__(self) -> AsyncIterator[AnyServerMessage]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[AnyServerMessage]:
        """Messages until the end; raises StreamClosed when that was none in order."""
        self._iterated = True
        try:
            while True:
                while self._waiting:
                    message = self._waiting.popleft()
                    self._taken.set()
                    yield message
                if self._reader.done():
                    if self._end is not None:
                        raise self._end
                    return
                self._arrived.clear()
                await self._arrived.wait()
        finally:  # also where the loop over it was left
            self._iterated = False
            self._taken.set()

    async def _send(self, message: str | bytes | bytearray | memoryview) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            self._lost = True
            self._taken.set()
            await asyncio.wait({self._reader})  # it has read why
            raise self._end or StreamClosed(1006, "", self._last_error) from error

    async def _read(self) -> None:
        """Read the socket to its end; keeps the reason of an end that was not asked for."""
        try:
            async for text in self._socket:
                try:
                    message = SERVER.validate_json(text, extra="ignore")  # a newer server may say more
                except ValidationError:
                    logger.warning("a message of a kind that this version does not know was passed over")
                    continue
                await self._take(message)
        except ConnectionClosed:
            pass  # the code below tells
        finally:
            code, reason = self._socket.close_code or 1006, self._socket.close_reason or ""
            if code != 1000 or (self._closing and self.summary is None):
                self._end = StreamClosed(code, reason, self._last_error)
            for future in self._answers:
                if not future.done():
                    future.set_exception(self._end or StreamClosed(code, reason, self._last_error))
            self._arrived.set()

    async def _take(self, message: AnyServerMessage) -> None:
        if isinstance(message, StreamError):
            self._last_error = message
        elif isinstance(message, Summary):
            self.summary = message
        elif isinstance(message, Finalized) and self._answers:
            future = self._answers.popleft()
            if not future.done():
                future.set_result(message)
        # Whoever iterates sets the pace, unless somebody waits for what comes behind.
        while len(self._waiting) >= MAX_WAITING and not (self._closing or self._lost or self._answers):
            if not self._iterated:
                self._waiting.popleft()
                break
            self._taken.clear()
            await self._taken.wait()
        self._waiting.append(message)
        self._arrived.set()


class _Connecting:
    """A stream about to be opened: awaitable, and a context manager of the opened one."""

    def __init__(
        self, address: str, encoding: Encoding, channels: int, timeout_s: float, headers: dict[str, str]
    ) -> None:
        self._address, self._encoding, self._channels, self._timeout_s = address, encoding, channels, timeout_s
        self._headers = headers
        self._stream: StreamClient | None = None

    def __await__(self) -> Generator[Any, None, StreamClient]:
        return self._open().__await__()

    async def __aenter__(self) -> StreamClient:
        self._stream = await self._open()
        return await self._stream.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            await self._stream.__aexit__(kind, error, trace)

    async def _open(self) -> StreamClient:
        try:
            async with asyncio.timeout(self._timeout_s):
                socket = await connect(
                    self._address, compression=None, max_size=MAX_MESSAGE_BYTES, additional_headers=self._headers,
                    open_timeout=None,
                )  # fmt: skip
                try:
                    ready = await self._first_message(socket)
                except BaseException:
                    await socket.close()
                    raise
        except NoStream:
            raise
        except (OSError, WebSocketException) as error:
            if isinstance(error, InvalidStatus) and (said := _refusal(error)) is not None:
                raise StreamClosed(REFUSED, "", said) from error
            raise _no_stream(self._address, error, self._timeout_s) from error
        return StreamClient(socket, ready, self._encoding, self._channels)

    async def _first_message(self, socket: ClientConnection) -> Ready:
        try:
            text = await socket.recv()
            first = SERVER.validate_json(text, extra="ignore")
            if isinstance(first, StreamError):
                await socket.wait_closed()
        except ConnectionClosed as error:
            raise StreamClosed(socket.close_code or 1006, socket.close_reason or "", None) from error
        except ValidationError as error:
            raise self._other_protocol(f"{text[:40]!r}") from error
        if isinstance(first, StreamError):
            raise StreamClosed(socket.close_code or 1006, socket.close_reason or "", first)
        if not isinstance(first, Ready):
            raise self._other_protocol(first.type)
        return first

    def _other_protocol(self, came: str) -> NoStream:
        return NoStream(
            self._address, f"the first message was not `ready` but {came}", "it is another service, or another version"
        )


def encode(audio: NDArray[np.float32], encoding: Encoding, channels: int) -> bytes:
    """Samples as the bytes of a stream.

    Args:
        audio: float (n,) or (n, channels); limited to [-1, 1] in the integer encodings.
        encoding: Of the stream.
        channels: Of the stream.

    Raises:
        ValueError: Another shape.
    """
    shape = (audio.shape[0] if audio.ndim else 0, channels) if audio.ndim == 2 or channels > 1 else audio.shape
    if audio.ndim not in (1, 2) or audio.shape != shape:
        raise ValueError(f"expected samples of shape (n, {channels}){' or (n,)' if channels == 1 else ''}, "
                         f"given {audio.shape}")  # fmt: skip
    samples = np.asarray(audio, np.float32)
    if encoding == "float32":
        return bytes(samples.astype("<f4").tobytes())
    if encoding == "linear16":
        return bytes(np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype("<i2").tobytes())
    codes = encode_mulaw(samples) if encoding == "mulaw" else encode_alaw(samples)
    return bytes(codes.tobytes())
