"""Results of the Python API: the responses for a recording and for a stream, as objects with NumPy arrays.

All of it can be pickled, so that worker processes can return it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from speech_qc.wire.capture import CaptureAnswer
from speech_qc.wire.encode import to_json
from speech_qc.wire.schemas import (
    AudioAnswer,
    AudioWarningAnswer,
    ChannelFindings,
    EventAnswer,
    InteractionAnswer,
    LevelsAnswer,
    ModelInfo,
    StereoAnswer,
    SummaryAnswer,
    TimingAnswer,
    VerdictAnswer,
)
from speech_qc.wire.server_messages import EventMessage
from speech_qc.wire.vocabulary import Status

Frames = dict[str, NDArray[np.float32]]
"""Scores by label, float32 (frames,), one per 20 ms; NaN where there is no value."""

WORST_FIRST: tuple[Status, ...] = ("fail", "warn", "unknown", "pass")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Channel:
    """The findings about one channel.

    Attributes:
        channel: Its index in the recording; 0 for the mean of all.
        frames: Scores by label, float32 (frames,), NaN where there is no value; empty if none were kept.
        events: In order of `event_id`; each has `label`, `onset_s`, `offset_s`, `score_max`, `score_mean`, `severity`,
            the `detail` of a dropout or a tone and, if it was requested, `evidence`.
        events_dropped: Events beyond the limit, found but not listed.
        levels: Measurements of the signal itself, at its own rate.
        summary: Figures of the whole channel, first its `quality`; `unknown` gives the reason for each None.
        verdict: `status` (`pass`, `warn`, `fail`, `unknown`) and `reasons`.
    """

    channel: int
    frames: Frames
    events: Sequence[EventAnswer]
    events_dropped: int
    levels: LevelsAnswer
    summary: SummaryAnswer
    verdict: VerdictAnswer

    @classmethod
    def of(cls, found: ChannelFindings, frames: Frames | None = None) -> Channel:
        """Create it from the wire type."""
        return cls(
            channel=found.channel,
            frames=frames or {},
            events=tuple(found.events),
            events_dropped=found.events_dropped or 0,
            levels=found.levels,
            summary=found.summary,
            verdict=found.verdict,
        )

    def __repr__(self) -> str:
        return f"<Channel {self.channel}: {self.verdict.status}, {len(self.events)} event(s)>"


class _Result:
    """The common part of both results: the channels, and the verdict on the worst one."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        """As `to_dict`, but with scores as arrays, NaN where there is no value."""
        stereo = document.get("stereo")
        self.stereo = None if stereo is None else StereoAnswer(**stereo)

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """One per channel; read from the document when they are first asked for."""
        return tuple(
            Channel.of(
                ChannelFindings(**{name: value for name, value in answer.items() if name != "frames"}),
                answer.get("frames"),
            )
            for answer in self.document["channels"]
        )

    @property
    def verdict(self) -> VerdictAnswer:
        """Verdict of the worst channel: `fail` before `warn`, `unknown` and `pass`."""
        verdicts = [channel.verdict for channel in self.channels]
        return min(verdicts, key=lambda verdict: WORST_FIRST.index(verdict.status))

    @property
    def quality(self) -> float | None:
        """Lowest quality of the channels that can be judged, 0 to 100; None if there is none."""
        return min((c.summary.quality for c in self.channels if c.summary.quality is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the document as plain JSON values: lists of numbers, None where there is no value.

        Returns:
            A new dict that `json.dumps` accepts.
        """
        document: dict[str, Any] = orjson.loads(to_json(self.document))
        return document


class Inspection(_Result):
    """The findings about one recording; `to_dict()` is the response of `POST /v1/inspect`.

    Attributes:
        model: Name, version and checksum of the model that scored the recording.
        profile: Name of the profile that judged.
        audio: Length, rate, channels, encoding and number of frames.
        frame_hop_s: Seconds from one frame to the next; frame i covers [i · hop, (i + 1) · hop).
        warnings: What was wrong with the recording, although it was read; each has `code` and `message`.
        channels: One per channel, or one for their mean.
        quality: The lowest quality of its channels, 0 to 100.
        stereo: Comparison of the channels, if there are two.
        interaction: What happens between the channels, if they were named as the legs of a call; otherwise None.
        capture: The RTP streams of a packet capture; None for other recordings.
        verdict: Verdict on the worst channel.
        timing: Seconds spent; `queue_s` is 0, since there is no queue.
        document: The whole result as a dict, with scores as arrays.

    Example:
        >>> for event in result.channels[0].events:
        ...     print(event.label, event.onset_s, event.offset_s, event.severity)
        noise 3.5 6.54 severe
    """

    def __init__(self, document: dict[str, Any]) -> None:
        """Read the document of `pipeline.documents.inspection_document`, which holds frames as arrays."""
        super().__init__(document)
        self.model = ModelInfo(**document["model"])
        self.profile: str = document["profile"]
        self.audio = AudioAnswer(**document["audio"])
        self.frame_hop_s: float = document["frame_hop_s"]
        self.warnings = tuple(AudioWarningAnswer(**warning) for warning in document["warnings"])
        self.timing = TimingAnswer(**document["timing"])
        interaction = document.get("interaction")
        self.interaction = None if interaction is None else InteractionAnswer(**interaction)
        capture = document.get("capture")
        self.capture = None if capture is None else CaptureAnswer(**capture)

    def __repr__(self) -> str:
        return f"<Inspection {self.verdict.status}: {self.audio.duration_s:g} s, {len(self.channels)} channel(s)>"


class StreamResult(_Result):
    """The findings about a whole stream; `to_dict()` has the fields of the `summary` message that describe the audio.

    Attributes:
        profile: Name of the profile that judged.
        duration_s: Seconds of audio.
        frames: Frames of each channel.
        channels: One per channel; their `frames` are empty, since a stream of any length takes constant memory.
        quality: The lowest quality of its channels, 0 to 100.
        stereo: Comparison of the channels, if there are two.
        verdict: Verdict on the worst channel.
        document: The whole result as a dict.
    """

    def __init__(
        self,
        profile: str,
        duration_s: float,
        frames: int,
        channels: Sequence[ChannelFindings],
        stereo: StereoAnswer | None = None,
    ) -> None:
        document: dict[str, Any] = {
            "profile": profile,
            "duration_s": duration_s,
            "frames": frames,
            "channels": [found.model_dump(exclude_unset=True) for found in channels],
        }
        if stereo is not None:
            document["stereo"] = stereo.model_dump()
        super().__init__(document)
        self.profile, self.duration_s, self.frames = profile, duration_s, frames

    def __repr__(self) -> str:
        return f"<StreamResult {self.verdict.status}: {self.duration_s:g} s, {len(self.channels)} channel(s)>"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StreamUpdate:
    """The new scores and events after a push.

    Attributes:
        first_frame: Index of its first frame in the stream; updates follow each other without gaps.
        start_s: Start of that frame, seconds from the start of the stream.
        channels: Scores of its frames by label, for each channel, float32 (n,), NaN where there is no value; empty
            arrays if there are only events.
        events: Events that have begun or ended, with their `phase` (`begin`, `end`) and `channel`.
    """

    first_frame: int
    start_s: float
    channels: tuple[Frames, ...]
    events: tuple[EventMessage, ...]

    def __repr__(self) -> str:
        count = len(next(iter(self.channels[0].values()), ()))
        return f"<StreamUpdate at {self.start_s:g} s: {count} frame(s), {len(self.events)} event(s)>"
