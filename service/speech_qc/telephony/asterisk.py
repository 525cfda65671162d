"""Asterisk chan_websocket: control messages as JSON or plain text, audio in binary messages in the channel's codec.

Source: https://docs.asterisk.org/Configuration/Channel-Drivers/WebSocket/ and channels/chan_websocket.c. It drops text
of more than 128 bytes, so nothing is sent back. It gives no positions and sends nothing while its source is silent.
What the dial plan says about a leg comes in the query (`v(…)`), or in inherited channel variables (`f(json)`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from speech_qc.errors import ProtocolError, UnsupportedFormat
from speech_qc.telephony.messages import (
    Audio,
    Ignored,
    Item,
    Keys,
    LegFormat,
    VendorProtocol,
    object_in,
    parse_object,
    text_in,
)
from speech_qc.wire.vocabulary import Encoding

LEG = "caller"

FORMATS: Mapping[str, tuple[Encoding, int]] = {
    "ulaw": ("mulaw", 8_000),
    "alaw": ("alaw", 8_000),
    "slin": ("linear16", 8_000),
    "slin12": ("linear16", 12_000),
    "slin16": ("linear16", 16_000),
    "slin24": ("linear16", 24_000),
    "slin32": ("linear16", 32_000),
    "slin44": ("linear16", 44_100),
    "slin48": ("linear16", 48_000),
}

KNOWN = frozenset({
    "MEDIA_XON", "MEDIA_XOFF", "STATUS", "MEDIA_BUFFERING_COMPLETED", "QUEUE_DRAINED", "MEDIA_MARK_PROCESSED", "ERROR",
})  # fmt: skip
"""Control messages that concern audio which is sent to Asterisk."""


class AsteriskProtocol(VendorProtocol):
    """One channel of Asterisk."""

    vendor = "asterisk"
    clock = "arrival"

    def text(self, message: bytes) -> Sequence[Item]:
        """Read a control message."""
        found = parse_object(message) if message[:1] == b"{" else _plain(message)
        event = found.get("event")
        if event == "MEDIA_START":
            return [self._start(found)]
        if event == "DTMF_END":
            return [Keys(LEG, text_in(found, "digit") or "")]
        return [] if event in KNOWN else [Ignored()]

    def binary(self, message: bytes) -> Sequence[Item]:
        """Take audio."""
        return [Audio(LEG, message)]

    def _start(self, found: Mapping[str, Any]) -> Item:
        name = text_in(found, "format") or ""
        if name not in FORMATS:
            raise UnsupportedFormat(
                f"expected one of the formats {', '.join(FORMATS)}, got {name!r}: dial with c(ulaw) or c(slin16)"
            )
        encoding, rate_hz = FORMATS[name]
        facts = {name: text_in(found, name) for name in ("channel", "channel_id")}
        variables = _variables(object_in(found, "channel_variables"))
        # Asterisk keeps `v(…)` with the client, not with the call: a call without it sends that of an earlier one.
        asked = self.asked.without({name for name, value in variables.items() if value})
        # `connection_id` names the section of websocket_client.conf: all calls through it have the same one.
        return asked.started([LegFormat(LEG, encoding, rate_hz)], facts | variables, facts["channel_id"])


def _variables(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return channel variables without the underscores that let a channel inherit them; the nearest one counts."""
    farthest_first = sorted(given, key=lambda name: len(name) - len(name.lstrip("_")), reverse=True)
    return {name.lstrip("_"): given[name] for name in farthest_first}


def _plain(message: bytes) -> dict[str, Any]:
    """Read the older plain form, `EVENT name:value name:value`."""
    try:
        words = message.decode().split()
    except UnicodeDecodeError:
        words = []
    if not words or not words[0].replace("_", "").isalpha():
        raise ProtocolError(f"expected a control message such as MEDIA_START, got {len(message)} bytes of other text")
    pairs = (word.partition(":") for word in words[1:])
    return {"event": words[0]} | {name: value for name, mark, value in pairs if mark and name != "event"}
