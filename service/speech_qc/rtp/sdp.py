"""Learns what payload types mean from SIP messages with SDP in the same capture (RFC 4566, RFC 3264)."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field
from ipaddress import ip_address

from speech_qc.rtp.codecs import MAX_TYPE, Codec, codec_of
from speech_qc.rtp.network import Endpoint

_SIP = re.compile(rb"(?:SIP/2\.0 \d{3} |(?:INVITE|ACK|PRACK|UPDATE) sips?:|(?:INVITE|ACK|PRACK|UPDATE) tel:)")
_MAX_ENDPOINTS = 4096
_MAX_MEDIA = 16


@dataclass(slots=True)
class Media:
    """The sound that one party of a call wants to receive at one endpoint.

    Attributes:
        codecs: By payload type.
        is_encrypted: Whether it is SRTP, which cannot be decoded without the keys.
    """

    codecs: dict[int, Codec] = field(default_factory=dict)
    is_encrypted: bool = False


class Descriptions:
    """The latest description of each endpoint; the oldest are forgotten."""

    def __init__(self) -> None:
        self._media: OrderedDict[Endpoint, Media] = OrderedDict()

    def learn(self, payload: bytes) -> bool:
        """Take a datagram; return whether it is SIP."""
        if _SIP.match(payload) is None:
            return False
        _, _, body = payload.partition(b"\r\n\r\n")
        for endpoint, media in _read(body.decode("latin-1")):
            self._media[endpoint] = media
            self._media.move_to_end(endpoint)
            if len(self._media) > _MAX_ENDPOINTS:
                self._media.popitem(last=False)
        return True

    def find(self, source: Endpoint, target: Endpoint) -> Media | None:
        """Return the description of a stream: that of its receiver, who chose the types, else that of its sender."""
        return self._media.get(target) or self._media.get(source)


def _read(body: str) -> list[tuple[Endpoint, Media]]:
    """Return the sound that an SDP body describes."""
    found: list[tuple[Endpoint, Media]] = []
    session_address: bytes | None = None
    port = 0
    address: bytes | None = None
    media: Media | None = None

    def close() -> None:
        if media is not None and port and (address or session_address):
            found.append((Endpoint(address or session_address or b"", port), media))

    is_first = True
    for line in body.splitlines():
        kind, _, value = line.partition("=")
        if kind == "m":
            close()
            port, address, media = 0, None, None
            is_first = False
            match = re.match(r"audio (\d{1,5})(?:/\d+)? (\S*RTP/\S+) ([\d ]*)", value)
            if match is not None and len(found) < _MAX_MEDIA and int(match[1]) < 65536:
                port, media = int(match[1]), Media(is_encrypted="SAVP" in match[2])
        elif kind == "c" and (match := re.match(r"IN IP[46] ([^\s/]+)", value)):
            try:
                known = ip_address(match[1]).packed
            except ValueError:  # a host name
                continue
            if is_first:
                session_address = known
            else:
                address = known
        elif kind == "a" and media is not None:
            _read_attribute(media, value)
    close()
    return found


def _read_attribute(media: Media, value: str) -> None:
    match = re.match(r"rtpmap:(\d{1,3}) ([\w.-]{1,32})/(\d{1,6})(?:/(\d))?", value)
    if match is not None and int(match[1]) <= MAX_TYPE:
        media.codecs[int(match[1])] = codec_of(match[2], int(match[3]), int(match[4] or 1))
    elif value.startswith("crypto:"):
        media.is_encrypted = True
