"""An async Python client of `WebSocket /v1/stream`, with typed messages and a graceful close.

    async with StreamClient.connect("ws://localhost:8000", sample_rate=8000, encoding="mulaw") as stream:
        await stream.send(audio)
        async for message in stream: ...
        summary = await stream.close()

Depends on the wire format only, not on the server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket as sockets
import ssl
from collections import deque
from collections.abc import AsyncIterator, Generator, Sequence
from http import HTTPStatus
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
from speech_qc.wire.client_messages import CloseStream, Configure, Finalize, Gap, KeepAlive
from speech_qc.wire.server_messages import (
    SERVER,
    AnyServerMessage,
    Finalized,
    Ready,
    StreamError,
    Summary,
)
from speech_qc.wire.vocabulary import Encoding as Encoding
from speech_qc.wire.vocabulary import GapKind, Position

logger = logging.getLogger(__name__)

PATH = "/v1/stream"

MAX_WAITING = 1_000
"""Maximum messages buffered for iteration; 100 s at the default interval."""

REFUSED = 1013
"""Close code "try again later", reported if the server refuses the upgrade, since there is no close frame then."""
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Large enough for a summary with ten thousand events in two channels."""


class StreamClosed(Exception):
    """The stream has ended, but not because the client closed it gracefully.

    Attributes:
        code: Close code; 1006 if there was no close frame.
        reason: Reason in the close frame, with advice on what to do.
        error: The last `error` message before the close, if there was one.
        summary: The summary, if the server sent one: of what it had scored until it ended the stream.
    """

    def __init__(self, code: int, reason: str, error: StreamError | None, summary: Summary | None = None) -> None:
        problem = error.error.message if error is not None else reason or "the connection was lost"
        super().__init__(f"the stream was closed with {code}: {problem}")
        self.code, self.reason, self.error, self.summary = code, reason, error, summary

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which another attempt may succeed; None if it would fail again."""
        value = self.error.error.detail.get("retry_after_s") if self.error is not None else None
        return float(value) if value is not None else None


class NoStream(ConnectionError):
    """There is no speech-qc server at this address, or it does not answer.

    Attributes:
        url: URL of the stream, without its options.
    """

    def __init__(self, url: str, problem: str, advice: str) -> None:
        self.url, _, _ = url.partition("?")
        super().__init__(f"expected a speech-qc server at {self.url}, {problem}: {advice}")


def _no_stream(url: str, error: Exception, timeout_s: float) -> NoStream:
    """Return the error for a connection that failed: the problem, and what to do about it."""
    if isinstance(error, TimeoutError):
        problem = f"got no answer within {timeout_s:g} s"
        advice = "check host, port and firewall, or try again later"
    elif isinstance(error, InvalidStatus):
        problem = f"got HTTP {error.response.status_code} instead of a WebSocket"
        advice = "give the server's address without a path, and check any proxy in front of it"
    elif isinstance(error, sockets.gaierror):
        problem, advice = "cannot resolve the host name", "correct the address"
    elif isinstance(error, ssl.SSLError):
        problem, advice = f"the TLS handshake failed ({error})", "use ws or http for a server without TLS"
    elif isinstance(error, OSError):
        refused = isinstance(error, ConnectionRefusedError)
        problem = f"cannot connect ({'connection refused' if refused else error})"
        advice = "start one with `speech-qc serve`, or correct host and port"
    else:
        problem = f"got a response that is not WebSocket ({error})"
        advice = "correct the port, and use wss or https for a server with TLS"
    return NoStream(url, problem, advice)


def _refusal(error: InvalidStatus) -> StreamError | None:
    """Return the error with which a speech-qc server refused the upgrade; None for other servers and other paths."""
    if error.response.status_code == HTTPStatus.NOT_FOUND:
        return None
    try:
        return StreamError.model_validate({"type": "error", **json.loads(error.response.body or b"")})
    except (ValueError, TypeError):  # not JSON, not an object, or other fields
        return None


def stream_url(url: str, **options: str | int | None) -> str:
    """Return a stream URL: http becomes ws, https becomes wss, a missing path is added, None options are omitted."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss"):
        raise ValueError(f"expected an address that begins with ws, wss, http or https, got {url!r}")
    query = urlencode({name: value for name, value in options.items() if value is not None})
    joined = "&".join(part for part in (parts.query, query) if part)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") or PATH, joined, ""))


