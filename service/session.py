"""One stream's record: samples in, chunks out, scores in, answers out. The one path for files and live audio.

A session belongs to one channel. It resamples, cuts chunks for the engine, keeps frame times true although the model
looks ahead, and follows events, levels and summary. It must not know HTTP, sockets or asyncio, and it never runs a
model: its owner carries chunks to the engine and scores back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.audio.features import frame_count, frame_levels_dbfs
from service.audio.levels import LevelMeter, Levels
from service.audio.resample import Resampler
from service.contract import ModelContract
from service.errors import InvalidAudio
from service.scoring import Event, EventTracker, EventUpdate, Profile, Summary, SummaryMeter, Verdict, judge

Float32 = NDArray[np.float32]

MAX_MAGNITUDE = 64.0
"""36 dB above full scale: float recordings overshoot a little, but never by this much unless scaled as integers."""


@dataclass(frozen=True, slots=True)
class Update:
    """What one chunk's scores added to the stream.

    Attributes:
        first_frame: Absolute index of the first frame in `scores`.
        scores: float32 (n, C), measures NaN where there is no speech to measure; n may be 0.
        events: News of events, in order.
    """

    first_frame: int
    scores: Float32
    events: list[EventUpdate]


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """Everything that is said of one channel at its end.

    Attributes:
        frames: float32 (M, C), NaN where there is no value; None when the session did not keep them.
        events_dropped: Events that were found but not kept, because there were more than the limit.
    """

    duration_s: float
    frame_total: int
    frames: Float32 | None
    events: list[Event]
    events_dropped: int
    levels: Levels
    summary: Summary
    verdict: Verdict


@dataclass(slots=True)
class _Pending:
    """Resampled samples from an absolute position on, and the levels of frames whose scores are not back yet."""

    samples: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    start: int = 0
    levels_dbfs: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))


class Session:
    """State of one channel's stream; owned by one task, not thread-safe.

    Call `push` with audio, `take` while it gives chunks, `accept` with the scores of each chunk in order; after the
    last audio `finish`, then `take` and `accept` until nothing is left, then `record`.

    Args:
        contract: The model's contract.
        rate_hz: Rate of what is pushed.
        keep_frames: Keep all scores for the record; without it memory is constant.
        max_events: Events kept for the record; further ones are only counted.

    Raises:
        InvalidAudio: The rate is not one that can be served.
    """

    def __init__(
        self, contract: ModelContract, rate_hz: int, *, keep_frames: bool = False, max_events: int = 10_000
    ) -> None:
        self.contract = contract
        self.rate_hz = rate_hz
        self._spec = contract.features
        self._resampler = Resampler(rate_hz, self._spec.sample_rate_hz)
        self._meter = LevelMeter(rate_hz)
        self._tracker = EventTracker(contract)
        self._summary = SummaryMeter(contract)
        self._speech = contract.index("speech")
        self._speech_enter = np.float32(contract.labels[self._speech].enter or 0.5)
        self._measures = [i for i, label in enumerate(contract.labels) if label.kind != "probability"]
        self._pending = _Pending()
        # Enough of the past to mirror it at the end: what the look-ahead, the last frame and its window reach for.
        reach = (contract.lookahead_frames + 1) * self._spec.frame_samples + self._spec.overlap_samples
        self._tail = np.zeros(0, np.float32)
        self._tail_samples = reach
        self._received = 0  # samples at the model's rate
        self._rows_out = 0  # score rows that came back, look-ahead included
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
        """Samples so far at the model's rate, those that the resampler holds back not counted."""
        return self._received

    @property
    def samples_waiting(self) -> int:
        """Samples at the model's rate that are in no chunk yet; what a live stream's owner keeps bounded."""
        return len(self._pending.samples)

    @property
    def samples_taken(self) -> int:
        """Samples at the model's rate before the end of the last chunk, what its windows reach beyond not counted."""
        return self._pending.start

    @property
    def resampler_latency_s(self) -> float:
        """Seconds that the resampler may hold samples back at worst."""
        return self._resampler.latency_samples / self._spec.sample_rate_hz

    @property
    def frames_done(self) -> int:
        """Frames whose scores were accepted."""
        return self._frames_done

    @property
    def finished(self) -> bool:
        """Whether `finish` was called: no more audio will come."""
        return self._frame_total is not None

    @property
    def done(self) -> bool:
        """Whether `finish` was called and every frame has its scores."""
        return self._frame_total is not None and self._frames_done >= self._frame_total

    @property
    def remaining_hops(self) -> int:
        """After `finish`: hops that are still to be taken; before it: hops that a window is complete for."""
        hop = self._spec.hop_samples
        taken = self._pending.start // hop
        if self._frame_total is not None:
            total = (self._frame_total + self.contract.lookahead_frames) * self._spec.hops_per_frame
            return max(0, total - taken) if self._frame_total else 0
        return max(0, (len(self._pending.samples) - self._spec.overlap_samples) // hop)

    def push(self, samples: Float32) -> None:
        """Take audio of any length.

        Args:
            samples: float32 (n,) at `rate_hz`; finite. What is beyond full scale is measured as it is, but scored
                clipped, as every converter would play it.

        Raises:
            InvalidAudio: Samples so large that the scale must be another one.
        """
        if self._frame_total is not None:
            raise RuntimeError("push after finish: a session records one stream")
        peak = max(float(samples.max()), -float(samples.min())) if samples.size else 0.0
        if peak > MAX_MAGNITUDE:
            raise InvalidAudio(
                f"expected float samples around ±1, came a magnitude of {peak:g}: the recording seems to be scaled as "
                "integers; divide by 32768 (16 bit) or save it as integer PCM",
                magnitude=peak,
            )
        self._meter.push(samples)
        self._append(self._resampler.push(np.clip(samples, -1.0, 1.0) if peak > 1.0 else samples))

    def finish(self) -> None:
        """There is no more audio: fix the number of frames and let the end be scored.

        The last windows and the look-ahead reach beyond the end; they hear the sound mirrored, so that an end is not
        taken for a dropout.
        """
        if self._frame_total is not None:
            raise RuntimeError("finish was called twice: a session records one stream")
        self._append(self._resampler.finish())
        self._frame_total = frame_count(self._received, self._spec)
        if self._frame_total == 0:
            return
        end = (self._frame_total + self.contract.lookahead_frames) * self._spec.frame_samples
        missing = end + self._spec.overlap_samples - self._received
        mirrored = np.pad(self._tail, (0, missing), mode="symmetric")[len(self._tail) :]
        self._pending.samples = np.concatenate([self._pending.samples, mirrored])

    def take(self, hops: int) -> Float32 | None:
        """Cut the next chunk.

        Args:
            hops: Length of the lane, T.

        Returns:
            float32 (hops * hop + overlap,), or None when there is not enough audio yet or nothing left. After
            `finish` the last chunk is filled up with zeros, whose scores `accept` discards.
        """
        spec = self._spec
        size = hops * spec.hop_samples + spec.overlap_samples
        if self._frame_total is None:
            if len(self._pending.samples) < size:
                return None
        elif self.remaining_hops == 0:
            return None
        chunk = self._pending.samples[:size]
        if len(chunk) < size:
            chunk = np.concatenate([chunk, np.zeros(size - len(chunk), np.float32)])
        own = hops * spec.hop_samples
        self._pending.levels_dbfs = np.concatenate([self._pending.levels_dbfs, frame_levels_dbfs(chunk[:own], spec)])
        rest = self._pending.samples[own:]
        # A small rest is copied: a view would keep the audio before it in memory for as long as a stream pauses.
        self._pending.samples = rest.copy() if len(rest) <= own else rest
        self._pending.start += own
        return chunk

    def accept(self, scores: Float32) -> Update:
        """Take the scores of the next chunk, in the order of `take`.

        Args:
            scores: float32 (hops / 2, C) as the model gave them.
        """
        late = max(0, self.contract.lookahead_frames - self._rows_out)  # rows that speak of before the start
        self._rows_out += len(scores)
        scores = scores[late:]
        if self._frame_total is not None:
            scores = scores[: self._frame_total - self._frames_done]
        count, first = len(scores), self._frames_done
        levels, self._pending.levels_dbfs = (
            self._pending.levels_dbfs[:count],
            self._pending.levels_dbfs[count:],
        )
        self._frames_done += count
        self._summary.push(scores, levels)
        news = self._tracker.push(scores, levels)
        if self.done:
            news = news + self._tracker.finish()
        self._note(news)
        shown = self._blank(scores)
        if self._kept is not None:
            self._kept.append(shown)
        return Update(first, shown, news)

    def levels(self) -> Levels:
        """Level measures of everything pushed so far; the stream may go on."""
        return self._meter.result()

    def record(self, profile: Profile) -> ChannelRecord:
        """Say everything about the stream so far; final when it is done."""
        duration_s = self._resampler.samples_in / self.rate_hz
        levels, summary = self._meter.result(), self._summary.result()
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

    def _append(self, samples: Float32) -> None:
        if not len(samples):
            return
        self._received += len(samples)
        self._pending.samples = np.concatenate([self._pending.samples, samples])
        if len(samples) < self._tail_samples:
            samples = np.concatenate([self._tail, samples])
        self._tail = samples[-self._tail_samples :].copy()

    def _blank(self, scores: Float32) -> Float32:
        """Replace measures by NaN in frames without speech: there is nothing to measure."""
        shown = scores.copy()
        silent = scores[:, self._speech] < self._speech_enter
        for column in self._measures:
            shown[silent, column] = np.nan
        return shown

    def _note(self, news: list[EventUpdate]) -> None:
        for update in news:
            if update.phase == "end":
                self._events_found += 1
                label = update.event.label
                self._event_counts[label] = self._event_counts.get(label, 0) + 1
                if len(self._events) < self._max_events:
                    self._events.append(update.event)
