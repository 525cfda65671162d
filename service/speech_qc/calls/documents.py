"""What was found between the legs of a call, as the types of `speech_qc.wire.schemas`."""

from __future__ import annotations

from collections.abc import Sequence

from speech_qc.calls.echo import Echo
from speech_qc.calls.interaction import Interaction
from speech_qc.calls.interaction_events import InteractionEvent
from speech_qc.calls.records import FRAME_S
from speech_qc.wire.schemas import (
    EchoDetailAnswer,
    InteractionAnswer,
    InteractionEventAnswer,
    InteractionLegAnswer,
    ResponseAnswer,
)

NO_SIGNAL = "nothing was received"
NO_RESPONSE = "neither party answered the other one"


def interaction_event(event: InteractionEvent, names: Sequence[str]) -> InteractionEventAnswer:
    """Return one event; `names` are those of the legs."""
    fields = {} if event.echo is None else {"detail": _detail(event.echo)}
    return InteractionEventAnswer(
        event_id=event.event_id,
        label=event.kind,
        leg=None if event.leg is None else names[event.leg],
        onset_s=event.onset_s,
        offset_s=event.offset_s,
        **fields,
    )


def interaction_answer(found: Interaction, names: Sequence[str]) -> InteractionAnswer:
    """Return everything that was found so far.

    Args:
        found: The analysis.
        names: Names of the legs.
    """
    unknown = {} if found.response_s(None, 0.5) is not None else {"response_s": NO_RESPONSE}
    legs = [_leg(found, leg, name) for leg, name in enumerate(names)]
    unknown |= {f"legs.{leg.role}": NO_SIGNAL for leg in legs if leg.talk_ratio is None}
    dropped = {"events_dropped": found.dropped} if found.dropped else {}
    return InteractionAnswer(
        duration_s=round(found.frames * FRAME_S, 2),
        legs=legs,
        response_s=_response(found, None),
        events=[interaction_event(event, names) for event in found.events_now],
        unknown=unknown,
        **dropped,
    )


def _leg(found: Interaction, leg: int, name: str) -> InteractionLegAnswer:
    share = found.share(leg)
    return InteractionLegAnswer(
        role=name,
        talk_ratio=_rounded(share.talk_ratio),
        silence_ratio=_rounded(share.silence_ratio),
        interruptions=share.interruptions,
        response_s=_response(found, leg),
    )


def _response(found: Interaction, leg: int | None) -> ResponseAnswer | None:
    median, p95 = found.response_s(leg, 0.5), found.response_s(leg, 0.95)
    return None if median is None or p95 is None else ResponseAnswer(median=median, p95=p95)


def _detail(echo: Echo) -> EchoDetailAnswer:
    return EchoDetailAnswer(lag_ms=round(echo.lag_s * 1000), loss_db=round(echo.loss_db, 1))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
