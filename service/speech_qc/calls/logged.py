"""Calls whose legs are scored each for itself; the document of a leg goes to the log when it ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.legs import LegFeed, LegInfo
from speech_qc.errors import Overloaded, ProtocolError
from speech_qc.scoring import EventUpdate
from speech_qc.wire.vocabulary import GapKind

logger = logging.getLogger("speech_qc.calls")

MAX_CALL_LEGS = 8


class LoggedCalls:
    """Joins legs by the id of their call.

    Args:
        max_calls: Calls at the same time.
    """

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._calls: dict[str, set[str]] = {}

    def join(self, info: LegInfo) -> LegFeed:
        """Add a leg to its call; see `CallJoin.join`."""
        legs = self._calls.get(info.call_id)
        if legs is None:
            if len(self._calls) >= self._max_calls:
                raise Overloaded(
                    f"expected room for another call, {self._max_calls} are going on: try again later",
                    retry_after_s=Overloaded.retry_after_s,
                )
            legs = self._calls[info.call_id] = set()
        if info.leg in legs:
            raise ProtocolError(f"expected a leg of another name, the call has one named {info.leg!r}: set ?leg=")
        if len(legs) >= MAX_CALL_LEGS:
            raise ProtocolError(f"expected at most {MAX_CALL_LEGS} legs in a call, got another one")
        legs.add(info.leg)
        return _LoggedLeg(self, info)

    def leave(self, info: LegInfo) -> None:
        """Remove a leg; the call ends with its last one."""
        legs = self._calls.get(info.call_id, set())
        legs.discard(info.leg)
        if not legs:
            self._calls.pop(info.call_id, None)


class _LoggedLeg:
    """One leg; only its end is told."""

    def __init__(self, calls: LoggedCalls, info: LegInfo) -> None:
        self._calls, self._info = calls, info
        self._keys = 0

    def heard(self, position: int, samples: NDArray[np.float32]) -> None:
        """Take audio."""

    def scored(self, first_frame: int, scores: NDArray[np.float32], events: Sequence[EventUpdate]) -> None:
        """Take scores."""

    def gap(self, position: int, stop: int, kind: GapKind) -> None:
        """Take a gap."""

    def digits(self, position: int, digits: str) -> None:  # noqa: ARG002
        """Count keys."""
        self._keys += len(digits)

    def ended(self, document: Mapping[str, Any]) -> None:
        """Log the result."""
        self._calls.leave(self._info)
        transport = document.get("transport", {})
        logger.info(
            "leg %s of call %s: %s, %.1f s, %.0f ms not received, %d keys",
            *(self._info.leg, self._info.call_id, document["verdict"]["status"], document["duration_s"]),
            *(transport.get("missing_ms", 0.0), self._keys),
            extra={"vendor": self._info.vendor, "metadata": dict(self._info.metadata)},
        )
