"""Finds gaps filled with a constant: lost packets that were not concealed.

A gap is a run of equal or nearly equal samples. What makes it a loss is its edges. Where packets are lost, sound stops
and resumes at full strength, usually in the middle of a wave; where a talker closes the lips, a gate closes or a codec
stops transmitting in a pause, the sound has decayed before. Levels of edges are relative to the sound so far.

The constants were chosen on speech that was cut, gated, synthesised and sent through silence suppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from speech_qc.audio.losses.grid import PIECE_BLOCKS, Float32, Grid, Loss, View
from speech_qc.audio.losses.tones import may_be_tone

QUIET_DB = -56.0
"""Spread of a quiet block relative to the sound so far; room for the ringing of a resampler."""

QUIET_SPREAD = 2.5 / 32768
"""Spread below which a block is always quiet: dithered 16-bit silence."""

LOUD_DB = -45.0
"""Spread before a gap, relative to the sound so far, below which its edge is not examined."""

MIN_GAP_S = 0.005
"""Shorter gaps are no packets; the shortest packet in use has 5 ms."""

LONG_GAP_S = 0.12
"""From here on a gap may outlast the word; its end tells nothing."""

MAX_GAP_S = 5.0
"""A longer gap is a muted line rather than a loss."""

PAUSING_EDGES_DB = -34.0
"""Least `short_score` of a loss on a line that does not send all the time; `Pauses` says which lines do."""

SHORT_EDGES_DB = -37.0
"""The same on a line that sends all the time."""

PACKET_EDGES_DB = -40.0
"""The same if the gap also lasts a multiple of 10 ms to the sample, as packets do; also on a line that does not send
all the time, but whose pauses are unlike losses."""

BOTH_EDGES_DB = -41.0
"""The same for a hole on any line."""

HOLE_S = 0.25
"""From here on a gap is a hole, longer than any closure."""

LONG_EDGE_DB = -53.0
"""Least `long_score` of a loss."""

SENT_EDGES_DB = -56.0
"""The same if the gap also is constant and lasts a multiple of 20 ms."""

ONSET_DB = (-18.0, -12.0)
"""Spread within 2.5 and 10 ms after a gap that is an onset at full strength, relative to the sound so far."""

UNSURE_EDGES_DB = -75.0
"""Least `short_score` of a gap of packets that the model may confirm."""

UNSURE_GAP_S = (0.015, 0.065)
"""Range of its length."""

TELLING_GAP_S = 0.015
"""Shortest constant gap that shows the same; quantisation makes shorter ones of faint noise."""

UNLIKE_SHARE = 4
"""The pauses of a line are unlike losses if fewer than one in so many is; by chance, one in 50 lasts whole packets."""

SILENT_BLOCKS = 40
"""Constant blocks in a piece (0.1 s) that show that the line does not send in pauses."""

AHEAD = 8
"""Blocks after an edge (20 ms) that its examination needs."""

_NEAR_S = (0.001, 0.0025, 0.01, 0.02)
_LOOK_BACK = 4  # blocks
_LATELY = 16  # blocks
_TONE_S = (0.04, 0.012)  # before a gap: the end of the shortest telephone key, without the ringing of a filter
_PACKET_TOLERANCE = 2  # samples
_HALF_STEP = 0.6 / 32768


@dataclass(frozen=True, slots=True)
class Edge:
    """One side of a gap.

    Args:
        at: Position of the first sample of the gap, or of the first one after it.
        step: Twice the jump at the edge.
        peaks: Spread of the sound within 1, 2.5, 10 and 20 ms of the edge.
        reference: Level of the sound so far, as a spread.
        constant: Whether all samples of the gap's block at the edge are equal.
        lately: Highest spread of a block within 40 ms before the gap; 0 for the sound after it.
        tonal: Whether the sound before the gap may be one or two tones, which end abruptly by themselves.
    """

    at: int
    step: float
    peaks: tuple[float, ...]
    reference: float
    constant: bool
    lately: float = 0.0
    tonal: bool = False

    def levels_db(self, reference: float) -> tuple[float, float, float, float]:
        """Return jump and peaks at 1, 2.5 and 10 ms relative to a reference, dB."""
        near, soon, wide, _ = self.peaks
        step, near, soon, wide = (20.0 * np.log10(max(v, 1e-9) / reference) for v in (self.step, near, soon, wide))
        return float(step), float(near), float(soon), float(wide)


def short_score(before: Edge, after: Edge) -> float:
    """Rate both edges of a short gap, dB; high if the sound was loud on both sides up to the gap."""
    reference = max(before.reference, before.peaks[-1], after.peaks[-1])
    left, right = before.levels_db(reference), after.levels_db(reference)
    jumps = _clip(left[0], -40.0, -5.0) + _clip(right[0], -40.0, -5.0)
    return 0.3 * jumps + _clip(left[3], -50.0, -4.0) + _clip(right[3], -50.0, -4.0)


def long_score(before: Edge, after: Edge) -> float:
    """Rate the first edge of a long constant gap, dB; high if the sound was loud up to the gap."""
    reference = max(before.reference, before.peaks[-1], after.peaks[-1])
    step, near, soon, wide = before.levels_db(reference)
    edge = max(_clip(step, -40.0, -5.0), _clip(near, -50.0, 0.0) - 6.0)
    return edge + _clip(soon, -50.0, -4.0) + _clip(wide, -50.0, -4.0)


def packet_edge(before: Edge, after: Edge, *, long: bool) -> bool:
    """Say whether one edge suffices for a gap of packets: a jump, or sound that is loud up to it.

    Silence suppression also sends gaps of packets, but its sound has decayed before and resumes with a soft onset.
    """
    reference = max(before.reference, before.peaks[-1], after.peaks[-1])
    step, _, soon, _ = before.levels_db(reference)
    if step > -17.0 or soon > -12.0:
        return True
    if long:
        return False
    step, _, soon, wide = after.levels_db(reference)
    decayed = before.lately < reference * 10 ** (-20.0 / 20)
    return step > -20.0 and soon > -12.0 and wide > -8.0 if decayed else step > -26.0 and wide > -20.0


def loud_onset(before: Edge, after: Edge) -> bool:
    """Say whether the sound after a gap of packets is at full strength at once: the beginning of a word was lost."""
    reference = max(before.reference, before.peaks[-1], after.peaks[-1])
    _, _, soon, wide = after.levels_db(reference)
    return soon > ONSET_DB[0] and wide > ONSET_DB[1]


class Pauses:
    """What is known of the constant gaps of some lines that are no losses.

    A noise gate, silence suppression, a synthesiser or an edited pause makes them. Silence suppression and most noise
    gates work in packets, so a gap of packets proves nothing on their lines. Nor does it where pauses cut off loud
    sound, as a synthesiser's closures do. Where pauses have any length and follow decayed sound, it does.

    Args:
        streams: Number of lines S.
    """

    def __init__(self, streams: int) -> None:
        self.silent = np.zeros(streams, np.bool_)
        """Whether there was a pause, [S]."""
        self._all = np.zeros(streams, np.int64)
        self._like_losses = np.zeros(streams, np.int64)  # of packets, or abrupt

    def reset(self, row: int) -> None:
        """Forget a line."""
        self.silent[row] = False
        self._all[row] = self._like_losses[row] = 0

    def add(self, row: int, *, like_loss: bool) -> None:
        """Note a pause, and whether it has the length or the edges of a loss."""
        self.silent[row] = True
        self._all[row] += 1
        self._like_losses[row] += like_loss

    def unlike_losses(self, row: int) -> bool:
        """Say whether there were pauses, and hardly any could be mistaken for a loss."""
        return bool(self._all[row] > UNLIKE_SHARE * self._like_losses[row])


class Survey(NamedTuple):
    """Where blocks of a view begin or cease to be quiet, from `AHEAD` blocks before its second half.

    Attributes:
        changed: Whether a block is quiet unlike the one before it, [R, PIECE_BLOCKS].
        falls: Whether a gap may begin with it, [R, PIECE_BLOCKS].
        has_change: Whether there is such a block, [R].
        has_fall: Likewise.
    """

    changed: NDArray[np.bool_]
    falls: NDArray[np.bool_]
    has_change: NDArray[np.bool_]
    has_fall: NDArray[np.bool_]


class Holes:
    """Finds gaps of some streams; one state per stream.

    Args:
        grid: Sizes.
        streams: Number of streams S.
        pauses: What is known of the pauses of each line, shared.
        constant: Look only for constant gaps of packets, but within faint sound as well.
    """

    def __init__(self, grid: Grid, streams: int, pauses: Pauses, *, constant: bool = False) -> None:
        self._grid = grid
        self._constant = constant
        self._open: list[Edge | None] = [None] * streams
        self._pauses = pauses
        self._quiet_factor = np.float32(10 ** (QUIET_DB / 20))
        self._loud_factor = np.float32(10 ** (LOUD_DB / 20))

    def reset(self, row: int) -> None:
        """Forget a stream."""
        self._open[row] = None

    def survey(self, view: View) -> Survey | None:
        """Find where quiet begins and ends, up to `AHEAD` blocks before the end of the view; None if nothing is quiet.

        Args:
            view: The samples.
        """
        start, stop = PIECE_BLOCKS - AHEAD, 2 * PIECE_BLOCKS - AHEAD
        spread = view.spread[:, start - 1 - _LOOK_BACK : stop]
        reference = view.reference[:, start - 1 - _LOOK_BACK : stop]
        if self._constant:
            quiet = spread == 0.0
        else:
            quiet = spread <= np.maximum(reference * self._quiet_factor, np.float32(QUIET_SPREAD))
        if not quiet.any():
            return None
        own = quiet[:, 1 + _LOOK_BACK :]
        changed = own != quiet[:, _LOOK_BACK:-1]
        falls = changed & own
        if not self._constant:
            falls &= self._follows_sound(spread >= reference * self._loud_factor)
        return Survey(changed, falls, changed.any(axis=1), falls.any(axis=1))

    def find(self, stream: int, row: int, view: View, survey: Survey, found: list[tuple[int, Loss]]) -> None:
        """Examine the edges of one stream's piece.

        Args:
            stream: The stream.
            row: Its row of the view.
            view: The samples.
            survey: What `survey` said of the view.
            found: Takes the gaps, each with its row of the view.
        """
        if not survey.has_change[row] or not (survey.has_fall[row] or self._open[stream] is not None):
            return
        start, falls = PIECE_BLOCKS - AHEAD, survey.falls[row]
        for block in np.flatnonzero(survey.changed[row]).tolist():
            self._advance(stream, row, view, start + block, bool(falls[block]), found)

    @staticmethod
    def _follows_sound(loud: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say which blocks follow a loud one within `_LOOK_BACK` blocks, [R, blocks - 1 - _LOOK_BACK]."""
        width = loud.shape[1] - 1 - _LOOK_BACK
        recent = loud[:, _LOOK_BACK : _LOOK_BACK + width].copy()
        for back in range(1, _LOOK_BACK):
            recent |= loud[:, _LOOK_BACK - back : _LOOK_BACK - back + width]
        return recent

    def _advance(
        self, stream: int, row: int, view: View, block: int, falls: bool, found: list[tuple[int, Loss]]
    ) -> None:
        """Open a gap, or close and judge it, at a change from or to a quiet block."""
        before = self._open[stream]
        if falls:
            self._open[stream] = _left_edge(view, row, block)
        elif before is not None:
            self._open[stream] = None
            after = _right_edge(view, row, block)
            sure = self._judge(before, after, int(view.ends[row]), stream)
            if sure is not None:
                known = int(view.first[row]) + 2 * view.grid.piece
                found.append((row, Loss("zeros", before.at, after.at, known, sure, before.tonal)))
            elif self._constant and not before.tonal:
                self._note_pause(stream, after.at - before.at, abrupt=short_score(before, after) >= SENT_EDGES_DB)
        elif self._constant:  # the stream began with it
            self._note_pause(stream, _right_edge(view, row, block).at, abrupt=False)

    def _note_pause(self, stream: int, length: int, *, abrupt: bool) -> None:
        if length >= self._grid.samples(TELLING_GAP_S):
            self._pauses.add(stream, like_loss=abrupt or self._is_packets(length, 0.02, 1))

    def _judge(self, before: Edge, after: Edge, end: int, stream: int) -> bool | None:
        """Return whether a gap is surely a loss; None if it is none."""
        sends_all = not self._pauses.silent[stream]
        packets_tell = sends_all or self._pauses.unlike_losses(stream)
        length = after.at - before.at
        length_s = length / self._grid.rate_hz
        if not MIN_GAP_S <= length_s <= MAX_GAP_S:
            return None
        packets = self._is_packets(length, 0.01, _PACKET_TOLERANCE)
        score = short_score(before, after)
        if self._constant and not (packets_tell and packets):
            return None
        least = PACKET_EDGES_DB if packets and packets_tell else SHORT_EDGES_DB if sends_all else PAUSING_EDGES_DB
        if score >= (BOTH_EDGES_DB if length_s >= HOLE_S else least):
            return True
        if after.at + self._grid.samples(_NEAR_S[-1]) > end:
            return None
        constant = before.constant and after.constant
        if length_s >= LONG_GAP_S and constant and long_score(before, after) >= LONG_EDGE_DB:
            return True
        if not packets:
            return None
        if packet_edge(before, after, long=length_s >= LONG_GAP_S):
            return True
        if not (packets_tell and constant and self._is_packets(length, 0.02, 1)):
            return None
        if length_s < LONG_GAP_S and (score >= SENT_EDGES_DB or loud_onset(before, after)):
            return True
        unsure = UNSURE_GAP_S[0] <= length_s <= UNSURE_GAP_S[1] and score >= UNSURE_EDGES_DB
        return False if unsure else None

    def _is_packets(self, length: int, packet_s: float, tolerance: int) -> bool:
        """Say whether a gap lasts a number of packets; adjacent samples may happen to have its value."""
        packet = self._grid.rate_hz * packet_s
        return length > packet - tolerance and abs(length - packet * round(length / packet)) <= tolerance


