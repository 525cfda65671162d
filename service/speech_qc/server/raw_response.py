"""Error responses as raw HTTP bytes, for connections that have no application yet."""

from __future__ import annotations

from http import HTTPStatus

from speech_qc.errors import SpeechQCError
from speech_qc.wire.encode import to_json


def headers_of(error: SpeechQCError, body: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of an error response that closes the connection."""
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return headers


def raw_response(error: SpeechQCError, status: int | None = None) -> bytes:
    """Return the whole response; the caller then closes the connection.

    Args:
        error: The error to report.
        status: HTTP status; None for the error's own.
    """
    body = to_json(error.body())
    known = HTTPStatus(status or error.http_status)
    lines = b"".join(b"%b: %b\r\n" % header for header in headers_of(error, body))
    return b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (known, known.phrase.encode(), lines, body)
