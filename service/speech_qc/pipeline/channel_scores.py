"""The scores of one channel: frames in, and the events, losses and measures that are found in them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.buffer import SampleBuffer
from speech_qc.audio.losses import Loss
from speech_qc.audio.noise_floor import NoiseFloorMeter
from speech_qc.contract import ModelContract
from speech_qc.pipeline.channel_meter import ChannelMeter
from speech_qc.pipeline.channel_rows import ChannelRows
from speech_qc.pipeline.chunk_reader import ChunkReader
from speech_qc.pipeline.gaps import GapLine
from speech_qc.pipeline.refiner import EventRefiner
from speech_qc.scoring import (
    Event,
    EventTracker,
    EventUpdate,
    LossJoin,
    LossSpan,
    ScoreBatch,
    ScoreBlock,
    SpeechLoss,
    Summary,
    SummaryMeter,
)
from speech_qc.scoring.events import NOT_FROM_SCORES
from speech_qc.scoring.rows import NEVER

Float32 = NDArray[np.float32]


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


class ChannelScores:
    """What is found in the scores of one channel; owned by its session, not thread-safe.

    Args:
        contract: The model's contract.
        reader: Reader for the same contract.
        rows: Rows that it shares with other channels of the same thread.
        line: The gaps of the channel.
        meter: Tells the losses.
        sound: The latest samples, with which events are compared.
        rate_hz: Rate at which the meter measures.
        keep_frames: Keep all scores; otherwise memory use is constant.
        max_events: Maximum events kept; further ones are only counted.
        show_digits: Name the telephone keys in tones; otherwise they are masked.
    """

    def __init__(
        self,
        contract: ModelContract,
        reader: ChunkReader,
        rows: ChannelRows,
        line: GapLine,
        meter: ChannelMeter,
        sound: SampleBuffer,
        rate_hz: int,
        *,
        keep_frames: bool,
        max_events: int,
        show_digits: bool,
    ) -> None:
        self._reader, self._rows, self._line, self._meter, self._sound = reader.scores, rows, line, meter, sound
        self._width, self._noise = len(contract.labels), contract.index("noise")
        self._lease = rows.lease()
        self.row = row = self._lease.row
        """Its place in the rows."""
        layout = self._reader.layout
        self._floor = NoiseFloorMeter()
        self._losses = LossJoin(contract, layout, rate_hz, rows=rows.losses, row=row)
        self._certain: list[SpeechLoss] = []
        self._tracker = EventTracker(contract, self._reader, skip=NOT_FROM_SCORES, rows=rows.events, row=row)
        self._summary = SummaryMeter(contract, layout, rows=rows.summary, row=row, on_levels=self._floor.push)
        self._refiner = EventRefiner(contract, show_digits=show_digits, pool=rows.tones)
        self._late = contract.lookahead_frames  # rows of scores still to come for the time before the start
        self.total: int | None = None
        """All frames of the channel; known at the end."""
        self._skipped = 0  # frames skipped before the next one, because they were not received
        self._kept: list[Float32] | None = [] if keep_frames else None
        self._events: list[Event] = []
        self._events_found = 0
        self._max_events = max_events
        self.event_counts: dict[str, int] = {}
        """Events that have ended so far, by label, including those that are not kept."""

    @property
    def frames(self) -> int:
        """Frames whose scores were accepted."""
        return int(self._rows.events.frames[self.row])

    @property
    def frames_done(self) -> int:
        """Frames whose scores were accepted, or that were skipped because they were not received."""
        return self.frames + self._skipped

    def noisy_frames(self, *, whole: bool = False) -> int:
        """Frames with audible noise so far; without `whole`, about 2.5 s late but at no cost."""
        return self._summary.frames_with(self._noise, whole=whole)

    def first_needed(self) -> int:
        """Return the first sample of the sound that is still needed."""
        if not self._refiner.busy:
            self._refiner.skip_to(self.frames)
        return self._refiner.first_needed

    def expect(self, samples: int) -> None:
        """Note before which frame the losses must be collected that become known at a sample."""
        self._rows.session.known[self.row] = self._losses.frame_after(samples)

    def need_care(self) -> None:
        """Have the next chunk taken by `accept`: the end is near, or a gap."""
        self._rows.session.plain[self.row] = False

    def end(self, total: int) -> None:
        """Note the losses at the end of the sound, and the number of frames."""
        self.need_care()
        self._hold(self._meter.finish())
        self.total = total

    def accept(self, block: ScoreBlock, own_dbfs: Float32) -> Update:
        """Accept the scores of the next chunk, whatever precedes and follows it.

        Args:
            block: Its scores; those for the time before the start and after the end are discarded.
            own_dbfs: Levels of the chunk's own frames.
        """
        row, tail = self.row, self._rows.session.tail
        count, width = block.frames, tail.shape[1]
        late = min(count, self._late)
        stop = count if self.total is None else min(count, late + self.total - self.frames)
        if late or stop < count:
            block = self._reader.read_one(block.scores[late:stop])
            count = block.frames
        levels = np.concatenate((tail[row, : width - self._late], own_dbfs))
        self._late -= late
        rest = levels[count : count + width]
        tail[row, : len(rest)] = rest
        has_bridges = bool(self._line.bridges)
        update = (self._take_bridged if has_bridges else self._take)(block, levels[:count])
        # A bridge needs care until the frames after it, and after what it skips, are scored.
        bridged = has_bridges and self._line.bridges[-1].stop_frame >= self.frames
        self._rows.session.plain[row] = not (bridged or self._late or self.total is not None or self._kept is not None)
        return update

    def _take(self, block: ScoreBlock, levels: Float32, missing: NDArray[np.bool_] | None = None) -> Update:
        """Take the next frames; those that are `missing` touch a bridge, and are in no measure."""
        first = self.frames
        rows, alone = np.array([self.row]), ScoreBatch.alone(block)
        news, changed, suspect = self._rows.advance(rows, [self], alone, levels[None], missing)
        events: list[EventUpdate] = []
        if news[0] or self.done:
            events = self.look(block, levels, suspect[0], changed=bool(changed[0]))
        if self._kept is not None:
            self._kept.append(block.shown.copy())
        return Update(first + self._skipped, block, events)

    @property
    def done(self) -> bool:
        """Whether every frame up to the end has its scores."""
        return self.total is not None and self.frames >= self.total

    def look(
        self, block: ScoreBlock, levels: Float32, suspect: NDArray[np.bool_], *, changed: bool
    ) -> list[EventUpdate]:
        """Look at frames that `ChannelRows.advance` has taken and that have news.

        Args:
            block: The frames.
            levels: Their levels, float32 (n,), dBFS.
            suspect: Which of them are suspect, (n,).
            changed: Whether tracks must be scanned.

        Returns:
            The updates of events, in order.
        """
        losses, self._certain = self._certain, []
        news = self._tracker.scan(block, levels, losses) if changed else self._tracker.lost(losses)
        if self.done:
            last = self._losses.finish(self.frames)
            news = news + self._tracker.finish(last)
            losses = losses + last
        self._summary.add_losses(losses)
        return self._announced(block, news, suspect, done=self.done)

    def collect_losses(self) -> None:
        """Take the losses that the samples told, before frames after them are scored."""
        self._hold(self._meter.collect())
        self._rows.session.known[self.row] = NEVER

    def join_losses(self, frames: int) -> None:
        """Take the losses that are certain with so many frames, before their scores are overwritten."""
        self._certain += self._losses.due(frames)

    def _hold(self, losses: Sequence[Loss]) -> None:
        """Pass losses on to be joined with the scores of their frames; what touches a bridge is none."""
        if self._line.bridges:
            losses = [loss for loss in losses if not self._line.touches(loss.start, loss.stop)]
        if losses:
            self._losses.push([LossSpan(**asdict(loss)) for loss in losses])

    def _announced(
        self, block: ScoreBlock, news: list[EventUpdate], suspect: NDArray[np.bool_] | None = None, *, done: bool
    ) -> list[EventUpdate]:
        first = self.frames - block.frames
        if not self._refiner.busy:
            self._refiner.skip_to(first)
        news = self._refiner.refine(first, block, news, self._sound.view, done=done, suspect=suspect)
        self._rows.session.watched[self.row] = self._refiner.busy
        if news and self._line.skipped_frames:
            news = [self._line.placed(update) for update in news]
        for update in news:
            if update.phase == "end":
                self._events_found += 1
                label = update.event.label
                self.event_counts[label] = self.event_counts.get(label, 0) + 1
                if len(self._events) < self._max_events:
                    self._events.append(update.event)
        return news

    # -- gaps ---------------------------------------------------------------------------------------------------------

    def _take_bridged(self, block: ScoreBlock, levels: Float32) -> Update:
        """Take the next frames, of which some may touch a bridge or follow a skip."""
        first, total = self.frames, block.frames
        skips = [(frame - first, frames) for frame, frames in self._line.skips(first, first + total)]
        updates: list[Update] = []
        start = 0
        for stop, skipped in [*skips, (total, 0)]:
            part = block if stop - start == total else self._reader.read_one(block.scores[start:stop])
            missing = self._line.missing(first + start, stop - start)
            if missing is not None:
                part = self._without(part, missing)
            update = self._take(part, levels[start:stop], missing)
            if skipped:
                update = replace(update, events=update.events + self._skip(skipped))
            updates.append(update)
            start = stop
        for i in range(len(updates) - 1, 0, -1):
            updates[i - 1] = replace(updates[i - 1], rest=updates[i])
        return updates[0]

    def _skip(self, frames: int) -> list[EventUpdate]:
        """Skip frames that were not received, and return the events that end there."""
        nothing = self._reader.read_one(np.zeros((0, self._width), np.float32))
        ended = self._announced(nothing, self._tracker.cut(), done=False)
        self._skipped += frames
        if self._kept is not None:
            self._kept.append(np.full((frames, self._width), np.nan, np.float32))
        return ended

    def _without(self, block: ScoreBlock, missing: NDArray[np.bool_]) -> ScoreBlock:
        """Return a block whose missing frames are shown as NaN; in them, the scores before are held for events."""
        scores = block.scores.copy()
        for frame in np.flatnonzero(missing).tolist():
            scores[frame] = scores[frame - 1] if frame else self._summary.last_scores
        held = self._reader.read_one(scores)
        held.shown[missing] = np.nan
        return held._replace(made_text=None)

    # -- results so far -----------------------------------------------------------------------------------------------

    def summary(self) -> Summary:
        """Summarise all frames so far."""
        return self._summary.result().without(self._refiner.dropped_frames)

    def snr_db(self) -> float | None:
        """Signal-to-noise ratio of everything so far, dB; None if there is no speech to measure."""
        return self._summary.result().snr_db

    def noise_floor_dbfs(self, dc_offset: float | None) -> float | None:
        """Return the level of the quietest frames so far; see `NoiseFloorMeter.result`."""
        floor = copy.deepcopy(self._floor)  # more frames may follow
        floor.push(self._summary.unfinished[1])
        return floor.result(dc_offset)

    def kept_frames(self) -> Float32 | None:
        """Return all scores, float32 (M, C), NaN where there is no value; None if they are not kept."""
        if self._kept is None:
            return None
        return np.concatenate(self._kept) if self._kept else np.zeros((0, self._width), np.float32)

    def kept_events(self) -> tuple[list[Event], int]:
        """Return the events that are kept, in order, and the number of those that are not."""
        kept = sorted(self._events, key=lambda event: event.event_id)
        return kept, self._events_found - len(kept)
