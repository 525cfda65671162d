"""Audio that has arrived but waits for the next step, which decodes that of all streams in one call.

A socket only appends its message and, when a chunk may be complete, announces it to the engine.
"""

from __future__ import annotations

from typing import Protocol

from speech_qc.audio.pcm import LIVE_ENCODINGS, pcm_to_float
from speech_qc.engine import Engine
from speech_qc.pipeline.session import Float32
from speech_qc.wire.vocabulary import Encoding


class Waiting(Protocol):
    """A stream with messages that wait; its methods must not raise."""

    @property
    def shared_encoding(self) -> Encoding | None:
        """How its messages are decoded; None if it does that itself."""

    def collected(self) -> bytes:
        """Return the whole samples of its messages, which wait no longer."""

    def heard(self, samples: Float32) -> None:
        """Take the decoded samples, float32 (n,), n >= 0; a view that keeps the samples of others in memory."""

    def take_waiting(self) -> None:
        """Decode and take the messages."""


class Inbox:
    """The streams of one engine whose messages wait.

    Args:
        engine: Runs their steps.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._due: list[Waiting] = []

    def announce(self, stream: Waiting, now_s: float) -> None:
        """Note that a chunk of a stream may be complete; not again until its messages were taken.

        Raises:
            Draining, EngineDead: The engine runs no more steps.
        """
        if not self._due:
            self._engine.announce(self.gather, now_s)
        self._due.append(stream)

    def gather(self) -> None:
        """Decode and pass on the messages of all streams that were announced."""
        due, self._due = self._due, []
        alike: dict[Encoding, list[Waiting]] = {}
        for stream in due:
            encoding = stream.shared_encoding
            if encoding is None:
                stream.take_waiting()
            else:
                alike.setdefault(encoding, []).append(stream)
        for encoding, streams in alike.items():
            pieces = [stream.collected() for stream in streams]
            samples = pcm_to_float(b"".join(pieces), encoding)
            start, width = 0, LIVE_ENCODINGS[encoding][1]
            for stream, piece in zip(streams, pieces, strict=True):
                stop = start + len(piece) // width
                stream.heard(samples[start:stop])
                start = stop
