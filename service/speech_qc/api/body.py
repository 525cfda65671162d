"""The bytes of an uploaded recording, as they arrive: a raw body, or the part `file` of a multipart body.

Unlike usual form parsers, this one never spools to disk: the decoder consumes the bytes as they arrive. So options in
form fields have to precede the part `file`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from speech_qc.admission.uploads import ClientLeft
from speech_qc.errors import PayloadTooLarge, ProtocolError, RequestTimeout
from speech_qc.settings import Settings
from speech_qc.wire.option_names import NAME_CHARS, single_options, unknown_options

PIECE_BYTES = 1 << 18
"""Bytes per hand-over to the decoder: 8 s of 16 kHz linear audio; smaller pieces cost more overhead."""

FILE_PART = "file"
MULTIPART_SLACK_BYTES = 1 << 16
"""Allowance for boundaries, part headers and other parts around the recording."""

FIELD_BYTES = 4096
"""Maximum length of a form field."""


@dataclass(slots=True)
class Upload:
    """A recording that is being received.

    Attributes:
        content_type: Content type that the client declared for the recording.
        filename: File name that the client declared; None for a raw body.
        total_bytes: Length of the recording, if the client declared it.
        pieces: The bytes.
        fields: Options that preceded the recording in a form.
        head: The first bytes, once they have been looked at.
    """

    content_type: str | None
    filename: str | None
    total_bytes: int | None
    pieces: AsyncIterator[bytes]
    fields: dict[str, str] = field(default_factory=dict)
    head: bytes = b""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Limits of a request body.

    Attributes:
        max_bytes: Maximum size of the recording.
        idle_s: Longest wait for the next bytes.
        total_s: Longest total wait for the client.
        min_bytes_per_s: Minimum mean rate over the total wait, checked once that exceeds `idle_s`.
    """

    max_bytes: int
    idle_s: float
    total_s: float
    min_bytes_per_s: int


def body_limits(settings: Settings) -> BodyLimits:
    """Return the limits that the settings declare."""
    return BodyLimits(
        settings.max_upload_bytes, settings.upload_idle_s, settings.upload_timeout_s, settings.upload_min_bytes_per_s
    )


async def open_upload(request: Request, limits: BodyLimits, names: Sequence[str]) -> Upload:
    """Find the recording in a request.

    Args:
        request: Request whose headers have arrived.
        limits: Enforced while the body is read, so iterating over the pieces may raise the errors below, too.
        names: Names of the fields that a form may have besides the recording.

    Raises:
        RequestTimeout: The body arrives too slowly.
        PayloadTooLarge: The declared length is above the limit; nothing is read.
        ProtocolError: The multipart body is malformed, has no part `file`, or has a part that does not belong there.
    """
    max_bytes = limits.max_bytes
    kind, options = parse_options_header(request.headers.get("content-type"))
    declared = _content_length(request)
    multipart = kind == b"multipart/form-data"
    if declared is not None and declared > max_bytes + (MULTIPART_SLACK_BYTES if multipart else 0):
        raise PayloadTooLarge(
            f"expected at most {max_bytes} bytes, the request declares {declared}: send a shorter or compressed "
            "recording, or raise SPEECHQC_MAX_UPLOAD_BYTES",
            bytes=declared,
            max_bytes=max_bytes,
        )
    stream = _gathered(_received(request, limits))
    if not multipart:
        return Upload(kind.decode("latin-1") or None, None, declared, stream)
    boundary = options.get(b"boundary")
    if not boundary:
        raise ProtocolError("expected a boundary in the multipart content type, got none: let the HTTP client set it")
    form = _Form(boundary, names)
    pieces = form.file_bytes(stream)
    first = await anext(pieces, b"")  # reads the part's headers, which must be valid before decoding starts
    return Upload(form.content_type, form.filename, None, _chained(first, pieces), single_options(form.fields, names))


def _content_length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() else None


async def _received(request: Request, limits: BodyLimits) -> AsyncIterator[bytes]:
    chunks, waited_s, received = request.stream(), 0.0, 0
    try:
        while True:
            # Time only the wait for the client: a slow server must not make the client look slow.
            started_s = time.monotonic()
            async with asyncio.timeout(limits.idle_s):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            waited_s += time.monotonic() - started_s
            received += len(chunk)
            if waited_s > limits.idle_s and received < limits.min_bytes_per_s * waited_s:
                raise RequestTimeout(
                    f"expected at least {limits.min_bytes_per_s} bytes a second, got {received} in {waited_s:.0f} s: "
                    "send the recording faster, or send live audio to /v1/stream",
                    min_bytes_per_s=limits.min_bytes_per_s,
                )
            if waited_s > limits.total_s:
                raise RequestTimeout(
                    f"expected the whole recording within {limits.total_s:g} s, got {received} bytes: send it faster, "
                    "or send live audio to /v1/stream",
                    total_s=limits.total_s,
                )
            yield chunk
    except TimeoutError as error:
        raise RequestTimeout(
            f"expected more of the recording within {limits.idle_s:g} s, got nothing: send it without long pauses, or "
            "send live audio to /v1/stream",
            idle_s=limits.idle_s,
        ) from error
    except ClientDisconnect as error:
        raise ClientLeft("the client disconnected before its recording was complete") from error


