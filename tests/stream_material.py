"""The client's side of a conversation, through the ASGI test client."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from starlette.testclient import TestClient, WebSocketTestSession

from speech_qc.wire.server_messages import SERVER

CLOSE = '{"type":"CloseStream"}'
FINALIZE = '{"type":"Finalize"}'
KEEP_ALIVE = '{"type":"KeepAlive"}'


def pcm16(samples: np.ndarray) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def receive(session: WebSocketTestSession) -> dict[str, Any]:
    """Return the next message, validated against its type; a close frame as {"type": "close", ...}."""
    message = session.receive()
    if message["type"] == "websocket.close":
        return {"type": "close", "code": message["code"], "reason": message.get("reason", "")}
    document: dict[str, Any] = json.loads(message["text"])
    assert SERVER.validate_json(message["text"]).document() == document, "a message is what its type would send"
    return document


def receive_all(session: WebSocketTestSession) -> list[dict[str, Any]]:
    """Return all messages up to the close frame."""
    messages = [receive(session)]
    while messages[-1]["type"] != "close":
        messages.append(receive(session))
    return messages


def receive_until(session: WebSocketTestSession, kind: str) -> list[dict[str, Any]]:
    """Return all messages up to the first one of a type, or to the close."""
    messages = [receive(session)]
    while messages[-1]["type"] not in (kind, "close"):
        messages.append(receive(session))
    return messages


def converse(
    client: TestClient, said: Iterable[bytes | str], query: str = "", *, close: bool = True
) -> list[dict[str, Any]]:
    """Send everything, then receive everything up to the close."""
    with client.websocket_connect(f"/v1/stream{query}") as session:
        for message in said:
            if isinstance(message, bytes):
                session.send_bytes(message)
            else:
                session.send_text(message)
        if close:
            session.send_text(CLOSE)
        return receive_all(session)


def of_type(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == kind]


def cut(audio: bytes, size: int) -> list[bytes]:
    return [audio[start : start + size] for start in range(0, len(audio), size)]


def frames_of(messages: list[dict[str, Any]], channel: int = 0) -> dict[str, list[float | None]]:
    """Return all frames of one channel by label; fail if a message does not continue the previous one."""
    columns: dict[str, list[float | None]] = {}
    following = 0
    for message in of_type(messages, "scores"):
        assert message["first_frame"] == following, "scores must be gapless"
        assert message["start_s"] == round(following * 0.02, 3)
        frames = message["channels"][channel]["frames"]
        for label, column in frames.items():
            columns.setdefault(label, []).extend(column)
        following += len(next(iter(frames.values())))
    return columns
