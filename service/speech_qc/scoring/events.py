"""Turns frame scores into events: the start, end and severity of each disturbance.

Hysteresis per label: a segment starts at the first frame that reaches the enter threshold and ends before the first
one below the exit threshold. Segments of one label with a short gap between them are merged into one event; events that
are still too short are dropped. All positions are absolute frame indices. Memory is one small record per open event,
whatever the length of the stream.

Sums are fixed-point integers. Integer addition does not round, so an event's values are bit-identical however the
stream was split into blocks, and its sum is the exact difference of two running totals.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from speech_qc.contract import Family, ModelContract
from speech_qc.errors import ProtocolError
from speech_qc.scoring.details import DropoutDetail, EventDetail
from speech_qc.scoring.layout import LEVEL_FLOOR_DBFS, FloatArray, ScoreLayout, frames_reaching, power_of
from speech_qc.scoring.losses import SpeechLoss
from speech_qc.scoring.reading import SCORE_ONE, SNR_ONE, ScoreBatch, ScoreBlock, ScoreReader
from speech_qc.scoring.rows import NEVER, Column, Places, Rows
from speech_qc.scoring.severity import EventMeasures, rate
from speech_qc.wire.vocabulary import Phase, Severity

_POWER_ONE = 2.0**32
"""Fixed-point unit of power: resolves −96 dBFS, and an event can last a year at full scale before int64 overflows."""

NOT_FROM_SCORES = ("dropout",)
"""Labels whose events are made from losses that are found in the samples, not from scores."""


@dataclass(frozen=True, slots=True)
class Event:
    """A segment in which one label was found.

    Args:
        event_id: Counts up from 0 per tracker, in the order in which events became known.
        label: What was found.
        family: The label's family.
        onset_s: Start of its first frame, seconds from the start of the stream; of a dropout, of its first sample.
        offset_s: End of its last frame, or sample; None while the event is open.
        score_max: Highest score in [onset, offset), or so far.
        score_mean: Mean score over the same frames, merged gaps included.
        severity: Rated by `speech_qc.scoring.severity`.
        onset_frame: First frame of the event.
        offset_frame: First frame after the event; None while it is open.
        detail: Details of a dropout or a tone; None if there are none.
    """

    event_id: int
    label: str
    family: Family
    onset_s: float
    offset_s: float | None
    score_max: float
    score_mean: float
    severity: Severity
    onset_frame: int
    offset_frame: int | None
    detail: EventDetail | None = None


@dataclass(frozen=True, slots=True)
class EventUpdate:
    """An update of an event: `begin` once it is certain to be long enough, `end` once it can no longer be extended.

    Every `end` follows the `begin` with the same event_id.
    """

    phase: Phase
    event: Event
    known: int = 0
    """Frame with whose scores it became known."""


@dataclass(slots=True)
class _Track:
    """One label's event in progress: a running segment, or a gap that may still be merged.

    `before` and `after` are rows of running totals, at the onset and at the end of the last segment. `due` is the frame
    at which an update is due, unless the score crosses a threshold first.
    """

    onset: int
    due: int
    before: npt.NDArray[np.int64]
    after: npt.NDArray[np.int64]
    score_max: float = 0.0
    announced: bool = False
    event_id: int = -1
    end: int | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """One pushed block with running totals [n + 1, C + 3]: row i of `totals` is the total before local frame i."""

    first: int
    frames: int
    scores: FloatArray
    totals: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _News:
    """An update without a number yet; sorted by the frame at which it became known, then by column."""

    known: int
    column: int
    phase: Phase
    track: _Track
    score_max: float
    stop: int
    totals: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _LossNews:
    """A loss as news: it begins and ends at once."""

    known: int
    column: int
    loss: SpeechLoss


class EventRows(Rows):
    """What advances with every step although no event begins or ends: the tracks of many channels.

    Args:
        layout: Layout of the model's scores.
        rows: Number of rows.
    """

    frames: npt.NDArray[np.int64]
    """Frames so far."""
    followed: npt.NDArray[np.int64]
    """Bit c: scores of column c start events."""
    running: npt.NDArray[np.int64]
    """Bit c: a segment of column c is running."""
    due: npt.NDArray[np.int64]
    """First frame at which an update of a track is due."""
    tracked: npt.NDArray[np.int64]
    """Bit c: column c has a track, which runs or is in a gap."""
    totals: npt.NDArray[np.int64]
    """Running totals while there are tracks, [rows, C + 3]: scores, speech frames, dB over them, power."""
    highest: FloatArray
    """Highest score of each column since its track began or was last scanned, [rows, C]."""

    def __init__(self, layout: ScoreLayout, rows: int) -> None:
        columns = {
            "frames": Column((), np.int64),
            "followed": Column((), np.int64),
            "running": Column((), np.int64),
            "due": Column((), np.int64, NEVER),
            "tracked": Column((), np.int64),
            "totals": Column((layout.width + 3,), np.int64),
            "highest": Column((layout.width,), np.float32),
        }
        super().__init__(columns, rows)
        self._layout = layout

    def add(self, rows: Places, read: ScoreBatch, level_dbfs: FloatArray) -> npt.NDArray[np.bool_]:
        """Take the next frames of channels; continue the tracks of those in which nothing changes.

        Args:
            rows: [B].
            read: n frames of each.
            level_dbfs: float32 [B, n].

        Returns:
            [B], the channels in which something changes: `EventTracker.scan` must be called for them.
        """
        count = read.scores.shape[1]
        frames = self.frames[rows] + count
        self.frames[rows] = frames
        running = self.running[rows]
        tracked = self.tracked[rows]
        begun = self._reached(read, tracked) & ~running & self.followed[rows]
        crossed = begun | (read.fallen & running)
        changed: npt.NDArray[np.bool_] = (crossed != 0) | (self.due[rows] < frames)
        if not count:
            changed[:] = False
        steady = (tracked != 0) & ~changed
        if count and steady.any():
            own = rows[steady]
            self.totals[own, :-1] += read.totals[steady, -1]
            self.totals[own, -1] += _power_fixed(level_dbfs[steady]).sum(axis=1)
            # Tracks in a gap need no special case: no score there reaches the enter threshold, so none is a maximum.
            self.highest[own] = np.maximum(self.highest[own], read.scores[steady].max(axis=1))
        return changed

    def _reached(self, read: ScoreBatch, tracked: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the bits of the columns that reach their enter threshold, less those that cannot begin without speech.

        A column that has a track keeps its bit, so that its score in a gap is never taken for one of its event.
        """
        reached = read.reached
        for column in self._layout.spoken:
            in_doubt = ((reached & ~tracked) >> column & 1).nonzero()[0]
            if len(in_doubt):
                up = self._layout.begins(column, read.scores[in_doubt])
                reached = reached.copy()
                reached[in_doubt[~up.any(axis=1)]] &= ~(1 << column)
        return reached


