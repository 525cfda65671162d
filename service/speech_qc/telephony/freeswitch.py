"""FreeSWITCH: mod_audio_stream, and mod_audio_fork, which is also jambonz' `listen`: text, then binary 16-bit audio.

Sources: https://github.com/amigniter/mod_audio_stream (README), the source of mod_audio_fork in
https://github.com/jambonz/freeswitch-modules, https://docs.jambonz.org/verbs/verbs/listen. Any JSON that is sent to
mod_audio_stream becomes the event `mod_audio_stream::json`; mod_audio_fork raises what has the type `json`.
Neither says the rate of its audio, except jambonz; the URL does (`?sample_rate=16000&channels=2`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from speech_qc.errors import ProtocolError
from speech_qc.telephony.messages import (
    Asked,
    Audio,
    Ignored,
    Item,
    Keys,
    LegFormat,
    StereoSplitter,
    VendorProtocol,
    checked_rate,
    object_in,
    parse_object,
    text_in,
    whole_in,
)
from speech_qc.wire.encode import to_json
from speech_qc.wire.vocabulary import Vendor

CALLER, CALLEE = "caller", "callee"


class FreeSwitchProtocol(VendorProtocol):
    """mod_audio_stream; the call begins with its first message, text or audio."""

    vendor: ClassVar[Vendor] = "freeswitch"
    clock = "arrival"
    takes_events = True

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._splitter: StereoSplitter | None = None
        self._begun = False

    def text(self, message: bytes) -> Sequence[Item]:
        """Read metadata, which has no fixed form, or keys."""
        found = _object_or_text(message)
        if not self._begun:
            return [self._begin(found)]
        digits = text_in(found, "dtmf", "digit", "digits")
        return [Keys(CALLER, digits)] if digits is not None else [Ignored()]

    def binary(self, message: bytes) -> Sequence[Item]:
        """Take audio."""
        begun = [] if self._begun else [self._begin({})]
        if self._splitter is None:
            return [*begun, Audio(CALLER, message)]
        caller, callee = self._splitter.split(message)
        return [*begun, Audio(CALLER, caller), Audio(CALLEE, callee)]

    def event(self, body: Mapping[str, Any]) -> bytes:
        """Return a result as JSON."""
        return to_json(dict(body))

    def _begin(self, found: Mapping[str, Any]) -> Item:
        self._begun = True
        rate_hz = checked_rate(self.asked.rate_hz or whole_in(found, "sampleRate", "sample_rate"), 8_000)
        legs = [LegFormat(CALLER, "linear16", rate_hz)]
        if self.asked.channels == 2 or found.get("mixType") == "stereo":
            self._splitter = StereoSplitter(2)
            legs.append(LegFormat(CALLEE, "linear16", rate_hz))
        own = {name: value for name, value in found.items() if isinstance(value, str) and name not in _FORMAT}
        more = {name: value for name, value in object_in(found, "metadata").items() if isinstance(value, str)}
        return self.asked.started(legs, own | more, text_in(found, "callSid", "call_sid", "uuid"))


class JambonzProtocol(FreeSwitchProtocol):
    """mod_audio_fork and jambonz."""

    vendor = "jambonz"

    def event(self, body: Mapping[str, Any]) -> bytes:
        """Return a result in the form that is raised as an event."""
        return to_json({"type": "json", "data": dict(body)})


_FORMAT = frozenset({"sampleRate", "mixType"})


def _object_or_text(message: bytes) -> dict[str, Any]:
    """Return a JSON object; anything else is the object's `metadata`."""
    try:
        return parse_object(message)
    except ProtocolError:
        return {"metadata": {"text": message[:128].decode(errors="replace")}}
