"""From frame scores to events: where each trouble starts, where it ends, how bad it was.

Hysteresis per label: a segment starts at the first frame that reaches the enter threshold and ends before the first
one below the exit threshold. Segments of one label with a short gap between them are one event; what is then still too
short is dropped. All positions are absolute frame indices; memory is one small record per open event, however long the
stream.

Sums are kept as integers of fixed point. Integer addition has no rounding, so an event's figures are bit for bit the
same however the stream was cut into blocks, and its sum is the difference of two running totals without any loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speech_qc.contract import Family, ModelContract
from speech_qc.errors import ProtocolError
from speech_qc.scoring.layout import LEVEL_FLOOR_DBFS, FloatArray, frames_reaching, power_of
from speech_qc.scoring.reading import SCORE_ONE, SNR_ONE, ScoreBlock, ScoreReader
from speech_qc.scoring.severity import EventMeasures, rate
from speech_qc.wire.vocabulary import Phase, Severity

_POWER_ONE = 2.0**32
"""Fixed-point unit of power: resolves −96 dBFS, and one event may last a year at full scale before int64 is full."""
_NEVER = 2**62
"""A frame index that no stream reaches."""


@dataclass(frozen=True, slots=True)
class Event:
    """A segment in which one label was found.

    Args:
        event_id: Counts up from 0 per tracker, in the order in which events became known.
        label: What was found.
        family: The label's family.
        onset_s: Start of its first frame, seconds from the start of the stream.
        offset_s: End of its last frame; None while the event is open.
        score_max: Highest score in [onset, offset), or so far.
        score_mean: Mean score there, gaps that were merged included.
        severity: Rated by `speech_qc.scoring.severity`.
        onset_frame: First frame.
        offset_frame: First frame after it; None while the event is open.
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


@dataclass(frozen=True, slots=True)
class EventUpdate:
    """News of an event: `begin` once it is sure to be long enough, `end` once nothing can be added to it.

    Every `end` was preceded by the `begin` with the same event_id.
    """

    phase: Phase
    event: Event


