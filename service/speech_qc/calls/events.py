"""What a call tells the outside world while it lasts; results, webhooks and watchers all read these events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

CallEventKind = Literal["call.started", "scores", "event.begin", "event.end", "call.ended"]


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One event of one call.

    Attributes:
        kind: What happened.
        call_id: Which call.
        vendor: What sent its audio: a name of `speech_qc.telephony`, `stream` for `/v1/stream`.
        trunk: The line it came in by; None if the peer did not say.
        at: When it happened, UTC.
        data: JSON-ready body. For `call.started` and `call.ended` it is the whole call document.
        document: The call document as it is now, if it is worth keeping while the call lasts; it is not sent.
        document_id: Which document of the call; another one in each process, and whenever the call begins anew.
    """

    kind: CallEventKind
    call_id: str
    vendor: str
    trunk: str | None
    at: datetime
    data: Mapping[str, Any]
    document: Mapping[str, Any] | None = None
    document_id: str = field(kw_only=True)


class CallSink(Protocol):
    """Where events go."""

    def publish(self, event: CallEvent) -> None:
        """Take an event; never waits and never raises, whatever state the store is in."""
