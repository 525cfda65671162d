"""The two channels of a recording as the legs of a call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.documents import interaction_answer
from speech_qc.calls.interaction import LEGS, Interaction
from speech_qc.calls.legs import LegTap
from speech_qc.calls.meter import LegMeter
from speech_qc.calls.records import LegRecord
from speech_qc.contract import ModelContract
from speech_qc.errors import ProtocolError
from speech_qc.scoring import EventUpdate
from speech_qc.wire.schemas import InteractionAnswer

Float32 = NDArray[np.float32]


class RecordedLegs:
    """Analyses what happens between the two channels of one recording.

    Args:
        contract: Contract of the model that scores the channels.
        names: Names of the legs, one per channel.
        channels: Number of channels of the recording.

    Raises:
        ProtocolError: The recording does not have two channels.
    """

    def __init__(self, contract: ModelContract, names: Sequence[str], channels: int) -> None:
        if channels != LEGS:
            raise ProtocolError(
                f"legs: expected a recording with {LEGS} channels, one per leg, got {channels}: leave the option out, "
                "or send the legs as the two channels of one recording",
                option="legs",
                channels=channels,
            )
        self._names = tuple(names)
        self._interaction = Interaction()
        self.taps: list[LegTap] = []
        """Take samples and scores, one per channel."""
        self._taps = [_Tap(contract, self._interaction, leg) for leg in range(LEGS)]
        self.taps.extend(self._taps)

    def advance(self) -> None:
        """Analyse what has been scored; takes about a millisecond per second of audio."""
        for tap in self._taps:
            tap.work()
        self._interaction.advance()

    def result(self) -> InteractionAnswer:
        """Analyse the rest, and return everything that was found."""
        self.advance()
        for tap in self._taps:
            tap.meter.finish()
        self._interaction.close()
        return interaction_answer(self._interaction, self._names)


class _Tap:
    """Collects a channel's scores until there is time to analyse them: they arrive in the server's event loop."""

    def __init__(self, contract: ModelContract, interaction: Interaction, leg: int) -> None:
        def deliver(record: LegRecord) -> None:
            interaction.push(leg, record)

        self.meter = LegMeter(contract, deliver)
        self._scores: list[tuple[int, Float32]] = []
        interaction.begin(leg, 0)

    def heard(self, position: int, samples: Float32) -> None:
        """Take audio, float32 (n,) at 16 kHz."""
        self.meter.heard(position, samples)

    def scored(self, first_frame: int, scores: Float32, events: Sequence[EventUpdate]) -> None:  # noqa: ARG002
        """Take scores, float32 (n, C)."""
        self._scores.append((first_frame, scores))

    def work(self) -> None:
        """Make records of the scores so far."""
        waiting, self._scores = self._scores, []
        for first_frame, scores in waiting:
            self.meter.scored(first_frame, scores)
