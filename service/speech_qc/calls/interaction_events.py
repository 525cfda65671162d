"""What is found between the legs of a call: events that begin and end, each listed once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from speech_qc.calls.echo import Echo
from speech_qc.calls.records import FRAME_S
from speech_qc.wire.vocabulary import InteractionKind, Phase

MAX_EVENTS = 1_000
"""Events that are listed; later ones are only counted."""

Key = tuple[InteractionKind, int | None]
"""Kind and leg: of each, one event at a time."""


@dataclass(frozen=True, slots=True)
class InteractionEvent:
    """Something that happened between the legs.

    Args:
        event_id: Counts up from 0 per call.
        kind: What happened.
        leg: The silent leg of `one_way_audio`, the one that interrupts in `talk_over`, the one that hears itself in
            `echo`; None if it is neither or both.
        onset_s: Its begin on the call's clock.
        offset_s: Its end; None while it lasts.
        echo: Details of an echo.
    """

    event_id: int
    kind: InteractionKind
    leg: int | None
    onset_s: float
    offset_s: float | None = None
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class InteractionUpdate:
    """An event has begun or ended."""

    phase: Phase
    event: InteractionEvent


class EventLog:
    """The events of one call; memory is bounded."""

    def __init__(self) -> None:
        self._found = 0
        self._updates: list[InteractionUpdate] = []
        self.open: dict[Key, InteractionEvent] = {}
        """The events that still last."""
        self.ended: list[InteractionEvent] = []
        """The events that have ended."""
        self.dropped = 0
        """Events above the limit."""

    @property
    def all(self) -> list[InteractionEvent]:
        """All events in the order of their begin."""
        return sorted([*self.ended, *self.open.values()], key=lambda event: event.event_id)

    def begin(self, key: Key, frame: int, echo: Echo | None = None) -> None:
        """Begin an event at a frame of the call."""
        event = InteractionEvent(self._found, key[0], key[1], round(frame * FRAME_S, 3), None, echo)
        self._found += 1
        self.open[key] = event
        self._updates.append(InteractionUpdate("begin", event))

    def end(self, key: Key, frame: int) -> None:
        """End an event before a frame of the call."""
        event = self.open.pop(key)
        event = replace(event, offset_s=max(event.onset_s, round(frame * FRAME_S, 3)))
        if len(self.ended) < MAX_EVENTS:
            self.ended.append(event)
        else:
            self.dropped += 1
        self._updates.append(InteractionUpdate("end", event))

    def news(self) -> list[InteractionUpdate]:
        """Return what has begun and ended since the last time."""
        news, self._updates = self._updates, []
        return news
