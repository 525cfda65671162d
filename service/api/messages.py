"""Every message of `WebSocket /v1/stream` as a type: one discriminated union per direction.

Client messages are parsed into these. Server messages are encoded straight from arrays on the hot path; the tests hold
each one to its type, and `service.client` parses into them. Knows pydantic and nothing of sockets.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.api.schemas import ErrorDetail as ErrorDetail
from service.api.schemas import EventAnswer, LevelsAnswer, ModelInfo, SummaryAnswer, TimingAnswer, VerdictAnswer
from service.errors import ProtocolError


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KeepAlive(_Message):
    """The stream is wanted although no audio comes now."""

    type: Literal["KeepAlive"] = "KeepAlive"


class Finalize(_Message):
    """Score what can be scored now; the stream goes on. Answered with `finalized`."""

    type: Literal["Finalize"] = "Finalize"


class CloseStream(_Message):
    """There is no more audio. Answered with the last scores, `summary` and a close with 1000."""

    type: Literal["CloseStream"] = "CloseStream"


class Configure(_Message):
    """Change what is sent from here on; what is left out stays. Answered with `configured`."""

    type: Literal["Configure"] = "Configure"
    labels: list[str] | None = Field(default=None, min_length=1)
    emit_ms: int | None = None
    profile: str | None = None


ClientMessage = Annotated[KeepAlive | Finalize | CloseStream | Configure, Field(discriminator="type")]
_CLIENT: TypeAdapter[KeepAlive | Finalize | CloseStream | Configure] = TypeAdapter(ClientMessage)


class Ready(_Message):
    """First message: the stream as it was agreed on."""

    type: Literal["ready"]
    session_id: str
    session_name: str | None
    model: ModelInfo
    frame_hop_s: float
    latency_s: float = Field(
        description="From a sample's arrival until its frame's scores are sent, without computing."
    )
    encoding: Literal["linear16", "mulaw", "alaw", "float32"]
    sample_rate_hz: int
    channels: int
    emit_ms: int
    labels: list[str]
    profile: str


class ScoresChannel(_Message):
    """One channel's part of `scores`."""

    channel: int
    frames: dict[str, list[float | None]]


class Scores(_Message):
    """Scores of the next frames; gapless."""

    type: Literal["scores"]
    first_frame: int
    start_s: float
    channels: list[ScoresChannel]


class EventNews(EventAnswer):
    """An event has begun, with what is known so far, or has ended, complete."""

    type: Literal["event"]
    phase: Literal["begin", "end"]
    channel: int


class StreamWarning(_Message):
    """Something the sender should know; the stream goes on."""

    type: Literal["warning"]
    code: Literal[
        "too_fast", "too_slow", "silence", "clipping", "rate_mismatch", "encoding_mismatch", "incomplete_sample"
    ]
    message: str
    channel: int | None = Field(description="null: of the whole stream")


class StreamError(_Message):
    """What was wrong; after a text message that cannot be used the stream goes on, else a close follows."""

    type: Literal["error"]
    error: ErrorDetail


class Configured(_Message):
    """Answer to `Configure`: what holds from `first_frame` on."""

    type: Literal["configured"]
    first_frame: int
    labels: list[str]
    emit_ms: int
    profile: str
    latency_s: float


class Finalized(_Message):
    """Answer to `Finalize`."""

    type: Literal["finalized"]
    frames: int = Field(description="Frames of each channel scored and sent so far.")


class SummaryChannel(_Message):
    """What `/v1/inspect` says of a channel, without its frames."""

    channel: int
    events: list[EventAnswer]
    events_dropped: int | None = None
    levels: LevelsAnswer
    summary: SummaryAnswer
    verdict: VerdictAnswer


class Summary(_Message):
    """Last message of a stream that was closed in order."""

    type: Literal["summary"]
    session_id: str
    session_name: str | None
    duration_s: float
    frames: int
    channels: list[SummaryChannel]
    timing: TimingAnswer


ServerMessage = Annotated[
    Ready | Scores | EventNews | StreamWarning | StreamError | Configured | Finalized | Summary,
    Field(discriminator="type"),
]
AnyServerMessage = Ready | Scores | EventNews | StreamWarning | StreamError | Configured | Finalized | Summary
SERVER: TypeAdapter[AnyServerMessage] = TypeAdapter(ServerMessage)
"""Parses what a server sends."""


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
