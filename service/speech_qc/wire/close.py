"""How a stream ends with an error: an `error` message, then a close frame whose short reason says what to do."""

from __future__ import annotations

from speech_qc.errors import SpeechQCError
from speech_qc.wire.encode import to_json
from speech_qc.wire.server_messages import StreamError

NORMAL_CLOSE = 1000

MAX_REASON_BYTES = 123
"""Maximum length of the reason in a close frame (RFC 6455, section 5.5)."""

ADVICE: dict[str, str] = {
    "invalid_audio": "check encoding, sample_rate and byte order, then reconnect",
    "unsupported_format": "send one of the documented encodings",
    "payload_too_large": "send smaller messages",
    "protocol_error": "correct what the last error message names; do not retry unchanged",
    "unauthorized": "send a valid key",
    "forbidden": "this key or this web page is not allowed to do that",
    "request_timeout": "send faster",
    "overloaded": "retry after {retry_after_s} s, or use another server",
    "too_many_connections": "retry after {retry_after_s} s, or use another server",
    "draining": "server shutting down: reconnect to another one, or retry after {retry_after_s} s",
    "deadline_exceeded": "too busy: retry after {retry_after_s} s, or use another server",
    "inference_error": "scoring failed: reconnect and continue",
    "engine_dead": "server failed: use another one, or retry after {retry_after_s} s",
}
"""What to do, by error code; the preceding `error` message contains the full text."""


ADVICE_BY_DETAIL: dict[str, str] = {
    "idle_s": "send audio or KeepAlive in time, CloseStream at the end",
    "leg_in_use": "leg name in use: choose another, or retry in a few seconds if you are reconnecting",
    "unread_s": "read messages while you send audio, then retry",
}
"""What to do, by a key in the error's detail; more specific than the advice by code."""


def close_reason(error: SpeechQCError) -> str:
    """Return the reason of the close frame, at most 123 bytes: `code: what to do`."""
    known = [advice for key, advice in ADVICE_BY_DETAIL.items() if key in error.detail]
    advice = known[0] if known else ADVICE.get(error.code, "see the last error message")
    text = f"{error.code}: {advice.format(retry_after_s=error.retry_after_s)}"
    return text.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def error_text(error: SpeechQCError, session_id: str) -> bytes:
    """Return the `error` message, with the same body as an HTTP error."""
    return to_json(StreamError(**error.body(session_id)).document())
