"""The state of one channel: samples in, chunks out, scores in, results out. Files and live audio share this path.

A session belongs to one channel. It resamples, measures levels and cuts chunks for the engine; its `ChannelScores` keep
frame times correct although the model looks ahead, and track events and the summary. A session must not use HTTP,
sockets or asyncio, and it never runs a model: its owner passes chunks to the engine and scores back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.buffer import SampleBuffer
from speech_qc.audio.features import frame_count
from speech_qc.audio.levels import Levels
from speech_qc.audio.resample import Resampler
from speech_qc.contract import ModelContract
from speech_qc.errors import InvalidAudio
from speech_qc.pipeline.channel_meter import ChannelMeter, MeterPool, OnPiece, measure_ends
from speech_qc.pipeline.channel_rows import ChannelRows
from speech_qc.pipeline.channel_scores import ChannelScores, Update
from speech_qc.pipeline.chunk_reader import ChunkReader, ChunkReading
from speech_qc.pipeline.gaps import GapLine, Transport
from speech_qc.scoring import Event, Profile, Summary, Verdict, judge
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

MAX_MAGNITUDE = 64.0
"""36 dB above full scale: float recordings overshoot a little, but only those scaled as integers reach this."""


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
        self._spec = spec = contract.features
        self._resampler = Resampler(rate_hz, spec.sample_rate_hz)
        self._line = GapLine(rate_hz, spec)
        self._has_gaps = gaps
        history = self._line.tail_samples if gaps else 0
        self._meter = ChannelMeter(rate_hz, on_piece, pool, history, is_16_bit=is_16_bit)
        self._is_16_bit = is_16_bit
        self._buffer = SampleBuffer()
        reader = reader or ChunkReader(contract)
        self.scores = ChannelScores(
            contract,
            reader,
            rows or ChannelRows(contract, reader.scores, rows=1),
            self._line,
            self._meter,
            self._buffer,
            rate_hz,
            keep_frames=keep_frames,
            max_events=max_events,
            show_digits=show_digits,
        )
        """What was found in the scores so far."""
        self._known: int | None = None  # what the meter last told
        self.taken = 0
        """Samples at the model's rate before the end of the last chunk, excluding the overlap of its windows."""
        # Past samples to keep for mirroring at the end: they cover the look-ahead, the last frame and its window.
        self._reach = (contract.lookahead_frames + 1) * spec.frame_samples + spec.overlap_samples
        self._hop, self._overlap = spec.hop_samples, spec.overlap_samples
        self.received = 0
        """Samples so far at the model's rate, excluding those that the resampler delays."""
        self._on_heard = on_heard

    @property
    def samples_in(self) -> int:
        """Samples pushed so far, at the stream's own rate."""
        return self._resampler.samples_in - self._line.filled + self._line.held_samples

    @property
    def piece_samples(self) -> int:
        """Samples at the stream's own rate that are measured at a time."""
        return self._meter.piece_samples

    @property
    def position(self) -> int:
        """Samples so far at the stream's own rate, gaps included."""
        return self.samples_in + self._line.missing_samples

    @property
    def samples_waiting(self) -> int:
        """Samples at the model's rate that are in no chunk yet; the owner of a live stream keeps this bounded."""
        return self._buffer.end - self.taken

    @property
    def resampler_latency_s(self) -> float:
        """Maximum delay of the resampler, seconds."""
        return self._resampler.latency_samples / self._spec.sample_rate_hz

    @property
    def frames_done(self) -> int:
        """Frames whose scores were accepted, or that were skipped because they were not received."""
        return self.scores.frames_done

    @property
    def finished(self) -> bool:
        """Whether `finish` was called: no more audio is accepted."""
        return self.scores.total is not None

    @property
    def remaining_hops(self) -> int:
        """After `finish`: hops not taken yet; before it: hops whose window is complete."""
        hop = self._hop
        total = self.scores.total
        if total is not None:
            hops = (total + self.contract.lookahead_frames) * self._spec.hops_per_frame
            return max(0, hops - self.taken // hop) if total else 0
        return max(0, (self._buffer.end - self.taken - self._overlap) // hop)

    def push(self, samples: Float32, *, bounded: bool = False) -> None:
        """Accept audio of any length.

        Args:
            samples: float32 (n,) at `rate_hz`; finite. Samples beyond full scale are measured unchanged, but clipped
                for scoring, as a D/A converter would clip them.
            bounded: The samples were converted from integers, so they are finite and within full scale.

        Raises:
            InvalidAudio: The samples are not finite, or so large that their scale must be wrong.
        """
        if self.scores.total is not None:
            raise RuntimeError("push after finish: a session records one stream")
        clip = not bounded and len(samples) > 0 and self._overshoots(samples)
        if not self._line.gap:
            self._take(samples, clip=clip)
        elif len(samples) and self._line.hold(samples):  # the first ones after a gap are kept until its bridge is
            self._bridge()

    def _overshoots(self, samples: Float32) -> bool:
        """Return whether float samples go beyond full scale; see `push`."""
        if self._is_16_bit:
            raise RuntimeError("expected samples that were converted from 16 bits, got float samples")
        peak = max(float(samples.max()), -float(samples.min()))
        if not peak <= MAX_MAGNITUDE:  # also true if it is NaN
            raise InvalidAudio(
                f"expected float samples around ±1, got a magnitude of {peak:g}: the recording seems to be scaled as "
                "integers; divide by 32768 (16 bit) or save it as integer PCM",
                magnitude=peak,
            )
        return peak > 1.0

    def gap(self, samples: int, kind: GapKind) -> None:
        """Note that audio was not received between what was pushed and what follows; see `speech_qc.pipeline.gaps`.

        Args:
            samples: Length of the gap at `rate_hz`.
            kind: Why it is missing.
        """
        if self.scores.total is not None or not self._has_gaps:
            raise RuntimeError("gap after finish, or in a session that was made without gaps")
        if samples <= 0:
            return
        if self._line.held_samples:
            self._bridge()
        self._line.add(samples, kind, self.samples_in)

    @staticmethod
    def measure_ends(sessions: Iterable[Session]) -> None:
        """Measure the last samples of streams without gaps, those of a pool together; `finish` of each must follow."""
        measure_ends(session._meter for session in sessions)

    def finish(self) -> None:
        """End the audio: fix the number of frames and make the end available for scoring.

        The last windows and the look-ahead reach beyond the end. They contain the sound mirrored, so that the end is
        not mistaken for a dropout.
        """
        if self.scores.total is not None:
            raise RuntimeError("finish was called twice: a session records one stream")
        if self._line.gap:
            self._bridge()
        self._append(self._resampler.finish())
        total = frame_count(self.received, self._spec)
        self.scores.end(total)
        if total == 0:
            return
        end = (total + self.contract.lookahead_frames) * self._spec.frame_samples
        missing = end + self._spec.overlap_samples - self.received
        tail = self._buffer.view(max(0, self.received - self._reach), self.received)
        self._buffer.append(np.pad(tail, (0, missing), mode="symmetric")[len(tail) :])

    def take(self, hops: int) -> Float32 | None:
        """Cut the next chunk.

        Args:
            hops: Hops per chunk of the lane, T.

        Returns:
            float32 (hops * hop + overlap,), valid until the next `push`; None if there is not enough audio yet or
            nothing left. After `finish`, the last chunk is padded with zeros, whose scores `accept` discards.
        """
        if self.remaining_hops < (hops if self.scores.total is None else 1):
            return None
        own = hops * self._hop
        size = own + self._overlap
        chunk = self._buffer.view(self.taken, self.taken + size)
        if len(chunk) < size:
            chunk = np.concatenate([chunk, np.zeros(size - len(chunk), np.float32)])
        self.taken += own
        return chunk

    def untake(self, hops: int) -> None:
        """Undo the last `take`, of this many hops, whose scores never came; no other chunk was taken since."""
        self.taken -= hops * self._hop

    def accept(self, reading: ChunkReading) -> Update:
        """Accept the scores of the next chunk, as read by the engine's `read_out`, in the order of `take`."""
        return self.scores.accept(reading.block, reading.level_dbfs)

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
        scores, measured = self.scores, self._meter.result()
        summary, (events, dropped) = scores.summary(), scores.kept_events()
        floor_dbfs = scores.noise_floor_dbfs(measured.dc_offset)
        levels = replace(measured, noise_floor_dbfs=floor_dbfs, cancellation_db=cancellation_db)
        figures: Mapping[str, float | None] = asdict(levels)
        heard_s = received / self.rate_hz
        verdict = judge(profile, duration_s=heard_s, summary=summary, levels=figures, event_counts=scores.event_counts)
        return ChannelRecord(
            duration_s=self.position / self.rate_hz,
            frame_total=self.frames_done,
            frames=scores.kept_frames(),
            events=events,
            events_dropped=dropped,
            levels=levels,
            summary=summary,
            verdict=verdict,
            transport=self.transport() if self._line.count else None,
        )

    def _take(self, samples: Float32, *, clip: bool = False, bridge: bool = False) -> None:
        """Measure samples, and make them available for scoring."""
        meter = self._meter
        meter.push(samples, bridge=bridge)
        if meter.known != self._known:
            self._known = meter.known
            if self._known is not None:
                self.scores.expect(self._known)
        if clip:
            samples = np.clip(samples, -1.0, 1.0)
        self._append(self._resampler.push(samples))

    def _bridge(self) -> None:
        """Bridge the gap, then take the samples after it."""
        self.scores.need_care()
        count = self._line.bridge(self._resampler.samples_in, self.scores.frames)
        bridge, head = self._line.joined(self._meter.last(count), count)
        self._take(bridge, bridge=True)
        self._take(head, clip=True)

    def _append(self, samples: Float32) -> None:
        if self._on_heard is not None:
            for position, piece in self._line.received(self.received, samples):
                self._on_heard(position, piece)
        # Before the samples are added: then the scores of earlier chunks are there, and less is kept. The refiner is
        # behind these scores, so it also needs the chunk whose scores are still to come, which `untake` may need.
        self._buffer.release(min(self.received - self._reach, self.scores.first_needed()))
        self.received += len(samples)
        self._buffer.append(samples)
