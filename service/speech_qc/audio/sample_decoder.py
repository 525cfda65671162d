"""Bytes of a socket to samples: four encodings, interleaved channels, messages cut anywhere.

A message may end in the middle of a sample; what is left over waits here for the next one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.decode import LIVE_ENCODINGS, pcm_to_float
from speech_qc.wire.vocabulary import Encoding

Float32 = NDArray[np.float32]


class SampleDecoder:
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
        self.piece_bytes = piece_samples * self._frame_bytes
        """Bytes of a portion."""
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
        view = memoryview(self._whole(message))
        for start in range(0, len(view), self.piece_bytes):
            yield self._convert(view[start : start + self.piece_bytes])

    def decode(self, message: bytes) -> list[Float32] | None:
        """Decode a message of at most about `piece_bytes` in one piece; None while no sample is complete.

        Raises:
            InvalidAudio: Samples that are no numbers.
        """
        whole = self._whole(message)
        return self._convert(whole) if whole else None

    def _whole(self, message: bytes) -> bytes:
        """The samples that are complete now, of all channels."""
        if self._rest:
            message = self._rest + message
        odd = len(message) % self._frame_bytes
        self._rest = message[len(message) - odd :] if odd else b""
        return message[:-odd] if odd else message

    def _convert(self, data: bytes | memoryview) -> list[Float32]:
        samples = pcm_to_float(data, self._encoding)
        if self._channels == 1:
            return [samples]
        return list(np.ascontiguousarray(samples.reshape(-1, self._channels).T))