async def wait_for_disconnect(request: Request) -> None:
    """Wait until the client disconnects; call it only after the whole body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _gathered(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small chunks into pieces of at least `PIECE_BYTES`, except for the first, whose errors should not wait."""
    waiting, least = bytearray(), 1
    async for chunk in stream:
        waiting += chunk
        if len(waiting) >= least:
            yield bytes(waiting)
            waiting.clear()
            least = PIECE_BYTES
    if waiting:
        yield bytes(waiting)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in rest:
        yield piece


class _Form:
    """Parses a multipart body as it arrives: the fields before the part `file`, then the bytes of that part.

    Args:
        boundary: Boundary that the content type declares.
        options: Names of the fields that may precede the recording.
    """

    def __init__(self, boundary: bytes, options: Sequence[str]) -> None:
        self.content_type: str | None = None
        self.filename: str | None = None
        self.fields: list[tuple[str, str]] = []
        self._options = options
        self._bytes = self._file_bytes = 0
        self._found = self._ended = False
        self._part = ""
        self._value = bytearray()
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._out = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value_bytes,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )
        except MultipartParseError as error:  # no ordinary client generates such a boundary
            raise ProtocolError(f"the multipart boundary is invalid: {error}") from error

    async def file_bytes(self, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the bytes of the part `file`; empty pieces are skipped, so the first follows the part's headers."""
        async for piece in stream:
            self._bytes += len(piece)
            try:
                # In a thread: with some input, the parser needs a microsecond per byte.
                await asyncio.to_thread(self._parser.write, piece)
            except MultipartParseError as error:
                raise ProtocolError(f"the multipart body is malformed: {error}; send one part named 'file'") from error
            self._file_bytes += len(self._out)
            if self._bytes - self._file_bytes > MULTIPART_SLACK_BYTES:
                raise PayloadTooLarge(
                    f"expected at most {MULTIPART_SLACK_BYTES} bytes in addition to the part {FILE_PART!r} of a "
                    "multipart body, got more: send only the recording and its options",
                    max_bytes=MULTIPART_SLACK_BYTES,
                )
            if self._out:
                yield bytes(self._out)
                self._out.clear()
        if not self._found:
            names = ", ".join(repr(name) for name, _ in self.fields[:8]) or "none"
            raise ProtocolError(
                f"expected the recording in a part named {FILE_PART!r} of the multipart body, got {names}: add it"
            )
        if not self._ended:
            raise ProtocolError("expected a closing boundary at the end of the multipart body: send the whole body")

    def _part_begin(self) -> None:
        self._headers = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_bytes(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        """Check that this part may be here, as soon as its headers have arrived."""
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._part = name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == FILE_PART:
            if self._found:
                raise ProtocolError("expected one part named 'file', got several: send one recording per request")
            self._found = True
            self.filename = options.get(b"filename", b"").decode("utf-8", "replace") or None
            self.content_type = self._headers.get(b"content-type", b"").decode("latin-1") or None
        elif b"filename" in options:
            raise ProtocolError(
                f"expected the recording in a part named {FILE_PART!r} of the multipart body, got a file named "
                f"{name[:NAME_CHARS]!r}: rename that part",
                part=name[:NAME_CHARS],
                expected=FILE_PART,
            )
        elif name not in self._options:
            raise unknown_options([name], (*self._options, FILE_PART))
        elif self._found:
            raise ProtocolError(
                f"expected {name!r} before the part {FILE_PART!r}, got it after: the recording is scored while it "
                f"arrives, so put its options first, or into the query",
                option=name,
            )

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part == FILE_PART:
            self._out += data[start:end]
            return
        self._value += data[start:end]
        if len(self._value) > FIELD_BYTES:
            raise ProtocolError(f"{self._part}: expected at most {FIELD_BYTES} bytes, got more: shorten it")

    def _part_end(self) -> None:
        if self._part != FILE_PART:
            self.fields.append((self._part, self._value.decode("utf-8", "replace")))
            self._value.clear()

    def _end(self) -> None:
        self._ended = True
