"""The messages that a client can send besides audio: one discriminated union. Independent of sockets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from speech_qc.errors import ProtocolError
from speech_qc.wire.message import Message


class KeepAlive(Message):
    """Keeps the stream open while there is no audio to send."""

    type: Literal["KeepAlive"] = "KeepAlive"


class Finalize(Message):
    """Scores all audio that can be scored now; the stream continues. The server replies with `finalized`."""

    type: Literal["Finalize"] = "Finalize"


class CloseStream(Message):
    """Ends the audio. The server replies with the last scores, `summary` and a close with code 1000."""

    type: Literal["CloseStream"] = "CloseStream"


class Configure(Message):
    """Changes options from here on; omitted options stay unchanged. The server replies with `configured`."""

    type: Literal["Configure"] = "Configure"
    labels: list[str] | None = Field(default=None, min_length=1)
    emit_ms: int | None = None
    profile: str | None = None


ClientMessage = Annotated[KeepAlive | Finalize | CloseStream | Configure, Field(discriminator="type")]
_CLIENT: TypeAdapter[KeepAlive | Finalize | CloseStream | Configure] = TypeAdapter(ClientMessage)


def parse_client_message(text: str) -> KeepAlive | Finalize | CloseStream | Configure:
    """Read a text message.

    Raises:
        ProtocolError: Not JSON, an unknown type, or an invalid field; the stream can continue.
    """
    try:
        return _CLIENT.validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in found["loc"]) or "message"
        raise ProtocolError(
            "expected a JSON object whose type is KeepAlive, Finalize, CloseStream or Configure; "
            f"{place}: {found['msg']}; the message is ignored and the stream continues"
        ) from error
