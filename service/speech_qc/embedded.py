"""speech-qc inside another program: `inspect` for recordings, `Stream` for live audio.

No server, no event loop, no threads of its own: the model runs in the thread that calls. It is loaded at first use,
once per process, as the `SPEECHQC_*` environment says, and may be used from several threads at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from types import TracebackType
from typing import Any, Self, get_args
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from speech_qc.engine import Runner
from speech_qc.errors import InvalidAudio, ProtocolError
from speech_qc.live.sample_decoder import SampleDecoder
from speech_qc.pipeline.direct import DirectModel, inspect_blocks
from speech_qc.pipeline.documents import (
    channel_findings,
    choose_labels,
    event_fields,
    frame_columns,
    inspection_document,
    model_info,
)
from speech_qc.pipeline.factory import FLUSH_HOPS, decode_limits, make_runner
from speech_qc.pipeline.recording import Block, InspectOptions
from speech_qc.pipeline.session import Session
from speech_qc.pipeline.sources import Bytes, Source, check_samples, float_samples, opened
from speech_qc.results import Inspection, StreamResult, StreamUpdate
from speech_qc.scoring import load_profiles
from speech_qc.settings import Settings, load_settings
from speech_qc.wire.server_messages import EventNews
from speech_qc.wire.vocabulary import ChannelMode, Encoding

Labels = str | Sequence[str] | None
"""Labels as a list, or comma-separated; None for all."""

UNLIMITED_BYTES = 1 << 62
"""The limit on uploads protects a server's memory; a program may read what it likes."""
PIECE_S = 0.1
"""Live audio that is pushed at once."""
MAX_STREAM_CHANNELS = 64


class Detector:
    """A loaded model with the settings that it is used with; any thread may call it.

    Args:
        settings: Profiles, limits, and the size of live chunks.
        runner: The model; None to load the file of the settings.

    Raises:
        StartupError: Profiles or model cannot be used.
    """

    def __init__(self, settings: Settings, runner: Runner | None = None) -> None:
        self.settings = settings
        self.model = DirectModel(runner or make_runner(settings))
        self.profiles = load_profiles(settings.profiles_path)
        self._limits = decode_limits(settings.model_copy(update={"max_upload_bytes": UNLIMITED_BYTES}))

    def labels(self, wanted: Labels) -> tuple[str, ...]:
        """Labels in the model's order; raises ProtocolError for one that it does not have."""
        if wanted is not None and not isinstance(wanted, str):
            wanted = ",".join(wanted)
        return choose_labels(self.model.contract, wanted)

    def inspect(
        self,
        source: Source,
        *,
        sample_rate: int | None = None,
        channels: ChannelMode = "split",
        profile: str | None = None,
        labels: Labels = None,
        frames: bool = True,
        explain: bool = False,
        on_step: Callable[[], object] = lambda: None,
    ) -> Inspection:
        """Inspect one recording; see `inspect`.

        Args:
            source: The recording.
            sample_rate: Of samples.
            channels: Each channel by itself, or their mean.
            profile: Limits of the verdict.
            labels: Which to give.
            frames: Keep the score of every frame.
            explain: Find the evidence for each event.
            on_step: Called before each step of the model, every few seconds of audio; what it raises ends the work.
        """
        chosen = self.labels(labels)
        limits = self.profiles.get(profile or self.settings.default_profile)
        if channels not in get_args(ChannelMode):
            raise ProtocolError(f"channels: expected 'split' or 'mix', given {channels!r}")
        options = InspectOptions(limits, channels, frames, self.settings.max_events, explain)
        with opened(source, sample_rate, self._limits) as recording:
            found = inspect_blocks(self.model, recording, options, on_step)
        identity = model_info(self.model.runner)
        contract = self.model.contract
        return Inspection(
            inspection_document(found, contract, identity, request_id=uuid4().hex, labels=chosen, frames=frames)
        )


