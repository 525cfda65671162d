"""Every message that a server sends on `WebSocket /v1/stream`; those of clients: `speech_qc.wire.client_messages`.

The server builds its messages from these types, and `speech_qc.client.stream` parses into them. Only `Scores`, which is
sent many times a second for each stream, is encoded directly from arrays; a test checks that form against its type.
Independent of sockets.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from speech_qc.wire.answer import Answer
from speech_qc.wire.message import Message
from speech_qc.wire.schemas import ChannelFindings, EventAnswer, ModelInfo, StereoAnswer, TimingAnswer
from speech_qc.wire.schemas import ErrorDetail as ErrorDetail
from speech_qc.wire.vocabulary import Encoding, Phase, WarningCode


class Ready(Message):
    """First message: the options in effect for the stream."""

    type: Literal["ready"] = "ready"
    session_id: str
    session_name: str | None
    model: ModelInfo
    frame_hop_s: float
    latency_s: float = Field(
        description="Longest time from a frame's last sample until its scores are sent, without computing time."
    )
    encoding: Encoding
    sample_rate_hz: int
    channels: int
    emit_ms: int
    labels: list[str]
    profile: str


class ScoresChannel(Answer):
    """One channel in `scores`."""

    channel: int
    frames: dict[str, list[float | None]]


class Scores(Message):
    """Scores of the next frames: they follow on the last ones, or on a `gap`. Null where not received."""

    type: Literal["scores"] = "scores"
    first_frame: int
    start_s: float
    channels: list[ScoresChannel]


class GapMessage(Message):
    """Frames that were not received and are in no `scores`; the next `scores` begin after them."""

    type: Literal["gap"] = "gap"
    first_frame: int
    start_s: float
    frames: int
    reason: Literal["not_received"]


class _EventHead(Message):
    """Fields of an event message before those of the event; a base class, since pydantic orders fields by bases."""

    type: Literal["event"] = "event"
    phase: Phase
    channel: int


class EventMessage(EventAnswer, _EventHead):
    """An event has begun (with the values so far) or ended (complete)."""


class StreamWarning(Message):
    """A problem that the sender should know about; the stream continues."""

    type: Literal["warning"] = "warning"
    code: WarningCode
    message: str
    channel: int | None = Field(description="null: the whole stream")


class StreamError(Message):
    """An error. After an invalid text message the stream continues; otherwise a close follows."""

    type: Literal["error"] = "error"
    error: ErrorDetail


class Configured(Message):
    """Reply to `Configure`: the options in effect from `first_frame` on."""

    type: Literal["configured"] = "configured"
    first_frame: int
    labels: list[str]
    emit_ms: int
    profile: str
    latency_s: float


class Finalized(Message):
    """Reply to `Finalize`."""

    type: Literal["finalized"] = "finalized"
    frames: int = Field(description="Frames of each channel scored and sent so far.")


class Summary(Message):
    """Last message of a stream that ended gracefully; when the server shuts down, an `error` follows."""

    type: Literal["summary"] = "summary"
    session_id: str
    session_name: str | None
    profile: str = Field(description="Name of the profile that judged: the one in effect at the end of the stream.")
    duration_s: float
    frames: int
    stereo: StereoAnswer | None = Field(default=None, description="Absent unless there are two channels.")
    channels: list[ChannelFindings]
    timing: TimingAnswer


ServerMessage = Annotated[
    Ready | Scores | GapMessage | EventMessage | StreamWarning | StreamError | Configured | Finalized | Summary,
    Field(discriminator="type"),
]
AnyServerMessage = (
    Ready | Scores | GapMessage | EventMessage | StreamWarning | StreamError | Configured | Finalized | Summary
)
SERVER: TypeAdapter[AnyServerMessage] = TypeAdapter(ServerMessage)
"""Parses the messages of a server."""
