"""Decode the binary messages of a live stream: four encodings, interleaved channels, messages of any length.

A message may end in the middle of a sample; the incomplete bytes are kept until the next message.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.pcm import LIVE_ENCODINGS, pcm_to_float
from speech_qc.wire.vocabulary import Encoding

Float32 = NDArray[np.float32]


class SampleDecoder:
    """Decodes one stream's binary messages; owned by one task.

    Args:
        encoding: One of `LIVE_ENCODINGS`.
        channels: Interleaved channels.
        piece_samples: Maximum samples per channel in one decoded piece, so that a large message blocks the event loop
            only briefly at a time.
    """

    def __init__(self, encoding: Encoding, channels: int, piece_samples: int) -> None:
        _, width = LIVE_ENCODINGS[encoding]
        self._encoding = encoding
        self._channels = channels
        self.frame_bytes = width * channels
        """Bytes of one sample of every channel."""
        self.piece_bytes = piece_samples * self.frame_bytes
        """Bytes of a full piece."""
        self.rest = b""
        """Bytes of an incomplete sample that are waiting for the rest of it; set it to undo a refused message."""

    def pieces(self, message: bytes) -> Iterator[list[Float32]]:
        """Decode a message piece by piece; exhaust the iterator before you decode the next message.

        Yields:
            One float32 (n,) per channel, contiguous, n >= 1.

        Raises:
            InvalidAudio: A sample is NaN or infinite.
        """
        view = memoryview(self.whole(message))
        for start in range(0, len(view), self.piece_bytes):
            yield self._convert(view[start : start + self.piece_bytes])

    def decode(self, message: bytes) -> list[Float32] | None:
        """Decode a message of about `piece_bytes` or less as one piece; None while no sample is complete.

        Raises:
            InvalidAudio: A sample is NaN or infinite.
        """
        whole = self.whole(message)
        return self._convert(whole) if whole else None

    def whole(self, message: bytes) -> bytes:
        """Return the bytes of the samples that a message makes complete in all channels."""
        if self.rest:
            message = self.rest + message
        odd = len(message) % self.frame_bytes
        self.rest = message[len(message) - odd :] if odd else b""
        return message[:-odd] if odd else message

    def _convert(self, data: bytes | memoryview) -> list[Float32]:
        samples = pcm_to_float(data, self._encoding)
        if self._channels == 1:
            return [samples]
        return list(np.ascontiguousarray(samples.reshape(-1, self._channels).T))