class Stream:
    """Live audio of any length: push it as it comes, get scores and events as they become known.

    Memory is constant. Use it in a `with` statement, or call `finish` after the last audio; then `result` holds events,
    levels, summary and verdict of the whole. One thread at a time uses one stream; different streams may be used from
    different threads.

    Args:
        sample_rate: Samples per second of each channel, 8000 to 192000.
        encoding: Of bytes: `linear16`, `mulaw`, `alaw` or `float32`, little-endian.
        channels: Interleaved channels.
        profile: Limits of the verdict; None for the default.
        labels: Which to give; None for all.
        detector: The model; by default that of the process.

    Raises:
        ProtocolError: An encoding, profile or label that does not exist, or no channel.
        InvalidAudio: An impossible sample rate.
        StartupError: The model cannot be loaded.

    Example:
        >>> with Stream(sample_rate=8_000, encoding="mulaw") as stream:
        ...     for update in stream.push(chunk):
        ...         print(update.start_s, update.channels[0]["noise"])
        >>> stream.result.verdict.status
    """

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        encoding: Encoding = "linear16",
        channels: int = 1,
        profile: str | None = None,
        labels: Labels = None,
        detector: Detector | None = None,
    ) -> None:
        if encoding not in get_args(Encoding):
            raise ProtocolError(f"encoding: expected one of {', '.join(get_args(Encoding))}, given {encoding!r}")
        if not 1 <= channels <= MAX_STREAM_CHANNELS:
            raise ProtocolError(f"channels: expected 1 to {MAX_STREAM_CHANNELS}, given {channels}")
        detector = detector or default_detector()
        model, settings = detector.model, detector.settings
        self._contract = model.contract
        self._profile = detector.profiles.get(profile or settings.default_profile)
        self._labels = detector.labels(labels)
        self._sessions = [
            Session(model.contract, sample_rate, max_events=settings.max_events, reader=model.reader)
            for _ in range(channels)
        ]
        self._piece = max(1, round(sample_rate * PIECE_S))
        self._decoder = SampleDecoder(encoding, channels, self._piece)
        self._are_integers = encoding != "float32"
        self._stepper = model.stepper(channels)
        self._hops = settings.live_chunk_hops
        self._result: StreamResult | None = None

    def push(self, audio: Bytes | NDArray[Any]) -> list[StreamUpdate]:
        """Take audio of any length.

        Args:
            audio: Bytes in the stream's encoding, cut anywhere; or samples, float or int16, (n,) or (n, channels).

        Returns:
            What became known by it, in order; often nothing, since the model works in chunks of 100 ms.

        Raises:
            InvalidAudio: Samples that are no audio; the stream can go on.
            InferenceError: The model failed.
            RuntimeError: The stream was finished.
        """
        if self._result is not None:
            raise RuntimeError("push after finish: make a new Stream for other audio")
        updates: list[StreamUpdate] = []
        if isinstance(audio, np.ndarray):
            for piece in self._split(audio):
                updates += self._take(piece, bounded=False)
        else:
            for piece in self._decoder.pieces(bytes(audio)):
                updates += self._take(piece, bounded=self._are_integers)
        return updates

    def finish(self) -> list[StreamUpdate]:
        """Score what is left and make the result; further calls give nothing.

        Returns:
            What became known by the end.

        Raises:
            InferenceError: The model failed.
        """
        if self._result is not None:
            return []
        for session in self._sessions:
            session.finish()
        updates = self._advance()
        records = [session.record(self._profile) for session in self._sessions]
        self._result = StreamResult(
            round(records[0].duration_s, 6),
            records[0].frame_total,
            [channel_findings(channel, record, self._labels) for channel, record in enumerate(records)],
        )
        return updates

    @property
    def result(self) -> StreamResult:
        """Findings about the whole stream.

        Raises:
            RuntimeError: It was not finished.
        """
        if self._result is None:
            raise RuntimeError("the stream is not finished: call finish(), or leave its `with` block, first")
        return self._result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, unless an error broke the stream off."""
        if error is None:
            self.finish()

    def _split(self, samples: NDArray[Any]) -> list[list[Block]]:
        """Cut an array into pieces of one array per channel."""
        check_samples(samples)
        columns = samples[:, None] if samples.ndim == 1 else samples
        if columns.shape[1] != len(self._sessions):
            raise InvalidAudio(
                f"expected samples of shape (n, {len(self._sessions)}), given {samples.shape}: one column per channel"
            )
        floats = np.ascontiguousarray(float_samples(columns).T)
        return [
            [np.ascontiguousarray(channel[start : start + self._piece]) for channel in floats]
            for start in range(0, floats.shape[1], self._piece)
        ]

    def _take(self, piece: list[Block], *, bounded: bool) -> list[StreamUpdate]:
        for session, samples in zip(self._sessions, piece, strict=True):
            session.push(samples, bounded=bounded)
        return self._advance()

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
                EventNews(phase=news.phase, channel=channel, **event_fields(news.event))
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


_loading = threading.Lock()


@cache
def _loaded() -> Detector:
    return Detector(load_settings())


def default_detector() -> Detector:
    """Return the model of this process, loaded at the first call as the `SPEECHQC_*` environment says.

    Raises:
        StartupError: A setting is wrong, or the model cannot be loaded; the next call tries again.
    """
    with _loading:  # or two threads that come first would load it twice
        return _loaded()


def inspect(
    source: Source,
    sample_rate: int | None = None,
    *,
    channels: ChannelMode = "split",
    profile: str | None = None,
    labels: Labels = None,
    frames: bool = True,
    explain: bool = False,
) -> Inspection:
    """Inspect one recording: scores for every 20 ms, events, levels, a summary and a verdict.

    Args:
        source: A path, the bytes of a recording, an open binary file, or samples: float32 or float64 in [-1, 1] or
            int16, of shape (n,) or (n, channels).
        sample_rate: Of samples, 8000 to 192000 Hz; a file says its own.
        channels: `split` for each channel by itself, `mix` for their mean.
        profile: Limits of the verdict by name; None for the default.
        labels: Labels to give, as a list or comma-separated; None for all.
        frames: Keep the score of every frame; without them memory is constant.
        explain: Find the evidence for each event.

    Returns:
        The findings; `to_dict()` gives the document of `POST /v1/inspect`.

    Raises:
        ClientError: The audio or an option cannot be used; the message says what would fit.
        InferenceError: The model failed.
        StartupError: A setting is wrong, or the model cannot be loaded.

    Example:
        >>> inspect("call.wav").verdict.status
        'pass'
    """
    return default_detector().inspect(
        source,
        sample_rate=sample_rate,
        channels=channels,
        profile=profile,
        labels=labels,
        frames=frames,
        explain=explain,
    )
