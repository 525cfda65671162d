"""The two channels of a recording as the legs of a call."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.documents import interaction_answer
from speech_qc.calls.interaction import LEGS, Interaction
from speech_qc.calls.meter import LegMeter
from speech_qc.contract import ModelContract
from speech_qc.errors import ProtocolError
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
        self._meters = [LegMeter(contract, partial(self._interaction.push, leg)) for leg in range(LEGS)]
        # Scores wait until there is time to analyse them: they arrive in the event loop of a server.
        self._scores: list[tuple[int, int, Float32]] = []
        for leg in range(LEGS):
            self._interaction.begin(leg, 0)

    def heard(self, channel: int, position: int, samples: Float32) -> None:
        """Take audio of a channel, float32 (n,) at 16 kHz, before it is scored."""
        self._meters[channel].heard(position, samples)

    def scored(self, channel: int, first_frame: int, scores: Float32) -> None:
        """Take scores of a channel, float32 (n, C)."""
        self._scores.append((channel, first_frame, scores))

    def advance(self) -> None:
        """Analyse what has been scored; takes about a millisecond per second of audio."""
        waiting, self._scores = self._scores, []
        for channel, first_frame, scores in waiting:
            self._meters[channel].scored(first_frame, scores)
        self._interaction.advance()

    def result(self) -> InteractionAnswer:
        """Analyse the rest, and return everything that was found."""
        self.advance()
        for meter in self._meters:
            meter.finish()
        self._interaction.close()
        return interaction_answer(self._interaction, self._names)
