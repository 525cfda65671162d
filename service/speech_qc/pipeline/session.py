"""The state of one channel: samples in, chunks out, scores in, results out. Files and live audio share this path.

A session belongs to one channel. It resamples, cuts chunks for the engine, keeps frame times correct although the model
looks ahead, and tracks events, levels and summary. It must not use HTTP, sockets or asyncio, and it never runs a
model: its owner passes chunks to the engine and scores back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.buffer import SampleBuffer
from speech_qc.audio.features import frame_count, frame_levels_dbfs
from speech_qc.audio.levels import Levels
from speech_qc.audio.losses import Loss
from speech_qc.audio.noise_floor import NoiseFloorMeter
from speech_qc.audio.resample import Resampler
from speech_qc.contract import ModelContract
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.channel_meter import ChannelMeter, MeterPool, OnPiece
from speech_qc.pipeline.refiner import EventRefiner
from speech_qc.scoring import (
    Event,
    EventTracker,
    EventUpdate,
    LossJoin,
    LossSpan,
    Profile,
    ScoreBatch,
    ScoreBlock,
    ScoreReader,
    Summary,
    SummaryMeter,
    Verdict,
    judge,
)

Float32 = NDArray[np.float32]

MAX_MAGNITUDE = 64.0
"""36 dB above full scale: float recordings overshoot a little, but only those scaled as integers reach this."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one chunk's scores added to the stream.

    Attributes:
        first_frame: Absolute index of the first frame in `scores`.
        block: The n new frames; n may be 0.
        events: Updates of events, in order.
    """

    first_frame: int
    block: ScoreBlock
    events: list[EventUpdate]

    @property
    def scores(self) -> Float32:
        """float32 (n, C); measures are NaN where there is no speech to measure."""
        return self.block.shown


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """The results of one channel at its end.

    Attributes:
        frames: float32 (M, C), NaN where there is no value; None if the session did not keep them.
        events_dropped: Number of events that were found but exceeded the limit, so they were not kept.
    """

    duration_s: float
    frame_total: int
    frames: Float32 | None
    events: list[Event]
    events_dropped: int
    levels: Levels
    summary: Summary
    verdict: Verdict


class ChunkReading(NamedTuple):
    """The readings of one chunk and its scores."""

    block: ScoreBlock
    level_dbfs: Float32
    """Levels of the chunk's own frames (n,), without those of the look-ahead before them."""


@dataclass(frozen=True, slots=True)
class ChunkReadings:
    """The readings of the chunks of a step; iterates over the chunks."""

    blocks: ScoreBatch
    levels_dbfs: Float32
    """(B, n)."""

    def __iter__(self) -> Iterator[ChunkReading]:
        return map(ChunkReading, self.blocks, self.levels_dbfs)


class ChunkReader:
    """Reads the chunks of a step, all streams in one call; serves as the engine's `read_out`.

    Args:
        contract: Contract of the engine's model.
    """

    def __init__(self, contract: ModelContract) -> None:
        self.scores = ScoreReader(contract)
        self._spec = contract.features

    def __call__(self, samples: Float32, scores: Float32) -> ChunkReadings:
        """Read the chunks of a step.

        Args:
            samples: float32 (B, hops * hop + overlap), finite.
            scores: float32 (B, hops / 2, C), finite.
        """
        own = scores.shape[1] * self._spec.frame_samples
        levels = frame_levels_dbfs(samples[:, :own], self._spec).reshape(len(samples), -1)
        return ChunkReadings(self.scores.read(scores), levels)


