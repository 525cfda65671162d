"""Score live audio in this process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, get_args

from numpy.typing import NDArray

from speech_qc.audio.stereo import StereoMeter
from speech_qc.embedded.detector import Detector, Labels, default_detector
from speech_qc.errors import ProtocolError
from speech_qc.pipeline.documents import (
    channel_findings,
    event_message,
    frame_columns,
    stereo_fields,
)
from speech_qc.pipeline.factory import FLUSH_HOPS
from speech_qc.pipeline.session import Session
from speech_qc.pipeline.sources import Bytes, PushedAudio, WholeNumber, whole_number
from speech_qc.results import StreamResult, StreamUpdate
from speech_qc.wire.vocabulary import Encoding

logger = logging.getLogger(__name__)

PIECE_S = 0.1
"""Live audio is scored in pieces of at most this length, so that memory does not grow with the size of a push."""
MAX_STREAM_CHANNELS = 64
"""Channels of one stream; as many as a recording may be allowed to have."""


class Stream:
    """Live audio of any length: push it as it arrives, and get scores and events as they become available.

    Memory is constant. Call `finish` after the last audio, or use the stream in a `with` statement, which calls it.
    Then `result` has events, levels, summary and verdict of the whole stream. Different streams may run in different
    threads at the same time; simultaneous calls to the same stream wait for each other.

    Args:
        sample_rate: Samples per second of each channel, 8000 to 192000.
        encoding: Encoding of bytes: `linear16`, `mulaw`, `alaw` or `float32`, little-endian. Arrays need none.
        channels: Interleaved channels, 1 to 64; each is scored separately.
        profile: Name of the verdict profile; None for the default one.
        labels: Labels to return, as a list or comma-separated; None for all.
        show_digits: Name the telephone keys in tones, which may be card numbers; otherwise they are masked (`****`).
        detector: A loaded model, to use instead of the one that the process shares.

    Raises:
        ProtocolError: An unknown encoding, profile or label, or an invalid number of channels.
        InvalidAudio: The sample rate is out of bounds.
        StartupError: A setting is wrong, or the model cannot be loaded.

    Example:
        >>> with Stream(sample_rate=8_000, encoding="mulaw") as stream:
        ...     for chunk in chunks:
        ...         for update in stream.push(chunk):
        ...             print(update.start_s, update.channels[0]["noise"])
        >>> stream.result.verdict.status
        'pass'
    """

    def __init__(
        self,
        *,
        sample_rate: WholeNumber = 16_000,
        encoding: Encoding = "linear16",
        channels: int = 1,
        profile: str | None = None,
        labels: Labels = None,
        show_digits: bool = False,
        detector: Detector | None = None,
    ) -> None:
        if encoding not in get_args(Encoding):
            raise ProtocolError(f"encoding: expected one of {', '.join(get_args(Encoding))}, got {encoding!r}")
        rate_hz, count = whole_number("sample_rate", sample_rate), whole_number("channels", channels)
        if not 1 <= count <= MAX_STREAM_CHANNELS:
            raise ProtocolError(f"channels: expected 1 to {MAX_STREAM_CHANNELS}, got {count}")
        detector = detector or default_detector()
        model, settings = detector.model, detector.settings
        self._contract = model.contract
        self._profile_name, self._profile = detector.profile(profile)
        self._labels = detector.labels(labels)
        self._sessions = [
            Session(
                model.contract,
                rate_hz,
                max_events=settings.max_events,
                reader=model.reader,
                show_digits=show_digits or settings.show_digits,
            )
            for _ in range(count)
        ]
        self._stereo = StereoMeter() if count == 2 else None
        self._audio = PushedAudio(encoding, count, piece_samples=round(rate_hz * PIECE_S))
        self._stepper = model.stepper(count)
        self._hops = settings.live_chunk_hops
        self._lock = threading.Lock()
        self._has_failed = False
        self._result: StreamResult | None = None

    def push(self, audio: Bytes | NDArray[Any]) -> list[StreamUpdate]:
        """Accept audio of any length; if it is rejected, the stream is unchanged and can continue.

        Args:
            audio: Bytes in the stream's encoding, split anywhere, even within a sample; or samples as float32 or
                float64 in [-1, 1] or as int16, of shape (n,) or (n, channels). The caller may reuse the memory.

        Returns:
            The new scores and events, in order; often none, because the model works in chunks of 100 ms.

        Raises:
            InvalidAudio: The samples have the wrong type, shape or scale.
            ProtocolError: Neither bytes nor an array, or an array after bytes that ended within a sample.
            InferenceError: The model failed; the stream cannot continue.
            RuntimeError: The stream is finished, or has failed.
        """
        with self._lock:
            self._check_usable()
            if self._result is not None:
                raise RuntimeError("push after finish: make a new Stream for other audio")
            pieces = self._audio.pieces(audio)
            updates: list[StreamUpdate] = []
            with self._failing_for_good():
                for piece in pieces:
                    for session, samples in zip(self._sessions, piece, strict=True):
                        session.push(samples)
                    if self._stereo is not None:
                        self._stereo.push(piece[0], piece[1])
                    updates += self._advance()
            return updates

    def finish(self) -> list[StreamUpdate]:
        """Score the remaining audio and build the result; further calls return an empty list.

        The end of a `with` block calls it, too. Call it inside the block to get these last updates.

        Returns:
            The last scores and events.

        Raises:
            InferenceError: The model failed; there is no result.
            RuntimeError: The stream has failed before.
        """
        with self._lock:
            self._check_usable()
            if self._result is not None:
                return []
            if rest := self._audio.rest_bytes:
                logger.warning("the stream ended in the middle of a sample: the last %d bytes were not scored", rest)
            with self._failing_for_good():
                for session in self._sessions:
                    session.finish()
                updates = self._advance()
                records = [session.record(self._profile) for session in self._sessions]
            self._result = StreamResult(
                self._profile_name,
                round(records[0].duration_s, 6),
                records[0].frame_total,
                [channel_findings(channel, record, self._labels) for channel, record in enumerate(records)],
                **stereo_fields(None if self._stereo is None else self._stereo.result()),
            )
            return updates

    @property
    def result(self) -> StreamResult:
        """Findings about the whole stream.

        Raises:
            RuntimeError: The stream is not finished, or has failed.
        """
        self._check_usable()
        if self._result is None:
            raise RuntimeError("the stream is not finished: call finish(), or leave its `with` block, first")
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, unless an error ended the block; `finish` may still be called then."""
        if error is None and not self._has_failed:
            self.finish()

    def _check_usable(self) -> None:
        if self._has_failed:
            raise RuntimeError("the stream has failed before and has no result: make a new Stream")

    @contextmanager
    def _failing_for_good(self) -> Iterator[None]:
        """Mark the stream as failed after any error: its channels may then contain different numbers of samples."""
        try:
            yield
        except BaseException:
            self._has_failed = True
            raise

    def _advance(self) -> list[StreamUpdate]:
        """Score everything that is complete; at the end the rest as well, frame by frame."""
        updates = []
        head = self._sessions[0]  # all channels hold the same number of samples, so they advance together
        while (hops := head.remaining_hops) >= self._hops or (hops and head.finished):
            size = self._hops if hops >= self._hops else FLUSH_HOPS
            chunks = [chunk for session in self._sessions if (chunk := session.take(size)) is not None]
            readings = self._stepper.step(chunks, size)
            accepted = [session.accept(reading) for session, reading in zip(self._sessions, readings, strict=True)]
            events = tuple(
                event_message(channel, news)
                for channel, update in enumerate(accepted)
                for news in update.events
                if news.event.label in self._labels
            )
            if accepted[0].block.frames or events:
                first = accepted[0].first_frame
                start_s = round(first * self._contract.features.frame_hop_s, 3)
                frames = tuple(frame_columns(self._contract, update.scores, self._labels) for update in accepted)
                updates.append(StreamUpdate(first, start_s, frames, events))
        return updates
