"""One recording, from decoded blocks to findings, independent of how it is decoded and of what runs the model.

`pipeline.inspector` drives it through the engine, `pipeline.direct` without one, with the same results. Depends on
neither asyncio nor HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio import AudioInfo, AudioWarning
from speech_qc.audio.features import FrontEnd
from speech_qc.audio.stereo import CancellationMeter, Stereo, StereoMeter
from speech_qc.calls.interaction import LEGS
from speech_qc.calls.recorded import RecordedLegs
from speech_qc.contract import ModelContract
from speech_qc.errors import InvalidAudio, ProtocolError
from speech_qc.pipeline.channel_meter import MeterPool
from speech_qc.pipeline.chunk_reader import ChunkReader, ChunkReading
from speech_qc.pipeline.explain import MAX_FRAMES, Evidence, Explainer, SpectrumKeeper
from speech_qc.pipeline.session import ChannelRecord, Session
from speech_qc.rtp.reports import CaptureReport
from speech_qc.scoring import Profile
from speech_qc.wire.option_names import leg_names
from speech_qc.wire.schemas import InteractionAnswer
from speech_qc.wire.vocabulary import ChannelMode

Block = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds spent, summed over channels; a shared step counts in full for each recording that shares it."""

    decode_s: float
    features_s: float
    queue_s: float
    inference_s: float
    total_s: float

    def stages(self) -> dict[str, float]:
        """Seconds by the name of their stage, for metrics and traces."""
        return {
            "decode": self.decode_s,
            "features": self.features_s,
            "queue": self.queue_s,
            "inference": self.inference_s,
            "total": self.total_s,
        }


@dataclass(frozen=True, slots=True)
class RecordingFindings:
    """Everything that was found in one recording."""

    audio: AudioInfo
    channels: list[ChannelRecord]
    timing: Timing
    warnings: Sequence[AudioWarning] = ()
    """What was wrong with the recording, although it was read."""
    evidence: list[list[Evidence]] | None = None
    """For each event of each channel, in order; None if it was not requested."""
    stereo: Stereo | None = None
    """Comparison of the channels, if there are two."""
    interaction: InteractionAnswer | None = None
    """What happens between the channels, if they were named as the legs of a call."""
    capture: CaptureReport | None = None
    """The RTP streams of a packet capture, each a channel if it could be decoded; None for other recordings."""

    @property
    def duration_s(self) -> float:
        """Seconds of audio; of the longest channel, if they are legs of a capture."""
        return max(channel.duration_s for channel in self.channels)

    @property
    def frame_total(self) -> int:
        """Output frames of each channel, of the longest one if they are legs."""
        return max(channel.frame_total for channel in self.channels)


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """Options of an inspection.

    Args:
        profile: Limits of the verdict.
        channels: `split` to inspect each channel separately, `mix` for their mean.
        keep_frames: Keep the scores of every frame.
        max_events: Events kept per channel.
        show_digits: Name the telephone keys in tones; otherwise they are masked.
        explain: Find evidence for each event; this also keeps the scores.
        legs: Names of the two channels as the legs of a call; None if they are not.
        deadline_s: Maximum time for decoding and inference; waiting for bytes does not count. None: no limit.
    """

    profile: Profile
    channels: ChannelMode = "split"
    keep_frames: bool = True
    max_events: int = 10_000
    explain: bool = False
    deadline_s: float | None = None
    show_digits: bool = False
    legs: tuple[str, ...] | None = None

    @property
    def needs_frames(self) -> bool:
        """Whether the scores of every frame are needed, for the answer or for the evidence."""
        return self.keep_frames or self.explain


def recorded_legs(names: str | None, mode: ChannelMode) -> tuple[str, ...] | None:
    """Read the option `legs` of a recording; None if it was not given.

    Raises:
        ProtocolError: There are not two different names, or the mean of the channels is inspected.
    """
    if names is None:
        return None
    if mode != "split":
        raise ProtocolError(
            "legs: expected channels=split, got mix: the mean of the channels is not two legs", option="legs"
        )
    return leg_names(names, "legs", LEGS)


