"""Makes the records of one leg from its sound and its scores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from speech_qc.calls.records import (
    FRAME_SAMPLES,
    RECORD_FRAMES,
    TALK_DBFS,
    AnyRecord,
    Flag,
    GapRecord,
    LegRecord,
    in_dbfs,
    quantized_levels,
)
from speech_qc.contract import ModelContract
from speech_qc.wire.vocabulary import GapKind

Float32 = NDArray[np.float32]

_STEP = 4
_TAPS = 48
_FRAME = FRAME_SAMPLES * _STEP
_EXTEND_FRAMES, _OVER_FLOOR_DB, _FLOOR_RISE_DB = 12, 12.0, 0.25
_GAP_FLAGS: dict[GapKind, int] = {"loss": Flag.LOST, "dtx": Flag.SILENT, "hold": Flag.HELD}
_MAX_KINDS = 16
"""Changes of kind between gaps with no sound in between; from then on, they count as one gap: each costs work."""
_KINDS = (("speech", Flag.TALK), ("music", Flag.MUSIC), ("tone", Flag.TONE))


def _low_pass() -> Float32:
    """Return a windowed sinc with its cut-off at 1.75 kHz of 16 kHz, so that little above 2 kHz is left to fold."""
    times = np.arange(_TAPS) - (_TAPS - 1) / 2
    taps = np.sinc(2 * 1_750 / 16_000 * times) * np.blackman(_TAPS)
    low_pass: Float32 = (taps / taps.sum()).astype(np.float32)
    return low_pass


_LOW_PASS = _low_pass()


class LegMeter:
    """Turns one leg into records; depends only on the leg's own samples and scores, not on how they were delivered.

    Args:
        contract: Contract of the model that scores the leg.
        deliver: Takes each record.
    """

    def __init__(self, contract: ModelContract, deliver: Callable[[AnyRecord], None]) -> None:
        self._deliver = deliver
        self._columns = [(contract.index(name), flag) for name, flag in _KINDS if contract.has(name)]
        labels = {label.name: label for label in contract.labels}
        self._bounds = [
            (np.float32(labels[name].enter), np.float32(labels[name].exit)) for name, _ in _KINDS if name in labels
        ]
        self._on = [False] * len(self._columns)
        self._sound: deque[tuple[int, Float32]] = deque()  # position and samples of what no record is made of yet
        self._end = 0  # position after the last sample
        self._gaps: list[tuple[int, int, int]] = []  # position, end and flag
        self._kinds = 0  # of the last gaps that follow on each other
        self._scores: list[Float32] = []
        self._waiting = 0  # frames in _scores
        self._next = 0  # first frame of the next record
        self._floor_dbfs = 0.0  # level of the quietest frames, which may rise slowly

    def heard(self, position: int, samples: Float32) -> None:
        """Take audio, float32 (n,) at 16 kHz, that begins at a position; what was not received before it is zero."""
        repeated = max(0, self._end - position)
        if repeated < len(samples):
            self._sound.append((position + repeated, samples[repeated:].copy()))
            self._end = position + len(samples)

    def gap(self, position: int, stop: int, kind: GapKind) -> None:
        """Note that [position, stop) was not received, in samples of 16 kHz."""
        flag = _GAP_FLAGS[kind]
        if self._gaps and self._gaps[-1][1] == position:
            start, _, before = self._gaps[-1]
            self._kinds += flag != before
            if flag == before or self._kinds >= _MAX_KINDS:
                self._gaps[-1] = start, stop, before
                return
        else:
            self._kinds = 0
        self._gaps.append((position, stop, flag))

    def scored(self, first_frame: int, scores: Float32) -> None:
        """Take the scores of the next frames, float32 (n, C), NaN where there are none."""
        done = self._next + self._waiting
        if first_frame > done:
            self._pass_to(first_frame, scores.shape[1])
        self._add(scores if first_frame >= done else scores[done - first_frame :])

    def finish(self) -> None:
        """Deliver what is left."""
        if self._waiting:
            self._make(self._waiting)

    def _pass_to(self, frame: int, columns: int) -> None:
        """Pass over frames without scores: whole records of them as gaps, except the first, which sound reaches into.

        So the cost does not depend on how many there are.
        """
        nothing = np.full((RECORD_FRAMES, columns), np.nan, np.float32)
        is_still = False  # whether a whole record has passed
        while (missing := frame - self._next - self._waiting) > 0:
            flag, stop = self._still(frame) if is_still and not self._waiting else (0, 0)
            whole = (stop - self._next) // RECORD_FRAMES * RECORD_FRAMES
            if whole > 0:
                self._deliver(GapRecord(self._next, whole, flag))
                self._next += whole
            else:
                is_still = is_still or not self._waiting
                self._add(nothing[: min(missing, RECORD_FRAMES - self._waiting)])

    def _still(self, stop: int) -> tuple[int, int]:
        """Return the flag of the next frames, and the frame before which it stays and nothing is heard."""
        first, flag = self._next, 0
        for begin, end, one in self._gaps:
            low, high = -(-begin // _FRAME), end // _FRAME
            if low <= first < high:
                flag, stop = one, min(stop, high)
            elif first < low:
                stop = min(stop, low)
        heard = (position for position, samples in self._sound if position + len(samples) > first * _FRAME)
        return flag, min(stop, next(heard, stop * _FRAME) // _FRAME)

    def _add(self, scores: Float32) -> None:
        while len(scores):
            part = scores[: RECORD_FRAMES - self._waiting]
            self._scores.append(part)
            self._waiting += len(part)
            scores = scores[len(part) :]
            if self._waiting == RECORD_FRAMES:
                self._make(RECORD_FRAMES)

    def _make(self, frames: int) -> None:
        scores = np.concatenate(self._scores) if len(self._scores) > 1 else self._scores[0]
        self._scores, self._waiting = [], 0
        first, self._next = self._next, self._next + frames
        sound = self._gather(first * _FRAME - _TAPS, self._next * _FRAME)
        own = sound[_TAPS:].reshape(frames, _FRAME)
        levels = quantized_levels(np.einsum("ij,ij->i", own, own) / np.float32(_FRAME))
        windows = np.lib.stride_tricks.sliding_window_view(sound[1:], _TAPS)[::_STEP]
        band = (windows @ _LOW_PASS).reshape(frames, FRAME_SAMPLES)
        peaks = np.abs(band).max(axis=1)
        scaled = np.round(band * (np.float32(127) / np.maximum(peaks, np.float32(1e-9)))[:, None])
        flags = self._flags(first, scores)
        self._extend_talk(flags, in_dbfs(levels))
        known = ~np.isnan(scores)
        self._deliver(
            LegRecord(
                first_frame=first,
                flags=flags,
                levels=levels,
                peaks=peaks,
                band=scaled.astype(np.int8).ravel(),
                sums=np.where(known, scores, np.float32(0)).sum(axis=0),
                counts=known.sum(axis=0).astype(np.uint8),
            )
        )

    def _gather(self, start: int, stop: int) -> Float32:
        """Return the samples [start, stop), zero where there are none, and drop those before the next record's."""
        sound = np.zeros(stop - start, np.float32)
        for position, samples in self._sound:
            if position >= stop:
                break
            low, high = max(position, start), min(position + len(samples), stop)
            if low < high:
                sound[low - start : high - start] = samples[low - position : high - position]
        while self._sound and self._sound[0][0] + len(self._sound[0][1]) <= stop - _TAPS:
            self._sound.popleft()
        return sound

    def _flags(self, first: int, scores: Float32) -> NDArray[np.uint8]:
        flags = np.zeros(len(scores), np.uint8)
        for place, (column, flag) in enumerate(self._columns):
            enter, leave = self._bounds[place]
            on = self._on[place]
            for frame, score in enumerate(scores[:, column].tolist()):
                on = score >= (leave if on else enter)  # false for NaN
                if on:
                    flags[frame] |= flag
            self._on[place] = on
        start, stop = first * _FRAME, self._next * _FRAME
        for begin, end, flag in self._gaps:
            low, high = -(-(max(begin, start) - start) // _FRAME), (min(end, stop) - start) // _FRAME
            if low < high:
                flags[low:high] = flag
        self._gaps = [gap for gap in self._gaps if gap[1] > stop]
        return flags

    def _extend_talk(self, flags: NDArray[np.uint8], levels_dbfs: Float32) -> None:
        """Begin speech where its sound begins, within the record: scores of soft first sounds rise late."""
        quiet_dbfs = float(np.percentile(levels_dbfs, 20))
        self._floor_dbfs = min(self._floor_dbfs + _FLOOR_RISE_DB, quiet_dbfs)
        talks = (flags & Flag.TALK).tolist()
        loud = (levels_dbfs >= max(self._floor_dbfs + _OVER_FLOOR_DB, TALK_DBFS)).tolist()
        for place in range(1, len(talks)):
            if talks[place] and not talks[place - 1]:
                begin = place
                while begin > max(0, place - _EXTEND_FRAMES) and loud[begin - 1] and not talks[begin - 1]:
                    begin -= 1
                flags[begin:place] |= Flag.TALK
