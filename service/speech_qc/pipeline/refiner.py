"""Checks the model's events against the sound: names tones, and drops music and clipping that are a pure tone.

Only frames in which the model suspects a tone, music or clipping are analysed, so clean speech costs nothing. Updates
and decisions are taken in the order of the frames at which they are due, each with exactly the frames before it
analysed, so they and their order are the same however the stream is cut into chunks.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.tones import FRAME, LONG_FRAMES, MARGIN, RATE_HZ, SAME_HZ, Lines, Run, ToneMeter, TonePool
from speech_qc.contract import ModelContract
from speech_qc.scoring.events import Event, EventUpdate
from speech_qc.scoring.reading import ScoreBlock
from speech_qc.scoring.tone_kinds import is_call_progress, mains_hz, name_tone, steady_lines

Float32 = NDArray[np.float32]

SUSPECT = {"tone": 0.1, "music": 0.35, "clipping": 0.5}
"""Scores from which frames are analysed."""

BEFORE, AFTER = 3, 10
"""Frames analysed before and after a suspect frame; the analysis lags by `BEFORE` frames."""

TOGETHER = LONG_FRAMES
"""Frames that are passed on for analysis together unless a decision is due; a call costs the same for fewer, but the
sound of more takes memory."""

DECIDED_AFTER = 8
"""Frames by which the beginning of music or clipping is held back until it can be compared with a tone."""

PURE_SHARE = 0.7
"""Share of an event's frames that must be a tone, so that it is no music, or no clipping."""

CLEAN_PURITY = 0.998
"""Purity of a tone without the harmonics that clipping adds."""

TONAL_SCORE, TONAL_SHARE, POSTPONED = 0.3, 0.3, 50
"""While this share of the frames has this score for `tone`, the beginning of music waits for so many more frames."""

TONAL_FRAMES = 3000
"""Frames (one minute) before a decision in which such frames count, so that no beginning waits for ever."""

ALWAYS, MIN_WINDOWS = 0.75, 3
"""Under other sounds, a tone is a line in this share of the long windows, of which there must be so many; two suffice
for the frequencies of the telephone and of the mains, which music hardly meets."""

STEADY_FRAMES = 15
"""A tone of at least this length (0.3 s) is no note."""


class Suspicion:
    """Which scores are reason to analyse the sound; immutable.

    Args:
        contract: The model's contract.
    """

    def __init__(self, contract: ModelContract) -> None:
        spec = contract.features
        fits = (spec.sample_rate_hz, spec.frame_samples) == (RATE_HZ, FRAME)
        names = [name for name in SUSPECT if contract.has(name) and fits]
        self._columns = [contract.index(name) for name in names]
        self._least = np.array([SUSPECT[name] for name in names], np.float32)
        self.tone = contract.index("tone") if contract.has("tone") and fits else None
        """Column of `tone`; None if tones cannot be analysed."""

    def of(self, scores: Float32) -> NDArray[np.bool_]:
        """Return which frames of scores [..., C] are suspect."""
        return np.asarray((scores[..., self._columns] >= self._least).any(axis=-1))


@dataclass(slots=True)
class _Held:
    """The beginning of an event that has not been announced."""

    update: EventUpdate
    decided: int
    is_tone: bool = False


