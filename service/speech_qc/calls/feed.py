"""The sender's side of a leg: turns samples, scores and events into what the call needs of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.meter import LegMeter
from speech_qc.calls.ports import LegPort
from speech_qc.contract import ModelContract
from speech_qc.event_fields import event_fields
from speech_qc.scoring import EventUpdate
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

_RATE_HZ = 16_000


class Feed:
    """A `LegFeed`; used from the event loop of the stream that it belongs to.

    Args:
        contract: Contract of the model that scores the leg.
        port: The leg in its call.
    """

    def __init__(self, contract: ModelContract, port: LegPort) -> None:
        self._port = port
        self._width = len(contract.labels)
        self._meter = LegMeter(contract, port.record)
        self._begun = self._ended = False

    def heard(self, position: int, samples: Float32) -> None:
        """Take audio, float32 (n,) at 16 kHz, before it is scored."""
        if not self._begun and len(samples):
            self._begun = True
            self._port.begin(time.monotonic() - (position + len(samples)) / _RATE_HZ)
        self._meter.heard(position, samples)

    def scored(self, first_frame: int, scores: Float32, events: Sequence[EventUpdate]) -> None:
        """Take scores, float32 (n, C), NaN where not received, and the updates of events that came with them."""
        if scores.shape[1] == self._width:
            self._meter.scored(first_frame, scores)
        for update in events:
            self._port.event(update.phase, _plain(update))

    def gap(self, position: int, stop: int, kind: GapKind) -> None:
        """Say that [position, stop), in samples of 16 kHz, was not received."""
        self._meter.gap(position, stop, kind)

    def digits(self, position: int, digits: str) -> None:  # noqa: ARG002
        """Say that keys were pressed; `digits` is masked already."""
        self._port.digits(digits)

    def ended(self, document: Mapping[str, Any]) -> None:
        """End the leg with its channel document; further calls change nothing."""
        if not self._ended:
            self._ended = True
            self._meter.finish()
            self._port.end(document)


def _plain(update: EventUpdate) -> dict[str, Any]:
    fields = event_fields(update.event)
    if "detail" in fields:
        fields["detail"] = fields["detail"].model_dump()
    return fields
