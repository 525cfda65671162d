"""The state of many channels that every step advances, with one row per channel, and the one place that advances it.

Most chunks bring no news: no event begins or ends, nothing is lost, nothing sounds like a tone. For those, one call per
step is all the work. Channels with news are reported, and look at it one by one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from speech_qc.audio.tones import TonePool
from speech_qc.contract import ModelContract
from speech_qc.pipeline.refiner import Suspicion
from speech_qc.scoring import ScoreBatch, ScoreReader
from speech_qc.scoring.events import EventRows
from speech_qc.scoring.losses import LossRows
from speech_qc.scoring.rows import NEVER, Column, Places, Rows
from speech_qc.scoring.summary import SummaryRows

Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

SHARED_ROWS = 64
"""Rows that many channels begin with; they double when they are taken."""


class Owner(Protocol):
    """The channel of a row."""

    def collect_losses(self) -> None:
        """Take the losses that the samples told, before frames after them are scored."""

    def join_losses(self, frames: int) -> None:
        """Take the losses that are certain with so many frames, before their scores are overwritten."""


class _SessionRows(Rows):
    """What `ChannelScores` itself keeps.

    Attributes:
        tail: Levels of frames whose scores have not arrived yet, [rows, look-ahead].
        known: Frame before which `Owner.collect_losses` must be called.
        plain: Whether a chunk needs no care: not the first or last frames of a stream, no gap, no frames kept.
        watched: Whether the refiner has something at hand.
    """

    tail: Float32
    known: npt.NDArray[np.int64]
    plain: Bools
    watched: Bools

    def __init__(self, contract: ModelContract, rows: int) -> None:
        columns = {
            "tail": Column((contract.lookahead_frames,), np.float32),
            "known": Column((), np.int64, NEVER),
            "plain": Column((), np.bool_),
            "watched": Column((), np.bool_),
        }
        super().__init__(columns, rows)


class ChannelRows:
    """The rows of the channels of one thread.

    Args:
        contract: The model's contract.
        reader: Reader of the same contract.
        rows: Rows at the beginning, and at least.
    """

    def __init__(self, contract: ModelContract, reader: ScoreReader, rows: int = SHARED_ROWS) -> None:
        layout = reader.layout
        self.session = _SessionRows(contract, rows)
        self.events = EventRows(layout, rows)
        self.summary = SummaryRows(layout, rows)
        self.losses = LossRows(layout, rows)
        self._parts: tuple[Rows, ...] = (self.session, self.events, self.summary, self.losses)
        self.tones = TonePool()
        self._suspicion = Suspicion(contract)
        self._least = self._count = rows
        self._free = list(range(rows))
        self._abandoned: deque[int] = deque()  # any thread may append

    def lease(self) -> Lease:
        """Take a row, which is clear; it is free again when the lease is gone."""
        while self._abandoned:
            heapq.heappush(self._free, self._abandoned.popleft())
        # The lowest row is taken first, so that the highest ones become free, and their memory can be given back.
        top = self._count
        while top > self._least and len(self._free) > 3 * top // 4 and self._is_free_above(top // 2):
            top //= 2
        if not self._free:
            top = 2 * self._count
        if top != self._count:
            self._resize(top)
        row = heapq.heappop(self._free)
        for part in self._parts:
            part.clear(row)
        return Lease(row, self._abandoned)

    def _is_free_above(self, row: int) -> bool:
        return sum(free >= row for free in self._free) == self._count - row

    def _resize(self, rows: int) -> None:
        for part in self._parts:
            part.resize(rows)
        self._free = [row for row in self._free if row < rows] + list(range(self._count, rows))
        heapq.heapify(self._free)
        self._count = rows

    def own_levels(self, rows: Places, level_dbfs: Float32) -> Float32:
        """Return the levels of the frames whose scores have arrived; keep those of the look-ahead.

        Args:
            rows: [B].
            level_dbfs: float32 [B, n], levels of the chunks' own frames.
        """
        tail = self.session.tail
        count = level_dbfs.shape[1]
        levels: Float32 = np.concatenate((tail[rows], level_dbfs), axis=1)
        tail[rows] = levels[:, count:]
        return levels[:, :count]

    def advance(
        self,
        rows: Places,
        owners: Sequence[Owner],
        blocks: ScoreBatch,
        level_dbfs: Float32,
        missing: Bools | None = None,
    ) -> tuple[Bools, Bools, Bools]:
        """Advance channels by their next frames.

        Args:
            rows: [B], all different.
            owners: Of each row.
            blocks: n frames of each.
            level_dbfs: float32 [B, n].
            missing: [n], the frames that touch a bridge, and are in no measure; None if there are none.

        Returns:
            For `ChannelScores.look`: [B], the channels that have news; [B], those whose tracks must be scanned; and
            [B, n], the frames that are suspect.
        """
        scores = blocks.scores
        if missing is None:
            self.summary.add(rows, scores, level_dbfs)
        else:
            self.summary.add(rows, scores[:, ~missing], level_dbfs[:, ~missing])
        changed = self.events.add(rows, blocks, level_dbfs)
        suspect = self._suspicion.of(scores)
        news = changed | self.session.watched[rows] | suspect.any(axis=1)
        # As late as possible, so that many streams are examined together.
        frames, count = self.events.frames[rows], scores.shape[1]
        for place in np.flatnonzero(self.session.known[rows] < frames).tolist():
            owners[place].collect_losses()
        step = self.losses.frames_at_once(rows, frames)
        for start in range(0, count, step):
            stops = frames - count + min(start + step, count)
            certain = self.losses.add(rows, scores[:, start : start + step], stops)
            for place in np.flatnonzero(certain).tolist():
                owners[place].join_losses(int(stops[place]))
            news |= certain
        return news, changed, suspect


class Lease:
    """A row in use.

    Attributes:
        row: Its number.
    """

    __slots__ = ("_abandoned", "row")

    def __init__(self, row: int, abandoned: deque[int]) -> None:
        self.row, self._abandoned = row, abandoned

    def __del__(self) -> None:
        """Give the row back."""
        self._abandoned.append(self.row)
