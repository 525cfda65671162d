"""Bytes of a socket to samples: four encodings, interleaved channels, messages cut anywhere.

A message may end in the middle of a sample; what is left over waits here for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.audio.decode import LIVE_ENCODINGS, Encoding, pcm_to_float

Float32 = NDArray[np.float32]


class WireDecoder:
    """Decodes one stream's binary messages; owned by one task.

    Args:
        encoding: One of `LIVE_ENCODINGS`.
        channels: Interleaved channels.
        piece_samples: Most samples of one channel that come out at once, so that a message of any size can be taken in
            portions that cost the event loop little.
    """

    def __init__(self, encoding: Encoding, channels: int, piece_samples: int) -> None:
        _, width = LIVE_ENCODINGS[encoding]
        self._encoding = encoding
        self._channels = channels
        self._frame_bytes = width * channels
        self._piece_bytes = piece_samples * self._frame_bytes
        self._rest = b""

    @property
    def rest_bytes(self) -> int:
        """Bytes of a sample whose other bytes have not come."""
        return len(self._rest)

    def pieces(self, message: bytes) -> Iterator[list[Float32]]:
        """Decode a message, piece by piece; consume it wholly before the next.

        Yields:
            One float32 (n,) per channel, contiguous, n >= 1.

        Raises:
            InvalidAudio: Samples that are no numbers.
        """
        if self._rest:
            message = self._rest + message
        whole = len(message) - len(message) % self._frame_bytes
        self._rest = message[whole:]
        view = memoryview(message)
        for start in range(0, whole, self._piece_bytes):
            samples = pcm_to_float(view[start : min(start + self._piece_bytes, whole)], self._encoding)
            if self._channels == 1:
                yield [samples]
            else:
                yield list(np.ascontiguousarray(samples.reshape(-1, self._channels).T))