class EventTracker:
    """Finds the events of one channel of one stream. Not thread-safe; lives as long as the stream.

    Args:
        contract: The model's contract: thresholds, minimum durations and merge gaps of every label.
        reader: Reader of the same contract, to share one between many trackers.
        skip: Labels whose scores start no events, because their events are found elsewhere.
        rows: Rows of many channels, of which this one's is `row`; None for rows of its own.
        row: Its row, which is clear.

    Raises:
        ContractError: A label that severity needs is missing.
    """

    def __init__(
        self,
        contract: ModelContract,
        reader: ScoreReader | None = None,
        *,
        skip: Collection[str] = (),
        rows: EventRows | None = None,
        row: int = 0,
    ) -> None:
        self._reader = reader or ScoreReader(contract)
        self._layout = layout = self._reader.layout
        hop_s = contract.features.frame_hop_s
        self._frame_samples = contract.features.frame_samples
        self._sample_rate_hz = contract.features.sample_rate_hz
        self._min_frames = [max(1, frames_reaching(label.min_duration_s, hop_s)) for label in contract.labels]
        # A gap has at least one frame, so 0 and 1 both mean that nothing is merged.
        self._merge_frames = [max(1, frames_reaching(label.merge_gap_s, hop_s)) for label in contract.labels]
        self._rows, self._row = rows or EventRows(layout, 1), row
        # Bits of columns.
        self._rows.followed[row] = ~sum(1 << layout.names.index(name) for name in skip if contract.has(name))
        self._dropout = layout.names.index("dropout") if contract.has("dropout") else None
        self._tracks: dict[int, _Track] = {}
        self._next_id = 0
        self._finished = False

    def push(self, scores: FloatArray, level_dbfs: FloatArray) -> list[EventUpdate]:
        """Process the next frames and return the updates that they cause.

        Args:
            scores: float32 [n, C], n >= 0, columns as in the contract. Not kept.
            level_dbfs: float32 [n], mean square of each frame, dBFS.

        Returns:
            Updates ordered by the frame at which they became known, then by column; the same however the stream is
            split into blocks.

        Raises:
            InferenceError: Wrong shape, wrong type, or a value that is not finite.
            ProtocolError: The stream has already been finished.
        """
        self._layout.check_block(scores, level_dbfs)
        return self.add(self._reader.read_one(scores), level_dbfs)

    def add(self, read: ScoreBlock, level_dbfs: FloatArray, losses: Sequence[SpeechLoss] = ()) -> list[EventUpdate]:
        """Process frames that have already been read; see `push`.

        Args:
            read: n frames from a reader of the same contract.
            level_dbfs: float32 [n], finite.
            losses: Losses that became certain with these frames; each is a dropout.
        """
        if self._finished:
            raise ProtocolError("expected no more scores after finish(), got a block: use a new tracker per stream")
        changed = self._rows.add(np.array([self._row]), ScoreBatch.alone(read), level_dbfs[None])[0]
        return self.scan(read, level_dbfs, losses) if changed else self.lost(losses)

    def lost(self, losses: Sequence[SpeechLoss]) -> list[EventUpdate]:
        """Return the updates of losses, each a dropout, when the scores change nothing."""
        return self._number(self._of_losses(losses)) if losses else []

    def scan(self, read: ScoreBlock, level_dbfs: FloatArray, losses: Sequence[SpeechLoss] = ()) -> list[EventUpdate]:
        """Process frames that `EventRows.add` has taken, and in which something changes; see `add`."""
        rows, row = self._rows, self._row
        stop, running = int(rows.frames[row]), int(rows.running[row])
        crossed = (read.reached & ~running & int(rows.followed[row])) | (read.fallen & running)
        columns = [c for c in range(self._layout.width) if crossed >> c & 1]
        columns += [c for c, track in self._tracks.items() if track.due < stop and c not in columns]
        news = self._of_losses(losses)
        block = _Block(stop - read.frames, read.frames, read.scores, self._run_totals(read, level_dbfs))
        for column, track in self._tracks.items():
            track.score_max = max(track.score_max, float(rows.highest[row, column]))
            if column not in columns and read.highest is not None:
                track.score_max = max(track.score_max, read.highest[column])
        for column in columns:
            self._scan(column, block, news)
        rows.totals[row] = block.totals[-1] if self._tracks else 0
        self._settle()
        return self._number(news)

    def _settle(self) -> None:
        """Note in the rows when to look at the tracks again."""
        rows, row, tracks = self._rows, self._row, self._tracks
        rows.tracked[row] = sum(1 << column for column in tracks)
        rows.due[row] = min((track.due for track in tracks.values()), default=NEVER)
        rows.running[row] = sum(1 << column for column, track in tracks.items() if track.end is None)
        rows.highest[row] = 0.0

    def finish(self, losses: Sequence[SpeechLoss] = ()) -> list[EventUpdate]:
        """End the stream: close open events, drop events that are too short.

        Args:
            losses: The last losses; each is a dropout.

        Returns:
            The last updates, by column; empty when called again.
        """
        self._finished = True
        return self._end_all(self._of_losses(losses))

    def cut(self) -> list[EventUpdate]:
        """End all events because the stream pauses here, as `finish` does; more frames may follow."""
        return self._end_all([])

    def _end_all(self, news: list[_News | _LossNews]) -> list[EventUpdate]:
        rows, row = self._rows, self._row
        for column, track in sorted(self._tracks.items()):
            if track.announced:
                highest = max(track.score_max, float(rows.highest[row, column]))
                frame, totals = int(rows.frames[row]), rows.totals[row].copy()
                stop, totals = (frame, totals) if track.end is None else (track.end, track.after)
                news.append(_News(frame, column, "end", track, highest, stop, totals))
        self._tracks.clear()
        rows.totals[row] = 0
        self._settle()
        return self._number(news)

    def _of_losses(self, losses: Sequence[SpeechLoss]) -> list[_News | _LossNews]:
        """Return losses as news; none if the model has no `dropout` label."""
        return [] if self._dropout is None else [_LossNews(loss.known, self._dropout, loss) for loss in losses]

    def _run_totals(self, read: ScoreBlock, level_dbfs: FloatArray) -> npt.NDArray[np.int64]:
        """Continue the running totals through a block: int64 [n + 1, C + 3], row 0 is the end of the last block."""
        totals = np.empty((read.frames + 1, self._layout.width + 3), np.int64)
        totals[0] = 0
        totals[1:, :-1] = read.totals
        np.cumsum(_power_fixed(level_dbfs), out=totals[1:, -1])
        totals += self._rows.totals[self._row]
        return totals

    def _scan(self, column: int, block: _Block, news: list[_News | _LossNews]) -> None:
        """Advance one label through a block, from one state change to the next."""
        position = 0
        for change in self._changes(column, block.scores):
            self._advance(column, block, position, change, news)
            position = change
            track = self._tracks.get(column)
            frame = block.first + change
            if track is None:
                due = frame + self._min_frames[column] - 1
                before = block.totals[change].copy()
                self._tracks[column] = _Track(frame, due, before, before)
            elif track.end is None:
                track.end, track.after = frame, block.totals[change].copy()
                track.due = frame + self._merge_frames[column] - 1
            else:  # the gap was short enough, so it becomes part of the event
                track.end = None
                track.due = NEVER if track.announced else max(frame, track.onset + self._min_frames[column] - 1)
        self._advance(column, block, position, block.frames, news)

    def _changes(self, column: int, scores: FloatArray) -> list[int]:
        """Find the local frames at which the label's segment starts or ends, alternately."""
        up = self._layout.begins(column, scores)
        down = scores[:, column] < self._layout.exit[column]
        decided = (up | down).nonzero()[0]  # between the thresholds nothing changes
        states = up[decided]
        before = np.empty_like(states)
        before[:1] = int(self._rows.running[self._row]) >> column & 1
        before[1:] = states[:-1]
        changes: list[int] = decided[states != before].tolist()
        return changes

    def _advance(self, column: int, block: _Block, start: int, stop: int, news: list[_News | _LossNews]) -> None:
        """Advance a track through local frames [start, stop), where its state is constant but updates may be due."""
        track = self._tracks.get(column)
        if track is None or start == stop:
            return
        due = track.due - block.first
        scores = block.scores[:, column]
        if track.end is not None:
            if due < stop:
                del self._tracks[column]
                if track.announced:
                    news.append(_News(track.due, column, "end", track, track.score_max, track.end, track.after))
            return
        if due < stop:
            cut = due + 1
            track.score_max = max(track.score_max, float(scores[start:cut].max()))
            track.announced = True
            news.append(_News(track.due, column, "begin", track, track.score_max, block.first + cut, block.totals[cut]))
            track.due = NEVER
            start = cut
        if start < stop:
            track.score_max = max(track.score_max, float(scores[start:stop].max()))

    def _number(self, news: list[_News | _LossNews]) -> list[EventUpdate]:
        """Sort the updates, number new events, and fill in the values."""
        if len(news) > 1:
            news.sort(key=lambda item: (item.known, item.column))
        updates = []
        for item in news:
            if isinstance(item, _LossNews):
                dropout = _dropout(self._next_id, self._layout.families[item.column], item.loss)
                begun = replace(dropout, offset_s=None, offset_frame=None)
                updates += [EventUpdate("begin", begun, item.known), EventUpdate("end", dropout, item.known)]
                self._next_id += 1
                continue
            if item.phase == "begin":
                item.track.event_id = self._next_id
                self._next_id += 1
            updates.append(EventUpdate(item.phase, self._event(item), item.known))
        return updates

    def _event(self, item: _News) -> Event:
        column, track = item.column, item.track
        width = self._layout.width
        sums: list[int] = (item.totals - track.before).tolist()
        frames = item.stop - track.onset
        speech_frames = sums[width]
        power = sums[width + 2] / _POWER_ONE / frames
        score_mean = sums[column] / SCORE_ONE / frames
        measures = EventMeasures(
            duration_s=self._seconds(frames),
            score_mean=score_mean,
            speech_frames=speech_frames,
            snr_db=sums[width + 1] / SNR_ONE / speech_frames if speech_frames else None,
            level_dbfs=10.0 * math.log10(power) if power > 0.0 else LEVEL_FLOOR_DBFS,
        )
        label, family = self._layout.names[column], self._layout.families[column]
        closed = item.phase == "end"
        return Event(
            event_id=track.event_id,
            label=label,
            family=family,
            onset_s=self._seconds(track.onset),
            offset_s=self._seconds(item.stop) if closed else None,
            score_max=item.score_max,
            score_mean=score_mean,
            severity=rate(label, family, measures),
            onset_frame=track.onset,
            offset_frame=item.stop if closed else None,
        )

    def _seconds(self, frame: int) -> float:
        """Return the start time of a frame; one division, so that frame 57 is 1.14 and not 1.1400000000000001."""
        return frame * self._frame_samples / self._sample_rate_hz


def _dropout(event_id: int, family: Family, loss: SpeechLoss) -> Event:
    """Return the event of a loss; only its length decides how severe it is."""
    measures = EventMeasures(loss.gap_s, loss.score_mean, loss.speech_frames, snr_db=None, level_dbfs=LEVEL_FLOOR_DBFS)
    return Event(
        event_id=event_id,
        label="dropout",
        family=family,
        onset_s=loss.onset_s,
        offset_s=loss.offset_s,
        score_max=loss.score_max,
        score_mean=loss.score_mean,
        severity=rate("dropout", family, measures),
        onset_frame=loss.onset_frame,
        offset_frame=loss.offset_frame,
        detail=DropoutDetail(loss.kind, 1000.0 * loss.gap_s),
    )


def _power_fixed(level_dbfs: FloatArray) -> npt.NDArray[np.int64]:
    """Return the power of each frame in fixed point, int64 [n]."""
    return np.rint(power_of(level_dbfs) * _POWER_ONE).astype(np.int64)
