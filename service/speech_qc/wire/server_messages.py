"""Every message that a server sends on `WebSocket /v1/stream` as a type; a client's are in `service.live.commands`.

They are encoded straight from arrays on the hot path; the tests hold each one to its type, and `service.client` parses
into them. Knows pydantic and nothing of sockets.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from service.api.schemas import ErrorDetail as ErrorDetail
from service.api.schemas import EventAnswer, LevelsAnswer, ModelInfo, SummaryAnswer, TimingAnswer, VerdictAnswer
from service.live.commands import Message


class Ready(Message):
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


class ScoresChannel(Message):
    """One channel's part of `scores`."""

    channel: int
    frames: dict[str, list[float | None]]


class Scores(Message):
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


class StreamWarning(Message):
    """Something the sender should know; the stream goes on."""

    type: Literal["warning"]
    code: Literal[
        "too_fast", "too_slow", "silence", "clipping", "rate_mismatch", "encoding_mismatch", "incomplete_sample"
    ]
    message: str
    channel: int | None = Field(description="null: of the whole stream")


class StreamError(Message):
    """What was wrong; after a text message that cannot be used the stream goes on, else a close follows."""

    type: Literal["error"]
    error: ErrorDetail


class Configured(Message):
    """Answer to `Configure`: what holds from `first_frame` on."""

    type: Literal["configured"]
    first_frame: int
    labels: list[str]
    emit_ms: int
    profile: str
    latency_s: float


class Finalized(Message):
    """Answer to `Finalize`."""

    type: Literal["finalized"]
    frames: int = Field(description="Frames of each channel scored and sent so far.")


class SummaryChannel(Message):
    """What `/v1/inspect` says of a channel, without its frames."""

    channel: int
    events: list[EventAnswer]
    events_dropped: int | None = None
    levels: LevelsAnswer
    summary: SummaryAnswer
    verdict: VerdictAnswer


class Summary(Message):
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
