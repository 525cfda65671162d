"""Tell the vendor from sub-protocol, headers or the first text message."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from speech_qc.errors import ProtocolError
from speech_qc.telephony.asterisk import AsteriskProtocol
from speech_qc.telephony.azure import AzureProtocol
from speech_qc.telephony.freeswitch import FreeSwitchProtocol, JambonzProtocol
from speech_qc.telephony.genesys import GenesysProtocol
from speech_qc.telephony.messages import VendorProtocol, parse_object
from speech_qc.telephony.twilio import (
    ExotelProtocol,
    PlivoProtocol,
    SignalWireProtocol,
    TelnyxProtocol,
    TwilioProtocol,
)
from speech_qc.telephony.vonage import VonageProtocol

PROTOCOLS: dict[str, type[VendorProtocol]] = {
    kind.vendor: kind
    for kind in (
        TwilioProtocol,
        SignalWireProtocol,
        TelnyxProtocol,
        PlivoProtocol,
        ExotelProtocol,
        AsteriskProtocol,
        FreeSwitchProtocol,
        JambonzProtocol,
        VonageProtocol,
        GenesysProtocol,
        AzureProtocol,
    )
}
"""Vendors that come by WebSocket."""

SUB_PROTOCOLS = {"audio.drachtio.org": "jambonz", "audio.jambonz.org": "jambonz", "media": "asterisk"}

HEADERS = {
    "x-plivo-signature-v3": "plivo",
    "audiohook-session-id": "genesys",
    "audiohook-organization-id": "genesys",
    "x-ms-call-connection-id": "azure",
}
"""Headers that only one vendor sends; Twilio's signature is also sent by its relatives, so it decides nothing."""


def by_upgrade(headers: Mapping[str, str], offered: Collection[str]) -> type[VendorProtocol] | None:
    """Return the vendor that an upgrade comes from; None if it does not say."""
    for names, given in ((SUB_PROTOCOLS, offered), (HEADERS, headers)):
        for name, vendor in names.items():
            if name in given:
                return PROTOCOLS[vendor]
    return None


def by_message(message: bytes | str) -> type[VendorProtocol]:
    """Return the vendor that sends such a first message.

    Raises:
        ProtocolError: None does, or several do.
    """
    if isinstance(message, str):
        if message.startswith("MEDIA_START "):
            return AsteriskProtocol
        try:
            found = parse_object(message.encode())
        except ProtocolError:
            found = {}
        event = found.get("event")
        if event in ("connected", "start"):
            return TwilioProtocol
        if event == "MEDIA_START":
            return AsteriskProtocol
        if event == "websocket:connected":
            return VonageProtocol
        if found.get("kind") in ("AudioMetadata", "AudioData"):
            return AzureProtocol
        if found.get("version") == "2" and found.get("type") == "open":
            return GenesysProtocol
        if "callSid" in found and "sampleRate" in found:
            return JambonzProtocol
    raise ProtocolError(
        f"expected the first message of a known phone system: name it in the path, /v1/telephony/ and one of "
        f"{', '.join(PROTOCOLS)}"
    )


def chosen_call_protocol(offered: Iterable[str]) -> str | None:
    """Return the sub-protocol to accept: vendors insist on theirs."""
    return next((str(one) for one in offered if one in SUB_PROTOCOLS), None)
