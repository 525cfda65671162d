"""Twilio Media Streams and its relatives: JSON with base64 audio.

Sources: https://www.twilio.com/docs/voice/media-streams/websocket-messages,
https://developers.telnyx.com/docs/voice/programmable-voice/media-streaming,
https://www.plivo.com/docs/voice/xml/stream, https://developer.signalwire.com/compatibility-api/xml/stream,
https://developer.exotel.com (voicebot and stream applets).

Nothing is ever sent back: on a fork (`<Start><Stream>`) there is no way back, and on `<Connect><Stream>` the caller
would hear it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from speech_qc.errors import ProtocolError, UnsupportedFormat
from speech_qc.telephony.messages import (
    Asked,
    Audio,
    Ignored,
    Item,
    Keys,
    LegFormat,
    Stopped,
    VendorProtocol,
    checked_rate,
    from_base64,
    object_in,
    parse_object,
    text_in,
    whole_in,
)
from speech_qc.wire.vocabulary import Encoding, Vendor

ENCODINGS: Mapping[str, Encoding] = {
    "audio/x-mulaw": "mulaw",
    "audio/mulaw": "mulaw",
    "pcmu": "mulaw",
    "mulaw": "mulaw",
    "audio/x-alaw": "alaw",
    "pcma": "alaw",
    "alaw": "alaw",
    "audio/x-l16": "linear16",
    "audio/l16": "linear16",
    "l16": "linear16",
    "audio/x-raw": "linear16",
    "base64": "linear16",
}
"""Encodings by the names that these vendors use; 16-bit samples are little-endian."""

MAX_TRACKS = 4


class TwilioProtocol(VendorProtocol):
    """Twilio; a dialect is told by its start message, unless the URL names it."""

    vendor: ClassVar[Vendor] = "twilio"
    counted = False
    """Whether `chunk` counts what the network delivered, so that a hole in it is a loss."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(asked)
        self._vendor: Vendor = self.vendor
        self._rates: dict[str, int] = {}

    @property
    def name(self) -> Vendor:
        """The dialect."""
        return self._vendor

    def text(self, message: bytes) -> Sequence[Item]:
        """Read one message."""
        found = parse_object(message)
        event = found.get("event")
        if event == "media":
            return [self._media(object_in(found, "media"))]
        if event == "start":
            return [self._start(found, object_in(found, "start"))]
        if event == "stop":
            return [Stopped()]
        if event in ("dtmf", "digits"):
            dtmf = object_in(found, "dtmf")
            return [Keys(_track(dtmf.get("track")), text_in(dtmf, "digit", "digits") or "")]
        return [] if event in ("connected", "mark") else [Ignored()]

    def _start(self, found: Mapping[str, Any], start: Mapping[str, Any]) -> Item:
        if self._rates:
            raise ProtocolError("expected one start message, got another one: open a socket for each stream")
        self._recognise(start)
        given = object_in(start, "mediaFormat", "media_format")
        name = text_in(given, "encoding") or "audio/x-mulaw"
        encoding = ENCODINGS.get(name.partition(";")[0].strip().lower())
        if encoding is None:
            raise UnsupportedFormat(
                f"expected audio in one of {', '.join(sorted(ENCODINGS))}, got {name!r}: set another codec"
            )
        rate_hz = checked_rate(whole_in(given, "sampleRate", "sample_rate"), 8_000)
        tracks = start.get("tracks")
        names = [_track(track) for track in tracks][:MAX_TRACKS] if isinstance(tracks, list) and tracks else ["inbound"]
        self._rates = {str(leg): rate_hz for leg in names if leg}
        call_id = text_in(start, "callSid", "call_sid", "call_session_id", "call_control_id", "callId", "call_id")
        parameters = object_in(start, "customParameters", "custom_parameters")
        facts = {name: start.get(name) for name in ("from", "to", "accountSid", "account_sid", "user_id")}
        metadata = {name: value for name, value in facts.items() if isinstance(value, str)} | parameters
        legs = [LegFormat(leg, encoding, rate_hz) for leg in self._rates]
        return self.asked.started(legs, metadata, call_id or text_in(found, "streamSid", "stream_id"))

    def _recognise(self, start: Mapping[str, Any]) -> None:
        """Tell the dialect from the names of the start message."""
        if type(self) is not TwilioProtocol:
            return
        account = start.get("accountSid")
        if "call_control_id" in start:
            self._vendor, self.counted, self.ordered = "telnyx", True, False
        elif "call_sid" in start or "stream_sid" in start:
            self._vendor = "exotel"
        elif "callId" in start:
            self._vendor, self.clock = "plivo", "arrival"
        elif isinstance(account, str) and not account.startswith("AC"):
            self._vendor = "signalwire"

    def _media(self, media: Mapping[str, Any]) -> Item:
        leg = _track(media.get("track")) or "inbound"
        rate_hz = self._rates.get(leg)
        if rate_hz is None:
            if self._rates:
                raise ProtocolError(f"expected media of {', '.join(self._rates)}, got track {leg[:40]!r}")
            raise ProtocolError("expected a start message before media: begin with it")
        timestamp_ms = whole_in(media, "timestamp") if self.clock == "position" else None
        return Audio(
            leg,
            from_base64(media.get("payload")),
            None if timestamp_ms is None else timestamp_ms * rate_hz // 1000,
            whole_in(media, "chunk") if self.counted else None,
        )


class SignalWireProtocol(TwilioProtocol):
    """SignalWire's cXML `<Stream>`."""

    vendor = "signalwire"


class TelnyxProtocol(TwilioProtocol):
    """Telnyx: `chunk` counts packets, whose order is not guaranteed."""

    vendor = "telnyx"
    counted = True
    ordered = False


class PlivoProtocol(TwilioProtocol):
    """Plivo: its timestamps are the time of day."""

    vendor = "plivo"
    clock = "arrival"


class ExotelProtocol(TwilioProtocol):
    """Exotel: messages of about 100 ms."""

    vendor = "exotel"


def _track(value: Any) -> str | None:
    """Return a track without the suffix that keys and TwiML have."""
    return value.removesuffix("_track")[:40] if isinstance(value, str) else None