class StreamClient:
    """One live stream, created by `connect`; an async context manager.

    Iterate over it to receive the messages after `ready`. A background task reads the socket, so `finalize` and `close`
    also work without iteration. Before iteration starts, only the last `MAX_WAITING` messages are kept. After that, no
    message is lost; if you iterate too slowly, the server treats the client as a slow reader.

    Args:
        socket: Connected WebSocket.
        ready: The server's first message.
        encoding: How `send` encodes arrays.
        channels: Number of channels that are sent.
    """

    def __init__(self, socket: ClientConnection, ready: Ready, encoding: Encoding, channels: int) -> None:
        self.ready = ready
        self.summary: Summary | None = None
        """The server's summary, once it has come; whether it covers everything, `close` and iteration tell."""
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
        position: Position = "samples",
        api_key: str | None = None,
        open_timeout_s: float = 10.0,
    ) -> _Connecting:
        """Open a stream; await the result, or use it with `async with`, which closes the connection afterwards.

        Args:
            url: Address of the server, or the complete URL of its stream.
            encoding: Encoding of the audio that is sent.
            sample_rate: Samples per second of each channel.
            channels: 1 or 2, interleaved.
            emit_ms: Audio between two `scores` messages.
            labels: Labels to receive; all by default.
            profile: Verdict profile.
            session_name: Returned in `ready` and `summary`.
            position: Where audio belongs in time: after the audio before it, or where it arrives.
            api_key: Sent as `Authorization: Bearer …`, if the server has keys; read it from a file or the environment,
                do not put it into source code.
            open_timeout_s: Longest wait for `ready`.

        Raises:
            StreamClosed: The server refused the stream; the message gives the reason.
            NoStream: No server answers in time, or it is another service; an OSError with advice on what to do.
            ValueError: The URL scheme is not supported, or the key is not valid in a header.
        """
        address = stream_url(
            url, encoding=encoding, sample_rate=sample_rate, channels=channels, emit_ms=emit_ms,
            labels=None if labels is None else ",".join(labels), profile=profile, session_name=session_name,
            position=None if position == "samples" else position,
        )  # fmt: skip
        return _Connecting(address, encoding, channels, open_timeout_s, bearer(api_key))

    async def send(self, audio: bytes | bytearray | memoryview | NDArray[np.float32]) -> None:
        """Send audio; wait while the server is behind.

        Args:
            audio: Encoded bytes, in portions of any size; or float samples in [-1, 1], (n,) or (n, channels), which are
                encoded here.

        Raises:
            StreamClosed: The server ended the stream.
            ValueError: The array has another shape.
        """
        await self._send(encode(audio, self._encoding, self._channels) if isinstance(audio, np.ndarray) else audio)

    async def keep_alive(self) -> None:
        """Keep the stream open while there is no audio to send."""
        await self._send(KeepAlive().model_dump_json())

    async def gap(self, ms: float, kind: GapKind = "loss") -> None:
        """Say that audio of this length is missing here; its frames are null, and no dropout.

        Args:
            ms: Its length, at most a day.
            kind: Lost, not sent because the source was silent, or not sent because the sender paused.
        """
        await self._send(Gap(ms=ms, kind=kind).model_dump_json())

    async def finalize(self) -> Finalized:
        """Score all audio sent so far, as far as possible, without ending the stream."""
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
        """Change the stream's options from now on; the server answers an invalid value with an `error` message."""
        wanted = Configure(labels=None if labels is None else list(labels), emit_ms=emit_ms, profile=profile)
        await self._send(wanted.model_dump_json(exclude_none=True))

    async def close(self) -> Summary:
        """End the stream: the server scores the remaining audio, then sends the summary. Idempotent.

        Returns:
            The summary of everything that was sent.

        Raises:
            StreamClosed: The stream ended in another way, for example because the server shuts down. Its `summary`, if
                there is one, may lack the last audio.
        """
        if not self._closing:
            self._closing = True
            self._taken.set()
            if self._end is None:
                await self._send(CloseStream().model_dump_json())
        await asyncio.wait({self._reader})
        if self._end is not None or self.summary is None:
            raise self._end or self._closed(1006, "")
        return self.summary

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection; call `close` before to get the summary."""
        await self._socket.close()
        self._reader.cancel()
        await asyncio.wait({self._reader})
        for future in self._answers:
            future.cancel()

    def __aiter__(self) -> AsyncIterator[AnyServerMessage]:
        return self._messages()

    async def _messages(self) -> AsyncIterator[AnyServerMessage]:
        """Yield messages until the stream ends; raise StreamClosed if it did not end gracefully."""
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
        finally:  # also if the caller stops iterating early
            self._iterated = False
            self._taken.set()

    async def _send(self, message: str | bytes | bytearray | memoryview) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as error:
            self._lost = True
            self._taken.set()
            await asyncio.wait({self._reader})  # the reader has received the reason
            raise self._end or self._closed(1006, "") from error

    def _closed(self, code: int, reason: str) -> StreamClosed:
        return StreamClosed(code, reason, self._last_error, self.summary)

    async def _read(self) -> None:
        """Read the socket until it closes; keep the reason unless the client asked for the close."""
        try:
            async for text in self._socket:
                try:
                    message = SERVER.validate_json(text, extra="ignore")  # a newer server may send more fields
                except ValidationError:
                    logger.warning("message ignored: this version does not support its type")
                    continue
                await self._take(message)
        except ConnectionClosed:
            pass  # the close code below has the reason
        finally:
            code, reason = self._socket.close_code or 1006, self._socket.close_reason or ""
            if code != 1000 or (self._closing and self.summary is None):
                self._end = self._closed(code, reason)
            for future in self._answers:
                if not future.done():
                    future.set_exception(self._end or self._closed(code, reason))
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
        # The iterating caller applies back-pressure, unless a pending call needs a later message.
        while len(self._waiting) >= MAX_WAITING and not (self._closing or self._lost or self._answers):
            if not self._iterated:
                self._waiting.popleft()
                break
            self._taken.clear()
            await self._taken.wait()
        self._waiting.append(message)
        self._arrived.set()


class _Connecting:
    """A stream to be opened: awaitable, and an async context manager."""

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
            if isinstance(error, InvalidStatus) and (refusal := _refusal(error)) is not None:
                raise StreamClosed(REFUSED, "", refusal) from error
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

    def _other_protocol(self, first: str) -> NoStream:
        return NoStream(
            self._address, f"the first message was not `ready` but {first}", "it is another service or another version"
        )


def encode(audio: NDArray[np.float32], encoding: Encoding, channels: int) -> bytes:
    """Encode samples for a stream.

    Args:
        audio: float (n,) or (n, channels); clipped to [-1, 1] in the integer encodings.
        encoding: Encoding of the stream.
        channels: Number of channels of the stream.

    Raises:
        ValueError: The array has another shape.
    """
    shape = (audio.shape[0] if audio.ndim else 0, channels) if audio.ndim == 2 or channels > 1 else audio.shape
    if audio.ndim not in (1, 2) or audio.shape != shape:
        raise ValueError(f"expected samples of shape (n, {channels}){' or (n,)' if channels == 1 else ''}, "
                         f"got {audio.shape}")  # fmt: skip
    samples = np.asarray(audio, np.float32)
    if encoding == "float32":
        return bytes(samples.astype("<f4").tobytes())
    if encoding == "linear16":
        return bytes(np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype("<i2").tobytes())
    codes = encode_mulaw(samples) if encoding == "mulaw" else encode_alaw(samples)
    return bytes(codes.tobytes())
