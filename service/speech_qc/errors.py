"""The error tree: every failure that a caller can see, with its HTTP status and WebSocket close code.

    SpeechQCError
    ├─ ClientError        the caller can fix it
    │  ├─ InvalidAudio         422 / 1007   the bytes are not the audio they claim to be
    │  ├─ UnsupportedFormat    415 / 1003   no decoder for this container or encoding
    │  ├─ PayloadTooLarge      413 / 1009   bytes, duration or channels above the limit
    │  ├─ ProtocolError        400 / 1008   an unknown option, an unexpected message
    │  ├─ NotFound             404 / 1008   no such path, or no such call
    │  ├─ MethodNotAllowed     405 / 1008   the path exists, but not for this method
    │  ├─ Unauthorized         401 / 1008   no valid key
    │  ├─ Forbidden            403 / 1008   a valid key without permission, or a web page that is not allowed to call
    │  ├─ RequestTimeout       408 / 1008   the request arrived too slowly
    │  └─ ReloadFailed         409 / 1008   the model was not replaced; the old one stays in use
    ├─ CapacityError      try again later
    │  ├─ Overloaded           429 / 1013   no capacity now
    │  ├─ TooManyConnections   503 / 1013   the connection limit is reached
    │  ├─ Draining             503 / 1012   the server is shutting down
    │  ├─ DeadlineExceeded     504 / 1013   accepted, but not finished in time
    │  └─ ResultsUnavailable   503 / 1013   the database of the calls does not answer
    ├─ InferenceError          500 / 1011   this step failed; the next one may succeed
    ├─ EngineDead              503 / 1011   no further step will succeed
    └─ StartupError       not sent to clients: message and exit code
       ├─ SettingsError
       └─ ContractError

Independent of HTTP libraries and sockets; `speech_qc.api` turns these into responses in one place.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SpeechQCError(Exception):
    """Base of all errors of this project; raise a leaf, catch a branch.

    Args:
        message: What was expected, what was received, what to do.
        detail: Machine-readable facts that belong to the message (limits, values).
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    ws_close: ClassVar[int] = 1011
    retryable: ClassVar[bool] = False
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, Any] = detail

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """Build the one JSON error body that HTTP and WebSocket share."""
        return {"error": {"code": self.code, "message": self.message, "detail": self.detail, "request_id": request_id}}


class ClientError(SpeechQCError):
    """The request is at fault; sending it again unchanged will fail again."""

    code = "client_error"
    http_status = 400
    ws_close = 1008


class InvalidAudio(ClientError):
    """The bytes are not the audio that their header or the caller declares."""

    code = "invalid_audio"
    http_status = 422
    ws_close = 1007


class UnsupportedFormat(ClientError):
    """No decoder supports this container or encoding."""

    code = "unsupported_format"
    http_status = 415
    ws_close = 1003


class PayloadTooLarge(ClientError):
    """The recording has more bytes, seconds or channels than the settings allow."""

    code = "payload_too_large"
    http_status = 413
    ws_close = 1009


class ProtocolError(ClientError):
    """An unknown option, a malformed message, or an unexpected message."""

    code = "protocol_error"
    http_status = 400
    ws_close = 1008


class NotFound(ClientError):
    """Nothing is served at this path, or there is no call with this id."""

    code = "not_found"
    http_status = 404


class MethodNotAllowed(ClientError):
    """The path exists, but not for this method."""

    code = "method_not_allowed"
    http_status = 405


class Unauthorized(ClientError):
    """No key, or one that is not valid."""

    code = "unauthorized"
    http_status = 401
    ws_close = 1008


class Forbidden(ClientError):
    """A valid key without permission, or a web page whose origin is not allowed."""

    code = "forbidden"
    http_status = 403
    ws_close = 1008


class RequestTimeout(ClientError):
    """The request was sent too slowly, so its place was freed."""

    code = "request_timeout"
    http_status = 408
    ws_close = 1008


class ReloadFailed(ClientError):
    """The model was not replaced and the current one stays in use; the message says why."""

    code = "reload_failed"
    http_status = 409


class CapacityError(SpeechQCError):
    """The request is valid, but there is no capacity for it now."""

    code = "capacity"
    http_status = 503
    ws_close = 1013
    retryable = True
    retry_after_s = 1


class Overloaded(CapacityError):
    """Refused, because all places are taken or a queue is full."""

    code = "overloaded"
    http_status = 429
    ws_close = 1013


class TooManyConnections(CapacityError):
    """The process has reached its connection limit; a stream is refused before its upgrade."""

    code = "too_many_connections"
    http_status = 503
    ws_close = 1013
    retry_after_s = 5


class Draining(CapacityError):
    """The server is shutting down: it finishes accepted work and accepts nothing new."""

    code = "draining"
    http_status = 503
    ws_close = 1012
    retry_after_s = 5


class DeadlineExceeded(CapacityError):
    """Accepted, but not finished before the deadline."""

    code = "deadline_exceeded"
    http_status = 504
    ws_close = 1013


class ResultsUnavailable(CapacityError):
    """The database of the calls does not answer; streams and uploads are not affected."""

    code = "results_unavailable"
    http_status = 503
    ws_close = 1013
    retry_after_s = 5


class InferenceError(SpeechQCError):
    """One step failed, and with it the entries in that step, but no others."""

    code = "inference_error"
    http_status = 500
    ws_close = 1011
    retryable = True


class EngineDead(SpeechQCError):
    """Several consecutive steps failed, or a step hangs; the server is not ready until a restart or a reload."""

    code = "engine_dead"
    http_status = 503
    ws_close = 1011
    retryable = True
    retry_after_s = 10


class StartupError(SpeechQCError):
    """The process must not start; the message says what to fix."""

    code = "startup_error"


class SettingsError(StartupError):
    """A setting is invalid, or the file or address that it names cannot be used."""

    code = "settings_error"


class ContractError(StartupError):
    """The model file is missing, unreadable, or does not declare what this service needs."""

    code = "contract_error"
