"""Calls that keep what they hear, and short ways to speak as a phone system."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from speech_qc.calls.legs import LegFeed, LegInfo
from speech_qc.errors import ProtocolError
from speech_qc.scoring import EventUpdate
from speech_qc.wire.vocabulary import GapKind
from waiting import until


@dataclass
class KeptLeg:
    """Everything that a leg told."""

    info: LegInfo
    audio: list[tuple[int, NDArray[np.float32]]] = field(default_factory=list)
    scores: list[tuple[int, NDArray[np.float32]]] = field(default_factory=list)
    gaps: list[tuple[int, int, GapKind]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    document: Any = None
    regular: bool | None = None

    def heard(self, position: int, samples: NDArray[np.float32]) -> None:
        self.audio.append((position, samples.copy()))

    def scored(self, first_frame: int, scores: NDArray[np.float32], events: Sequence[EventUpdate]) -> None:  # noqa: ARG002
        self.scores.append((first_frame, scores.copy()))

    def gap(self, position: int, stop: int, kind: GapKind) -> None:
        self.gaps.append((position, stop, kind))

    def digits(self, position: int, digits: str) -> None:  # noqa: ARG002
        self.keys.append(digits)

    def ended(self, document: Mapping[str, Any], *, regular: bool = False) -> None:
        assert self.document is None, "a leg ends once"
        self.document, self.regular = document, regular

    def timeline(self) -> NDArray[np.float32]:
        """Return the audio at its positions, NaN where nothing was received."""
        stop = max((position + len(samples) for position, samples in self.audio), default=0)
        line = np.full(stop, np.nan, np.float32)
        for position, samples in self.audio:
            assert np.isnan(line[position : position + len(samples)]).all(), "no position twice"
            line[position : position + len(samples)] = samples
        return line

    def frames(self) -> NDArray[np.float32]:
        """Return the scores by frame, NaN where there are none."""
        stop = max(first + len(scores) for first, scores in self.scores)
        line = np.full((stop, self.scores[0][1].shape[1]), np.nan, np.float32)
        for first, scores in self.scores:
            line[first : first + len(scores)] = scores
        return line


class KeptCalls:
    """Implements `CallJoin`."""

    def __init__(self) -> None:
        self.legs: dict[tuple[str, str], KeptLeg] = {}

    def join(self, info: LegInfo) -> LegFeed:
        if (info.call_id, info.leg) in self.legs and self.legs[info.call_id, info.leg].document is None:
            raise ProtocolError(f"the call has a leg named {info.leg!r}")
        leg = self.legs[info.call_id, info.leg] = KeptLeg(info)
        return leg

    def named(self, leg: str) -> KeptLeg:
        """Return the only leg of this name."""
        (found,) = [one for (_, name), one in self.legs.items() if name == leg]
        return found

    async def until_ended(self, count: int) -> None:
        """Wait until so many legs have ended."""
        await until(
            lambda: sum(leg.document is not None for leg in self.legs.values()) >= count, f"{count} legs have ended"
        )


def keep_calls(app: FastAPI) -> KeptCalls:
    """Replace the calls of a server."""
    kept = KeptCalls()
    app.state.parts.calls = kept
    return kept


async def talk_to(
    url: str, messages: Sequence[bytes | str | dict[str, Any]], *, close: bool = True, **options: Any
) -> tuple[list[Any], ClientConnection]:
    """Send messages, dictionaries as JSON, then close; return what came back."""
    answers: list[Any] = []
    async with connect(url, compression=None, **options) as socket:
        try:
            for message in messages:
                await socket.send(json.dumps(message) if isinstance(message, dict) else message)
            if close:
                await socket.close()
        except ConnectionClosed:
            pass
        try:
            async for answer in socket:
                answers.append(json.loads(answer))
        except ConnectionClosed:
            pass
    return answers, socket
