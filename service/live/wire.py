"""Bytes of a socket to samples: four encodings, interleaved channels, messages cut anywhere.

A message may end in the middle of a sample; what is left over waits here for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from service.audio.g711 import decode_alaw, decode_mulaw
from service.errors import InvalidAudio

Float32 = NDArray[np.float32]


def _linear16(view: memoryview) -> Float32:
    return np.frombuffer(view, "<i2").astype(np.float32) * np.float32(2.0**-15)


def _float32(view: memoryview) -> Float32:
    samples = np.frombuffer(view, "<f4").astype(np.float32)
    if not np.isfinite(samples).all():
        raise InvalidAudio(
            "expected finite float32 samples, NaN or infinity came: check that encoding and byte order are what the "
            "stream was opened with"
        )
    return samples


ENCODINGS: dict[str, tuple[int, Callable[[memoryview], Float32]]] = {
    "linear16": (2, _linear16),
    "mulaw": (1, decode_mulaw),
    "alaw": (1, decode_alaw),
    "float32": (4, _float32),
}
"""Bytes per sample, and the way to float32 in [-1, 1]; all little-endian."""


class WireDecoder:
    """Decodes one stream's binary messages; owned by one task.

    Args:
        encoding: One of `ENCODINGS`.
        channels: Interleaved channels.
        piece_samples: Most samples of one channel that come out at once, so that a message of any size can be taken in
            portions that cost the event loop little.
    """

    def __init__(self, encoding: str, channels: int, piece_samples: int) -> None:
        width, self._decode = ENCODINGS[encoding]
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
            samples = self._decode(view[start : min(start + self._piece_bytes, whole)])
            if self._channels == 1:
                yield [samples]
            else:
                yield list(np.ascontiguousarray(samples.reshape(-1, self._channels).T))
