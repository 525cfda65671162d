"""What the channels of one thread share, and what takes the scores of a step for all of them in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from speech_qc.contract import ModelContract
from speech_qc.engine import GroupResult
from speech_qc.pipeline.channel_meter import MeterPool
from speech_qc.pipeline.channel_rows import ChannelRows
from speech_qc.pipeline.channel_scores import Update
from speech_qc.pipeline.chunk_reader import ChunkReader, ChunkReading, ChunkReadings
from speech_qc.pipeline.session import Float32, Session
from speech_qc.scoring import ScoreBatch
from speech_qc.scoring.events import EventUpdate


class Listener(Protocol):
    """A channel whose chunks the engine scores; see `speech_qc.engine.Member`."""

    session: Session
    text_only: bool
    """Whether frames as JSON are enough while no event begins or ends."""

    def told(self, text: list[bytes], frames: int, result: GroupResult, queue_s: float) -> None:
        """Take the next frames as JSON, one text per column."""

    def updated(self, update: Update, result: GroupResult, queue_s: float) -> None:
        """Take the next frames and events."""

    def failed(self, error: Exception) -> None:
        """Note that the scores could not be taken; the stream cannot continue."""


class SharedChannels:
    """What live channels share: rows, a pool of meters, and the step's results; used by one thread.

    Args:
        contract: The model's contract.
        reader: Reader of the same contract, which is the engine's `read_out`.
    """

    def __init__(self, contract: ModelContract, reader: ChunkReader) -> None:
        self.rows = ChannelRows(contract, reader.scores)
        self.meters = MeterPool()

    def deliver(self, members: Sequence[Listener], result: GroupResult) -> None:
        """Take the scores of a step: together where a chunk needs no care, else by its session."""
        readings: ChunkReadings = result.readings
        blocks, levels, queue_s = readings.blocks, readings.levels_dbfs, result.queue_s
        plain = self.rows.session.plain[[member.session.scores.row for member in members]]
        places = result.places
        for i in np.flatnonzero(~plain).tolist():
            place = places[i]
            try:
                update = members[i].session.accept(ChunkReading(blocks[place], levels[place]))
                members[i].updated(update, result, queue_s[i])
            except Exception as error:
                members[i].failed(error)
        if not plain.all():
            together = np.flatnonzero(plain).tolist()
            members, queue_s = [members[i] for i in together], [queue_s[i] for i in together]
            places = [places[i] for i in together]
        if members:
            if len(places) != len(blocks):
                blocks, levels = blocks.chosen(places), levels[places]
            self._take(members, blocks, levels, queue_s, result)

    def _take(
        self,
        members: Sequence[Listener],
        blocks: ScoreBatch,
        levels: Float32,
        queue_s: list[float],
        result: GroupResult,
    ) -> None:
        """Advance channels whose chunks need no care, with the block and the levels of each."""
        channels = [member.session.scores for member in members]
        rows = np.array([channel.row for channel in channels])
        levels = self.rows.own_levels(rows, levels)
        news, changed, suspect = self.rows.advance(rows, channels, blocks, levels)
        frames, texts = levels.shape[1], blocks.texts
        for i, (member, has_news) in enumerate(zip(members, news.tolist(), strict=True)):
            try:
                events: list[EventUpdate] = []
                if has_news:
                    events = channels[i].look(blocks[i], levels[i], suspect[i], changed=bool(changed[i]))
                text = texts[i]
                if member.text_only and not events and text is not None:
                    member.told(text, frames, result, queue_s[i])
                else:
                    first = channels[i].frames_done - frames
                    member.updated(Update(first, blocks[i], events), result, queue_s[i])
            except Exception as error:
                member.failed(error)