def _left_edge(view: View, row: int, block: int) -> Edge:
    """Locate the first sample of a gap whose first wholly quiet block is given."""
    grid, samples = view.grid, view.samples[row]
    level = float(view.middle[row, block])
    band = float(view.spread[row, block])
    start = (block - 2) * grid.block
    far = np.flatnonzero(_differs(samples[start : block * grid.block], level, band))
    at = start + (int(far[-1]) + 1 if len(far) else 0)
    peaks = tuple(_spread(samples[at - grid.samples(near) : at], level) for near in _NEAR_S)
    step = 2.0 * abs(float(samples[at - 1]) - level)
    lately = float(view.spread[row, block - _LATELY : block].max())
    tonal = may_be_tone(samples[at - grid.samples(_TONE_S[0]) : at - grid.samples(_TONE_S[1])])
    reference = float(view.reference[row, block - 1])
    return Edge(int(view.first[row]) + at, step, peaks, reference, band == 0.0, lately, tonal)


def _right_edge(view: View, row: int, block: int) -> Edge:
    """Locate the first sample after a gap whose last wholly quiet block precedes the given one."""
    grid, samples = view.grid, view.samples[row]
    level = float(view.middle[row, block - 1])
    band = float(view.spread[row, block - 1])
    start = block * grid.block
    far = np.flatnonzero(_differs(samples[start : start + 2 * grid.block], level, band))
    at = start + (int(far[0]) if len(far) else 0)
    peaks = tuple(_spread(samples[at : at + grid.samples(near)], level) for near in _NEAR_S)
    step = 2.0 * abs(float(samples[at]) - level)
    return Edge(int(view.first[row]) + at, step, peaks, float(view.reference[row, block]), band == 0.0)


def _differs(samples: Float32, level: float, spread: float) -> NDArray[np.bool_]:
    """Say which samples are outside the band of a quiet block."""
    distant: NDArray[np.bool_] = np.abs(samples - np.float32(level)) > max(0.6 * spread, _HALF_STEP)
    return distant


def _spread(samples: Float32, level: float) -> float:
    """Return the spread of some samples and the level of the gap."""
    high, low = float(samples.max()), float(samples.min())
    return max(high - low, high - level, level - low)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
