"""Payload types and codecs: which are read, how long a packet lasts, and the decoding of those without a state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.pcm import pcm_to_float
from speech_qc.errors import ProtocolError

Float32 = NDArray[np.float32]
CodecKind = Literal["audio", "comfort", "events", "unread"]

MAX_TYPE = 127
_DYNAMIC = range(96, 128)
_OPUS_HZ = 48_000


@dataclass(frozen=True, slots=True)
class Codec:
    """What a payload type stands for.

    Attributes:
        name: Its name as in SDP: `PCMU`, `opus`, `telephone-event`.
        clock_hz: Rate of the timestamps; 0 if it is not known.
        rate_hz: Rate of the decoded samples; twice the clock for G.722 (RFC 3551, 4.5.2).
        channels: Channels of a packet; they are averaged, since a leg is one party.
        kind: Sound, comfort noise, telephone keys, or a codec that is not decoded.
    """

    name: str
    clock_hz: int
    rate_hz: int
    channels: int = 1
    kind: CodecKind = "audio"

    @property
    def is_stateful(self) -> bool:
        """Whether a packet is decoded with what the packets before it have left."""
        return self.name in ("G722", "opus")

    def ticks(self, payload: bytes) -> int:
        """Return the length of a packet of sound in units of its timestamps; 0 if it is damaged."""
        if self.name in ("PCMU", "PCMA", "G722"):
            return len(payload)
        if self.name == "L16":
            return len(payload) // (2 * self.channels)
        return opus_samples(payload) if self.name == "opus" else 0

    def decode(self, payload: bytes) -> Float32:
        """Decode packets of a codec without a state, one or several joined.

        Returns:
            float32 (n,), the mean of the channels.
        """
        if self.name == "L16":
            count = len(payload) // (2 * self.channels) * self.channels
            samples = np.frombuffer(payload, ">i2", count).astype(np.float32) * np.float32(2.0**-15)
            return samples.reshape(-1, self.channels).mean(axis=1, dtype=np.float32) if self.channels > 1 else samples
        return pcm_to_float(payload, "mulaw" if self.name == "PCMU" else "alaw")


def _unread(name: str, clock_hz: int) -> Codec:
    return Codec(name, clock_hz, clock_hz, kind="unread")


STATIC: Mapping[int, Codec] = {
    0: Codec("PCMU", 8000, 8000),
    3: _unread("GSM", 8000),
    4: _unread("G723", 8000),
    7: _unread("LPC", 8000),
    8: Codec("PCMA", 8000, 8000),
    9: Codec("G722", 8000, 16_000),
    10: Codec("L16", 44_100, 44_100, channels=2),
    11: Codec("L16", 44_100, 44_100),
    13: Codec("CN", 8000, 8000, kind="comfort"),
    15: _unread("G728", 8000),
    18: _unread("G729", 8000),
    19: Codec("CN", 8000, 8000, kind="comfort"),
}
"""Payload types with a fixed meaning (RFC 3551); 19 was comfort noise before 13."""


def unknown(payload_type: int) -> Codec:
    """Return the codec of a payload type that nothing explains."""
    return _unread(f"type {payload_type}", 0)


def is_possible(payload_type: int) -> bool:
    """Whether a packet with this payload type may be RTP with sound; 64 to 95 are RTCP."""
    return payload_type in STATIC or payload_type in _DYNAMIC


def codec_of(name: str, clock_hz: int, channels: int = 1) -> Codec:
    """Return the codec of an `rtpmap` in SDP."""
    upper = name.upper()
    if upper in ("PCMU", "PCMA") and clock_hz == 8000 and channels == 1:
        return Codec(upper, 8000, 8000)
    if upper == "G722" and channels == 1:
        return Codec("G722", 8000, 16_000)
    if upper == "OPUS":  # its packets say how many channels they have
        return Codec("opus", _OPUS_HZ, _OPUS_HZ)
    if upper == "L16" and 8000 <= clock_hz <= 192_000 and 1 <= channels <= 2:
        return Codec("L16", clock_hz, clock_hz, channels)
    if upper == "CN":
        return Codec("CN", clock_hz, clock_hz, kind="comfort")
    if upper == "TELEPHONE-EVENT":
        return Codec("telephone-event", clock_hz, clock_hz, kind="events")
    return _unread(name, clock_hz)


def parse_payload_types(text: str | None) -> dict[int, Codec]:
    """Read an option such as `96=opus/48000/2,97=L16/16000`.

    Raises:
        ProtocolError: It is malformed, or names a codec that is not read.
    """
    found: dict[int, Codec] = {}
    for part in (text or "").split(","):
        if not part.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,3})\s*=\s*([\w-]{1,32})/(\d{1,6})(?:/(\d))?\s*", part)
        codec = None if match is None else codec_of(match[2], int(match[3]), int(match[4] or 1))
        if match is None or codec is None or codec.kind == "unread" or not 0 <= int(match[1]) <= MAX_TYPE:
            raise ProtocolError(
                f"payload_types: expected TYPE=NAME/RATE with one of PCMU, PCMA, G722, L16, opus, telephone-event, CN, "
                f"such as 96=opus/48000/2,101=telephone-event/8000; got {part.strip()[:80]!r}"
            )
        found[int(match[1])] = codec
    return found


_OPUS_FRAME_SAMPLES = (
    *(480, 960, 1920, 2880) * 3,  # SILK: 10, 20, 40, 60 ms
    *(480, 960) * 2,  # hybrid
    *(120, 240, 480, 960) * 4,  # CELT: 2.5, 5, 10, 20 ms
)


def opus_samples(payload: bytes) -> int:
    """Return the samples at 48 kHz of an Opus packet, 0 if it is damaged (RFC 6716, 3.1 and 3.2)."""
    if not payload:
        return 0
    frame, code = _OPUS_FRAME_SAMPLES[payload[0] >> 3], payload[0] & 3
    count = min(code, 1) + 1  # one frame, or two
    if code == 3:
        count = payload[1] & 63 if len(payload) > 1 else 0
    return frame * count if frame * count <= _OPUS_HZ * 120 // 1000 else 0
