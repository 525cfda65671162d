"""Genesys AudioHook, protocol version 2: JSON messages and binary audio, the customer left and the agent right.

Source: https://developer.genesys.cloud/devapps/audiohook/ and the reference implementation
https://github.com/purecloudlabs/audiohook-reference-implementation. Audio is contiguous; `discarded` and `resumed`
declare what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from speech_qc.errors import Draining, ProtocolError, SpeechQCError, Unauthorized, UnsupportedFormat
from speech_qc.telephony.messages import (
    Asked,
    Audio,
    Ignored,
    Item,
    Keys,
    LegFormat,
    Pause,
    Reply,
    StereoSplitter,
    Stopped,
    VendorProtocol,
    object_in,
    parse_object,
    text_in,
    whole_in,
)
from speech_qc.wire.encode import to_json
from speech_qc.wire.vocabulary import Encoding

LEGS = {"external": "customer", "internal": "agent"}
ENCODINGS: Mapping[str, Encoding] = {"PCMU": "mulaw", "L16": "linear16"}
ORGANIZATION = "audiohook-organization-id"
ZEROS = "00000000-0000-0000-0000-000000000000"
"""Conversation of a probe, which checks the connection; its audio is a tone, if it sends any."""

_DURATION = re.compile(r"PT(\d{1,9}(?:\.\d{1,9})?)S")


class GenesysProtocol(VendorProtocol):
    """One AudioHook session."""

    vendor = "genesys"
    clock = "contiguous"
    takes_events = True
    closes_itself = True

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._id = asked.headers.get("audiohook-session-id", "")
        self._sent = 0
        self._received = 0
        self._channels: list[str] = []
        self._encoding: Encoding = "mulaw"
        self._splitter: StereoSplitter | None = None
        self._probed = False  # a probe may send audio, which is not scored
        self._refused = False

    def text(self, message: bytes) -> Sequence[Item]:
        """Read a message of the client."""
        found = parse_object(message)
        self._id = text_in(found, "id") or self._id
        self._received = whole_in(found, "seq") or self._received
        kind, parameters = found.get("type"), object_in(found, "parameters")
        if self._refused and kind not in ("ping", "close"):
            return []
        if kind == "open":
            return self._open(parameters)
        if kind == "ping":
            return [self._reply("pong", {})]
        if kind == "close":
            return [self._reply("closed", {}), Stopped()]
        if kind == "update":
            return [self._reply("updated", {})]
        if kind in ("discarded", "resumed"):
            seconds = _seconds(parameters.get("discarded"))
            return [Pause(seconds, "loss" if kind == "discarded" else "hold")] if seconds else []
        if kind == "dtmf":
            return [Keys(LEGS["external"], text_in(parameters, "digit") or "")]
        return [] if kind == "paused" else [Ignored()]

    def binary(self, message: bytes) -> Sequence[Item]:
        """Take audio."""
        if not self._channels:
            if self._probed:
                return []
            raise ProtocolError("expected open before audio: begin with it")
        if self._splitter is None:
            return [Audio(self._channels[0], message)]
        return [Audio(leg, part) for leg, part in zip(self._channels, self._splitter.split(message), strict=True)]

    def event(self, body: Mapping[str, Any]) -> bytes:
        """Return a result as an entity of an `event`."""
        return self._message("event", {"entities": [{"type": "speech_qc", "data": dict(body)}]})

    def refusal(self, error: SpeechQCError) -> list[bytes]:
        """Return a `disconnect`, which asks the client to end the session."""
        self._refused = True
        reason = "error"
        if isinstance(error, Unauthorized | Draining):
            reason = "unauthorized" if isinstance(error, Unauthorized) else "completed"
        return [self._message("disconnect", {"reason": reason, "info": str(error)[:200]})]

    def _open(self, parameters: Mapping[str, Any]) -> Sequence[Item]:
        if self._channels:
            raise ProtocolError("expected one open, got another one: open a socket for each session")
        organization = self.asked.headers.get(ORGANIZATION)
        if organization is not None and organization != text_in(parameters, "organizationId"):
            raise Unauthorized("expected open.organizationId as in the header, got another one: check the integration")
        conversation = text_in(parameters, "conversationId")
        offers = parameters.get("media")
        if conversation == ZEROS:
            self._probed = True
            first = offers[:1] if isinstance(offers, list) else []
            return [self._reply("opened", {"media": first, "startPaused": False})]
        media = self._choose(offers)
        self._channels = [LEGS[channel] for channel in media["channels"]]
        self._encoding = ENCODINGS[media["format"]]
        if len(self._channels) == 2:
            self._splitter = StereoSplitter(1 if self._encoding == "mulaw" else 2)
        participant = object_in(parameters, "participant")
        facts = {name: text_in(participant, name) for name in ("id", "ani", "aniName", "dnis")}
        variables = object_in(parameters, "inputVariables")
        legs = [LegFormat(leg, self._encoding, media["rate"]) for leg in self._channels]
        return [
            self.asked.started(legs, facts | variables, conversation),
            self._reply("opened", {"media": [media], "startPaused": False}),
        ]

    @staticmethod
    def _choose(offers: Any) -> dict[str, Any]:
        """Return the offer with most channels that can be scored, unchanged."""
        usable = [
            offer
            for offer in (offers if isinstance(offers, list) else [])
            if isinstance(offer, dict)
            and offer.get("format") in ENCODINGS
            and offer.get("rate") == 8000
            and offer.get("channels") in (["external", "internal"], ["external"], ["internal"])
        ]
        if not usable:
            raise UnsupportedFormat("expected an offer of PCMU or L16 at 8000 Hz, got none: check the integration")
        best: dict[str, Any] = max(usable, key=lambda offer: len(offer["channels"]))
        return best

    def _reply(self, kind: str, parameters: Mapping[str, Any]) -> Item:
        return Reply(self._message(kind, parameters))

    def _message(self, kind: str, parameters: Mapping[str, Any]) -> bytes:
        self._sent += 1
        return to_json(
            {
                "version": "2",
                "type": kind,
                "seq": self._sent,
                "clientseq": self._received,
                "id": self._id,
                "parameters": dict(parameters),
            }
        )


def _seconds(value: Any) -> float:
    """Read a duration such as `PT1.5S`; 0 if it is none."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return min(float(match[1]), 86_400.0) if match is not None else 0.0
