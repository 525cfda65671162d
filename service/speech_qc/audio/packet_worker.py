"""Decodes packets of codecs with a state (G.722, Opus) for many streams, as a program of its own.

`audio.packet_decoders` starts it. It reads requests from descriptor 0 and writes one answer to each to descriptor 1;
both start with a kind, a stream and a length, `<BII`. Like `media_worker`, it imports nothing of this package and gives
up all rights before it sees a packet.
"""

from __future__ import annotations

import importlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from av.audio.codeccontext import AudioCodecContext

HEAD = struct.Struct("<BII")
OPEN, DECODE, CLOSE = 1, 2, 3
_LENGTH = struct.Struct("<I")
_DAMAGED = 0xFFFFFFFF
_FORMATS = ("s16", "s16p", "flt", "fltp")
"""The position of a format is the first byte of an answer with samples; one channel, so planes make no difference."""


class Streams:
    """The decoders by the number of their stream.

    Args:
        av: The module PyAV.
    """

    def __init__(self, av: Any) -> None:
        self._av = av
        self._contexts: dict[int, AudioCodecContext] = {}

    def open(self, number: int, content: bytes) -> list[bytes]:
        """Create the decoder of a stream; replaces one of the same number."""
        order = json.loads(content)
        name = next(name for name in order["codecs"] if name in self._av.codecs_available)
        context = self._av.CodecContext.create(name, "r")
        context.thread_count = 1  # RLIMIT_NPROC also counts threads
        context.sample_rate = order["rate_hz"]
        context.layout = "mono"  # Opus then mixes both channels
        context.open()
        self._contexts[number] = context
        return [bytes([_FORMATS.index(context.format.name)])]

    def close(self, number: int, content: bytes) -> list[bytes]:
        """Drop the decoder of a stream."""
        del content
        self._contexts.pop(number, None)
        return [b""]

    def decode(self, number: int, content: bytes) -> list[bytes]:
        """Decode packets.

        Args:
            number: The stream.
            content: Packets, each after its length.

        Returns:
            For each packet the number of its bytes of samples, then these; or that it is damaged.
        """
        context, parts, at = self._contexts[number], [], 0
        while at < len(content):
            (count,) = _LENGTH.unpack_from(content, at)
            at += _LENGTH.size
            try:
                samples = self._samples(context, content[at : at + count])
            except MemoryError:
                raise
            except self._av.error.FFmpegError:
                parts.append(_LENGTH.pack(_DAMAGED))
            else:
                parts += [_LENGTH.pack(len(samples)), samples]
            at += count
        return parts

    def _samples(self, context: AudioCodecContext, payload: bytes) -> bytes:
        found = []
        for frame in context.decode(self._av.Packet(payload)):
            if frame.layout.nb_channels != 1:
                raise RuntimeError(f"a decoder of one channel returned {frame.layout.nb_channels}")
            found.append(bytes(frame.planes[0])[: frame.samples * frame.format.bytes])
        return b"".join(found)


def serve(streams: Streams, source: BinaryIO, out: BinaryIO) -> None:
    """Answer requests until the parent closes its end."""
    handlers = {OPEN: streams.open, DECODE: streams.decode, CLOSE: streams.close}
    while len(head := source.read(HEAD.size)) == HEAD.size:
        kind, number, count = HEAD.unpack(head)
        content = source.read(count)
        if len(content) < count:
            return
        parts = handlers[kind](number, content)
        out.write(HEAD.pack(kind, number, sum(map(len, parts))))
        out.writelines(parts)
        out.flush()


def main() -> None:
    """Prepare everything, give up all rights, serve."""
    sys.path.append(str(Path(__file__).parent))
    sandbox = importlib.import_module("media_worker")
    order = json.loads(sys.argv[1])
    sandbox.end_with_parent(order["parent"])
    sandbox.prefer_in_oom()
    sys.path += order["path"]
    import av
    import av.error

    av.logging.set_level(None)
    source, out = os.fdopen(0, "rb", closefd=False), os.fdopen(1, "wb", closefd=False)
    sandbox.give_up_rights(order["memory_bytes"], order["cpu_s"])
    try:
        serve(Streams(av), source, out)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
