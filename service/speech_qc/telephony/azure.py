"""Azure Communication Services: JSON with base64 PCM, mixed or a stream per participant.

Source: https://learn.microsoft.com/azure/communication-services/concepts/call-automation/audio-streaming-concept. Its
timestamps are times of arrival at the service, so audio goes by its own arrival.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speech_qc.errors import ProtocolError, UnsupportedFormat
from speech_qc.telephony.messages import (
    Asked,
    Audio,
    Ignored,
    Item,
    Keys,
    LegFormat,
    VendorProtocol,
    checked_rate,
    from_base64,
    object_in,
    parse_object,
    text_in,
    whole_in,
)

MIXED = "mixed"

MAX_PARTICIPANTS = 256
"""Participants that are told from each other, more than can be scored: some may have to wait for a place."""


class AzureProtocol(VendorProtocol):
    """One socket of a call; participants are numbered, because their ids hold telephone numbers."""

    vendor = "azure"
    clock = "arrival"

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._rate_hz: int | None = None
        self._call_id: str | None = None
        self._legs: dict[str, str] = {}  # by participant

    def text(self, message: bytes) -> Sequence[Item]:
        """Read a message."""
        found = parse_object(message)
        kind = found.get("kind")
        if kind == "AudioData":
            return self._audio(object_in(found, "audioData"))
        if kind == "AudioMetadata":
            self._begin(object_in(found, "audioMetadata"))
            return []
        if kind == "DtmfData":
            return [Keys(None, text_in(object_in(found, "dtmfData"), "data") or "")]
        return [Ignored()]

    def _begin(self, metadata: Mapping[str, Any]) -> None:
        encoding, channels = text_in(metadata, "encoding") or "PCM", whole_in(metadata, "channels")
        if encoding.upper() != "PCM" or channels not in (None, 1):
            raise UnsupportedFormat(f"expected mono PCM, got {channels} channels of {encoding}: set another format")
        self._rate_hz = checked_rate(whole_in(metadata, "sampleRate"), 16_000)
        self._call_id = self.asked.headers.get("x-ms-call-connection-id") or text_in(metadata, "subscriptionId")

    def _audio(self, data: Mapping[str, Any]) -> Sequence[Item]:
        if self._rate_hz is None:
            raise ProtocolError("expected AudioMetadata before AudioData: begin with it")
        participant = text_in(data, "participantRawID") or ""
        items: list[Item] = []
        if participant not in self._legs:
            if len(self._legs) >= MAX_PARTICIPANTS:
                return [Ignored()]
            leg = f"participant_{len(self._legs) + 1}" if participant else MIXED
            form = LegFormat(leg, "linear16", self._rate_hz)
            items.append(self.asked.started([form], {leg: participant}, self._call_id))
            self._legs[participant] = leg
        return [*items, Audio(self._legs[participant], from_base64(data.get("data")))]
