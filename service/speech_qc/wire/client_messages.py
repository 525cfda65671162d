"""The messages that a client can send besides audio: one discriminated union. Independent of sockets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from speech_qc.errors import ProtocolError
from speech_qc.wire.message import Message
from speech_qc.wire.option_names import NAME_CHARS
from speech_qc.wire.text_audio import find_text_audio
from speech_qc.wire.vocabulary import GapKind

MAX_GAP_MS = 86_400_000.0
"""Longest gap, one day."""


class KeepAlive(Message):
    """Keeps the stream open while there is no audio to send."""

    type: Literal["KeepAlive"] = "KeepAlive"


class Finalize(Message):
    """Scores all audio that can be scored now; the stream continues. The server replies with `finalized`."""

    type: Literal["Finalize"] = "Finalize"


class CloseStream(Message):
    """Ends the audio. The server replies with the last scores, `summary` and a close with code 1000."""

    type: Literal["CloseStream"] = "CloseStream"


class Gap(Message):
    """Audio of this length is missing between what was sent and what follows; its frames are null."""

    type: Literal["Gap"] = "Gap"
    ms: float = Field(gt=0, le=MAX_GAP_MS, allow_inf_nan=False)
    kind: GapKind = "loss"


class Configure(Message):
    """Changes options from here on; omitted options stay unchanged. The server replies with `configured`."""

    type: Literal["Configure"] = "Configure"
    labels: list[str] | None = Field(default=None, min_length=1)
    emit_ms: int | None = None
    profile: str | None = None


ClientMessage = Annotated[KeepAlive | Finalize | CloseStream | Gap | Configure, Field(discriminator="type")]
_CLIENT: TypeAdapter[KeepAlive | Finalize | CloseStream | Gap | Configure] = TypeAdapter(ClientMessage)

KINDS = {
    "json_invalid": "not_json",
    "dict_type": "not_an_object",
    "union_tag_not_found": "unknown_type",
    "union_tag_invalid": "unknown_type",
}
"""Kinds of messages that no client of this server sends, by pydantic's type of the error."""


def parse_client_message(text: str) -> KeepAlive | Finalize | CloseStream | Gap | Configure:
    """Read a text message.

    Raises:
        ProtocolError: Not JSON, an unknown type, or an invalid field; the stream can continue.
    """
    try:
        return _CLIENT.validate_json(text)
    except ValidationError as error:
        raise _unusable(text, error) from error


def _unusable(text: str, error: ValidationError) -> ProtocolError:
    """Return the error for a message; `detail.kind` groups those that are not even meant for this server."""
    found = error.errors(include_url=False)[0]
    kind = KINDS.get(found["type"])
    if kind is not None and (where := find_text_audio(text)) is not None:
        return ProtocolError(
            f"expected audio in binary messages, got it as text in {where}: decode it (usually from base64) and send "
            "the bytes in binary messages, in the encoding and at the rate that the query names; the message is "
            "ignored and the stream continues",
            kind="audio_as_text",
        )
    place = ".".join(str(part) for part in found["loc"]) or "message"
    return ProtocolError(
        "expected a JSON object whose type is KeepAlive, Finalize, CloseStream, Gap or Configure; "
        f"{place}: {found['msg']}; the message is ignored and the stream continues",
        **({"kind": kind} if kind is not None else {}),
        **({"type": str(found["ctx"]["tag"])[:NAME_CHARS]} if found["type"] == "union_tag_invalid" else {}),
    )
