"""The state of one channel: samples in, chunks out, scores in, results out. Files and live audio share this path.

A session belongs to one channel. It resamples, cuts chunks for the engine, keeps frame times correct although the model
looks ahead, and tracks events, levels and summary. It must not use HTTP, sockets or asyncio, and it never runs a
model: its owner passes chunks to the engine and scores back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.buffer import SampleBuffer
from speech_qc.audio.features import frame_count
from speech_qc.audio.levels import Levels
from speech_qc.audio.losses import Loss
from speech_qc.audio.noise_floor import NoiseFloorMeter
from speech_qc.audio.resample import Resampler
from speech_qc.contract import ModelContract
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.channel_meter import ChannelMeter, MeterPool, OnPiece, measure_ends
from speech_qc.pipeline.channel_rows import ChannelRows
from speech_qc.pipeline.chunk_reader import ChunkReader, ChunkReading
from speech_qc.pipeline.gaps import GapLine, Transport, bridge_samples
from speech_qc.pipeline.refiner import EventRefiner
from speech_qc.scoring import (
    Event,
    EventTracker,
    EventUpdate,
    LossJoin,
    LossSpan,
    Profile,
    ScoreBlock,
    SpeechLoss,
    Summary,
    SummaryMeter,
    Verdict,
    judge,
)
from speech_qc.scoring.rows import NEVER, alone
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

MAX_MAGNITUDE = 64.0
"""36 dB above full scale: float recordings overshoot a little, but only those scaled as integers reach this."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one chunk's scores added to the stream.

    Attributes:
        first_frame: Absolute index of the first frame in `scores`.
        block: The n new frames; n may be 0. Of frames that were not received, `shown` is NaN.
        events: Updates of events, in order.
        rest: What follows after frames that were not received and are in no update; None if nothing does.
    """

    first_frame: int
    block: ScoreBlock
    events: list[EventUpdate]
    rest: Update | None = None

    @property
    def stop_frame(self) -> int:
        """Absolute index of the first frame after `scores`."""
        return self.first_frame + self.block.frames

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
    transport: Transport | None = None
    """What was not received; None if nothing is missing."""


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
        rows: Rows that it shares with other sessions of the same thread; None for a row of its own.
        gaps: Whether `gap` may be called; it needs the latest samples.
        is_16_bit: All samples are multiples of 1/32768 within full scale; those of a pool then need less memory.
        on_heard: Called with the received samples at the model's rate and their position, before they are scored.

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
        rows: ChannelRows | None = None,
        gaps: bool = False,
        is_16_bit: bool = False,
        on_heard: Callable[[int, Float32], None] | None = None,
    ) -> None:
        self.contract = contract
        self.rate_hz = rate_hz
        self._spec = contract.features
        self._resampler = Resampler(rate_hz, self._spec.sample_rate_hz)
        self._line = GapLine(rate_hz, self._spec)
        self._has_gaps = gaps
        history = self._line.tail_samples if gaps else 0
        self._meter = ChannelMeter(rate_hz, on_piece, pool, history, is_16_bit=is_16_bit)
        self._is_16_bit = is_16_bit
        self._reader = reader or ChunkReader(contract)
        scores = self._reader.scores
        self.rows = rows or ChannelRows(contract, scores, rows=1)
        self._lease = self.rows.lease()
        self.row = row = self._lease.row
        """Its place in `rows`."""
        self._floor = NoiseFloorMeter()
        self._losses = LossJoin(contract, scores.layout, rate_hz, rows=self.rows.losses, row=row)
        self._certain: list[SpeechLoss] = []
        self._tracker = EventTracker(contract, scores, skip=("dropout",), rows=self.rows.events, row=row)
        self._summary = SummaryMeter(
            contract, scores.layout, rows=self.rows.summary, row=row, on_levels=self._floor.push
        )
        self._noise = contract.index("noise")
        self._refiner = EventRefiner(contract, show_digits=show_digits, pool=self.rows.tones)
        self._buffer = SampleBuffer()
        self._known: int | None = None  # what the meter last told
        self._taken = 0  # position of the first sample that is in no chunk yet
        # Past samples to keep for mirroring at the end: they cover the look-ahead, the last frame and its window.
        self._reach = (contract.lookahead_frames + 1) * self._spec.frame_samples + self._spec.overlap_samples
        self._hop, self._overlap = self._spec.hop_samples, self._spec.overlap_samples
        self._received = 0  # samples at the model's rate
        self._rows_out = 0  # score rows received, look-ahead included
        self._frame_total: int | None = None  # known at the end
        self._kept: list[Float32] | None = [] if keep_frames else None
        self._events: list[Event] = []
        self._events_found = 0
        self._event_counts: dict[str, int] = {}
        self._max_events = max_events
        self._gap = 0  # samples of a gap that is not bridged yet
        self._head: list[Float32] = []  # sound after it, as pushed
        self._skipped = 0  # frames skipped before the next one
        self._on_heard = on_heard

    @property
    def samples_in(self) -> int:
        """Samples pushed so far, at the stream's own rate."""
        return self._resampler.samples_in - self._line.filled + sum(map(len, self._head))

    @property
    def piece_samples(self) -> int:
        """Samples at the stream's own rate that are measured at a time."""
        return self._meter.piece_samples

    @property
    def position(self) -> int:
        """Samples so far at the stream's own rate, gaps included."""
        return self.samples_in + self._line.missing_samples

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
    def _frames_done(self) -> int:
        """Frames whose scores were accepted."""
        return int(self.rows.events.frames[self.row])

    @property
    def frames_done(self) -> int:
        """Frames whose scores were accepted, or that were skipped because they were not received."""
        return self._frames_done + self._skipped

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
            if self._gap:
                self._hear(samples)
            else:
                self._take(samples)
            return
        if self._is_16_bit:
            raise RuntimeError("expected samples that were converted from 16 bits, got float samples")
        peak = max(float(samples.max()), -float(samples.min()))
        if not peak <= MAX_MAGNITUDE:  # also true if it is NaN
            raise InvalidAudio(
                f"expected float samples around ±1, got a magnitude of {peak:g}: the recording seems to be scaled as "
                "integers; divide by 32768 (16 bit) or save it as integer PCM",
                magnitude=peak,
            )
        self._hear(samples, clip=peak > 1.0)

    def gap(self, samples: int, kind: GapKind) -> None:
        """Note that audio was not received between what was pushed and what follows; see `speech_qc.pipeline.gaps`.

        Args:
            samples: Length of the gap at `rate_hz`.
            kind: Why it is missing.
        """
        if self._frame_total is not None or not self._has_gaps:
            raise RuntimeError("gap after finish, or in a session that was made without gaps")
        if samples <= 0:
            return
        if self._head:
            self._bridge()
        self._line.add(samples, kind, self.samples_in)
        self._gap += samples

    @staticmethod
    def measure_ends(sessions: Iterable[Session]) -> None:
        """Measure the last samples of streams without gaps, those of a pool together; `finish` of each must follow."""
        measure_ends(session._meter for session in sessions)

    def finish(self) -> None:
        """End the audio: fix the number of frames and make the end available for scoring.

        The last windows and the look-ahead reach beyond the end. They contain the sound mirrored, so that the end is
        not mistaken for a dropout.
        """
        if self._frame_total is not None:
            raise RuntimeError("finish was called twice: a session records one stream")
        if self._gap:
            self._bridge()
        self.rows.session.plain[self.row] = False
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
        return chunk

    def untake(self, hops: int) -> None:
        """Undo the last `take`, of this many hops, whose scores never came; no other chunk was taken since."""
        self._taken -= hops * self._hop

    def accept(self, reading: ChunkReading) -> Update:
        """Accept the scores of the next chunk, as read by the engine's `read_out`, in the order of `take`."""
        block, row, tail = reading.block, self.row, self.rows.session.tail
        count, before = block.frames, self._rows_out
        late = max(0, self.contract.lookahead_frames - before)  # rows for the time before the start
        self._rows_out += count
        stop = count if self._frame_total is None else min(count, late + self._frame_total - self._frames_done)
        if late or stop < count:
            block = self._reader.scores.read_one(block.scores[late:stop])
            count = block.frames
        levels = np.concatenate((tail[row, : min(before, tail.shape[1])], reading.level_dbfs))
        rest = levels[count : count + tail.shape[1]]
        tail[row, : len(rest)] = rest
        is_bridged = bool(self._line.bridges)
        take = self._take_bridged if is_bridged else self._take_frames
        update = take(block, levels[:count])
        # A bridge needs care until the frames after it, and after what it skips, are scored.
        bridged = is_bridged and self._line.bridges[-1].stop_frame >= self._frames_done
        self.rows.session.plain[row] = not (
            bridged or self._frame_total is not None or self._kept is not None or self._rows_out < tail.shape[1]
        )
        return update

    def _take_frames(self, block: ScoreBlock, levels: Float32, missing: NDArray[np.bool_] | None = None) -> Update:
        """Take the next frames; those that are `missing` touch a bridge, and are in no measure."""
        first = self._frames_done
        news, changed = self.rows.advance(np.array([self.row]), [self], alone(block), levels[None], missing)
        events: list[EventUpdate] = []
        if news[0] or self.done:
            events = self.look(block, levels, changed=bool(changed[0]))
        if self._kept is not None:
            self._kept.append(block.shown.copy())
        return Update(first + self._skipped, block, events)

    def look(self, block: ScoreBlock, levels: Float32, *, changed: bool) -> list[EventUpdate]:
        """Look at frames that `ChannelRows.advance` has taken and that have news.

        Args:
            block: The frames.
            levels: Their levels, float32 (n,), dBFS.
            changed: Whether tracks must be scanned.

        Returns:
            The updates of events, in order.
        """
        losses, self._certain = self._certain, []
        news = self._tracker.scan(block, levels, losses) if changed else self._tracker.lost(losses)
        ended = self.done
        if ended:
            last = self._losses.finish()
            news = news + self._tracker.finish(last)
            losses = losses + last
        self._summary.add_losses(losses)
        return self._announced(self._frames_done - block.frames, block, news, done=ended)

    def collect_losses(self) -> None:
        """Take the losses that the samples told, before frames after them are scored."""
        self._hold(self._meter.collect())
        self.rows.session.known[self.row] = NEVER

    def join_losses(self) -> None:
        """Take the losses that are certain now, before their scores are overwritten."""
        self._certain += self._losses.due()

    def _announced(self, first: int, block: ScoreBlock, news: list[EventUpdate], *, done: bool) -> list[EventUpdate]:
        if not self._refiner.busy:
            self._refiner.skip_to(first)
        news = self._refiner.refine(first, block, news, self._buffer.view, done=done)
        self.rows.session.watched[self.row] = self._refiner.busy
        if news and self._line.skipped_frames:
            news = [self._line.placed(update) for update in news]
        self._note(news)
        return news

    def _take_bridged(self, block: ScoreBlock, levels: Float32) -> Update:
        """Take the next frames, of which some may touch a bridge or follow a skip."""
        first, total = self._frames_done, block.frames
        skips = self._line.skips(first, first + total)
        updates: list[Update] = []
        start = 0
        for stop, skipped in [(frame - first, frames) for frame, frames in skips] + [(total, 0)]:
            part = block if stop - start == total else self._reader.scores.read_one(block.scores[start:stop])
            missing = self._line.missing(first + start, stop - start)
            if missing is not None:
                part = self._without(part, missing)
            update = self._take_frames(part, levels[start:stop], missing)
            if skipped:
                ends = self._announced(self._frames_done, self._nothing(), self._tracker.cut(), done=False)
                update = replace(update, events=update.events + ends)
                self._skipped += skipped
                if self._kept is not None:
                    self._kept.append(np.full((skipped, part.shown.shape[1]), np.nan, np.float32))
            updates.append(update)
            start = stop
        for i in range(len(updates) - 1, 0, -1):
            updates[i - 1] = replace(updates[i - 1], rest=updates[i])
        return updates[0]

    def _nothing(self) -> ScoreBlock:
        return self._reader.scores.read_one(np.zeros((0, len(self.contract.labels)), np.float32))

    def _without(self, block: ScoreBlock, missing: NDArray[np.bool_]) -> ScoreBlock:
        """Return a block whose missing frames are shown as NaN; in them, the scores before are held for events."""
        scores = block.scores.copy()
        for frame in np.flatnonzero(missing).tolist():
            scores[frame] = scores[frame - 1] if frame else self._summary.last_scores
        held = self._reader.scores.read_one(scores)
        held.shown[missing] = np.nan
        return held._replace(made_text=None)

    def levels(self) -> Levels:
        """Level measures of everything pushed so far; more audio may follow."""
        return self._meter.result()

    def transport(self) -> Transport:
        """What was not received so far."""
        return self._line.report(self.samples_in)

    def record(self, profile: Profile, cancellation_db: float | None = None) -> ChannelRecord:
        """Return the results of the stream so far; final when it is done.

        Args:
            profile: Limits of the verdict.
            cancellation_db: Level that was lost by mixing, if this is the mean of several channels.
        """
        received = self.samples_in
        measured, summary = self._meter.result(), self._summary.result().without(self._refiner.dropped_frames)
        floor = copy.deepcopy(self._floor)  # more frames may follow
        floor.push(self._summary.unfinished[1])
        floor_dbfs = floor.result(measured.dc_offset)
        levels = replace(measured, noise_floor_dbfs=floor_dbfs, cancellation_db=cancellation_db)
        figures: Mapping[str, float | None] = asdict(levels)
        heard_s = received / self.rate_hz
        verdict = judge(profile, duration_s=heard_s, summary=summary, levels=figures, event_counts=self._event_counts)
        width = len(self.contract.labels)
        frames = None
        if self._kept is not None:
            frames = np.concatenate(self._kept) if self._kept else np.zeros((0, width), np.float32)
        return ChannelRecord(
            duration_s=self.position / self.rate_hz,
            frame_total=self.frames_done,
            frames=frames,
            events=sorted(self._events, key=lambda event: event.event_id),
            events_dropped=self._events_found - len(self._events),
            levels=levels,
            summary=summary,
            verdict=verdict,
            transport=self.transport() if self._line.count else None,
        )

    def _hear(self, samples: Float32, *, clip: bool = False, bridge: bool = False) -> None:
        """Take samples at their own rate; the first ones after a gap are kept until they suffice for its bridge."""
        if self._gap and len(samples):
            self._head.append(samples)
            if sum(map(len, self._head)) >= self._line.joint_samples:
                self._bridge()
            return
        self._take(samples, clip=clip, bridge=bridge)

    def _take(self, samples: Float32, *, clip: bool = False, bridge: bool = False) -> None:
        """Measure samples, and make them available for scoring."""
        meter = self._meter
        meter.push(samples, bridge=bridge)
        if meter.known != self._known:
            self._known = meter.known
            if self._known is not None:
                self.rows.session.known[self.row] = self._losses.frame_after(self._known)
        if clip:
            samples = np.clip(samples, -1.0, 1.0)
        self._append(self._resampler.push(samples))

    def _bridge(self) -> None:
        """Bridge the gap, then take the samples after it."""
        gap, self._gap = self._gap, 0
        self.rows.session.plain[self.row] = False
        head, self._head = np.concatenate([np.zeros(0, np.float32), *self._head]), []
        count = self._line.bridge(gap, self._resampler.samples_in, self._frames_done)
        after = np.clip(head[: self._line.joint_samples], -1.0, 1.0)
        before = np.clip(self._meter.last(count), -1.0, 1.0)
        self._hear(bridge_samples(before, count, after), bridge=True)
        self._hear(head, clip=True)

    def _hold(self, losses: Sequence[Loss]) -> None:
        """Pass losses on to be joined with the scores of their frames; what touches a bridge is none."""
        if self._line.bridges:
            losses = [loss for loss in losses if not self._line.touches(loss.start, loss.stop)]
        if losses:
            self._losses.push([LossSpan(loss.kind, loss.start, loss.stop, loss.known, loss.sure) for loss in losses])

    def _append(self, samples: Float32) -> None:
        if self._on_heard is not None:
            for position, piece in self._line.received(self._received, samples):
                self._on_heard(position, piece)
        # Before the samples are added: then the scores of earlier chunks are there, and less is kept. The refiner is
        # behind these scores, so it also needs the chunk whose scores are still to come, which `untake` may need.
        if not self._refiner.busy:
            self._refiner.skip_to(self._frames_done)
        self._buffer.release(min(self._received - self._reach, self._refiner.first_needed))
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