class Recording:
    """The channels of one recording; used by one task or thread at a time.

    Call `open` when the header is known and `push` for each decoded block. Pass chunks to the model with `next_hops`,
    the session's `take` and `accept`. After the last block call `finish`, pass the remaining chunks, then call
    `records`.

    Args:
        contract: Contract of the model.
        options: What to keep and how to judge.
        reader: Reader for the same contract, if many recordings share one.
        pool: Looks for losses together with other recordings of the same thread; None to look alone.
    """

    def __init__(
        self,
        contract: ModelContract,
        options: InspectOptions,
        reader: ChunkReader | None = None,
        pool: MeterPool | None = None,
    ) -> None:
        self._contract, self._options, self._pool = contract, options, pool
        self._reader = reader or ChunkReader(contract)
        self.sessions: list[Session] = []
        """One per channel, after `open`."""
        self._is_bounded = False
        self._stereo: StereoMeter | None = None
        self._cancellation: CancellationMeter | None = None
        self._legs: RecordedLegs | None = None
        self._keepers: list[SpectrumKeeper] = []  # one per session if evidence is requested, else none

    def open(self, info: AudioInfo) -> None:
        """Create the sessions, now that the number of channels is known.

        Raises:
            InvalidAudio: The sample rate is not supported.
            ProtocolError: The channels were named as legs, but there are not two.
        """
        options, self._is_bounded = self._options, info.is_bounded
        count = 1 if options.channels == "mix" else info.channels
        self._stereo = StereoMeter() if info.channels == 2 else None
        self._cancellation = CancellationMeter() if count < info.channels else None
        if options.explain:
            front_end = FrontEnd(self._contract.features)
            self._keepers = [SpectrumKeeper(front_end, MAX_FRAMES // count) for _ in range(count)]
        if options.legs is not None:
            self._legs = RecordedLegs(self._contract, options.legs, info.channels)
        for channel in range(count):
            heard = None if self._legs is None else partial(self._legs.heard, channel)
            self.sessions.append(self._session(info.sample_rate_hz, on_heard=heard))

    def _session(
        self, rate_hz: int, *, gaps: bool = False, on_heard: Callable[[int, Block], None] | None = None
    ) -> Session:
        options = self._options
        return Session(
            self._contract,
            rate_hz,
            keep_frames=options.needs_frames,
            max_events=options.max_events,
            show_digits=options.show_digits,
            reader=self._reader,
            gaps=gaps,
            pool=self._pool,
            on_heard=on_heard,
        )

    def push(self, blocks: Sequence[Block]) -> None:
        """Take decoded blocks.

        Args:
            blocks: Each float32 (n, channels).

        Raises:
            InvalidAudio: See `Session.push`.
        """
        if self._legs is not None:
            self._legs.advance()
        for block in blocks:
            if self._stereo is not None:
                self._stereo.push(block[:, 0], block[:, 1])
            if self._options.channels == "mix":
                mean = block.mean(axis=1, dtype=np.float32)
                if self._cancellation is not None:
                    self._cancellation.push(block, mean)
                self.sessions[0].push(mean, bounded=self._is_bounded)
                continue
            for channel, session in enumerate(self.sessions):
                session.push(np.ascontiguousarray(block[:, channel]), bounded=self._is_bounded)

    @property
    def piece_samples(self) -> int:
        """Samples of each channel that are measured at a time, after `open`; a pool waits for no more of them."""
        return self.sessions[0].piece_samples

    @property
    def is_empty(self) -> bool:
        """Whether there were no samples so far."""
        return not self.sessions or self.sessions[0].samples_in == 0

    @property
    def frames_done(self) -> int:
        """Frames scored so far, of all channels."""
        return sum(session.frames_done for session in self.sessions)

    def next_hops(self, channel: int, large: int, small: int) -> int | None:
        """Return the hops of a channel's next chunk; None if there is too little audio, or nothing is left.

        Large chunks while there is more audio; at the end a large one if most of it is used, else small ones.
        """
        session = self.sessions[channel]
        hops = session.remaining_hops
        if hops >= large:
            return large
        if not session.finished or hops == 0:
            return None
        return large if hops > large // 2 else small

    def accept(self, channel: int, reading: ChunkReading) -> None:
        """Take the scores of a channel's next chunk."""
        update = self.sessions[channel].accept(reading)
        if self._legs is not None:
            self._legs.scored(channel, update.first_frame, update.scores)

    def keep_spectrum(self, channel: int, chunk: Block) -> None:
        """Keep what the evidence needs of a chunk, if evidence is requested; takes about a millisecond."""
        if self._keepers:
            self._keepers[channel].add(chunk)

    def finish(self) -> None:
        """Note that there is no more audio.

        Raises:
            InvalidAudio: There were no samples.
        """
        if self.is_empty:
            raise InvalidAudio("expected samples, the recording has none: upload the finished recording")
        for session in self.sessions:
            session.finish()

    def records(self) -> list[ChannelRecord]:
        """Return the findings about each channel, once all chunks are accepted."""
        cancellation_db = None if self._cancellation is None else self._cancellation.result()
        return [session.record(self._options.profile, cancellation_db) for session in self.sessions]

    def stereo(self) -> Stereo | None:
        """Return the comparison of the channels so far; None unless there are two."""
        return None if self._stereo is None else self._stereo.result()

    def interaction(self) -> InteractionAnswer | None:
        """Return what happens between the legs, once all chunks are accepted; None if the channels are not legs."""
        return None if self._legs is None else self._legs.result()

    def explain(self, records: Sequence[ChannelRecord]) -> list[list[Evidence]] | None:
        """Find the evidence for every event, if it was requested; takes about a millisecond each."""
        if not self._options.explain:
            return None
        explainer = Explainer(self._contract)
        evidence = []
        for record, keeper in zip(records, self._keepers, strict=True):
            assert record.frames is not None  # the sessions are configured to keep them
            evidence.append(explainer.explain(record.events, record.frames, keeper.kept()))
        return evidence
