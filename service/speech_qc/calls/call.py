"""One call: its legs on one clock, what it tells while it lasts, and its document."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from speech_qc.calls.documents import interaction_answer, interaction_event
from speech_qc.calls.events import CallEvent, CallEventKind, CallSink
from speech_qc.calls.interaction import LEGS, Interaction
from speech_qc.calls.interaction_events import InteractionUpdate
from speech_qc.calls.legs import LegInfo
from speech_qc.calls.records import FRAME_S, AnyRecord, GapRecord, LegRecord
from speech_qc.errors import ProtocolError
from speech_qc.wire.schemas import CallAnswer, CallLegAnswer
from speech_qc.wire.vocabulary import CallState

MAX_JOINS = 16
"""Legs of a call, those that have ended included. The first two names are compared with each other."""
NO_AUDIO_S, STALL_S = 1.5, 4.0
"""A leg that has sent no audio yet, or from which nothing has come for this long, is not waited for. The second time is
longer, because a server under load scores late."""
STALL_FRAMES = 25
RETRY_LEG_S = 5
"""When to try again to come back as a leg whose lost connection the server may not have noticed."""
_SECOND = round(1 / FRAME_S)

ONE_LEG = "the call had one leg"
DOCUMENT_S = 5
"""How often the document of a live call is renewed, seconds of its audio."""
MORE_LEGS = "only the first two legs are compared"
NO_DOCUMENT = "the call ended before this leg, or the process that held it has exited"


class CallLeg:
    """One leg in its call; a `LegPort`."""

    def __init__(self, call: Call, info: LegInfo, slot: int | None) -> None:
        self.info, self.slot = info, slot
        self.started_at = self.ended_at = call.now()
        self.open, self.begun, self.regular = True, False, False
        self.heard_s = call.clock_s()
        """When the last record came, or else when the leg joined."""
        self._call = call
        self._keys = ""
        self.document: Mapping[str, Any] | None = None
        self.sums: Any = 0.0
        self.counts: Any = 0

    def begin(self, heard_s: float) -> None:
        """Put the leg on the call's clock."""
        if self.open:
            self.begun = True
            self._call.place(self, heard_s)

    def record(self, record: AnyRecord) -> None:
        """Analyse a record."""
        if not self.open:
            return
        self.heard_s = self._call.clock_s()
        if isinstance(record, LegRecord):
            self.sums, self.counts = self.sums + record.sums, self.counts + record.counts.astype(np.int32)
        self._call.take(self, record)

    def event(self, phase: str, fields: Mapping[str, Any]) -> None:
        """Tell an event of this leg."""
        if self.open:
            self._call.tell_event(phase, "leg", self.info.leg, fields)

    def digits(self, digits: str) -> None:
        """Note keys."""
        if self.open:
            self._keys = (self._keys + digits)[:_MAX_KEYS]
            self._call.prove(self)

    def end(self, document: Mapping[str, Any] | None, regular: bool = False) -> None:
        """End this leg, and the call if it is complete."""
        if self.open:
            self.open, self.ended_at, self.document, self.regular = False, self._call.now(), document, regular
            self._call.leave(self)

    def answer(self, offset_s: float, late_s: float) -> CallLegAnswer:
        """Return the leg's part of the call document."""
        info = self.info
        return CallLegAnswer(
            role=info.leg,
            name=info.name,
            vendor=info.vendor,
            sample_rate_hz=info.sample_rate_hz,
            started_at=self.started_at,
            ended_at=None if self.open else self.ended_at,
            offset_s=offset_s,
            metadata=dict(info.metadata),
            digits=self._keys,
            late_s=late_s,
            **(self.document or {}),
        )


_MAX_KEYS = 256