@dataclass(slots=True)
class _Track:
    """One label's event in the making: a running segment, or a gap that may still be merged.

    `before` and `after` are rows of running totals, at the onset and at the end of the last segment. `due` is the frame
    at which the track makes news by itself if its score does not cross a threshold first.
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
    """One pushed block with running totals: row i of `totals` stands before local frame i, [n + 1, C + 3]."""

    first: int
    frames: int
    scores: FloatArray
    totals: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _News:
    """An update not yet numbered; sorted by when it became known, then by column."""

    known: int
    column: int
    phase: Phase
    track: _Track
    score_max: float
    stop: int
    totals: npt.NDArray[np.int64]


class EventTracker:
    """Finds the events of one channel of one stream. Not thread-safe; lives as long as the stream.

    Args:
        contract: The model's contract: thresholds, minimum durations and merge gaps of every label.
        reader: Of the same contract, where many trackers share one.

    Raises:
        ContractError: A label that severity cannot do without is missing.
    """

    def __init__(self, contract: ModelContract, reader: ScoreReader | None = None) -> None:
        self._reader = reader or ScoreReader(contract)
        self._layout = layout = self._reader.layout
        hop_s = contract.features.frame_hop_s
        self._frame_samples = contract.features.frame_samples
        self._sample_rate_hz = contract.features.sample_rate_hz
        self._min_frames = [max(1, frames_reaching(label.min_duration_s, hop_s)) for label in contract.labels]
        # A gap of no frame does not exist: 0 and 1 both mean that nothing is merged.
        self._merge_frames = [max(1, frames_reaching(label.merge_gap_s, hop_s)) for label in contract.labels]
        self._enter = layout.enter.copy()
        self._enter[layout.speech] = np.inf  # speech is what is judged, not a trouble
        self._running = 0  # bit c: a segment of column c runs
        self._totals = np.zeros(layout.width + 3, np.int64)  # scores, then speech frames, dB over them, power
        self._tracks: dict[int, _Track] = {}
        self._frame = 0
        self._next_id = 0
        self._finished = False

    def push(self, scores: FloatArray, level_dbfs: FloatArray) -> list[EventUpdate]:
        """Take the next frames and tell what became known with them.

        Args:
            scores: float32 [n, C], n >= 0, columns as in the contract. Not kept.
            level_dbfs: float32 [n], mean square of each frame, dBFS.

        Returns:
            Updates ordered by the frame at which they became known, then by column; the same for any cut into blocks.

        Raises:
            InferenceError: Wrong shape, wrong type, or a number that is not finite.
            ProtocolError: The stream was finished before.
        """
        self._layout.check_block(scores, level_dbfs)
        return self.add(self._reader.read_one(scores), level_dbfs)

    def add(self, read: ScoreBlock, level_dbfs: FloatArray) -> list[EventUpdate]:
        """Take frames that are read already; see `push`.

        Args:
            read: n frames, by a reader of the same contract.
            level_dbfs: float32 [n], finite.
        """
        if self._finished:
            raise ProtocolError("expected no more scores after finish(), given a block; make a new tracker per stream")
        first = self._frame
        self._frame = first + read.frames
        crossed = (read.reached & ~self._running) | (read.fallen & self._running)
        if not (crossed or self._tracks) or not read.frames:
            return []
        columns = [c for c in range(self._layout.width) if crossed >> c & 1]
        columns += [c for c, track in self._tracks.items() if track.due < self._frame and c not in columns]
        if not columns:  # events go on, nothing changes
            self._raise_maxima(read, columns)
            self._totals[:-1] += read.totals[-1]
            self._totals[-1] += _power_fixed(level_dbfs).sum()
            return []

        block = _Block(first, read.frames, read.scores, self._run_totals(read, level_dbfs))
        self._raise_maxima(read, columns)
        news: list[_News] = []
        for column in columns:
            self._scan(column, block, news)
        self._totals = block.totals[-1].copy() if self._tracks else np.zeros_like(self._totals)
        return self._number(news)

    def finish(self) -> list[EventUpdate]:
        """End the stream: close what is open, drop what is too short.

        Returns:
            The last updates, by column; empty when called again.
        """
        self._finished = True
        news: list[_News] = []
        for column, track in sorted(self._tracks.items()):
            if track.announced:
                stop, totals = (self._frame, self._totals) if track.end is None else (track.end, track.after)
                news.append(_News(self._frame, column, "end", track, track.score_max, stop, totals))
        self._tracks.clear()
        return self._number(news)

    def _run_totals(self, read: ScoreBlock, level_dbfs: FloatArray) -> npt.NDArray[np.int64]:
        """Continue the running totals through a block: int64 [n + 1, C + 3], row 0 is where the last block stopped."""
        totals = np.empty((read.frames + 1, self._layout.width + 3), np.int64)
        totals[0] = 0
        totals[1:, :-1] = read.totals
        np.cumsum(_power_fixed(level_dbfs), out=totals[1:, -1])
        totals += self._totals
        return totals

    def _raise_maxima(self, read: ScoreBlock, scanned: Sequence[int]) -> None:
        """Carry the maximum of tracks that make no news in this block."""
        highest = read.highest
        if highest is None:
            return
        for column, track in self._tracks.items():
            # In a gap no score reaches the enter threshold, hence none exceeds the maximum; no need to tell them apart.
            if column not in scanned and highest[column] > track.score_max:
                track.score_max = highest[column]

    def _scan(self, column: int, block: _Block, news: list[_News]) -> None:
        """Walk one label through a block, from one change of state to the next."""
        position = 0
        for change in self._changes(column, block.scores[:, column]):
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
            else:  # the gap was short enough: it belongs to the event now
                track.end = None
                track.due = _NEVER if track.announced else max(frame, track.onset + self._min_frames[column] - 1)
        self._advance(column, block, position, block.frames, news)
        track = self._tracks.get(column)
        if track is not None and track.end is None:
            self._running |= 1 << column
        else:
            self._running &= ~(1 << column)

    def _changes(self, column: int, scores: FloatArray) -> list[int]:
        """Find the local frames at which the label's segment starts or ends, alternately."""
        up = scores >= self._enter[column]
        decided = (up | (scores < self._layout.exit[column])).nonzero()[0]  # between the thresholds nothing changes
        states = up[decided]
        before = np.empty_like(states)
        before[:1] = self._running >> column & 1
        before[1:] = states[:-1]
        changes: list[int] = decided[states != before].tolist()
        return changes

    def _advance(self, column: int, block: _Block, start: int, stop: int, news: list[_News]) -> None:
        """Carry a track through local frames [start, stop), in which it changes no state but may make news."""
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
            track.due = _NEVER
            start = cut
        if start < stop:
            track.score_max = max(track.score_max, float(scores[start:stop].max()))

    def _number(self, news: list[_News]) -> list[EventUpdate]:
        """Order the news, give new events their numbers, and fill in the figures."""
        if len(news) > 1:
            news.sort(key=lambda item: (item.known, item.column))
        updates = []
        for item in news:
            if item.phase == "begin":
                item.track.event_id = self._next_id
                self._next_id += 1
            updates.append(EventUpdate(item.phase, self._event(item)))
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
        """Time of a frame's start; one division, so that frame 57 is 1.14 and not 1.1400000000000001."""
        return frame * self._frame_samples / self._sample_rate_hz


def _power_fixed(level_dbfs: FloatArray) -> npt.NDArray[np.int64]:
    """Power of each frame in fixed point, int64 [n]."""
    return np.rint(power_of(level_dbfs) * _POWER_ONE).astype(np.int64)
