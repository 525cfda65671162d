"""What happens between the two legs of a call: who talks when, answers, interruptions, echo, silence, one-way audio.

Live calls and stereo recordings share it. It depends on the legs' records alone, in steps of half a second of the
call's clock, so the answer does not depend on when and how the records arrived. Memory is constant, except for the list
of events, which is bounded. Steps in which neither leg holds sound are done at once after the first few, so that a day
on hold costs no more than ten seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from speech_qc.calls.echo import BLOCK, MAX_LAG, REACH, EchoMeter
from speech_qc.calls.interaction_events import EventLog, InteractionEvent, InteractionUpdate, Key
from speech_qc.calls.presence import Presence
from speech_qc.calls.records import FRAME_S, LEVEL_FLOOR_DBFS, RECORD_FRAMES, TALK_DBFS, AnyRecord, Flag
from speech_qc.calls.talk import NEVER, Responses, Talker, quantile_frames
from speech_qc.calls.track import LegTrack, Span

LEGS = 2
TALK_OVER_FRAMES = 20
"""Frames that both parties have to talk at once, 0.4 s; turns often overlap by less."""
BACKCHANNEL_FRAMES = 27
"""Frames of what each of them says by then: an utterance of less than half a second is a backchannel. Scores rise up to
two frames early."""
DEAD_AIR_FRAMES = 250
"""Frames in which nobody says anything: 5 s."""
TOGETHER_FRAMES = 2
"""Spurts that begin this close to each other interrupt neither party."""
LAG_FRAMES = 400
"""A leg that is this far behind the other one, 8 s, is not waited for any more."""
SETTLED_STEPS = 12
"""Steps without sound, with the same flags, after which nothing changes any more but sums: longer than
`DEAD_AIR_FRAMES`, than what `Presence` waits for after the last speech, and than the sound and levels that are kept."""
_ECHO_MARGIN_DB = 6.0
_ECHO_FRAMES = 2
_BEFORE = MAX_LAG * RECORD_FRAMES // BLOCK + _ECHO_FRAMES + 1
"""Frames of level that an echo reaches back to."""
_QUIET = Flag.MUSIC | Flag.TONE | Flag.HELD | Flag.ABSENT
_UNHEARD = Flag.ABSENT | Flag.LOST | Flag.HELD


@dataclass(frozen=True, slots=True)
class LegShare:
    """What one leg did; None where nothing was received.

    Args:
        talk_ratio: Share of the leg's frames in which its party talks, without echo.
        silence_ratio: Share with neither talk nor music nor tones.
        interruptions: Times that its party began to talk while the other one was talking, for at least half a second.
        responses: How long it took to answer.
    """

    talk_ratio: float | None
    silence_ratio: float | None
    interruptions: int
    responses: Responses


class Interaction:
    """The analysis of one call; legs are numbered 0 and 1. Not thread-safe."""

    def __init__(self) -> None:
        self._tracks = [LegTrack() for _ in range(LEGS)]
        self._talkers = [Talker() for _ in range(LEGS)]
        self._responses = [Responses() for _ in range(LEGS)]
        self._presence = [Presence() for _ in range(LEGS)]
        self._echoes = [EchoMeter() for _ in range(LEGS)]  # of the other leg's sound in this leg
        self._bands = [np.zeros(REACH, np.float32) for _ in range(LEGS)]
        self._levels = [np.full(_BEFORE, LEVEL_FLOOR_DBFS, np.float32) for _ in range(LEGS)]
        self._heard = [0] * LEGS
        self._quiet = [0] * LEGS
        self._interruptions = [0] * LEGS
        self._together = 0
        self._log = EventLog()
        self._still: list[int] | None = None  # what the legs hold in the last steps, if there is no sound
        self._settled = 0  # number of these steps
        self.frames = 0
        """Frames of the call that are analysed."""

    # -- the legs ------------------------------------------------------------------------------------------------------

    def begin(self, leg: int, offset: int) -> None:
        """Begin a leg, or begin it again, with its first frame at this frame of the call."""
        self._tracks[leg].begin(offset)

    def push(self, leg: int, record: AnyRecord) -> None:
        """Take a record of a leg."""
        self._tracks[leg].push(record, self.frames)

    def prove(self, leg: int) -> None:
        """Note that a leg works, because keys were pressed on it."""
        self._presence[leg].prove()
        self._settled = 0

    def finish(self, leg: int) -> None:
        """Note that a leg has ended."""
        self._tracks[leg].open = False

    def late_frames(self, leg: int) -> int:
        """Frames of a leg that came too late to be analysed."""
        return self._tracks[leg].late_frames

    @property
    def events(self) -> list[InteractionEvent]:
        """The events that have ended."""
        return self._log.ended

    @property
    def dropped(self) -> int:
        """Events above the limit."""
        return self._log.dropped

    @property
    def events_now(self) -> list[InteractionEvent]:
        """All events in the order of their begin, those that still last with `offset_s` None."""
        return self._log.all

    # -- the analysis --------------------------------------------------------------------------------------------------

    def advance(self, lag_frames: int = LAG_FRAMES) -> list[InteractionUpdate]:
        """Analyse what both legs have; a leg that is more than `lag_frames` behind counts as not received.

        Args:
            lag_frames: How far the slower leg may be behind, in frames that are in no gap.
        """
        while True:
            most = self._still_steps()
            due = self._due_steps(lag_frames, max(1, most))
            if due < 1:
                return self._log.news()
            if most and self._still is not None:
                self._pass(due * RECORD_FRAMES, self._still)
            else:
                self._step(RECORD_FRAMES)
                self._settled += 1

    def close(self) -> list[InteractionUpdate]:
        """Analyse the rest and end all events."""
        for track in self._tracks:
            track.open = False
        self.advance()
        rest = max(track.end for track in self._tracks) - self.frames
        if rest > 0:
            self._step(rest)
        for key in list(self._log.open):
            self._log.end(key, self.frames)
        return self._log.news()

    def _due_steps(self, lag_frames: int, most: int) -> int:
        """Return how many of the next steps can be done, `most` at most; if these are several, there is no sound."""
        tracks = [track for track in self._tracks if track.open]
        end = min(track.end for track in tracks) if tracks else max(track.end for track in self._tracks)
        due = (end - self.frames) // RECORD_FRAMES
        last = self.frames + (most - 1) * RECORD_FRAMES
        for track in tracks:
            if track.sound_end(last) >= last + RECORD_FRAMES + lag_frames:
                return most
            due = max(due, (track.sound_end(self.frames) - lag_frames - self.frames) // RECORD_FRAMES)
        return min(due, most)

    def _still_steps(self) -> int:
        """Return in how many of the next steps nothing changes but sums; note what the legs hold in them."""
        found = [track.still(self.frames, RECORD_FRAMES) for track in self._tracks]
        stop = min(stop for _, stop in found)
        still = [flag for flag, _ in found] if stop >= self.frames + RECORD_FRAMES else None
        if still != self._still:
            self._still, self._settled = still, 0
        if still is None or self._settled < SETTLED_STEPS:
            return 0
        return (stop - self.frames) // RECORD_FRAMES

    def _pass(self, frames: int, flags: list[int]) -> None:
        """Do what `_step` would do in settled steps without sound."""
        stop = self.frames + frames
        for leg in range(LEGS):
            self._tracks[leg].drop(stop)
            if not flags[leg] & _UNHEARD:
                self._heard[leg] += frames
                self._quiet[leg] += frames
        if _is_no_dead_air(flags):
            self._together = stop
        self.frames = stop

    def _step(self, frames: int) -> None:
        first = self.frames
        spans = [track.take(first, frames) for track in self._tracks]
        for leg, span in enumerate(spans):
            self._presence[leg].hear(span.levels_dbfs)
            self._levels[leg] = np.concatenate((self._levels[leg][-_BEFORE:], span.levels_dbfs))
            self._bands[leg] = np.concatenate((self._bands[leg], span.band))[-REACH:]
        if frames == RECORD_FRAMES:
            self._find_echoes(spans, first)
        talks = [self._talks(leg, span) for leg, span in enumerate(spans)]
        flags = [span.flags.tolist() for span in spans]
        for place in range(frames):
            self._frame(first + place, [one[place] for one in talks], [one[place] for one in flags])
        self.frames = first + frames

    def _find_echoes(self, spans: list[Span], first: int) -> None:
        """Look for each leg's sound in the other one."""
        for leg, meter in enumerate(self._echoes):
            far = 1 - leg
            before = meter.echo
            talking = bool((spans[far].flags & Flag.TALK).any()) or first - self._talkers[far].last <= _BEFORE
            meter.push(self._bands[far], spans[leg].band, talking=talking)
            key: Key = ("echo", far)
            if meter.echo is None and before is not None:
                self._log.end(key, first)
            elif meter.echo is not None:
                if before is None:
                    # It was found in the second block of those that hold it.
                    self._log.begin(key, max(0, first - RECORD_FRAMES), meter.echo)
                self._log.open[key] = replace(self._log.open[key], echo=meter.echo)

    def _talks(self, leg: int, span: Span) -> list[bool]:
        """Return in which frames the leg's own party talks: speech that is no echo."""
        talks = (span.flags & Flag.TALK).astype(bool) & (span.levels_dbfs >= TALK_DBFS)
        meter = self._echoes[leg]
        if not talks.any():
            return talks.tolist()  # type: ignore[no-any-return]
        if meter.echo is None:
            return [False] * len(talks) if meter.clear else talks.tolist()
        lag = round(meter.echo.lag_s / FRAME_S)
        far = self._levels[1 - leg]
        start = len(far) - len(talks) - lag
        windows = np.lib.stride_tricks.sliding_window_view(far, 2 * _ECHO_FRAMES + 1)[start - _ECHO_FRAMES :]
        loudest = np.full(len(talks), LEVEL_FLOOR_DBFS, np.float32)
        found = windows.max(axis=1)[: len(talks)]
        loudest[: len(found)] = found
        loudest[len(found) :] = found[-1] if len(found) else LEVEL_FLOOR_DBFS
        return (talks & (span.levels_dbfs > loudest - meter.echo.loss_db + _ECHO_MARGIN_DB)).tolist()  # type: ignore[no-any-return]

    def _frame(self, frame: int, talks: list[bool], flags: list[int]) -> None:
        for leg in range(LEGS):
            held = flags[leg]
            if not held & _UNHEARD:
                self._heard[leg] += 1
                self._quiet[leg] += not held & (Flag.MUSIC | Flag.TONE)
            if talks[leg] and self._talkers[leg].add(frame):
                self._confirmed(leg)
        for leg in range(LEGS):
            key: Key = ("one_way_audio", leg)
            presence = self._presence[leg]
            if presence.add(frame, flags[leg], flags[1 - leg], self._talkers[1 - leg].spoke):
                if key not in self._log.open:
                    self._log.begin(key, presence.begin or 0)
            elif key in self._log.open:
                self._log.end(key, frame)
        self._compare(frame)
        self._dead_air(frame, flags)

    def _confirmed(self, leg: int) -> None:
        """Count a response: the spurt that has just become certain follows the other party's last one."""
        me, other = self._talkers[leg], self._talkers[1 - leg]
        if ("dead_air", None) in self._log.open:
            self._log.end(("dead_air", None), me.start)
        if other.spoke != NEVER and me.before < other.spoke < me.start:
            self._responses[leg].add(me.start - other.spoke - 1)

    def _compare(self, frame: int) -> None:
        """Follow the time in which both parties talk."""
        first, second = self._talkers
        began = max(first.start, second.start)
        both = min(first.last, second.last) + 1 - began
        key = next((key for key in self._log.open if key[0] == "talk_over"), None)
        if first.active(frame) and second.active(frame):
            long = all(one.last + 1 - one.start >= BACKCHANNEL_FRAMES for one in self._talkers)
            if key is None and both >= TALK_OVER_FRAMES and long:
                apart = first.start - second.start
                leg = None if abs(apart) <= TOGETHER_FRAMES else int(apart < 0)
                if leg is not None:
                    self._interruptions[leg] += 1
                self._log.begin(("talk_over", leg), began)
        elif key is not None:
            self._log.end(key, min(first.last, second.last) + 1)

    def _dead_air(self, frame: int, flags: list[int]) -> None:
        """Count frames in which both legs are there, and nobody talks, plays or is on hold."""
        if _is_no_dead_air(flags):
            self._together = frame + 1
            if ("dead_air", None) in self._log.open:
                self._log.end(("dead_air", None), frame)
            return
        spoke = max(one.spoke for one in self._talkers)
        since = max(spoke + 1, self._together, 0)
        if frame + 1 - since >= DEAD_AIR_FRAMES and ("dead_air", None) not in self._log.open:
            self._log.begin(("dead_air", None), since)

    # -- results -------------------------------------------------------------------------------------------------------

    def share(self, leg: int) -> LegShare:
        """Return what a leg did so far."""
        heard, talked = self._heard[leg], self._talkers[leg].total
        return LegShare(
            talk_ratio=min(1.0, talked / heard) if heard else None,
            silence_ratio=max(0, self._quiet[leg] - talked) / heard if heard else None,
            interruptions=self._interruptions[leg],
            responses=self._responses[leg],
        )

    def response_s(self, leg: int | None, share: float) -> float | None:
        """Return a quantile of the time to answer, seconds; of both parties together for None."""
        legs = self._responses if leg is None else [self._responses[leg]]
        frames = quantile_frames(np.sum([one.counts for one in legs], axis=0), share)
        return None if frames is None else round(frames * FRAME_S, 3)


def _is_no_dead_air(flags: list[int]) -> bool:
    """Whether a leg plays something, is on hold or not there, or nothing arrives of both."""
    return bool((flags[0] | flags[1]) & _QUIET or flags[0] & flags[1] & Flag.LOST)