class Session:
    """State of one channel's stream; owned by one task, not thread-safe.

    Call `push` with audio, `take` while it returns chunks, and `accept` with the scores of each chunk, in order. After
    the last audio, call `finish`, then `take` and `accept` until nothing is left, then `record`.

    Args:
        contract: The model's contract.
        rate_hz: Rate of the samples that are pushed.
        keep_frames: Keep all scores for the record; otherwise memory use is constant.
        max_events: Maximum events kept for the record; further ones are only counted.
        reader: Reader for the same contract, if many sessions share one.
        on_piece: Called with the pushed samples, a few thousand at a time, and their mean square, for the input checks
            of a live stream.
        show_digits: Name the telephone keys in tones; otherwise they are masked.
        pool: Measures together with other sessions of the same thread; None to measure alone.

    Raises:
        InvalidAudio: The rate is not supported.
    """

    def __init__(
        self,
        contract: ModelContract,
        rate_hz: int,
        *,
        keep_frames: bool = False,
        max_events: int = 10_000,
        reader: ChunkReader | None = None,
        on_piece: OnPiece | None = None,
        show_digits: bool = False,
        pool: MeterPool | None = None,
    ) -> None:
        self.contract = contract
        self.rate_hz = rate_hz
        self._spec = contract.features
        self._resampler = Resampler(rate_hz, self._spec.sample_rate_hz)
        self._meter = ChannelMeter(rate_hz, on_piece, pool)
        self._reader = reader or ChunkReader(contract)
        self._losses = LossJoin(contract, self._reader.scores.layout, rate_hz)
        self._tracker = EventTracker(contract, self._reader.scores, skip=("dropout",))
        self._summary = SummaryMeter(contract, self._reader.scores.layout)
        self._noise = contract.index("noise")
        self._floor = NoiseFloorMeter()
        self._refiner = EventRefiner(contract, show_digits=show_digits)
        self._buffer = SampleBuffer()
        self._taken = 0  # position of the first sample that is in no chunk yet
        self._levels_dbfs = np.zeros(0, np.float32)  # of frames whose scores have not arrived yet
        # Past samples to keep for mirroring at the end: they cover the look-ahead, the last frame and its window.
        self._reach = (contract.lookahead_frames + 1) * self._spec.frame_samples + self._spec.overlap_samples
        self._hop, self._overlap = self._spec.hop_samples, self._spec.overlap_samples
        self._received = 0  # samples at the model's rate
        self._rows_out = 0  # score rows received, look-ahead included
        self._frames_done = 0
        self._frame_total: int | None = None  # known at the end
        self._kept: list[Float32] | None = [] if keep_frames else None
        self._events: list[Event] = []
        self._events_found = 0
        self._event_counts: dict[str, int] = {}
        self._max_events = max_events

    @property
    def samples_in(self) -> int:
        """Samples pushed so far, at the stream's own rate."""
        return self._resampler.samples_in

    @property
    def samples_received(self) -> int:
        """Samples so far at the model's rate, excluding those that the resampler delays."""
        return self._received

    @property
    def samples_waiting(self) -> int:
        """Samples at the model's rate that are in no chunk yet; the owner of a live stream keeps this bounded."""
        return self._buffer.end - self._taken

    @property
    def samples_taken(self) -> int:
        """Samples at the model's rate before the end of the last chunk, excluding the overlap of its windows."""
        return self._taken

    @property
    def resampler_latency_s(self) -> float:
        """Maximum delay of the resampler, seconds."""
        return self._resampler.latency_samples / self._spec.sample_rate_hz

    @property
    def frames_done(self) -> int:
        """Frames whose scores were accepted."""
        return self._frames_done

    def noisy_frames(self, *, whole: bool = False) -> int:
        """Frames with audible noise so far; without `whole`, about 2.5 s late but at no cost."""
        return self._summary.frames_with(self._noise, whole=whole)

    @property
    def event_counts(self) -> Mapping[str, int]:
        """Events that have ended so far, by label, including those that are not kept."""
        return self._event_counts

    def snr_db(self) -> float | None:
        """Signal-to-noise ratio of everything so far, dB; None if there is no speech to measure."""
        return self._summary.result().snr_db

    @property
    def finished(self) -> bool:
        """Whether `finish` was called: no more audio is accepted."""
        return self._frame_total is not None

    @property
    def done(self) -> bool:
        """Whether `finish` was called and every frame has its scores."""
        return self._frame_total is not None and self._frames_done >= self._frame_total

    @property
    def remaining_hops(self) -> int:
        """After `finish`: hops not taken yet; before it: hops whose window is complete."""
        hop = self._hop
        if self._frame_total is not None:
            taken = self._taken // hop
            total = (self._frame_total + self.contract.lookahead_frames) * self._spec.hops_per_frame
            return max(0, total - taken) if self._frame_total else 0
        return max(0, (self._buffer.end - self._taken - self._overlap) // hop)

    def push(self, samples: Float32, *, bounded: bool = False) -> None:
        """Accept audio of any length.

        Args:
            samples: float32 (n,) at `rate_hz`; finite. Samples beyond full scale are measured unchanged, but clipped
                for scoring, as a D/A converter would clip them.
            bounded: The samples were converted from integers, so they are finite and within full scale.

        Raises:
            InvalidAudio: The samples are not finite, or so large that their scale must be wrong.
        """
        if self._frame_total is not None:
            raise RuntimeError("push after finish: a session records one stream")
        if bounded or not len(samples):
            self._meter.push(samples)
            self._append(self._resampler.push(samples))
            return
        peak = max(float(samples.max()), -float(samples.min()))
        if not peak <= MAX_MAGNITUDE:  # also true if it is NaN
            raise InvalidAudio(
                f"expected float samples around ±1, got a magnitude of {peak:g}: the recording seems to be scaled as "
                "integers; divide by 32768 (16 bit) or save it as integer PCM",
                magnitude=peak,
            )
        self._meter.push(samples)
        self._append(self._resampler.push(np.clip(samples, -1.0, 1.0) if peak > 1.0 else samples))

    def finish(self) -> None:
        """End the audio: fix the number of frames and make the end available for scoring.

        The last windows and the look-ahead reach beyond the end. They contain the sound mirrored, so that the end is
        not mistaken for a dropout.
        """
        if self._frame_total is not None:
            raise RuntimeError("finish was called twice: a session records one stream")
        self._hold(self._meter.finish())
        self._append(self._resampler.finish())
        self._frame_total = frame_count(self._received, self._spec)
        if self._frame_total == 0:
            return
        end = (self._frame_total + self.contract.lookahead_frames) * self._spec.frame_samples
        missing = end + self._spec.overlap_samples - self._received
        tail = self._buffer.view(max(0, self._received - self._reach), self._received)
        self._buffer.append(np.pad(tail, (0, missing), mode="symmetric")[len(tail) :])

    def take(self, hops: int) -> Float32 | None:
        """Cut the next chunk.

        Args:
            hops: Hops per chunk of the lane, T.

        Returns:
            float32 (hops * hop + overlap,), valid until the next `push`; None if there is not enough audio yet or
            nothing left. After `finish`, the last chunk is padded with zeros, whose scores `accept` discards.
        """
        spec = self._spec
        own = hops * spec.hop_samples
        size = own + spec.overlap_samples
        if self._frame_total is None:
            if self.samples_waiting < size:
                return None
        elif self.remaining_hops == 0:
            return None
        chunk = self._buffer.view(self._taken, self._taken + size)
        if len(chunk) < size:
            chunk = np.concatenate([chunk, np.zeros(size - len(chunk), np.float32)])
        self._taken += own
        self._buffer.release(min(self._taken, self._received - self._reach, self._refiner.first_needed))
        return chunk

    def accept(self, reading: ChunkReading) -> Update:
        """Accept the scores of the next chunk, as read by the engine's `read_out`, in the order of `take`."""
        block = reading.block
        count = block.frames
        late = max(0, self.contract.lookahead_frames - self._rows_out)  # rows for the time before the start
        self._rows_out += count
        first = self._frames_done
        stop = count if self._frame_total is None else min(count, late + self._frame_total - first)
        if late or stop < count:
            block = self._reader.scores.read_one(block.scores[late:stop])
            count = block.frames
        levels = np.concatenate((self._levels_dbfs, reading.level_dbfs))
        self._levels_dbfs = levels[count:]
        levels = levels[:count]
        self._frames_done += count
        self._summary.add(block.scores, levels)
        self._floor.push(levels)
        known = self._meter.known
        if known is not None and self._losses.frame_after(known) < self._frames_done:
            self._hold(self._meter.collect())  # as late as possible, so that many streams are examined together
        losses = self._losses.add(block.scores)
        news = self._tracker.add(block, levels, losses)
        ended = self._frame_total is not None and self.done
        if ended:
            last = self._losses.finish()
            news = news + self._tracker.finish(last)
            losses = losses + last
        self._summary.add_losses(losses)
        news = self._refiner.refine(first, block, news, self._buffer.view, done=ended)
        if news:
            self._note(news)
        if self._kept is not None:
            self._kept.append(block.shown.copy())  # a view would keep the scores of the whole step in memory
        return Update(first, block, news)

    def levels(self) -> Levels:
        """Level measures of everything pushed so far; more audio may follow."""
        return self._meter.result()

    def record(self, profile: Profile, cancellation_db: float | None = None) -> ChannelRecord:
        """Return the results of the stream so far; final when it is done.

        Args:
            profile: Limits of the verdict.
            cancellation_db: Level that was lost by mixing, if this is the mean of several channels.
        """
        duration_s = self._resampler.samples_in / self.rate_hz
        measured, summary = self._meter.result(), self._summary.result().without(self._refiner.dropped_frames)
        floor_dbfs = self._floor.result(measured.dc_offset)
        levels = replace(measured, noise_floor_dbfs=floor_dbfs, cancellation_db=cancellation_db)
        figures: Mapping[str, float | None] = asdict(levels)
        verdict = judge(
            profile, duration_s=duration_s, summary=summary, levels=figures, event_counts=self._event_counts
        )
        width = len(self.contract.labels)
        frames = None
        if self._kept is not None:
            frames = np.concatenate(self._kept) if self._kept else np.zeros((0, width), np.float32)
        return ChannelRecord(
            duration_s=duration_s,
            frame_total=self._frames_done,
            frames=frames,
            events=sorted(self._events, key=lambda event: event.event_id),
            events_dropped=self._events_found - len(self._events),
            levels=levels,
            summary=summary,
            verdict=verdict,
        )

    def _hold(self, losses: Sequence[Loss]) -> None:
        """Pass losses on to be joined with the scores of their frames."""
        if losses:
            self._losses.push([LossSpan(loss.kind, loss.start, loss.stop, loss.known, loss.sure) for loss in losses])

    def _append(self, samples: Float32) -> None:
        self._received += len(samples)
        self._buffer.append(samples)

    def _note(self, news: list[EventUpdate]) -> None:
        for update in news:
            if update.phase == "end":
                self._events_found += 1
                label = update.event.label
                self._event_counts[label] = self._event_counts.get(label, 0) + 1
                if len(self._events) < self._max_events:
                    self._events.append(update.event)
