"""What a client may say besides audio, as types: one discriminated union. Knows pydantic and nothing of sockets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from speech_qc.errors import ProtocolError


class Message(BaseModel):
    """Base of all messages of a stream, in both directions."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str

    def document(self) -> dict[str, Any]:
        """Return the message as it is sent: its type first, and without optional fields that were not set."""
        return {"type": self.type} | self.model_dump(exclude_unset=True)


class KeepAlive(Message):
    """The stream is wanted although no audio comes now."""

    type: Literal["KeepAlive"] = "KeepAlive"


class Finalize(Message):
    """Score what can be scored now; the stream goes on. Answered with `finalized`."""

    type: Literal["Finalize"] = "Finalize"


class CloseStream(Message):
    """There is no more audio. Answered with the last scores, `summary` and a close with 1000."""

    type: Literal["CloseStream"] = "CloseStream"


class Configure(Message):
    """Change what is sent from here on; what is left out stays. Answered with `configured`."""

    type: Literal["Configure"] = "Configure"
    labels: list[str] | None = Field(default=None, min_length=1)
    emit_ms: int | None = None
    profile: str | None = None


ClientMessage = Annotated[KeepAlive | Finalize | CloseStream | Configure, Field(discriminator="type")]
_CLIENT: TypeAdapter[KeepAlive | Finalize | CloseStream | Configure] = TypeAdapter(ClientMessage)


def parse_client_message(text: str) -> KeepAlive | Finalize | CloseStream | Configure:
    """Read a text message.

    Raises:
        ProtocolError: Not JSON, an unknown type, or a field that does not fit; the stream can go on.
    """
    try:
        return _CLIENT.validate_json(text)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in found["loc"]) or "message"
        raise ProtocolError(
            "expected a JSON object whose type is KeepAlive, Finalize, CloseStream or Configure; "
            f"{place}: {found['msg']}; the message is ignored and the stream goes on"
        ) from error
