"""The sender's side of a leg: turns samples, scores and events into what the call needs of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

logger = logging.getLogger("speech_qc.calls")

_RATE_HZ = 16_000


class Feed:
    """A `LegFeed`; used from the event loop of the stream that it belongs to.

    Args:
        contract: Contract of the model that scores the leg.
        port: The leg in its call.
    """

    def __init__(self, contract: ModelContract, port: LegPort) -> None:
        self._port = port
        self._meter = LegMeter(contract, port.record)
        self._begun = self._ended = self._failed = False

    def heard(self, position: int, samples: Float32) -> None:
        """Take audio, float32 (n,) at 16 kHz, before it is scored."""
        with self._guarded():
            if not self._begun and len(samples):
                self._begun = True
                self._port.begin(time.monotonic() - (position + len(samples)) / _RATE_HZ)
            self._meter.heard(position, samples)

    def scored(self, first_frame: int, scores: Float32, events: Sequence[EventUpdate]) -> None:
        """Take scores, float32 (n, C), NaN where not received, and the updates of events that came with them."""
        with self._guarded():
            self._meter.scored(first_frame, scores)
            for update in events:
                self._port.event(update.phase, _plain(update))

    def gap(self, position: int, stop: int, kind: GapKind) -> None:
        """Say that [position, stop), in samples of 16 kHz, was not received."""
        with self._guarded():
            self._meter.gap(position, stop, kind)

    def digits(self, position: int, digits: str) -> None:  # noqa: ARG002
        """Say that keys were pressed; `digits` is masked already."""
        with self._guarded():
            self._port.digits(digits)

    def ended(self, document: Mapping[str, Any], *, regular: bool = False) -> None:
        """End the leg with its channel document, as its sender said or not; further calls change nothing."""
        if not self._ended:
            self._ended = True
            with self._guarded():
                self._meter.finish()
            with self._guarded():
                self._port.end(document, regular)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keep a fault of the analysis from ending the stream whose leg this is."""
        try:
            yield
        except Exception:
            if not self._failed:  # once, since each further record would fail, too
                self._failed = True
                logger.exception("the analysis of a call failed")


def _plain(update: EventUpdate) -> dict[str, Any]:
    fields = event_fields(update.event)
    if "detail" in fields:
        fields["detail"] = fields["detail"].model_dump()
    return fields
