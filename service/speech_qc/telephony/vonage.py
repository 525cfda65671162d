"""Vonage Voice API: a text that says the format, then binary 16-bit audio of 20 ms.

Source: https://developer.vonage.com/en/voice/voice-api/concepts/websockets.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from speech_qc.errors import UnsupportedFormat
from speech_qc.telephony.messages import (
    Audio,
    Ignored,
    Item,
    Keys,
    LegFormat,
    VendorProtocol,
    checked_rate,
    object_in,
    parse_object,
    text_in,
)

LEG = "caller"


class VonageProtocol(VendorProtocol):
    """One socket of a call; the NCCO's `headers` are merged into its first message."""

    vendor = "vonage"
    clock = "arrival"

    def text(self, message: bytes) -> Sequence[Item]:
        """Read an event."""
        found = parse_object(message)
        event = found.get("event")
        if event == "websocket:connected":
            kind = text_in(found, "content-type") or "audio/l16;rate=16000"
            match = re.fullmatch(r"audio/l16;\s*rate=(\d{4,6})", kind.strip().lower())
            if match is None:
                raise UnsupportedFormat(f"expected content-type audio/l16;rate=…, got {kind!r}: correct the NCCO")
            rate_hz = checked_rate(int(match[1]), 16_000)
            facts = {name: value for name, value in found.items() if name not in ("event", "content-type")}
            call_id = text_in(found, "conversation_uuid", "call_uuid", "uuid")
            return [self.asked.started([LegFormat(LEG, "linear16", rate_hz)], facts, call_id)]
        if event == "websocket:dtmf":
            return [Keys(LEG, text_in(found, "digit") or text_in(object_in(found, "dtmf"), "digit") or "")]
        return [] if event in ("websocket:cleared", "websocket:notify") else [Ignored()]

    def binary(self, message: bytes) -> Sequence[Item]:
        """Take audio."""
        return [Audio(LEG, message)]