class Call:
    """One call; used from one event loop.

    Args:
        info: Its first leg.
        labels: Labels of the scores, in their order.
        sink: Takes its events.
        now_s: The time of day, seconds since 1970; read once. Everything later is measured on the monotonic clock.
    """

    def __init__(self, info: LegInfo, labels: Sequence[str], sink: CallSink, now_s: float) -> None:
        self.call_id, self._first, self._labels, self._sink = info.call_id, info, tuple(labels), sink
        self.document_id = uuid.uuid4().hex
        """Another one whenever a call of this id begins, in whatever process."""
        self._started_at = datetime.fromtimestamp(now_s, UTC)
        self._started_s = time.monotonic()
        self._ended_at: datetime | None = None
        self._origin_s = math.inf
        self._recorded = False
        self._interaction = Interaction()
        self._names: list[str] = []
        self._starts: dict[CallLeg, float] = {}  # when the first sample was taken, monotonic
        self.legs: list[CallLeg] = []
        self._kept_s, self._kept_legs = 0, 0  # when the document was renewed, and of how many legs
        self.idle_since_s: float | None = None
        """When the last leg ended; None while there is one."""
        self._told = 0  # frames whose scores were told
        self._resumed_s = -math.inf  # when a leg came back after a long gap

    # -- legs ----------------------------------------------------------------------------------------------------------

    def clock_s(self) -> float:
        """Return the monotonic time."""
        return time.monotonic()

    def now(self) -> datetime:
        """Return the time of day, as the call's own clock has it."""
        return self._started_at + timedelta(seconds=time.monotonic() - self._started_s)

    @property
    def age_s(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._started_s

    @property
    def length_s(self) -> float:
        """Seconds from the begin of the call to its end, or until now."""
        return ((self._ended_at or self.now()) - self._started_at).total_seconds()

    @property
    def state(self) -> CallState:
        """Whether it still lasts."""
        return "live" if self._ended_at is None else "ended"

    @property
    def complete(self) -> bool:
        """Whether both legs have been there and all have ended as their senders said: none of them may come back."""
        latest = {leg.info.leg: leg for leg in self.legs}  # a leg that has come back counts as it ended then
        return len(self._names) == LEGS and all(leg.regular and not leg.open for leg in latest.values())

    def join(self, info: LegInfo) -> CallLeg:
        """Add a leg.

        Raises:
            ProtocolError: There is such a leg, or there are two others.
        """
        if any(leg.open and leg.info.leg == info.leg for leg in self.legs):
            raise ProtocolError(
                f"leg: expected a name that no other leg of call {info.call_id[:80]!r} has, got {info.leg[:80]!r}: "
                "name each leg differently; if this one comes back because its connection was lost, retry until the "
                "server has noticed that",
                leg_in_use=info.leg[:80],
                retry_after_s=RETRY_LEG_S,
            )
        if len(self.legs) == MAX_JOINS:
            raise ProtocolError(
                f"leg: expected at most {MAX_JOINS} legs in call {info.call_id[:80]!r}, those that have ended and come "
                f"back included, got another one, {info.leg[:80]!r}",
                max_legs=MAX_JOINS,
            )
        if info.leg not in self._names and len(self._names) < LEGS:
            self._names.append(info.leg)
        leg = CallLeg(self, info, self._names.index(info.leg) if info.leg in self._names else None)
        self.legs.append(leg)
        self.idle_since_s = None
        self.place(leg, leg.heard_s)  # until its first sample says it exactly
        if len(self.legs) == 1:
            self.tell("call.started", self.document())
        return leg

    def place(self, leg: CallLeg, heard_s: float) -> None:
        """Put a leg's first sample on the call's clock, which begins with the first sample of all legs."""
        self._starts[leg] = heard_s
        placed = [leg]
        if not self._recorded:
            begun = [start_s for one, start_s in self._starts.items() if one.begun]
            self._origin_s = min(begun or self._starts.values())
            placed = [one for one in self._starts if one.open]
        for one in placed:
            if one.slot is not None:
                self._interaction.begin(one.slot, self._offset(one))

    def _offset(self, leg: CallLeg) -> int:
        return round((self._starts[leg] - self._origin_s) / FRAME_S)

    def take(self, leg: CallLeg, record: AnyRecord) -> None:
        """Analyse a record of a leg."""
        self._recorded = True
        if isinstance(record, GapRecord) and record.frames * FRAME_S >= STALL_S:
            self._resumed_s = self.clock_s()
        if leg.slot is None:
            return
        self._interaction.push(leg.slot, record)
        self._tell_updates(self._interaction.advance())

    def prove(self, leg: CallLeg) -> None:
        """Note that a leg works."""
        if leg.slot is not None:
            self._interaction.prove(leg.slot)

    def leave(self, leg: CallLeg) -> None:
        """Note that a leg has ended."""
        if leg.slot is not None:
            self._interaction.finish(leg.slot)
        self._tell_updates(self._interaction.advance())
        if not any(one.open for one in self.legs):
            self.idle_since_s = self.clock_s()

    def tick(self) -> None:
        """Go on without a leg that sends nothing; if all were on hold, they do not come back at the same moment."""
        now_s = self.clock_s()
        if any(
            leg.open and now_s - max(leg.heard_s, self._resumed_s) > (STALL_S if leg.begun else NO_AUDIO_S)
            for leg in self.legs
        ):
            self._tell_updates(self._interaction.advance(STALL_FRAMES))

    def end(self) -> None:
        """End the call: its last event has the whole document."""
        if self._ended_at is not None:
            return
        for leg in self.legs:
            if leg.open:
                leg.open, leg.ended_at = False, self.now()
        self._tell_updates(self._interaction.close())
        self._ended_at = max(leg.ended_at for leg in self.legs)  # not when it was known that no other leg comes
        self.tell("call.ended", self.document())

    # -- what it tells -------------------------------------------------------------------------------------------------

    def document(self) -> dict[str, Any]:
        """Return the call document so far, JSON-ready."""
        unknown: dict[str, str] = {}
        if len(self._names) < LEGS:
            unknown["interaction"] = ONE_LEG
        unknown |= {
            f"legs.{place}": NO_DOCUMENT for place, leg in enumerate(self.legs) if not leg.open and leg.document is None
        }
        if any(leg.slot is None for leg in self.legs):
            unknown["interaction.legs"] = MORE_LEGS
        names = next((leg.info.name for leg in self.legs if leg.info.name), None)
        return CallAnswer(
            call_id=self.call_id,
            document_id=self.document_id,
            name=names,
            trunk=next((leg.info.trunk for leg in self.legs if leg.info.trunk), self._first.trunk),
            vendor=self._first.vendor,
            started_at=self._started_at,
            ended_at=self._ended_at,
            state=self.state,
            legs=[
                leg.answer(
                    round(self._offset(leg) * FRAME_S, 2),
                    0.0 if leg.slot is None else round(self._interaction.late_frames(leg.slot) * FRAME_S, 2),
                )
                for leg in self.legs
            ],
            interaction=None if len(self._names) < LEGS else interaction_answer(self._interaction, self._names),
            unknown=unknown,
        ).model_dump(mode="json", exclude_unset=True)

    def tell(self, kind: CallEventKind, data: Mapping[str, Any], document: Mapping[str, Any] | None = None) -> None:
        """Publish an event."""
        first = self._first
        event = CallEvent(
            kind, self.call_id, first.vendor, first.trunk, self.now(), data, document, document_id=self.document_id
        )
        self._sink.publish(event)

    def tell_event(self, phase: str, source: str, leg: str | None, fields: Mapping[str, Any]) -> None:
        """Publish the begin or the end of an event of a leg, or of one between the legs."""
        kind: CallEventKind = "event.begin" if phase == "begin" else "event.end"
        self.tell(kind, {"source": source, "leg": leg} | dict(fields))

    def _tell_updates(self, updates: Sequence[InteractionUpdate]) -> None:
        for update in updates:
            names = [*self._names, *[""] * (LEGS - len(self._names))]
            fields = interaction_event(update.event, names).model_dump(exclude_unset=True)
            self.tell_event(update.phase, "interaction", fields.pop("leg"), fields)
        if self._interaction.frames - self._told >= _SECOND:
            self._told = self._interaction.frames // _SECOND * _SECOND
            self._tell_scores()

    def _tell_scores(self) -> None:
        """Publish the means since the last time, of each leg."""
        legs: dict[str, dict[str, float | None]] = {}
        for leg in self.legs:
            if isinstance(leg.counts, int) or len(leg.counts) != len(self._labels):
                continue
            legs[leg.info.leg] = {
                label: round(float(total) / int(count), 4) if count else None
                for label, total, count in zip(self._labels, leg.sums, leg.counts, strict=True)
            }
            leg.sums, leg.counts = 0.0, 0
        if legs:
            seconds = self._told // _SECOND
            due = seconds >= self._kept_s + DOCUMENT_S or len(self.legs) != self._kept_legs
            if due:
                self._kept_s, self._kept_legs = seconds, len(self.legs)
            data = {"time_s": round(self._told * FRAME_S, 2), "legs": legs}
            self.tell("scores", data, self.document() if due else None)
