"""How a leg joins its call: what the sender of a leg says about it, and what it hands over while it lasts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speech_qc.scoring import EventUpdate
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LegInfo:
    """What is known of a leg when it joins.

    Attributes:
        call_id: Legs with the same call id form one call.
        leg: Name of the leg within its call, such as `agent`, `customer`, `inbound`.
        vendor: What sent its audio.
        sample_rate_hz: Rate of its audio.
        trunk: The line that the call came in by, if the sender said so.
        name: A name for people, if the sender gave one.
        metadata: Further facts of the sender, masked already.
    """

    call_id: str
    leg: str
    vendor: str
    sample_rate_hz: int
    trunk: str | None = None
    name: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


class LegFeed(Protocol):
    """A leg of a call, as its sender sees it.

    Positions count samples of 16 kHz since the leg's first sample, gaps included.
    """

    def heard(self, position: int, samples: Float32) -> None:
        """Take audio, float32 (n,) at 16 kHz, before it is scored."""

    def scored(self, first_frame: int, scores: Float32, events: Sequence[EventUpdate]) -> None:
        """Take scores, float32 (n, C), NaN where not received, and the updates of events that came with them."""

    def gap(self, position: int, stop: int, kind: GapKind) -> None:
        """Say that [position, stop) was not received."""

    def digits(self, position: int, digits: str) -> None:
        """Say that keys were pressed; `digits` is masked already."""

    def ended(self, document: Mapping[str, Any], *, regular: bool = False) -> None:
        """End the leg with its channel document.

        Args:
            document: What was found in it.
            regular: Whether its sender said that it is over. A leg that has ended otherwise may come back: the call
                waits for it.
        """


class CallJoin(Protocol):
    """The calls of this server."""

    def join(self, info: LegInfo) -> LegFeed:
        """Add a leg to its call, beginning the call if it is the first.

        Raises:
            Overloaded: No room for a further call.
            ProtocolError: The call has a leg of this name already, or as many legs as it may have.
        """