class EventRefiner:
    """Refines the events of one channel; owned by its session.

    Args:
        contract: The model's contract.
        show_digits: Whether telephone keys are named.
        pool: Analyses the frames of many channels together; None to analyse alone.
    """

    def __init__(self, contract: ModelContract, *, show_digits: bool = False, pool: TonePool | None = None) -> None:
        self._show_digits = show_digits
        self._suspicion = Suspicion(contract)
        self._meter = ToneMeter(pool)
        self._hits: list[int] = []  # suspect frames that frames still to be analysed depend on
        self._analysed = 0  # frames before this one are analysed, or need not be
        self._tonal = array("q")  # frames of the last minute that score high for `tone`
        self._held: dict[int, _Held] = {}
        self.dropped_frames: dict[str, int] = {}
        """Frames of dropped events, by label."""

    @property
    def first_needed(self) -> int:
        """First sample that is still needed."""
        return self._analysed * FRAME - MARGIN

    @property
    def busy(self) -> bool:
        """Whether frames or events are at hand, so that `refine` must be called with the next frames."""
        return bool(self._hits or self._held)

    def skip_to(self, frame: int) -> None:
        """Pass over the frames before this one, none of which is suspect; only while not busy."""
        self._analysed = max(self._analysed, frame - BEFORE)

    def refine(
        self,
        first: int,
        block: ScoreBlock,
        news: Sequence[EventUpdate],
        samples: Callable[[int, int], Float32],
        *,
        done: bool,
        suspect: NDArray[np.bool_] | None = None,
    ) -> list[EventUpdate]:
        """Take the next frames and the updates that they caused; return the updates to announce.

        Args:
            first: Index of the first frame.
            block: The frames.
            news: Updates of the tracker.
            samples: Returns samples between two positions at the model's rate.
            done: Whether these are the last frames.
            suspect: What `Suspicion.of` says of the frames, if it is known.
        """
        stop = first + block.frames
        if suspect is None:
            suspect = self._suspicion.of(block.scores)
        if suspect.any():
            self._hits += (np.flatnonzero(suspect) + first).tolist()
            if self._suspicion.tone is not None:
                tonal = block.scores[:, self._suspicion.tone] >= TONAL_SCORE
                self._tonal.extend((np.flatnonzero(tonal) + first).tolist())
        elif not (self.busy or news or done):
            self.skip_to(stop)
            return []
        announced: list[EventUpdate] = []
        waiting = deque(news)
        while (turn := self._next(waiting, stop, done=done)) is not None:
            self._advance(turn - BEFORE, samples)
            if waiting and _turn(waiting[0]) == turn:
                self._take(waiting.popleft(), announced)
            else:
                self._decide(next(held for held in self._undecided() if held.decided + BEFORE == turn), announced)
        if done:
            self._advance(stop, samples)
            for update in waiting:
                self._take(update, announced)
            for held in self._undecided():
                if held.decided <= stop:
                    self._decide(held, announced)
        elif not self._hits:
            self._advance(stop - BEFORE, samples)
        elif stop - BEFORE - self._analysed >= TOGETHER:  # to the border of a long window: no part of one is kept
            self._advance((stop - BEFORE) // LONG_FRAMES * LONG_FRAMES, samples)
        return announced

    def _next(self, waiting: deque[EventUpdate], stop: int, *, done: bool) -> int | None:
        """Return the number of frames after which the next update or decision is due; None if there is none yet.

        What is due when the stream ends is left: then all frames are analysed, without the lag of `BEFORE`.
        """
        turns = [held.decided + BEFORE for held in self._held.values() if not held.is_tone]
        turns += [_turn(waiting[0])] if waiting else []
        turn = min(turns, default=stop + 1)
        return turn if turn < stop + (not done) else None

    def _undecided(self) -> list[_Held]:
        return [held for held in self._held.values() if not held.is_tone]

    def _advance(self, ready: int, samples: Callable[[int, int], Float32]) -> None:
        """Analyse all frames before `ready` that are near a suspect frame."""
        if ready <= self._analysed:
            return
        if self._hits:
            self._analyse(ready, samples)
        self._analysed = ready
        del self._tonal[: bisect_left(self._tonal, ready - TONAL_FRAMES)]

    def _analyse(self, ready: int, samples: Callable[[int, int], Float32]) -> None:
        """Analyse the frames before `ready` that are near a suspect frame."""
        hits = sorted(set(self._hits))
        self._hits = [hit for hit in hits if hit + AFTER >= ready]
        start = stop = max(self._analysed, hits[0] - BEFORE)
        for hit in hits:
            if hit - BEFORE >= ready:
                break
            if hit - BEFORE > stop:
                self._pass_on(start, stop, samples)
                start = hit - BEFORE
            stop = min(ready, hit + AFTER + 1)
        if start < stop:
            self._pass_on(start, stop, samples)

    def _pass_on(self, start: int, stop: int, samples: Callable[[int, int], Float32]) -> None:
        """Have frames analysed; before the start of the stream was silence."""
        begin, end = start * FRAME - MARGIN, stop * FRAME + MARGIN
        piece = samples(max(0, begin), end)
        whole = np.zeros(end - begin, np.float32)
        whole[max(0, -begin) : max(0, -begin) + len(piece)] = piece
        self._meter.push(start, whole)

    def _take(self, update: EventUpdate, announced: list[EventUpdate]) -> None:
        event = update.event
        if event.label == "tone" and update.phase == "end":
            announced.append(replace(update, event=self._named(event)))
        elif event.label not in ("music", "clipping"):
            announced.append(update)
        elif update.phase == "begin":
            self._held[event.event_id] = _Held(
                update, event.onset_frame + DECIDED_AFTER + 30 * (event.label == "music")
            )
        else:
            held = self._held.pop(event.event_id, None)
            if held is not None:
                assert event.offset_frame is not None
                if self._is_tone(event, event.offset_frame):
                    frames = event.offset_frame - event.onset_frame
                    self.dropped_frames[event.label] = self.dropped_frames.get(event.label, 0) + frames
                    return
                announced.append(held.update)
            announced.append(update)

    def _decide(self, held: _Held, announced: list[EventUpdate]) -> None:
        """Announce the beginning of an event unless it is a tone so far; then its end decides."""
        event = held.update.event
        held.is_tone = self._is_tone(event, held.decided)
        start = max(event.onset_frame, held.decided - TONAL_FRAMES)
        tonal = sum(start <= frame < held.decided for frame in self._tonal)
        if not held.is_tone and event.label == "music" and tonal >= TONAL_SHARE * (held.decided - event.onset_frame):
            held.decided += POSTPONED
        elif not held.is_tone:
            del self._held[event.event_id]
            announced.append(held.update)

    def _is_tone(self, event: Event, stop: int) -> bool:
        """Whether the frames of an event are a tone that the model mistook for music or clipping."""
        frames = stop - event.onset_frame
        runs = self._runs(event.onset_frame, stop)
        if event.label == "clipping":
            clean = sum(_overlap(run, event.onset_frame, stop) for run in runs if run.purity >= CLEAN_PURITY)
            return clean >= PURE_SHARE * frames
        steady = [run for run in runs if run.frames >= STEADY_FRAMES]
        if steady:
            longest = max(steady, key=lambda run: run.frames)
            same = [run for run in steady if abs(run.first_hz - longest.first_hz) <= SAME_HZ]
            if sum(_overlap(run, event.onset_frame, stop) for run in same) >= PURE_SHARE * frames:
                return True
        windows = self._windows(event.onset_frame, stop)
        lines = steady_lines(windows, ALWAYS, constant=True)
        if len(windows) >= 2 and (is_call_progress(lines) or mains_hz(lines) is not None):
            return True
        return len(windows) >= MIN_WINDOWS and len(lines) == 1

    def _runs(self, start: int, stop: int) -> list[Run]:
        return [run for run in self._meter.runs if run.stop > start and run.first < stop]

    def _windows(self, start: int, stop: int) -> list[Lines]:
        """Return the long windows that lie at least half between two frames."""
        half = LONG_FRAMES // 2
        return [w for w in self._meter.windows if start - half <= w.first and w.first + half <= stop]

    def _named(self, event: Event) -> Event:
        start, stop = event.onset_frame - BEFORE, event.offset_frame or event.onset_frame
        windows = self._windows(start, stop)
        seconds = (stop - event.onset_frame) * FRAME / RATE_HZ
        detail = name_tone(self._runs(start, stop), windows, duration_s=seconds, show_digits=self._show_digits)
        return replace(event, detail=detail)


def _turn(update: EventUpdate) -> int:
    """Return the number of frames with which an update becomes known."""
    return update.known + 1


def _overlap(run: Run, start: int, stop: int) -> int:
    return max(0, min(run.stop, stop) - max(run.first, start))
