"""Payloads of codecs with a state, which are decoded only when their place in the leg is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.packet_decoders import PacketCodec, PacketDecoder
from speech_qc.live.clock import Missing
from speech_qc.rtp.codecs import codec_of

Float32 = NDArray[np.float32]

RATES: dict[PacketCodec, int] = {"g722": 16_000, "opus": 48_000}
"""Rate of the decoded samples."""

ANSWER_S = 0.5
"""Longest wait for the decoder of live packets: the event loop waits with it."""

_CODECS = {"g722": codec_of("G722", 8000), "opus": codec_of("opus", 48_000)}
_OPUS_DTX_BYTES = 2


@dataclass(frozen=True, slots=True)
class EncodedPacket:
    """A packet as the clock of a leg sees it: samples that can be counted and cut at the start.

    Attributes:
        payload: Its bytes.
        samples: Its length, decoded.
        skip: Samples at its start that are not wanted.
    """

    payload: bytes
    samples: int
    skip: int = 0

    @classmethod
    def of(cls, codec: PacketCodec, payload: bytes) -> EncodedPacket:
        """Measure a payload; a damaged one has no samples."""
        known = _CODECS[codec]
        return cls(payload, known.ticks(payload) * (known.rate_hz // known.clock_hz))

    def __len__(self) -> int:
        """Samples that are wanted."""
        return self.samples - self.skip

    def __getitem__(self, part: slice) -> EncodedPacket:
        """Return the packet without its first samples; other slices have no meaning here."""
        return replace(self, skip=self.skip + part.indices(len(self))[0])

    def decoded(self, decoder: PacketDecoder) -> Float32 | Missing:
        """Decode the packet; it must follow those before it.

        Returns:
            float32 (n,); or a gap, if the packet is damaged or says that nothing is sent.

        Raises:
            InvalidAudio: Its stream cannot be decoded any further.
        """
        if decoder.codec == "opus" and len(self.payload) <= _OPUS_DTX_BYTES:
            return Missing(len(self), "dtx")
        samples = decoder.decode_all([self.payload])[0]
        if samples is None or len(samples) != self.samples:
            return Missing(len(self), "loss")
        return samples[self.skip :]
