"""Tells SRTP (RFC 3711, 7714) from RTP without signalling: by DTLS between the same ends, or by its length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from speech_qc.rtp.codecs import Codec
from speech_qc.rtp.packets import RtpPacket

_DTLS_TYPES = range(20, 27)
_DTLS_VERSIONS = (b"\xfe\xff", b"\xfe\xfd", b"\xfe\xfc")
_TAGS = frozenset({4, 10, 16})
_MASTER_KEYS = frozenset({0, 4})
"""Bytes of an authentication tag, and of the key identifier before it."""
_EXTRA = frozenset(tag + key for tag in _TAGS for key in _MASTER_KEYS)
_MIN_PAIRS = 3


def is_dtls(payload: bytes) -> bool:
    """Whether a datagram is DTLS, by which two ends agree on the keys of SRTP (RFC 5764)."""
    return len(payload) >= 13 and payload[0] in _DTLS_TYPES and payload[1:3] in _DTLS_VERSIONS


def has_tags(packets: Sequence[RtpPacket], codec: Codec) -> bool:
    """Whether packets of samples are all longer than their timestamps say, by as much as SRTP adds.

    Args:
        packets: The first packets of a stream, in the order of their arrival.
        codec: What they would contain.
    """
    if codec.name not in ("PCMU", "PCMA", "G722", "L16"):
        return False
    tick_bytes = 2 * codec.channels if codec.name == "L16" else 1
    extra = [
        len(one.payload) - (later.timestamp - one.timestamp & 0xFFFFFFFF) * tick_bytes
        for one, later in pairwise(packets)
        if later.sequence - one.sequence & 0xFFFF == 1 and one.payload_type == later.payload_type
    ]
    return len(extra) >= _MIN_PAIRS and len(set(extra)) == 1 and extra[0] in _EXTRA
